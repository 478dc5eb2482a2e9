//! Addresses within the app: the page and its state, in the part of the location behind `#`.
//!
//! An address never carries data of a file. Unknown addresses lead to the files.

use gloo::events::EventListener;
use std::collections::BTreeMap;
use yew::prelude::*;

/// Where the app is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub page: Page,
    /// What the page shows, as names and values: `layer=snap1.qcow2`, `look=map`.
    pub query: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// The user's files.
    Files,
    /// The course's table of contents.
    Learn,
    /// One lesson, by its name.
    Lesson(String),
    /// A lesson as slides; steps count from 1.
    Talk(String, usize),
    Settings,
    About,
}

impl Page {
    /// The page's title, as the window shows it.
    #[must_use]
    pub fn title(&self) -> &'static str {
        match self {
            Self::Files => "Files",
            Self::Learn => "Learn",
            Self::Lesson(_) => "Lesson",
            Self::Talk(..) => "Talk",
            Self::Settings => "Settings",
            Self::About => "About",
        }
    }
}

impl From<Page> for Route {
    fn from(page: Page) -> Self {
        Self {
            page,
            query: BTreeMap::new(),
        }
    }
}

impl Route {
    /// The address as it stands in the window now; `None` when it says nothing.
    #[must_use]
    pub fn current() -> Option<Self> {
        let hash = gloo::utils::window().location().hash().ok()?;
        let hash = hash.strip_prefix('#').unwrap_or(&hash);
        (!hash.is_empty()).then(|| Self::parse(hash))
    }

    /// Reads `/learn/blockcommit-fig-3?step=2`.
    #[must_use]
    pub fn parse(hash: &str) -> Self {
        let (path, query) = hash.split_once('?').unwrap_or((hash, ""));
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let page = match (parts.next(), parts.next(), parts.next()) {
            (Some("learn"), None, _) => Page::Learn,
            (Some("learn"), Some(lesson), _) => Page::Lesson(decode(lesson)),
            (Some("talk"), Some(lesson), step) => Page::Talk(
                decode(lesson),
                step.and_then(|step| step.parse().ok()).unwrap_or(1),
            ),
            (Some("talk"), None, _) => Page::Learn,
            (Some("settings"), ..) => Page::Settings,
            (Some("about"), ..) => Page::About,
            _ => Page::Files,
        };
        let query = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decode(name), decode(value)))
            .collect();
        Self { page, query }
    }

    /// The address with its `#`, for links.
    #[must_use]
    pub fn href(&self) -> String {
        let path = match &self.page {
            Page::Files => String::new(),
            Page::Learn => "learn".to_owned(),
            Page::Lesson(lesson) => format!("learn/{}", encode(lesson)),
            Page::Talk(lesson, step) => format!("talk/{}/{step}", encode(lesson)),
            Page::Settings => "settings".to_owned(),
            Page::About => "about".to_owned(),
        };
        let query: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("#/{path}{mark}{}", query.join("&"))
    }

    /// Goes there; the browser's "back" leads here again.
    pub fn go(&self) {
        let _ = gloo::utils::window().location().set_hash(&self.href());
    }

    /// Notes it as where the app is, without a step in the browser's history.
    pub fn replace(&self) {
        let window = gloo::utils::window();
        let Ok(history) = window.history() else {
            return;
        };
        let nothing = wasm_bindgen::JsValue::NULL;
        let _ = history.replace_state_with_url(&nothing, "", Some(&self.href()));
    }
}

fn encode(text: &str) -> String {
    js_sys::encode_uri_component(text).into()
}

fn decode(text: &str) -> String {
    js_sys::decode_uri_component(text).map_or_else(|_| text.to_owned(), String::from)
}

/// Where the app is, kept up to date. `start` is where it begins when the address says nothing.
#[hook]
pub fn use_route(start: Page) -> Route {
    let route = use_state(|| Route::current().unwrap_or_else(|| start.into()));
    {
        let route = route.clone();
        use_effect_with((), move |()| {
            let listener = EventListener::new(&gloo::utils::window(), "hashchange", move |_| {
                route.set(Route::current().unwrap_or_else(|| Page::Files.into()));
            });
            move || drop(listener)
        });
    }
    (*route).clone()
}

#[cfg(test)]
mod tests {
    use super::{Page, Route};
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn an_address_reads_as_it_was_written() {
        let mut files = Route::from(Page::Files);
        files.query = [("layer", "a b&c=d.qcow2"), ("look", "map")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let routes = [
            files,
            Page::Learn.into(),
            Page::Lesson("blockcommit-fig-3".to_owned()).into(),
            Page::Talk("x/y".to_owned(), 7).into(),
            Page::Settings.into(),
            Page::About.into(),
        ];
        for route in routes {
            let href = route.href();
            assert_eq!(Route::parse(href.trim_start_matches('#')), route, "{href}");
        }
        assert_eq!(Route::parse("/no/such/page").page, Page::Files);
        assert_eq!(Route::parse("%").page, Page::Files);
    }
}
