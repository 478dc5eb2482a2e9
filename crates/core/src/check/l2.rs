//! Counting the references in one L2 table.

use super::counts::{Copied, Counts};
use super::finding::Finding;
use super::geometry::{Geometry, bits};
use super::refcounts::Mend;
use super::report::Recorder;
use super::spans::Span;
use super::tables::Table;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::CompressedCluster;

/// Where the references of a pass go.
pub(super) struct Tally<'a, 'r> {
    pub(super) geometry: Geometry,
    pub(super) counts: &'a mut Counts,
    pub(super) recorder: &'a mut Recorder<'r>,
    /// An active entry names a cluster past the end of the file: its flag needs a look.
    pub(super) beyond: bool,
    /// What to do about misplaced preallocated clusters.
    pub(super) mend: Mend,
    /// References past the end of the file count.
    pub(super) past_end: bool,
    /// There are such.
    pub(super) empties: bool,
    /// Clusters of metadata that is no L2 table, in order.
    pub(super) taken: &'a [Span],
}

/// Consecutive host clusters named by consecutive entries with the same flag.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    len: u64,
    copied: bool,
}

impl Tally<'_, '_> {
    /// Counts a region of one or more clusters that `times` tables name.
    pub(super) fn region(&mut self, offset: u64, size: u64, times: u64, copied: Copied) {
        match self.geometry.clusters_of(offset, size) {
            Some((first, count)) => {
                // The flag is about the cluster that the offset is in.
                self.counts.add(first, 1, times, copied);
                self.counts.add(first + 1, count - 1, times, Copied::Silent);
                self.beyond |= copied != Copied::Silent && first >= self.geometry.clusters;
            }
            None => {
                let finding = Finding::PastEnd { offset, size };
                self.recorder.add_times(&finding, times);
                if self.past_end {
                    let (first, len) = self.geometry.behind(offset, size);
                    self.counts.add(first, len, times, copied);
                }
                let first = offset >> self.geometry.cluster_bits;
                if first < self.geometry.clusters {
                    self.counts.add(first, 1, 0, copied);
                } else {
                    self.beyond |= copied != Copied::Silent;
                }
            }
        }
    }

    /// Whether entries of a table may be changed: it is where a table can be, and no other
    /// metadata is there.
    fn can_write(&self, table: Table) -> bool {
        can_write(self.geometry, self.taken, table.offset)
    }

    /// Counts what the table with these bytes refers to.
    pub(super) fn l2_table(&mut self, table: Table, bytes: &[u8]) {
        let mut walk = Walk {
            table,
            run: None,
            next: 0,
            allocated: 0,
            fragmented: 0,
            compressed: 0,
        };
        let g = self.geometry;
        // What rules an entry out of the fast path: reserved bits, compression, misalignment.
        let odd = bits::L2_RESERVED | bits::COMPRESSED | (g.cluster - 1) & !bits::ZERO;
        let entry_len = to_usize(g.layout.entry_len());
        let (mut rest, mut next_index) = (bytes, 0);
        while let Some((entry, behind)) = rest.split_at_checked(entry_len) {
            rest = behind;
            let index = next_index;
            next_index += 1;
            let word = be64(entry, 0).unwrap_or(0);
            let bitmap = be64(entry, 8).unwrap_or(0);
            if word == 0 && bitmap == 0 {
                continue;
            }
            let offset = word & bits::OFFSET;
            let plain = word & odd == 0
                && offset != 0
                && offset < g.file_len
                && bitmap & bitmap >> 32 == 0
                && !g.data_file;
            if !plain {
                walk.flush(self);
                walk.odd_entry(self, index, word, bitmap);
                continue;
            }
            let (cluster, copied) = (offset >> g.cluster_bits, word & bits::COPIED != 0);
            match &mut walk.run {
                Some(run) if run.first + run.len == cluster && run.copied == copied => run.len += 1,
                _ => {
                    walk.flush(self);
                    walk.breaks_at(offset);
                    let more = if g.layout.extended {
                        0
                    } else {
                        followers(rest, word, g)
                    };
                    walk.run = Some(Run {
                        first: cluster,
                        len: 1 + more,
                        copied,
                    });
                    next_index += more;
                    rest = rest.get(to_usize(more) * entry_len..).unwrap_or_default();
                }
            }
        }
        walk.flush(self);
        if table.active > 0 && !self.recorder.muted {
            let report = &mut self.recorder.report;
            let add = |total: &mut u64, n: u64| {
                *total = total.saturating_add(n.saturating_mul(table.active));
            };
            add(&mut report.allocated_clusters, walk.allocated);
            add(&mut report.fragmented_clusters, walk.fragmented);
            add(&mut report.compressed_clusters, walk.compressed);
        }
    }
}

/// Whether entries of the L2 table at `offset` may be changed: it is where a table can be, and no
/// other metadata (`taken`) is there.
pub(super) fn can_write(geometry: Geometry, taken: &[Span], offset: u64) -> bool {
    let cluster = offset >> geometry.cluster_bits;
    let before = taken.partition_point(|span| span.end <= cluster);
    let free = taken.get(before).is_none_or(|span| span.start > cluster);
    geometry.is_aligned(offset) && cluster < geometry.clusters && free
}

/// How many of the 8-byte entries in `bytes` go on where `word` leaves off, each with the next
/// cluster inside the file: most do, so this loop is what checking a large image costs.
fn followers(bytes: &[u8], word: u64, g: Geometry) -> u64 {
    let offset = word & bits::OFFSET;
    let limit = g.file_len.min(bits::OFFSET);
    let most = limit
        .saturating_sub(offset)
        .div_ceil(g.cluster)
        .saturating_sub(1);
    let mut expected = word;
    let alike = bytes
        .chunks_exact(8)
        .take(to_usize(most))
        .take_while(|entry| {
            expected = expected.wrapping_add(g.cluster);
            **entry == expected.to_be_bytes()
        });
    to_u64(alike.count())
}

/// The state of a walk over one table.
struct Walk {
    table: Table,
    run: Option<Run>,
    /// Host offset at which the next cluster would not be a fragment; 0 before the first.
    next: u64,
    allocated: u64,
    fragmented: u64,
    compressed: u64,
}

impl Walk {
    fn copied(&self, set: bool) -> Copied {
        match (self.table.active > 0, set) {
            (false, _) => Copied::Silent,
            (true, true) => Copied::Set,
            (true, false) => Copied::Clear,
        }
    }

    fn breaks_at(&mut self, offset: u64) {
        if self.next != 0 && self.next != offset {
            self.fragmented += 1;
        }
    }

    fn flush(&mut self, tally: &mut Tally<'_, '_>) {
        if let Some(run) = self.run.take() {
            let copied = self.copied(run.copied);
            tally
                .counts
                .add(run.first, run.len, self.table.times, copied);
            self.allocated += run.len;
            self.next = (run.first + run.len) << tally.geometry.cluster_bits;
        }
    }

    /// An entry that is compressed, damaged, or without a host cluster.
    fn odd_entry(&mut self, tally: &mut Tally<'_, '_>, index: u64, word: u64, bitmap: u64) {
        let (g, times) = (tally.geometry, self.table.times);
        if word & bits::COMPRESSED != 0 {
            return self.compressed_entry(tally, index, word, bitmap);
        }
        if word & bits::L2_RESERVED != 0 {
            let finding = Finding::L2Reserved { entry: word };
            tally.recorder.add_times(&finding, times);
        }
        let offset = word & bits::OFFSET;
        let set = word & bits::COPIED != 0;
        let allocated = bitmap & 0xffff_ffff;
        let zero = !g.layout.extended && word & bits::ZERO != 0;
        if offset == 0 && !(g.data_file && set && !zero) {
            if allocated != 0 {
                let finding = Finding::SubclustersWithoutCluster;
                tally.recorder.add_times(&finding, times);
            }
            return;
        }
        if bitmap & bitmap >> 32 != 0 {
            let finding = Finding::Subclusters { offset };
            tally.recorder.add_times(&finding, times);
        }
        if !g.is_aligned(offset) {
            let data = if g.layout.extended {
                allocated != 0
            } else {
                !zero
            };
            let finding = Finding::ClusterMisaligned { offset, data };
            if !data && tally.mend != Mend::No && tally.can_write(self.table) {
                tally.empties = true;
                if tally.mend == Mend::Tell {
                    tally.recorder.mended(&finding, 1);
                }
                return;
            }
            tally.recorder.add_times(&finding, times);
        }
        self.allocated += 1;
        self.breaks_at(offset);
        self.next = offset + g.cluster;
        if !g.data_file {
            let copied = self.copied(set);
            tally.region(offset, g.cluster, times, copied);
        } else if !set && self.table.active > 0 {
            // Clusters of a data file count as used once.
            tally.beyond = true;
        }
    }

    fn compressed_entry(&mut self, tally: &mut Tally<'_, '_>, index: u64, entry: u64, bitmap: u64) {
        let (g, times) = (tally.geometry, self.table.times);
        let descriptor = entry & (bits::COMPRESSED - 1);
        let packed = CompressedCluster::from_bits(descriptor, g.layout.cluster);
        if entry & bits::COPIED != 0 {
            let offset = packed.host.0;
            let finding = Finding::CompressedCopied { offset };
            tally.recorder.add_times(&finding, times);
        }
        let entry = entry & !bits::COPIED;
        if g.data_file {
            let finding = Finding::CompressedInDataFile { index, entry };
            return tally.recorder.add_times(&finding, times);
        }
        if bitmap != 0 {
            let finding = Finding::CompressedSubclusters { index, entry };
            return tally.recorder.add_times(&finding, times);
        }
        self.allocated += 1;
        self.fragmented += 1;
        self.compressed += 1;
        tally.region(packed.host.0, packed.len, times, Copied::Silent);
    }
}
