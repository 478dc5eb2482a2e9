//! What an operation would do, before it is done.

use super::figures::Figures;
use super::ways::WaysView;
use crate::app::text;
use crate::protocol::{Command, FileWrite, Operation, Preview, Tree};
use patternfly_yew::prelude::*;
use std::rc::Rc;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct PreviewViewProperties {
    pub tree: Rc<Tree>,
    /// `None` while the worker plans.
    pub preview: Option<Rc<Result<Preview, String>>>,
    /// What is to be seen meanwhile.
    #[prop_or_default]
    pub before: Option<Rc<Result<Preview, String>>>,
    /// What it is looking at meanwhile.
    pub note: String,
    /// What is not entered yet, in words.
    #[prop_or_default]
    pub missing: Option<String>,
    /// Another way to the same goal is to be gone.
    #[prop_or_default]
    pub onway: Callback<Operation>,
}

#[function_component(PreviewView)]
pub fn preview_view(props: &PreviewViewProperties) -> Html {
    let ready = props.preview.is_some().to_string();
    let planning = || {
        html! { <p class="quiet preview__planning"><Spinner size={SpinnerSize::Md} />{ " planning… " }{ &props.note }</p> }
    };
    let shown = |preview: &Preview| planned(&props.tree, preview, &props.onway);
    let content = match (props.preview.as_deref(), props.before.as_deref()) {
        // The form says it beside the field.
        (Some(Err(_)), _) if props.missing.is_some() => {
            html! { <Alert inline=true plain=true r#type={AlertType::Info} title={props.missing.clone().unwrap_or_default()} /> }
        }
        (Some(Err(error)), _) => refusal(error, NOT_DONE),
        (Some(Ok(preview)), _) => shown(preview),
        (None, Some(Ok(before))) => {
            html! { <>{ planning() }<div class="preview__before" inert={true}>{ shown(before) }</div></> }
        }
        (None, _) => planning(),
    };
    let busy = props.preview.is_none().to_string();
    html! {
        <div class="preview" data-testid="preview" data-ready={ready} aria-busy={busy} aria-live="polite">{ content }</div>
    }
}

const NOT_DONE: &str = "This cannot be done";

fn refusal(why: &str, title: &'static str) -> Html {
    html! {
        <Alert inline=true r#type={AlertType::Danger} {title}>
            <p>{ why }</p>
        </Alert>
    }
}

fn planned(tree: &Rc<Tree>, preview: &Preview, onway: &Callback<Operation>) -> Html {
    html! {
        <>
            if let Some(why) = &preview.refusal {
                { refusal(why, if preview.can_force {
                    "This would break other images"
                } else if preview.loses {
                    "This would lose data"
                } else {
                    NOT_DONE
                }) }
            }
            if !preview.summary.is_empty() {
                <p class="preview__summary">{ &preview.summary }</p>
            }
            if !preview.after.is_empty() || preview.made.is_some() {
                <Figures tree={tree.clone()} preview={preview.clone()} />
            }
            if !preview.invalid.is_empty() {
                <Alert inline=true plain=true r#type={AlertType::Warning}
                    title={format!("Becomes invalid: {}", preview.invalid.join(", "))} />
            }
            if !preview.spare.is_empty() {
                <p class="quiet">{ format!("Still valid, and no longer needed: {}.", preview.spare.join(", ")) }</p>
            }
            { for preview.warnings.iter().map(|warning| html! {
                <Alert inline=true plain=true r#type={AlertType::Warning} title={warning.clone()} />
            }) }
            if preview.refusal.is_none() {
                { amounts(preview) }
                { writes(&preview.writes) }
            }
            if preview.ways.len() > 1 || preview.way.is_none() && !preview.ways.is_empty() {
                <WaysView ways={preview.ways.clone()} way={preview.way} onway={onway.clone()} />
            }
            if !preview.commands.is_empty() {
                <details class="commands">
                    <summary data-testid="commands">{ "The same on a command line" }</summary>
                    { for preview.commands.iter().map(|command| html! {
                        <CommandView key={command.tool.clone()} command={command.clone()} />
                    }) }
                </details>
            }
        </>
    }
}

fn amounts(preview: &Preview) -> Html {
    let parts = [
        ("copied", preview.copied),
        ("expanded", preview.inflated),
        ("zeroed", preview.zeroed),
        ("compressed", preview.packed),
        ("tables and headers", preview.metadata),
    ];
    html! {
        <ul class="amounts">
            { for parts.iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| html! {
                <li><strong>{ text::bytes(*bytes) }</strong>{ format!(" {name}") }</li>
            }) }
            if preview.at_most {
                <li>{ "at most: how much shorter it gets is seen when it runs" }</li>
            }
        </ul>
    }
}

fn writes(writes: &[FileWrite]) -> Html {
    html! {
        <ul class="writes">
            { for writes.iter().map(|write| html! {
                <li key={write.name.clone()}>
                    <strong>{ &write.name }</strong>
                    <span class="writes__size">
                        if write.layer.is_some() {
                            { text::bytes(write.before) }{ " → " }
                        }
                        { text::bytes(write.after) }
                    </span>
                    <small>
                        { &write.how }
                        if write.temporary > 0 {
                            { format!(" Needs {} of free space on the way.", text::bytes(write.temporary)) }
                        }
                    </small>
                </li>
            }) }
        </ul>
    }
}

#[derive(Clone, PartialEq, Properties)]
struct CommandViewProperties {
    command: Command,
}

/// Command lines with a button that copies them.
#[function_component(CommandView)]
fn command_view(props: &CommandViewProperties) -> Html {
    let Command { tool, lines } = props.command.clone();
    let copied = use_state(|| false);
    let onclick = {
        let (copied, lines) = (copied.clone(), lines.clone());
        Callback::from(move |_: MouseEvent| {
            let clipboard = gloo::utils::window().navigator().clipboard();
            let done = clipboard.write_text(&lines);
            let copied = copied.clone();
            spawn_local(async move {
                copied.set(JsFuture::from(done).await.is_ok());
            });
        })
    };
    {
        // A new command was not copied yet.
        let copied = copied.clone();
        use_effect_with(lines.clone(), move |_| copied.set(false));
    }
    html! {
        <div class="command" data-testid={format!("command-{tool}")}>
            <div class="command__head">
                <strong>{ &tool }</strong>
                <button type="button" class="pf-v6-c-button pf-m-link pf-m-small" data-testid={format!("copy-{tool}")} aria-label={format!("Copy the {tool} command")} {onclick}>
                    <span aria-live="polite">{ if *copied { "Copied" } else { "Copy" } }</span>
                </button>
            </div>
            <pre>{ lines }</pre>
        </div>
    }
}
