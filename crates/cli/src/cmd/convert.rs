//! `convert`: the guest view of a chain as one new image.

use crate::failure::{Failure, Outcome, code};
use crate::new_image::{self, NewImage};
use crate::open::{self, ImageOpts, Sharing};
use crate::output::progress::When;
use crate::work::{DryRun, Run, Talk};
use backchain::{ErrorKind, Operation, Tree};
use clap::Args;

/// Copy what the guest sees into a new image
#[derive(Args)]
pub(crate) struct Options {
    /// Format of SRC_FILENAME
    #[arg(short, long = "source-format", value_name = "SRC_FMT")]
    format: Option<String>,
    /// Format of TGT_FILENAME
    #[arg(short = 'O', long, value_name = "TGT_FMT", default_value = "raw")]
    target_format: String,
    /// Options of the target's format; `-o help` lists them
    #[arg(short = 'o', long, value_name = "TGT_OPTS")]
    target_options: Vec<String>,
    /// Cache mode of the target (unsafe: do not wait for the disk)
    #[arg(short = 't', long, value_name = "TGT_CACHE", default_value = "unsafe")]
    target_cache: String,
    /// Cache mode of the source; accepted, without effect
    #[arg(short = 'T', long, value_name = "SRC_CACHE")]
    source_cache: Option<String>,
    /// Bytes of zeros that become a hole; accepted, without effect
    #[arg(short = 'S', long, value_name = "SPARSE_SIZE")]
    sparse_size: Option<String>,
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
    /// The image to read, then the image to make; it is overwritten when it exists
    #[arg(value_name = "FILENAME", num_args = 0..)]
    filenames: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Outcome {
    new_image::check_lists(&options.target_options)?;
    if new_image::wants_help(&options.target_options) {
        return super::create::print_options(&options.target_format, !options.filenames.is_empty());
    }
    let (source, target) = match options.filenames.as_slice() {
        [source, target] => (source, target),
        [] | [_] => return Err(Failure::new("Must specify image file name")),
        _ => return Err(Failure::new("only one source image is supported")),
    };
    let source = options.options.given(source, options.format.as_deref())?;
    let durability = open::target_cache(&options.target_cache)?;
    open::source_cache(options.source_cache.as_deref())?;
    let rate = super::commit::rate(options.rate.as_deref())?;
    if let Some(parallel) = &options.parallel
        && !matches!(parallel.parse::<u64>(), Ok(1..=16))
    {
        return Err(Failure::new(
            "Invalid number of coroutines specified. Must be between 1 and 16.",
        ));
    }

    let mut tree = Tree::new();
    let gate = options.sharing.gate()?;
    let chain = open::chain(&mut tree, &gate, &source)?;
    let new = NewImage::parse(&options.target_format, &options.target_options);
    let new = new.map_err(Failure::new)?;
    if new.text("backing_file").is_some() {
        return Err(Failure::new(
            "a backing file for the target is not supported",
        ));
    }
    let create = new.options().map_err(|message| {
        let format = &options.target_format;
        Failure::new(format_args!(
            "{target}: error while converting {format}: {message}"
        ))
    })?;
    new_image::not_an_input(&mut tree, target)?;
    if let Some(data) = new.text("data_file") {
        new_image::not_an_input(&mut tree, data)?;
    }
    let operation = Operation::Convert {
        top: chain.top().id,
        name: target.clone(),
        options: create,
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
        convert_failed(error, target, &options.target_format)
    })?;
    Ok(code::OK)
}

/// Errors about the target get qemu-img's words; reading a damaged source is a plain failure.
fn convert_failed(error: &backchain::Error, target: &str, format: &str) -> Failure {
    let failure = Failure::making(error, target);
    if error.file() == Some(target) || error.kind() == ErrorKind::Invalid {
        let message = format!(
            "{target}: error while converting {format}: {}",
            failure.message()
        );
        return Failure::new(message);
    }
    // Nothing that exists is changed, so nothing is refused.
    if failure.code() == code::REFUSED {
        return failure.with_code(code::FAILED);
    }
    failure
}
