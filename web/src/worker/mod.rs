//! The worker: holds the granted files, runs the engine, and writes.

pub mod course;
pub mod details;
pub mod execute;
pub mod files;
pub mod locate;
pub mod look;
pub mod operation;
pub mod private;
pub mod proof;
pub mod recipe;
pub mod report;
pub mod session;
pub mod source;
pub mod staged;
pub mod stats;
pub mod strategy;
pub mod strips;
pub mod write;

use crate::js;
use crate::protocol::proof::Proof;
use crate::protocol::staged::Answer;
use crate::protocol::{
    self, Event, Granted, Kind, Operation, Outcome, Progress, Request, Saved, Status,
};
use backchain::NodeId;
use backchain::plan::PlanInfo;
use execute::{Destination, Run, Stopped, Written};
use files::{Entry, Origin};
use proof::Before;
use session::{Fates, Marks, Session, sentence};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;
use web_sys::{DedicatedWorkerGlobalScope, FileSystemFileHandle, MessageEvent};

/// Starts listening to the page.
pub fn start() {
    crate::panic::install(|message| send(&Event::Crash(message.to_owned())));
    let inbox = Rc::new(Inbox::default());
    let heard = {
        let inbox = inbox.clone();
        Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            match protocol::decode(event.data()) {
                Ok(request) => inbox.take(request),
                Err(error) => send(&Event::Problem(format!(
                    "the page sent something the engine does not understand: {error}"
                ))),
            }
        })
    };
    // Results of an earlier visit were saved then, or are not wanted.
    spawn_local(private::forget_abandoned());
    scope().set_onmessage(Some(heard.as_ref().unchecked_ref()));
    // The worker listens for as long as it lives.
    heard.forget();
    send(&Event::Ready);
}

/// Requests in the order they came. They are served one at a time, except for a wish to stop.
#[derive(Default)]
struct Inbox {
    waiting: RefCell<VecDeque<Request>>,
    serving: Cell<bool>,
    stop: Cell<bool>,
    session: RefCell<Session>,
}

impl Inbox {
    fn take(self: &Rc<Self>, request: Request) {
        if matches!(request, Request::Cancel) {
            self.stop.set(true);
            return;
        }
        if matches!(
            request,
            Request::Run { .. } | Request::Staged(_) | Request::Report(_)
        ) {
            self.stop.set(false);
        }
        self.waiting.borrow_mut().push_back(request);
        if !self.serving.replace(true) {
            let inbox = self.clone();
            spawn_local(async move { inbox.serve().await });
        }
    }

    async fn serve(&self) {
        // Nobody else borrows the session: requests are served one at a time.
        let mut session = self.session.take();
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            if let Some(request) = next {
                let outdated = self.waiting.borrow().iter().any(|r| replaces(r, &request));
                if !outdated {
                    serve(&mut session, request, self).await;
                }
            } else if let Some(nth) = session.unmeasured() {
                if let Some((layer, found)) = session.measure(nth) {
                    send(&Event::Measured { layer, found });
                }
            } else {
                break;
            }
            // Lets messages in.
            js::pause().await;
        }
        self.session.replace(session);
        self.serving.set(false);
    }
}

/// Of several plans asked for, or looks of one kind, only the last is still wanted.
fn replaces(newer: &Request, older: &Request) -> bool {
    match (newer, older) {
        (Request::Preview { .. }, Request::Preview { .. }) => true,
        (Request::Look(newer), Request::Look(older)) => older.replaced_by(newer),
        _ => false,
    }
}

async fn serve(session: &mut Session, request: Request, inbox: &Inbox) {
    match request {
        Request::Look(wanted) => {
            let others = || !inbox.waiting.borrow().is_empty();
            let rest =
                look::look(session, &wanted, &others, &|seen| send(&Event::Seen(seen))).await;
            // Others come first. A look goes on behind them, unless one of them replaces it.
            if let Some(rest) = rest {
                let mut waiting = inbox.waiting.borrow_mut();
                let over = waiting.iter().any(|r| match r {
                    Request::Open { .. } | Request::Clear | Request::Demo => true,
                    Request::Look(newer) => rest.replaced_by(newer),
                    _ => false,
                });
                if !over {
                    waiting.push_back(Request::Look(rest));
                }
            }
        }
        Request::Strips(ask) => {
            let others = || !inbox.waiting.borrow().is_empty();
            let tell = |answer| send(&Event::Strips(answer));
            // Bars are decoration: whatever else is wanted comes first.
            if let Some(rest) = strips::strips(session, ask, &others, &tell).await {
                inbox.waiting.borrow_mut().push_back(Request::Strips(rest));
            }
        }
        Request::Report(ask) => {
            let others = || !inbox.waiting.borrow().is_empty();
            let tell = |answer| send(&Event::Report(answer));
            if let Some(rest) = report::report(session, ask, &inbox.stop, &others, &tell).await {
                inbox.waiting.borrow_mut().push_back(Request::Report(rest));
            }
        }
        Request::Open { granted } => {
            if let Err(problem) = session.files.add(granted).await {
                send(&Event::Problem(problem));
            }
            session.open();
            send(&Event::Tree(session.view()));
        }
        Request::Locate(request) => {
            let (answer, changed) = locate::locate(session, request).await;
            if changed {
                send(&Event::Tree(session.view()));
            }
            send(&Event::Located(answer));
        }
        Request::Clear => {
            *session = Session::default();
            private::forget_results().await;
        }
        Request::Units(units) => crate::units::set(units),
        Request::Details { layer } => match session.details(layer) {
            Ok(details) => {
                send(&Event::Details(details));
                // Counting takes a while: others come first, and then it goes on.
                let others = || !inbox.waiting.borrow().is_empty();
                if stats::count(session, &others).await {
                    let mut waiting = inbox.waiting.borrow_mut();
                    let over = waiting.iter().any(|r| {
                        matches!(
                            r,
                            Request::Open { .. }
                                | Request::Clear
                                | Request::Demo
                                | Request::Run { .. }
                                | Request::Staged(_)
                                | Request::Details { .. }
                        )
                    });
                    if !over {
                        waiting.push_back(Request::Details { layer });
                    }
                } else if let Ok(details) = session.details(layer) {
                    send(&Event::Details(details));
                }
            }
            Err(problem) => send(&Event::Problem(problem)),
        },
        Request::Copy { layer } => {
            let nth = usize::try_from(layer).unwrap_or(usize::MAX);
            let entry = session.files.0.get(nth);
            if entry.is_some_and(|entry| entry.staged.is_some()) {
                // As it is shown.
                match staged::save::copies(session, &[nth], &Cell::new(false), &|_| {}).await {
                    Ok(saved) => saved
                        .into_iter()
                        .for_each(|saved| send(&Event::Copy(saved))),
                    Err(Stopped::Failed { why, .. }) => send(&Event::Problem(why)),
                    Err(Stopped::Cancelled) => {}
                }
            } else if let Some(entry) = entry {
                send(&Event::Copy(saved_file(entry)));
            }
        }
        Request::Preview { serial, operation } => {
            // Whatever was asked for meanwhile comes first; a plan still wanted is asked for again.
            let stale = || {
                inbox.waiting.borrow().iter().any(|r| {
                    matches!(
                        r,
                        Request::Preview { .. } | Request::Open { .. } | Request::Clear
                    )
                })
            };
            let note = |note| send(&Event::Planning { serial, note });
            let preview = operation::preview(session, &operation, &[], &stale, &note).await;
            if let Some(preview) = preview.transpose() {
                send(&Event::Preview { serial, preview });
            }
        }
        Request::Run {
            operation,
            read_only,
            target,
            prove,
        } => {
            let report = |progress| send(&Event::Progress(progress));
            let (target, stop) = (target.as_ref(), &inbox.stop);
            let ended = run(
                session, &operation, &read_only, target, prove, stop, &report,
            )
            .await;
            let (outcome, proof) = ended;
            send(&Event::Tree(session.view()));
            if let Some(proof) = proof {
                send(&Event::Proof(proof));
            }
            send(&Event::Outcome(outcome));
        }
        Request::Demo => {
            *session = Session::default();
            let made = match recipe::make(recipe::DEMO_FOLDER, recipe::DEMO).await {
                Ok(folder) => {
                    let path = recipe::DEMO_FOLDER.to_owned();
                    session.files.add_folder(u32::MAX, path, folder, true).await
                }
                Err(why) => Err(why),
            };
            session.open();
            send(&Event::Tree(session.view()));
            if let Err(why) = made {
                send(&Event::Problem(format!(
                    "The demo chain could not be made. {why}"
                )));
            }
        }
        Request::Course(ask) => {
            let (answer, changed) = course::answer(session, ask).await;
            if changed {
                send(&Event::Tree(session.view()));
            }
            send(&Event::Course(answer));
        }
        Request::Staged(ask) => {
            let tell = |answer| send(&Event::Staged(answer));
            let (answer, changed) = staged::answer(session, ask, &inbox.stop, &tell).await;
            let applied = matches!(answer, Answer::Applied(_));
            if applied {
                tell(Answer::Stack(staged::stack(session)));
                send(&Event::Tree(session.view()));
            }
            tell(answer);
            if changed && !applied {
                send(&Event::Tree(session.view()));
            }
        }
        // Heard before it got here.
        Request::Cancel => {}
    }
}

/// Plans and carries out; looks at the files again afterwards, however it ended.
async fn run(
    session: &mut Session,
    operation: &Operation,
    read_only: &[u32],
    target: Option<&Granted>,
    prove: bool,
    stop: &Cell<bool>,
    report: &dyn Fn(Progress),
) -> (Outcome, Option<Proof>) {
    let mut other = (operation.kind == Kind::Repair).then(|| session.with_damaged());
    if let Some(other) = &mut other {
        session.swap_tree(other);
    }
    let ended = attempt(session, operation, read_only, target, prove, stop, report).await;
    let mut notes = Vec::new();
    let mut saved = Vec::new();
    let mut before = None;
    let (status, message) = match ended {
        Ok(done) => {
            let names = |ids: &[usize]| {
                let mut ids = ids.to_vec();
                // From the base up, as they are drawn.
                ids.sort_by_key(|&nth| operation::depth_of_file(session, nth));
                let names = ids.iter().filter_map(|&nth| session.files.0.get(nth));
                names
                    .map(|entry| entry.name().to_owned())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let fates = &done.fates;
            let gone = [fates.invalid.as_slice(), &fates.merged].concat();
            if !gone.is_empty() {
                notes.push(format!(
                    "No longer valid, and may be deleted: {}.",
                    names(&gone)
                ));
            }
            if !fates.spare.is_empty() {
                notes.push(format!(
                    "Still valid, and no longer needed: {}.",
                    names(&fates.spare)
                ));
            }
            if done.copies {
                notes.push(
                    "Your files could not be written and are unchanged. The new ones are below."
                        .to_owned(),
                );
            }
            // What was only saved elsewhere changed nothing here.
            if !done.copies {
                Marks::of(session).after(session, &done.fates).put(session);
            }
            saved = done.saved;
            before = done.before;
            if let Some((origin, handle, to_save)) = done.made {
                match session.files.add_handle(origin, handle).await {
                    Ok(nth) if to_save => saved.extend(session.files.0.get(nth).map(saved_file)),
                    Ok(_) => {}
                    Err(why) => notes.push(sentence(&why)),
                }
            }
            (Status::Done, done.message)
        }
        Err(Stopped::Cancelled) => (
            Status::Cancelled,
            "Stopped. All files are as they were.".to_owned(),
        ),
        Err(Stopped::Failed { why, changed }) => {
            notes.push(if changed.is_empty() {
                "All files are as they were.".to_owned()
            } else {
                format!(
                    "Already in place: {}. The rest is as it was; running the same again completes it.",
                    changed.join(", ")
                )
            });
            (Status::Failed, why)
        }
    };
    session.refresh_own().await;
    session.open();
    let mut outcome = Outcome {
        status,
        message,
        notes,
        saved,
    };
    let proof = match before {
        Some(before) => Some(before.judge(session, &mut outcome, stop, report).await),
        None => None,
    };
    (outcome, proof)
}

/// A layer's file, to be saved.
fn saved_file(entry: &Entry) -> Saved {
    Saved {
        name: entry.name().to_owned(),
        size: source::size_of(&entry.file),
        file: entry.file.clone().into(),
    }
}

struct Done {
    message: String,
    fates: Fates,
    /// What the user has to save.
    saved: Vec<Saved>,
    /// Among that are changed copies of files that could not be written.
    copies: bool,
    /// The new file, and whether it has to be saved.
    made: Option<(Origin, FileSystemFileHandle, bool)>,
    /// What all else showed before, where a proof is wanted.
    before: Option<Before>,
}

async fn attempt(
    session: &Session,
    operation: &Operation,
    read_only: &[u32],
    target: Option<&Granted>,
    prove: bool,
    stop: &Cell<bool>,
    report: &dyn Fn(Progress),
) -> Result<Done, Stopped> {
    if !session.staged.is_empty() {
        let why = "There are staged changes: apply or discard them first.";
        return Err(why.to_owned().into());
    }
    if let Some(why) = operation::cuts_off(session, operation) {
        return Err(why.into());
    }
    let plan = operation::plan(session, operation).map_err(|e| sentence(&e.to_string()))?;
    let note = |phase| {
        report(Progress {
            done: 0,
            total: 0,
            phase,
            can_cancel: true,
        })
    };
    let sum = operation::sum(session, operation, &|| stop.get(), &note).await?;
    let sum = sum.ok_or(Stopped::Cancelled)?;
    let before = match prove {
        true => Some(Before::take(session, operation, &sum, read_only, stop, report).await?),
        false => None,
    };
    let mut written = Written::default();
    let mut made = None;
    if let Some(plan) = plan {
        let mut run =
            Run::new(session, read_only, stop, report, sum.written()).expecting(&sum.changes);
        if operation::reads_everything(operation) {
            run = run.measured_by(&plan);
        }
        let place = operation::place::destination(session, operation, target, read_only);
        let name = operation.makes().map(str::trim);
        if let Some(name) = name {
            run = run.making(name, place.clone());
        }
        written = run.carry_out(plan).await?;
        if let Some(handle) = written.made.take() {
            let origin = operation::place::origin(session, operation, target, &place)?;
            made = Some((origin, handle, matches!(place, Destination::Private)));
        }
    }
    Ok(Done {
        message: operation::done(session, operation),
        fates: fates(session, operation, &sum.info),
        copies: !written.copies.is_empty(),
        saved: written
            .copies
            .into_iter()
            .map(|result| Saved {
                name: result.name,
                size: source::size_of(&result.file),
                file: result.file.into(),
            })
            .collect(),
        made,
        before,
    })
}

/// What becomes of files once a plan is carried out.
fn fates(session: &Session, operation: &Operation, info: &PlanInfo) -> Fates {
    let files = |ids: &mut dyn Iterator<Item = &NodeId>| {
        ids.filter_map(|&id| session.file(id)).collect::<Vec<_>>()
    };
    Fates {
        invalid: files(&mut info.invalid.iter().chain(&info.broken_dependents)),
        merged: files(&mut operation::merged_away(info).iter()),
        spare: files(&mut operation::unneeded(session, operation, info).iter()),
    }
}

/// The worker's own global object.
fn scope() -> DedicatedWorkerGlobalScope {
    js_sys::global().unchecked_into()
}

fn send(event: &Event) {
    let sent = protocol::encode(event)
        .map_err(JsValue::from)
        .and_then(|message| scope().post_message(&message));
    if let Err(error) = sent {
        web_sys::console::error_1(&format!("cannot tell the page: {}", js::message(&error)).into());
    }
}
