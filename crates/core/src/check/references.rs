//! The true number of references to each host cluster, for planners.

use super::Fix;
use super::counts::{CHUNK, Counts};
use super::geometry::Geometry;
use super::metadata::Bitmaps;
use super::refcounts::{Manner, Mend, Pass};
use super::report::{Recorder, Told};
use super::snapshots;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Qcow2;
use crate::source::ReadAt;
use std::ops::Range;

/// The true number of references to each host cluster, a window of them at a time.
///
/// For planners: what refcount blocks should say, whatever they do say.
pub struct Refcounts {
    counts: Counts,
    max: u64,
}

impl Refcounts {
    /// Calls `window` with the references of all host clusters of the file, in ascending
    /// windows. Fails when the metadata is so damaged that the counts mean nothing: any finding
    /// but wrong refcounts and wrong copied flags, named in the error.
    pub fn compute(
        source: &dyn ReadAt,
        image: &Qcow2,
        window: &mut dyn FnMut(Range<u64>, &Refcounts) -> Result<()>,
    ) -> Result<()> {
        let geometry = Geometry::of(image, source.len());
        if geometry.clusters > super::diagnosis::MAX_CLUSTERS {
            let message = "the file has too many clusters to count their references";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let mut first = None;
        let mut emit = |told: Told<'_>| {
            first.get_or_insert_with(|| told.to_string());
        };
        let mut recorder = Recorder::new(1, &mut emit);
        let fix = Fix::Nothing;
        let snapshots = snapshots::read(source, image, fix, &mut recorder)
            .map_err(|failure| Error::new(ErrorKind::Corrupt, failure.to_string()))?;
        let manner = Manner {
            bitmaps: Bitmaps::All,
            fix,
            mend: Mend::No,
            structure: true,
            room: 0,
        };
        let mut pass = Pass::new(source, image, manner, &snapshots, &mut recorder);
        let mut start = 0;
        while start <= geometry.clusters {
            let (counts, _) = pass.count(start, &mut recorder);
            if !recorder.report.is_clean() {
                break;
            }
            start = counts.end();
            let (range, max) = (
                counts.start()..start.min(geometry.clusters),
                geometry.width.max(),
            );
            window(range, &Refcounts { counts, max })?;
        }
        match first {
            None => Ok(()),
            Some(finding) => Err(Error::new(
                ErrorKind::Corrupt,
                format!("references cannot be counted: {finding}"),
            )),
        }
    }

    /// References to host cluster `cluster` of the window. An error when there are more than
    /// the image's refcounts can say.
    pub fn get(&self, cluster: u64) -> Result<u64> {
        let references = self.counts.get(cluster).references;
        if references > self.max {
            let message = format!(
                "host cluster {cluster} has {references} references, more than {} cannot be stored",
                self.max
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(references)
    }

    /// Whether nothing refers to any cluster of a range of the window. Looks at large parts of
    /// it at once.
    pub fn is_unused(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let end = ((at / CHUNK + 1) * CHUNK).min(range.end);
            if self.counts.chunk(at).is_some()
                && (at..end).any(|cluster| self.counts.get(cluster).references > 0)
            {
                return false;
            }
            at = end;
        }
        true
    }

    /// Whether active L1 or L2 entries with the copied flag refer to the cluster, and whether
    /// entries without it do. The flag says that the refcount is exactly one.
    pub fn copied_flags(&self, cluster: u64) -> (bool, bool) {
        let count = self.counts.get(cluster);
        (count.flag_set, count.flag_clear)
    }
}
