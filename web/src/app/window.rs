//! What is heard on the whole window: files dropped anywhere, and keys.

use gloo::events::{EventListener, EventListenerOptions};
use std::cell::Cell;
use std::rc::Rc;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{DataTransfer, DragEvent, Element, KeyboardEvent};
use yew::prelude::*;

/// Takes files dropped anywhere on the page; tells whether some are being dragged over it.
#[hook]
pub fn use_drop_zone(ondrop: Callback<DataTransfer>) -> bool {
    let dragging = use_state(|| false);
    let state = dragging.clone();
    use_effect_with((), move |()| {
        let window = gloo::utils::window();
        // Every element entered and left is reported; what counts is being inside any.
        let inside = Rc::new(Cell::new(0_i32));
        let on = |name: &'static str, react: Box<dyn Fn(&DragEvent)>| {
            let options = EventListenerOptions::enable_prevent_default();
            EventListener::new_with_options(&window, name, options, move |event| {
                if let Some(event) = event.dyn_ref::<DragEvent>()
                    && event.data_transfer().is_some_and(|t| has_files(&t))
                {
                    react(event);
                    event.prevent_default();
                }
            })
        };
        let change = |by: i32| {
            let (inside, state) = (inside.clone(), state.clone());
            Box::new(move |_: &DragEvent| {
                inside.set((inside.get() + by).max(0));
                state.set(inside.get() > 0);
            })
        };
        let listeners = [
            on("dragenter", change(1)),
            on("dragleave", change(-1)),
            on(
                "dragover",
                Box::new(|event| {
                    if let Some(transfer) = event.data_transfer() {
                        transfer.set_drop_effect("copy");
                    }
                }),
            ),
            on("drop", {
                let (inside, state) = (inside.clone(), state.clone());
                Box::new(move |event| {
                    inside.set(0);
                    state.set(false);
                    // Prevented: somebody else took the files.
                    if let Some(transfer) = event.data_transfer()
                        && !event.default_prevented()
                    {
                        ondrop.emit(transfer);
                    }
                })
            }),
        ];
        move || drop(listeners)
    });
    *dragging
}

fn has_files(transfer: &DataTransfer) -> bool {
    transfer.types().includes(&JsValue::from("Files"), 0)
}

/// Single keys pressed outside of fields, without a modifier.
#[hook]
pub fn use_keys(onkey: Callback<String>) {
    let latest = use_mut_ref(|| onkey.clone());
    *latest.borrow_mut() = onkey;
    use_effect_with((), move |()| {
        let listener = EventListener::new(&gloo::utils::document(), "keydown", move |event| {
            let Some(event) = event.dyn_ref::<KeyboardEvent>() else {
                return;
            };
            if event.ctrl_key() || event.alt_key() || event.meta_key() || event.repeat() {
                return;
            }
            // What is in front of the page has its own keys.
            let document = gloo::utils::document();
            if document
                .query_selector("dialog[open]")
                .is_ok_and(|open| open.is_some())
            {
                return;
            }
            let field = event
                .target()
                .and_then(|target| target.dyn_into::<Element>().ok())
                .is_some_and(|e| matches!(e.tag_name().as_str(), "INPUT" | "SELECT" | "TEXTAREA"));
            let key = event.key();
            if field && key != "Escape" {
                return;
            }
            let callback = latest.borrow().clone();
            callback.emit(key);
        });
        move || drop(listener)
    });
}

/// Has the browser ask before the page is left, while `busy`.
#[hook]
pub fn use_leave_guard(busy: bool) {
    use_effect_with(busy, |&busy| {
        let listener = busy.then(|| {
            let options = EventListenerOptions::enable_prevent_default();
            let window = gloo::utils::window();
            EventListener::new_with_options(&window, "beforeunload", options, |event| {
                event.prevent_default();
            })
        });
        move || drop(listener)
    });
}
