//! What the user can set.

use crate::app::ability::use_abilities;
use crate::app::recent;
use crate::app::settings::{Motion, Settings, SettingsContext, Start, Theme};
use crate::units::Units;
use wasm_bindgen::JsCast;
use web_sys::HtmlInputElement;
use yew::prelude::*;

#[function_component(SettingsPage)]
pub fn settings_page() -> Html {
    let abilities = use_abilities();
    let Some(SettingsContext { now, change }) = use_context() else {
        return Html::default();
    };
    let theme = |theme, label| {
        let to = Settings {
            theme,
            ..now.clone()
        };
        radio("theme", theme.name(), label, "", &now, to, &change)
    };
    let units = |units: Units, label| {
        let example = format!("A disk of 20 GiB: {}", units.bytes(20 << 30));
        let to = Settings {
            units,
            ..now.clone()
        };
        radio("units", units.name(), label, &example, &now, to, &change)
    };
    let start = |start, label| {
        let to = Settings {
            start,
            ..now.clone()
        };
        radio("start", start.name(), label, "", &now, to, &change)
    };
    let motion = |motion, label| {
        let to = Settings {
            motion,
            ..now.clone()
        };
        radio("motion", motion.name(), label, "", &now, to, &change)
    };
    let remember = {
        let (now, change) = (now.clone(), change.clone());
        Callback::from(move |event: Event| {
            let input = event
                .target()
                .and_then(|t| t.dyn_into::<HtmlInputElement>().ok());
            let remember = input.is_some_and(|input| input.checked());
            if !remember {
                recent::forget_all();
            }
            change.emit(Settings {
                remember,
                ..now.clone()
            });
        })
    };
    html! {
        <section class="panel settings">
            <h1 class="page-head__title" tabindex="-1">{ "Settings" }</h1>
            <p class="quiet">{ "Kept in this browser only." }</p>
            <fieldset class="settings__group">
                <legend>{ "Theme" }</legend>
                { theme(Theme::System, "As the system") }
                { theme(Theme::Light, "Light") }
                { theme(Theme::Dark, "Dark") }
            </fieldset>
            <fieldset class="settings__group">
                <legend>{ "Sizes" }</legend>
                { units(Units::Binary, "Binary units, as qemu-img has them") }
                { units(Units::Decimal, "Decimal units, as disks are sold") }
                { units(Units::Exact, "Exact bytes") }
            </fieldset>
            <fieldset class="settings__group">
                <legend>{ "Start page" }</legend>
                { start(Start::Files, "Files") }
                { start(Start::Learn, "The course") }
            </fieldset>
            <fieldset class="settings__group">
                <legend>{ "Motion" }</legend>
                { motion(Motion::System, "As the system") }
                { motion(Motion::Reduced, "Nothing moves by itself") }
            </fieldset>
            <fieldset class="settings__group">
                <legend>{ "Files opened before" }</legend>
                <label class="check">
                    <input
                        type="checkbox"
                        data-testid="remember"
                        checked={now.remember && abilities.recent}
                        disabled={!abilities.recent}
                        onchange={remember}
                    />
                    <span>
                        { "List files that were opened, to open them again with one click" }
                        <small>
                            if abilities.recent {
                                { "Kept is where they are, never what is in them; the browser asks before they are read again. Switching it off forgets the list." }
                            } else {
                                { "This browser gives the page no lasting way to a file, so there is nothing it could remember." }
                            }
                        </small>
                    </span>
                </label>
            </fieldset>
        </section>
    }
}

/// One choice of a setting: chosen when it changes nothing.
fn radio(
    name: &'static str,
    value: &'static str,
    label: &'static str,
    help: &str,
    now: &Settings,
    to: Settings,
    change: &Callback<Settings>,
) -> Html {
    let checked = *now == to;
    let onchange = change.reform(move |_: Event| to.clone());
    html! {
        <label class="check">
            <input type="radio" {name} {value} {checked} {onchange} data-testid={format!("{name}-{value}")} />
            <span>
                { label }
                if !help.is_empty() { <small>{ help }</small> }
            </span>
        </label>
    }
}
