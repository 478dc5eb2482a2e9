//! The copied flags of the active tables against the refcounts.
//!
//! A flag says that the refcount is exactly one, so that the cluster may be written in place.
//! The first pass finds out whether any flag is wrong; only then this one names them, and tells
//! a repair what to write.

use super::Fix;
use super::counts::Counts;
use super::finding::Finding;
use super::geometry::{Geometry, bits};
use super::l2::can_write;
use super::refcounts::{Event, Pass, each_table};
use super::report::Recorder;
use super::stored::Stored;
use super::tables::Table;
use backchain_format::bytes::{be64, to_u64, to_usize};
use std::collections::HashSet;
use std::ops::Range;

/// Entries of an L1 table that are looked at in their order.
const MAX_IN_ORDER: u64 = 1 << 20;

/// What refcounts are, when flags are compared with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// As stored, with what a repair in place changes.
    Stored(Fix),
    /// As counted: they are written anew.
    Counted,
}

/// The refcounts of a window of clusters, after the repair.
pub(super) struct View<'c> {
    basis: Basis,
    counts: &'c Counts,
    within: Range<u64>,
    geometry: Geometry,
    /// Clusters of the file in the end.
    clusters: u64,
}

impl<'c> View<'c> {
    /// The view of what a window of counts covers, everything behind the file being part of the
    /// last one.
    pub(super) fn new(basis: Basis, counts: &'c Counts, geometry: Geometry) -> Self {
        let end = if counts.end() > geometry.clusters {
            u64::MAX
        } else {
            counts.end()
        };
        Self {
            basis,
            counts,
            within: counts.start()..end,
            geometry,
            clusters: geometry.clusters,
        }
    }

    /// The same for a file that grows to so many clusters.
    pub(super) fn growing(mut self, clusters: u64) -> Self {
        self.clusters = clusters.max(self.clusters);
        self
    }

    /// The refcount of the cluster at `offset`; `None` when it cannot be read, or is another
    /// window's business.
    fn of(&self, stored: &mut Stored<'_>, offset: u64) -> Option<u64> {
        let g = self.geometry;
        let cluster = offset >> g.cluster_bits;
        if !self.within.contains(&cluster) {
            return None;
        }
        let references = self.counts.get(cluster).references.min(g.width.max());
        let inside = cluster < self.clusters;
        match self.basis {
            Basis::Counted if inside => Some(references),
            Basis::Counted => Some(0),
            Basis::Stored(Fix::Nothing) => stored.count(cluster),
            Basis::Stored(fix) => {
                let count = stored.count(cluster)?;
                Some(if inside {
                    fix.leaves(count, references)
                } else {
                    count
                })
            }
        }
    }
}

/// A word of a table that is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    /// Where it is in the file.
    pub(crate) at: u64,
    /// What it is to be.
    pub(crate) value: u64,
    /// It is part of the L1 table.
    pub(crate) l1: bool,
}

/// Names every wrong flag, and passes the right words to `change` when `repair` says so.
pub(super) fn check_copied(
    pass: &mut Pass<'_>,
    basis: Basis,
    repair: bool,
    recorder: &mut Recorder<'_>,
    change: &mut dyn FnMut(Word),
) {
    let geometry = pass.geometry;
    let mut window = |pass: &mut Pass<'_>, view: &View<'_>| {
        let mut walk = Walk {
            view,
            repair,
            recorder: &mut *recorder,
            change: &mut *change,
        };
        if walk.in_order(pass) {
            return;
        }
        let mut from = Some(0);
        while let Some(start) = from {
            let tables;
            (tables, from) = walk.l1(pass, start);
            walk.tables(pass, &tables);
        }
    };
    if basis == Basis::Stored(Fix::Nothing) {
        // Nothing needs to be counted.
        let view = View {
            basis,
            counts: &Counts::new(0, 0),
            within: 0..u64::MAX,
            geometry,
            clusters: geometry.clusters,
        };
        return window(pass, &view);
    }
    pass.windows(&mut |pass, counts| window(pass, &View::new(basis, counts, geometry)));
}

/// A walk over the active tables in a window of clusters.
pub(super) struct Walk<'w, 'r> {
    pub(super) view: &'w View<'w>,
    pub(super) repair: bool,
    pub(super) recorder: &'w mut Recorder<'r>,
    pub(super) change: &'w mut dyn FnMut(Word),
}

impl Walk<'_, '_> {
    fn tell(&mut self, finding: &Finding, times: u64, mend: bool) {
        if mend {
            // A word can be mended once only, however many ways lead to it.
            self.recorder.mended(finding, 1);
        } else {
            self.recorder.add_times(finding, times);
        }
    }

    /// Looks at everything in the order of the L1 table, as qemu-img does; false when that would
    /// take too long, because the same tables are named over and over.
    fn in_order(&mut self, pass: &mut Pass<'_>) -> bool {
        let mut list = Vec::new();
        let mut count = 0u64;
        let (tables, more) = pass.active_tables(0, &mut |index, entry, _| {
            count += 1;
            if count <= MAX_IN_ORDER && entry & bits::OFFSET != 0 {
                list.push((index, entry));
            }
        });
        let few = to_u64(tables.len()) * 2 + 1024;
        if more.is_some() || count > MAX_IN_ORDER.min(few) {
            return false;
        }
        let mend = self.repair && l1_alone(pass);
        let file_len = pass.geometry.file_len;
        let mut mended = HashSet::new();
        for (index, entry) in list {
            self.l1_entry(pass.l1().0, index, entry, mend, &mut pass.stored);
            let offset = entry & bits::OFFSET;
            // A table is mended the first time it is met.
            if offset < file_len && (!self.repair || mended.insert(offset)) {
                let table = Table {
                    offset,
                    times: 1,
                    active: 1,
                };
                self.tables(pass, &[table]);
            }
        }
        true
    }

    fn l1_entry(
        &mut self,
        start: u64,
        index: u64,
        entry: u64,
        mend: bool,
        stored: &mut Stored<'_>,
    ) {
        let offset = entry & bits::OFFSET;
        if offset == 0 {
            return;
        }
        let Some(refcount) = self.view.of(stored, offset) else {
            return;
        };
        if (refcount == 1) == (entry & bits::COPIED != 0) {
            return;
        }
        let finding = Finding::L1Copied {
            index,
            entry,
            refcount,
        };
        self.tell(&finding, 1, mend);
        if mend {
            (self.change)(Word {
                at: start + index * 8,
                value: entry ^ bits::COPIED,
                l1: true,
            });
        }
    }

    /// Looks at the L1 table, when `from` is 0, and gathers the L2 tables from file offset `from`
    /// on, with the offset at which there are more.
    pub(super) fn l1(&mut self, pass: &mut Pass<'_>, from: u64) -> (Vec<Table>, Option<u64>) {
        let (start, mend) = (pass.l1().0, self.repair && l1_alone(pass));
        pass.active_tables(from, &mut |index, entry, stored| {
            self.l1_entry(start, index, entry, mend, stored);
        })
    }

    /// Looks at L2 tables.
    pub(super) fn tables(&mut self, pass: &mut Pass<'_>, tables: &[Table]) {
        let (g, view) = (pass.geometry, self.view);
        let (stored, taken) = (&mut pass.stored, &pass.metadata.clusters);
        each_table(&mut pass.words, g, tables, &mut |event| {
            // What could not be read was reported by the first pass.
            let Event::Table(table, bytes) = event else {
                return;
            };
            let mend = self.repair && can_write(g, taken, table.offset);
            each_wrong(view, stored, bytes, &mut |at, entry, refcount| {
                let finding = Finding::L2Copied { entry, refcount };
                self.tell(&finding, table.active, mend);
                if mend {
                    (self.change)(word(table, at, entry));
                }
            });
        });
    }
}

/// Whether the active L1 table is where nothing else is, so that it may be changed.
fn l1_alone(pass: &Pass<'_>) -> bool {
    let (_, clusters) = pass.l1();
    let spans = pass.metadata.clusters.iter();
    spans
        .filter(|span| span.start < clusters.end && clusters.start < span.end)
        .all(|span| span.times == 1)
}

fn word(table: Table, at: u64, entry: u64) -> Word {
    Word {
        at: table.offset + at,
        value: entry ^ bits::COPIED,
        l1: false,
    }
}

/// Calls `wrong` with place, entry and refcount of every entry whose flag is wrong.
fn each_wrong(
    view: &View<'_>,
    stored: &mut Stored<'_>,
    bytes: &[u8],
    wrong: &mut dyn FnMut(u64, u64, u64),
) {
    let g = view.geometry;
    let len = g.layout.entry_len();
    for (index, words) in bytes.chunks_exact(to_usize(len)).enumerate() {
        let entry = be64(words, 0).unwrap_or(0);
        let offset = entry & bits::OFFSET;
        let set = entry & bits::COPIED != 0;
        let zero = !g.layout.extended && entry & bits::ZERO != 0;
        let present = offset != 0 || g.data_file && set && !zero;
        if entry & bits::COMPRESSED != 0 || !present || view.is_mended(words, entry) {
            continue;
        }
        let refcount = if g.data_file {
            Some(1)
        } else {
            view.of(stored, offset)
        };
        if let Some(refcount) = refcount
            && (refcount == 1) != set
        {
            wrong(to_u64(index) * len, entry, refcount);
        }
    }
}

impl View<'_> {
    /// Whether the repair empties the entry: a preallocated cluster that is misplaced.
    fn is_mended(&self, words: &[u8], entry: u64) -> bool {
        let mends = matches!(self.basis, Basis::Counted | Basis::Stored(Fix::All));
        mends && is_misplaced_preallocation(self.geometry, words, entry)
    }
}

/// Whether an entry names a cluster off the boundaries that holds no data.
pub(super) fn is_misplaced_preallocation(g: Geometry, words: &[u8], entry: u64) -> bool {
    let offset = entry & bits::OFFSET;
    let data = if g.layout.extended {
        be64(words, 8).unwrap_or(0) & 0xffff_ffff != 0
    } else {
        entry & bits::ZERO == 0
    };
    entry & bits::COMPRESSED == 0 && offset != 0 && !g.is_aligned(offset) && !data
}
