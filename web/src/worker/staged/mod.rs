//! Staged changes: a stack of operations that were tried, each with the files as it leaves them.
//!
//! The files' entries carry the newest of these as their source, so the tree, and all that looks
//! into it, shows what would be. Nothing is written before the changes are applied: then each is
//! planned anew on the real files and carried out like any other, one after the other.

pub mod save;

use super::execute::{Stopped, is_unchanged};
use super::files::Origin;
use super::operation;
use super::session::{Marks, Session, sentence};
use crate::js;
use crate::protocol::staged::{self, Answer, Stack};
use crate::protocol::{Field, Kind, Operation, Outcome, Place, Progress, Saved, Status};
use backchain::chain::Fingerprint;
use backchain::stage::Trial;
use backchain::{Preview as Sum, Source};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Milliseconds of work before messages are let in.
pub(super) const TURN: f64 = 25.0;
/// Bytes of memory for all changes together.
const MEMORY: u64 = 512 << 20;

/// What was tried.
#[derive(Default)]
pub struct Memory {
    done: Vec<Change>,
    undone: Vec<Change>,
}

struct Change {
    operation: Operation,
    told: staged::Change,
    /// The files it changes, as it leaves them.
    files: BTreeMap<usize, Source>,
    /// The one among them that it makes.
    made: Option<usize>,
    /// The files as they are on the disk, as far as the plan was made for those.
    read: Vec<(usize, Fingerprint)>,
    /// What was known of files before, and is afterwards.
    marks: [Marks; 2],
    memory: u64,
}

impl Memory {
    /// Nothing is staged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    fn stack(&self) -> Stack {
        let told = |changes: &[Change]| changes.iter().map(|change| change.told.clone()).collect();
        Stack {
            done: told(&self.done),
            undone: told(&self.undone),
        }
    }

    fn memory(&self) -> u64 {
        let all = self.done.iter().chain(&self.undone);
        all.map(|change| change.memory).sum()
    }
}

/// Does what the page asks for. `tell` hears all but the last answer; whether the tree has
/// changed comes with that.
pub async fn answer(
    session: &mut Session,
    ask: staged::Ask,
    stop: &Cell<bool>,
    tell: &dyn Fn(Answer),
) -> (Answer, bool) {
    match ask {
        staged::Ask::Try { operation } => match attempt(session, &operation, None, stop).await {
            Ok(change) => {
                session.staged.undone.clear();
                push(session, change);
            }
            Err(why) => return (Answer::Failed(why), false),
        },
        staged::Ask::Undo => {
            if let Some(change) = session.staged.done.pop() {
                let marks = change.marks[0].clone();
                session.staged.undone.push(change);
                marks.put(session);
            }
        }
        staged::Ask::Redo => {
            if let Some(change) = session.staged.undone.pop() {
                push(session, change);
            }
        }
        staged::Ask::Discard => {
            take_all(session);
        }
        staged::Ask::Apply { read_only } => {
            let outcome = apply(session, &read_only, stop, tell).await;
            return (Answer::Applied(outcome), true);
        }
    }
    lay(session);
    (Answer::Stack(session.staged.stack()), true)
}

/// What is staged, for the page.
#[must_use]
pub fn stack(session: &Session) -> Stack {
    session.staged.stack()
}

fn push(session: &mut Session, change: Change) {
    change.marks[1].clone().put(session);
    session.staged.done.push(change);
}

/// Takes all changes back. Returns those that were staged.
fn take_all(session: &mut Session) -> Vec<Change> {
    let memory = std::mem::take(&mut session.staged);
    if let Some(first) = memory.done.first() {
        first.marks[0].clone().put(session);
    }
    memory.done
}

/// Gives the files' entries the sources that are staged for them, and opens the tree anew.
fn lay(session: &mut Session) {
    let mut sources: BTreeMap<usize, Source> = BTreeMap::new();
    for change in &session.staged.done {
        let files = change.files.iter();
        sources.extend(files.map(|(&nth, source)| (nth, source.clone())));
    }
    let mut changed = BTreeSet::new();
    for (nth, entry) in session.files.0.iter_mut().enumerate() {
        let (old, new) = (&entry.staged, sources.remove(&nth));
        let same = match (old, &new) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (old, new) => old.is_none() && new.is_none(),
        };
        if !same {
            changed.insert(nth);
            entry.staged = new;
        }
    }
    session.open_after(&changed);
}

const STOPPED: &str = "Stopped. Nothing was staged.";

/// Tries an operation on the files as they would be now. `made` is the number of the file that it
/// makes, if it had one before.
async fn attempt(
    session: &mut Session,
    operation: &Operation,
    made: Option<usize>,
    stop: &Cell<bool>,
) -> Result<Change, String> {
    let mut other = (operation.kind == Kind::Repair).then(|| session.with_damaged());
    if let Some(other) = &mut other {
        session.swap_tree(other);
    }
    let tried = attempt_here(session, operation, made, stop).await;
    if let Some(other) = &mut other {
        session.swap_tree(other);
    }
    tried
}

async fn attempt_here(
    session: &mut Session,
    operation: &Operation,
    made: Option<usize>,
    stop: &Cell<bool>,
) -> Result<Change, String> {
    let say = |error: backchain::Error| sentence(&error.to_string());
    if let Some(why) = operation::cuts_off(session, operation) {
        return Err(why);
    }
    let target = target(session, operation)?;
    // Looks for holes, too, unless that is done: planning by itself would wait for that.
    let known = operation::sum(session, operation, &|| stop.get(), &|_| {}).await?;
    if known.is_none() {
        return Err(STOPPED.to_owned());
    }
    let plan = operation::plan(session, operation).map_err(say)?;
    let info = plan.as_ref().map(|plan| plan.info.clone());
    let info = info.unwrap_or_default();
    let mut sum = plan.as_ref().map(Sum::begin).unwrap_or_default();
    let mut trial = Trial::new(&session.tree, &info);
    let held = session.staged.memory();
    let mut until = js::now() + TURN;
    for step in plan.into_iter().flatten() {
        let step = step.map_err(say)?;
        sum.count(&step);
        trial.step(step).map_err(say)?;
        if js::now() > until {
            if held.saturating_add(trial.memory()) > MEMORY {
                return Err(too_much());
            }
            js::pause().await;
            if stop.get() {
                return Err(STOPPED.to_owned());
            }
            until = js::now() + TURN;
        }
    }
    let memory = trial.memory();
    if held.saturating_add(memory) > MEMORY {
        return Err(too_much());
    }
    let preview = operation::shown(session, operation, &sum, &[]);
    let fates = super::fates(session, operation, &info);
    let mut files = BTreeMap::new();
    let mut new: Option<Source> = None;
    for (node, file) in trial.finish() {
        match session.file(node) {
            Some(nth) => {
                let source: Source = file;
                files.insert(nth, source);
            }
            None if new.is_none() => new = Some(file),
            None => return Err("Two new files at once cannot be staged.".to_owned()),
        }
    }
    let read = info.files.iter().filter_map(|file| {
        let nth = session.file(file.node)?;
        let entry = session.files.0.get(nth)?;
        // What an earlier change leaves is not on the disk.
        Some((nth, file.before.filter(|_| entry.staged.is_none())?))
    });
    let read = read.collect();
    let in_place = preview.writes.iter().filter(|write| write.in_place);
    let gifts = in_place.filter_map(|write| write.gift).collect();
    let before = Marks::of(session);
    let mut made = made;
    if let (Some(source), Some(origin)) = (new, target) {
        let nth = match made {
            Some(nth) => nth,
            None => session.files.plan(origin)?,
        };
        files.insert(nth, source);
        made = Some(nth);
    }
    let after = before.clone().after(session, &fates);
    Ok(Change {
        operation: operation.clone(),
        told: staged::Change {
            kind: operation.kind,
            summary: preview.summary,
            writes: preview.writes,
            gifts,
            invalid: preview.invalid,
        },
        files,
        made,
        read,
        marks: [before, after],
        memory,
    })
}

/// How the file is known that an operation makes.
fn target(session: &Session, operation: &Operation) -> Result<Option<Origin>, String> {
    if operation.makes().is_none() {
        return Ok(None);
    }
    if Place::named(operation.get(Field::Place)) == Place::Picked {
        let why = "Where it goes is asked when it is run, so this cannot be staged. Choose another place for the new file.";
        return Err(why.to_owned());
    }
    let place = operation::place::destination(session, operation, None, &[]);
    operation::place::origin(session, operation, None, &place).map(Some)
}

fn too_much() -> String {
    format!(
        "The staged changes together need more than {} of memory: apply or discard them first.",
        crate::app::text::bytes(MEMORY)
    )
}

/// Carries the changes out. What was not reached stays staged.
async fn apply(
    session: &mut Session,
    read_only: &[u32],
    stop: &Cell<bool>,
    tell: &dyn Fn(Answer),
) -> Outcome {
    if let Err(why) = unchanged(session).await {
        let notes = vec![
            "Nothing was written.".to_owned(),
            "The staged changes were made for the files as they were: discard them, and stage them again.".to_owned(),
        ];
        return failed(why, notes);
    }
    let changed = session.staged.done.iter().flat_map(|c| c.files.keys());
    let changed: BTreeSet<usize> = changed.copied().collect();
    let changed: Vec<usize> = changed.into_iter().collect();
    let entry = |nth: &usize| session.files.0.get(*nth);
    if !changed
        .iter()
        .filter_map(entry)
        .all(|entry| entry.writable(read_only))
    {
        return save_copies(session, &changed, stop, tell).await;
    }
    let changes = take_all(session);
    lay(session);
    let all = changes.len();
    let mut notes = Vec::new();
    let mut saved: Vec<Saved> = Vec::new();
    let (mut made, mut done) = (Vec::new(), Vec::new());
    let mut ended: Option<Outcome> = None;
    let mut left = Vec::new();
    for (nth, change) in changes.into_iter().enumerate() {
        if ended.is_some() {
            left.push(change);
            continue;
        }
        let nth = Some(nth);
        let report = |progress: Progress| tell(Answer::Applying { nth, progress });
        let operation = &change.operation;
        let known = session.files.0.len();
        let (outcome, _) =
            super::run(session, operation, read_only, None, false, stop, &report).await;
        if outcome.status == Status::Done {
            settle(session, change.made, known);
            notes.extend(outcome.notes);
            done.push(change.told.summary);
            let in_storage = change.made.filter(|&nth| {
                let entry = session.files.0.get(nth);
                entry.is_some_and(|entry| entry.private)
            });
            match in_storage {
                // Changes behind it may write to it.
                Some(nth) => made.push(nth),
                None => saved.extend(outcome.saved),
            }
        } else {
            ended = Some(outcome);
            left.push(change);
        }
    }
    let entries = made.iter().filter_map(|&nth| session.files.0.get(nth));
    saved.extend(entries.map(super::saved_file));
    let Some(ended) = ended else {
        let message = match all {
            1 => "The change is in place.".to_owned(),
            n => format!("All {n} changes are in place."),
        };
        notes.dedup();
        return Outcome {
            status: Status::Done,
            message,
            notes,
            saved,
        };
    };
    let mut told: Vec<String> = done
        .iter()
        .map(|what| format!("In place: {what}"))
        .collect();
    if done.is_empty() {
        told.push("None of the changes is in place.".to_owned());
    } else {
        told.push("What is not in place stays staged.".to_owned());
    }
    told.extend(ended.notes);
    stop.set(false);
    told.extend(stage_again(session, left, stop).await);
    Outcome {
        status: ended.status,
        message: ended.message,
        notes: told,
        saved,
    }
}

/// Gives the file that a change has made the number it had while it was staged: later changes
/// know it by that. Before there were `known` files.
fn settle(session: &mut Session, made: Option<usize>, known: usize) {
    let Some(made) = made.filter(|&nth| nth < known && session.files.0.len() > known) else {
        return;
    };
    // It came last.
    if session.files.0.len() == known + 1 {
        session.files.0.swap_remove(made);
        session.open();
    }
}

/// Stages changes on the files as they are now. Returns what there is to be said about those for
/// which that is not possible.
async fn stage_again(
    session: &mut Session,
    changes: Vec<Change>,
    stop: &Cell<bool>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for change in changes {
        let what = &change.told.summary;
        if !problems.is_empty() {
            // It stood on one that is not there.
            problems.push(format!("No longer staged: {what}"));
            continue;
        }
        match attempt(session, &change.operation, change.made, stop).await {
            Ok(change) => {
                push(session, change);
                lay(session);
            }
            Err(why) => problems.push(format!("No longer staged: {what} {why}")),
        }
    }
    problems
}

/// Whether every file is what it was when the changes were tried.
async fn unchanged(session: &Session) -> Result<(), String> {
    for (nth, before) in session.staged.done.iter().flat_map(|change| &change.read) {
        if let Some(entry) = session.files.0.get(*nth) {
            is_unchanged(entry, *before).await?;
        }
    }
    Ok(())
}

/// Saves what the changes make of the files, as not all of them can be written in place.
async fn save_copies(
    session: &Session,
    changed: &[usize],
    stop: &Cell<bool>,
    tell: &dyn Fn(Answer),
) -> Outcome {
    let report = |progress| {
        tell(Answer::Applying {
            nth: None,
            progress,
        });
    };
    // Nobody needs what is no longer valid.
    let gone = |nth: &&usize| session.invalid.contains(nth) || session.merged.contains(nth);
    let wanted: Vec<usize> = changed.iter().filter(|nth| !gone(nth)).copied().collect();
    match save::copies(session, &wanted, stop, &report).await {
        Ok(saved) => Outcome {
            status: Status::Done,
            message: "The changed files are ready: save them.".to_owned(),
            notes: vec![
                "Not all of your files can be written here, so all of them are as they were, and the changes stay staged. The new files are below; links between them hold when they replace the old ones.".to_owned(),
            ],
            saved,
        },
        Err(Stopped::Cancelled) => Outcome {
            status: Status::Cancelled,
            ..failed("Stopped. All files are as they were.".to_owned(), Vec::new())
        },
        Err(Stopped::Failed { why, .. }) => {
            failed(why, vec!["All files are as they were.".to_owned()])
        }
    }
}

fn failed(message: String, notes: Vec<String>) -> Outcome {
    Outcome {
        status: Status::Failed,
        message,
        notes,
        saved: Vec::new(),
    }
}
