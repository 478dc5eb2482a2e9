//! The consistency check of one qcow2 image: it counts what refers to every host cluster and
//! compares with the refcounts stored. Reading only.
//!
//! What is counted and what is reported follows `qemu-img check` (QEMU 10.0.2), observed.
//! Damage is a finding, never a failure. Time grows with the metadata that the file really
//! holds, however often tables name each other, and memory has a fixed limit.

mod blocks;
mod counts;
mod diagnosis;
mod finding;
mod flags;
mod geometry;
mod l2;
mod layout;
mod metadata;
mod refcounts;
mod references;
mod remedy;
mod report;
mod snapshots;
mod spans;
mod stored;
mod tables;
mod users;
mod words;

pub use diagnosis::{CheckFailure, Diagnosis, Fix, diagnose};
pub use finding::{Finding, Severity};
pub(crate) use flags::Word;
pub use references::Refcounts;
pub(crate) use remedy::{CountCursor, Counting, Piece, Remedy, TableCursor};
pub use report::{CheckReport, Told};
pub use users::{User, users};

use crate::image::Qcow2;
use crate::source::ReadAt;

/// Checks an image. `emit` gets the findings as they come, up to `limit` of them; the report
/// counts them all.
///
/// Findings come in qemu-img's order. A check that has to be given up counts as an error of the
/// check; [`diagnose`] says why.
pub fn check(
    source: &dyn ReadAt,
    image: &Qcow2,
    limit: u64,
    emit: &mut dyn FnMut(&Finding),
) -> CheckReport {
    let mut found = |told: Told<'_>| {
        if let Told::Found(finding) | Told::Mended(finding) = told {
            emit(finding);
        }
    };
    let diagnosis = diagnose(source, image, Fix::Nothing, limit, &mut found);
    let mut report = diagnosis.report;
    if let Some(failure) = diagnosis.failure {
        report.check_errors += 1;
        if let Some(message) = failure.message {
            let finding = Finding::Unreadable { message };
            emit(&finding);
        }
    }
    report
}
