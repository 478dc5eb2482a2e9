//! `snapshot`: internal snapshots of an image.

use super::amend::refuse_corrupt;
use crate::failure::{Failure, Outcome, code};
use crate::open::{Input, warn_guessed_raw};
use crate::output::progress::When;
use crate::output::{self, info};
use crate::work::{self, DryRun, Run};
use backchain::format::qcow2::{MAX_SNAPSHOTS, incompatible};
use backchain::image::SnapshotQuery;
use backchain::{Error, ErrorKind, NodeId, Operation, Tree};
use backchain_native::Durability;
use clap::{ArgAction, Args};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// List, take, go back to or delete internal snapshots of an image
///
/// They are kept within the image itself and share all clusters that do not change. A snapshot
/// is chosen by its name; --apply takes its ID as well.
#[derive(Args)]
pub(crate) struct Options {
    /// List the snapshots (the default)
    #[arg(short, long, action = ArgAction::Append, num_args = 0, default_missing_value = "")]
    list: Vec<String>,
    /// Take a snapshot with this name
    #[arg(short, long, value_name = "SNAPSHOT", action = ArgAction::Append)]
    create: Vec<String>,
    /// Make the disk what it was when this snapshot was taken
    #[arg(short, long, value_name = "SNAPSHOT", action = ArgAction::Append)]
    apply: Vec<String>,
    /// Delete this snapshot
    #[arg(short, long, value_name = "SNAPSHOT", action = ArgAction::Append)]
    delete: Vec<String>,
    /// Go back even when other images read through this one and will read differently
    #[arg(long)]
    force_dependents: bool,
    /// Accepted; there is nothing to be quiet about
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    dry_run: DryRun,
    /// The image
    filename: String,
}

/// What is to be done, with the snapshot's name.
enum Action<'a> {
    List,
    Create(&'a str),
    Apply(&'a str),
    Delete(&'a str),
}

/// QEMU keeps a name in so many bytes.
const NAME: usize = 255;

pub(crate) fn run(options: &Options) -> Outcome {
    let action = action(options)?;
    let (input, name) = (&options.input, options.filename.as_str());
    let mut tree = Tree::new();
    let writes = !matches!(action, Action::List);
    if writes && input.sharing.force_share {
        input.given(name)?;
        let why = "force-share=on can only be used with read-only images";
        return Err(Failure::open(name, why));
    }
    let gate = input.gate()?;
    let image = input.chain(&mut tree, &gate, name)?.top().id;
    if writes {
        refuse_corrupt(&tree, image, name)?;
        warn_guessed_raw(&tree, image, name);
    }
    let operation = match action {
        Action::List => return list(&tree, image),
        Action::Create(name) => create(image, name),
        Action::Apply(name) => {
            work::look_beside(&mut tree);
            Operation::SnapshotApply {
                image,
                snapshot: SnapshotQuery::IdOrName(name.to_owned()),
                allow_broken: options.force_dependents,
            }
        }
        Action::Delete(name) => Operation::SnapshotDelete {
            image,
            snapshot: SnapshotQuery::Name(name.to_owned()),
        },
    };
    let run = Run {
        title: "snapshot",
        dry_run: &options.dry_run,
        progress: When::Never,
        quiet: options.quiet,
        durability: Durability::Full,
        rate: None,
        force_share: false,
    };
    run.go_or(&tree, &gate, &operation, &|error| {
        failed(&tree, image, &action, error)
    })?;
    Ok(code::OK)
}

/// The one action asked for.
fn action(options: &Options) -> Result<Action<'_>, Failure> {
    let named = [&options.create, &options.apply, &options.delete];
    let given = options.list.len() + named.iter().map(|list| list.len()).sum::<usize>();
    if given > 1 {
        return Err(Failure::usage(
            "snapshot",
            "Cannot mix '-l', '-a', '-c', '-d'",
        ));
    }
    Ok(match named.map(|list| list.first()) {
        [Some(name), ..] => Action::Create(cut(name)),
        [_, Some(name), _] => Action::Apply(name),
        [_, _, Some(name)] => Action::Delete(name),
        _ => Action::List,
    })
}

/// A name as long as QEMU can keep it.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.get(..end).unwrap_or_default()
}

fn list(tree: &Tree, image: NodeId) -> Outcome {
    let snapshots = tree.node(image).snapshots()?;
    if !snapshots.is_empty() {
        let mut out = output::stdout();
        info::snapshots_text(&snapshots, &mut out)?;
        out.flush()?;
    }
    Ok(code::OK)
}

fn create(image: NodeId, name: &str) -> Operation {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    Operation::SnapshotCreate {
        image,
        name: name.to_owned(),
        // The field in the image has 32 bits.
        date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
        date_nsec: now.subsec_nanos(),
    }
}

/// Why it failed, in qemu-img's words where it has any.
fn failed(tree: &Tree, image: NodeId, action: &Action<'_>, error: &Error) -> Failure {
    let (verb, name) = match action {
        Action::Create(name) => ("create", name),
        Action::Apply(name) => ("apply", name),
        Action::Delete(name) => ("delete", name),
        Action::List => return Failure::change(error),
    };
    let header = tree.node(image).image.as_ref().ok();
    let header = header.and_then(|i| i.as_qcow2()).map(|i| &i.head.header);
    let full = header.is_some_and(|h| h.snapshots >= MAX_SNAPSHOTS);
    let data_file = header.is_some_and(|h| h.has(incompatible::DATA_FILE));
    let why = match (action, error.kind()) {
        (Action::Delete(_), ErrorKind::NotFound) => "snapshot not found",
        (Action::Delete(_), ErrorKind::Unsupported) if header.is_none() => "snapshot not found",
        (Action::Apply(_), ErrorKind::Unsupported) if header.is_none() => {
            "Block driver does not support snapshots"
        }
        (Action::Apply(_), ErrorKind::NotFound) => {
            "Failed to load snapshot: No such file or directory"
        }
        (Action::Apply(_), ErrorKind::Unsupported) if data_file => {
            "Failed to load snapshot: Operation not supported"
        }
        (Action::Apply(_), ErrorKind::Refused) if error.message().contains("bitmaps") => {
            "Device has active dirty bitmaps"
        }
        (Action::Create(_), ErrorKind::Unsupported) => "Operation not supported",
        (Action::Create(_), ErrorKind::Refused) if full => "File too large",
        (Action::Create(_), ErrorKind::Refused) => "Invalid argument",
        _ => return Failure::change(error),
    };
    Failure::new(format_args!("Could not {verb} snapshot '{name}': {why}"))
}
