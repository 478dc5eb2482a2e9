//! Keeps a killed worker's files.
//!
//! A worker's folder is removed once nobody holds the lock of its name. The page queues up for
//! that lock before it kills the worker, and so has it in the moment the worker loses it.

use crate::js;
use js_sys::{Array, Function, Promise};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// Holds the lock until it is dropped.
#[derive(Default)]
pub struct Keeper {
    release: Rc<RefCell<Option<Function>>>,
    over: Rc<Cell<bool>>,
}

impl Keeper {
    /// Queues up for the lock of `folder`, and returns once it stands in the queue.
    pub async fn wait_for(folder: &str) -> Self {
        let keeper = Self::default();
        let navigator = js::get(&js_sys::global(), "navigator");
        let locks = js::get(&navigator, "locks");
        let (release, over) = (keeper.release.clone(), keeper.over.clone());
        let held = Closure::once_into_js(move |_lock: JsValue| -> JsValue {
            if over.get() {
                return JsValue::UNDEFINED;
            }
            Promise::new(&mut |resolve, _| {
                release.replace(Some(resolve));
            })
            .into()
        });
        let _ = js::start(&locks, "request", &Array::of2(&folder.into(), &held));
        // Requests are taken in order: once this is answered, ours is in the queue.
        let _ = js::call(&locks, "query", &Array::new()).await;
        keeper
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.over.set(true);
        if let Some(release) = self.release.take() {
            let _ = release.call0(&JsValue::UNDEFINED);
        }
    }
}
