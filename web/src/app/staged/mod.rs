//! The panel of staged changes: what is tried, and nothing of it written yet.

pub mod state;

use super::operation::{ResultView, bar};
use super::text;
use crate::protocol::staged::Change;
use gloo::events::{EventListener, EventListenerOptions};
use patternfly_yew::prelude::*;
use state::{Busy, Staged};
use wasm_bindgen::JsCast;
use web_sys::{Element, HtmlElement, KeyboardEvent};
use yew::prelude::*;

/// What can be done with the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Undo,
    Redo,
    Discard,
    Apply,
    /// Stops the applying.
    Cancel,
    /// The result was read.
    Dismiss,
}

#[derive(Clone, PartialEq, Properties)]
pub struct StagedViewProperties {
    pub staged: Staged,
    pub onwish: Callback<Wish>,
}

#[function_component(StagedView)]
pub fn staged_view(props: &StagedViewProperties) -> Html {
    let StagedViewProperties { staged, onwish } = props;
    let stack = &staged.stack;
    use_undo_keys((!staged.is_empty()).then(|| onwish.clone()));
    let panel = use_node_ref();
    {
        // The form that was staged is gone, and the keyboard's place with it.
        let panel = panel.clone();
        use_effect_with(stack.done.len() + stack.undone.len(), move |&changes| {
            let lost = gloo::utils::document()
                .active_element()
                .is_none_or(|at| at.tag_name() == "BODY");
            if let Some(panel) = panel.cast::<HtmlElement>()
                && changes > 0
                && lost
            {
                let _ = panel.focus();
            }
        });
    }
    if staged.is_empty() && staged.result.is_none() {
        return Html::default();
    }
    let count = stack.done.len();
    let said = match (count, staged.applying()) {
        (_, true) => "Being written".to_owned(),
        (0, _) if staged.is_empty() => "Nothing is staged any more".to_owned(),
        (0, _) => "All taken back. The files are as they are on the disk.".to_owned(),
        (1, _) => "1 change is shown as if it were done. Nothing is written yet.".to_owned(),
        (n, _) => format!("{n} changes are shown as if they were done. Nothing is written yet."),
    };
    let button =
        |id: &'static str, label: &'static str, class: &'static str, wish: Wish, possible: bool| {
            html! {
                <button
                    type="button"
                    class={classes!("pf-v6-c-button", class)}
                    data-testid={id}
                    disabled={!possible}
                    onclick={onwish.reform(move |_: MouseEvent| wish)}
                >
                    { label }
                </button>
            }
        };
    html! {
        <section ref={panel} tabindex="-1" class="panel panel--staged" data-testid="staged" aria-label="Staged changes">
            <header class="panel__head">
                <Title level={Level::H2} size={Size::Large}>{ "Staged changes" }</Title>
                if !staged.is_empty() {
                    <div class="staged__tools" role="group" aria-label="Take back and put back">
                        { icon("undo", "Undo", "Control+Z", "fa-undo", count > 0, onwish.reform(|_| Wish::Undo)) }
                        { icon("redo", "Redo", "Control+Shift+Z", "fa-redo", !stack.undone.is_empty(), onwish.reform(|_| Wish::Redo)) }
                    </div>
                }
            </header>
            <p class="quiet" role="status" data-testid="staged-status">{ said }</p>
            if !staged.is_empty() {
                <ol class="staged__list">
                    { for stack.done.iter().enumerate().map(|(nth, change)| item(nth, change, doing(staged, nth))) }
                    { for stack.undone.iter().rev().enumerate().map(|(nth, change)| item(count + nth, change, Some("taken back"))) }
                </ol>
            }
            if let Some(Busy::Applying { nth, all, progress, cancelling }) = &staged.busy {
                if let Some(nth) = nth {
                    <p class="quiet">{ format!("Change {} of {all}", nth + 1) }</p>
                }
                { bar(progress.as_ref(), *cancelling) }
            }
            if let Some(result) = &staged.result {
                <ResultView result={result.clone()} />
            }
            <footer class="panel__foot">
                if let Some(Busy::Applying { cancelling, .. }) = &staged.busy {
                    <button
                        type="button"
                        class="pf-v6-c-button pf-m-link"
                        data-testid="staged-cancel"
                        disabled={*cancelling}
                        onclick={onwish.reform(|_: MouseEvent| Wish::Cancel)}
                    >
                        { if *cancelling { "Stopping…" } else { "Cancel" } }
                    </button>
                } else if staged.is_empty() {
                    { button("staged-close", "Close", "pf-m-secondary", Wish::Dismiss, true) }
                } else {
                    { button("apply", "Apply", "pf-m-primary", Wish::Apply, count > 0) }
                    { button("discard", "Discard all", "pf-m-link", Wish::Discard, true) }
                }
            </footer>
        </section>
    }
}

/// What is being done with a change.
fn doing(staged: &Staged, nth: usize) -> Option<&'static str> {
    match &staged.busy {
        Some(Busy::Applying { nth: Some(now), .. }) if nth < *now => Some("in place"),
        Some(Busy::Applying { nth: Some(now), .. }) if nth == *now => Some("being written"),
        _ => None,
    }
}

fn item(nth: usize, change: &Change, note: Option<&'static str>) -> Html {
    let undone = note == Some("taken back");
    let writes = change.writes.iter().map(|write| {
        let (name, before, after) = (&write.name, write.before, write.after);
        match (before, after) {
            (0, after) => format!("{name}, new, {}", text::bytes(after)),
            (before, after) if before == after => format!("{name} {}", text::bytes(after)),
            (before, after) => format!("{name} {} → {}", text::bytes(before), text::bytes(after)),
        }
    });
    let writes = writes.collect::<Vec<_>>().join("; ");
    html! {
        <li
            key={nth}
            class={classes!("staged__item", undone.then_some("staged__item--undone"))}
            data-testid={if undone { "staged-undone" } else { "staged-change" }}
        >
            <span class="staged__what">
                { &change.summary }
                if let Some(note) = note {
                    <span class="badge">{ note }</span>
                }
            </span>
            if !writes.is_empty() {
                <small class="quiet">{ writes }</small>
            }
            if !change.invalid.is_empty() {
                <small class="staged__invalid">{ format!("Makes invalid: {}", change.invalid.join(", ")) }</small>
            }
        </li>
    }
}

fn icon(
    id: &'static str,
    label: &'static str,
    keys: &'static str,
    icon: &'static str,
    possible: bool,
    onclick: Callback<MouseEvent>,
) -> Html {
    // A button that is switched off loses the keyboard's place: it says that it does nothing.
    let onclick = possible.then_some(onclick);
    html! {
        <button
            type="button"
            class="icon-button"
            data-testid={id}
            aria-label={label}
            title={format!("{label} ({})", keys.replace("Control", "Ctrl"))}
            aria-keyshortcuts={keys}
            aria-disabled={(!possible).then_some("true")}
            {onclick}
        >
            <i class={classes!("fas", icon)} aria-hidden="true" />
        </button>
    }
}

/// Ctrl+Z takes back and Ctrl+Shift+Z puts back, outside of fields that have an undo of their own.
#[hook]
fn use_undo_keys(onwish: Option<Callback<Wish>>) {
    use_effect_with(onwish, |onwish| {
        let listener = onwish.clone().map(|onwish| {
            let options = EventListenerOptions::enable_prevent_default();
            let document = gloo::utils::document();
            EventListener::new_with_options(&document, "keydown", options, move |event| {
                let Some(event) = event.dyn_ref::<KeyboardEvent>() else {
                    return;
                };
                let target = event.target().and_then(|t| t.dyn_into::<Element>().ok());
                let writing = target.is_some_and(|e| {
                    let kind = e.get_attribute("type").unwrap_or_default();
                    e.tag_name() == "TEXTAREA"
                        || e.tag_name() == "INPUT" && kind != "checkbox" && kind != "radio"
                });
                let dialog = gloo::utils::document().query_selector("dialog[open]");
                let covered = dialog.is_ok_and(|dialog| dialog.is_some());
                let with_control = event.ctrl_key() || event.meta_key();
                if writing || covered || event.alt_key() || !with_control {
                    return;
                }
                let wish = match (event.key().to_lowercase().as_str(), event.shift_key()) {
                    ("z", false) => Wish::Undo,
                    ("z", true) | ("y", false) => Wish::Redo,
                    _ => return,
                };
                event.prevent_default();
                onwish.emit(wish);
            })
        });
        move || drop(listener)
    });
}
