//! `check`: whether an image is consistent.

use crate::args::Output;
use crate::failure::{Failure, Outcome, code};
use crate::open::{Input, SourceCache};
use crate::output::{self, json};
use backchain::Tree;
use backchain::check::{self, CheckReport};
use clap::Args;
use serde_json::{Map, Value, json};
use std::io::Write;

/// Findings that are printed, at most.
const MAX_FINDINGS: u64 = 10_000;

/// Check the consistency of an image; nothing is repaired
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    cache: SourceCache,
    /// How to print it
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    input: Input,
    /// The image
    filename: String,
}

pub(crate) fn run(options: &Options) -> Outcome {
    options.cache.check()?;
    let mut tree = Tree::new();
    let gate = options.input.gate()?;
    let name = &options.filename;
    let chain = options.input.chain(&mut tree, &gate, name)?;
    let node = chain.top();
    let Some(image) = node.image()?.as_qcow2() else {
        let failure = Failure::new("This image format does not support checks");
        return Err(failure.with_code(code::NO_CHECKS));
    };
    let human = options.output == Output::Human;
    let mut out = output::stdout();
    let report = check::check(node.source.as_ref(), image, MAX_FINDINGS, &mut |finding| {
        // Findings go where qemu-img has them: to standard error, even with -q.
        let _ = writeln!(std::io::stderr(), "{finding}");
    });
    if !human {
        json::write(&mut out, &json_report(&report, name))?;
    } else if !options.quiet {
        text(&mut out, &report)?;
    }
    out.flush()?;
    Ok(exit_code(&report))
}

/// qemu-img's exit code for a check that ran.
fn exit_code(report: &CheckReport) -> u8 {
    if report.check_errors > 0 {
        code::FAILED
    } else if report.corruptions > 0 {
        code::CORRUPT
    } else if report.leaks > 0 {
        code::LEAKS
    } else {
        code::OK
    }
}

fn json_report(report: &CheckReport, name: &str) -> Value {
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    // Zero counts are left out, except for the errors of the check itself.
    set("image-end-offset", json!(report.image_end_offset));
    let optional = |n: u64| (n > 0).then(|| json!(n));
    if let Some(n) = optional(report.compressed_clusters) {
        set("compressed-clusters", n);
    }
    if let Some(n) = optional(report.total_clusters) {
        set("total-clusters", n);
    }
    set("check-errors", json!(report.check_errors));
    if let Some(n) = optional(report.corruptions) {
        set("corruptions", n);
    }
    if let Some(n) = optional(report.leaks) {
        set("leaks", n);
    }
    if let Some(n) = optional(report.allocated_clusters) {
        set("allocated-clusters", n);
    }
    set("filename", json!(name));
    set("format", json!("qcow2"));
    if let Some(n) = optional(report.fragmented_clusters) {
        set("fragmented-clusters", n);
    }
    Value::Object(map)
}

fn text(out: &mut impl Write, report: &CheckReport) -> std::io::Result<()> {
    if report.is_clean() {
        writeln!(out, "No errors were found on the image.")?;
    } else {
        if report.corruptions > 0 {
            writeln!(
                out,
                "\n{} errors were found on the image.\nData may be corrupted, or further writes \
                 to the image may corrupt it.",
                report.corruptions
            )?;
        }
        if report.leaks > 0 {
            writeln!(
                out,
                "\n{} leaked clusters were found on the image.\nThis means waste of disk space, \
                 but no harm to data.",
                report.leaks
            )?;
        }
        if report.check_errors > 0 {
            writeln!(
                out,
                "\n{} internal errors have occurred during the check.",
                report.check_errors
            )?;
        }
    }
    if report.total_clusters != 0 && report.allocated_clusters != 0 {
        writeln!(
            out,
            "{}/{} = {}% allocated, {}% fragmented, {}% compressed clusters",
            report.allocated_clusters,
            report.total_clusters,
            percent(report.allocated_clusters, report.total_clusters),
            percent(report.fragmented_clusters, report.allocated_clusters),
            percent(report.compressed_clusters, report.allocated_clusters),
        )?;
    }
    if report.image_end_offset > 0 {
        writeln!(out, "Image end offset: {}", report.image_end_offset)?;
    }
    Ok(())
}

fn percent(part: u64, whole: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let percent = part as f64 * 100.0 / whole as f64;
    format!("{percent:.2}")
}
