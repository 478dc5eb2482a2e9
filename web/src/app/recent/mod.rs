//! Files opened before, to be opened again with one click. Only handles are kept, never data,
//! and the browser asks for permission each time.

mod store;

use super::ability::use_abilities;
use super::bench::Bench;
use super::bench::model::Action;
use super::settings::Settings;
use crate::js::{self, Handle};
use crate::protocol::{Access, Granted};
use js_sys::{Array, Date};
use patternfly_yew::prelude::{Level, Size, Title};
use std::rc::Rc;
use store::Entry;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::spawn_local;
use yew::prelude::*;

/// Keeps what was opened in one go, if the user wants that and the browser can.
pub fn remember(granted: &[Granted]) {
    let handles: Vec<Handle> = granted
        .iter()
        .filter_map(|granted| match &granted.access {
            Access::Handle(handle) | Access::Folder(handle) => {
                Some(handle.clone().unchecked_into())
            }
            Access::File(_) => None,
        })
        .collect();
    if !handles.is_empty() && Settings::load().remember {
        spawn_local(store::keep(handles));
    }
}

/// Forgets everything.
pub fn forget_all() {
    spawn_local(store::forget_all());
}

#[derive(Clone, PartialEq, Properties)]
pub struct RecentFilesProperties {
    pub bench: Bench,
}

/// The list on the welcome page; nothing where there is nothing to list.
#[function_component(RecentFiles)]
pub fn recent_files(props: &RecentFilesProperties) -> Html {
    let abilities = use_abilities();
    let entries = use_state(|| Rc::new(Vec::<Entry>::new()));
    let reload = {
        let entries = entries.clone();
        Callback::from(move |()| {
            let entries = entries.clone();
            spawn_local(async move { entries.set(Rc::new(store::list().await)) });
        })
    };
    {
        let reload = reload.clone();
        use_effect_with(abilities.recent, move |&able| {
            if able && Settings::load().remember {
                reload.emit(());
            }
        });
    }
    if entries.is_empty() {
        return Html::default();
    }
    let clear = {
        let reload = reload.clone();
        Callback::from(move |_: MouseEvent| {
            let reload = reload.clone();
            spawn_local(async move {
                store::forget_all().await;
                reload.emit(());
            });
        })
    };
    html! {
        <section class="panel recent" data-testid="recent" aria-label="Opened before">
            <header class="recent__head">
                <Title level={Level::H2} size={Size::Large}>{ "Opened before" }</Title>
                <button type="button" class="pf-v6-c-button pf-m-link pf-m-small" data-testid="recent-clear" onclick={clear}>
                    { "Forget all" }
                </button>
            </header>
            <ul class="recent__list">
                { for entries.iter().map(|entry| row(entry, &props.bench, &reload)) }
            </ul>
        </section>
    }
}

fn row(entry: &Entry, bench: &Bench, reload: &Callback<()>) -> Html {
    let name = entry.name();
    let more = entry.handles.len().saturating_sub(1);
    let (icon, kind) = match (entry.is_folder(), more) {
        (true, 0) => ("fa-folder", "folder".to_owned()),
        (false, 0) => ("fa-file", "file".to_owned()),
        (_, more) => ("fa-copy", format!("and {more} more")),
    };
    let open = {
        let (bench, handles) = (bench.clone(), entry.handles.clone());
        Callback::from(move |_: MouseEvent| reopen(&bench, &handles))
    };
    let forget = {
        let (reload, id) = (reload.clone(), entry.id);
        Callback::from(move |_: MouseEvent| {
            let reload = reload.clone();
            spawn_local(async move {
                store::forget(id).await;
                reload.emit(());
            });
        })
    };
    let date = Date::new(&entry.opened.into());
    let style = js::options([
        ("dateStyle", "medium".into()),
        ("timeStyle", "short".into()),
    ]);
    let shown: String = date.to_locale_string("default", &style).into();
    let exact: String = date.to_iso_string().into();
    html! {
        <li key={entry.id.to_string()} class="recent__row" data-testid="recent-row" data-name={name.clone()}>
            <button type="button" class="recent__open" data-testid="recent-open" onclick={open}>
                <i class={classes!("fas", icon)} aria-hidden="true" />
                <span class="recent__name">{ &name }</span>
                <span class="quiet">{ kind }</span>
                <time class="quiet" datetime={exact}>{ shown }</time>
            </button>
            <button
                type="button"
                class="icon-button"
                data-testid="recent-forget"
                aria-label={format!("Forget {name}")}
                title="Forget"
                onclick={forget}
            >
                <i class="fas fa-times" aria-hidden="true" />
            </button>
        </li>
    }
}

/// Asks for permission and opens. Runs inside the click.
fn reopen(bench: &Bench, handles: &[Handle]) {
    let asked: Vec<_> = handles.iter().map(js::ask_to_read).collect();
    let handles: Array = handles.iter().collect();
    let bench = bench.clone();
    spawn_local(async move {
        for asked in asked {
            let permitted = match asked {
                Some(asked) => js::permitted(asked).await,
                None => false,
            };
            if !permitted {
                let why = "The browser was not permitted to read it. Click it again and allow it, or choose the files anew.";
                bench.dispatch(Action::Problem(Some(why.to_owned())));
                return;
            }
        }
        bench.open(bench.gifts.handles(&handles));
    });
}
