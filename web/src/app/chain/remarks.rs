//! What is worth knowing about the selected layer's link, and what can be done about it.

use super::locate::Locating;
use super::sketch::Sketch;
use crate::app::text;
use crate::protocol::operation::{Field, ON};
use crate::protocol::{Kind, Layer, LayerId, Operation, Remark, State};
use yew::prelude::*;

/// A remark's badge, the badge's class, and the explanation.
#[must_use]
pub fn words(remark: Remark) -> (&'static str, &'static str, &'static str) {
    match remark {
        Remark::AbsoluteLink => (
            "absolute link",
            "badge--notice",
            "Its header names the backing file with all folders from the root on. Moved to another \
             folder or another machine, the chain breaks; a name relative to the overlay does not.",
        ),
        Remark::ChangedBelow => (
            "changed after this overlay",
            "badge--warning",
            "The backing file was changed later than this overlay. If it was written to, this \
             overlay no longer reads what its guest wrote; if it was only copied or touched, all \
             is well. qcow2 records nothing by which a tool could tell.",
        ),
        Remark::NoFormat => (
            "no format label",
            "badge--warning",
            "Its header does not say which format the backing file has, so every tool guesses. A \
             guest that can write to a raw base can make that guess go wrong on purpose.",
        ),
    }
}

/// The remarks worth a badge: beside an error they are noise.
pub fn shown(layer: &Layer) -> impl Iterator<Item = Remark> + '_ {
    let sound = matches!(layer.state, State::Ok | State::Missing);
    layer.remarks.iter().copied().filter(move |_| sound)
}

#[derive(Clone, PartialEq, Properties)]
pub struct RemarksProperties {
    pub sketch: std::rc::Rc<Sketch>,
    pub selected: Option<LayerId>,
    pub locating: Locating,
    /// Takes a suggested file for a missing one.
    pub ontake: Option<Callback<(LayerId, LayerId)>>,
    /// Opens the picker for the layer's missing file.
    pub onlocate: Option<Callback<LayerId>>,
    pub onforget: Option<Callback<LayerId>>,
    /// Proposes an operation, with its preview.
    pub onpropose: Option<Callback<Operation>>,
}

/// Everything there is to say about the selected layer's link.
#[function_component(Remarks)]
pub fn remarks(props: &RemarksProperties) -> Html {
    let Some(layer) = props.selected.and_then(|id| props.sketch.layer(id)) else {
        return html! {};
    };
    let id = layer.id;
    let mut rows: Vec<Html> = Vec::new();
    if layer.state != State::Ok {
        let why = layer.reason.clone().unwrap_or_default();
        rows.push(row(
            "problem",
            text::state(layer.state),
            &why,
            actions(props, layer),
        ));
    }
    if layer.located
        && let Some(base) = layer.backing
    {
        let name = props.sketch.layer(base).map(|l| l.name.clone());
        let why = format!(
            "You pointed out {}. The header still says {}, so other tools will not find it: change \
             the link to make it last.",
            name.unwrap_or_default(),
            layer.backing_path,
        );
        let actions = html! {
            <>
                { relink(props, id, Some(base), "Record the new name…") }
                if let Some(onforget) = &props.onforget {
                    <button type="button" class="link" onclick={onforget.reform(move |_: MouseEvent| id)}>{ "Forget it" }</button>
                }
            </>
        };
        rows.push(row("warning", "located", &why, actions));
    }
    rows.extend(shown(layer).map(|remark| {
        let (label, kind, why) = words(remark);
        let why = match remark {
            Remark::AbsoluteLink => format!("{}. {why}", layer.backing_path),
            _ => why.to_owned(),
        };
        let action = match remark {
            Remark::NoFormat => relink(props, id, layer.backing, "Record the format…"),
            _ => html! {},
        };
        row(kind.trim_start_matches("badge--"), label, &why, action)
    }));
    if rows.is_empty() {
        return html! {};
    }
    html! {
        <ul class="remarks" data-testid="remarks" aria-label={format!("About {}", layer.name)}>{ for rows }</ul>
    }
}

fn row(kind: &str, label: &str, why: &str, actions: Html) -> Html {
    html! {
        <li class={format!("remarks__item remarks__item--{kind}")}>
            <strong>{ label }</strong>
            <span>{ why }</span>
            <span class="remarks__actions">{ actions }</span>
        </li>
    }
}

/// The way out of what is wrong with a layer.
fn actions(props: &RemarksProperties, layer: &Layer) -> Html {
    let id = layer.id;
    match layer.state {
        State::Missing => {
            let suggestions = props.locating.likely(id);
            html! {
                <>
                    { for suggestions.iter().map(|suggestion| {
                        let file = suggestion.file;
                        let onclick = props.ontake.as_ref().map(|take| take.reform(move |_: MouseEvent| (id, file)));
                        html! {
                            <button type="button" class="pf-v6-c-button pf-m-secondary pf-m-small" data-testid="take" {onclick}>
                                { format!("It is {} ({})", suggestion.name, super::locate::fits(suggestion.fit)) }
                            </button>
                        }
                    }) }
                    if let Some(onlocate) = &props.onlocate {
                        <button type="button" class="pf-v6-c-button pf-m-secondary pf-m-small" data-testid="locate-selected" onclick={onlocate.reform(move |_: MouseEvent| id)}>
                            { "Locate…" }
                        </button>
                    }
                </>
            }
        }
        State::WrongLabel => relink(props, id, layer.backing, "Correct the label…"),
        State::Loop => relink(props, id, None, "Break the loop here…"),
        _ => html! {},
    }
}

/// Only the link changes: an unsafe rebase, shown before it is done.
fn relink(
    props: &RemarksProperties,
    top: LayerId,
    base: Option<LayerId>,
    label: &'static str,
) -> Html {
    let Some(onpropose) = &props.onpropose else {
        return html! {};
    };
    let onclick = onpropose.reform(move |_: MouseEvent| {
        Operation::new(Kind::Rebase, top, base).with(Field::Unsafe, ON)
    });
    html! {
        <button type="button" class="pf-v6-c-button pf-m-secondary pf-m-small" data-testid="relink" {onclick}>{ label }</button>
    }
}
