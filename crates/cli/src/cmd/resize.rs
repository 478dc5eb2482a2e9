//! `resize`: another size for a disk.

use super::amend::refuse_corrupt;
use crate::failure::{Failure, Outcome, code};
use crate::object::Object;
use crate::open::{ImageOpts, Input, Sharing, warn_guessed_raw};
use crate::output::progress::When;
use crate::output::size::{self, SizeError};
use crate::output::{self};
use crate::work::{self, DryRun, Run};
use backchain::plan::Preallocation;
use backchain::{Error, ErrorKind, Format, NodeId, Operation, Tree};
use backchain_native::Durability;
use clap::Args;
use std::io::Write;

/// Change the size of a disk
///
/// What the disk gains reads as zeros; what it loses is gone. Partitions and file systems on it
/// are not changed: make them smaller before, and larger behind.
#[derive(Args)]
pub(crate) struct Options {
    /// Format of FILENAME
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    #[command(flatten)]
    image_opts: ImageOpts,
    /// A passphrase: secret,id=ID,data=TEXT or secret,id=ID,file=FILE, with format=base64
    #[arg(long = "object", value_name = "OBJDEF")]
    objects: Vec<Object>,
    /// Follow files named inside an image whose own format nobody recorded
    #[arg(long)]
    trust_probed: bool,
    /// What the disk gains is allocated now: off, metadata, falloc or full
    #[arg(long, value_name = "PREALLOC")]
    preallocation: Option<String>,
    /// Allow a smaller size: what is behind it is lost
    #[arg(long)]
    shrink: bool,
    /// Make it smaller even when other images read what is lost
    #[arg(long)]
    force_dependents: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    dry_run: DryRun,
    /// The image
    filename: String,
    /// The new size, or by how much it changes: [+-]SIZE[bkKMGTPE]
    #[arg(value_name = "SIZE")]
    size: String,
}

pub(crate) fn run(options: &Options) -> Outcome {
    let preallocation = preallocation(options.preallocation.as_deref())?;
    let name = options.filename.as_str();
    let input = Input {
        format: options.format.clone(),
        options: options.image_opts,
        sharing: Sharing {
            objects: options.objects.clone(),
            force_share: false,
            trust_probed: options.trust_probed,
        },
    };
    input.given(name)?;
    let wanted = Size::parse(&options.size)?;
    let mut tree = Tree::new();
    let gate = input.gate()?;
    let image = input.chain_to_change(&mut tree, &gate, name)?.top().id;
    refuse_corrupt(&tree, image, name)?;
    warn_guessed_raw(&tree, image, name);
    let old = tree.node(image).virtual_size();
    let Some(size) = wanted.from(old) else {
        return Err(Failure::new("New image size must be positive"));
    };
    if size <= old && preallocation != Preallocation::Off {
        let message = "Preallocation can only be used for growing images";
        return Err(Failure::new(message));
    }
    if size < old && !options.shrink {
        output::complain("Use the --shrink option to perform a shrink operation.");
        output::warn(
            "Shrinking an image will delete all data beyond the shrunken image's end. Before \
             performing such an operation, make sure there is no important data there.",
        );
        return Err(Failure::silent(code::FAILED));
    }
    if is_qcow2(&tree, image) && !size.is_multiple_of(512) {
        return Err(Failure::new("The new size must be a multiple of 512"));
    }
    if size < old {
        work::look_beside(&mut tree);
    }
    let run = Run {
        title: "resize",
        dry_run: &options.dry_run,
        progress: When::Never,
        quiet: options.quiet,
        durability: Durability::Full,
        rate: None,
        force_share: false,
    };
    let operation = Operation::Resize {
        image,
        size,
        preallocation,
        allow_broken: options.force_dependents,
    };
    let done = run.go_or(&tree, &gate, &operation, &failed)?;
    if done.is_some() && !options.quiet {
        let mut out = output::stdout();
        writeln!(out, "Image resized.")?;
        out.flush()?;
    }
    Ok(code::OK)
}

fn is_qcow2(tree: &Tree, image: NodeId) -> bool {
    let image = tree.node(image).image.as_ref();
    image.is_ok_and(|image| image.format() == Format::Qcow2)
}

fn preallocation(mode: Option<&str>) -> Result<Preallocation, Failure> {
    let Some(mode) = mode else {
        return Ok(Preallocation::Off);
    };
    Preallocation::from_name(mode)
        .ok_or_else(|| Failure::new(format_args!("Invalid preallocation mode '{mode}'")))
}

/// Why it failed, in qemu-img's words where it has any.
pub(super) fn failed(error: &Error) -> Failure {
    let said = error.message();
    if error.kind() == ErrorKind::Unsupported && said.contains("version 2") {
        return Failure::new("Can't resize a v2 image which has snapshots");
    }
    if error.kind() == ErrorKind::Invalid || said == "Cannot resize fixed-size raw disks" {
        return Failure::new(said);
    }
    Failure::change(error)
}

/// A size as it is asked for.
struct Size {
    /// -1, 0 (absolute) or 1.
    relative: i8,
    bytes: u64,
}

impl Size {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (relative, digits) = match text.split_at_checked(1) {
            Some(("+", rest)) => (1, rest),
            Some(("-", rest)) => (-1, rest),
            _ => (0, text),
        };
        let bytes = match size::parse_u64(digits) {
            Ok(bytes) => bytes,
            Err(SizeError::TooLarge) => {
                return Err(Failure::new(format_args!(
                    "Value '{digits}' is out of range for parameter 'size'"
                )));
            }
            Err(SizeError::Invalid) => {
                return Err(Failure::new(
                    "Parameter 'size' expects a non-negative number below 2^64\n\
                     Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                     and exabytes, respectively.",
                ));
            }
        };
        Ok(Self { relative, bytes })
    }

    /// The size of a disk that has `old` bytes; `None` when that is none.
    fn from(&self, old: u64) -> Option<u64> {
        let size = match self.relative {
            0 => Some(self.bytes),
            1 => old.checked_add(self.bytes),
            _ => old.checked_sub(self.bytes),
        };
        size.filter(|size| *size > 0 && i64::try_from(*size).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_are_absolute_or_relative_and_always_positive() {
        let size = |text: &str, old| Size::parse(text).ok().and_then(|size| size.from(old));
        assert_eq!(size("2M", 1 << 20), Some(2 << 20));
        assert_eq!(size("+1k", 1024), Some(2048));
        assert_eq!(size("-1k", 2048), Some(1024));
        for text in ["0", "-1k", "-2k", "8E", "+8E", "15E", "16E", "x", ""] {
            assert_eq!(size(text, 1024), None, "{text}");
        }
    }
}
