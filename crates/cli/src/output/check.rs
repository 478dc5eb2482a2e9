//! What `check` prints at its end.

use crate::failure::code;
use backchain::check::CheckReport;
use serde_json::{Map, Value, json};
use std::io::Write;

/// What a repair has mended, before the image is checked once more.
pub(crate) fn repaired(out: &mut impl Write, report: &CheckReport) -> std::io::Result<()> {
    writeln!(
        out,
        "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} \
         corruptions\n\nDouble checking the fixed image now...",
        report.leaks_fixed, report.corruptions_fixed
    )
}

/// The report as JSON, with the keys that qemu-img has.
pub(crate) fn json(report: &CheckReport, name: &str) -> Value {
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    // Zero counts are left out, except for the errors of the check itself.
    let optional = |n: u64| (n > 0).then(|| json!(n));
    if let Some(n) = optional(report.image_end_offset) {
        set("image-end-offset", n);
    }
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
    if let Some(n) = optional(report.corruptions_fixed) {
        set("corruptions-fixed", n);
    }
    if let Some(n) = optional(report.leaks_fixed) {
        set("leaks-fixed", n);
    }
    if let Some(n) = optional(report.fragmented_clusters) {
        set("fragmented-clusters", n);
    }
    Value::Object(map)
}

/// The report as text.
pub(crate) fn text(out: &mut impl Write, report: &CheckReport) -> std::io::Result<()> {
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

/// qemu-img's exit code for a check that was completed.
pub(crate) fn exit_code(report: &CheckReport) -> u8 {
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
