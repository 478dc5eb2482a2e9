//! Does by itself what lessons are made of: brings a chain to where a step begins.

use super::act;
use super::lesson::{Act, Lesson};
use crate::app::bench::Bench;
use crate::app::bench::model::{Action, Stage};
use crate::protocol::course::Ask;
use crate::protocol::{After, Progress, Request, Status, Tree};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use yew::prelude::*;

/// What is going on, and what is known of what went on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Play {
    /// Still to do, with the steps they belong to.
    queue: VecDeque<Job>,
    /// The step of what is being done, and how far it is to come.
    step: usize,
    until: Until,
    waiting: Waiting,
    /// The step whose act was done last.
    pub last: Option<usize>,
    /// The chain as it was made.
    pub start: Rc<Tree>,
    /// What the last operation did to each layer.
    pub fates: Rc<[After]>,
    /// Bytes that the operation of each step moved.
    pub moved: BTreeMap<usize, u64>,
    /// Why it came to an end before its end.
    pub problem: Option<String>,
}

/// How far an operation is to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Until {
    #[default]
    Done,
    /// Until it moves; then it is cancelled.
    Stopped,
    /// Until it moves; then its worker is killed.
    Killed,
}

type Job = (usize, Act, Until);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Waiting {
    /// For nothing.
    #[default]
    No,
    /// For the worker's next answer, after so many.
    Answer(u32, bool),
    /// For the operation in the form.
    Form,
}

impl Play {
    /// Nothing is being done.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.waiting == Waiting::No && self.queue.is_empty()
    }
}

/// A bench with somebody at it.
#[derive(Clone, PartialEq)]
pub struct Player {
    pub bench: Bench,
    pub lesson: &'static Lesson,
    /// Ends the worker; with its folder.
    pub onkill: Callback<Rc<str>>,
    play: UseStateHandle<Play>,
}

impl Player {
    #[must_use]
    pub fn now(&self) -> &Play {
        &self.play
    }

    /// Makes the chain anew and does what happens to it before `step`.
    pub fn bring_to(&self, step: usize) {
        let acts = self.lesson.acts_before(step).into_iter();
        let mut queue: VecDeque<Job> = acts.map(|(nth, act)| (nth, act, Until::Done)).collect();
        queue.push_front((0, Act::Remake, Until::Done));
        self.set(|play| {
            *play = Play {
                queue,
                ..Play::default()
            };
        });
    }

    /// Does some more things.
    pub fn perform(&self, jobs: impl IntoIterator<Item = Job>) {
        self.set(|play| {
            play.queue.extend(jobs);
            play.problem = None;
        });
    }

    /// Ends the worker on the spot. Its files are left to another one.
    pub fn kill(&self) {
        if let Some(folder) = self.bench.model.course.folder.clone() {
            self.onkill.emit(folder);
        }
    }

    /// Opens the chain that a killed worker left behind.
    pub fn adopt(&self, folder: &str) {
        self.bench.dispatch(Action::Opening);
        self.bench.send(&Request::Course(Ask::Adopt {
            folder: folder.to_owned(),
        }));
        let answers = self.bench.model.course.answers;
        self.set(|play| play.waiting = Waiting::Answer(answers, true));
    }

    /// Notes the operation that the learner ran in `step`.
    pub fn note(&self, step: usize) {
        if let Some((fates, moved)) = self.finished() {
            self.set(|play| {
                play.fates = fates;
                play.moved.insert(step, moved);
            });
        }
    }

    fn set(&self, change: impl FnOnce(&mut Play)) {
        let mut next = (*self.play).clone();
        change(&mut next);
        self.play.set(next);
    }

    /// What the operation in the form did, and how many bytes it moved.
    fn finished(&self) -> Option<(Rc<[After]>, u64)> {
        let Stage::Finished { preview, .. } = &self.bench.model.form.as_ref()?.stage else {
            return None;
        };
        let preview = preview.as_ref().as_ref().ok()?;
        let moved = preview.copied + preview.inflated;
        Some((preview.after.clone().into(), moved))
    }

    /// Goes on as far as it can without waiting.
    fn go_on(&self) {
        let model = &self.bench.model;
        match self.play.waiting {
            Waiting::No => self.begin(),
            Waiting::Answer(before, fresh) if model.course.answers != before => {
                let (problem, tree) = (model.course.problem.clone(), model.tree.clone());
                self.set(|play| {
                    play.waiting = Waiting::No;
                    play.last = Some(play.step);
                    if fresh {
                        play.start = tree;
                    }
                    if problem.is_some() {
                        play.queue.clear();
                        play.problem = problem;
                    }
                });
            }
            Waiting::Answer(..) => {}
            Waiting::Form => self.run(),
        }
    }

    fn begin(&self) {
        let Some(&(step, act, until)) = self.play.queue.front() else {
            return;
        };
        let tree = &self.bench.model.tree;
        if let Some(ask) = act::ask(&act, tree, self.lesson.recipe) {
            let fresh = act == Act::Remake;
            if fresh {
                self.bench.dispatch(Action::Clear);
                self.bench.dispatch(Action::Opening);
            }
            let answers = self.bench.model.course.answers;
            self.bench.send(&Request::Course(ask));
            self.set(|play| {
                play.queue.pop_front();
                play.step = step;
                play.waiting = Waiting::Answer(answers, fresh);
            });
        } else if let Some(operation) = act::operation(&act, tree) {
            self.bench.dispatch(Action::CloseForm);
            self.bench.dispatch(Action::Propose(operation));
            self.set(|play| {
                play.queue.pop_front();
                play.step = step;
                play.until = until;
                play.waiting = Waiting::Form;
            });
        } else {
            self.stop("The chain is not the one this step is made for.");
        }
    }

    /// Runs what is in the form, and ends when it has ended.
    fn run(&self) {
        let Some(form) = &self.bench.model.form else {
            return;
        };
        match &form.stage {
            Stage::Planned(preview) => match preview.as_ref() {
                Ok(preview) if preview.refusal.is_none() => self.bench.run(),
                Ok(preview) => self.stop(preview.refusal.as_deref().unwrap_or_default()),
                Err(why) => self.stop(why),
            },
            Stage::Finished { result, .. }
                if result.status == Status::Cancelled && self.play.until == Until::Stopped =>
            {
                self.set(|play| {
                    play.waiting = Waiting::No;
                    play.last = Some(play.step);
                });
            }
            Stage::Finished { result, .. } if result.status == Status::Done => {
                let known = self.finished();
                self.set(|play| {
                    play.waiting = Waiting::No;
                    play.last = Some(play.step);
                    if let Some((fates, moved)) = known {
                        play.fates = fates;
                        play.moved.insert(play.step, moved);
                    }
                });
            }
            Stage::Finished { result, .. } => self.stop(&result.message),
            Stage::Running { progress, .. } if moves(progress.as_ref()) => match self.play.until {
                Until::Done => {}
                Until::Stopped => self.bench.cancel(),
                Until::Killed => self.kill(),
            },
            Stage::Planning | Stage::Running { .. } => {}
        }
    }

    fn stop(&self, why: &str) {
        self.set(|play| {
            play.queue.clear();
            play.waiting = Waiting::No;
            play.problem = Some(why.to_owned());
        });
    }
}

/// Data is being moved.
fn moves(progress: Option<&Progress>) -> bool {
    progress.is_some_and(|progress| progress.done > 0)
}

/// What of a form decides how to go on.
#[derive(PartialEq)]
enum FormState {
    None,
    Planning,
    Planned,
    Running(bool),
    Finished,
}

/// Somebody at `bench` who knows `lesson`.
#[hook]
pub fn use_player(bench: Bench, lesson: &'static Lesson, onkill: Callback<Rc<str>>) -> Player {
    let play = use_state(Play::default);
    let player = Player {
        bench,
        lesson,
        onkill,
        play,
    };
    let model = &player.bench.model;
    let form = model.form.as_ref();
    let state = form.map_or(FormState::None, |form| match form.stage {
        Stage::Planning => FormState::Planning,
        Stage::Planned(_) => FormState::Planned,
        Stage::Running { ref progress, .. } => FormState::Running(moves(progress.as_ref())),
        Stage::Finished { .. } => FormState::Finished,
    });
    let serial = form.map(|form| form.serial);
    let answers = model.course.answers;
    {
        let player = player.clone();
        use_effect_with(
            ((*player.play).clone(), answers, serial, state),
            move |_| player.go_on(),
        );
    }
    // What the guests read is asked for whenever the chain is another one.
    {
        let bench = player.bench.clone();
        let tree = bench.model.tree.clone();
        use_effect_with(bench.model.course.trees, move |_| {
            if !tree.layers.is_empty() {
                let places = lesson.places.iter();
                let places = places.map(|&(_, at, len)| (at, len)).collect();
                bench.send(&Request::Course(Ask::Peek { places }));
            }
        });
    }
    player
}
