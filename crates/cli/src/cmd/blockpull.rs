//! `blockpull`: merge backing data up into an overlay.

use super::blockcommit::layer;
use crate::failure::{Failure, Outcome, code};
use crate::open::Input;
use crate::output::{self, progress::When};
use crate::work::{self, DryRun, Run, Talk};
use backchain::{Operation, Tree};
use backchain_native::Durability;
use clap::Args;
use std::io::Write;

/// Merge the layers below an image up into it
///
/// The layers between BASE and FILE are merged into FILE, which may be any layer of a chain.
/// Nothing becomes invalid.
#[derive(Args)]
pub(crate) struct Options {
    /// The backing file that stays; without it FILE stands alone afterwards
    #[arg(short, long, value_name = "BASE")]
    base: Option<String>,
    /// Bytes a second at most
    #[arg(short, long, value_name = "RATE")]
    rate: Option<String>,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    talk: Talk,
    #[command(flatten)]
    dry_run: DryRun,
    /// The image to merge into
    file: String,
}

pub(crate) fn run(options: &Options) -> Outcome {
    let rate = super::commit::rate(options.rate.as_deref())?;
    let mut tree = Tree::new();
    let gate = options.input.gate()?;
    work::name_all(&gate, &[options.base.as_deref()]);
    let chain = options
        .input
        .chain_to_change(&mut tree, &gate, &options.file)?;
    let overlay = chain.top().id;
    if chain.layers().len() < 2 {
        return Err(Failure::new("Image does not have a backing file"));
    }
    let base = options.base.as_deref();
    let base = base
        .map(|base| layer(&mut tree, &chain, base))
        .transpose()?;
    let operation = Operation::Pull { overlay, base };
    let run = Run {
        title: "blockpull",
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
    if !options.talk.quiet {
        let mut out = output::stdout();
        writeln!(out, "Block pull: done.")?;
        out.flush()?;
        super::say_links(&tree, &info)?;
    }
    Ok(code::OK)
}
