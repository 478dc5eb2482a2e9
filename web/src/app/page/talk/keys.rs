//! The keys of a talk: those of keyboards, and those that clickers send.

use gloo::events::{EventListener, EventListenerOptions};
use wasm_bindgen::JsCast;
use web_sys::KeyboardEvent;
use yew::prelude::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    On,
    Back,
    First,
    Last,
    Leave,
    FullScreen,
}

fn meaning(key: &str) -> Option<Move> {
    Some(match key {
        "ArrowRight" | "ArrowDown" | "PageDown" | " " | "Enter" | "n" => Move::On,
        "ArrowLeft" | "ArrowUp" | "PageUp" | "Backspace" | "p" => Move::Back,
        "Home" => Move::First,
        "End" => Move::Last,
        "Escape" => Move::Leave,
        "f" => Move::FullScreen,
        _ => return None,
    })
}

/// Hears the keys of the whole window.
#[hook]
pub fn use_slide_keys(onmove: Callback<Move>) {
    let latest = use_mut_ref(|| onmove.clone());
    *latest.borrow_mut() = onmove;
    use_effect_with((), move |()| {
        let options = EventListenerOptions::enable_prevent_default();
        let document = gloo::utils::document();
        let listener =
            EventListener::new_with_options(&document, "keydown", options, move |event| {
                let Some(event) = event.dyn_ref::<KeyboardEvent>() else {
                    return;
                };
                if event.ctrl_key() || event.alt_key() || event.meta_key() || event.repeat() {
                    return;
                }
                let key = event.key();
                // A button that has the focus is pressed by these.
                let pressed = matches!(key.as_str(), " " | "Enter")
                    && gloo::utils::document()
                        .active_element()
                        .is_some_and(|e| matches!(e.tag_name().as_str(), "BUTTON" | "A"));
                if let Some(step) = meaning(&key).filter(|_| !pressed) {
                    event.prevent_default();
                    let callback = latest.borrow().clone();
                    callback.emit(step);
                }
            });
        move || drop(listener)
    });
}
