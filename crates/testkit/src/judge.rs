//! Whether the files after an operation are what the operation promised.

use crate::bitmaps;
use crate::case::{Case, CaseNode, Files, engine_view, id, open, raw_data_name};
use crate::model::first_difference;
use crate::ops::{Op, new_name};
use crate::rng::Rng;
use crate::sim::{self, Run, SimFile};
use crate::verify::verify;
use backchain::plan::{Operation, PlanInfo, Preview, Target, Window};
use backchain::{Format, HostOffset, Link, NodeId, Tree};
use backchain_format::qcow2::{Extensions, Head, autoclear};
use std::collections::BTreeSet;

/// An operation that was planned and carried out.
pub struct Done {
    /// What the plan said beforehand.
    pub info: PlanInfo,
    /// The files before and afterwards, and the steps.
    pub run: Run,
}

/// Plans and carries out `op` on files whose tree is `tree`, with the invariants of plans
/// checked on the way, and the preview held against what happened.
///
/// # Errors
/// What went wrong, in words.
pub fn carry_out(
    tree: &Tree,
    files: &Files,
    operation: &Operation,
    window: Window,
) -> Result<Done, String> {
    let plan = tree.plan(operation);
    let plan = plan.map_err(|e| format!("refused: {e}"))?;
    let plan = plan.with_window(window);
    let info = plan.info.clone();
    let run = sim::run(files, &info, plan).map_err(|e| e.0)?;
    let again = tree
        .plan(operation)
        .map_err(|e| format!("refused the second time: {e}"))?;
    let preview = Preview::of(again.with_window(window)).map_err(|e| format!("preview: {e}"))?;
    if preview.steps != run.log.len() as u64 {
        let steps = preview.steps;
        return Err(format!("{} steps, the second time {steps}", run.log.len()));
    }
    let reordered = sim::reordered(&run, &mut Rng::new(preview.steps));
    for (name, file) in &run.after {
        if reordered.get(name).map(SimFile::bytes) != Some(file.bytes()) {
            return Err(format!(
                "{name} depends on the order of steps between two syncs"
            ));
        }
    }
    for change in &preview.changes {
        let len = run
            .after
            .get(&change.name)
            .map_or(0, |f| f.bytes().len() as u64);
        if len != change.len_after {
            let told = change.len_after;
            return Err(format!(
                "{} has {len} bytes, the preview said {told}",
                change.name
            ));
        }
    }
    Ok(Done { info, run })
}

/// Opens the files of a case, and the new one if there is one.
pub fn reopen(case: &Case, files: &Files, made: Option<Format>) -> Tree {
    let names = case.nodes.iter().map(|n| (n.name.as_str(), n.format));
    let new = new_name(case);
    open(
        files,
        names.chain(made.map(|format| (new.as_str(), format))),
    )
}

/// The format of the image that an operation makes.
pub fn made_format(op: &Op) -> Option<Format> {
    match &op.operation {
        Operation::Create { options, .. }
        | Operation::Convert {
            target: Target::New { options, .. },
            ..
        } => Some(options.format),
        _ => None,
    }
}

/// Holds everything against the promise: views, links, lists, refcounts.
///
/// # Errors
/// The first thing that is not as it should be, in words.
pub fn judge(case: &Case, op: &Op, done: &Done) -> Result<(), String> {
    lists(op, &done.info)?;
    let after = &done.run.after;
    let tree = reopen(case, after, made_format(op));
    views(case, op, &tree)?;
    links(case, op, &tree)?;
    files(case, op, done)
}

/// The images named as invalid or broken are those whose backing data changes.
fn lists(op: &Op, info: &PlanInfo) -> Result<(), String> {
    let told: Vec<NodeId> = info
        .invalid
        .iter()
        .chain(&info.broken_dependents)
        .copied()
        .collect();
    let set: BTreeSet<NodeId> = told.iter().copied().collect();
    if set.len() != told.len() {
        return Err(format!("listed twice: {told:?}"));
    }
    let wanted: BTreeSet<NodeId> = op.listed.iter().map(|n| id(*n)).collect();
    if set != wanted && op.target.is_some() {
        return Err(format!(
            "listed as invalid or broken: {set:?} instead of {wanted:?}"
        ));
    }
    Ok(())
}

/// The guest view of every image that stays valid, and of the target.
///
/// # Errors
/// The image that reads differently.
pub fn views(case: &Case, op: &Op, tree: &Tree) -> Result<(), String> {
    for (number, node) in case.nodes.iter().enumerate() {
        if op.listed.contains(&number) {
            continue;
        }
        let target = op.target.as_ref().filter(|(n, _)| *n == number);
        let asked = op.asked.iter().find(|(n, _)| *n == number);
        let expected = match target.or(asked) {
            Some((_, view)) => view.clone(),
            None => case.view(number),
        };
        reads(tree, id(number), &expected).map_err(|e| format!("{}: {e}", node.name))?;
    }
    if let Some((view, _)) = &op.made {
        reads(tree, Op::new_id(case), view).map_err(|e| format!("the new image: {e}"))?;
    }
    Ok(())
}

/// Whether `node` reads as expected.
///
/// # Errors
/// The first difference.
pub fn reads(tree: &Tree, node: NodeId, expected: &[u8]) -> Result<(), String> {
    let seen = engine_view(tree, node).map_err(|e| e.to_string())?;
    match first_difference(&seen, expected) {
        Some(difference) => Err(format!("reads differently: {difference}")),
        None => Ok(()),
    }
}

/// The case as the operation left it: the same images with what they are to read as, those
/// that are no longer valid included, and the new one.
///
/// # Errors
/// An image that cannot be read.
pub fn left_by(case: &Case, op: &Op, done: &Done) -> Result<Case, String> {
    let tree = reopen(case, &done.run.after, made_format(op));
    let mut next = case.clone();
    next.files = done.run.after.clone();
    for (number, node) in next.nodes.iter_mut().enumerate() {
        let target = op.target.as_ref().filter(|(n, _)| *n == number);
        node.view = Some(match target {
            Some((_, view)) => view.clone(),
            None if op.listed.contains(&number) => {
                engine_view(&tree, id(number)).map_err(|e| e.to_string())?
            }
            None => case.view(number),
        });
        if let Some((_, base)) = op.links.iter().find(|(n, _)| *n == number) {
            node.parent = *base;
        }
    }
    if let (Some((view, parent)), Some(format)) = (&op.made, made_format(op)) {
        next.nodes.push(CaseNode {
            name: new_name(case),
            format,
            parent: *parent,
            layer: case.nodes[0].layer.clone(),
            view: Some(view.clone()),
        });
    }
    Ok(next)
}

fn links(case: &Case, op: &Op, tree: &Tree) -> Result<(), String> {
    let old = case.nodes.iter().map(|n| n.parent).enumerate();
    let new = op
        .made
        .iter()
        .map(|(_, backing)| (case.nodes.len(), *backing));
    for (number, parent) in old.chain(new) {
        let changed = op.links.iter().find(|(n, _)| *n == number);
        let expected = changed.map_or(parent, |(_, base)| *base);
        let matches = match tree.link(id(number)) {
            Link::None => expected.is_none(),
            Link::To(to) => expected.map(id) == Some(*to),
            Link::Broken(_) => false,
        };
        if !matches {
            let link = tree.link(id(number));
            return Err(format!(
                "image {number} is linked {link:?}, not to {expected:?}"
            ));
        }
    }
    Ok(())
}

fn files(case: &Case, op: &Op, done: &Done) -> Result<(), String> {
    for (name, file) in &done.run.after {
        let told = done.info.files.iter().find(|f| &f.name == name);
        let before = done.run.before.get(name).map(|f| f.bytes());
        if !told.is_some_and(|f| f.written) && before != Some(file.bytes()) {
            return Err(format!("{name} changed, which was not announced"));
        }
        let node = case.nodes.iter().position(|n| &n.name == name);
        let made = made_format(op).filter(|_| *name == new_name(case));
        let format = node.map(|n| case.nodes[n].format).or(made);
        if format != Some(Format::Qcow2) {
            continue;
        }
        let expected = match node {
            Some(node) if op.listed.contains(&node) => None,
            Some(node) => Some(view_after(case, op, node)),
            None => op.made.as_ref().map(|(view, _)| view.clone()),
        };
        if let Some(expected) = expected {
            raw_data(&done.run.after, file, &expected).map_err(|e| format!("{name}: {e}"))?;
        }
        if let Some(before) = before {
            let emptied = node.is_some() && node == op.emptied;
            head_kept(before, file.bytes(), emptied).map_err(|e| format!("{name}: {e}"))?;
        }
        if let (Some(before), Some(node)) = (before, node) {
            let old = case.view(node);
            let target = op.target.as_ref().filter(|(n, _)| *n == node);
            let new = target.map_or(&old, |(_, view)| view);
            bitmaps::tell(before, file.bytes(), &old, new, true)
                .map_err(|e| format!("{name}: {e}"))?;
        }
        let report = verify(file.bytes());
        if !report.errors.is_empty() {
            return Err(format!("{name} is damaged: {:?}", report.errors));
        }
        if !report.strays.is_empty() {
            let strays = report.strays;
            return Err(format!("{name} maps clusters behind its end: {strays:x?}"));
        }
        // What was leaked before may stay; the plan itself leaks nothing.
        let old = before.map(|b| verify(b).leaks).unwrap_or_default();
        for (cluster, count) in &report.leaks {
            if old.get(cluster).copied().unwrap_or(0) < *count {
                return Err(format!(
                    "{name} leaks host cluster {cluster}, {count} times"
                ));
            }
        }
        if node.is_some() && node == op.emptied && report.allocated > 0 {
            return Err(format!("{name} still has {} clusters", report.allocated));
        }
    }
    Ok(())
}

/// What image `node` is to read as afterwards.
fn view_after(case: &Case, op: &Op, node: usize) -> Vec<u8> {
    let changed = op.target.iter().chain(&op.asked).find(|(n, _)| *n == node);
    changed.map_or_else(|| case.view(node), |(_, view)| view.clone())
}

/// A data file that says so is the disk as a raw image.
fn raw_data(files: &Files, image: &SimFile, expected: &[u8]) -> Result<(), String> {
    let head = Head::from_bytes(image.bytes()).map_err(|e| e.to_string())?;
    let Some(name) = raw_data_name(&head) else {
        return Ok(());
    };
    let data = files.get(&name).ok_or("its data file is not there")?;
    match first_difference(data.bytes(), expected) {
        Some(difference) => Err(format!("the raw data file differs: {difference}")),
        None => Ok(()),
    }
}

/// A changed image keeps all that its header says beyond what the change is about; autoclear
/// bits that nobody knows are cleared (and only then). With its clusters an emptied image loses
/// bitmaps that nobody trusts.
fn head_kept(before: &[u8], after: &[u8], emptied: bool) -> Result<(), String> {
    if before == after {
        return Ok(());
    }
    let strip = |bytes| {
        let mut head = Head::from_bytes(bytes).map_err(|e| e.to_string())?;
        head.extensions.set(Extensions::BACKING_FORMAT, None);
        head.backing = None;
        let header = &mut head.header;
        header.backing_name = None;
        (header.size, header.l1_table, header.l1_entries) = (0, HostOffset(0), 0);
        (header.refcount_table, header.refcount_table_clusters) = (HostOffset(0), 0);
        Ok::<_, String>(head)
    };
    let (mut old, mut new) = (strip(before)?, strip(after)?);
    if emptied && old.header.autoclear & autoclear::BITMAPS == 0 {
        old.extensions.set(Extensions::BITMAPS, None);
        new.extensions.set(Extensions::UNUSED, None);
    }
    old.header.autoclear &= autoclear::KNOWN;
    if old == new {
        return Ok(());
    }
    Err(format!("the head was {old:?} and is {new:?}"))
}
