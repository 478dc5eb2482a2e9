//! The bar at the top.

use gloo::storage::{LocalStorage, Storage};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct HeaderProperties {
    /// There are layers on the page.
    pub loaded: bool,
    pub onfiles: Callback<()>,
    pub ondemo: Callback<()>,
    pub onclear: Callback<()>,
}

#[function_component(Header)]
pub fn header(props: &HeaderProperties) -> Html {
    let click = |callback: &Callback<()>| callback.reform(|_: MouseEvent| ());
    html! {
        <header class={classes!("masthead", props.loaded.then_some("masthead--loaded"))}>
            <a class="masthead__brand" href="./">
                <img src="icons/icon.svg" alt="" width="28" height="28" />
                <span>{ "backchain" }</span>
            </a>
            <div class="masthead__tools">
                if props.loaded {
                    <button type="button" class="pf-v6-c-button pf-m-secondary pf-m-small" data-testid="open-files" onclick={click(&props.onfiles)}>
                        { "Add files" }
                    </button>
                    <button type="button" class="pf-v6-c-button pf-m-link pf-m-small" data-testid="demo" onclick={click(&props.ondemo)}>
                        { "Demo" }
                    </button>
                    <button type="button" class="pf-v6-c-button pf-m-link pf-m-small" data-testid="clear" onclick={click(&props.onclear)}>
                        { "Close all" }
                    </button>
                }
                <ThemeToggle />
            </div>
        </header>
    }
}

const DARK: &str = "pf-v6-theme-dark";

/// Light or dark: the system's choice until the user makes one.
#[function_component(ThemeToggle)]
fn theme_toggle() -> Html {
    let root = || gloo::utils::document().document_element();
    let dark = use_state(|| root().is_some_and(|root| root.class_list().contains(DARK)));
    let onclick = {
        let dark = dark.clone();
        Callback::from(move |_: MouseEvent| {
            // The class is the truth: the system's choice may have changed it meanwhile.
            let Some(root) = root() else { return };
            let now = !root.class_list().contains(DARK);
            let _ = root.class_list().toggle_with_force(DARK, now);
            let _ = LocalStorage::raw().set_item("theme", if now { "dark" } else { "light" });
            dark.set(now);
        })
    };
    html! {
        <button
            type="button"
            class="icon-button"
            data-testid="theme"
            aria-label={if *dark { "Use the light theme" } else { "Use the dark theme" }}
            {onclick}
        >
            <i class={classes!("fas", if *dark { "fa-sun" } else { "fa-moon" })} aria-hidden="true" />
        </button>
    }
}
