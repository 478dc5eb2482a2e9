//! What the user can set.

use crate::app::settings::{Settings, SettingsContext, Start, Theme};
use yew::prelude::*;

#[function_component(SettingsPage)]
pub fn settings_page() -> Html {
    let Some(SettingsContext { now, change }) = use_context() else {
        return Html::default();
    };
    let theme = |theme: Theme, label: &'static str| {
        let settings = Settings {
            theme,
            ..now.clone()
        };
        radio("theme", theme.name(), label, &now, settings, &change)
    };
    let start = |start: Start, label: &'static str| {
        let settings = Settings {
            start,
            ..now.clone()
        };
        radio("start", start.name(), label, &now, settings, &change)
    };
    html! {
        <section class="panel">
            <h1 class="page-head__title" tabindex="-1">{ "Settings" }</h1>
            <fieldset class="fields">
                <legend>{ "Theme" }</legend>
                { theme(Theme::System, "As the system") }
                { theme(Theme::Light, "Light") }
                { theme(Theme::Dark, "Dark") }
            </fieldset>
            <fieldset class="fields">
                <legend>{ "Start page" }</legend>
                { start(Start::Files, "Files") }
                { start(Start::Learn, "The course") }
            </fieldset>
        </section>
    }
}

/// One choice of a setting: chosen when it changes nothing.
fn radio(
    name: &'static str,
    value: &'static str,
    label: &'static str,
    now: &Settings,
    settings: Settings,
    change: &Callback<Settings>,
) -> Html {
    let checked = *now == settings;
    let onchange = change.reform(move |_: Event| settings.clone());
    html! {
        <label class="check">
            <input type="radio" {name} {value} {checked} {onchange} data-testid={format!("{name}-{value}")} />
            <span>{ label }</span>
        </label>
    }
}
