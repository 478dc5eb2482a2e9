//! An operation: its form, its preview, the run and the result.

pub mod actions;
pub mod ask;
pub mod figures;
pub mod form;
pub mod menu;
pub mod preview;
pub mod propose;
pub mod shape;
pub mod ways;

use super::bench::model::{Form, RunResult, SavedFile, Stage};
use super::files::download;
use super::proof::{ProofView, ProveBox, Proving};
use super::text;
use crate::protocol::{Operation, Progress as Done, Status, Tree};
use form::Fields;
use patternfly_yew::prelude::*;
use preview::PreviewView;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::{Element, HtmlElement, ScrollIntoViewOptions, ScrollLogicalPosition};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct OperationViewProperties {
    pub tree: Rc<Tree>,
    pub form: Form,
    pub onchange: Callback<Operation>,
    pub onrun: Callback<()>,
    /// Stops a run, or closes the form.
    pub oncancel: Callback<()>,
    /// Stages it instead of running it, where that is offered.
    #[prop_or_default]
    pub ontry: Option<Callback<()>>,
    /// Number of changes that are staged already: then this one can only be staged, too.
    #[prop_or_default]
    pub staged: usize,
    /// It is being staged.
    #[prop_or_default]
    pub trying: bool,
    /// The proof that nothing else changed.
    #[prop_or_default]
    pub proving: Proving,
    /// Wishes for that proof or not, where it is offered.
    #[prop_or_default]
    pub onprove: Option<Callback<bool>>,
}

#[function_component(OperationView)]
pub fn operation_view(props: &OperationViewProperties) -> Html {
    let operation = &props.form.operation;
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
    {
        // Focus that went with a menu, or with the button that was pressed, goes on here.
        let panel = panel.clone();
        let finished = matches!(props.form.stage, Stage::Finished { .. });
        use_effect_with((operation.kind, finished), move |&(_, finished)| {
            let now = gloo::utils::document().active_element();
            let lost = now.is_none_or(|now| {
                let in_menu = now.closest("[role=menu]").is_ok_and(|menu| menu.is_some());
                in_menu || now.tag_name() == "BODY"
            });
            let wanted = if finished {
                ".panel__foot button"
            } else {
                ".form select"
            };
            let panel = panel.cast::<Element>().filter(|_| lost);
            let found = panel.and_then(|panel| panel.query_selector(wanted).ok().flatten());
            if let Some(found) = found.and_then(|found| found.dyn_into::<HtmlElement>().ok()) {
                let _ = found.focus();
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
    let onway = {
        let tree = props.tree.clone();
        props
            .onchange
            .reform(move |way: Operation| propose::filled(&tree, way))
    };
    // Until something newer is planned, the form stays as it was.
    let latest = preview.clone().or_else(|| props.form.before.clone());
    let top = operation.top.and_then(|top| props.tree.layer(top));
    let missing = shape::missing(operation, top);
    let incomplete = missing.is_some() && preview.as_deref().is_some_and(Result::is_err);
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
                    operation={operation.clone()}
                    base_chosen={props.form.base_chosen}
                    disabled={running || props.trying}
                    can_force={latest.as_deref().is_some_and(|p| p.as_ref().is_ok_and(|p| p.can_force))}
                    onchange={props.onchange.clone()}
                />
            }
            if let Stage::Finished { result, .. } = stage {
                <ResultView result={result.clone()} unproven={props.proving.failed()} />
                if let Some(found) = &props.proving.found {
                    <ProofView found={found.clone()} />
                }
            }
            if !finished {
                <PreviewView tree={props.tree.clone()} preview={preview.clone()} before={props.form.before.clone()} note={props.form.note.clone()} {missing} {onway} />
            }
            if let Stage::Running { progress, .. } = stage {
                { bar(progress.as_ref(), cancelling) }
            }
            if let Stage::Finished { result, .. } = stage {
                if result.status == Status::Done {
                    { finished_bar() }
                }
            }
            if let Some(onprove) = props.onprove.as_ref().filter(|_| !finished) {
                <ProveBox wanted={props.proving.wanted} disabled={running || props.trying || props.staged > 0} {onprove} />
            }
            <footer class="panel__foot">
                if finished {
                    <button type="button" class="pf-v6-c-button pf-m-secondary" onclick={cancel}>{ "Close" }</button>
                } else {
                    <button
                        type="button"
                        class={classes!("pf-v6-c-button", if refused || props.staged > 0 { "pf-m-secondary" } else { "pf-m-primary" })}
                        data-testid="run"
                        disabled={running || props.trying || props.staged > 0 || preview.is_none() || incomplete}
                        title={(props.staged > 0).then_some("There are staged changes: apply or discard them first")}
                        onclick={run}
                    >
                        { if running { "Running…" } else { "Run" } }
                    </button>
                    if let Some(ontry) = props.ontry.as_ref().filter(|_| !running) {
                        <button
                            type="button"
                            class={classes!("pf-v6-c-button", if refused || props.staged == 0 { "pf-m-secondary" } else { "pf-m-primary" })}
                            data-testid="try"
                            title="Shows everything as it would be, and writes nothing"
                            disabled={props.trying || refused || preview.is_none()}
                            onclick={ontry.reform(|_: MouseEvent| ())}
                        >
                            { if props.trying { "Trying…" } else { "Try it" } }
                        </button>
                    }
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

/// How far something is.
pub fn bar(progress: Option<&Done>, cancelling: bool) -> Html {
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
    // The result says it in words.
    html! {
        <div data-testid="progress" class="progress" aria-hidden="true">
            <Progress value={1.0} variant={ProgressVariant::Success} size={ProgressSize::Small} location={ProgressMeasureLocation::Outside} />
        </div>
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct ResultViewProperties {
    pub result: Rc<RunResult>,
    /// It was carried out, and the proof says that something else changed.
    #[prop_or_default]
    pub unproven: bool,
}

#[function_component(ResultView)]
pub fn result_view(props: &ResultViewProperties) -> Html {
    let result = &props.result;
    let (kind, title) = match result.status {
        Status::Done => (AlertType::Success, "Done"),
        Status::Failed if props.unproven => (AlertType::Danger, "The proof failed"),
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
