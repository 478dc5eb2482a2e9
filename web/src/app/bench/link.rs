//! The page's end of the line to the worker.

use crate::js;
use crate::protocol::{self, Event, Request};
use js_sys::Array;
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
        let (worker, heard) = match worker() {
            Ok(started) => started,
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

        let hear = {
            let inner = Rc::downgrade(&link.0);
            let listener = listener.clone();
            move |data: JsValue| match protocol::decode::<Event>(data) {
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
        };
        heard.iter().for_each(&hear);
        let heard = gloo::events::EventListener::new(&worker, "message", move |event| {
            if let Some(event) = event.dyn_ref::<MessageEvent>() {
                hear(event.data());
            }
        });
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

/// A worker, and what it said already: the one that `boot.js` started while the page was loading,
/// or a new one.
fn worker() -> Result<(Worker, Array), JsValue> {
    let window = gloo::utils::window();
    if let Ok(early) = js::start(&window, "backchainWorker", &Array::new())
        && let Ok(worker) = js::get(&early, "worker").dyn_into::<Worker>()
    {
        return Ok((worker, Array::from(&js::get(&early, "heard"))));
    }
    let options = WorkerOptions::new();
    options.set_type(WorkerType::Module);
    let worker = Worker::new_with_options("./worker_loader.js", &options)?;
    Ok((worker, Array::new()))
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
