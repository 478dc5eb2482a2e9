//! `compare`: whether two images show the guest the same.

use crate::failure::{Failure, Outcome, code};
use crate::open::{self, Sharing};
use crate::output;
use crate::output::progress::{Progress, When};
use crate::work::{self, Talk};
use backchain::compare::Verdict;
use backchain::{ErrorKind, Tree};
use backchain_native::{CompareOptions, Durability, interrupt};
use clap::Args;
use std::io::Write;

/// Compare what two images show to the guest
#[derive(Args)]
pub(crate) struct Options {
    /// Format of FILENAME1
    #[arg(short = 'f', long, value_name = "FMT")]
    a_format: Option<String>,
    /// Format of FILENAME2
    #[arg(short = 'F', long, value_name = "FMT")]
    b_format: Option<String>,
    /// Sizes and allocation have to be the same too
    #[arg(short, long)]
    strict: bool,
    /// Cache mode; accepted, without effect
    #[arg(short = 'T', long, value_name = "CACHE_MODE")]
    cache: Option<String>,
    #[command(flatten)]
    sharing: Sharing,
    #[command(flatten)]
    talk: Talk,
    /// One image
    filename1: String,
    /// The other image
    filename2: String,
}

pub(crate) fn run(options: &Options) -> Outcome {
    let verdict = verdict(options).map_err(|failure| match failure.code() {
        code::FAILED => failure.with_code(code::CORRUPT),
        _ => failure,
    })?;
    say(options, verdict)?;
    Ok(if verdict.is_identical() {
        code::OK
    } else {
        code::FAILED
    })
}

fn verdict(options: &Options) -> Result<Verdict, Failure> {
    if work::cache_mode(options.cache.as_deref(), Durability::Full).is_err() {
        let mode = options.cache.as_deref().unwrap_or_default();
        return Err(Failure::new(format_args!(
            "Invalid source cache option: {mode}"
        )));
    }
    // Each image has a tree of its own: the same file may be opened in two formats.
    let (mut left, mut right) = (Tree::new(), Tree::new());
    let gate = options.sharing.gate();
    work::name_all(&gate, &[Some(&options.filename1), Some(&options.filename2)]);
    let format = options.a_format.as_deref();
    let a = open::chain(&mut left, &gate, &options.filename1, format)?;
    let format = options.b_format.as_deref();
    let b = open::chain(&mut right, &gate, &options.filename2, format)?;
    let when = When::asked(options.talk.progress, options.talk.quiet);
    let progress = Progress::start("compare", when);
    let compare = CompareOptions {
        strict: options.strict,
        cancel: Some(interrupt::watch()?),
        progress: Some(&|done, total| progress.set(done, total)),
        ..CompareOptions::default()
    };
    let verdict = backchain_native::compare(&a, &b, &compare).map_err(|error| {
        let failure = Failure::new(&error);
        match error.kind() {
            ErrorKind::Cancelled => failure.with_code(code::INTERRUPTED),
            _ => failure,
        }
    })?;
    if verdict.is_identical() {
        progress.finish();
    }
    Ok(verdict)
}

fn say(options: &Options, verdict: Verdict) -> Result<(), Failure> {
    if options.talk.quiet {
        return Ok(());
    }
    let mut out = output::stdout();
    match verdict {
        Verdict::Identical { sizes_differ } => {
            if sizes_differ {
                writeln!(out, "Warning: Image size mismatch!")?;
            }
            writeln!(out, "Images are identical.")?;
        }
        Verdict::Content { offset, in_tail } => {
            if in_tail {
                writeln!(out, "Warning: Image size mismatch!")?;
            }
            writeln!(out, "Content mismatch at offset {offset}!")?;
        }
        Verdict::Size => writeln!(out, "Strict mode: Image size mismatch!")?,
        Verdict::Status { offset } => {
            writeln!(out, "Strict mode: Offset {offset} block status mismatch!")?;
        }
    }
    out.flush()?;
    Ok(())
}
