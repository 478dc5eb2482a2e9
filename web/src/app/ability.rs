//! What this browser can do with files: found out by asking for the functions, never by its name.

use crate::js;
use js_sys::Array;
use wasm_bindgen::JsValue;
use yew::prelude::*;

/// What there is and what not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Files come with handles that can be written to, once that is permitted.
    pub write_in_place: bool,
    /// There is a picker that gives such handles.
    pub pickers: bool,
    /// A folder can be chosen at all.
    pub folders: bool,
    /// There is storage of the page's own, for the demo, the course and new files.
    pub private_storage: bool,
    /// Handles can be kept for another day.
    pub recent: bool,
}

impl Abilities {
    /// Asks the browser. Cheap.
    #[must_use]
    pub fn of_browser() -> Self {
        let window: JsValue = gloo::utils::window().into();
        let method = |class: &str, name: &str| {
            let prototype = js::get(&js::get(&window, class), "prototype");
            prototype.is_object() && js::get(&prototype, name).is_function()
        };
        let storage = js::get(&js::get(&window, "navigator"), "storage");
        let input = js::get(&js::get(&window, "HTMLInputElement"), "prototype");
        // A handle of a local file knows permissions; where there are none, handles are only of
        // the browser's own files.
        let write_in_place = method("FileSystemHandle", "requestPermission");
        Self {
            write_in_place,
            pickers: write_in_place && js::get(&window, "showOpenFilePicker").is_function(),
            folders: js::get(&window, "showDirectoryPicker").is_function()
                || js_sys::Reflect::has(&input, &"webkitdirectory".into()).unwrap_or(false),
            private_storage: storage.is_object()
                && js::get(&storage, "getDirectory").is_function()
                && method("FileSystemFileHandle", "createWritable"),
            recent: write_in_place && js::get(&window, "indexedDB").is_object(),
        }
    }

    /// What a person should know before starting, best first. Empty where all is there.
    #[must_use]
    pub fn limits(self) -> Vec<&'static str> {
        let mut limits = Vec::new();
        if !self.private_storage {
            limits.push(
                "It gives this page no storage of its own (some do so in private windows only): looking works, changing and the course do not.",
            );
        } else if !self.write_in_place {
            limits.push(
                "It cannot write to your files in place: what an operation changes is offered to be saved as new files, and the originals stay as they are.",
            );
        }
        if !self.recent {
            limits.push("It cannot remember files: they are given to the page anew each time.");
        }
        if !self.folders {
            limits.push("It cannot choose a folder: choose the files in it, or drop it.");
        }
        limits
    }
}

/// The browser's abilities. Storage can be refused although the functions are there, as in some
/// browsers' private windows: that is found out a moment later.
#[hook]
pub fn use_abilities() -> Abilities {
    let abilities = use_state_eq(Abilities::of_browser);
    {
        let abilities = abilities.clone();
        use_effect_with((), move |()| {
            let known = *abilities;
            if known.private_storage {
                wasm_bindgen_futures::spawn_local(async move {
                    let navigator = js::get(&gloo::utils::window().into(), "navigator");
                    let storage = js::get(&navigator, "storage");
                    if js::call(&storage, "getDirectory", &Array::new())
                        .await
                        .is_err()
                    {
                        abilities.set(Abilities {
                            private_storage: false,
                            ..known
                        });
                    }
                });
            }
        });
    }
    *abilities
}

/// What a person should know about this browser before starting; nothing where all is there.
#[function_component(Limits)]
pub fn limits() -> Html {
    let limits = use_abilities().limits();
    if limits.is_empty() {
        return Html::default();
    }
    html! {
        <div class="limits" data-testid="limits">
            <strong>{ "In this browser" }</strong>
            <ul>{ for limits.iter().map(|limit| html! { <li>{ *limit }</li> }) }</ul>
        </div>
    }
}
