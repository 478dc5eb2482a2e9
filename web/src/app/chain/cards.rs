//! What stands in the boxes of the tree.

use super::remarks;
use super::sketch::Ghost;
use super::strips::{Bar, Palette};
use crate::app::diagram::stage::Card;
use crate::app::text;
use crate::protocol::strips::Strip;
use crate::protocol::{Layer, Role, State};
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct LayerCardProperties {
    pub layer: Layer,
    pub strip: Option<Rc<Strip>>,
    pub palette: Rc<Palette>,
    /// A bar is to be expected.
    pub barred: bool,
    /// How many layers stand on it.
    pub overlays: u32,
}

/// The facts of a layer. Drawn anew only when they change.
#[function_component(LayerCard)]
pub fn layer_card(props: &LayerCardProperties) -> Html {
    let layer = &props.layer;
    let role = match layer.state {
        State::Ok => html! { <span class="badge badge--role">{ text::role(layer.role) }</span> },
        state => {
            html! { <span class="badge badge--problem">{ text::state(state) }</span> }
        }
    };
    let warnings = remarks::shown(layer).map(|remark| {
        let (label, kind, _) = remarks::words(remark);
        html! { <span class={classes!("badge", kind)} data-testid="remark">{ label }</span> }
    });
    let virtual_size = layer.virtual_size.map(text::bytes);
    html! {
        <>
            <span class="layer__name">{ &layer.name }</span>
            <span class="layer__badges">
                { role }
                { for warnings }
                if layer.located {
                    <span class="badge badge--warning" data-testid="remark">{ "located" }</span>
                }
                if props.overlays > 1 {
                    <span class="badge" title={format!("{} layers stand on it", props.overlays)}>
                        <i class="fas fa-code-branch" />{ format!(" {}", props.overlays) }
                    </span>
                }
                <span class="badge">{ &layer.format }</span>
                if layer.staged {
                    <span class="badge badge--staged">{ "staged" }</span>
                }
            </span>
            <span class="layer__size">
                if let Some(size) = virtual_size {
                    <b>{ layer.allocated.map_or_else(|| "…".to_owned(), text::bytes) }</b>
                    <small>{ format!(" of {size}") }</small>
                } else {
                    { "unreadable" }
                }
            </span>
            if props.barred {
                <Bar strip={props.strip.clone()} palette={props.palette.clone()} />
            } else {
                <span class="bar bar--none" />
            }
        </>
    }
}

/// The box around it.
#[must_use]
pub fn card(layer: &Layer, more: Classes, content: Html) -> Card {
    Card {
        class: classes!(
            format!("layer--{}", layer.state.name()),
            format!("layer--{}", class_of(layer.role)),
            layer.staged.then_some("layer--staged"),
            more,
        ),
        label: describe(layer).into(),
        content,
        hooks: Some([
            layer.name.clone().into(),
            layer.backing_name.clone().into(),
            layer.state.name().into(),
        ]),
    }
}

/// The box of a file that was not given.
#[must_use]
pub fn ghost(ghost: &Ghost, more: Classes, onlocate: Option<Callback<MouseEvent>>) -> Card {
    Card {
        class: classes!("layer--ghost", more),
        label: format!("{}, missing backing file: drop it here", ghost.path).into(),
        content: html! {
            <>
                <span class="layer__name">{ &ghost.name }</span>
                <span class="layer__note">{ "not given yet: drop it here" }</span>
                if let Some(onclick) = onlocate {
                    <button
                        type="button"
                        class="pf-v6-c-button pf-m-secondary pf-m-small layer__locate"
                        data-testid="locate"
                        aria-label={format!("Locate {}", ghost.name)}
                        {onclick}
                    >
                        { "Locate…" }
                    </button>
                }
            </>
        },
        hooks: None,
    }
}

/// The property with the colour of a layer on the small map.
#[must_use]
pub fn colour(layer: Option<&Layer>) -> &'static str {
    match layer.map(|layer| (layer.state, layer.role)) {
        None => "--danger",
        Some((State::Ok, Role::Base)) => "--base",
        Some((State::Ok, Role::Active)) => "--active",
        Some((State::Ok, Role::Spare)) => "--spare",
        Some((State::Ok, _)) => "--accent",
        Some(_) => "--danger",
    }
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
    if let (Some(used), Some(size)) = (layer.allocated, layer.virtual_size) {
        said.push_str(&format!(
            ", {} used of {}",
            text::bytes(used),
            text::bytes(size)
        ));
    }
    for remark in remarks::shown(layer) {
        said.push_str(&format!(", {}", remarks::words(remark).0));
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
