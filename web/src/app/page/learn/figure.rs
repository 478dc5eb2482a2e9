//! The figure that the chain is to become, with what is true of it already.

use super::chain::snapshot_mark;
use super::goal::Goal;
use crate::app::diagram::{Diagram, DiagramBox};
use crate::protocol::Tree;
use crate::protocol::course::Peeked;
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct GoalFigureProperties {
    pub goal: Goal,
    pub tree: Rc<Tree>,
    pub peeked: Rc<[Peeked]>,
    /// Not told yet: which layers are invalid.
    #[prop_or_default]
    pub veiled: bool,
}

#[function_component(GoalFigure)]
pub fn goal_figure(props: &GoalFigureProperties) -> Html {
    let goal = props.goal;
    let reached = goal.reached(&props.tree, &props.peeked);
    let boxes = use_memo(
        (goal, props.tree.clone(), props.peeked.clone(), props.veiled),
        |(goal, tree, peeked, veiled)| boxes(goal, tree, peeked, *veiled),
    );
    html! {
        <figure class={classes!("goal", reached.then_some("goal--reached"))} data-testid="goal" data-reached={reached.to_string()}>
            <figcaption>
                if reached {
                    <i class="fas fa-check-circle" aria-hidden="true" />{ " The figure has become true" }
                } else {
                    { "What it is to become" }
                }
            </figcaption>
            <Diagram {boxes} compact=true label="What the chain is to become" />
        </figure>
    }
}

/// A figure's boxes, marked where they are true.
fn boxes(goal: &Goal, tree: &Tree, peeked: &[Peeked], veiled: bool) -> Vec<DiagramBox> {
    let drawn = goal.boxes();
    // Where it does not matter, an invalid layer is drawn where it stands.
    let backing = |nth: usize| -> Option<u32> {
        let one = drawn.get(nth)?;
        let name = match one.backing {
            Some(name) => name,
            None => {
                let layer = super::goal::find(tree, one.name)?;
                super::goal::stem(&layer.backing_name)
            }
        };
        number(drawn.iter().position(|other| other.name == name)?)
    };
    drawn
        .iter()
        .enumerate()
        .map(|(nth, one)| {
            let holds = Goal::holds(one, tree, peeked);
            let invalid = one.invalid && !veiled;
            let note = match (invalid, &one.snapshots) {
                (true, _) => "invalid".to_owned(),
                (false, Some(names)) if !names.is_empty() => {
                    format!("snapshot {}", names.join(", "))
                }
                (false, Some(_)) => "no snapshot".to_owned(),
                (false, None) => String::new(),
            };
            DiagramBox {
                id: number(nth).unwrap_or_default(),
                backing: backing(nth),
                dim: one.invalid,
                class: classes!(
                    invalid.then_some("layer--invalid"),
                    holds.then_some("layer--true"),
                ),
                label: format!("{} {note}", one.name).trim().to_owned().into(),
                content: html! {
                    <>
                        <span class="layer__name">{ one.name }</span>
                        { for one.snapshots.iter().flatten().map(|name| snapshot_mark(name)) }
                    </>
                },
                hooks: None,
            }
        })
        .collect()
}

fn number(nth: usize) -> Option<u32> {
    u32::try_from(nth).ok()
}
