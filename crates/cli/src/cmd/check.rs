//! `check`: whether an image is consistent, and mending it.

use crate::args::Output;
use crate::failure::{Failure, Outcome, code};
use crate::open::{Input, SourceCache, target_cache};
use crate::output::progress::When;
use crate::output::{self, check as print};
use crate::work::{DryRun, Run};
use backchain::check::{self, CheckFailure, CheckReport, Diagnosis, Fix, Told};
use backchain::{Node, Operation, Tree};
use clap::Args;
use std::io::Write;

/// Findings that are printed, at most.
const MAX_FINDINGS: u64 = 1_000_000;

/// Check the consistency of an image, and repair it
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    cache: SourceCache,
    /// How to print it
    #[arg(long, value_name = "OFMT", default_value = "human")]
    output: Output,
    /// Mend what is wrong: only lost clusters (leaks), or everything (all)
    #[arg(short, long, value_name = "leaks|all")]
    repair: Option<String>,
    /// Only show what a repair would do; no byte is changed
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// Show progress
    #[arg(short, long)]
    progress: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    input: Input,
    /// The image
    filename: String,
}

pub(crate) fn run(options: &Options) -> Outcome {
    let fix = match options.repair.as_deref() {
        None => Fix::Nothing,
        Some("leaks") => Fix::Leaks,
        Some("all") => Fix::All,
        Some(other) => {
            let message = format!("--repair (-r) expects 'leaks' or 'all' not '{other}'");
            return Err(Failure::usage("check", message));
        }
    };
    options.cache.check()?;
    if fix != Fix::Nothing && options.input.sharing.force_share {
        let message = "force-share=on can only be used with read-only images";
        return Err(Failure::open(&options.filename, message));
    }
    let mut found = examine(options, fix)?;
    if fix != Fix::Nothing && found.diagnosis.mends() {
        mend(options, fix, &found)?;
        if options.dry_run {
            return Ok(code::OK);
        }
    }
    let first = found.diagnosis.report;
    if first.corruptions_fixed > 0 || first.leaks_fixed > 0 {
        if options.output == Output::Human && !options.quiet {
            let mut out = output::stdout();
            print::repaired(&mut out, &first)?;
            out.flush()?;
        }
        found = examine(options, Fix::Nothing)?;
        let report = &mut found.diagnosis.report;
        report.corruptions_fixed = first.corruptions_fixed;
        report.leaks_fixed = first.leaks_fixed;
    }
    let report = found.diagnosis.report;
    if found.diagnosis.failure.is_none() {
        show(options, &report)?;
    }
    if let Some(failure) = &found.diagnosis.failure {
        return Err(Failure::new(format_args!(
            "Check failed: {}",
            failure.reason
        )));
    }
    if report.check_errors > 0 {
        return Err(Failure::new("Check failed"));
    }
    Ok(exit_code(&report))
}

/// The image as it was opened, and what was found.
struct Found {
    tree: Tree,
    gate: backchain_native::FsGate,
    node: std::sync::Arc<Node>,
    diagnosis: Diagnosis,
}

/// Opens the image and checks it, telling the story on standard error as qemu-img does.
fn examine(options: &Options, fix: Fix) -> Result<Found, Failure> {
    let mut tree = Tree::for_check();
    let gate = options.input.gate()?;
    let chain = options.input.chain(&mut tree, &gate, &options.filename)?;
    let node = std::sync::Arc::clone(chain.top());
    let Some(image) = node.image()?.as_qcow2() else {
        let failure = Failure::new("This image format does not support checks");
        return Err(failure.with_code(code::NO_CHECKS));
    };
    if image.forgets_bitmaps() {
        output::warn(
            "a program lacking bitmap support modified this file, so all bitmaps are now \
             considered inconsistent",
        );
        // qemu-img does not end this line.
        let end = if output::program() == "qemu-img" {
            ""
        } else {
            "\n"
        };
        eprint!(
            "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.{end}"
        );
    }
    // Findings go where qemu-img has them: to standard error, even with -q.
    let mut error = std::io::LineWriter::new(std::io::stderr());
    let mut tell = |told: Told<'_>| {
        let _ = writeln!(error, "{told}");
    };
    let diagnosis = check::diagnose(node.source.as_ref(), image, fix, MAX_FINDINGS, &mut tell);
    if let Some(failure) = &diagnosis.failure {
        explain(failure);
    }
    Ok(Found {
        tree,
        gate,
        node,
        diagnosis,
    })
}

fn explain(failure: &CheckFailure) {
    if let Some(message) = &failure.message {
        let hint = failure.hint.as_ref();
        let hint = hint.map_or_else(String::new, |hint| format!("\n{hint}"));
        output::complain(&format!("ERROR {message}{hint}"));
    }
}

fn mend(options: &Options, fix: Fix, found: &Found) -> Result<(), Failure> {
    let operation = Operation::Repair {
        image: found.node.id,
        fix,
    };
    let run = Run {
        title: "check",
        dry_run: &DryRun {
            dry_run: options.dry_run,
            output: options.output,
        },
        progress: When::asked(options.progress, options.quiet),
        quiet: options.quiet,
        durability: target_cache(options.cache.cache.as_deref().unwrap_or("writeback"))?,
        rate: None,
        force_share: false,
    };
    run.go(&found.tree, &found.gate, &operation)?;
    Ok(())
}

fn show(options: &Options, report: &CheckReport) -> Result<(), Failure> {
    if options.quiet {
        return Ok(());
    }
    let mut out = output::stdout();
    if options.output == Output::Json {
        output::json::write(&mut out, &print::json(report, &options.filename))?;
    } else {
        print::text(&mut out, report)?;
    }
    out.flush()?;
    Ok(())
}

/// qemu-img's exit code for a check that was completed.
fn exit_code(report: &CheckReport) -> u8 {
    if report.corruptions > 0 {
        code::CORRUPT
    } else if report.leaks > 0 {
        code::LEAKS
    } else {
        code::OK
    }
}
