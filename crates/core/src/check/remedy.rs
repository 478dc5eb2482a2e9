//! What a repair writes, in pieces small enough to hold in memory.

use super::counts::{CHUNK, Counts};
use super::diagnosis::{Diagnosis, Fix, diagnose};
use super::flags::{Basis, View, Walk, Word, is_misplaced_preallocation};
use super::geometry::Geometry;
use super::l2::can_write;
use super::layout::{Layout, ROOM};
use super::metadata::Bitmaps;
use super::refcounts::{Event, Manner, Mend, Pass, each_table};
use super::report::quiet;
use super::snapshots::{self, SnapshotTable};
use super::tables::Table;
use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Qcow2;
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{ClusterSize, RefcountBlock};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of refcounts, and of table entries, made at once.
const BATCH: u64 = 4 << 20;

/// Something to write.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes at an offset of the file.
    Bytes(u64, Vec<u8>),
    /// Zeros: offset and length.
    Zeros(u64, u64),
    /// Clusters that nobody uses from now on, nothing to write: offset and length.
    Freed(u64, u64),
}

/// The repair of one image.
pub(crate) struct Remedy {
    node: Arc<Node>,
    fix: Fix,
    pub(crate) diagnosis: Diagnosis,
    listed: SnapshotTable,
    layout: Layout,
    /// The new snapshot table.
    snapshots: Vec<u8>,
    /// The clusters of refcounts that are made anew.
    structure: Vec<u64>,
}

/// Which refcounts to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counting {
    /// All that is referred to now or soon.
    Before,
    /// Without what is not referred to any more.
    After,
}

impl Remedy {
    /// Examines the image of `node` and finds places for what is new.
    pub(crate) fn new(node: &Arc<Node>, fix: Fix) -> Result<Self> {
        let image = qcow2(node)?;
        let source = node.source.as_ref();
        let diagnosis = diagnose(source, image, fix, 0, &mut |_| {});
        if let Some(failure) = &diagnosis.failure {
            let message = match failure.message {
                None => "the refcounts have to be made anew, which repairing leaks does not do",
                Some(ref message) => message,
            };
            return Err(Error::new(ErrorKind::Corrupt, message).about(&node.name));
        }
        let listed = quiet(|recorder| snapshots::read(source, image, fix, recorder))
            .map_err(|failure| node.blame(Error::new(ErrorKind::Corrupt, failure.to_string())))?;
        let mut remedy = Self {
            node: Arc::clone(node),
            fix,
            diagnosis,
            listed,
            layout: Layout::default(),
            snapshots: Vec::new(),
            structure: Vec::new(),
        };
        remedy.place().map_err(|error| node.blame(error))?;
        Ok(remedy)
    }

    fn place(&mut self) -> Result<()> {
        let node = Arc::clone(&self.node);
        let image = qcow2(&node)?;
        let header = &image.head.header;
        if self.diagnosis.snapshots {
            self.snapshots = self.listed.complete(node.source.as_ref(), header.size)?;
            self.diagnosis.refcounts = true;
        }
        let clusters = header.cluster.clusters(to_u64(self.snapshots.len()));
        let mut pass = pass(&node, image, self.fix, &self.listed, true);
        if !self.diagnosis.rebuild && clusters > 0 {
            let counts = pass.window(0);
            let place = counts.free_run(0, clusters);
            let place = place.map(|start| start..start + clusters);
            pass.keep(counts);
            match place.filter(|place| pass.stored.covers(place.clone())) {
                Some(place) => {
                    self.layout.snapshots = place.clone();
                    self.layout.taken.push(place);
                }
                None => self.diagnosis.rebuild = true,
            }
        }
        if self.diagnosis.rebuild {
            self.layout = Layout::of(&mut pass, clusters)?;
            self.structure = pass.table.clusters(&mut pass.words, pass.geometry);
            self.structure.dedup();
        }
        Ok(())
    }

    /// Words that empty entries of misplaced preallocated clusters. Returns whether there may be
    /// more.
    pub(crate) fn entries(
        &self,
        cursor: &mut TableCursor,
        change: &mut dyn FnMut(Word),
    ) -> Result<bool> {
        let image = qcow2(&self.node)?;
        let mut pass = pass(&self.node, image, self.fix, &self.listed, true);
        let g = pass.geometry;
        if cursor.is_empty()
            && let Some(from) = cursor.next.take()
        {
            (cursor.tables, cursor.next) = pass.all_tables(from);
            cursor.done = 0;
        }
        let tables = cursor.batch(g.layout.entries());
        let taken = &pass.metadata.clusters;
        each_table(&mut pass.words, g, tables, &mut |event| {
            let Event::Table(table, bytes) = event else {
                return;
            };
            if !can_write(g, taken, table.offset) {
                return;
            }
            let len = g.layout.entry_len();
            for (index, words) in (0..).zip(bytes.chunks_exact(to_usize(len))) {
                let entry = be64(words, 0).unwrap_or(0);
                if is_misplaced_preallocation(g, words, entry) {
                    change(Word {
                        at: table.offset + index * len,
                        value: u64::from(!g.layout.extended),
                        l1: false,
                    });
                }
            }
        });
        Ok(!cursor.is_empty() || cursor.next.is_some())
    }

    /// Refcounts to write, as new blocks or into those that are there. Returns whether there may
    /// be more.
    pub(crate) fn refcounts(
        &self,
        counting: Counting,
        cursor: &mut CountCursor,
        out: &mut dyn FnMut(Piece),
    ) -> Result<bool> {
        let image = qcow2(&self.node)?;
        let mut pass = pass(
            &self.node,
            image,
            self.fix,
            &self.listed,
            !self.diagnosis.rebuild,
        );
        let counts = match cursor.counts.take() {
            Some(counts) => counts,
            None => pass.window(cursor.at),
        };
        let (g, per) = (pass.geometry, pass.stored.per_block());
        let last = counts.end() > g.clusters;
        let behind = self.layout.snapshots.end.max(g.clusters);
        let end = match (last, self.diagnosis.rebuild) {
            (false, _) => counts.end(),
            (true, true) => to_u64(self.layout.blocks.len()) * per,
            (true, false) => behind,
        };
        if cursor.at == counts.start() {
            self.free_structure(g, &counts, counting, out);
        }
        let mut made = 0;
        while cursor.at < end && made < BATCH {
            let first = cursor.at;
            let block = (first / per + 1) * per;
            let stop = block.min((first / CHUNK + 1) * CHUNK).min(end);
            let segment = Segment {
                remedy: self,
                counts: &counts,
                counting,
                range: first..stop,
            };
            let mut told = |piece: Piece| {
                made += piece.len();
                out(piece);
            };
            if self.diagnosis.rebuild {
                segment.anew(&pass, &mut told);
            } else {
                segment.in_place(&mut pass, &mut told)?;
            }
            cursor.at = stop;
        }
        if cursor.at < end {
            cursor.counts = Some(counts);
            return Ok(true);
        }
        Ok(!last)
    }

    /// Names the clusters of old refcounts in a window that nothing else refers to.
    fn free_structure(
        &self,
        g: Geometry,
        counts: &Counts,
        counting: Counting,
        out: &mut dyn FnMut(Piece),
    ) {
        let segment = Segment {
            remedy: self,
            counts,
            counting,
            range: counts.start()..counts.end(),
        };
        for &cluster in &self.structure {
            if segment.range.contains(&cluster) && segment.value(g, cluster) == 0 {
                out(freed(g, cluster));
            }
        }
    }

    /// Words with the right copied flags. Returns whether there may be more.
    pub(crate) fn flags(
        &self,
        cursor: &mut TableCursor,
        change: &mut dyn FnMut(Word),
    ) -> Result<bool> {
        let image = qcow2(&self.node)?;
        let mut pass = pass(
            &self.node,
            image,
            self.fix,
            &self.listed,
            !self.diagnosis.rebuild,
        );
        let g = pass.geometry;
        let counts = match cursor.counts.take() {
            Some(counts) => counts,
            None => pass.window(cursor.start),
        };
        let basis = if self.diagnosis.rebuild {
            Basis::Counted
        } else {
            Basis::Stored(self.fix)
        };
        let view = View::new(basis, &counts, g).growing(self.layout.end());
        quiet(|recorder| {
            let mut walk = Walk {
                view: &view,
                repair: true,
                recorder,
                change,
            };
            if cursor.is_empty()
                && let Some(from) = cursor.next.take()
            {
                (cursor.tables, cursor.next) = walk.l1(&mut pass, from);
                cursor.done = 0;
            }
            walk.tables(&mut pass, cursor.batch(g.layout.entries()));
        });
        if !cursor.is_empty() || cursor.next.is_some() {
            cursor.counts = Some(counts);
            return Ok(true);
        }
        cursor.start = counts.end();
        cursor.next = Some(0);
        Ok(cursor.start <= g.clusters)
    }

    /// The refcount table to write, with its place; `None` when it stays where it is.
    pub(crate) fn table(&self) -> Option<(HostOffset, u64, Vec<u8>)> {
        if !self.diagnosis.rebuild {
            return None;
        }
        let cluster = self.cluster()?;
        let table = &self.layout.table;
        let entries = self.layout.blocks.iter();
        let mut bytes: Vec<u8> = entries
            .flat_map(|block| (block << cluster.bits()).to_be_bytes())
            .collect();
        let clusters = table.end - table.start;
        bytes.resize(to_usize(clusters << cluster.bits()), 0);
        Some((HostOffset(table.start << cluster.bits()), clusters, bytes))
    }

    /// The snapshot table to write, with its place and number of entries; `None` when it stays
    /// as it is.
    pub(crate) fn snapshots(&self) -> Option<(HostOffset, u32, Vec<u8>)> {
        if !self.diagnosis.snapshots {
            return None;
        }
        let cluster = self.cluster()?;
        let count = u32::try_from(self.listed.entries.len()).ok()?;
        let place = HostOffset(self.layout.snapshots.start << cluster.bits());
        Some((place, count, self.snapshots.clone()))
    }

    fn cluster(&self) -> Option<ClusterSize> {
        Some(qcow2(&self.node).ok()?.head.header.cluster)
    }
}

/// A part of one refcount block.
struct Segment<'s> {
    remedy: &'s Remedy,
    counts: &'s Counts,
    counting: Counting,
    /// The clusters it counts.
    range: Range<u64>,
}

impl Segment<'_> {
    /// What the cluster's refcount is to be, as far as references go.
    fn value(&self, g: Geometry, cluster: u64) -> u64 {
        let end = self.remedy.layout.end().max(g.clusters);
        let mut references = match cluster {
            // What is referred to behind the file is wrong, unless the file grows.
            behind if behind >= end => 0,
            cluster => self.counts.get(cluster).references,
        };
        references = references.saturating_add(self.remedy.layout.references(cluster));
        let anew = self.remedy.diagnosis.snapshots;
        if anew && (self.counting == Counting::After || self.remedy.diagnosis.rebuild) {
            let listed = &self.remedy.listed;
            let old = g.clusters_of(listed.start, listed.len);
            if listed.len > 0
                && old.is_some_and(|(first, len)| (first..first + len).contains(&cluster))
            {
                references = references.saturating_sub(1);
            }
        }
        references.min(g.width.max())
    }

    /// Nothing is counted here, and nothing will be.
    fn is_empty(&self) -> bool {
        let taken = &self.remedy.layout.taken;
        let before = taken.partition_point(|range| range.end <= self.range.start);
        let clear = taken.get(before).is_none_or(|r| r.start >= self.range.end);
        let first = self.range.start;
        clear && (first >= self.counts.end() || self.counts.chunk(first).is_none())
    }

    /// The segment of a new block.
    fn anew(&self, pass: &Pass<'_>, out: &mut dyn FnMut(Piece)) {
        let (g, per) = (pass.geometry, pass.stored.per_block());
        let (first, len) = (self.range.start, self.range.end - self.range.start);
        let block = self.remedy.layout.blocks.get(to_usize(first / per));
        let Some(&block) = block.filter(|block| **block != 0) else {
            return;
        };
        let at = (block << g.cluster_bits) + first % per * g.width.bits() / 8;
        let bytes = len * g.width.bits() / 8;
        if self.is_empty() {
            return out(Piece::Zeros(at, bytes));
        }
        let mut counts = RefcountBlock::from_bytes(vec![0; to_usize(bytes)], g.width);
        for n in 0..len {
            // It fits: values are cut to the width, and n is inside.
            let _ = counts.set(n, self.value(g, first + n));
        }
        out(Piece::Bytes(at, counts.as_bytes().to_vec()));
    }

    /// What changes in a block that is there.
    fn in_place(&self, pass: &mut Pass<'_>, out: &mut dyn FnMut(Piece)) -> Result<()> {
        let (g, per) = (pass.geometry, pass.stored.per_block());
        let (first, len) = (self.range.start, self.range.end - self.range.start);
        let Some(block) = pass.stored.block_at(first / per)? else {
            return Ok(());
        };
        let at = block.saturating_add(first % per * g.width.bits() / 8);
        let bytes = (len * g.width.bits()).div_ceil(8);
        let stored = match pass.words.load(at, bytes)? {
            Some(stored) => stored.to_vec(),
            None if self.is_empty() => return Ok(()),
            None => vec![0; to_usize(bytes)],
        };
        let mut counts = RefcountBlock::from_bytes(stored.clone(), g.width);
        for n in 0..len {
            let count = counts.get(n);
            let right = self.remedy.fix.leaves(count, self.value(g, first + n));
            if right != count {
                let _ = counts.set(n, right);
                if right == 0 {
                    out(freed(g, first + n));
                }
            }
        }
        let differs = |(a, b): (&u8, &u8)| a != b;
        let new = counts.as_bytes();
        let pairs = || stored.iter().zip(new);
        if let (Some(from), Some(to)) = (pairs().position(differs), pairs().rposition(differs)) {
            let changed = new.get(from..=to).unwrap_or_default().to_vec();
            out(Piece::Bytes(at + to_u64(from), changed));
        }
        Ok(())
    }
}

/// A cluster of the file that nobody uses any more.
fn freed(g: Geometry, cluster: u64) -> Piece {
    let at = cluster << g.cluster_bits;
    Piece::Freed(at, g.cluster.min(g.file_len.saturating_sub(at)))
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Piece::Bytes(_, bytes) => to_u64(bytes.len()),
            // A hole costs next to nothing.
            Piece::Zeros(..) | Piece::Freed(..) => 64,
        }
    }
}

/// How far [`Remedy::refcounts`] is.
#[derive(Default)]
pub(crate) struct CountCursor {
    counts: Option<Counts>,
    at: u64,
}

/// How far a walk over L2 tables is.
pub(crate) struct TableCursor {
    /// First cluster of the window of counts.
    start: u64,
    counts: Option<Counts>,
    tables: Vec<Table>,
    done: usize,
    /// Where the tables go on that are not in the list.
    next: Option<u64>,
}

impl Default for TableCursor {
    fn default() -> Self {
        Self {
            start: 0,
            counts: None,
            tables: Vec::new(),
            done: 0,
            next: Some(0),
        }
    }
}

impl TableCursor {
    fn is_empty(&self) -> bool {
        self.done >= self.tables.len()
    }

    /// The next tables, each of `entries` entries.
    fn batch(&mut self, entries: u64) -> &[Table] {
        let most = to_usize((BATCH / 8 / entries.max(1)).max(1));
        let from = self.done;
        self.done = self.done.saturating_add(most).min(self.tables.len());
        self.tables.get(from..self.done).unwrap_or_default()
    }
}

/// A pass that says nothing. `structure`: it counts the refcounts that are there now, too.
fn pass<'a>(
    node: &'a Node,
    image: &'a Qcow2,
    fix: Fix,
    listed: &SnapshotTable,
    structure: bool,
) -> Pass<'a> {
    let manner = Manner {
        bitmaps: Bitmaps::Consistent,
        fix: Fix::Nothing,
        mend: if fix == Fix::All {
            Mend::Done
        } else {
            Mend::No
        },
        structure,
        room: ROOM,
    };
    quiet(|recorder| Pass::new(node.source.as_ref(), image, manner, listed, recorder))
}

fn qcow2(node: &Node) -> Result<&Qcow2> {
    node.image()?.as_qcow2().ok_or_else(|| {
        let message = "only qcow2 images can be repaired";
        Error::new(ErrorKind::Unsupported, message).about(&node.name)
    })
}
