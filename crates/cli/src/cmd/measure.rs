//! `measure`: how long a file a new image needs.

use crate::args::Output;
use crate::cmd::convert::{number, snapshot_query};
use crate::failure::{Failure, Outcome, code};
use crate::new_image::{self, NewImage};
use crate::open::{self, Input};
use crate::output::{self, json};
use backchain::format::qcow2::Codec;
use backchain::measure::{Measure, measure};
use backchain::plan::{CreateOptions, Preallocation};
use backchain::{Chain, ErrorKind, Format, Tree};
use clap::Args;
use std::io::Write;

/// Say how long a file a new image needs
#[derive(Args)]
pub(crate) struct Options {
    /// Format of the new image
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    target_format: String,
    /// Options of the new image
    #[arg(short = 'o', long, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Virtual size of a new, empty image
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    size: Option<String>,
    /// Read FILENAME as an internal snapshot has it
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    #[command(flatten)]
    input: Input,
    /// The image to convert
    #[arg(value_name = "FILENAME", num_args = 0..)]
    filenames: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Outcome {
    new_image::check_lists(&options.options)?;
    let size = options.size.as_deref();
    let size = size.map(|size| number("image size", size)).transpose()?;
    let input = &options.input;
    let filename = match options.filenames.as_slice() {
        [] => None,
        [one] => Some(one),
        _ => return Err(Failure::new("At most one filename argument is allowed.")),
    };
    let about_file =
        input.format.is_some() || input.options.image_opts || options.snapshot.is_some();
    if filename.is_none() && about_file {
        return Err(Failure::new(
            "--image-opts, -f, and -l require a filename argument.",
        ));
    }
    if filename.is_none() && size.is_none() {
        return Err(Failure::new(
            "Either --size N or one filename must be specified.",
        ));
    }
    if filename.is_some() && size.is_some() {
        return Err(Failure::new(
            "--size N cannot be used together with a filename.",
        ));
    }
    let mut tree = Tree::new();
    let source = match filename {
        Some(name) => Some(source(options, name, &mut tree)?),
        None => None,
    };
    let (new, create) = target(options)?;
    let size = size.unwrap_or_else(|| source.as_ref().map_or(0, Chain::virtual_size));
    if new.format == Format::Luks {
        return print(&volume(options, &new, size)?, options.output);
    }
    let has_backing = new.text("backing_file").is_some();
    let extra = encryption_header(options, &new, &create)?;
    // Bitmaps belong to the disk as it is now, whatever snapshot is read.
    let bitmaps = source
        .as_ref()
        .map(|chain| tree.node(chain.top().id).as_ref());
    let measured = measure(source.as_ref(), bitmaps, size, &create, has_backing, extra);
    print(
        &measured.map_err(|error| Failure::new(error.message()))?,
        options.output,
    )
}

fn source(options: &Options, name: &str, tree: &mut Tree) -> Result<Chain, Failure> {
    let gate = options.input.gate()?;
    let given = options.input.given(name)?;
    let chain = open::chain(tree, &gate, &given)?;
    let Some(snapshot) = &options.snapshot else {
        return Ok(chain);
    };
    let query = snapshot_query(snapshot)?;
    tree.chain_at(chain.top().id, &query)
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::new("Failed to load snapshot: Can't find snapshot"),
            _ => Failure::new(format_args!("Failed to load snapshot: {error}")),
        })
}

/// The image to measure. Only what changes its length is looked at, in qemu-img's words.
fn target(options: &Options) -> Result<(NewImage, CreateOptions), Failure> {
    let format = &options.target_format;
    let new = NewImage::parse(format, &options.options).map_err(|message| {
        if message.starts_with("Unknown file format") {
            return Failure::new(message);
        }
        output::complain(&message);
        Failure::new(format_args!("Invalid options for file format '{format}'"))
    })?;
    let mut create = CreateOptions {
        format: new.format,
        codec: Codec::Zlib,
        extended_l2: new.number("extended_l2") == Some(1),
        ..CreateOptions::default()
    };
    if new.format != Format::Qcow2 {
        return Ok((new, create));
    }
    if let Some(size) = new.number("cluster_size") {
        create.cluster_size = size;
    }
    if let Some(bits) = new.number("refcount_bits") {
        create.refcount_bits = bits;
    }
    if let Some(compat) = new.text("compat") {
        create.v3 = match compat {
            "0.10" | "v2" => false,
            "1.1" | "v3" => true,
            _ => {
                return Err(Failure::new(format_args!(
                    "Invalid compatibility level: '{compat}'"
                )));
            }
        };
    }
    if let Some(mode) = new.text("preallocation") {
        create.preallocation = Preallocation::from_name(mode)
            .ok_or_else(|| Failure::new(format_args!("invalid parameter value: {mode}")))?;
    }
    Ok((new, create))
}

/// A LUKS volume: its header and the disk behind it.
fn volume(options: &Options, new: &NewImage, size: u64) -> Result<Measure, Failure> {
    let header = new.header_len(&options.input.gate()?);
    let header = header.map_err(Failure::new)?;
    let len = size.saturating_add(header);
    Ok(Measure {
        bitmaps: None,
        required: len,
        fully_allocated: len,
    })
}

/// Bytes that a LUKS header takes in a qcow2 image.
fn encryption_header(
    options: &Options,
    new: &NewImage,
    create: &CreateOptions,
) -> Result<u64, Failure> {
    if new.format != Format::Qcow2 || new.text("encrypt.format") != Some("luks") {
        return Ok(0);
    }
    let len = new.header_len(&options.input.gate()?);
    let cluster = create.cluster_size.max(1);
    Ok(len.map_err(Failure::new)?.next_multiple_of(cluster))
}

fn print(measured: &Measure, format: Output) -> Outcome {
    let mut out = output::stdout();
    match format {
        Output::Json => json::write(&mut out, measured)?,
        Output::Human => {
            writeln!(out, "required size: {}", measured.required)?;
            writeln!(out, "fully allocated size: {}", measured.fully_allocated)?;
            if let Some(bitmaps) = measured.bitmaps {
                writeln!(out, "bitmaps size: {bitmaps}")?;
            }
        }
    }
    out.flush()?;
    Ok(code::OK)
}
