//! The chain of a lesson as it is, drawn as the source document draws its figures.

use super::goal::stem;
use crate::app::diagram::{Diagram, DiagramBox};
use crate::app::text;
use crate::protocol::{Layer, LayerId, Role, State, Tree};
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct LiveFigureProperties {
    pub tree: Rc<Tree>,
    /// As it was made: shows which layers were active.
    pub start: Rc<Tree>,
    #[prop_or_default]
    pub selected: Option<LayerId>,
    #[prop_or_default]
    pub onselect: Callback<LayerId>,
    /// Where data goes: from layer to layer.
    #[prop_or_default]
    pub flow: Vec<(LayerId, LayerId)>,
    /// Not told yet: which layers are invalid.
    #[prop_or_default]
    pub veiled: bool,
}

#[function_component(LiveFigure)]
pub fn live_figure(props: &LiveFigureProperties) -> Html {
    let boxes = use_memo(
        (props.tree.clone(), props.start.clone(), props.veiled),
        |(tree, start, veiled)| boxes(tree, start, *veiled),
    );
    html! {
        <Diagram
            {boxes}
            compact=true
            flow={props.flow.clone()}
            selected={props.selected}
            onselect={props.onselect.clone()}
            label="The chain as it is"
        />
    }
}

fn boxes(tree: &Tree, start: &Tree, veiled: bool) -> Vec<DiagramBox> {
    let mut boxes: Vec<DiagramBox> = tree
        .layers
        .iter()
        .map(|layer| drawn(layer, active(layer, tree, start), veiled))
        .collect();
    // What a layer names and nobody has is drawn as a gap.
    let mut ghosts: Vec<&str> = Vec::new();
    for (layer, drawn) in tree.layers.iter().zip(&mut boxes) {
        if layer.state == State::Missing && layer.backing.is_none() {
            let nth = ghosts
                .iter()
                .position(|name| *name == layer.backing_name)
                .unwrap_or_else(|| {
                    ghosts.push(&layer.backing_name);
                    ghosts.len() - 1
                });
            drawn.backing = Some(ghost(nth));
        }
    }
    boxes.extend(ghosts.iter().enumerate().map(|(nth, name)| DiagramBox {
        id: ghost(nth),
        backing: None,
        dim: false,
        class: classes!("layer--ghost"),
        label: format!("{name} is missing").into(),
        content: html! { <span class="layer__name">{ stem(name) }{ "?" }</span> },
        hooks: None,
    }));
    boxes
}

/// An internal snapshot, within its layer's box.
pub fn snapshot_mark(name: &str) -> Html {
    html! {
        <span class="layer__snapshot"><i class="fas fa-camera" aria-hidden="true" />{ " " }{ name }</span>
    }
}

fn ghost(nth: usize) -> u32 {
    u32::MAX - u32::try_from(nth).unwrap_or_default()
}

/// What a VM writes to: the end of a chain, unless it became one because what stood on it went
/// elsewhere.
fn active(layer: &Layer, tree: &Tree, start: &Tree) -> bool {
    let before = start.layers.iter().find(|old| old.name == layer.name);
    // A file that never stood on another one, and that nothing stands on, is left over.
    let never = before.is_some_and(|old| old.backing_name.is_empty());
    if never && layer.backing_name.is_empty() && tree.layers.len() > 1 {
        return false;
    }
    let was = before.is_none_or(|old| start.overlays(old.id).next().is_none());
    was && tree.overlays(layer.id).next().is_none()
}

fn drawn(layer: &Layer, active: bool, veiled: bool) -> DiagramBox {
    let state = match layer.state {
        State::Invalid if veiled => State::Ok,
        state => state,
    };
    let role = match layer.role {
        Role::Base => "layer--base",
        Role::Spare => "",
        _ if active && state == State::Ok => "layer--active",
        _ => "",
    };
    let mut label = stem(&layer.name).to_owned();
    // What is seen comes first, in the same words.
    for snapshot in &layer.snapshots {
        label.push_str(&format!(" {}", snapshot.name));
    }
    label.push_str(&format!(", {}", text::role(layer.role)));
    if !layer.backing_name.is_empty() {
        label.push_str(&format!(", on {}", stem(&layer.backing_name)));
    }
    if !layer.snapshots.is_empty() {
        label.push_str(", with internal snapshots");
    }
    if state != State::Ok {
        label.push_str(&format!(", {}", text::state(state)));
    }
    DiagramBox {
        id: layer.id,
        backing: layer.backing,
        dim: state == State::Invalid || layer.role == Role::Spare,
        class: classes!(role, format!("layer--{}", state.name())),
        label: label.into(),
        content: html! {
            <>
                <span class="layer__name">{ stem(&layer.name) }</span>
                { for layer.snapshots.iter().map(|snapshot| snapshot_mark(&snapshot.name)) }
            </>
        },
        hooks: Some([
            layer.name.clone().into(),
            layer.backing_name.clone().into(),
            state.name().into(),
        ]),
    }
}
