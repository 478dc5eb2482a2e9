//! A check, and what a repair would make of the image.

use super::finding::Finding;
use super::flags::{self, Basis};
use super::geometry::Geometry;
use super::metadata::Bitmaps;
use super::refcounts::{Manner, Mend, Pass};
use super::report::{CheckReport, Recorder, Told};
use super::snapshots;
use super::stored::Compared;
use crate::image::Qcow2;
use crate::source::ReadAt;
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{autoclear, incompatible};
use std::fmt;

/// More host clusters than this are not checked; QEMU has the same limit.
pub(super) const MAX_CLUSTERS: u64 = (1 << 31) - 1;

/// What a repair may mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fix {
    /// Nothing: it is a check.
    Nothing,
    /// Clusters that nobody uses and that do not count as free; and, when nothing else is
    /// wrong, the copied flags (`-r leaks`).
    Leaks,
    /// Everything (`-r all`).
    All,
}

impl Fix {
    /// The refcount of a cluster after a repair in place.
    pub(super) fn leaves(self, refcount: u64, references: u64) -> u64 {
        let mends = match self {
            Fix::Nothing => false,
            Fix::Leaks => refcount > references,
            Fix::All => true,
        };
        if mends { references } else { refcount }
    }
}

/// Why a check was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckFailure {
    /// What was found; `None` when it was told already.
    pub message: Option<String>,
    /// A second line: the way out.
    pub hint: Option<String>,
    /// The name of the error in a few words.
    pub reason: &'static str,
}

impl CheckFailure {
    pub(super) fn told(message: String, hint: Option<String>, reason: &'static str) -> Self {
        Self {
            message: Some(message),
            hint,
            reason,
        }
    }
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or(self.reason))
    }
}

/// What a check found, and what it takes to mend it.
#[derive(Debug, Clone, Default)]
pub struct Diagnosis {
    /// The counts. With a [`Fix`], what is mended is counted there and nowhere else.
    pub report: CheckReport,
    /// Why the check was given up; then nothing can be mended.
    pub failure: Option<CheckFailure>,
    /// The refcounts have to be made anew.
    pub(crate) rebuild: bool,
    /// Refcounts are wrong that can be written in place.
    pub(crate) refcounts: bool,
    /// Copied flags are wrong, and may be mended.
    pub(crate) flags: bool,
    /// Entries have to be emptied before anything is counted.
    pub(crate) entries: bool,
    /// The snapshot table has to be written anew.
    pub(crate) snapshots: bool,
    /// Bits of the header have to be changed, or bitmaps that nobody trusts be forgotten.
    pub(crate) header: bool,
    /// Nothing is wrong when all of this is done.
    pub(crate) clean: bool,
}

impl Diagnosis {
    /// Whether there is anything to mend.
    pub fn mends(&self) -> bool {
        self.failure.is_none()
            && (self.rebuild
                || self.refcounts
                || self.flags
                || self.entries
                || self.snapshots
                || self.header)
    }
}

/// Checks an image and says what of it `fix` would mend. `emit` gets the lines of the story as
/// they come, up to `limit` of them; the report counts everything.
pub fn diagnose(
    source: &dyn ReadAt,
    image: &Qcow2,
    fix: Fix,
    limit: u64,
    emit: &mut dyn FnMut(Told<'_>),
) -> Diagnosis {
    let mut recorder = Recorder::new(limit, emit);
    let mut diagnosis = Diagnosis::default();
    match examine(source, image, fix, &mut recorder, &mut diagnosis) {
        Ok(()) => {}
        Err(failure) => diagnosis.failure = Some(failure),
    }
    diagnosis.report = recorder.report;
    let report = &diagnosis.report;
    diagnosis.clean = diagnosis.failure.is_none() && report.is_clean();
    if fix != Fix::Nothing && diagnosis.failure.is_none() {
        let header = &image.head.header;
        let marks = incompatible::DIRTY | incompatible::CORRUPT;
        diagnosis.header = diagnosis.clean && header.incompatible & marks != 0
            || header.autoclear & !autoclear::KNOWN != 0
            || image.forgets_bitmaps();
    }
    diagnosis
}

fn examine(
    source: &dyn ReadAt,
    image: &Qcow2,
    fix: Fix,
    recorder: &mut Recorder<'_>,
    diagnosis: &mut Diagnosis,
) -> Result<(), CheckFailure> {
    let header = &image.head.header;
    let geometry = Geometry::of(image, source.len());
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
        return Ok(());
    }
    let table = snapshots::read(source, image, fix, recorder)?;
    diagnosis.snapshots = table.rewrite;
    // What is wrong with the list of snapshots does not matter to the rest.
    let listed = recorder.report.corruptions;
    let manner = Manner {
        bitmaps: Bitmaps::Consistent,
        fix,
        mend: if fix == Fix::All {
            Mend::Tell
        } else {
            Mend::No
        },
        structure: true,
        room: 0,
    };
    let mut pass = Pass::new(source, image, manner, &table, recorder);
    let mut all = Sum::default();
    let mut start = 0;
    while start <= geometry.clusters {
        let muted = start > 0;
        recorder.muted = muted;
        let (counts, beyond) = pass.count(start, recorder);
        recorder.muted = false;
        all.compared(recorder, |recorder| {
            pass.compare(&counts, Fix::Nothing, recorder)
        });
        all.flags |= beyond;
        start = counts.end();
        pass.keep(counts);
    }
    // QEMU makes the file longer until these are in it, and then finds that nothing counts them.
    for &cluster in &pass.outside {
        let finding = Finding::RefcountTooLow {
            cluster,
            refcount: 0,
            references: 1,
        };
        recorder.add(&finding);
    }
    diagnosis.entries = pass.empties && fix == Fix::All;
    all.rebuild |= pass.rebuild;
    let mut basis = Basis::Stored(fix);
    if all.rebuild && fix == Fix::All {
        diagnosis.rebuild = true;
        pass = rebuild(pass, source, image, &table, recorder);
        basis = Basis::Counted;
        all.flags = true;
    } else if all.rebuild && fix == Fix::Leaks {
        recorder.tell(Told::NeedsRebuild);
        return Err(CheckFailure {
            message: None,
            hint: None,
            reason: "Input/output error",
        });
    } else if fix != Fix::Nothing {
        let report = &recorder.report;
        if report.leaks > 0 || report.corruptions > listed {
            all.take_back(&mut recorder.report);
            let before = fixed(recorder);
            let beyond = all.flags;
            all = Sum::default();
            pass.windows(&mut |pass, counts| {
                all.compared(recorder, |recorder| pass.compare(counts, fix, recorder));
            });
            all.flags |= beyond;
            diagnosis.refcounts = fixed(recorder) > before;
        }
    }
    recorder.report.image_end_offset = (all.highest + 1) << geometry.cluster_bits;
    if all.flags {
        let report = &recorder.report;
        let sound = report.corruptions == listed && report.leaks == 0 && report.check_errors == 0;
        let repair = match fix {
            Fix::Nothing => false,
            Fix::Leaks => sound,
            Fix::All => true,
        };
        let found = &mut diagnosis.flags;
        flags::check_copied(&mut pass, basis, repair, recorder, &mut |_| *found = true);
    }
    Ok(())
}

fn fixed(recorder: &Recorder<'_>) -> u64 {
    let report = &recorder.report;
    report.corruptions_fixed.saturating_add(report.leaks_fixed)
}

/// Tells the story of a rebuild: everything is counted again over new refcounts, and the old
/// ones are freed. Returns a pass that does not count the old ones.
fn rebuild<'a>(
    mut pass: Pass<'a>,
    source: &'a dyn ReadAt,
    image: &'a Qcow2,
    table: &snapshots::SnapshotTable,
    recorder: &mut Recorder<'_>,
) -> Pass<'a> {
    recorder.tell(Told::Rebuilding);
    let old = recorder.report;
    let report = &mut recorder.report;
    (report.corruptions, report.leaks, report.check_errors) = (0, 0, 0);
    let manner = Manner {
        bitmaps: Bitmaps::Consistent,
        fix: Fix::Nothing,
        mend: Mend::Done,
        structure: false,
        room: 0,
    };
    // What is still wrong is met, and told, once more.
    let mut again = Pass::new(source, image, manner, table, recorder);
    let (counts, _) = again.count(0, recorder);
    again.keep(counts);
    let mut structure = pass.table.clusters(&mut pass.words, pass.geometry);
    structure.extend(&pass.outside);
    let max = pass.geometry.width.max();
    pass.windows(&mut |pass, counts| {
        for named in structure.chunk_by(|a, b| a == b) {
            let Some(&cluster) = named.first() else {
                continue;
            };
            let inside = cluster < pass.geometry.clusters;
            if inside && !(counts.start()..counts.end()).contains(&cluster) {
                continue;
            }
            let times = to_u64(named.len());
            let before = if inside {
                counts.get(cluster).references
            } else {
                times
            };
            let references = before.saturating_sub(times).min(max);
            let refcount = before.min(max);
            if refcount != references {
                let finding = Finding::Leak {
                    cluster,
                    refcount,
                    references,
                };
                recorder.mended(&finding, 0);
            }
        }
    });
    let report = &mut recorder.report;
    report.corruptions_fixed += old.corruptions.saturating_sub(report.corruptions);
    report.leaks_fixed += old.leaks.saturating_sub(report.leaks);
    again
}

/// What the comparisons of all windows found.
#[derive(Default)]
struct Sum {
    highest: u64,
    flags: bool,
    rebuild: bool,
    corruptions: u64,
    leaks: u64,
    check_errors: u64,
}

impl Sum {
    fn compared(
        &mut self,
        recorder: &mut Recorder<'_>,
        compare: impl FnOnce(&mut Recorder<'_>) -> Compared,
    ) {
        let before = recorder.report;
        let compared = compare(recorder);
        let after = &recorder.report;
        self.corruptions += after.corruptions - before.corruptions;
        self.corruptions = self.corruptions.saturating_sub(compared.overflow);
        self.leaks += after.leaks - before.leaks;
        self.check_errors += after.check_errors - before.check_errors;
        self.highest = self.highest.max(compared.highest);
        self.flags |= compared.flags;
        self.rebuild |= compared.rebuild;
    }

    /// As if nothing had been compared.
    fn take_back(&self, report: &mut CheckReport) {
        report.corruptions = report.corruptions.saturating_sub(self.corruptions);
        report.leaks = report.leaks.saturating_sub(self.leaks);
        report.check_errors = report.check_errors.saturating_sub(self.check_errors);
    }
}
