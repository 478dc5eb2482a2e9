//! `check`: whether an image is consistent, and mending it.

use crate::args::Output;
use crate::failure::{Failure, Outcome, code};
use crate::metered::Metered;
use crate::open::{Input, SourceCache, target_cache};
use crate::output::progress::When;
use crate::output::{self, check as print};
use crate::work::{DryRun, Run};
use backchain::check::{self, CheckFailure, CheckReport, Diagnosis, Fix, Told};
use backchain::{Node, Operation, Tree};
use clap::Args;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

/// Findings that are printed, at most.
const MAX_FINDINGS: u64 = 1_000_000;
/// Clusters whose users are told, at most.
const MAX_DETAILS: usize = 1000;

/// Check the consistency of an image, and repair it
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    cache: SourceCache,
    /// How to print it
    #[arg(long, value_name = "OFMT", default_value = "human")]
    pub(super) output: Output,
    /// Mend what is wrong: only lost clusters (leaks), or everything (all)
    #[arg(short, long, value_name = "leaks|all")]
    repair: Option<String>,
    /// Say of every cluster that is wrong what uses it
    #[arg(long)]
    details: bool,
    /// Check the backing files, too, and the links between all of them
    #[arg(long)]
    backing_chain: bool,
    /// Only show what a repair would do; no byte is changed
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// Show progress
    #[arg(short, long)]
    progress: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    pub(super) quiet: bool,
    #[command(flatten)]
    pub(super) input: Input,
    /// The image
    pub(super) filename: String,
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
    if options.backing_chain {
        if fix != Fix::Nothing {
            let message = "--backing-chain cannot be combined with --repair (-r)";
            return Err(Failure::usage("check", message));
        }
        return super::check_chain::run(options);
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
    Ok(print::exit_code(&report))
}

/// The image as it was opened, and what was found.
struct Found {
    tree: Tree,
    gate: backchain_native::FsGate,
    node: Arc<Node>,
    diagnosis: Diagnosis,
}

/// Opens the image and checks it, telling the story on standard error as qemu-img does.
fn examine(options: &Options, fix: Fix) -> Result<Found, Failure> {
    let mut tree = Tree::for_check();
    let gate = options.input.gate()?;
    let chain = options.input.chain(&mut tree, &gate, &options.filename)?;
    let node = Arc::clone(chain.top());
    if node.image()?.as_qcow2().is_none() {
        let failure = Failure::new("This image format does not support checks");
        return Err(failure.with_code(code::NO_CHECKS));
    }
    let diagnosis = examine_node(options, &node, fix)?;
    Ok(Found {
        tree,
        gate,
        node,
        diagnosis,
    })
}

/// Checks an image that was opened, telling the story.
pub(super) fn examine_node(options: &Options, node: &Node, fix: Fix) -> Result<Diagnosis, Failure> {
    let Some(image) = node.image()?.as_qcow2() else {
        return Ok(Diagnosis::default());
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
    let bits = image.head.header.cluster.bits();
    let mut clusters = BTreeSet::new();
    let mut tell = |told: Told<'_>| {
        let _ = writeln!(error, "{told}");
        if let Told::Found(finding) | Told::Mended(finding) = told
            && options.details
            && clusters.len() < MAX_DETAILS
        {
            clusters.extend(finding.cluster(bits));
        }
    };
    let when = When::asked(options.progress, options.quiet);
    let source = Metered::new(&node.source, image, "check", when);
    let diagnosis = check::diagnose(&source, image, fix, MAX_FINDINGS, &mut tell);
    source.finish();
    drop(source);
    if let Some(failure) = &diagnosis.failure {
        explain(failure);
    }
    details(&mut error, node, &clusters)?;
    Ok(diagnosis)
}

/// Says what uses each of some clusters.
fn details(out: &mut impl Write, node: &Node, clusters: &BTreeSet<u64>) -> Result<(), Failure> {
    if clusters.is_empty() {
        return Ok(());
    }
    let clusters: Vec<u64> = clusters.iter().copied().collect();
    for (cluster, users) in check::users(node, &clusters)? {
        let names: Vec<String> = users.iter().map(ToString::to_string).collect();
        let what = match names.split_last() {
            None => "not used by anything".to_owned(),
            Some((last, [])) => format!("used by {last}"),
            Some((last, rest)) => format!("used by {} and by {last}", rest.join(", by ")),
        };
        let _ = writeln!(out, "Cluster {cluster} is {what}");
    }
    Ok(())
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
