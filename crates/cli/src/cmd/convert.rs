//! `convert`: the guest view of one chain or several as one image.

use crate::failure::{Failure, Outcome, code};
use crate::new_image::{self, NewImage};
use crate::open::{self, Given, ImageOpts, Sharing};
use crate::output::progress::When;
use crate::output::size::{self, SizeError};
use crate::work::{DryRun, Run, Talk};
use backchain::chain::Locator;
use backchain::image::SnapshotQuery;
use backchain::plan::{Broken, ConvertOptions, CreateOptions, Preallocation, Target, Zeros};
use backchain::{Chain, ErrorKind, Format, NodeId, Operation, Tree};
use backchain_native::FsGate;
use clap::Args;

/// Copy what the guest sees into a new image, or over an existing one
#[derive(Args)]
pub(crate) struct Options {
    /// Format of SRC_FILENAME
    #[arg(short, long = "source-format", value_name = "SRC_FMT")]
    format: Option<String>,
    /// Format of TGT_FILENAME (raw)
    #[arg(short = 'O', long, alias = "output-format", value_name = "TGT_FMT")]
    target_format: Option<String>,
    /// Options of the target's format; `-o help` lists them
    #[arg(short = 'o', long, alias = "options", value_name = "TGT_OPTS")]
    target_options: Vec<String>,
    /// The backing file of the target: only what differs from it is written
    #[arg(short = 'B', long, value_name = "BACKING_FILENAME")]
    backing: Option<String>,
    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "BACKING_FMT")]
    backing_format: Option<String>,
    /// Compress the target's clusters (qcow2 only)
    #[arg(short, long)]
    compress: bool,
    /// Write over TGT_FILENAME, which is there already
    #[arg(short, long)]
    no_create: bool,
    /// TGT_FILENAME is known to read as zeros
    #[arg(long)]
    target_is_zero: bool,
    /// TGT_FILENAME is a list of options (driver=qcow2,file.filename=NAME)
    #[arg(long)]
    target_image_opts: bool,
    /// Read the source as an internal snapshot has it: its ID or name, or snapshot.id=ID,
    /// snapshot.name=NAME
    #[arg(short = 'l', long, alias = "snapshot", value_name = "SNAPSHOT_PARAM")]
    source_snapshot: Option<String>,
    /// Bytes of zeros in a row that become a hole (4k); 0: none, everything is allocated
    #[arg(
        short = 'S',
        long,
        value_name = "SPARSE_SIZE",
        allow_hyphen_values = true
    )]
    sparse_size: Option<String>,
    /// Copy the persistent bitmaps of the source too
    #[arg(long)]
    bitmaps: bool,
    /// Leave out bitmaps that were not saved properly
    #[arg(long)]
    skip_broken_bitmaps: bool,
    /// Go on where the source cannot be read, with zeros
    #[arg(long)]
    salvage: bool,
    /// Copy data without looking for zeros in it
    #[arg(short = 'C', long)]
    copy_range_offloading: bool,
    /// Cache mode of the target (unsafe: do not wait for the disk)
    #[arg(
        short = 't',
        long,
        alias = "output-cache",
        value_name = "TGT_CACHE",
        default_value = "unsafe"
    )]
    target_cache: String,
    /// Cache mode of the source; accepted, without effect
    #[arg(short = 'T', long, value_name = "SRC_CACHE")]
    source_cache: Option<String>,
    /// Accepted: data is always written in any order
    #[arg(short = 'W', long)]
    oob_writes: bool,
    /// Accepted, without effect
    #[arg(short = 'm', long, value_name = "NUM_COROUTINES")]
    parallel: Option<String>,
    /// Bytes a second at most
    #[arg(short, long, value_name = "RATE")]
    rate: Option<String>,
    #[command(flatten)]
    options: ImageOpts,
    #[command(flatten)]
    sharing: Sharing,
    #[command(flatten)]
    talk: Talk,
    #[command(flatten)]
    dry_run: DryRun,
    /// The images to read, one behind the other, then the image to make; it is overwritten
    /// when it exists
    #[arg(value_name = "FILENAME", num_args = 0..)]
    filenames: Vec<String>,
}

impl Options {
    fn format(&self) -> &str {
        self.target_format.as_deref().unwrap_or("raw")
    }

    /// Bytes of zeros that become a hole; `None` unless `-S` was given.
    fn sparse(&self) -> Result<Option<u64>, Failure> {
        let what = "buffer size for sparse output";
        let Some(bytes) = self.sparse_size.as_deref() else {
            return Ok(None);
        };
        let bytes = number(what, bytes)?;
        if bytes % SECTOR != 0 || bytes > MAX_SPARSE {
            return Err(Failure::new(format_args!(
                "Invalid {what} specified. Valid sizes are multiples of {SECTOR} up to \
                 {MAX_SPARSE}. Select 0 to disable sparse detection (fully allocates output)."
            )));
        }
        Ok(Some(bytes))
    }

    /// What does not go together, in qemu-img's order.
    fn check(&self, sparse: Option<u64>) -> Result<(), Failure> {
        let has_options = !self.target_options.is_empty();
        let copy = self.copy_range_offloading;
        for (conflict, message) in [
            (
                self.no_create && has_options,
                "-o has no effect when skipping image creation",
            ),
            (
                copy && sparse.is_some(),
                "Cannot enable copy offloading when -S is used",
            ),
            (
                copy && self.compress,
                "Cannot enable copy offloading when -c is used",
            ),
            (
                copy && self.salvage,
                "Cannot use copy offloading in salvaging mode",
            ),
            (
                self.target_image_opts && !self.no_create,
                "--target-image-opts requires use of -n flag",
            ),
            (
                self.target_is_zero && !self.no_create,
                "--target-is-zero requires use of -n flag",
            ),
            (
                self.skip_broken_bitmaps && !self.bitmaps,
                "Use of --skip-broken-bitmaps requires --bitmaps",
            ),
            (
                self.bitmaps && self.filenames.len() > 2,
                "Copying bitmaps only possible with single source",
            ),
        ] {
            if conflict {
                return Err(Failure::new(message));
            }
        }
        Ok(())
    }
}

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// The largest run of zeros that qemu-img looks for, in bytes.
const MAX_SPARSE: u64 = 16 << 20;

/// A number as qemu-img reads it for an option of its own.
pub(crate) fn number(what: &str, text: &str) -> Result<u64, Failure> {
    size::parse(text).map_err(|error| match error {
        SizeError::Invalid => Failure::new(format_args!("Invalid {what} specified: '{text}'.")),
        SizeError::TooLarge => Failure::new(format_args!(
            "Invalid {what} specified. Must be between 0 and {}.",
            u64::MAX >> 1
        )),
    })
}

pub(crate) fn run(options: &Options) -> Outcome {
    new_image::check_lists(&options.target_options)?;
    let sparse = options.sparse()?;
    let rate = super::commit::rate(options.rate.as_deref())?;
    if let Some(parallel) = &options.parallel {
        let what = "number of coroutines";
        if !(1..=16).contains(&number(what, parallel)?) {
            return Err(Failure::new(format_args!(
                "Invalid {what} specified. Must be between 1 and 16."
            )));
        }
    }
    options.check(sparse)?;
    if new_image::wants_help(&options.target_options) {
        return super::create::print_options(options.format(), options.filenames.len() > 1);
    }
    let Some((target, sources)) = options
        .filenames
        .split_last()
        .filter(|(_, s)| !s.is_empty())
    else {
        return Err(Failure::new("Must specify image file name"));
    };
    open::source_cache(options.source_cache.as_deref())?;

    let mut tree = Tree::new();
    let gate = options.sharing.gate()?;
    let chains = sources
        .iter()
        .map(|source| {
            let given = options.options.given(source, options.format.as_deref())?;
            open::chain(&mut tree, &gate, &given)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let snapshot = snapshot(options, &tree, &chains)?;
    let convert = ConvertOptions {
        snapshot,
        window: None,
        zeros: match sparse {
            _ if options.copy_range_offloading => Zeros::Known,
            None => Zeros::USUAL,
            Some(0) => Zeros::Written,
            Some(bytes) => Zeros::Found(bytes),
        },
        compress: options.compress,
        bitmaps: options.bitmaps.then_some(if options.skip_broken_bitmaps {
            Broken::Skip
        } else {
            Broken::Refuse
        }),
        salvage: options.salvage,
    };
    let has_bitmaps = |chain: &Chain| chain.top().image().is_ok_and(|i| i.as_qcow2().is_some());
    if options.bitmaps && !chains.iter().all(has_bitmaps) {
        return Err(Failure::new("Source lacks bitmap support"));
    }
    let size = chains.iter().fold(0u64, |sum, chain| {
        sum.saturating_add(chain.virtual_size().next_multiple_of(SECTOR))
    });
    let to = if options.no_create {
        existing(options, target, size, &mut tree, &gate)?
    } else {
        new(options, target, &chains, &mut tree, &gate)?
    };
    let durability = open::target_cache(&options.target_cache)?;
    let operation = Operation::Convert {
        sources: chains.iter().map(|chain| chain.top().id).collect(),
        target: to,
        options: convert,
    };
    let run = Run {
        title: "convert",
        dry_run: &options.dry_run,
        progress: When::asked(options.talk.progress, options.talk.quiet),
        quiet: options.talk.quiet,
        durability,
        rate,
        force_share: options.sharing.force_share,
    };
    run.go_or(&tree, &gate, &operation, &|error| {
        failed(error, target, options)
    })?;
    Ok(code::OK)
}

/// The internal snapshot that is asked for.
fn snapshot(
    options: &Options,
    tree: &Tree,
    chains: &[Chain],
) -> Result<Option<SnapshotQuery>, Failure> {
    let Some(text) = &options.source_snapshot else {
        return Ok(None);
    };
    let query = snapshot_query(text)?;
    let [chain] = chains else {
        return Err(Failure::new(
            "No support for concatenating multiple snapshot",
        ));
    };
    match tree.chain_at(chain.top().id, &query) {
        Ok(_) => Ok(Some(query)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Failure::new("Failed to load snapshot: Can't find snapshot"))
        }
        Err(error) => Err(Failure::new(format_args!(
            "Failed to load snapshot: {error}"
        ))),
    }
}

/// Reads `-l`: an ID or name, or `snapshot.id=ID,snapshot.name=NAME`.
pub(crate) fn snapshot_query(text: &str) -> Result<SnapshotQuery, Failure> {
    if !text.starts_with("snapshot.") {
        return Ok(SnapshotQuery::IdOrName(text.to_owned()));
    }
    let (mut id, mut name) = (None, None);
    for (key, value) in crate::keyval::items(text) {
        match key.as_str() {
            "snapshot.id" => id = value,
            "snapshot.name" => name = value,
            _ => {
                crate::output::complain(&format!("Invalid parameter '{key}'"));
                return Err(Failure::new(format_args!(
                    "Failed in parsing snapshot param '{text}'"
                )));
            }
        }
    }
    match (id, name) {
        (Some(id), Some(name)) => Ok(SnapshotQuery::Both { id, name }),
        (Some(id), None) => Ok(SnapshotQuery::Id(id)),
        (None, Some(name)) => Ok(SnapshotQuery::Name(name)),
        (None, None) => Ok(SnapshotQuery::IdOrName(text.to_owned())),
    }
}

/// The target that `-n` means.
fn existing(
    options: &Options,
    name: &str,
    size: u64,
    tree: &mut Tree,
    gate: &FsGate,
) -> Result<Target, Failure> {
    if options.compress && options.format() == "raw" && !options.target_image_opts {
        return Err(no_compression());
    }
    let given = if options.target_image_opts {
        let opts = ImageOpts { image_opts: true };
        opts.given(name, options.target_format.as_deref())?
    } else {
        Given::name(name, Some(options.format()))
    };
    let known = tree.nodes().len();
    let chain = open::chain_to_change(tree, gate, &given)?;
    let node = chain.top().id;
    if tree.nodes().iter().take(known).any(|n| n.id == node) {
        return Err(Failure::open(
            name,
            format_args!(
                "Failed to get \"write\" lock\nIs another process using the image [{name}]?"
            ),
        ));
    }
    if options.target_is_zero && options.backing.is_some() {
        return Err(Failure::new(
            "Cannot use --target-is-zero when the destination image has a backing file",
        ));
    }
    if chain.virtual_size() < size {
        return Err(Failure::new("output file is smaller than input file"));
    }
    Ok(Target::Existing {
        node,
        is_zero: options.target_is_zero,
        over_backing: options.backing.is_some(),
    })
}

fn no_compression() -> Failure {
    Failure::new("Compression not supported for this file format")
}

/// The new image that is asked for.
fn new(
    options: &Options,
    name: &str,
    chains: &[Chain],
    tree: &mut Tree,
    gate: &FsGate,
) -> Result<Target, Failure> {
    let format = options.format();
    let mut new = NewImage::parse(format, &options.target_options).map_err(Failure::new)?;
    for (key, value, what) in [
        ("backing_file", &options.backing, "file"),
        ("backing_fmt", &options.backing_format, "file format"),
    ] {
        let Some(value) = value else { continue };
        if new.format == Format::Raw {
            return Err(Failure::new(format_args!(
                "Backing {what} not supported for file format 'raw'"
            )));
        }
        new.set(key, value).map_err(Failure::new)?;
    }
    let backing = new.text("backing_file");
    if backing.is_some() && new.text("backing_fmt").is_none() {
        return Err(Failure::new(
            "Use of backing file requires explicit backing format",
        ));
    }
    if backing.is_some() && chains.len() > 1 {
        return Err(Failure::new(
            "Having a backing file for the target makes no sense when concatenating multiple \
             input images",
        ));
    }
    let asked = |key| new.text(key).is_some_and(|mode| mode != "off");
    if options.compress {
        if new.format != Format::Qcow2 {
            return Err(no_compression());
        }
        if new.number("encryption") == Some(1) || new.text("encrypt.format").is_some() {
            return Err(Failure::new(
                "Compression and encryption not supported at the same time",
            ));
        }
        if asked("preallocation") {
            return Err(Failure::new(
                "Compression and preallocation not supported at the same time",
            ));
        }
    }
    if options.bitmaps && new.format == Format::Raw {
        return Err(Failure::new("Format driver 'raw' does not support bitmaps"));
    }
    let making = |message: String| {
        Failure::new(format_args!(
            "{name}: error while converting {format}: {message}"
        ))
    };
    let mut create = new.options().map_err(making)?;
    create.encryption = new.encryption(gate).map_err(making)?;
    if options.bitmaps && !create.v3 {
        return Err(Failure::new(format_args!(
            "Format driver '{format}' does not support bitmaps"
        )));
    }
    let backing = match backing {
        Some(backing) => Some(open_backing(name, backing, &create, tree, gate)?),
        None => None,
    };
    // qemu-img has the sources open while it makes the target.
    new_image::not_an_input(tree, name).map_err(|_| {
        Failure::new(format_args!(
            "{name}: error while converting {format}: Failed to get \"write\" lock\n\
             Is another process using the image [{name}]?"
        ))
    })?;
    if let Some(data) = new.text("data_file") {
        new_image::not_an_input(tree, data)?;
        if options.compress {
            // What qemu-img says when it comes to the first byte.
            return Err(Failure::new(
                "error while writing at byte 0: Operation not supported",
            ));
        }
    }
    debug_assert!(!options.compress || create.preallocation == Preallocation::Off);
    Ok(Target::New {
        name: name.to_owned(),
        options: create,
        backing,
    })
}

fn open_backing(
    name: &str,
    backing: &str,
    options: &CreateOptions,
    tree: &mut Tree,
    gate: &FsGate,
) -> Result<NodeId, Failure> {
    let unopened =
        |why: String| Failure::open(name, format_args!("Could not open backing file: {why}"));
    let path = Locator::resolve(backing, Some(name)).map_err(|e| unopened(e.to_string()))?;
    let id = tree.add(gate, &path, options.backing_format);
    let id = id.map_err(|error| unopened(open::reason(&error, &path)))?;
    if let Err(error) = tree.chain(id) {
        let failure = open::broken_chain(tree, id, &path, &error);
        let frame = format!("Could not open '{path}': ");
        let message = failure.message();
        return Err(unopened(
            message.strip_prefix(&frame).unwrap_or(message).to_owned(),
        ));
    }
    Ok(id)
}

/// Errors about the target get qemu-img's words; reading a damaged source is a plain failure.
fn failed(error: &backchain::Error, target: &str, options: &Options) -> Failure {
    let failure = Failure::making(error, target);
    let is_new = !options.no_create;
    if error
        .message()
        .starts_with("Cannot copy inconsistent bitmap")
    {
        return failure;
    }
    if is_new && (error.file() == Some(target) || error.kind() == ErrorKind::Invalid) {
        let message = format!(
            "{target}: error while converting {}: {}",
            options.format(),
            failure.message()
        );
        return Failure::new(message);
    }
    // Nothing that exists is changed, so nothing is refused.
    if is_new && failure.code() == code::REFUSED {
        return failure.with_code(code::FAILED);
    }
    failure
}
