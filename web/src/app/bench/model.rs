//! What the page knows, and how it changes.

use crate::app::chain::locate::Locating;
use crate::app::chain::strips::Strips;
use crate::app::look::Looks;
use crate::app::operation::propose::{filled, proposal};
use crate::app::page::learn::heard::Course;
use crate::app::proof::Proving;
use crate::app::report::Reporting;
use crate::app::staged::state::{Busy, Staged, Then};
use crate::protocol::{
    Details, Event, Kind, LayerId, Operation, Outcome, Preview, Progress, Saved, Status, Tree,
};
use std::rc::Rc;
use wasm_bindgen::{JsCast, JsValue};
use yew::Reducible;

#[derive(Clone, Default, PartialEq)]
pub struct Model {
    pub tree: Rc<Tree>,
    /// Files are being read for the first time.
    pub opening: bool,
    pub selected: Option<LayerId>,
    pub details: Option<Rc<Details>>,
    pub looks: Looks,
    /// The bars of the tree.
    pub strips: Strips,
    /// What is known about missing backing files.
    pub locating: Locating,
    pub form: Option<Form>,
    pub course: Course,
    pub staged: Staged,
    pub reporting: Reporting,
    pub proving: Proving,
    pub problem: Option<String>,
    pub crashed: bool,
    serial: u32,
}

/// An operation on its way from choice to result.
#[derive(Clone, PartialEq)]
pub struct Form {
    pub operation: Operation,
    /// The user chose the base: it stays when another top is chosen, if it can.
    pub base_chosen: bool,
    /// What the worker is looking at while it plans.
    pub note: String,
    /// What was planned before, to be seen until there is something newer.
    pub before: Option<Rc<Result<Preview, String>>>,
    /// Names this state of the form; an answer to an older one is dropped.
    pub serial: u32,
    pub stage: Stage,
}

#[derive(Clone, PartialEq)]
pub enum Stage {
    /// The worker is planning.
    Planning,
    Planned(Rc<Result<Preview, String>>),
    Running {
        preview: Rc<Result<Preview, String>>,
        progress: Option<Progress>,
        cancelling: bool,
    },
    Finished {
        preview: Rc<Result<Preview, String>>,
        result: Rc<RunResult>,
    },
}

#[derive(Clone, PartialEq)]
pub struct RunResult {
    pub status: Status,
    pub message: String,
    pub notes: Vec<String>,
    pub saved: Vec<SavedFile>,
}

#[derive(Clone, PartialEq)]
pub struct SavedFile {
    pub name: String,
    pub size: u64,
    pub file: Option<web_sys::File>,
}

// Made, moved once and taken apart: a box would cost more than the size of an event.
#[allow(clippy::large_enum_variant)]
pub enum Action {
    Heard(Event),
    Opening,
    Problem(Option<String>),
    Select(Option<LayerId>),
    /// Opens the form, for the selected layer if that makes sense.
    Choose(Kind),
    /// Opens the form, filled in.
    Propose(Operation),
    Change(Operation),
    /// Whether a run is to prove that nothing else changed.
    Prove(bool),
    Run,
    /// The run did not begin: the form is as it was.
    Unrun,
    /// A wish about staged changes is sent.
    Staging(Busy),
    /// It was not: nothing happens.
    Unstaging,
    /// The result of an applying was read.
    StagedSeen,
    /// A report is asked for, or not wanted any more.
    Reporting(bool),
    Cancel,
    CloseForm,
    Clear,
    /// Texts of the worker are asked for anew, as the units changed.
    Reword,
}

impl Reducible for Model {
    type Action = Action;

    fn reduce(self: Rc<Self>, action: Action) -> Rc<Self> {
        let mut next = (*self).clone();
        match action {
            Action::Heard(event) => next.hear(event),
            Action::Opening => next.opening = true,
            Action::Problem(problem) => next.problem = problem,
            Action::Select(layer) => {
                if next.selected != layer {
                    next.details = None;
                }
                next.selected = layer;
            }
            Action::Choose(kind) => {
                if let Some(operation) = proposal(&next.tree, kind, next.selected)
                    && !next.running()
                {
                    next.plan(operation);
                }
            }
            Action::Propose(operation) => {
                if !next.running() {
                    let operation = filled(&next.tree, operation);
                    next.plan(operation);
                    next.form
                        .iter_mut()
                        .for_each(|form| form.base_chosen = true);
                }
            }
            Action::Change(operation) => {
                if !next.running()
                    && let Some(old) = next.form.clone()
                {
                    let moved =
                        old.operation.top == operation.top && old.operation.base != operation.base;
                    next.plan(operation);
                    next.form.iter_mut().for_each(|form| {
                        form.base_chosen = old.base_chosen || moved;
                    });
                }
            }
            Action::Prove(wanted) => next.proving.wanted = wanted,
            Action::Run => {
                next.proving.found = None;
                if let Some(form) = &mut next.form
                    && let Stage::Planned(preview) = &form.stage
                {
                    form.stage = Stage::Running {
                        preview: preview.clone(),
                        progress: None,
                        cancelling: false,
                    };
                }
            }
            Action::Unrun => {
                if let Some(form) = &mut next.form
                    && let Stage::Running { preview, .. } = &form.stage
                {
                    form.stage = Stage::Planned(preview.clone());
                }
            }
            Action::Staging(busy) => {
                next.problem = None;
                next.staged.begin(busy);
            }
            Action::Unstaging => next.staged.busy = None,
            Action::StagedSeen => next.staged.result = None,
            Action::Reporting(true) => next.reporting.begin(),
            Action::Reporting(false) => next.reporting.cancel(),
            Action::Cancel => {
                next.staged.cancel();
                if let Some(Form {
                    stage: Stage::Running { cancelling, .. },
                    ..
                }) = &mut next.form
                {
                    *cancelling = true;
                }
            }
            Action::CloseForm => {
                if !next.running() {
                    next.form = None;
                }
            }
            Action::Reword => next.details = None,
            Action::Clear => {
                next = Self {
                    serial: next.serial,
                    crashed: next.crashed,
                    course: next.course.clone(),
                    ..Self::default()
                };
            }
        }
        Rc::new(next)
    }
}

impl Model {
    #[must_use]
    pub fn running(&self) -> bool {
        let staging = self.staged.busy.is_some();
        staging || matches!(&self.form, Some(form) if matches!(form.stage, Stage::Running { .. }))
    }

    fn plan(&mut self, operation: Operation) {
        self.serial = self.serial.wrapping_add(1);
        let old = self.form.take();
        let old = old.filter(|old| old.operation.kind == operation.kind);
        self.form = Some(Form {
            operation,
            base_chosen: false,
            note: String::new(),
            before: old.and_then(|old| match old.stage {
                Stage::Planning => old.before,
                Stage::Planned(preview) => Some(preview),
                Stage::Running { .. } | Stage::Finished { .. } => None,
            }),
            serial: self.serial,
            stage: Stage::Planning,
        });
        self.problem = None;
        self.proving.found = None;
    }

    fn hear(&mut self, event: Event) {
        match event {
            // Handled before it gets here.
            Event::Ready | Event::Copy(_) => {}
            Event::Strips(answer) => self.strips.hear(answer),
            Event::Located(located) => self.locating.hear(located),
            Event::Tree(tree) => {
                self.opening = false;
                self.tree = Rc::new(tree);
                self.details = None;
                self.looks = Looks::default();
                self.course.forget();
                self.strips = Strips::default();
                self.locating.renew();
                let here = |id: LayerId| self.tree.layer(id).is_some();
                self.selected = self.selected.filter(|&id| here(id));
                // A plan made for the files as they were is no longer true.
                match self.form.as_ref() {
                    Some(form)
                        if [form.operation.top, form.operation.base]
                            .into_iter()
                            .flatten()
                            .any(|layer| !here(layer)) =>
                    {
                        self.form = None;
                    }
                    Some(Form {
                        operation,
                        stage: Stage::Planning | Stage::Planned(_),
                        ..
                    }) => {
                        let operation = operation.clone();
                        let base_chosen = self.form.as_ref().is_some_and(|f| f.base_chosen);
                        self.plan(operation);
                        self.form
                            .iter_mut()
                            .for_each(|f| f.base_chosen = base_chosen);
                    }
                    _ => {}
                }
            }
            Event::Measured { layer, found } => {
                let tree = Rc::make_mut(&mut self.tree);
                if let Some(layer) = tree.layers.iter_mut().find(|l| l.id == layer) {
                    layer.measured(found);
                }
            }
            Event::Details(details) => {
                if Some(details.layer) == self.selected {
                    self.details = Some(Rc::new(details));
                }
            }
            Event::Seen(seen) => self.looks.hear(seen),
            Event::Proof(proof) => self.proving.hear(proof),
            Event::Course(answer) => self.course.hear(answer),
            Event::Staged(answer) => match self.staged.hear(answer) {
                Then::Nothing => {}
                Then::CloseForm => self.form = None,
                Then::Say(problem) => self.problem = Some(problem),
            },
            Event::Report(answer) => {
                if let Some(problem) = self.reporting.hear(answer) {
                    self.problem = Some(problem);
                }
            }
            Event::Planning { serial, note } => {
                if let Some(form) = &mut self.form
                    && form.serial == serial
                {
                    form.note = note;
                }
            }
            Event::Preview { serial, preview } => {
                if let Some(form) = &mut self.form
                    && form.serial == serial
                    && form.stage == Stage::Planning
                {
                    form.stage = Stage::Planned(Rc::new(preview));
                }
            }
            Event::Progress(now) => {
                if let Some(Form {
                    stage: Stage::Running { progress, .. },
                    ..
                }) = &mut self.form
                {
                    *progress = Some(now);
                }
            }
            Event::Outcome(outcome) => {
                if let Some(form) = &mut self.form
                    && let Stage::Running { preview, .. } = &form.stage
                {
                    form.stage = Stage::Finished {
                        preview: preview.clone(),
                        result: Rc::new(outcome.into()),
                    };
                }
            }
            Event::Problem(problem) => {
                self.opening = false;
                self.problem = Some(problem);
            }
            Event::Crash(_) => {
                self.opening = false;
                self.crashed = true;
            }
        }
    }
}

impl From<Outcome> for RunResult {
    fn from(outcome: Outcome) -> Self {
        Self {
            status: outcome.status,
            message: outcome.message,
            notes: outcome.notes,
            saved: outcome.saved.into_iter().map(SavedFile::from).collect(),
        }
    }
}

impl From<Saved> for SavedFile {
    fn from(saved: Saved) -> Self {
        let file: JsValue = saved.file;
        Self {
            name: saved.name,
            size: saved.size,
            file: file.dyn_into().ok(),
        }
    }
}
