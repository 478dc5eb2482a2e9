//! What the user set for this browser. Kept in local storage; nothing else is.

use super::route::Page;
use crate::units::{self, Units};
use yew::prelude::*;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Theme {
    /// As the system has it.
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    pub const ALL: [Self; 3] = [Self::System, Self::Light, Self::Dark];

    /// The name it is stored by; `boot.js` reads it, too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// What is shown when the address says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    #[default]
    Files,
    Learn,
}

impl Start {
    pub const ALL: [Self; 2] = [Self::Files, Self::Learn];

    /// The name it is stored by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Learn => "learn",
        }
    }

    #[must_use]
    pub fn page(self) -> Page {
        match self {
            Self::Files => Page::Files,
            Self::Learn => Page::Learn,
        }
    }
}

/// How much moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Motion {
    /// As the system has it.
    #[default]
    System,
    Reduced,
}

impl Motion {
    pub const ALL: [Self; 2] = [Self::System, Self::Reduced];

    /// The name it is stored by; `boot.js` reads it, too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Reduced => "reduced",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub theme: Theme,
    pub units: Units,
    pub start: Start,
    pub motion: Motion,
    /// Files that were opened are listed, to be opened again.
    pub remember: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            theme: Theme::default(),
            units: Units::default(),
            start: Start::default(),
            motion: Motion::default(),
            remember: true,
        }
    }
}

const THEME: &str = "theme";
const UNITS: &str = "units";
const START: &str = "start";
const MOTION: &str = "motion";
const REMEMBER: &str = "remember";
/// What `remember` is stored as when it is off.
const NO: &str = "no";
/// PatternFly's class for dark colours, on the root element.
const DARK: &str = "pf-v6-theme-dark";

impl Settings {
    #[must_use]
    pub fn load() -> Self {
        Self {
            theme: stored(THEME, Theme::ALL, Theme::name),
            units: stored(UNITS, Units::ALL, Units::name),
            start: stored(START, Start::ALL, Start::name),
            motion: stored(MOTION, Motion::ALL, Motion::name),
            remember: read(REMEMBER).as_deref() != Some(NO),
        }
    }

    fn store(&self) {
        let remember = if self.remember { "yes" } else { NO };
        for (name, value) in [
            (THEME, self.theme.name()),
            (UNITS, self.units.name()),
            (START, self.start.name()),
            (MOTION, self.motion.name()),
            (REMEMBER, remember),
        ] {
            // Storage may be forbidden; the settings then last as long as the page.
            if let Ok(Some(storage)) = gloo::utils::window().local_storage() {
                let _ = storage.set_item(name, value);
            }
        }
    }

    /// Whether nothing should move by itself.
    #[must_use]
    pub fn still(&self) -> bool {
        self.motion == Motion::Reduced || media("(prefers-reduced-motion: reduce)")
    }

    /// Whether dark colours are shown.
    #[must_use]
    pub fn dark(&self) -> bool {
        match self.theme {
            Theme::System => media("(prefers-color-scheme: dark)"),
            Theme::Light => false,
            Theme::Dark => true,
        }
    }

    fn apply(&self) {
        if let Some(root) = gloo::utils::document().document_element() {
            let _ = root.class_list().toggle_with_force(DARK, self.dark());
            let _ = root.set_attribute("data-motion", self.motion.name());
        }
        units::set(self.units);
    }
}

fn read(name: &str) -> Option<String> {
    // Where storage is forbidden, nothing was ever stored.
    let storage = gloo::utils::window().local_storage().ok().flatten()?;
    storage.get_item(name).ok().flatten()
}

/// The stored choice among `all`, or the default.
fn stored<T: Copy + Default, const N: usize>(
    name: &str,
    all: [T; N],
    name_of: fn(T) -> &'static str,
) -> T {
    let stored = read(name);
    let chosen = |choice: &T| stored.as_deref() == Some(name_of(*choice));
    all.into_iter().find(chosen).unwrap_or_default()
}

fn media(query: &str) -> bool {
    let found = gloo::utils::window().match_media(query);
    found.ok().flatten().is_some_and(|query| query.matches())
}

/// The settings, and how to change them.
#[derive(Clone, PartialEq)]
pub struct SettingsContext {
    pub now: Settings,
    pub change: Callback<Settings>,
}

/// Loads the settings; given to all pages as a context by the shell.
#[hook]
pub fn use_settings() -> SettingsContext {
    let now = use_state(|| {
        let settings = Settings::load();
        settings.apply();
        settings
    });
    let change = {
        let now = now.clone();
        Callback::from(move |settings: Settings| {
            settings.store();
            settings.apply();
            now.set(settings);
        })
    };
    SettingsContext {
        now: (*now).clone(),
        change,
    }
}
