//! `remove`: take a middle layer out of a chain.

use super::blockcommit::layer;
use crate::failure::{Outcome, code};
use crate::open::{self, Given, Sharing};
use crate::output::{self, progress::When};
use crate::work::{self, DryRun, Run, Talk};
use backchain::plan::RemoveMethod;
use backchain::{Operation, Tree};
use backchain_native::Durability;
use clap::{Args, ValueEnum};
use std::io::Write;

/// Take a middle layer out of a chain
///
/// The layers above it read the same afterwards and no longer need it.
#[derive(Args)]
pub(crate) struct Options {
    /// The active layer: one above FILE that stays
    #[arg(long, value_name = "ACTIVE")]
    active: String,
    /// How; the way that writes less by default
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Delete FILE afterwards
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
    sharing: Sharing,
    #[command(flatten)]
    talk: Talk,
    #[command(flatten)]
    dry_run: DryRun,
    /// The layer to take out
    file: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Method {
    /// Merge FILE down into its backing file, relink the layers above
    #[value(name = "1")]
    Commit,
    /// Copy what differs up into the layers above, relink them; nothing becomes invalid
    #[value(name = "2")]
    Rebase,
}

pub(crate) fn run(options: &Options) -> Outcome {
    let rate = super::commit::rate(options.rate.as_deref())?;
    let mut tree = Tree::new();
    let gate = options.sharing.gate()?;
    work::name_all(&gate, &[Some(options.file.as_str())]);
    let chain = open::chain_to_change(&mut tree, &gate, &Given::name(&options.active, None))?;
    let id = layer(&mut tree, &chain, &options.file)?;
    work::look_beside(&mut tree);
    let operation = Operation::Remove {
        layer: id,
        active: chain.top().id,
        method: options.method.map(|method| match method {
            Method::Commit => RemoveMethod::Commit,
            Method::Rebase => RemoveMethod::Rebase,
        }),
        allow_broken: options.force_dependents,
        allow_plaintext: options.allow_plaintext,
    };
    let run = Run {
        title: "remove",
        dry_run: &options.dry_run,
        progress: When::usual(options.talk.progress, options.talk.quiet),
        quiet: options.talk.quiet,
        durability: Durability::Full,
        rate,
        force_share: options.sharing.force_share,
    };
    let Some(info) = run.go(&tree, &gate, &operation)? else {
        return Ok(code::OK);
    };
    if !options.talk.quiet {
        let method = match info.method {
            Some(RemoveMethod::Commit) => " by method 1",
            Some(RemoveMethod::Rebase) => " by method 2",
            None => "",
        };
        let mut out = output::stdout();
        writeln!(
            out,
            "Removed '{}' from the chain{method}.",
            tree.node(id).name
        )?;
        out.flush()?;
        super::say_links(&tree, &info)?;
    }
    super::finish(&tree, &info, &[id], options.delete, options.talk.quiet)?;
    Ok(code::OK)
}
