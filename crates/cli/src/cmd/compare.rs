//! `compare`: whether two images show the guest the same.

use crate::failure::{Failure, Outcome, code};
use crate::open::{self, ImageOpts, Sharing, SourceCache};
use crate::output;
use crate::output::progress::{Progress, When};
use crate::work::{self, Talk};
use backchain::compare::Verdict;
use backchain::{ErrorKind, Tree};
use backchain_native::{CompareOptions, interrupt};
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
    #[command(flatten)]
    cache: SourceCache,
    #[command(flatten)]
    options: ImageOpts,
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
    let (verdict, progress) = verdict(options).map_err(|failure| match failure.code() {
        code::FAILED => failure.with_code(code::NOT_COMPARED),
        _ => failure,
    })?;
    // A percentage keeps its line until all is said; a bar makes room.
    let progress = Some(progress).filter(|progress| !matches!(progress, Progress::Bar(_)));
    say(options, verdict)?;
    drop(progress);
    Ok(if verdict.is_identical() {
        code::OK
    } else {
        code::FAILED
    })
}

fn verdict(options: &Options) -> Result<(Verdict, Progress), Failure> {
    let a = (&options.filename1, options.a_format.as_deref());
    let b = (&options.filename2, options.b_format.as_deref());
    let (a, b) = (
        options.options.given(a.0, a.1)?,
        options.options.given(b.0, b.1)?,
    );
    options.cache.check()?;
    // Each image has a tree of its own: the same file may be opened in two formats.
    let (mut left, mut right) = (Tree::new(), Tree::new());
    let gate = options.sharing.gate()?;
    work::name_all(&gate, &[Some(&*a.name), Some(&*b.name)]);
    let a = open::chain(&mut left, &gate, &a)?;
    let b = open::chain(&mut right, &gate, &b)?;
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
            ErrorKind::Io => failure.with_code(code::NOT_READ),
            _ => failure.with_code(code::NOT_MAPPED),
        }
    })?;
    if verdict.is_identical() {
        progress.finish();
    }
    Ok((verdict, progress))
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
