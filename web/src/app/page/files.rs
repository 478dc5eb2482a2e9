//! The page of the user's files: the chain, the ways to look inside, the operations.

use super::welcome::Welcome;
use crate::app::bench::Bench;
use crate::app::bench::model::Action;
use crate::app::chain::Chain;
use crate::app::details::LayerDetails;
use crate::app::keys::Keys;
use crate::app::look::spot::{Spot, use_spot};
use crate::app::look::{Lens, LookView};
use crate::app::operation::OperationView;
use crate::app::operation::actions::{LayerMenu, Opened};
use crate::app::operation::ask::Ask;
use crate::app::operation::menu::Operations;
use crate::app::operation::propose::dragged;
use crate::app::recent::RecentFiles;
use crate::app::report::{ReportButtons, ReportProgress};
use crate::app::staged::StagedView;
use crate::app::text;
use crate::app::window::use_keys;
use crate::protocol::{Kind, LayerId, Request};
use patternfly_yew::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::spawn_local;
use web_sys::HtmlInputElement;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct FilesPageProperties {
    pub bench: Bench,
}

#[function_component(FilesPage)]
pub fn files_page(props: &FilesPageProperties) -> Html {
    let bench = &props.bench;
    let model = &bench.model;
    let on = |act: fn(&Bench)| {
        let bench = bench.clone();
        Callback::from(move |()| act(&bench))
    };

    let file_input = use_node_ref();
    let folder_input = use_node_ref();
    let pick = |folder: bool, input: &NodeRef| {
        let (bench, input) = (bench.clone(), input.clone());
        Callback::from(move |()| {
            let (bench, input) = (bench.clone(), input.clone());
            spawn_local(async move {
                let picked = if folder {
                    bench.gifts.pick_folder().await
                } else {
                    bench.gifts.pick_files().await
                };
                match picked {
                    Some(Ok(granted)) => bench.open(granted),
                    Some(Err(error)) => bench.dispatch(Action::Problem(Some(error))),
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
        let bench = bench.clone();
        Callback::from(move |event: web_sys::Event| {
            let input = event
                .target()
                .and_then(|t| t.dyn_into::<HtmlInputElement>().ok());
            if let Some(input) = input {
                bench.open(bench.gifts.chosen(&input));
            }
        })
    };

    let choose = {
        let bench = bench.clone();
        Callback::from(move |kind: Kind| bench.dispatch(Action::Choose(kind)))
    };
    let cancel = on(Bench::cancel);
    let run = on(Bench::run);
    let select = {
        let bench = bench.clone();
        Callback::from(move |layer: LayerId| bench.dispatch(Action::Select(Some(layer))))
    };
    let deselect = on(|bench| bench.dispatch(Action::Select(None)));
    // What a drag may have meant, while that is asked.
    let asked = use_state(Vec::new);
    let dragged_onto = {
        let (bench, asked) = (bench.clone(), asked.clone());
        Callback::from(move |(top, onto): (LayerId, LayerId)| {
            let mut meant = dragged(&bench.model.tree, top, onto);
            match (meant.len(), meant.pop()) {
                (1, Some(only)) => bench.dispatch(Action::Propose(only)),
                (_, Some(last)) => {
                    meant.push(last);
                    asked.set(meant);
                }
                (_, None) => {}
            }
        })
    };
    let propose = {
        let bench = bench.clone();
        Callback::from(move |operation| bench.dispatch(Action::Propose(operation)))
    };
    let save = {
        let bench = bench.clone();
        Callback::from(move |layer: LayerId| bench.send(&Request::Copy { layer }))
    };
    let answered = {
        let (bench, asked) = (bench.clone(), asked.clone());
        Callback::from(move |operation| {
            asked.set(Vec::new());
            bench.dispatch(Action::Propose(operation));
        })
    };
    let unasked = {
        let asked = asked.clone();
        Callback::from(move |()| asked.set(Vec::new()))
    };
    let opened = use_state(|| None::<Opened>);
    let oncontextmenu = {
        let (bench, opened) = (bench.clone(), opened.clone());
        Callback::from(move |event: MouseEvent| {
            if let Some(at) = Opened::at(&bench.model.tree, &event) {
                event.prevent_default();
                opened.set((!bench.model.running()).then_some(at));
            }
        })
    };
    let choose_for = {
        let bench = bench.clone();
        Callback::from(move |(layer, kind): (LayerId, Kind)| {
            bench.dispatch(Action::Select(Some(layer)));
            bench.dispatch(Action::Choose(kind));
        })
    };
    let onactions = {
        let (bench, opened) = (bench.clone(), opened.clone());
        Callback::from(move |event: MouseEvent| {
            let layer = bench.model.selected.filter(|_| !bench.model.running());
            opened.set(layer.and_then(|layer| Opened::below(layer, &event)));
        })
    };
    let keys = use_state(|| false);
    let show_keys = {
        let keys = keys.clone();
        Callback::from(move |shown: bool| keys.set(shown))
    };
    let spot = use_spot(&model.tree, bench.focus(), select.clone());
    let lens = spot.lens;
    let onlens = {
        let spot = spot.clone();
        Callback::from(move |lens: Option<Lens>| spot.set(Spot { lens, ..*spot }))
    };
    use_keys({
        let (onlens, show_keys) = (onlens.clone(), show_keys.clone());
        let (bench, choose, cancel, onfiles) = (
            bench.clone(),
            choose.clone(),
            cancel.clone(),
            onfiles.clone(),
        );
        Callback::from(move |key: String| match key.as_str() {
            "Escape" if bench.model.form.is_some() => cancel.emit(()),
            "Escape" => bench.dispatch(Action::Select(None)),
            "o" => onfiles.emit(()),
            "?" => show_keys.emit(true),
            key if Lens::ALL.iter().any(|lens| lens.words().2 == key) => {
                let pressed = Lens::ALL.into_iter().find(|lens| lens.words().2 == key);
                onlens.emit(pressed.filter(|_| lens != pressed));
            }
            key => {
                let kind = Kind::all().find(|&kind| text::words(kind).key == key);
                if let Some(kind) = kind {
                    choose.emit(kind);
                }
            }
        })
    });

    let empty = model.tree.layers.is_empty();
    let selected = model.selected.and_then(|id| model.tree.layer(id)).cloned();
    let onlook = {
        let bench = bench.clone();
        Callback::from(move |look| bench.send(&Request::Look(look)))
    };
    let onspot = {
        let spot = spot.clone();
        Callback::from(move |to: Spot| spot.set(to))
    };
    let dismiss = on(|bench| bench.dispatch(Action::Problem(None)));
    let ondemo = on(Bench::demo);
    html! {
        <>
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
                if let Some(form) = &model.form {
                    <h1 class="sr-only">{ "Disk images" }</h1>
                    <OperationView
                        tree={model.tree.clone()}
                        form={form.clone()}
                        onchange={let bench = bench.clone(); move |operation| bench.dispatch(Action::Change(operation))}
                        onrun={run}
                        oncancel={cancel}
                        ontry={on(Bench::stage)}
                        staged={0}
                        trying={model.staged.busy.is_some()}
                        proving={model.proving.clone()}
                        onprove={let bench = bench.clone(); move |wanted| bench.dispatch(Action::Prove(wanted))}
                    />
                } else {
                    <Welcome opening={model.opening} {onfiles} {onfolder} {ondemo} onnew={choose.reform(|()| Kind::Create)}>
                        <RecentFiles bench={bench.clone()} />
                    </Welcome>
                }
            } else {
                <FilesHead layers={model.tree.layers.len()} {onfiles} {ondemo} onclear={on(Bench::clear)} onkeys={show_keys.reform(|()| true)}>
                    <ReportButtons bench={bench.clone()} />
                </FilesHead>
                <ReportProgress bench={bench.clone()} />
                <Operations chosen={model.form.as_ref().map(|form| form.operation.kind)} disabled={model.running()} onchoose={choose} />
                <section class="panel panel--chain" aria-label="The chain" {oncontextmenu}>
                    <Chain tree={model.tree.clone()} selected={model.selected} onselect={select.clone()} ondragonto={dragged_onto} bench={Some(bench.clone())} onpropose={Some(propose)} />
                </section>
                <StagedView
                    staged={model.staged.clone()}
                    onwish={let bench = bench.clone(); move |wish| bench.staged(wish)}
                />
                { lenses(lens, &onlens) }
                if let Some(layer) = bench.focus().filter(|_| lens.is_some()) {
                    <LookView
                        tree={model.tree.clone()}
                        {layer}
                        spot={*spot}
                        linked=true
                        looks={model.looks.clone()}
                        {onlook}
                        {onspot}
                        onselect={select}
                    />
                }
                <div class="panels">
                    if let Some(form) = &model.form {
                        <OperationView
                            tree={model.tree.clone()}
                            form={form.clone()}
                            onchange={let bench = bench.clone(); move |operation| bench.dispatch(Action::Change(operation))}
                            onrun={run}
                            oncancel={cancel}
                            ontry={on(Bench::stage)}
                            staged={model.staged.stack.done.len()}
                            trying={model.staged.busy.is_some()}
                            proving={model.proving.clone()}
                            onprove={let bench = bench.clone(); move |wanted| bench.dispatch(Action::Prove(wanted))}
                        />
                    }
                    if let Some(layer) = selected {
                        <LayerDetails {layer} details={model.details.clone()} onclose={deselect} onsave={save} onactions={Some(onactions)} />
                    } else if model.form.is_none() {
                        <p class="hint">
                            { "Choose a layer to look inside, or an operation above. Dragging one layer onto another proposes one, too." }
                        </p>
                    }
                </div>
            }
            <LayerMenu tree={model.tree.clone()} {opened} onchoose={choose_for} />
            if !asked.is_empty() {
                <Ask tree={model.tree.clone()} meant={(*asked).clone()} onchoose={answered} onclose={unasked} />
            }
            if *keys {
                <Keys onclose={show_keys.reform(|()| false)} />
            }
            <input ref={file_input} type="file" multiple=true hidden=true data-testid="file-input" onchange={chosen.clone()} />
            <input ref={folder_input} type="file" multiple=true hidden=true webkitdirectory=true data-testid="folder-input" onchange={chosen} />
        </>
    }
}

#[derive(Clone, PartialEq, Properties)]
struct FilesHeadProperties {
    layers: usize,
    onfiles: Callback<()>,
    ondemo: Callback<()>,
    onclear: Callback<()>,
    onkeys: Callback<()>,
    /// More tools.
    children: Html,
}

/// The page's title, and what concerns all files.
#[function_component(FilesHead)]
fn files_head(props: &FilesHeadProperties) -> Html {
    let click = |callback: &Callback<()>| callback.reform(|_: MouseEvent| ());
    let button = |kind: &'static str,
                  id: &'static str,
                  label: &'static str,
                  callback: &Callback<()>| {
        let class = classes!("pf-v6-c-button", "pf-m-small", kind);
        html! { <button type="button" {class} data-testid={id} onclick={click(callback)}>{ label }</button> }
    };
    let count = match props.layers {
        1 => "1 file".to_owned(),
        n => format!("{n} files"),
    };
    html! {
        <div class="page-head">
            <h1 class="page-head__title" tabindex="-1">{ "Disk images" }</h1>
            <span class="quiet">{ count }</span>
            <div class="page-head__tools">
                { button("pf-m-secondary", "open-files", "Add files", &props.onfiles) }
                { props.children.clone() }
                { button("pf-m-link", "demo", "Demo", &props.ondemo) }
                { button("pf-m-link", "clear", "Close all", &props.onclear) }
                <button type="button" class="icon-button" data-testid="show-keys" title="Keys (?)" aria-label="Keys" aria-keyshortcuts="?" onclick={click(&props.onkeys)}>
                    <i class="fas fa-keyboard" aria-hidden="true" />
                </button>
            </div>
        </div>
    }
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
