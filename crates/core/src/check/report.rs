//! What a check counts, and what it tells while it runs.

use super::finding::{Finding, Severity};
use serde::Serialize;
use std::fmt;

/// The result of a check, counted as `qemu-img check` counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// Byte behind the last host cluster that is in use.
    pub image_end_offset: u64,
    /// Guest clusters of the virtual disk.
    pub total_clusters: u64,
    /// Guest clusters with a host cluster, the compressed ones included.
    pub allocated_clusters: u64,
    /// Allocated clusters that do not follow their predecessor in the file; every compressed
    /// cluster counts.
    pub fragmented_clusters: u64,
    /// Compressed guest clusters.
    pub compressed_clusters: u64,
    /// Findings that endanger data.
    pub corruptions: u64,
    /// Clusters lost.
    pub leaks: u64,
    /// Parts that could not be checked.
    pub check_errors: u64,
    /// Findings that endanger data, as far as the repair mends them.
    pub corruptions_fixed: u64,
    /// Clusters lost that the repair frees.
    pub leaks_fixed: u64,
}

impl CheckReport {
    /// How much was found of each kind, what is mended being a kind.
    pub(super) fn findings(&self) -> (u64, u64, u64, u64) {
        let found = (self.corruptions, self.leaks, self.check_errors);
        (found.0, found.1, found.2, self.corruptions_fixed)
    }

    /// Whether nothing was found, or nothing that stays.
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0 && self.check_errors == 0
    }
}

/// One line of a check's story. Its text has qemu-img's words.
#[derive(Debug, Clone, Copy)]
pub enum Told<'a> {
    /// Something is wrong and stays so.
    Found(&'a Finding),
    /// Something is wrong and is going to be right.
    Mended(&'a Finding),
    /// A block of refcounts is where none can be, so that it cannot be read.
    BlockUnaligned {
        /// Its offset.
        offset: u64,
        /// Index in the refcount table.
        index: u64,
    },
    /// The reference counts are made anew.
    Rebuilding,
    /// The reference counts have to be made anew, which was not asked for.
    NeedsRebuild,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Told::Found(finding) => write!(f, "{finding}"),
            Told::Mended(finding) => {
                let text = finding.to_string();
                let what = ["ERROR ", "Leaked "]
                    .iter()
                    .find_map(|start| text.strip_prefix(start));
                match what {
                    Some(what) => write!(f, "Repairing {what}"),
                    None => f.write_str(&text),
                }
            }
            Told::BlockUnaligned { offset, index } => {
                // The C library writes a zero without its prefix.
                let index = match index {
                    0 => "0".to_owned(),
                    index => format!("{index:#x}"),
                };
                write!(
                    f,
                    "qcow2: Image is corrupt: Refblock offset {offset:#x} unaligned (reftable \
                     index: {index}); further non-fatal corruption events will be suppressed"
                )
            }
            Told::Rebuilding => f.write_str("Rebuilding refcount structure"),
            Told::NeedsRebuild => f.write_str("ERROR need to rebuild refcount structures"),
        }
    }
}

/// Counts findings and passes the first of them on.
pub(super) struct Recorder<'a> {
    pub(super) report: CheckReport,
    emit: &'a mut dyn FnMut(Told<'_>),
    left: u64,
    /// While set, nothing is counted: a further pass over what was counted already.
    pub(super) muted: bool,
    /// While set, things are counted and told later.
    pub(super) silent: bool,
    /// While set, things are told that were counted before.
    pub(super) telling: bool,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(limit: u64, emit: &'a mut dyn FnMut(Told<'_>)) -> Self {
        Self {
            report: CheckReport::default(),
            emit,
            left: limit,
            muted: false,
            silent: false,
            telling: false,
        }
    }

    /// Whether nothing more is told, whatever is found.
    pub(super) fn is_full(&self) -> bool {
        self.left == 0
    }

    /// A finding.
    pub(super) fn add(&mut self, finding: &Finding) {
        self.add_times(finding, 1);
    }

    /// A finding that qemu-img counts `times` times, because it meets it on so many ways.
    pub(super) fn add_times(&mut self, finding: &Finding, times: u64) {
        if self.muted {
            return;
        }
        if self.telling {
            return self.tell(Told::Found(finding));
        }
        let count = match finding.severity() {
            Severity::Leak => &mut self.report.leaks,
            Severity::Corruption => &mut self.report.corruptions,
            Severity::CheckError => &mut self.report.check_errors,
        };
        *count = count.saturating_add(times);
        self.tell(Told::Found(finding));
    }

    /// A finding that the repair mends, which counts as `count` things.
    pub(super) fn mended(&mut self, finding: &Finding, count: u64) {
        if self.muted {
            return;
        }
        if self.telling {
            return self.tell(Told::Mended(finding));
        }
        let fixed = match finding.severity() {
            Severity::Leak => &mut self.report.leaks_fixed,
            _ => &mut self.report.corruptions_fixed,
        };
        *fixed = fixed.saturating_add(count);
        self.tell(Told::Mended(finding));
    }

    /// Passes a line on without counting anything.
    pub(super) fn tell(&mut self, told: Told<'_>) {
        if self.left > 0 && !self.muted && !self.silent {
            self.left -= 1;
            (self.emit)(told);
        }
    }

    /// One check error for each of `len` clusters from `first` on.
    pub(super) fn unreadable_refcounts(&mut self, first: u64, len: u64) {
        let told = len.min(self.left);
        for cluster in first..first.saturating_add(told) {
            self.add(&Finding::RefcountUnreadable { cluster });
        }
        self.report.check_errors = self.report.check_errors.saturating_add(len - told);
    }
}

/// Says nothing, counts nothing.
pub(super) fn quiet<T>(run: impl FnOnce(&mut Recorder<'_>) -> T) -> T {
    let mut nothing = |_: Told<'_>| {};
    let mut recorder = Recorder::new(0, &mut nothing);
    recorder.muted = true;
    run(&mut recorder)
}
