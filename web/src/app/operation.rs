//! An operation: its form, its preview, the run and the result.

use super::bench::model::{Form, RunResult, SavedFile, Stage, default_base};
use super::files::download;
use super::preview::PreviewView;
use super::text;
use crate::protocol::{Kind, Layer, LayerId, Operation, Progress as Done, Status, Tree};
use patternfly_yew::prelude::*;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::{
    Element, HtmlInputElement, HtmlSelectElement, ScrollIntoViewOptions, ScrollLogicalPosition,
};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct OperationViewProperties {
    pub tree: Rc<Tree>,
    pub form: Form,
    pub onchange: Callback<Operation>,
    pub onrun: Callback<()>,
    /// Stops a run, or closes the form.
    pub oncancel: Callback<()>,
}

#[function_component(OperationView)]
pub fn operation_view(props: &OperationViewProperties) -> Html {
    let operation = props.form.operation;
    let words = text::words(operation.kind);
    let panel = use_node_ref();
    {
        // On a phone the form opens far below the menu it was chosen from.
        let panel = panel.clone();
        use_effect_with(operation.kind, move |_| {
            let height = gloo::utils::window()
                .inner_height()
                .ok()
                .and_then(|h| h.as_f64());
            if let Some(panel) = panel.cast::<Element>()
                && panel.get_bounding_client_rect().top() > height.unwrap_or(0.0) * 0.6
            {
                let options = ScrollIntoViewOptions::new();
                options.set_block(ScrollLogicalPosition::Start);
                panel.scroll_into_view_with_scroll_into_view_options(&options);
            }
        });
    }
    let stage = &props.form.stage;
    let running = matches!(stage, Stage::Running { .. });
    let finished = matches!(stage, Stage::Finished { .. });
    let preview = match stage {
        Stage::Planning => None,
        Stage::Planned(preview)
        | Stage::Running { preview, .. }
        | Stage::Finished { preview, .. } => Some(preview.clone()),
    };
    let refused = preview.as_deref().is_some_and(|preview| match preview {
        Ok(preview) => preview.refusal.is_some(),
        Err(_) => true,
    });
    let cancel = props.oncancel.reform(|_: MouseEvent| ());
    let run = props.onrun.reform(|_: MouseEvent| ());
    let cancelling = matches!(
        stage,
        Stage::Running {
            cancelling: true,
            ..
        }
    );
    html! {
        <section ref={panel} class="panel panel--operation" data-testid="operation" aria-label={words.label}>
            <header class="panel__head">
                <Title level={Level::H2} size={Size::Large}>{ words.label }</Title>
            </header>
            <p class="quiet">{ words.what }</p>
            if !finished {
                <Fields
                    tree={props.tree.clone()}
                    {operation}
                    base_chosen={props.form.base_chosen}
                    disabled={running}
                    can_force={preview.as_deref().is_some_and(|p| p.as_ref().is_ok_and(|p| p.can_force))}
                    onchange={props.onchange.clone()}
                />
            }
            if let Stage::Finished { result, .. } = stage {
                <ResultView result={result.clone()} />
            }
            if !finished {
                <PreviewView tree={props.tree.clone()} preview={preview.clone()} note={props.form.note.clone()} />
            }
            if let Stage::Running { progress, .. } = stage {
                { bar(progress.as_ref(), cancelling) }
            }
            if let Stage::Finished { result, .. } = stage {
                if result.status == Status::Done {
                    { finished_bar() }
                }
            }
            <footer class="panel__foot">
                if finished {
                    <button type="button" class="pf-v6-c-button pf-m-secondary" onclick={cancel}>{ "Close" }</button>
                } else {
                    <button
                        type="button"
                        class={classes!("pf-v6-c-button", if refused { "pf-m-secondary" } else { "pf-m-primary" })}
                        data-testid="run"
                        disabled={running || preview.is_none()}
                        onclick={run}
                    >
                        { if running { "Running…" } else { "Run" } }
                    </button>
                    <button
                        type="button"
                        class="pf-v6-c-button pf-m-link"
                        data-testid="cancel"
                        disabled={cancelling}
                        onclick={cancel}
                    >
                        { if cancelling { "Stopping…" } else { "Cancel" } }
                    </button>
                }
            </footer>
        </section>
    }
}

#[derive(Clone, PartialEq, Properties)]
struct FieldsProperties {
    tree: Rc<Tree>,
    operation: Operation,
    base_chosen: bool,
    disabled: bool,
    can_force: bool,
    onchange: Callback<Operation>,
}

#[function_component(Fields)]
fn fields(props: &FieldsProperties) -> Html {
    let FieldsProperties {
        tree,
        operation,
        disabled,
        onchange,
        ..
    } = props;
    let operation = *operation;
    let base_chosen = props.base_chosen;
    let kind = operation.kind;
    let set_top = {
        let tree = tree.clone();
        onchange.reform(move |top: Option<LayerId>| {
            let top = top.unwrap_or(operation.top);
            let fits = match (kind, operation.base) {
                (_, None) => kind != Kind::Commit,
                (Kind::Rebase, Some(base)) => base != top,
                (_, Some(base)) => tree.below(top).iter().any(|layer| layer.id == base),
            };
            let base = if base_chosen && fits {
                operation.base
            } else {
                default_base(&tree, kind, top)
            };
            Operation {
                top,
                base,
                force: false,
                ..operation
            }
        })
    };
    let set_base = onchange.reform(move |base| Operation {
        base,
        force: false,
        ..operation
    });
    let (top_label, base_label) = match kind {
        Kind::Commit => ("Merge down (top)", "into (base)"),
        Kind::Pull => ("Pull into (top)", "which then stands on (base)"),
        Kind::Rebase => ("Change (top)", "to stand on (base)"),
        Kind::Remove => ("Take out", ""),
    };
    // What makes sense comes first; the rest is there too, and the preview says why not.
    let below: Vec<LayerId> = tree
        .below(operation.top)
        .iter()
        .map(|layer| layer.id)
        .collect();
    let base_groups = match kind {
        Kind::Rebase => vec![("", others(tree, |layer| layer.id != operation.top))],
        _ => vec![
            ("Below it", others(tree, |layer| below.contains(&layer.id))),
            (
                "Elsewhere",
                others(tree, |layer| {
                    layer.id != operation.top && !below.contains(&layer.id)
                }),
            ),
        ],
    };
    let tops = vec![("", others(tree, |_| true))];
    html! {
        <form class="fields" onsubmit={Callback::from(|event: SubmitEvent| event.prevent_default())}>
            { select("top", top_label, tree, &tops, Some(operation.top), None, *disabled, set_top) }
            if kind != Kind::Remove {
                { select(
                    "base",
                    base_label,
                    tree,
                    &base_groups,
                    operation.base,
                    (kind != Kind::Commit).then_some("nothing: it stands alone"),
                    *disabled,
                    set_base,
                ) }
            }
            if kind == Kind::Remove {
                { methods(operation, *disabled, onchange) }
            }
            if kind == Kind::Rebase {
                { checkbox(
                    "unsafe",
                    "Only change the link (unsafe)",
                    "For a backing file that was moved or renamed. Nothing is compared or copied: what the overlay reads may change.",
                    operation.link_only,
                    *disabled,
                    onchange.reform(move |link_only| Operation { link_only, ..operation }),
                ) }
            }
            if props.can_force || operation.force {
                { checkbox(
                    "force",
                    "Do it although other overlays break",
                    "They will read differently afterwards, without any warning from other tools.",
                    operation.force,
                    *disabled,
                    onchange.reform(move |force| Operation { force, ..operation }),
                ) }
            }
        </form>
    }
}

fn others(tree: &Tree, keep: impl Fn(&Layer) -> bool) -> Vec<Layer> {
    tree.layers
        .iter()
        .filter(|layer| keep(layer))
        .cloned()
        .collect()
}

/// An option's value: the file name, or the path where several files share a name.
fn value_of(tree: &Tree, layer: &Layer) -> String {
    let shared = tree
        .layers
        .iter()
        .filter(|other| other.name == layer.name)
        .count()
        > 1;
    if shared {
        layer.path.clone()
    } else {
        layer.name.clone()
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "a select has this many independent parts"
)]
fn select(
    id: &'static str,
    label: &str,
    tree: &Rc<Tree>,
    groups: &[(&'static str, Vec<Layer>)],
    chosen: Option<LayerId>,
    none: Option<&str>,
    disabled: bool,
    onchange: Callback<Option<LayerId>>,
) -> Html {
    let onchange = {
        let tree = tree.clone();
        Callback::from(move |event: Event| {
            let Some(select) = event
                .target()
                .and_then(|t| t.dyn_into::<HtmlSelectElement>().ok())
            else {
                return;
            };
            let value = select.value();
            let layer = tree
                .layers
                .iter()
                .find(|layer| value_of(&tree, layer) == value);
            onchange.emit(layer.map(|layer| layer.id));
        })
    };
    let option = |layer: &Layer| {
        let value = value_of(tree, layer);
        html! {
            <option key={value.clone()} value={value.clone()} selected={Some(layer.id) == chosen}>
                { value.clone() }
            </option>
        }
    };
    html! {
        <label class="field">
            <span class="field__label">{ label }</span>
            <span class="pf-v6-c-form-control">
                <select data-testid={id} {disabled} {onchange}>
                    if let Some(none) = none {
                        <option key="" value="" selected={chosen.is_none()}>{ none }</option>
                    } else if chosen.is_none() {
                        <option key="" value="" selected=true>{ "choose a layer" }</option>
                    }
                    { for groups.iter().filter(|(_, layers)| !layers.is_empty()).map(|(name, layers)| {
                        if name.is_empty() {
                            html! { <>{ for layers.iter().map(option) }</> }
                        } else {
                            html! { <optgroup key={*name} label={*name}>{ for layers.iter().map(option) }</optgroup> }
                        }
                    }) }
                </select>
            </span>
        </label>
    }
}

fn methods(operation: Operation, disabled: bool, onchange: &Callback<Operation>) -> Html {
    let onchange = onchange.reform(move |event: Event| {
        let select = event
            .target()
            .and_then(|t| t.dyn_into::<HtmlSelectElement>().ok());
        let method = select.and_then(|select| select.value().parse().ok());
        Operation {
            method,
            ..operation
        }
    });
    let option = |value: &'static str, text: &'static str, method: Option<u8>| {
        html! { <option {value} selected={operation.method == method}>{ text }</option> }
    };
    html! {
        <label class="field">
            <span class="field__label">{ "How" }</span>
            <span class="pf-v6-c-form-control">
                <select data-testid="method" {disabled} {onchange}>
                    { option("", "the cheaper way", None) }
                    { option("1", "Method 1: commit it into the layer below", Some(1)) }
                    { option("2", "Method 2: copy what the layer above needs (safe rebase)", Some(2)) }
                </select>
            </span>
        </label>
    }
}

fn checkbox(
    id: &'static str,
    label: &str,
    help: &str,
    checked: bool,
    disabled: bool,
    onchange: Callback<bool>,
) -> Html {
    let onchange = onchange.reform(|event: Event| {
        let input = event
            .target()
            .and_then(|t| t.dyn_into::<HtmlInputElement>().ok());
        input.is_some_and(|input| input.checked())
    });
    html! {
        <label class="check">
            <input type="checkbox" data-testid={id} {checked} {disabled} {onchange} />
            <span>{ label }<small>{ help }</small></span>
        </label>
    }
}

fn bar(progress: Option<&Done>, cancelling: bool) -> Html {
    let (share, phase) = match progress {
        _ if cancelling => (0.0, "Stopping".to_owned()),
        None => (0.0, "Starting".to_owned()),
        Some(done) => (text::share(done.done, done.total), done.phase.clone()),
    };
    let amount = progress
        .filter(|p| p.total > 0)
        .map(|p| format!("{} of {}", text::bytes(p.done), text::bytes(p.total)));
    html! {
        <div data-testid="progress" class="progress" aria-live="polite">
            <Progress value={share} description={phase} />
            <small class="quiet">{ amount }</small>
        </div>
    }
}

fn finished_bar() -> Html {
    html! {
        <div data-testid="progress" class="progress">
            <Progress value={1.0} variant={ProgressVariant::Success} size={ProgressSize::Small} location={ProgressMeasureLocation::Outside} />
        </div>
    }
}

#[derive(Clone, PartialEq, Properties)]
struct ResultViewProperties {
    result: Rc<RunResult>,
}

#[function_component(ResultView)]
fn result_view(props: &ResultViewProperties) -> Html {
    let result = &props.result;
    let (kind, title) = match result.status {
        Status::Done => (AlertType::Success, "Done"),
        Status::Failed => (AlertType::Danger, "Not done"),
        Status::Cancelled => (AlertType::Warning, "Cancelled"),
    };
    html! {
        <div data-testid="result" data-status={result.status.name()} role="status">
            <Alert inline=true r#type={kind} {title}>
                <p>{ &result.message }</p>
                if !result.notes.is_empty() {
                    <ul class="notes">{ for result.notes.iter().map(|note| html! { <li>{ note }</li> }) }</ul>
                }
            </Alert>
            if !result.saved.is_empty() {
                <div class="saved">
                    { for result.saved.iter().map(|saved| html! { <SaveButton saved={saved.clone()} /> }) }
                </div>
            }
        </div>
    }
}

#[derive(Clone, PartialEq, Properties)]
struct SaveButtonProperties {
    saved: SavedFile,
}

/// Offers a new file as a download, which every browser has.
#[function_component(SaveButton)]
fn save_button(props: &SaveButtonProperties) -> Html {
    let SavedFile { name, size, file } = props.saved.clone();
    let onclick = {
        let name = name.clone();
        Callback::from(move |_: MouseEvent| {
            if let Some(file) = &file {
                download(&name, file);
            }
        })
    };
    html! {
        <button type="button" class="pf-v6-c-button pf-m-primary" data-testid="save" data-name={name.clone()} {onclick}>
            { format!("Save {name} ({})", text::bytes(size)) }
        </button>
    }
}
