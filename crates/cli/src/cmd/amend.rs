//! `amend`: changes what kind of qcow2 image an image is, and the key slots of encrypted ones.
//!
//! Several changes are done one after the other, in qemu-img's order: what makes others possible
//! first, the way back to version 2 last.

use super::amend_slots::{self, SlotOptions};
use crate::failure::{Failure, Outcome, code};
use crate::new_image::{NewImage, check_lists, pairs, wants_help};
use crate::open::{Input, TargetCache, warn_guessed_raw};
use crate::output::progress::{Progress, When};
use crate::output::{self};
use crate::work::{self, DryRun, Run, Talk};
use backchain::format::qcow2::{CryptMethod, compatible, incompatible};
use backchain::plan::{Amendment, Preallocation};
use backchain::{Format, NodeId, Operation, Tree};
use backchain_native::{Durability, FsGate};
use clap::Args;
use std::io::Write;

/// Change the options of an image's format
///
/// What its guest sees stays the same, but for `size`.
#[derive(Args)]
pub(crate) struct Options {
    /// Options to change; `-o help` lists them
    #[arg(short, long, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Allow operations that may lose data, such as a smaller size while other images read it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cache: TargetCache,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    talk: Talk,
    #[command(flatten)]
    dry_run: DryRun,
    /// The image
    #[arg(value_name = "FILENAME")]
    names: Vec<String>,
}

/// What `-o help` says.
const HELP: &str = "Amend options for 'qcow2':
  backing_file=<str>     - File name of a base image
  backing_fmt=<str>      - Image format of the base image
  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])
  data_file=<str>        - File name of an external data file
  data_file_raw=<bool (on/off)> - The external data file must stay valid as a raw image
  encrypt.iter-time=<num> - Time to spend in PBKDF in milliseconds
  encrypt.keyslot=<num>  - Select a single keyslot to modify explicitly
  encrypt.new-secret=<str> - New secret to set in the matching keyslots. Empty string to erase
  encrypt.old-secret=<str> - Select all keyslots that match this password
  encrypt.state=<str>    - Select new state of affected keyslots (active/inactive)
  lazy_refcounts=<bool (on/off)> - Postpone refcount updates
  refcount_bits=<num>    - Width of a reference count entry in bits
  size=<size>            - Virtual disk size";

/// Keys of new images that can be amended.
const KEYS: [&str; 8] = [
    "backing_file",
    "backing_fmt",
    "compat",
    "data_file",
    "data_file_raw",
    "lazy_refcounts",
    "refcount_bits",
    "size",
];

/// Fails, in qemu-img's words, when the image is marked corrupt: nobody may write it.
pub(crate) fn refuse_corrupt(tree: &Tree, id: NodeId, name: &str) -> Result<(), Failure> {
    let image = tree.node(id).image()?;
    match image.as_qcow2() {
        Some(image) if image.head.header.has(incompatible::CORRUPT) => Err(Failure::open(
            name,
            "qcow2: Image is corrupt; cannot be opened read/write",
        )),
        _ => Ok(()),
    }
}

pub(crate) fn run(options: &Options) -> Outcome {
    check_lists(&options.options)?;
    if options.options.is_empty() {
        return Err(Failure::usage("amend", "Must specify options (-o)"));
    }
    let help = wants_help(&options.options);
    if let (true, Some(format)) = (help, options.input.format.as_deref()) {
        return match format.parse::<Format>() {
            Ok(format) => print_help(format),
            Err(_) => Err(Failure::new(format_args!("Unknown file format '{format}'"))),
        };
    }
    let [name] = options.names.as_slice() else {
        return Err(Failure::new("Expecting one image file name"));
    };
    let durability = options.cache.durability()?;
    let mut amend = Amend {
        options,
        name,
        durability,
        gate: options.input.gate()?,
    };
    let (tree, node) = amend.open()?;
    refuse_corrupt(&tree, node, name)?;
    warn_guessed_raw(&tree, node, name);
    warn_of_bitmaps(&tree, node)?;
    let format = tree.node(node).image()?.format();
    if help || format == Format::Raw {
        return print_help(format);
    }
    let given = Given::parse(format, &options.options)?;
    let progress = Progress::start(
        "amend",
        When::asked(options.talk.progress, options.talk.quiet),
    );
    let result = amend.all(&given);
    if let Err(failure) = result {
        failure.print();
        progress.finish();
        return Err(Failure::silent(failure.code()));
    }
    progress.finish();
    Ok(code::OK)
}

fn print_help(format: Format) -> Outcome {
    let help = match format {
        Format::Qcow2 => HELP,
        Format::Luks => amend_slots::HELP,
        _ => {
            return Err(Failure::new(format_args!(
                "Format driver '{format}' does not support option amendment"
            )));
        }
    };
    let mut out = output::stdout();
    writeln!(out, "{help}")?;
    out.flush()?;
    Ok(code::OK)
}

/// Says, in qemu-img's words, that the bitmaps of an image about to be written are given up.
pub(crate) fn warn_of_bitmaps(tree: &Tree, id: NodeId) -> Result<(), Failure> {
    let Some(image) = tree.node(id).image()?.as_qcow2() else {
        return Ok(());
    };
    let head = &image.head;
    if head.extensions.bitmaps(0).is_none() || image.bitmaps_consistent() && head.is_v3() {
        return Ok(());
    }
    output::warn(if head.is_v3() {
        "a program lacking bitmap support modified this file, so all bitmaps are now considered \
         inconsistent"
    } else {
        "This qcow2 v2 image contains bitmaps, but they may have been modified by a program \
         without persistent bitmap support; so now they must all be considered inconsistent"
    });
    // qemu-img does not end this line.
    let end = if output::program() == "qemu-img" {
        ""
    } else {
        "\n"
    };
    eprint!("Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.{end}");
    Ok(())
}

/// What `-o` asks for.
struct Given {
    values: NewImage,
    /// What is said of key slots.
    slots: SlotOptions,
}

impl Given {
    fn parse(format: Format, lists: &[String]) -> Result<Self, Failure> {
        let mut values = NewImage::parse(format.name(), &[]).map_err(Failure::new)?;
        let mut slots = SlotOptions::default();
        let mut only_new = None;
        for (key, value) in lists.iter().flat_map(|list| pairs(list)) {
            if slots.take(format, &key, &value)? {
                continue;
            }
            if matches!(key.as_str(), "nocow" | "extent_size_hint") {
                return Err(Failure::new(format_args!("Invalid parameter '{key}'")));
            }
            values.set(&key, &value).map_err(Failure::new)?;
            if format != Format::Qcow2 || !KEYS.contains(&key.as_str()) {
                only_new.get_or_insert(key);
            }
        }
        match only_new {
            Some(key) => Err(Failure::new(format_args!(
                "Invalid parameter '{key}'\nThis option is only supported for image creation"
            ))),
            None => Ok(Self { values, slots }),
        }
    }

    fn is_on(&self, key: &str) -> Option<bool> {
        self.values.number(key).map(|number| number == 1)
    }

    /// Whether it is to be version 3.
    fn version(&self) -> Result<Option<bool>, Failure> {
        match self.values.text("compat") {
            None => Ok(None),
            Some("0.10" | "v2") => Ok(Some(false)),
            Some("1.1" | "v3") => Ok(Some(true)),
            Some(other) => Err(Failure::new(format_args!(
                "Unknown compatibility level {other}"
            ))),
        }
    }
}

struct Amend<'a> {
    options: &'a Options,
    name: &'a str,
    durability: Durability,
    gate: FsGate,
}

impl Amend<'_> {
    /// Opens the image as it is now.
    fn open(&mut self) -> Result<(Tree, NodeId), Failure> {
        self.gate = self.options.input.gate()?;
        let mut tree = Tree::new();
        let input = &self.options.input;
        let chain = input.chain_to_change(&mut tree, &self.gate, self.name)?;
        let top = chain.top().id;
        Ok((tree, top))
    }

    fn all(&mut self, given: &Given) -> Result<(), Failure> {
        let failure = |message: &str| Err(Failure::new(message));
        let version = given.version()?;
        let bits = given.values.number("refcount_bits");
        if bits.is_some_and(|bits| !bits.is_power_of_two() || bits > 64) {
            return failure("Refcount width must be a power of two and may not exceed 64 bits");
        }
        let (tree, node) = self.open()?;
        let Some(image) = tree.node(node).image()?.as_qcow2() else {
            drop(tree);
            return self.slots(&given.slots);
        };
        let head = image.head.clone();
        let v3 = version.unwrap_or(head.is_v3());
        let data = Amendment::DataFile {
            name: given.values.text("data_file").map(str::to_owned),
            raw: given.is_on("data_file_raw"),
        };
        let amends_data =
            given.values.text("data_file").is_some() || given.is_on("data_file_raw").is_some();
        if amends_data {
            // What cannot be is refused before anything else is done.
            let operation = Operation::Amend {
                node,
                change: data.clone(),
            };
            tree.plan(&operation)
                .map_err(|error| Failure::change(&error))?;
        }
        match head.header.crypt {
            CryptMethod::None if given.slots.any() => {
                return failure("Can't amend encryption options - encryption not present");
            }
            CryptMethod::Aes if given.slots.any() => {
                return failure("Only LUKS encryption options can be amended");
            }
            _ => {}
        }
        drop(tree);
        if version == Some(true) {
            self.step(Amendment::Version { v3: true })?;
        }
        if given.slots.any() {
            self.slots(&given.slots)?;
        }
        if let Some(bits) = bits.filter(|&bits| bits != head.header.refcount_width.bits()) {
            if !v3 && bits != 16 {
                return failure(
                    "Refcount widths other than 16 bits require compatibility level 1.1 or above \
                     (use compat=1.1 or greater)",
                );
            }
            self.step(Amendment::RefcountBits(bits))?;
        }
        if amends_data {
            self.step(data)?;
        }
        let label = head.backing.as_ref().and_then(|b| b.format.as_deref());
        let name = head.backing.as_ref().map(|b| b.name.as_str());
        let (asked, asked_label) = (
            given.values.text("backing_file"),
            given.values.text("backing_fmt"),
        );
        if (asked.is_some() || asked_label.is_some()) && (asked != name || asked_label != label) {
            return failure(
                "Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.",
            );
        }
        let lazy = head.header.compatible & compatible::LAZY_REFCOUNTS != 0;
        if let Some(on) = given.is_on("lazy_refcounts").filter(|&on| on != lazy) {
            if on && !v3 {
                return failure(
                    "Lazy refcounts only supported with compatibility level 1.1 and above \
                     (use compat=1.1 or greater)",
                );
            }
            self.step(Amendment::LazyRefcounts(on))?;
        }
        if let Some(size) = given.values.number("size").filter(|&size| size > 0) {
            // None at all is as good as not said.
            self.resize(size)?;
        }
        if version == Some(false) {
            self.step(Amendment::Version { v3: false })?;
        }
        Ok(())
    }

    fn step(&mut self, change: Amendment) -> Result<(), Failure> {
        self.go(|node| Operation::Amend {
            node,
            change: change.clone(),
        })
    }

    fn slots(&mut self, options: &SlotOptions) -> Result<(), Failure> {
        let (tree, node) = self.open()?;
        let change = options.amendment(tree.node(node), &self.gate, self.options.force)?;
        self.run()
            .go(&tree, &self.gate, &Operation::Amend { node, change })?;
        Ok(())
    }

    fn resize(&mut self, size: u64) -> Result<(), Failure> {
        if !size.is_multiple_of(512) {
            return Err(Failure::new("The new size must be a multiple of 512"));
        }
        let (mut tree, image) = self.open()?;
        if size == tree.node(image).virtual_size() {
            return Ok(());
        }
        if size < tree.node(image).virtual_size() {
            work::look_beside(&mut tree);
        }
        let operation = Operation::Resize {
            image,
            size,
            preallocation: Preallocation::Off,
            allow_broken: self.options.force,
        };
        self.run()
            .go_or(&tree, &self.gate, &operation, &super::resize::failed)?;
        Ok(())
    }

    /// Does one of the changes.
    fn go(&mut self, operation: impl Fn(NodeId) -> Operation) -> Result<(), Failure> {
        let (tree, node) = self.open()?;
        self.run().go(&tree, &self.gate, &operation(node))?;
        Ok(())
    }

    fn run(&self) -> Run<'_> {
        Run {
            title: "amend",
            dry_run: &self.options.dry_run,
            progress: When::Never,
            quiet: self.options.talk.quiet,
            durability: self.durability,
            rate: None,
            force_share: self.options.input.sharing.force_share,
        }
    }
}
