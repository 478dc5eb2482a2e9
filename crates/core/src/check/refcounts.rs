//! A pass over all the metadata of an image, counting references.

use super::Fix;
use super::blocks::RefcountTable;
use super::counts::{Copied, Counts};
use super::finding::Finding;
use super::geometry::{Geometry, bits};
use super::l2::Tally;
use super::metadata::{Bitmaps, Metadata};
use super::report::{Recorder, quiet};
use super::snapshots::SnapshotTable;
use super::spans::Span;
use super::stored::{self, Compared, Stored};
use super::tables::{Table, TableSet};
use super::words::{PIECE, Words};
use crate::image::Qcow2;
use crate::source::ReadAt;
use backchain_format::bytes::to_u64;
use std::collections::HashSet;
use std::ops::Range;

/// Bytes of L2 tables that do not start at a cluster boundary that are read. Such tables may
/// overlap, so reading them all could take as good as for ever.
const MISALIGNED_BYTES: u64 = 256 << 20;

/// What telling in order may still look into.
struct Budget {
    /// L1 entries.
    entries: u64,
    /// Bytes of tables that do not start at a cluster boundary.
    misaligned: u64,
}

/// What to do about entries that a repair empties: preallocated clusters that are misplaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mend {
    /// Nothing.
    No,
    /// Empty them, and tell.
    Tell,
    /// They are empty already.
    Done,
}

/// How a pass goes about its work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) bitmaps: Bitmaps,
    pub(super) fix: Fix,
    pub(super) mend: Mend,
    /// The refcount table and its blocks count.
    pub(super) structure: bool,
    /// Clusters behind the end of the file that count, too. What refers to them is wrong, but
    /// nothing may be put there: it would be read as what was lost.
    pub(super) room: u64,
}

/// What all passes over one image share.
pub(super) struct Pass<'a> {
    image: &'a Qcow2,
    manner: Manner,
    pub(super) geometry: Geometry,
    pub(super) metadata: Metadata,
    pub(super) words: Words<'a>,
    pub(super) stored: Stored<'a>,
    pub(super) table: RefcountTable,
    /// Only new refcount blocks help.
    pub(super) rebuild: bool,
    /// Clusters of refcount blocks behind the end of the file, in the order of their table.
    pub(super) outside: Vec<u64>,
    /// There are entries to empty.
    pub(super) empties: bool,
    /// The counts, when one window holds them all.
    kept: Option<Counts>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        source: &'a dyn ReadAt,
        image: &'a Qcow2,
        manner: Manner,
        snapshots: &SnapshotTable,
        recorder: &mut Recorder<'_>,
    ) -> Self {
        let header = &image.head.header;
        let geometry = Geometry::of(image, source.len());
        let table = RefcountTable {
            start: header.refcount_table,
            entries: header.refcount_table_entries(),
        };
        Self {
            image,
            manner,
            geometry,
            metadata: Metadata::gather(source, image, geometry, manner, snapshots, recorder),
            words: Words::new(source),
            stored: Stored::new(source, geometry, table.start, table.entries),
            table,
            rebuild: false,
            outside: Vec::new(),
            empties: false,
            kept: None,
        }
    }

    /// Counts the references to clusters from `start` on, as far as memory goes. The second
    /// value says whether active entries name clusters past the end of the file.
    pub(super) fn count(&mut self, start: u64, recorder: &mut Recorder<'_>) -> (Counts, bool) {
        let (geometry, muted) = (self.geometry, recorder.muted);
        // A misaligned cluster may reach into the one behind the end.
        let end = geometry.clusters + 1 + self.manner.room;
        let mut counts = Counts::new(start, end);
        for span in &self.metadata.clusters {
            counts.add(
                span.start,
                span.end - span.start,
                span.times,
                Copied::Silent,
            );
        }
        // Entries of tables that lie on other metadata are not changed.
        let taken = std::mem::take(&mut self.metadata.clusters);
        let mut tally = Tally {
            geometry,
            counts: &mut counts,
            recorder,
            beyond: false,
            mend: self.manner.mend,
            past_end: self.manner.room > 0,
            empties: false,
            taken: &taken,
        };
        let before = tally.recorder.report;
        let silent = std::mem::replace(&mut tally.recorder.silent, true);
        let mut known = 0u64;
        let mut window = Some(0);
        while let Some(offset) = window {
            // L1 entries are counted with the first window of L2 tables.
            tally.recorder.muted = muted || offset > 0;
            let tables;
            (tables, window) = self.l2_tables(offset, &mut tally);
            tally.recorder.muted = muted;
            known = known.saturating_add(to_u64(tables.len()));
            each_table(
                &mut self.words,
                geometry,
                &tables,
                &mut |event| match event {
                    Event::Table(table, bytes) => tally.l2_table(table, bytes),
                    Event::Failed(message) => tally.recorder.add(&Finding::Unreadable { message }),
                },
            );
        }
        tally.recorder.silent = silent;
        let found = tally.recorder.report.findings() != before.findings();
        let beyond = tally.beyond;
        self.empties |= tally.empties;
        if !muted {
            self.tell_in_order(found, known, &taken, recorder);
        }
        self.metadata.bitmap_clusters(
            &mut self.words,
            geometry,
            recorder,
            &mut |offset, times, recorder| {
                let mut tally = Tally {
                    geometry,
                    counts: &mut counts,
                    recorder,
                    beyond: false,
                    mend: Mend::No,
                    past_end: self.manner.room > 0,
                    empties: false,
                    taken: &[],
                };
                tally.region(offset, geometry.cluster, times, Copied::Silent);
            },
        );
        self.metadata.clusters = taken;
        if self.manner.structure {
            let fix = self.manner.fix;
            self.rebuild |= self.table.count(
                &mut self.words,
                geometry,
                fix,
                &mut counts,
                &mut self.outside,
                recorder,
            );
        }
        (counts, beyond)
    }

    /// Tells what was found in L1 and L2 tables and about them, in the order of qemu-img: table by
    /// table, as often as they are met. `walk`: there is something in the tables.
    fn tell_in_order(
        &mut self,
        walk: bool,
        known: u64,
        taken: &[Span],
        recorder: &mut Recorder<'_>,
    ) {
        let mut told = std::mem::take(&mut self.metadata.told)
            .into_iter()
            .peekable();
        let tables = std::mem::take(&mut self.metadata.tables);
        recorder.telling = true;
        // Tables may be named over and over; the counts are known, whatever is told.
        let mut left = Budget {
            entries: known.saturating_mul(4).saturating_add(1 << 16),
            misaligned: MISALIGNED_BYTES,
        };
        let mut seen = HashSet::new();
        for (number, &(start, end, active)) in tables.iter().enumerate() {
            while let Some((_, finding)) = told.next_if(|(turn, _)| *turn <= number) {
                recorder.add(&finding);
            }
            if walk {
                let from = (start, end, active);
                self.tell_table(from, &mut left, &mut seen, taken, recorder);
            }
        }
        told.for_each(|(_, finding)| recorder.add(&finding));
        recorder.telling = false;
        self.metadata.tables = tables;
    }

    /// Tells what is wrong in one L1 table and the L2 tables that it names.
    fn tell_table(
        &mut self,
        (start, end, active): (u64, u64, bool),
        left: &mut Budget,
        seen: &mut HashSet<u64>,
        taken: &[Span],
        recorder: &mut Recorder<'_>,
    ) {
        let g = self.geometry;
        let mut entries = Vec::new();
        let most = left.entries;
        let mut failed = None;
        self.words.each(
            start,
            end,
            &mut |_, entry| {
                if to_u64(entries.len()) < most {
                    entries.push(entry);
                }
            },
            &mut |at, error| {
                failed.get_or_insert_with(|| format!("L1 table (byte {at}): {error}"));
            },
        );
        left.entries -= to_u64(entries.len());
        if let Some(message) = failed {
            recorder.add(&Finding::Unreadable { message });
        }
        let mut counts = Counts::new(0, 0);
        let mut tally = Tally {
            geometry: g,
            counts: &mut counts,
            recorder,
            beyond: false,
            mend: self.manner.mend,
            past_end: false,
            empties: false,
            taken,
        };
        for entry in entries {
            l1_entry(&mut tally, entry, 1, active);
            let offset = entry & bits::OFFSET;
            if tally.recorder.is_full() {
                break;
            }
            if offset >= g.file_len || !g.is_aligned(offset) && left.misaligned < g.cluster {
                continue;
            }
            if !g.is_aligned(offset) {
                left.misaligned -= g.cluster;
            }
            // What is mended is so when the table is met again.
            if !seen.insert(offset) && tally.mend == Mend::Tell {
                tally.mend = Mend::Done;
            }
            let table = Table {
                offset,
                times: 1,
                active: 0,
            };
            each_table(&mut self.words, g, &[table], &mut |event| match event {
                Event::Table(table, bytes) => tally.l2_table(table, bytes),
                Event::Failed(message) => tally.recorder.add(&Finding::Unreadable { message }),
            });
            tally.mend = self.manner.mend;
        }
    }

    /// Keeps the counts of the whole file, so that nobody has to count again.
    pub(super) fn keep(&mut self, counts: Counts) {
        if counts.start() == 0 && counts.end() > self.geometry.clusters {
            self.kept = Some(counts);
        }
    }

    /// Calls `each` with the counts of all clusters, a window of them at a time, without telling
    /// anything again.
    pub(super) fn windows(&mut self, each: &mut dyn FnMut(&mut Self, &Counts)) {
        let mut start = 0;
        while start <= self.geometry.clusters {
            let counts = self.window(start);
            start = counts.end();
            each(self, &counts);
            self.keep(counts);
        }
    }

    /// The counts from `start` on, without telling anything again.
    pub(super) fn window(&mut self, start: u64) -> Counts {
        match self.kept.take() {
            Some(counts) if start == 0 => counts,
            _ => quiet(|recorder| self.count(start, recorder).0),
        }
    }

    /// Gathers the L2 tables from file offset `from` on. With the first of them, the L1
    /// entries themselves are checked and their references counted.
    fn l2_tables(&mut self, from: u64, tally: &mut Tally<'_, '_>) -> (Vec<Table>, Option<u64>) {
        let mut set = TableSet::new(from);
        let geometry = self.geometry;
        for span in &self.metadata.l1 {
            let mut failed = None;
            let mut each = |_, entry: u64| {
                let offset = entry & bits::OFFSET;
                if from == 0 {
                    l1_entry(tally, entry, span.times, span.active);
                }
                // Behind the end of the file there are only zeros. An entry of nothing but
                // reserved bits counts as one that names the header, as it does in QEMU.
                if offset < geometry.file_len {
                    set.push(Table {
                        offset,
                        times: span.times,
                        active: u64::from(span.active),
                    });
                }
            };
            self.words
                .each(span.start, span.end, &mut each, &mut |at, error| {
                    failed.get_or_insert_with(|| format!("L1 table (byte {at}): {error}"));
                });
            if let Some(message) = failed {
                tally.recorder.add(&Finding::Unreadable { message });
            }
        }
        set.finish()
    }

    /// Where the active L1 table is, in bytes, and its host clusters.
    pub(super) fn l1(&self) -> (u64, Range<u64>) {
        let header = &self.image.head.header;
        let (start, len) = (header.l1_table.0, u64::from(header.l1_entries) * 8);
        let clusters = self.geometry.clusters_of(start, len);
        (start, clusters.map_or(0..0, |(first, n)| first..first + n))
    }

    /// Gathers the L2 tables of all L1 tables from file offset `from` on.
    pub(super) fn all_tables(&mut self, from: u64) -> (Vec<Table>, Option<u64>) {
        let mut counts = Counts::new(0, 0);
        quiet(|recorder| {
            let mut tally = Tally {
                geometry: self.geometry,
                counts: &mut counts,
                recorder,
                beyond: false,
                mend: Mend::No,
                past_end: false,
                empties: false,
                taken: &[],
            };
            self.l2_tables(from, &mut tally)
        })
    }

    /// Gathers the L2 tables of the active L1 table from file offset `from` on, calling `each`
    /// with index and value of every L1 entry when `from` is 0.
    pub(super) fn active_tables(
        &mut self,
        from: u64,
        each: &mut dyn FnMut(u64, u64, &mut Stored<'_>),
    ) -> (Vec<Table>, Option<u64>) {
        let header = &self.image.head.header;
        let (start, len) = (header.l1_table.0, u64::from(header.l1_entries) * 8);
        let mut set = TableSet::new(from);
        let (file_len, stored) = (self.geometry.file_len, &mut self.stored);
        let mut entry = |at: u64, entry: u64| {
            let offset = entry & bits::OFFSET;
            if from == 0 {
                each((at - start) / 8, entry, stored);
            }
            if offset != 0 && offset < file_len {
                set.push(Table {
                    offset,
                    times: 1,
                    active: 1,
                });
            }
        };
        // What cannot be read was reported by the first pass.
        let end = start.saturating_add(len);
        self.words.each(start, end, &mut entry, &mut |_, _| {});
        set.finish()
    }

    pub(super) fn compare(
        &mut self,
        counts: &Counts,
        fix: Fix,
        recorder: &mut Recorder<'_>,
    ) -> Compared {
        stored::compare(&mut self.stored, &mut self.words, counts, fix, recorder)
    }
}

/// Checks and counts one L1 entry.
fn l1_entry(tally: &mut Tally<'_, '_>, entry: u64, times: u64, active: bool) {
    if entry & bits::L1_RESERVED != 0 {
        let finding = Finding::L1Reserved { entry };
        tally.recorder.add_times(&finding, times);
    }
    let offset = entry & bits::OFFSET;
    let copied = match (active && offset != 0, entry & bits::COPIED != 0) {
        (false, _) => Copied::Silent,
        (true, true) => Copied::Set,
        (true, false) => Copied::Clear,
    };
    tally.region(offset, tally.geometry.cluster, times, copied);
    if !tally.geometry.is_aligned(offset) {
        let finding = Finding::L2TableMisaligned { offset };
        tally.recorder.add_times(&finding, times);
    }
}

/// What reading tables brings.
pub(super) enum Event<'a> {
    /// A table that is not all zeros.
    Table(Table, &'a [u8]),
    /// Some tables could not be read.
    Failed(String),
}

/// Reads tables, neighbours at once.
pub(super) fn each_table(
    words: &mut Words<'_>,
    geometry: Geometry,
    tables: &[Table],
    each: &mut dyn FnMut(Event<'_>),
) {
    let len = geometry.cluster;
    let cluster = backchain_format::bytes::to_usize(len);
    let mut misaligned = 0;
    for group in tables.chunk_by(|a, b| {
        // Groups start and end at multiples of a piece, so that they stay small.
        a.offset + len == b.offset && !b.offset.is_multiple_of(PIECE.max(len))
    }) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        if !geometry.is_aligned(first.offset) {
            let before = misaligned;
            misaligned += last.offset + len - first.offset;
            if misaligned > MISALIGNED_BYTES {
                if before <= MISALIGNED_BYTES {
                    let message = "more misaligned L2 tables than are looked into".to_owned();
                    each(Event::Failed(message));
                }
                continue;
            }
        }
        match words.load(first.offset, last.offset + len - first.offset) {
            Ok(None) => {}
            Ok(Some(bytes)) => {
                for (table, bytes) in group.iter().zip(bytes.chunks_exact(cluster)) {
                    each(Event::Table(*table, bytes));
                }
            }
            Err(error) => {
                let message = format!("L2 table (byte {}): {error}", first.offset);
                each(Event::Failed(message));
            }
        }
    }
}
