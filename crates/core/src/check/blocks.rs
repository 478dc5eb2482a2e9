//! The refcount table and its blocks, as something that takes clusters itself.

use super::Fix;
use super::counts::{Copied, Counts};
use super::finding::Finding;
use super::geometry::{Geometry, bits};
use super::report::Recorder;
use super::words::Words;
use backchain_format::HostOffset;
use backchain_format::qcow2::RefcountTableEntry;

/// QEMU makes files longer until they hold the refcount blocks that are named, if it can. Up to
/// here it surely can.
const GROWS: u64 = 1 << 40;
/// More than these are not looked at one by one.
const MAX_OUTSIDE: usize = 1 << 16;

/// Where the table is.
#[derive(Debug, Clone, Copy)]
pub(super) struct RefcountTable {
    pub(super) start: HostOffset,
    pub(super) entries: u64,
}

impl RefcountTable {
    fn end(self) -> u64 {
        let len = self.entries.saturating_mul(RefcountTableEntry::LEN);
        self.start.0.saturating_add(len)
    }

    /// Counts the refcount blocks themselves, in the order of their table, and reports what is
    /// wrong with its entries. Returns whether only new blocks help.
    pub(super) fn count(
        self,
        words: &mut Words<'_>,
        geometry: Geometry,
        fix: Fix,
        counts: &mut Counts,
        outside: &mut Vec<u64>,
        recorder: &mut Recorder<'_>,
    ) -> bool {
        let mut rebuild = false;
        let mut failed = None;
        let was_muted = recorder.muted;
        let mut each = |at: u64, word: u64| {
            let index = (at - self.start.0) / RefcountTableEntry::LEN;
            let offset = word & !bits::TABLE_RESERVED;
            let cluster = offset >> geometry.cluster_bits;
            if word & bits::TABLE_RESERVED != 0 {
                recorder.add(&Finding::RefcountTableReserved { index });
                rebuild = true;
            } else if !geometry.is_aligned(offset) {
                recorder.add(&Finding::RefcountBlockMisaligned { index });
                rebuild = true;
            } else if cluster >= geometry.clusters {
                let finding = Finding::RefcountBlockOutside { index };
                if fix == Fix::All {
                    rebuild = true;
                    if outside.last().is_none_or(|last| *last < cluster) {
                        recorder.mended(&finding, 1);
                    }
                    if !recorder.muted && offset < GROWS && outside.len() < MAX_OUTSIDE {
                        outside.push(cluster);
                    }
                } else {
                    recorder.add(&finding);
                }
            } else if cluster >= counts.start() && cluster < counts.end() {
                counts.add(cluster, 1, 1, Copied::Silent);
                let references = counts.get(cluster).references.min(geometry.width.max());
                // Each cluster is in one window only, so this is not a repetition.
                recorder.muted = false;
                if cluster < counts.end() && references != 1 {
                    recorder.add(&Finding::RefcountBlockShared { index, references });
                    rebuild = true;
                }
                recorder.muted = was_muted;
            }
        };
        words.each(self.start.0, self.end(), &mut each, &mut |at, error| {
            failed.get_or_insert_with(|| format!("refcount table (byte {at}): {error}"));
        });
        if let Some(message) = failed {
            recorder.add(&Finding::Unreadable { message });
        }
        rebuild
    }

    /// The host clusters of the table and of all blocks that count as references, in order; a
    /// cluster that is named twice is there twice.
    pub(super) fn clusters(self, words: &mut Words<'_>, geometry: Geometry) -> Vec<u64> {
        let mut list = Vec::new();
        if self.entries > 0
            && let Some((first, len)) =
                geometry.clusters_of(self.start.0, self.end() - self.start.0)
        {
            list.extend(first..first + len);
        }
        let mut each = |_: u64, word: u64| {
            let cluster = word >> geometry.cluster_bits;
            if geometry.is_aligned(word) && cluster < geometry.clusters {
                list.push(cluster);
            }
        };
        // What cannot be read was not counted either.
        words.each(self.start.0, self.end(), &mut each, &mut |_, _| {});
        list.sort_unstable();
        list
    }
}
