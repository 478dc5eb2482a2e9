//! The tree of the user's files: every layer, with its facts.

use super::diagram::{Diagram, DiagramBox};
use super::text;
use crate::protocol::{Layer, LayerId, Role, State, Tree};
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct ChainProperties {
    pub tree: Rc<Tree>,
    pub selected: Option<LayerId>,
    pub onselect: Callback<LayerId>,
    pub ondragonto: Callback<(LayerId, LayerId)>,
}

#[function_component(Chain)]
pub fn chain(props: &ChainProperties) -> Html {
    let boxes = use_memo(props.tree.clone(), |tree| boxes(tree));
    html! {
        <Diagram
            {boxes}
            selected={props.selected}
            onselect={props.onselect.clone()}
            ondragonto={props.ondragonto.clone()}
            label="Layers and their backing files"
        />
    }
}

fn boxes(tree: &Tree) -> Vec<DiagramBox> {
    let largest = tree
        .layers
        .iter()
        .filter_map(|layer| layer.allocated)
        .max()
        .unwrap_or(0);
    let mut boxes: Vec<DiagramBox> = Vec::new();
    let mut ghosts: Vec<(String, u32)> = Vec::new();
    for layer in &tree.layers {
        // What a layer names but nobody gave is drawn too, as a gap in the chain.
        let mut backing = layer.backing;
        if layer.state == State::Missing && backing.is_none() {
            let known = ghosts.iter().find(|(name, _)| *name == layer.backing_name);
            let id = known.map(|(_, id)| *id).unwrap_or_else(|| {
                let nth = u32::try_from(ghosts.len()).unwrap_or(0);
                ghosts.push((layer.backing_name.clone(), u32::MAX - nth));
                u32::MAX - nth
            });
            backing = Some(id);
        }
        boxes.push(DiagramBox {
            id: layer.id,
            backing,
            dim: layer.state == State::Invalid || layer.role == Role::Spare,
            class: classes!(
                format!("layer--{}", layer.state.name()),
                format!("layer--{}", class_of(layer.role)),
                layer.staged.then_some("layer--staged"),
            ),
            label: describe(layer).into(),
            content: content(layer, largest),
            hooks: Some([
                layer.name.clone().into(),
                layer.backing_name.clone().into(),
                layer.state.name().into(),
            ]),
        });
    }
    for (name, id) in ghosts {
        boxes.push(DiagramBox {
            id,
            backing: None,
            dim: false,
            class: classes!("layer--ghost"),
            label: format!("{name} was not given: drop it here").into(),
            content: html! {
                <>
                    <span class="layer__name">{ &name }</span>
                    <span class="layer__note">{ "not given yet: drop it here" }</span>
                </>
            },
            hooks: None,
        });
    }
    boxes
}

fn class_of(role: Role) -> &'static str {
    match role {
        Role::Base => "base",
        Role::Middle => "middle",
        Role::Active => "active",
        Role::Single => "single",
        Role::Spare => "spare",
    }
}

fn content(layer: &Layer, largest: u64) -> Html {
    let size = layer
        .virtual_size
        .map_or_else(|| "unreadable".to_owned(), text::bytes);
    let used = layer.allocated.unwrap_or(0);
    let fill = format!("width:{:.1}%", text::share(used, largest.max(1)) * 100.0);
    let badge = match layer.state {
        State::Ok => html! { <span class="badge badge--role">{ text::role(layer.role) }</span> },
        state => html! {
            <span class="badge badge--problem" title={layer.reason.clone()}>{ text::state(state) }</span>
        },
    };
    html! {
        <>
            <span class="layer__name">{ &layer.name }</span>
            <span class="layer__badges">
                { badge }
                <span class="badge">{ &layer.format }</span>
                if layer.staged {
                    <span class="badge badge--staged">{ "staged" }</span>
                }
            </span>
            <span class="layer__size">{ size }<small>{ " virtual" }</small></span>
            <span class="layer__used">
                <span class="layer__bar"><span style={fill}></span></span>
                <small>{ format!("{} used", text::bytes(used)) }</small>
            </span>
        </>
    }
}

/// One layer in a sentence.
fn describe(layer: &Layer) -> String {
    let mut said = format!(
        "{}, {} layer, {}",
        layer.name,
        text::role(layer.role),
        layer.format
    );
    if layer.backing_name.is_empty() {
        said.push_str(", no backing file");
    } else {
        said.push_str(&format!(", on {}", layer.backing_name));
    }
    if layer.state != State::Ok {
        said.push_str(&format!(", {}", text::state(layer.state)));
        if let Some(reason) = &layer.reason {
            said.push_str(&format!(": {reason}"));
        }
    }
    if layer.staged {
        said.push_str(", as staged changes would leave it");
    }
    said
}
