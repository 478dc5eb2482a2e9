//! A workbench: one engine worker, what the page knows of its files, and the ways to act.
//!
//! The files page has one for as long as the app lives; each lesson of the course has one of
//! its own, so that lessons never touch the user's files.

pub mod link;
pub mod model;

use super::files::{Gifts, download};
use super::recent;
use super::staged::Wish;
use super::staged::state::Busy;
use crate::protocol::staged::Ask;
use crate::protocol::{Event, Field, Granted, LayerId, Outcome, Place, Request, Role, Status};
use crate::units;
use link::Link;
use model::{Action, Model, Stage};
use std::cell::Cell;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::spawn_local;
use yew::prelude::*;

/// Cheap to clone; compares equal while what it shows is the same.
#[derive(Clone, PartialEq)]
pub struct Bench {
    pub model: UseReducerHandle<Model>,
    pub gifts: Rc<Gifts>,
    link: Rc<Option<Link>>,
    /// A wish to stop may come while the browser still asks for permission.
    stopped: Rc<Cell<bool>>,
}

/// Starts a worker when the component appears and ends it with the component.
#[hook]
pub fn use_bench() -> Bench {
    let model = use_reducer(Model::default);
    let gifts = use_memo((), |()| Gifts::default());
    let stopped = use_memo((), |()| Cell::new(false));
    let link = {
        let dispatch = model.dispatcher();
        use_memo((), |()| {
            Link::open(move |event| match event {
                Event::Copy(saved) => {
                    if let Ok(file) = saved.file.dyn_into() {
                        download(&saved.name, &file);
                    }
                }
                Event::Report(answer) => {
                    super::report::keep(&answer);
                    dispatch.dispatch(Action::Heard(Event::Report(answer)));
                }
                Event::Crash(message) => {
                    super::crash_notice(&message);
                    dispatch.dispatch(Action::Heard(Event::Crash(message)));
                }
                event => dispatch.dispatch(Action::Heard(event)),
            })
        })
    };
    let bench = Bench {
        model,
        gifts,
        link,
        stopped,
    };

    // The worker words some numbers itself.
    {
        let bench = bench.clone();
        use_effect_with(units::now(), move |units| {
            bench.send(&Request::Units(*units));
            bench.dispatch(Action::Reword);
        });
    }
    // A form that changed is planned anew; a selected layer is asked for its details.
    {
        let bench = bench.clone();
        let planning = bench
            .model
            .form
            .as_ref()
            .filter(|form| form.stage == Stage::Planning)
            .map(|form| (form.serial, form.operation.clone()));
        use_effect_with(planning, move |planning| {
            if let Some((serial, operation)) = planning.clone() {
                bench.send(&Request::Preview { serial, operation });
            }
        });
    }
    {
        let bench = bench.clone();
        let wanted = bench
            .model
            .selected
            .filter(|_| bench.model.details.is_none() && !bench.model.running());
        let tree = bench.model.tree.clone();
        use_effect_with((wanted, tree), move |(wanted, _)| {
            if let Some(layer) = *wanted {
                bench.send(&Request::Details { layer });
            }
        });
    }
    bench
}

impl Bench {
    pub fn send(&self, request: &Request) {
        if let Some(link) = self.link.as_ref() {
            link.send(request);
        }
    }

    pub fn dispatch(&self, action: Action) {
        self.model.dispatch(action);
    }

    /// Adds files to those that are here, and remembers them for another day.
    pub fn open(&self, granted: Vec<Granted>) {
        if !granted.is_empty() {
            recent::remember(&granted);
            self.dispatch(Action::Opening);
            self.send(&Request::Open { granted });
        }
    }

    /// Replaces everything by the demo chain.
    pub fn demo(&self) {
        self.dispatch(Action::Clear);
        self.dispatch(Action::Opening);
        self.send(&Request::Demo);
    }

    /// Forgets every file.
    pub fn clear(&self) {
        self.dispatch(Action::Clear);
        self.send(&Request::Clear);
    }

    /// Runs the planned operation. Call it inside the click: permissions are asked here.
    pub fn run(&self) {
        let Some(form) = &self.model.form else { return };
        if !matches!(form.stage, Stage::Planned(_)) {
            return;
        }
        let operation = form.operation.clone();
        let asked = self.gifts.ask(&written_gifts(&self.model));
        // Both have to be asked for inside the click.
        let picks = Place::named(operation.get(Field::Place)) == Place::Picked;
        let name = operation.makes().filter(|_| picks).map(str::to_owned);
        let gifts = self.gifts.clone();
        let picked = name.map(|name| gifts.start_target(name.trim()));
        let prove = self.model.proving.wanted;
        self.dispatch(Action::Run);
        self.stopped.set(false);
        let bench = self.clone();
        spawn_local(async move {
            let target = match picked {
                None => None,
                Some(picked) => match gifts.finish_target(picked).await {
                    Ok(Some(target)) => Some(target),
                    Ok(None) => {
                        bench.dispatch(Action::Unrun);
                        return;
                    }
                    Err(problem) => {
                        bench.dispatch(Action::Unrun);
                        bench.dispatch(Action::Problem(Some(problem)));
                        return;
                    }
                },
            };
            let read_only = asked.await;
            if bench.stopped.get() {
                bench.dispatch(Action::Heard(Event::Outcome(Outcome {
                    status: Status::Cancelled,
                    message: "Stopped. All files are as they were.".to_owned(),
                    notes: Vec::new(),
                    saved: Vec::new(),
                })));
                return;
            }
            bench.send(&Request::Run {
                operation,
                read_only,
                target,
                prove,
            });
        });
    }

    /// Stages the planned operation: everything is shown as it would be, nothing is written.
    pub fn stage(&self) {
        if let Some(form) = &self.model.form
            && matches!(form.stage, Stage::Planned(_))
            && !self.model.running()
        {
            let operation = form.operation.clone();
            self.dispatch(Action::Staging(Busy::Trying));
            self.send(&Request::Staged(Ask::Try { operation }));
        }
    }

    /// Does something with the staged changes. Call it inside the click: permissions are asked
    /// here.
    pub fn staged(&self, wish: Wish) {
        let ask = match wish {
            Wish::Cancel => return self.cancel(),
            Wish::Dismiss => return self.dispatch(Action::StagedSeen),
            _ if self.model.running() => return,
            Wish::Apply => return self.apply(),
            Wish::Undo => Ask::Undo,
            Wish::Redo => Ask::Redo,
            Wish::Discard => Ask::Discard,
        };
        self.dispatch(Action::Staging(Busy::Moving));
        self.send(&Request::Staged(ask));
    }

    /// Carries the staged changes out.
    fn apply(&self) {
        let changes = &self.model.staged.stack.done;
        let mut gifts: Vec<u32> = changes.iter().flat_map(|c| c.gifts.clone()).collect();
        gifts.sort_unstable();
        gifts.dedup();
        let asked = self.gifts.ask(&gifts);
        self.dispatch(Action::Staging(Busy::Applying {
            all: changes.len(),
            nth: None,
            progress: None,
            cancelling: false,
        }));
        self.stopped.set(false);
        let bench = self.clone();
        spawn_local(async move {
            let read_only = asked.await;
            if bench.stopped.get() {
                bench.dispatch(Action::Unstaging);
            } else {
                bench.send(&Request::Staged(Ask::Apply { read_only }));
            }
        });
    }

    /// Stops a run, or closes the form.
    pub fn cancel(&self) {
        if self.model.running() {
            self.stopped.set(true);
            self.dispatch(Action::Cancel);
            self.send(&Request::Cancel);
        } else {
            self.dispatch(Action::CloseForm);
        }
    }

    /// The layer to look at: the selected one, or the end of a chain.
    #[must_use]
    pub fn focus(&self) -> Option<LayerId> {
        let layers = &self.model.tree.layers;
        let active = || layers.iter().find(|layer| layer.role == Role::Active);
        self.model
            .selected
            .or_else(|| active().or(layers.first()).map(|layer| layer.id))
    }
}

/// The gifts whose files the planned operation writes in place.
fn written_gifts(model: &Model) -> Vec<u32> {
    let Some(Stage::Planned(preview)) = model.form.as_ref().map(|form| &form.stage) else {
        return Vec::new();
    };
    let Ok(preview) = preview.as_ref() else {
        return Vec::new();
    };
    let mut gifts: Vec<u32> = preview
        .writes
        .iter()
        .filter(|write| write.in_place)
        .filter_map(|write| write.gift)
        .collect();
    gifts.sort_unstable();
    gifts.dedup();
    gifts
}
