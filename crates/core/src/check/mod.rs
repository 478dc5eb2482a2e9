//! The consistency check of one qcow2 image: it counts what refers to every host cluster and
//! compares with the refcounts stored. Reading only.
//!
//! What is counted and what is reported follows `qemu-img check` (QEMU 10.0.2), observed.
//! Damage is a finding, never a failure. Time grows with the metadata that the file really
//! holds, however often tables name each other, and memory has a fixed limit.

mod counts;
mod finding;
mod flags;
mod geometry;
mod l2;
mod metadata;
mod refcounts;
mod spans;
mod stored;
mod tables;
mod words;

pub use finding::{CheckReport, Finding, Severity};
pub use refcounts::Refcounts;

use crate::image::Qcow2;
use crate::source::ReadAt;
use finding::Recorder;
use geometry::Geometry;
use metadata::Bitmaps;
use refcounts::Pass;

/// More host clusters than this are not checked; QEMU has the same limit.
const MAX_CLUSTERS: u64 = (1 << 31) - 1;

/// Checks an image. `emit` gets the findings as they come, up to `limit` of them; the report
/// counts them all.
///
/// Findings come in the order of the file, which is not always qemu-img's order.
pub fn check(
    source: &dyn ReadAt,
    image: &Qcow2,
    limit: u64,
    emit: &mut dyn FnMut(&Finding),
) -> CheckReport {
    let header = &image.head.header;
    let geometry = Geometry::of(image, source.len());
    let mut recorder = Recorder::new(limit, emit);
    // QEMU knows whole sectors only.
    let sectors = header.size / backchain_format::raw::SECTOR;
    recorder.report.total_clusters =
        (sectors * backchain_format::raw::SECTOR).div_ceil(geometry.cluster);
    if geometry.clusters > MAX_CLUSTERS {
        let message = format!(
            "the file has {} clusters, at most {MAX_CLUSTERS} can be checked",
            geometry.clusters
        );
        recorder.add(&Finding::Unreadable { message });
        return recorder.report;
    }

    let mut pass = Pass::new(source, image, geometry, Bitmaps::Consistent, &mut recorder);
    let (mut start, mut highest, mut suspect) = (0, 0, false);
    while start <= geometry.clusters {
        recorder.muted = start > 0;
        let (counts, beyond) = pass.count(start, &mut recorder);
        recorder.muted = false;
        let compared = pass.compare(&counts, &mut recorder);
        suspect |= beyond | compared.flags;
        highest = highest.max(compared.highest);
        start = counts.end();
    }
    if suspect {
        flags::check_copied(&mut pass, &mut recorder);
    }
    recorder.report.image_end_offset = (highest + 1) << geometry.cluster_bits;
    recorder.report
}
