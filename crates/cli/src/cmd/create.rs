//! `create`: new images and overlays.

use crate::failure::{Failure, Outcome, code};
use crate::new_image::{self, NewImage};
use crate::open::{self, Sharing};
use crate::output::size::{self, SizeError};
use crate::output::{self, progress::When};
use crate::work::{DryRun, Run};
use backchain::chain::Locator;
use backchain::plan::{CreateOptions, round_size};
use backchain::{Format, NodeId, Operation, Tree};
use backchain_native::{Durability, FsGate};
use clap::Args;
use std::io::Write;

/// Make a new image, or a new overlay on another image
#[derive(Args)]
pub(crate) struct Options {
    /// Format of the new image
    #[arg(short, long, value_name = "FMT", default_value = "raw")]
    format: String,
    /// Options of the format; `-o help` lists them
    #[arg(short, long, value_name = "FMT_OPTS")]
    options: Vec<String>,
    /// The backing file of the new image
    #[arg(short, long, value_name = "BACKING_FILENAME")]
    backing: Option<String>,
    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "BACKING_FMT")]
    backing_format: Option<String>,
    /// Do not open the backing file
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    /// Allow sizes whose L1 table is longer than QEMU accepts: QEMU cannot open the image
    #[arg(long)]
    beyond_qemu: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    sharing: Sharing,
    #[command(flatten)]
    dry_run: DryRun,
    /// The image to make; it is overwritten when it exists
    #[arg(required_unless_present = "options")]
    filename: Option<String>,
    /// Virtual size in bytes, with an optional suffix k, M, G, T, P or E
    size: Option<String>,
}

pub(crate) fn run(options: &Options) -> Outcome {
    new_image::check_lists(&options.options)?;
    if new_image::wants_help(&options.options) {
        return print_options(&options.format, options.filename.is_some());
    }
    let Some(name) = &options.filename else {
        return Err(Failure::usage("create", "Expecting image file name"));
    };
    let fail = |message: String| Failure::new(format_args!("{name}: {message}"));
    let given = options.size.as_deref().map(parse_size).transpose()?;
    let mut new = NewImage::parse(&options.format, &options.options).map_err(fail)?;
    for (key, value, what) in [
        ("backing_file", &options.backing, "file"),
        ("backing_fmt", &options.backing_format, "file format"),
    ] {
        let Some(value) = value else { continue };
        if new.format != Format::Qcow2 {
            let message = format!(
                "Backing {what} not supported for file format '{}'",
                new.format
            );
            return Err(fail(message));
        }
        new.set(key, value).map_err(fail)?;
    }
    if given.is_some() && new.number("size").is_some() {
        return Err(fail(
            "The image size must be specified only once".to_owned(),
        ));
    }

    let mut tree = Tree::new();
    let gate = options.sharing.gate()?;
    let backing = backing(options, &new, name, &mut tree, &gate)?;
    let size = given
        .or(new.number("size"))
        .or(backing.map(|id| tree.node(id).virtual_size()));
    let Some(size) = size else {
        return Err(fail("Image creation needs a size parameter".to_owned()));
    };
    if !options.quiet && !options.dry_run.dry_run {
        let mut out = output::stdout();
        writeln!(out, "{}", new.formatting(name, size))?;
        out.flush()?;
    }
    let mut create = CreateOptions {
        size: round_size(size),
        beyond_qemu: options.beyond_qemu,
        ..new.options().map_err(fail)?
    };
    create.encryption = new.encryption(&gate).map_err(fail)?;
    new_image::not_an_input(&mut tree, name)?;
    if let Some(data) = new.text("data_file") {
        new_image::not_an_input(&mut tree, data)?;
    }
    let operation = Operation::Create {
        name: name.clone(),
        options: create,
        backing,
    };
    let run = Run {
        title: "create",
        dry_run: &options.dry_run,
        progress: When::Never,
        quiet: options.quiet,
        durability: Durability::Full,
        rate: None,
        force_share: options.sharing.force_share,
    };
    run.go_or(&tree, &gate, &operation, &|error| {
        Failure::making(error, name).about(name)
    })?;
    Ok(code::OK)
}

/// Prints what `-o help` asks for.
pub(crate) fn print_options(format: &str, with_file: bool) -> Outcome {
    let format = format
        .parse()
        .map_err(|_| Failure::new(format_args!("Unknown file format '{format}'")))?;
    let mut out = output::stdout();
    writeln!(out, "{}", new_image::help(format, with_file))?;
    out.flush()?;
    Ok(code::OK)
}

fn parse_size(text: &str) -> Result<u64, Failure> {
    size::parse(text).map_err(|error| match error {
        SizeError::Invalid => Failure::new(format_args!("Invalid image size specified: '{text}'.")),
        SizeError::TooLarge => Failure::new(format_args!(
            "Invalid image size specified. Must be between 0 and {}.",
            u64::MAX >> 1
        )),
    })
}

/// Opens the backing file, unless the user does not want that.
fn backing(
    options: &Options,
    new: &NewImage,
    name: &str,
    tree: &mut Tree,
    gate: &FsGate,
) -> Result<Option<NodeId>, Failure> {
    let fail = |message: String| Failure::new(format_args!("{name}: {message}"));
    let Some(backing) = new.text("backing_file") else {
        return Ok(None);
    };
    if backing.is_empty() {
        return Err(fail(
            "Expected backing file name, got empty string".to_owned(),
        ));
    }
    if backing == name {
        return Err(fail(
            "Error: Trying to create an image with the same filename as the backing file"
                .to_owned(),
        ));
    }
    let unopened = |why: String| fail(format!("{why}\nCould not open backing image."));
    let format = new.text("backing_fmt");
    if options.backing_unsafe {
        if format.is_none() {
            return Err(fail(
                "Backing file specified without backing format".to_owned(),
            ));
        }
        return Ok(None);
    }
    let format = format.map(str::parse::<Format>).transpose();
    let format = format.map_err(|error| unopened(error.to_string()))?;
    let path = Locator::resolve(backing, Some(name)).map_err(|e| unopened(e.to_string()))?;
    let id = tree.add(gate, &path, format);
    let id = id.map_err(|error| unopened(open::reason(&error, &path)))?;
    if let Err(error) = tree.chain(id) {
        let failure = open::broken_chain(tree, id, &path, &error);
        let frame = format!("Could not open '{path}': ");
        let message = failure.message();
        let why = message.strip_prefix(&frame).unwrap_or(message);
        return Err(unopened(why.to_owned()));
    }
    if format.is_none() {
        return Err(fail(format!(
            "Backing file specified without backing format\nDetected format of {}.",
            tree.node(id).probed
        )));
    }
    Ok(Some(id))
}
