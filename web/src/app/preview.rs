//! What an operation would do, before it is done.

use super::diagram::{Diagram, DiagramBox};
use super::text;
use crate::protocol::{Fate, FileWrite, Layer, LayerId, Preview, Tree};
use patternfly_yew::prelude::*;
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct PreviewViewProperties {
    pub tree: Rc<Tree>,
    /// `None` while the worker plans.
    pub preview: Option<Rc<Result<Preview, String>>>,
    /// What it is looking at meanwhile.
    pub note: String,
}

#[function_component(PreviewView)]
pub fn preview_view(props: &PreviewViewProperties) -> Html {
    let ready = props.preview.is_some().to_string();
    let content = match props.preview.as_deref() {
        None => {
            html! { <p class="quiet"><Spinner size={SpinnerSize::Md} />{ " planning… " }{ &props.note }</p> }
        }
        Some(Err(error)) => refusal(error, NOT_DONE),
        Some(Ok(preview)) => planned(&props.tree, preview),
    };
    html! {
        <div class="preview" data-testid="preview" data-ready={ready} aria-live="polite">{ content }</div>
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

fn planned(tree: &Rc<Tree>, preview: &Preview) -> Html {
    html! {
        <>
            if let Some(why) = &preview.refusal {
                { refusal(why, if preview.can_force { "This would break other images" } else { NOT_DONE }) }
            }
            if !preview.summary.is_empty() {
                <p class="preview__summary">{ &preview.summary }</p>
            }
            if !preview.after.is_empty() {
                { pictures(tree, preview) }
            }
            if !preview.invalid.is_empty() {
                <Alert inline=true plain=true r#type={AlertType::Warning}
                    title={format!("Becomes invalid: {}", preview.invalid.join(", "))} />
            }
            { for preview.warnings.iter().map(|warning| html! {
                <Alert inline=true plain=true r#type={AlertType::Warning} title={warning.clone()} />
            }) }
            if preview.refusal.is_none() {
                { amounts(preview) }
                { writes(&preview.writes) }
            }
            if !preview.commands.is_empty() {
                <details class="commands">
                    <summary>{ "The same on a command line" }</summary>
                    <pre>{ preview.commands.join("\n") }</pre>
                </details>
            }
        </>
    }
}

/// The figures: before, with the data's way, and after.
fn pictures(tree: &Tree, preview: &Preview) -> Html {
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
        .collect();
    html! {
        <div class="pictures">
            <figure>
                <figcaption>{ "Before" }</figcaption>
                <Diagram boxes={Rc::new(before)} compact=true flow={preview.flow.clone()} label="Before" />
            </figure>
            <figure>
                <figcaption>{ "After" }</figcaption>
                <Diagram boxes={Rc::new(after)} compact=true label="After" />
            </figure>
        </div>
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

fn amounts(preview: &Preview) -> Html {
    let parts = [
        ("copied", preview.copied),
        ("expanded", preview.inflated),
        ("zeroed", preview.zeroed),
        ("tables and headers", preview.metadata),
    ];
    html! {
        <ul class="amounts">
            { for parts.iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| html! {
                <li><strong>{ text::bytes(*bytes) }</strong>{ format!(" {name}") }</li>
            }) }
        </ul>
    }
}

fn writes(writes: &[FileWrite]) -> Html {
    html! {
        <ul class="writes">
            { for writes.iter().map(|write| html! {
                <li key={write.layer}>
                    <strong>{ &write.name }</strong>
                    <span class="writes__size">
                        { text::bytes(write.before) }{ " → " }{ text::bytes(write.after) }
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
