//! `blockcommit`: merge layers down and relink what is above them.

use crate::failure::{Failure, Outcome, code};
use crate::open::Input;
use crate::output::{self, progress::When};
use crate::work::{self, DryRun, Run, Talk};
use backchain::plan::PlanInfo;
use backchain::{Chain, NodeId, Operation, Tree};
use backchain_native::Durability;
use clap::Args;
use std::io::Write;

/// Merge layers of a chain down into a lower one, and relink the layers above
///
/// The words are virsh's: the layers from TOP down to the one above BASE are merged into BASE,
/// and the layers above TOP get BASE as their backing file.
#[derive(Args)]
pub(crate) struct Options {
    /// The layer to merge into; the chain's base by default
    #[arg(long, value_name = "BASE")]
    base: Option<String>,
    /// Merge into TOP's own backing file
    #[arg(long, conflicts_with = "base")]
    shallow: bool,
    /// The uppermost layer to merge; ACTIVE by default
    #[arg(long, value_name = "TOP")]
    top: Option<String>,
    /// Delete the merged layers afterwards
    #[arg(long)]
    delete: bool,
    /// Bytes a second at most
    #[arg(short, long, value_name = "RATE")]
    rate: Option<String>,
    /// Go on although other images read differently afterwards
    #[arg(long)]
    force_dependents: bool,
    /// Go on although data of an encrypted image gets into one that is not encrypted
    #[arg(long)]
    allow_plaintext: bool,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    talk: Talk,
    #[command(flatten)]
    dry_run: DryRun,
    /// The active layer: the uppermost one
    active: String,
}

pub(crate) fn run(options: &Options) -> Outcome {
    let rate = super::commit::rate(options.rate.as_deref())?;
    let mut tree = Tree::new();
    let gate = options.input.gate()?;
    work::name_all(&gate, &[options.base.as_deref(), options.top.as_deref()]);
    let chain = options
        .input
        .chain_to_change(&mut tree, &gate, &options.active)?;
    let (top, base) = ends(options, &mut tree, &chain)?;
    work::look_beside(&mut tree);
    let operation = Operation::Commit {
        top,
        base,
        relink: tree.children(top),
        empty_top: false,
        bitmaps: false,
        allow_broken: options.force_dependents,
        allow_plaintext: options.allow_plaintext,
    };
    let run = Run {
        title: "blockcommit",
        dry_run: &options.dry_run,
        progress: When::usual(options.talk.progress, options.talk.quiet),
        quiet: options.talk.quiet,
        durability: Durability::Full,
        rate,
        force_share: options.input.sharing.force_share,
    };
    let Some(info) = run.go(&tree, &gate, &operation)? else {
        return Ok(code::OK);
    };
    report(options, &tree, top, base, &info)?;
    Ok(code::OK)
}

/// The layers that `--top` and `--base` name.
fn ends(options: &Options, tree: &mut Tree, chain: &Chain) -> Result<(NodeId, NodeId), Failure> {
    let top = match &options.top {
        None => chain.top().id,
        Some(top) => layer(tree, chain, top)?,
    };
    let base = match &options.base {
        Some(base) => layer(tree, chain, base)?,
        None if options.shallow => {
            let below = chain
                .depth_of(top)
                .and_then(|depth| chain.layers().get(depth + 1));
            below.map_or(top, |node| node.id)
        }
        None => chain.base().id,
    };
    let (upper, lower) = (chain.depth_of(top), chain.depth_of(base));
    if top == base && options.base.is_none() {
        return Err(Failure::new(format_args!(
            "Image '{}' does not have a backing file",
            tree.node(top).name
        )));
    }
    if upper >= lower {
        return Err(Failure::new(format_args!(
            "'{}' is not below '{}' in the chain",
            tree.node(base).name,
            tree.node(top).name
        )));
    }
    Ok((top, base))
}

/// The layer of `chain` called `name`.
pub(crate) fn layer(tree: &mut Tree, chain: &Chain, name: &str) -> Result<NodeId, Failure> {
    work::find_layer(tree, chain, name).ok_or_else(|| {
        Failure::new(format_args!(
            "Did not find '{name}' in the backing chain of '{}'",
            chain.top().name
        ))
    })
}

fn report(
    options: &Options,
    tree: &Tree,
    top: NodeId,
    base: NodeId,
    info: &PlanInfo,
) -> Result<(), Failure> {
    let quiet = options.talk.quiet;
    let merged: Vec<NodeId> = std::iter::once(top)
        .chain(info.invalid.iter().copied())
        .collect();
    if !quiet {
        let names: Vec<_> = merged
            .iter()
            .map(|&id| format!("'{}'", tree.node(id).name))
            .collect();
        let base = &tree.node(base).name;
        let mut out = output::stdout();
        writeln!(
            out,
            "Block commit: merged {} into '{base}'.",
            names.join(", ")
        )?;
        out.flush()?;
        super::say_links(tree, info)?;
    }
    super::finish(tree, info, &merged, options.delete, quiet)
}
