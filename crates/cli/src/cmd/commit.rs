//! `commit`: qemu-img's, changing only the images named.

use crate::failure::{Failure, Outcome, code};
use crate::open::{Input, TargetCache};
use crate::output::{self, progress::When, size};
use crate::work::{self, DryRun, Run, Talk};
use backchain::plan::PlanInfo;
use backchain::{NodeId, Operation, Tree};
use clap::Args;
use std::io::Write;

/// Merge an image down into its backing file
///
/// Only the images named change. Layers above FILENAME keep it as their backing file: they still
/// read the same, and how to relink them is said. To relink them at once, see blockcommit.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    cache: TargetCache,
    /// The layer to merge into, instead of the next one (implies -d)
    #[arg(short, long, value_name = "BASE_IMG")]
    base: Option<String>,
    /// Do not empty FILENAME afterwards
    #[arg(short, long)]
    drop: bool,
    /// Bytes a second at most
    #[arg(short, long, value_name = "RATE")]
    rate: Option<String>,
    /// Merge the bitmaps of FILENAME, and of the layers between, into those of the same name in
    /// the layer below; they are made where there are none
    #[arg(long)]
    bitmaps: bool,
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
    /// The image
    filename: String,
}

pub(crate) fn run(options: &Options) -> Outcome {
    let durability = options.cache.durability()?;
    let rate = rate(options.rate.as_deref())?;
    let mut tree = Tree::new();
    let gate = options.input.gate()?;
    work::name_all(&gate, &[options.base.as_deref()]);
    let name = &options.filename;
    let chain = options.input.chain_to_change(&mut tree, &gate, name)?;
    let top = chain.top().id;
    let base = match &options.base {
        None => chain.layers().get(1).map(|node| node.id),
        Some(base) => match work::find_layer(&mut tree, &chain, base) {
            Some(id) if id != top => Some(id),
            _ => {
                return Err(Failure::new(format_args!(
                    "Did not find '{base}' in the backing chain of '{name}'"
                )));
            }
        },
    };
    let Some(base) = base else {
        return Err(Failure::new("Image does not have a backing file"));
    };
    work::look_beside(&mut tree);
    let operation = Operation::Commit {
        top,
        base,
        relink: Vec::new(),
        empty_top: !options.drop && options.base.is_none(),
        bitmaps: options.bitmaps,
        allow_broken: options.force_dependents,
        allow_plaintext: options.allow_plaintext,
    };
    let run = Run {
        title: "commit",
        dry_run: &options.dry_run,
        progress: When::asked(options.talk.progress, options.talk.quiet),
        quiet: options.talk.quiet,
        durability,
        rate,
        force_share: options.input.sharing.force_share,
    };
    let Some(info) = run.go(&tree, &gate, &operation)? else {
        return Ok(code::OK);
    };
    if !options.talk.quiet {
        let mut out = output::stdout();
        writeln!(out, "Image committed.")?;
        out.flush()?;
        advise(&tree, top, base, &info);
    }
    Ok(code::OK)
}

/// Reads `-r`.
pub(crate) fn rate(rate: Option<&str>) -> Result<Option<u64>, Failure> {
    let parse = |text| size::parse(text).map_err(|error| Failure::size("rate limit", text, &error));
    rate.map(parse).transpose()
}

/// Says what is not valid any more and which layers still point at top.
fn advise(tree: &Tree, top: NodeId, base: NodeId, info: &PlanInfo) {
    let names = |nodes: &[NodeId]| {
        let names: Vec<_> = nodes
            .iter()
            .map(|&id| format!("'{}'", tree.node(id).name))
            .collect();
        names.join(", ")
    };
    if !info.invalid.is_empty() {
        output::note(format_args!("no longer valid: {}", names(&info.invalid)));
    }
    if !info.broken_dependents.is_empty() {
        output::note(format_args!(
            "read differently now: {}",
            names(&info.broken_dependents)
        ));
    }
    let (top, base) = (tree.node(top), tree.node(base));
    for child in tree.children(top.id) {
        let child = tree.node(child);
        // Behind the end of a shorter top its overlays read zeros; a plain relink would show
        // base's bytes there.
        let safe = base.virtual_size() > top.virtual_size();
        let how = if safe { "" } else { "-u " };
        let format = base
            .image
            .as_ref()
            .map_or("raw", |image| image.format().name());
        let name = relative(&child.name, &base.name);
        output::note(format_args!(
            "'{}' still has '{}' as its backing file; to put it onto '{}': \
             backchain rebase {how}-b '{name}' -F {format} '{}'",
            child.name, top.name, base.name, child.name
        ));
    }
}

/// `target` as `overlay` would name it: without the directory when both are in the same one.
fn relative(overlay: &str, target: &str) -> String {
    let dir = work::directory(overlay);
    if dir == work::directory(target) {
        return target.strip_prefix(dir).unwrap_or(target).to_owned();
    }
    let whole = std::fs::canonicalize(target).ok();
    let whole = whole.and_then(|path| path.into_os_string().into_string().ok());
    whole.unwrap_or_else(|| target.to_owned())
}
