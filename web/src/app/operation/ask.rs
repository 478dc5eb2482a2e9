//! One layer was dragged onto another, and there are several things that may mean.

use crate::app::dialog::Dialog;
use crate::protocol::{Kind, LayerId, Operation, Tree};
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct AskProperties {
    pub tree: Rc<Tree>,
    pub meant: Vec<Operation>,
    pub onchoose: Callback<Operation>,
    pub onclose: Callback<()>,
}

#[function_component(Ask)]
pub fn ask(props: &AskProperties) -> Html {
    let choice = |operation: &Operation| {
        let (title, what) = words(&props.tree, operation);
        let id = if operation.kind == Kind::Pull {
            "ask-pull"
        } else {
            "ask-rebase"
        };
        let onclick = {
            let operation = operation.clone();
            props
                .onchoose
                .reform(move |_: MouseEvent| operation.clone())
        };
        html! {
            <li key={title.clone()}>
                <button type="button" class="ask__choice" data-testid={id} {onclick}>
                    <strong>{ title }</strong>
                    <small>{ what }</small>
                </button>
            </li>
        }
    };
    html! {
        <Dialog title="What do you want to do?" testid="ask" onclose={props.onclose.clone()}>
            <ul class="ask">{ for props.meant.iter().map(choice) }</ul>
        </Dialog>
    }
}

/// What an operation would do, in short and at length.
fn words(tree: &Tree, operation: &Operation) -> (String, String) {
    let name = |id: Option<LayerId>| {
        let layer = id.and_then(|id| tree.layer(id));
        layer.map(|layer| layer.name.clone()).unwrap_or_default()
    };
    let (top, base) = (name(operation.top), name(operation.base));
    let stands = match operation.base {
        Some(_) => format!("{top} then stands on {base}"),
        None => format!("{top} then stands alone"),
    };
    if operation.kind == Kind::Pull {
        let below = operation.top.map(|top| tree.below(top)).unwrap_or_default();
        let merged = below
            .iter()
            .take_while(|layer| Some(layer.id) != operation.base);
        let merged: Vec<&str> = merged.map(|layer| layer.name.as_str()).collect();
        let merged = match merged.as_slice() {
            [.., last] if merged.len() > 3 => format!("everything down to {last}"),
            names => names.join(", "),
        };
        (
            format!("Pull {merged} into {top}"),
            format!("{stands}; all that it reads from the merged layers moves up."),
        )
    } else {
        (
            format!("Rebase {top} onto {base}"),
            format!("{stands} and reads the same: only what differs is copied."),
        )
    }
}
