//! What the user set for this browser. Kept in local storage; nothing else is.

use super::route::Page;
use gloo::storage::{LocalStorage, Storage};
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

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub theme: Theme,
    pub start: Start,
}

const THEME: &str = "theme";
const START: &str = "start";
/// PatternFly's class for dark colours, on the root element.
const DARK: &str = "pf-v6-theme-dark";

impl Settings {
    #[must_use]
    pub fn load() -> Self {
        let stored = |name| LocalStorage::raw().get_item(name).ok().flatten();
        let (theme, start) = (stored(THEME), stored(START));
        let theme = |t: &Theme| theme.as_deref() == Some(t.name());
        let start = |s: &Start| start.as_deref() == Some(s.name());
        Self {
            theme: Theme::ALL.into_iter().find(theme).unwrap_or_default(),
            start: Start::ALL.into_iter().find(start).unwrap_or_default(),
        }
    }

    fn store(&self) {
        // Storage may be forbidden; the settings then last as long as the page.
        let _ = LocalStorage::raw().set_item(THEME, self.theme.name());
        let _ = LocalStorage::raw().set_item(START, self.start.name());
    }

    /// Whether dark colours are shown.
    #[must_use]
    pub fn dark(&self) -> bool {
        match self.theme {
            Theme::System => gloo::utils::window()
                .match_media("(prefers-color-scheme: dark)")
                .ok()
                .flatten()
                .is_some_and(|query| query.matches()),
            Theme::Light => false,
            Theme::Dark => true,
        }
    }

    fn apply(&self) {
        if let Some(root) = gloo::utils::document().document_element() {
            let _ = root.class_list().toggle_with_force(DARK, self.dark());
        }
    }
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
    let now = use_state(Settings::load);
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
