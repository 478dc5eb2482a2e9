//! Below the tree: what the colours mean, what is known about the selected layer's link, and
//! moving a layer by keys.

use super::remarks::Remarks;
use super::sketch::Sketch;
use super::strips::legend;
use crate::app::bench::Bench;
use crate::protocol::locate::Locate;
use crate::protocol::{LayerId, Operation, Request};
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct FootProperties {
    pub sketch: Rc<Sketch>,
    pub selected: Option<LayerId>,
    /// The layer that is being moved onto another one.
    pub moving: Option<LayerId>,
    pub onmove: Callback<Option<LayerId>>,
    pub bench: Option<Bench>,
    pub onlocate: Option<Callback<LayerId>>,
    pub onpropose: Option<Callback<Operation>>,
}

#[function_component(Foot)]
pub fn foot(props: &FootProperties) -> Html {
    let bench = props.bench.clone();
    let locating = bench.as_ref().map(|bench| bench.model.locating.clone());
    let locating = locating.unwrap_or_default();
    let ask = |act: fn(LayerId, LayerId) -> Locate| {
        bench.clone().map(|bench| {
            Callback::from(move |(layer, file): (LayerId, LayerId)| {
                bench.send(&Request::Locate(act(layer, file)));
            })
        })
    };
    let ontake = ask(|layer, file| Locate::Take { layer, file });
    let onforget = ask(|layer, _| Locate::Forget { layer });
    let onforget = onforget.map(|ask| ask.reform(|layer: LayerId| (layer, layer)));
    let name = |id: Option<LayerId>| {
        id.and_then(|id| props.sketch.layer(id))
            .map(|l| l.name.clone())
    };
    let said = locating.said();
    html! {
        <div class="tree-foot">
            <div class="tree-foot__row">
                if bench.is_some() { { legend() } }
                <span class="push" />
                if let Some(name) = name(props.moving) {
                    <span class="tree-foot__moving">
                        { "Move " }<strong>{ name }</strong>{ " onto … " }
                        <button type="button" class="link" onclick={props.onmove.reform(|_: MouseEvent| None)}>{ "Stop" }</button>
                    </span>
                } else if let Some(id) = props.selected.filter(|_| props.sketch.tree.layers.len() > 1) {
                    <button
                        type="button"
                        class="link"
                        data-testid="move-onto"
                        aria-keyshortcuts="w"
                        onclick={props.onmove.reform(move |_: MouseEvent| Some(id))}
                    >
                        { "Move onto…" }<kbd aria-hidden="true">{ "w" }</kbd>
                    </button>
                }
            </div>
            <p class="sr-only" role="status" data-testid="tree-status">
                if let Some(name) = name(props.moving) {
                    { format!("Moving {name}. Choose the layer to move it onto with the arrow keys and Enter, or stop with Escape.") }
                }
            </p>
            <p class="tree-foot__said" role="status" data-testid="located">{ said }</p>
            <Remarks
                sketch={props.sketch.clone()}
                selected={props.selected}
                {locating}
                {ontake}
                onlocate={props.onlocate.clone()}
                {onforget}
                onpropose={props.onpropose.clone()}
            />
        </div>
    }
}
