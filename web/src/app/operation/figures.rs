//! The figures of a preview: before, with the data's way, and after; and the same as a film.

use crate::app::diagram::{Diagram, DiagramBox};
use crate::protocol::operation::NEW;
use crate::protocol::{Fate, Layer, LayerId, Preview, Tree};
use gloo::timers::callback::Timeout;
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct FiguresProperties {
    pub tree: Rc<Tree>,
    pub preview: Preview,
}

/// What the film shows.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Before,
    Moving,
    After,
}

impl Act {
    /// Milliseconds until the next act, and that.
    fn next(self) -> Option<(u32, Self)> {
        match self {
            Self::Before => Some((900, Self::Moving)),
            Self::Moving => Some((2400, Self::After)),
            Self::After => None,
        }
    }
}

#[function_component(Figures)]
pub fn figures(props: &FiguresProperties) -> Html {
    let film = use_state(|| None::<Act>);
    {
        let film = film.clone();
        use_effect_with(*film, move |act| {
            let next = act.and_then(Act::next);
            let timer = next.map(|(wait, next)| Timeout::new(wait, move || film.set(Some(next))));
            move || drop(timer)
        });
    }
    let drawn = use_memo(props.clone(), |props| draw(&props.tree, &props.preview));
    let Drawn {
        before,
        after,
        flow,
        flow_to_new,
    } = &*drawn;
    let set = |act: Option<Act>| {
        let film = film.clone();
        Callback::from(move |_: MouseEvent| film.set(act))
    };
    let button = |id: &'static str, icon: &'static str, label: &'static str, act| {
        html! {
            <button type="button" class="pf-v6-c-button pf-m-link pf-m-small" data-testid={id} onclick={set(act)}>
                <i class={classes!("fas", icon)} aria-hidden="true" />{ format!(" {label}") }
            </button>
        }
    };
    if before.is_empty() {
        return html! {
            <div class="pictures">
                <figure>
                    <figcaption>{ "After" }</figcaption>
                    <Diagram boxes={after.clone()} compact=true label="After" />
                </figure>
            </div>
        };
    }
    let Some(act) = *film else {
        return html! {
            <div class="pictures">
                <figure>
                    <figcaption>
                        { "Before" }
                        { button("animate", "fa-play", "Animate", Some(Act::Before)) }
                    </figcaption>
                    <Diagram boxes={before.clone()} compact=true flow={flow.clone()} label="Before" />
                </figure>
                <figure>
                    <figcaption>{ "After" }</figcaption>
                    <Diagram boxes={after.clone()} compact=true flow={flow_to_new.clone()} label="After" />
                </figure>
            </div>
        };
    };
    let links = flow.is_empty() && flow_to_new.is_empty();
    let (boxes, flow, caption) = match act {
        Act::Before => (before, Vec::new(), "Before"),
        Act::Moving if !flow_to_new.is_empty() => (after, flow_to_new.clone(), "Data is copied"),
        Act::Moving if links => (before, Vec::new(), "The links change"),
        Act::Moving => (before, flow.clone(), "Data moves"),
        Act::After => (after, Vec::new(), "After"),
    };
    let moving = act == Act::Moving;
    html! {
        <div class={classes!("pictures", "film", moving.then_some("film--moving"))} data-testid="film">
            <figure>
                <figcaption>
                    <span aria-live="polite" data-testid="film-act">{ caption }</span>
                    if act == Act::After {
                        { button("animate", "fa-redo", "Again", Some(Act::Before)) }
                    }
                    { button("film-end", "fa-columns", "Side by side", None) }
                </figcaption>
                <Diagram boxes={boxes.clone()} compact=true {flow} label={caption} />
            </figure>
        </div>
    }
}

struct Drawn {
    before: Rc<Vec<DiagramBox>>,
    after: Rc<Vec<DiagramBox>>,
    /// Where data goes among the layers that are there.
    flow: Vec<(LayerId, LayerId)>,
    /// And where it goes to the layer that is made, which is only there afterwards.
    flow_to_new: Vec<(LayerId, LayerId)>,
}

fn draw(tree: &Tree, preview: &Preview) -> Drawn {
    let shown = involved(tree, preview);
    let fate = |id: LayerId| preview.after.iter().find(|after| after.layer == id);
    let name = |layer: &Layer| html! { <span class="layer__name">{ &layer.name }</span> };
    let before: Vec<DiagramBox> = shown
        .iter()
        .map(|layer| DiagramBox {
            id: layer.id,
            backing: layer.backing,
            dim: false,
            class: classes!(
                preview
                    .flow
                    .iter()
                    .any(|&(from, _)| from == layer.id)
                    .then_some("layer--moves")
            ),
            label: layer.name.clone().into(),
            content: name(layer),
            hooks: None,
        })
        .collect();
    let made = preview.made.iter().map(|made| DiagramBox {
        id: NEW,
        backing: made.backing,
        dim: false,
        class: classes!("layer--written"),
        label: format!("{} new", made.name).into(),
        content: html! {
            <>
                <span class="layer__name">{ &made.name }</span>
                <span class="layer__note">{ "new" }</span>
            </>
        },
        hooks: None,
    });
    let after: Vec<DiagramBox> = shown
        .iter()
        .map(|layer| {
            let after = fate(layer.id);
            let (class, note) = match after.map_or(Fate::Untouched, |after| after.fate) {
                Fate::Untouched => ("", ""),
                Fate::Written => ("layer--written", "written"),
                Fate::Relinked => ("layer--relinked", "new link"),
                Fate::Invalid => ("layer--invalid", "invalid"),
                Fate::Spare => ("layer--spare", "no longer needed"),
            };
            DiagramBox {
                id: layer.id,
                backing: after.map_or(layer.backing, |after| after.backing),
                dim: matches!(
                    after.map(|after| after.fate),
                    Some(Fate::Invalid | Fate::Spare)
                ),
                class: classes!(class),
                label: format!("{} {note}", layer.name).trim().to_owned().into(),
                content: html! {
                    <>
                        { name(layer) }
                        if !note.is_empty() { <span class="layer__note">{ note }</span> }
                    </>
                },
                hooks: None,
            }
        })
        .chain(made)
        .collect();
    // What is made is only there afterwards.
    let (flow_to_new, flow) = preview.flow.iter().copied().partition(|&(_, to)| to == NEW);
    Drawn {
        before: Rc::new(before),
        after: Rc::new(after),
        flow,
        flow_to_new,
    }
}

/// The layers worth drawing: what changes, and what is directly beside it.
fn involved<'a>(tree: &'a Tree, preview: &Preview) -> Vec<&'a Layer> {
    let mut ids: Vec<LayerId> = Vec::new();
    for after in &preview.after {
        let was = tree.layer(after.layer).and_then(|layer| layer.backing);
        if after.fate != Fate::Untouched || after.backing != was {
            ids.extend(
                [Some(after.layer), after.backing, was]
                    .into_iter()
                    .flatten(),
            );
        }
    }
    ids.extend(preview.made.iter().filter_map(|made| made.backing));
    ids.extend(preview.flow.iter().flat_map(|&(from, to)| [from, to]));
    let beside: Vec<LayerId> = tree
        .layers
        .iter()
        .filter(|l| l.backing.is_some_and(|b| ids.contains(&b)))
        .map(|l| l.id)
        .collect();
    ids.extend(beside);
    tree.layers
        .iter()
        .filter(|layer| ids.contains(&layer.id))
        .collect()
}
