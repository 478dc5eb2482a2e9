//! One module for each command.

pub(crate) mod amend;
mod amend_slots;
pub(crate) mod bench;
pub(crate) mod bitmap;
pub(crate) mod blockcommit;
pub(crate) mod blockpull;
pub(crate) mod chain;
pub(crate) mod check;
mod check_chain;
pub(crate) mod commit;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod create;
pub(crate) mod dd;
pub(crate) mod generate;
pub(crate) mod info;
pub(crate) mod map;
pub(crate) mod measure;
pub(crate) mod rebase;
pub(crate) mod remove;
pub(crate) mod resize;
pub(crate) mod snapshot;

use crate::args::Command;
use crate::failure::{Failure, Outcome};
use crate::{output, work};
use backchain::plan::PlanInfo;
use backchain::{NodeId, Tree};
use std::io::Write;

/// Runs one command and returns its exit code.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Amend(options) => amend::run(&options),
        Command::Bitmap(options) => bitmap::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Dd(options) => dd::run(&options),
        Command::Info(options) => info::run(&options),
        Command::Measure(options) => measure::run(&options),
        Command::Map(options) => map::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Create(options) => create::run(&options),
        Command::Commit(options) => commit::run(&options),
        Command::Rebase(options) => rebase::run(&options),
        Command::Convert(options) => convert::run(&options),
        Command::Blockcommit(options) => blockcommit::run(&options),
        Command::Blockpull(options) => blockpull::run(&options),
        Command::Remove(options) => remove::run(&options),
        Command::Resize(options) => resize::run(&options),
        Command::Snapshot(options) => snapshot::run(&options),
        Command::Chain(options) => chain::run(&options),
        Command::Completions(options) => generate::completions(&options),
        Command::Man(options) => generate::man(&options),
    }
}

/// Says which layers have another backing file now.
fn say_links(tree: &Tree, info: &PlanInfo) -> Result<(), Failure> {
    let mut out = output::stdout();
    for &(overlay, base) in &info.links {
        let overlay = &tree.node(overlay).name;
        match base {
            Some(base) => writeln!(
                out,
                "'{overlay}' is now based on '{}'.",
                tree.node(base).name
            )?,
            None => writeln!(out, "'{overlay}' now stands alone.")?,
        }
    }
    out.flush()?;
    Ok(())
}

/// Says which images are of no use any more, and deletes those of `merged` that nothing needs
/// when that is wanted.
fn finish(
    tree: &Tree,
    info: &PlanInfo,
    merged: &[NodeId],
    delete: bool,
    quiet: bool,
) -> Result<(), Failure> {
    let name = |id: NodeId| format!("'{}'", tree.node(id).name);
    let list = |nodes: &[NodeId]| {
        nodes
            .iter()
            .map(|&id| name(id))
            .collect::<Vec<_>>()
            .join(", ")
    };
    if !quiet && !info.broken_dependents.is_empty() {
        output::note(format_args!(
            "read differently now: {}",
            list(&info.broken_dependents)
        ));
    }
    if !delete {
        if !quiet && !info.invalid.is_empty() {
            output::note(format_args!("no longer valid: {}", list(&info.invalid)));
        }
        if !quiet && !info.superseded.is_empty() {
            output::note(format_args!("no longer needed: {}", list(&info.superseded)));
        }
        return Ok(());
    }
    let relinked = |id: NodeId| info.links.iter().any(|&(overlay, _)| overlay == id);
    let (unused, needed): (Vec<NodeId>, Vec<NodeId>) = merged.iter().partition(|&&id| {
        let above = tree.children(id);
        above
            .into_iter()
            .all(|child| merged.contains(&child) || relinked(child))
    });
    if !needed.is_empty() {
        output::note(format_args!(
            "not deleted, because other images name them: {}",
            list(&needed)
        ));
    }
    work::delete(tree, &unused, quiet)
}
