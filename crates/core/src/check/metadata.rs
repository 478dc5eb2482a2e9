//! Everything but L2 tables and refcount blocks that refers to host clusters.

use super::finding::Finding;
use super::geometry::{Geometry, bits};
use super::refcounts::Manner;
use super::report::Recorder;
use super::snapshots::SnapshotTable;
use super::spans::{Ranges, Span};
use super::words::Words;
use crate::image::Qcow2;
use crate::source::ReadAt;
use backchain_format::bytes::be64;
use backchain_format::qcow2::{Extensions, MAX_L1_BYTES, RefcountTableEntry, autoclear};

/// Which bitmaps count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bitmaps {
    /// Those that are marked consistent: others are leaks, as qemu-img counts.
    Consistent,
    /// All that can be found: their clusters must not be given to others.
    All,
}

/// Where tables are, overlaps resolved.
pub(super) struct Metadata {
    /// The bitmaps are marked consistent; nothing is reported about others.
    trusted: bool,
    /// Runs of host clusters and how many structures they are part of.
    pub(super) clusters: Vec<Span>,
    /// L1 tables, the active one and those of snapshots, in bytes.
    pub(super) l1: Vec<Span>,
    /// Tables of bitmaps, in bytes.
    pub(super) bitmaps: Vec<Span>,
    /// L1 tables in the order in which QEMU reads them: start, end, active.
    pub(super) tables: Vec<(u64, u64, bool)>,
    /// What was found, with the number of L1 tables that are read before it is told.
    pub(super) told: Vec<(usize, Finding)>,
}

/// What is gathered before overlaps are resolved.
struct Gather<'a, 'r> {
    geometry: Geometry,
    source: &'a dyn ReadAt,
    image: &'a Qcow2,
    recorder: &'a mut Recorder<'r>,
    /// References past the end of the file count.
    past_end: bool,
    clusters: Ranges,
    l1: Ranges,
    bitmaps: Ranges,
    tables: Vec<(u64, u64, bool)>,
    told: Vec<(usize, Finding)>,
}

impl Metadata {
    pub(super) fn gather(
        source: &dyn ReadAt,
        image: &Qcow2,
        geometry: Geometry,
        manner: Manner,
        snapshots: &SnapshotTable,
        recorder: &mut Recorder<'_>,
    ) -> Self {
        let header = &image.head.header;
        let mut gather = Gather {
            geometry,
            source,
            image,
            recorder,
            past_end: manner.room > 0,
            clusters: Ranges::default(),
            l1: Ranges::default(),
            bitmaps: Ranges::default(),
            tables: Vec::new(),
            told: Vec::new(),
        };
        gather.region(0, geometry.cluster);
        gather.l1_table(header.l1_table.0, header.l1_entries, true);
        gather.snapshots(snapshots);
        if manner.structure {
            let table = header.refcount_table_entries() * RefcountTableEntry::LEN;
            gather.region(header.refcount_table.0, table);
        }
        if let Some(crypto) = image.head.extensions.get(Extensions::CRYPTO)
            && let (Some(offset), Some(len)) = (be64(crypto, 0), be64(crypto, 8))
        {
            gather.region(offset, len);
        }
        let trusted = header.autoclear & autoclear::BITMAPS != 0;
        if trusted || manner.bitmaps == Bitmaps::All {
            let muted = std::mem::replace(&mut gather.recorder.muted, !trusted);
            gather.bitmaps();
            gather.recorder.muted = muted;
        }
        Self {
            trusted,
            clusters: gather.clusters.spans(),
            l1: gather.l1.spans(),
            bitmaps: gather.bitmaps.spans(),
            tables: gather.tables,
            told: gather.told,
        }
    }
}

impl Gather<'_, '_> {
    /// Counts a finding, which is told when its turn comes.
    fn add(&mut self, finding: Finding) {
        if self.recorder.muted {
            return;
        }
        let silent = std::mem::replace(&mut self.recorder.silent, true);
        self.recorder.add(&finding);
        self.recorder.silent = silent;
        self.told.push((self.tables.len(), finding));
    }

    /// A structure of `size` bytes.
    fn region(&mut self, offset: u64, size: u64) {
        if size == 0 {
            return;
        }
        match self.geometry.clusters_of(offset, size) {
            Some((first, count)) => self.clusters.add(first, count, false),
            None => {
                if self.past_end {
                    let (first, len) = self.geometry.behind(offset, size);
                    self.clusters.add(first, len, false);
                }
                self.add(Finding::PastEnd { offset, size });
            }
        }
    }

    fn l1_table(&mut self, offset: u64, entries: u32, active: bool) {
        let len = u64::from(entries) * 8;
        self.region(offset, len);
        self.l1.add(offset, len, active);
        self.tables
            .push((offset, offset.saturating_add(len), active));
    }

    fn unreadable(&mut self, what: &str, why: &dyn std::fmt::Display) {
        let message = format!("failed to read the {what}: {why}");
        self.add(Finding::Unreadable { message });
    }

    fn snapshots(&mut self, table: &SnapshotTable) {
        if self.geometry.data_file && !table.entries.is_empty() {
            let count = u32::try_from(table.entries.len()).unwrap_or(u32::MAX);
            self.add(Finding::SnapshotsWithDataFile { count });
        }
        for entry in &table.entries {
            let (offset, entries) = (entry.l1, entry.l1_entries);
            let bytes = u64::from(entries) * 8;
            if self.geometry.is_aligned(offset) && bytes <= MAX_L1_BYTES {
                self.l1_table(offset, entries, false);
                continue;
            }
            let (id, name) = entry.names_of(self.source);
            self.add(if self.geometry.is_aligned(offset) {
                Finding::SnapshotL1TooLarge { id, name, entries }
            } else {
                Finding::SnapshotL1Misaligned { id, name, offset }
            });
        }
        self.region(table.start, table.len);
    }

    fn bitmaps(&mut self) {
        let extension = match self.image.head.extensions.bitmaps(0) {
            None => return,
            Some(Err(error)) => return self.unreadable("bitmaps extension", &error),
            Some(Ok(extension)) => extension,
        };
        let offset = extension.directory.0;
        if !self.geometry.is_aligned(offset) {
            let why = format!("its offset {offset:#x} is not at a cluster boundary");
            return self.unreadable("bitmap directory", &why);
        }
        let list = match self.image.bitmaps(self.source) {
            Ok(list) => list,
            Err(error) => return self.unreadable("bitmap directory", &error),
        };
        self.region(offset, extension.directory_len);
        for bitmap in list {
            let at = bitmap.table.0;
            if !self.geometry.is_aligned(at) {
                let name = bitmap.name.chars().take(64).collect::<String>();
                let message = format!("Bitmap '{name}' doesn't satisfy the constraints");
                self.add(Finding::Unreadable { message });
                continue;
            }
            let len = u64::from(bitmap.table_entries) * 8;
            self.region(at, len);
            self.bitmaps.add(at, len, false);
        }
    }
}

impl Metadata {
    /// Calls `cluster` with the offset of every cluster of bitmap data, and how often it is
    /// named.
    pub(super) fn bitmap_clusters(
        &self,
        words: &mut Words<'_>,
        geometry: Geometry,
        recorder: &mut Recorder<'_>,
        cluster: &mut dyn FnMut(u64, u64, &mut Recorder<'_>),
    ) {
        let muted = recorder.muted;
        recorder.muted |= !self.trusted;
        for span in &self.bitmaps {
            let mut failed = None;
            let mut each = |at: u64, word: u64| {
                let offset = word & bits::OFFSET;
                let flag = offset != 0 && word & 1 != 0;
                if flag || word & bits::BITMAP_RESERVED != 0 || !geometry.is_aligned(offset) {
                    let message = format!("invalid bitmap table entry {word:#x} (byte {at})");
                    let finding = Finding::Unreadable { message };
                    recorder.add_times(&finding, span.times);
                } else if offset != 0 {
                    cluster(offset, span.times, recorder);
                }
            };
            words.each(span.start, span.end, &mut each, &mut |at, error| {
                failed.get_or_insert_with(|| format!("bitmap table (byte {at}): {error}"));
            });
            if let Some(message) = failed {
                recorder.add(&Finding::Unreadable { message });
            }
        }
        recorder.muted = muted;
    }
}
