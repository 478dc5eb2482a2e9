//! The page's end of the line to the worker.

use crate::js;
use crate::protocol::{self, Event, Request};
use std::cell::RefCell;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;
use web_sys::{ErrorEvent, MessageEvent, Worker, WorkerOptions, WorkerType};

/// Sends requests; what the worker answers goes to the listener given to [`Link::open`].
#[derive(Clone)]
pub struct Link(Rc<Inner>);

struct Inner {
    worker: Worker,
    /// Messages sent before the worker listens would be lost: they wait here.
    waiting: RefCell<Option<Vec<JsValue>>>,
    listeners: RefCell<Vec<gloo::events::EventListener>>,
}

impl PartialEq for Link {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Link {
    /// Starts the worker. `None` where the browser refuses; `listener` has then heard why.
    pub fn open(listener: impl Fn(Event) + 'static) -> Option<Self> {
        let listener = Rc::new(listener);
        let options = WorkerOptions::new();
        options.set_type(WorkerType::Module);
        let worker = match Worker::new_with_options("./worker_loader.js", &options) {
            Ok(worker) => worker,
            Err(error) => {
                listener(Event::Crash(format!(
                    "the engine's worker cannot be started: {}",
                    js::message(&error)
                )));
                return None;
            }
        };
        let link = Self(Rc::new(Inner {
            worker: worker.clone(),
            waiting: RefCell::new(Some(Vec::new())),
            listeners: RefCell::default(),
        }));

        let heard = {
            let inner = Rc::downgrade(&link.0);
            let listener = listener.clone();
            gloo::events::EventListener::new(&worker, "message", move |event| {
                let Some(event) = event.dyn_ref::<MessageEvent>() else {
                    return;
                };
                match protocol::decode::<Event>(event.data()) {
                    Ok(Event::Ready) => {
                        if let Some(inner) = inner.upgrade() {
                            inner.release();
                        }
                    }
                    Ok(event) => listener(event),
                    Err(error) => listener(Event::Problem(format!(
                        "the engine sent something the page does not understand: {error}"
                    ))),
                }
            })
        };
        let failed = gloo::events::EventListener::new(&worker, "error", move |event| {
            let text = event
                .dyn_ref::<ErrorEvent>()
                .map(ErrorEvent::message)
                .unwrap_or_default();
            let text = if text.is_empty() {
                "it could not be loaded".to_owned()
            } else {
                text
            };
            listener(Event::Crash(format!("the engine's worker stopped: {text}")));
        });
        link.0.listeners.borrow_mut().extend([heard, failed]);
        Some(link)
    }

    pub fn send(&self, request: &Request) {
        match protocol::encode(request) {
            Ok(message) => self.0.post(message),
            Err(error) => gloo::utils::window()
                .alert_with_message(&format!("The request cannot be sent: {error}"))
                .unwrap_or_default(),
        }
    }
}

impl Drop for Inner {
    /// A worker nobody speaks to has nothing left to do.
    fn drop(&mut self) {
        self.worker.terminate();
    }
}

impl Inner {
    fn post(&self, message: JsValue) {
        if let Some(waiting) = self.waiting.borrow_mut().as_mut() {
            waiting.push(message);
        } else if let Err(error) = self.worker.post_message(&message) {
            web_sys::console::error_2(&"cannot reach the worker".into(), &error);
        }
    }

    fn release(&self) {
        let waiting = self.waiting.borrow_mut().take();
        for message in waiting.into_iter().flatten() {
            self.post(message);
        }
    }
}
