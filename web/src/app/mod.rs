//! The page: it draws what the worker reports, and asks the worker for what the user wants.

pub mod chain;
pub mod details;
pub mod diagram;
pub mod files;
pub mod header;
pub mod layout;
pub mod link;
pub mod look;
pub mod model;
pub mod operation;
pub mod preview;
pub mod text;
pub mod welcome;
pub mod window;

use crate::js;
use crate::protocol::{Event, Granted, Kind, LayerId, Operation, Outcome, Request, Role, Status};
use chain::Chain;
use details::LayerDetails;
use files::Gifts;
use header::Header;
use link::Link;
use look::{Lens, LookView};
use model::{Action, Model, Stage};
use operation::OperationView;
use patternfly_yew::prelude::{Alert, AlertType};
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::spawn_local;
use web_sys::HtmlInputElement;
use welcome::Welcome;
use window::{use_drop_zone, use_keys, use_leave_guard};
use yew::prelude::*;

/// Draws the page into `#app`.
pub fn start() {
    crate::panic::install(crash_notice);
    if let Some(root) = gloo::utils::document().get_element_by_id("app") {
        root.set_inner_html("");
        yew::Renderer::<App>::with_root(root).render();
    }
}

/// Shows the notice that stands outside the app, through the script that is there before it.
fn crash_notice(message: &str) {
    let window = gloo::utils::window();
    let _ = js::start(
        &window,
        "backchainCrash",
        &js_sys::Array::of1(&message.into()),
    );
}

#[function_component(App)]
fn app() -> Html {
    let model = use_reducer(Model::default);
    let gifts = use_memo((), |()| Gifts::default());
    let link = {
        let dispatch = model.dispatcher();
        use_memo((), |()| {
            Link::open(move |event| match event {
                Event::Copy(saved) => {
                    if let Ok(file) = saved.file.dyn_into() {
                        files::download(&saved.name, &file);
                    }
                }
                Event::Crash(message) => {
                    crash_notice(&message);
                    dispatch.dispatch(Action::Heard(Event::Crash(message)));
                }
                event => dispatch.dispatch(Action::Heard(event)),
            })
        })
    };
    let send = {
        let link = link.clone();
        Callback::from(move |request: Request| {
            if let Some(link) = link.as_ref() {
                link.send(&request);
            }
        })
    };

    // A form that changed is planned anew; a selected layer is asked for its details.
    {
        let send = send.clone();
        let planning = model
            .form
            .as_ref()
            .filter(|form| form.stage == Stage::Planning)
            .map(|form| (form.serial, form.operation));
        use_effect_with(planning, move |planning| {
            if let Some((serial, operation)) = *planning {
                send.emit(Request::Preview { serial, operation });
            }
        });
    }
    {
        let send = send.clone();
        let wanted = model
            .selected
            .filter(|_| model.details.is_none() && !model.running());
        use_effect_with((wanted, model.tree.clone()), move |(wanted, _)| {
            if let Some(layer) = *wanted {
                send.emit(Request::Details { layer });
            }
        });
    }

    let open = {
        let (send, model) = (send.clone(), model.dispatcher());
        Callback::from(move |granted: Vec<Granted>| {
            if !granted.is_empty() {
                model.dispatch(Action::Opening);
                send.emit(Request::Open { granted });
            }
        })
    };
    let dragging = use_drop_zone({
        let (open, gifts) = (open.clone(), gifts.clone());
        Callback::from(move |transfer: web_sys::DataTransfer| {
            let granted = gifts.dropped(&transfer);
            let open = open.clone();
            spawn_local(async move { open.emit(granted.await) });
        })
    });

    let file_input = use_node_ref();
    let folder_input = use_node_ref();
    let pick = |folder: bool, input: &NodeRef| {
        let (open, gifts, model) = (open.clone(), gifts.clone(), model.dispatcher());
        let input = input.clone();
        Callback::from(move |()| {
            let (open, gifts, model) = (open.clone(), gifts.clone(), model.clone());
            let input = input.clone();
            spawn_local(async move {
                let picked = if folder {
                    gifts.pick_folder().await
                } else {
                    gifts.pick_files().await
                };
                match picked {
                    Some(Ok(granted)) => open.emit(granted),
                    Some(Err(error)) => model.dispatch(Action::Problem(Some(error))),
                    None => {
                        if let Some(input) = input.cast::<HtmlInputElement>() {
                            input.click();
                        }
                    }
                }
            });
        })
    };
    let onfiles = pick(false, &file_input);
    let onfolder = pick(true, &folder_input);
    let chosen = {
        let (open, gifts) = (open.clone(), gifts.clone());
        Callback::from(move |event: web_sys::Event| {
            let input = event
                .target()
                .and_then(|t| t.dyn_into::<HtmlInputElement>().ok());
            if let Some(input) = input {
                open.emit(gifts.chosen(&input));
            }
        })
    };
    let ondemo = {
        let (send, model) = (send.clone(), model.dispatcher());
        Callback::from(move |()| {
            model.dispatch(Action::Clear);
            model.dispatch(Action::Opening);
            send.emit(Request::Demo);
        })
    };
    let onclear = {
        let (send, model) = (send.clone(), model.dispatcher());
        Callback::from(move |()| {
            model.dispatch(Action::Clear);
            send.emit(Request::Clear);
        })
    };

    let choose = {
        let model = model.dispatcher();
        Callback::from(move |kind: Kind| model.dispatch(Action::Choose(kind)))
    };
    // A wish to stop may come while the browser still asks for permission.
    let stopped = use_mut_ref(|| false);
    let cancel = {
        let (send, model, stopped) = (send.clone(), model.clone(), stopped.clone());
        Callback::from(move |()| {
            if model.running() {
                *stopped.borrow_mut() = true;
                model.dispatch(Action::Cancel);
                send.emit(Request::Cancel);
            } else {
                model.dispatch(Action::CloseForm);
            }
        })
    };
    let run = {
        let (send, model, gifts) = (send.clone(), model.clone(), gifts.clone());
        Callback::from(move |()| {
            let Some(form) = &model.form else { return };
            if !matches!(form.stage, Stage::Planned(_)) {
                return;
            }
            let operation = form.operation;
            let asked = gifts.ask(&written_gifts(&model));
            model.dispatch(Action::Run);
            *stopped.borrow_mut() = false;
            let (send, stopped, model) = (send.clone(), stopped.clone(), model.dispatcher());
            spawn_local(async move {
                let read_only = asked.await;
                if *stopped.borrow() {
                    model.dispatch(Action::Heard(Event::Outcome(Outcome {
                        status: Status::Cancelled,
                        message: "Stopped. All files are as they were.".to_owned(),
                        notes: Vec::new(),
                        saved: Vec::new(),
                    })));
                    return;
                }
                send.emit(Request::Run {
                    operation,
                    read_only,
                });
            });
        })
    };
    let select = {
        let model = model.dispatcher();
        Callback::from(move |layer: LayerId| model.dispatch(Action::Select(Some(layer))))
    };
    let select_layer = select.clone();
    let dragged_onto = {
        let model = model.clone();
        Callback::from(move |(top, onto): (LayerId, LayerId)| {
            let below = model.tree.below(top).iter().any(|layer| layer.id == onto);
            let kind = if below { Kind::Commit } else { Kind::Rebase };
            model.dispatch(Action::Propose(Operation {
                kind,
                top,
                base: Some(onto),
                link_only: false,
                method: None,
                force: false,
            }));
        })
    };
    let save = {
        let send = send.clone();
        Callback::from(move |layer: LayerId| send.emit(Request::Copy { layer }))
    };
    use_leave_guard(model.running());
    let deselect = {
        let model = model.dispatcher();
        Callback::from(move |()| model.dispatch(Action::Select(None)))
    };
    let lens = use_state(|| None::<Lens>);
    use_keys({
        let lens_by_key = lens.clone();
        let (model, choose, cancel, onfiles) = (
            model.clone(),
            choose.clone(),
            cancel.clone(),
            onfiles.clone(),
        );
        Callback::from(move |key: String| match key.as_str() {
            "Escape" if model.form.is_some() => cancel.emit(()),
            "Escape" => model.dispatch(Action::Select(None)),
            "o" => onfiles.emit(()),
            key if Lens::ALL.iter().any(|lens| lens.words().2 == key) => {
                let pressed = Lens::ALL.into_iter().find(|lens| lens.words().2 == key);
                lens_by_key.set(pressed.filter(|_| *lens_by_key != pressed));
            }
            key => {
                let kind = Kind::ALL
                    .into_iter()
                    .find(|&kind| text::words(kind).key == key);
                if let Some(kind) = kind {
                    choose.emit(kind);
                }
            }
        })
    });

    let empty = model.tree.layers.is_empty();
    let selected = model.selected.and_then(|id| model.tree.layer(id)).cloned();
    let onlook = send.reform(Request::Look);
    let onlens = {
        let lens = lens.clone();
        Callback::from(move |to: Option<Lens>| lens.set(to))
    };
    let looked_at = model
        .selected
        .or_else(|| {
            model
                .tree
                .layers
                .iter()
                .find(|l| l.role == Role::Active)
                .map(|l| l.id)
        })
        .or_else(|| model.tree.layers.first().map(|l| l.id));
    let dismiss = {
        let model = model.dispatcher();
        Callback::from(move |()| model.dispatch(Action::Problem(None)))
    };
    html! {
        <>
            <Header
                loaded={!empty}
                onfiles={onfiles.clone()}
                ondemo={ondemo.clone()}
                {onclear}
            />
            <main class="main">
                if let Some(problem) = &model.problem {
                    <div data-testid="problem">
                        <Alert inline=true r#type={AlertType::Danger} title="That did not work" onclose={Some(dismiss)}>
                            <p>{ problem }</p>
                        </Alert>
                    </div>
                }
                if !model.tree.ignored.is_empty() {
                    <div data-testid="ignored">
                        <Alert inline=true r#type={AlertType::Info} title="Left out">
                            <ul class="notes">{ for model.tree.ignored.iter().map(|why| html! { <li>{ why }</li> }) }</ul>
                        </Alert>
                    </div>
                }
                if empty {
                    <Welcome opening={model.opening} {onfiles} {onfolder} {ondemo} />
                } else {
                    <Operations chosen={model.form.as_ref().map(|form| form.operation.kind)} disabled={model.running()} onchoose={choose.clone()} />
                    <section class="panel panel--chain" aria-label="The chain">
                        <Chain tree={model.tree.clone()} selected={model.selected} onselect={select} ondragonto={dragged_onto} />
                    </section>
                    { lenses(*lens, &onlens) }
                    if let (Some(lens), Some(layer)) = (*lens, looked_at) {
                        <LookView
                            tree={model.tree.clone()}
                            {layer}
                            {lens}
                            looks={model.looks.clone()}
                            {onlook}
                            {onlens}
                            onselect={select_layer}
                        />
                    }
                    <div class="panels">
                        if let Some(form) = &model.form {
                            <OperationView
                                tree={model.tree.clone()}
                                form={form.clone()}
                                onchange={let model = model.dispatcher(); move |operation| model.dispatch(Action::Change(operation))}
                                onrun={run}
                                oncancel={cancel}
                            />
                        }
                        if let Some(layer) = selected {
                            <LayerDetails {layer} details={model.details.clone()} onclose={deselect} onsave={save} />
                        } else if model.form.is_none() {
                            <p class="hint">
                                { "Choose a layer to look inside, or an operation above. Dragging one layer onto another proposes one, too." }
                            </p>
                        }
                    </div>
                }
            </main>
            <input ref={file_input} type="file" multiple=true hidden=true data-testid="file-input" onchange={chosen.clone()} />
            <input ref={folder_input} type="file" multiple=true hidden=true webkitdirectory=true onchange={chosen} />
            if dragging {
                <div class="veil" aria-hidden="true"><p>{ "Drop the files anywhere" }</p></div>
            }
        </>
    }
}

/// The gifts whose files the planned operation writes in place.
fn written_gifts(model: &Model) -> Vec<u32> {
    let Some(Stage::Planned(preview)) = model.form.as_ref().map(|form| &form.stage) else {
        return Vec::new();
    };
    let Ok(preview) = preview.as_ref() else {
        return Vec::new();
    };
    let mut gifts: Vec<u32> = preview
        .writes
        .iter()
        .filter(|write| write.in_place)
        .filter_map(|write| model.tree.layer(write.layer))
        .map(|layer| layer.gift)
        .collect();
    gifts.sort_unstable();
    gifts.dedup();
    gifts
}

/// The menu of ways to look.
fn lenses(chosen: Option<Lens>, onlens: &Callback<Option<Lens>>) -> Html {
    html! {
        <div class="operations operations--looks" role="toolbar" aria-label="Ways to look inside">
            { for Lens::ALL.iter().map(|&lens| {
                let (id, label, key, icon) = lens.words();
                let pressed = chosen == Some(lens);
                html! {
                    <button
                        key={id}
                        type="button"
                        class={classes!("operations__item", pressed.then_some("operations__item--chosen"))}
                        data-testid={format!("lens-{id}")}
                        aria-keyshortcuts={key}
                        aria-pressed={pressed.to_string()}
                        onclick={onlens.reform(move |_: MouseEvent| (!pressed).then_some(lens))}
                    >
                        <i class={classes!("fas", icon)} aria-hidden="true" />
                        <span>{ label }</span>
                        <kbd aria-hidden="true">{ key }</kbd>
                    </button>
                }
            }) }
        </div>
    }
}

#[derive(Clone, PartialEq, Properties)]
struct OperationsProperties {
    chosen: Option<Kind>,
    disabled: bool,
    onchoose: Callback<Kind>,
}

/// The menu of operations.
#[function_component(Operations)]
fn operations(props: &OperationsProperties) -> Html {
    html! {
        <div class="operations" role="toolbar" aria-label="Operations">
            { for Kind::ALL.iter().map(|&kind| {
                let words = text::words(kind);
                let chosen = props.chosen == Some(kind);
                html! {
                    <button
                        key={words.id}
                        type="button"
                        class={classes!("operations__item", chosen.then_some("operations__item--chosen"))}
                        data-testid={format!("op-{}", words.id)}
                        title={words.what}
                        aria-keyshortcuts={words.key}
                        aria-pressed={chosen.to_string()}
                        disabled={props.disabled}
                        onclick={props.onchoose.reform(move |_: MouseEvent| kind)}
                    >
                        <i class={classes!("fas", words.icon)} aria-hidden="true" />
                        <span>{ words.label }</span>
                        <kbd aria-hidden="true">{ words.key }</kbd>
                    </button>
                }
            }) }
        </div>
    }
}
