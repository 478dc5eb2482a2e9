//! `rebase`: another backing file, with the same content or only by name.

use crate::failure::{Failure, Outcome, code};
use crate::open::{self, Input, TargetCache};
use crate::output::progress::When;
use crate::work::{DryRun, Run, Talk};
use backchain::chain::{FormatOrigin, Locator};
use backchain::{Error, Format, NodeId, Operation, Tree};
use backchain_native::{FsGate, GateOptions};
use clap::Args;

/// Change the backing file of an image
///
/// What the image reads stays the same: whatever differs is copied into it first. With -u only
/// the link is changed.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    cache: TargetCache,
    /// The new backing file; "" for none
    #[arg(short, long, value_name = "BACKING_FILENAME")]
    backing: Option<String>,
    /// Format of the new backing file
    #[arg(short = 'F', long, value_name = "BACKING_FMT")]
    backing_format: Option<String>,
    /// Cache mode of the backing files; accepted, without effect
    #[arg(short = 'T', long, value_name = "BACKING_CACHE")]
    backing_cache: Option<String>,
    /// Compress the clusters that are copied
    #[arg(short, long)]
    compress: bool,
    /// Change the link only, whatever FILENAME reads afterwards
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    talk: Talk,
    #[command(flatten)]
    dry_run: DryRun,
    /// The image to change
    filename: String,
}

pub(crate) fn run(options: &Options) -> Outcome {
    if options.backing.is_none() && !options.backing_unsafe {
        let message = "Must specify backing file (-b) or use unsafe mode (-u)";
        return Err(Failure::usage("rebase", message));
    }
    let durability = options.cache.durability()?;
    open::source_cache(options.backing_cache.as_deref())?;
    let label = match options.backing_format.as_deref() {
        None => None,
        Some(format) => match format.parse::<Format>() {
            Ok(format) => Some(format),
            Err(_) => {
                return Err(Failure::new(format_args!(
                    "Invalid format name: '{format}'"
                )));
            }
        },
    };
    let mut tree = Tree::new();
    let gate = options.input.gate()?;
    let operation = if options.backing_unsafe {
        relink(options, &mut tree, &gate, label)?
    } else {
        safe(options, &mut tree, &gate, label)?
    };
    let run = Run {
        title: "rebase",
        dry_run: &options.dry_run,
        progress: When::asked(options.talk.progress, options.talk.quiet),
        quiet: options.talk.quiet,
        durability,
        rate: None,
        force_share: options.input.sharing.force_share,
    };
    // A name that does not fit, or a raw data file: qemu-img has words of its own for them.
    let failed = |error: &Error| match (error.as_qemu(), wanted(options)) {
        (Some(words), Some(backing)) => unchanged(backing, words),
        _ => Failure::change(error),
    };
    run.go_or(&tree, &gate, &operation, &failed)?;
    Ok(code::OK)
}

/// The name that is asked for; `None` for no backing file.
fn wanted(options: &Options) -> Option<&str> {
    options.backing.as_deref().filter(|name| !name.is_empty())
}

fn unchanged(name: &str, why: &str) -> Failure {
    Failure::new(format_args!(
        "Could not change the backing file to '{name}': {why}"
    ))
}

fn safe(
    options: &Options,
    tree: &mut Tree,
    gate: &FsGate,
    label: Option<Format>,
) -> Result<Operation, Failure> {
    let name = &options.filename;
    let chain = options.input.chain_to_change(tree, gate, name)?;
    let overlay = chain.top();
    let mut base = None;
    if overlay.image()?.as_qcow2().is_none() {
        if options.compress {
            return Err(Failure::new(
                "Compression not supported for this file format",
            ));
        }
        let backing = wanted(options).unwrap_or_default();
        return Err(unchanged(backing, "Operation not supported"));
    }
    if let Some(backing) = wanted(options) {
        let unopened = |why: String| {
            Failure::new(format_args!(
                "Could not open new backing file '{backing}': {why}"
            ))
        };
        let path = Locator::resolve(backing, Some(&overlay.name));
        let path = path.map_err(|error| unopened(error.to_string()))?;
        let id = tree.add(gate, &path, label);
        let id = id.map_err(|error| unopened(open::reason(&error, &path)))?;
        if label.is_none() && tree.node(id).origin != FormatOrigin::Label {
            return Err(unchanged(backing, "backing format must be specified"));
        }
        if tree.find_loop(id).is_none()
            && let Err(error) = tree.chain(id)
            && error.kind() != backchain::ErrorKind::WrongLabel
        {
            let failure = open::broken_chain(tree, id, &path, &error);
            let why = failure.message();
            let named = format!("Could not open '{path}': ");
            return Err(unopened(why.strip_prefix(&named).unwrap_or(why).to_owned()));
        }
        for node in tree.chain(id).iter().flat_map(|chain| chain.layers()) {
            node.cipher()
                .map_err(|error| unopened(open::reason(&error, &node.name)))?;
        }
        base = Some(id);
    }
    Ok(Operation::Rebase {
        overlay: overlay.id,
        base,
        name: wanted(options).map(str::to_owned),
        format: label,
        compress: options.compress,
    })
}

fn relink(
    options: &Options,
    tree: &mut Tree,
    gate: &FsGate,
    label: Option<Format>,
) -> Result<Operation, Failure> {
    let overlay = options.input.one(tree, gate, &options.filename);
    let overlay = overlay.map_err(|failure| failure.of_writer(&options.filename))?;
    let Some(backing) = wanted(options) else {
        return Ok(Operation::Relink {
            overlay,
            name: None,
            format: None,
            base: None,
        });
    };
    let node = tree.node(overlay);
    if node.image()?.as_qcow2().is_none() {
        return Err(unchanged(backing, "Operation not supported"));
    }
    let path = Locator::resolve(backing, Some(&node.name)).ok();
    let base = path.and_then(|path| look_at(tree, &path, label));
    let known = base
        .map(|id| tree.node(id))
        .filter(|n| n.origin == FormatOrigin::Label);
    let Some(format) = label.or_else(|| Some(known?.image.as_ref().ok()?.format())) else {
        return Err(unchanged(backing, "backing format must be specified"));
    };
    Ok(Operation::Relink {
        overlay,
        name: Some(backing.to_owned()),
        format: Some(format),
        base,
    })
}

/// The new backing file when it can be opened: to warn of loops and sizes. It is not changed, so
/// that others have it open does not matter.
fn look_at(tree: &mut Tree, path: &str, label: Option<Format>) -> Option<NodeId> {
    let gate = FsGate::new(GateOptions {
        force_share: true,
        trust_probed: false,
    });
    tree.add(&gate, path, label).ok()
}
