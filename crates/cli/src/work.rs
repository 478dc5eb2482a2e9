//! Planning a change and carrying it out, or only saying what it would do.

use crate::args::Output;
use crate::failure::{Failure, code};
use crate::output::progress::{Progress, When};
use crate::output::{self, json, preview};
use crate::throttle::Throttle;
use backchain::plan::{Crew, PlanInfo, Task};
use backchain::{ErrorKind, NodeId, Operation, Preview, Tree};
use backchain_native::{
    Durability, FsGate, GateOptions, Options, execute_steps, find_beside, interrupt, share_out,
};
use clap::Args;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

/// Options of every command that writes.
#[derive(Args, Clone, Default)]
pub(crate) struct DryRun {
    /// Only show what would be done; no byte is changed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How to print what --dry-run shows
    #[arg(long, value_enum, default_value = "human", requires = "dry_run")]
    pub(crate) output: Output,
}

/// Options of every command that takes a while.
#[derive(Args, Clone, Default)]
pub(crate) struct Talk {
    /// Show progress
    #[arg(short, long)]
    pub(crate) progress: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// How a change is to be carried out.
pub(crate) struct Run<'a> {
    /// The command's name.
    pub(crate) title: &'a str,
    pub(crate) dry_run: &'a DryRun,
    pub(crate) progress: When,
    pub(crate) quiet: bool,
    pub(crate) durability: Durability,
    /// Bytes a second.
    pub(crate) rate: Option<u64>,
    /// Files that are only read may be in use.
    pub(crate) force_share: bool,
}

impl Run<'_> {
    /// Plans `operation` and carries it out. `None` after a dry run.
    pub(crate) fn go(
        &self,
        tree: &Tree,
        gate: &FsGate,
        operation: &Operation,
    ) -> Result<Option<PlanInfo>, Failure> {
        self.go_or(tree, gate, operation, &Failure::change)
    }

    /// The same, with `failed` to put errors into words.
    pub(crate) fn go_or(
        &self,
        tree: &Tree,
        gate: &FsGate,
        operation: &Operation,
        failed: &dyn Fn(&backchain::Error) -> Failure,
    ) -> Result<Option<PlanInfo>, Failure> {
        let plan = tree.plan(operation).map_err(|error| failed(&error))?;
        let plan = plan.with_crew(Arc::new(Hands { quiet: self.quiet }));
        if self.dry_run.dry_run {
            let preview = Preview::of(plan).map_err(|error| failed(&error))?;
            self.show(tree, &preview)?;
            return Ok(None);
        }
        let info = plan.info.clone();
        // Who calls it qemu-img expects no more than qemu-img says.
        if !self.quiet && output::program() != "qemu-img" {
            info.warnings.iter().for_each(output::warn);
        }
        let cancel = interrupt::watch()?;
        let meter = plan.meter();
        let progress = Progress::start(self.title, self.progress);
        let options = Options {
            durability: self.durability,
            overwrite: true,
            force_share: self.force_share,
            cancel: Some(cancel),
            progress: Some(&|_| progress.set(meter.done(), meter.total())),
            ..Options::default()
        };
        gate.release();
        let steps = Throttle::new(plan, self.rate, cancel);
        let result = execute_steps(&info, steps, &options);
        match result {
            Ok(_) => progress.finish(),
            Err(error) => {
                drop(progress);
                if error.kind() == ErrorKind::Cancelled {
                    return Err(Failure::new(format_args!(
                        "{} was stopped; every image that was valid still is, and running the \
                         same command again completes it",
                        self.title
                    ))
                    .with_code(code::INTERRUPTED));
                }
                return Err(failed(&error));
            }
        }
        Ok(Some(info))
    }

    fn show(&self, tree: &Tree, preview: &Preview) -> Result<(), Failure> {
        let name = |id: NodeId| match preview.info.files.iter().find(|f| f.node == id) {
            Some(file) => file.name.clone(),
            None => tree
                .nodes()
                .iter()
                .find(|n| n.id == id)
                .map_or_else(String::new, |n| n.name.clone()),
        };
        let shown = preview::Shown {
            operation: self.title,
            preview,
            name: &name,
        };
        let mut out = output::stdout();
        match self.dry_run.output {
            Output::Human => shown.text(&mut out)?,
            Output::Json => json::write(&mut out, &shown.json())?,
        }
        out.flush()?;
        Ok(())
    }
}

/// Threads for a plan's own work, and somebody who says what was lost.
struct Hands {
    quiet: bool,
}

impl Crew for Hands {
    fn each(&self, parts: usize, task: &dyn Task) {
        share_out(parts, task);
    }

    fn lost(&self, offset: u64, len: u64, _: &backchain::Error) {
        // One line for each sector, as qemu-img has it.
        let mut at = offset;
        while !self.quiet && at < offset.saturating_add(len) {
            output::warn(format_args!(
                "error while reading offset {at}: Input/output error"
            ));
            at = at.saturating_add(512);
        }
    }
}

/// Adds the images lying beside the layers of the tree: some of them may depend on these.
///
/// Only headers are read; that others have them open does not matter.
pub(crate) fn look_beside(tree: &mut Tree) {
    let gate = FsGate::new(GateOptions {
        force_share: true,
        trust_probed: false,
    });
    let dirs: BTreeSet<String> = tree
        .nodes()
        .iter()
        .map(|n| directory(&n.name).to_owned())
        .collect();
    for dir in dirs {
        match find_beside(&dir) {
            Ok(found) => {
                for name in &found.names {
                    // A file that cannot be opened as an image depends on nothing.
                    let _ = tree.add(&gate, name, None);
                }
                if !found.complete {
                    output::warn(format_args!(
                        "not every file in '{}' could be looked at; images there may depend on \
                         what is changed",
                        if dir.is_empty() { "." } else { &dir }
                    ));
                }
            }
            Err(error) => output::warn(format_args!(
                "could not look for dependent images in '{dir}': {error}"
            )),
        }
    }
}

/// Tells the gate which other files the user named: links to them may be followed.
pub(crate) fn name_all(gate: &FsGate, names: &[Option<&str>]) {
    names.iter().flatten().for_each(|name| gate.name(name));
}

/// The directory part of a name, with its slash.
pub(crate) fn directory(name: &str) -> &str {
    name.rfind('/').and_then(|at| name.get(..=at)).unwrap_or("")
}

/// The layer of `chain` that the user calls `name`: by its name as opened, by the name its
/// overlay has for it, as the same file, or by its bare file name.
pub(crate) fn find_layer(tree: &mut Tree, chain: &backchain::Chain, name: &str) -> Option<NodeId> {
    let layers = chain.layers();
    if let Some(node) = layers.iter().find(|n| n.name == name) {
        return Some(node.id);
    }
    let recorded = layers.iter().zip(layers.iter().skip(1));
    for (overlay, node) in recorded {
        if overlay.backing().is_some_and(|b| b.name == name) {
            return Some(node.id);
        }
    }
    let gate = FsGate::new(GateOptions {
        force_share: true,
        trust_probed: false,
    });
    if let Ok(id) = tree.add_one(&gate, name, None)
        && chain.depth_of(id).is_some()
    {
        return Some(id);
    }
    let mut same = layers.iter().filter(|n| n.file_name() == name);
    match (same.next(), same.next()) {
        (Some(node), None) => Some(node.id),
        _ => None,
    }
}

/// Removes files that a change has made useless, and says so.
pub(crate) fn delete(tree: &Tree, nodes: &[NodeId], quiet: bool) -> Result<(), Failure> {
    for &id in nodes {
        let name = &tree.node(id).name;
        std::fs::remove_file(name)
            .map_err(|error| Failure::new(format_args!("Could not delete '{name}': {error}")))?;
        if !quiet {
            let mut out = output::stdout();
            writeln!(out, "Deleted '{name}'.")?;
            out.flush()?;
        }
    }
    Ok(())
}
