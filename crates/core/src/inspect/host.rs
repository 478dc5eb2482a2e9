//! The file on disk: host addresses and what every part of the file is for.

use super::walk::{L2Table, TableWalk, entries};
use crate::chain::Node;
use crate::error::Result;
use crate::image::Qcow2;
use crate::source::read_padded;
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{
    BitmapDirectoryEntry, Extensions, L1Entry, L2Kind, OFFSET_MASK, RefcountBlock,
    RefcountTableEntry, incompatible,
};
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;

/// What a part of a qcow2 file is for. Where several are true of the clusters of one unit, the
/// one that stands further down here is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Owner {
    /// Nothing refers to it and its refcount is 0.
    Free,
    /// Nothing refers to it but its refcount says otherwise.
    Leaked,
    /// Guest data.
    Data,
    /// Compressed guest data.
    Compressed,
    /// Kept for a guest cluster that reads as zeros.
    Reserved,
    /// Data and tables that only internal snapshots refer to, and the list of snapshots.
    Snapshot,
    /// Persistent bitmaps, their tables and directory.
    Bitmap,
    /// L2 tables of the active disk.
    L2,
    /// The active L1 table.
    L1,
    /// Refcount blocks.
    RefcountBlock,
    /// The refcount table.
    RefcountTable,
    /// The header of the encryption.
    Encryption,
    /// The header.
    Header,
    /// In use, but its refcount is 0 or it is in use twice: writing may destroy it.
    Corrupt,
}

impl Owner {
    /// All owners, in the order of their numbers.
    pub const ALL: [Owner; 14] = [
        Owner::Free,
        Owner::Leaked,
        Owner::Data,
        Owner::Compressed,
        Owner::Reserved,
        Owner::Snapshot,
        Owner::Bitmap,
        Owner::L2,
        Owner::L1,
        Owner::RefcountBlock,
        Owner::RefcountTable,
        Owner::Encryption,
        Owner::Header,
        Owner::Corrupt,
    ];
}

/// Units a map has at most: 16 MiB of memory.
const MAX_UNITS: u64 = 1 << 24;

/// Who owns what in a qcow2 file, filled in step by step.
///
/// The map's unit is a host cluster, or several in a row where the file has more than 2^24.
pub struct HostMap {
    node: Arc<Node>,
    cluster_bits: u32,
    /// log2 of the bytes of a unit.
    unit_bits: u32,
    units: Vec<Option<Owner>>,
    todo: Vec<Job>,
    done: u64,
    total: u64,
    problems: Vec<String>,
}

/// What is still to be looked at; the last comes first.
enum Job {
    /// L2 tables and what they refer to.
    Tables { walk: TableWalk, snapshot: bool },
    /// The refcount blocks, from this index of the refcount table on.
    Refcounts { index: u64 },
}

impl HostMap {
    /// The map of a qcow2 node's file; `None` for other formats, whose files are data from end
    /// to end.
    pub fn new(node: &Arc<Node>) -> Option<Self> {
        let image = node.image.as_ref().ok()?.as_qcow2()?;
        let header = &image.head.header;
        let cluster_bits = header.cluster.bits();
        let mut unit_bits = cluster_bits;
        while node.source.len() >> unit_bits >= MAX_UNITS {
            unit_bits += 1;
        }
        let units = to_usize(node.source.len().div_ceil(1 << unit_bits));
        let mut map = Self {
            node: Arc::clone(node),
            cluster_bits,
            unit_bits,
            units: vec![None; units],
            todo: Vec::new(),
            done: 0,
            total: 1 + u64::from(header.l1_entries) + u64::from(header.refcount_table_clusters),
            problems: Vec::new(),
        };
        map.todo.push(Job::Refcounts { index: 0 });
        map.fixed(image);
        map.todo.push(Job::Tables {
            walk: TableWalk::active(&node.source, image),
            snapshot: false,
        });
        Some(map)
    }

    /// Looks at about `pieces` tables or refcount blocks; false at the end.
    pub fn advance(&mut self, pieces: usize) -> bool {
        for _ in 0..pieces {
            let Some(job) = self.todo.pop() else {
                return false;
            };
            self.done += 1;
            if let Err(error) = self.work(job) {
                self.problems.push(error.to_string());
            }
        }
        !self.todo.is_empty()
    }

    /// Tables looked at so far.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Tables to look at, about.
    pub fn total(&self) -> u64 {
        self.total.max(self.done)
    }

    /// What could not be read.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Bytes of a unit.
    pub fn unit(&self) -> u64 {
        1 << self.unit_bits
    }

    /// Who owns the unit at byte `offset`; `None` behind the end and while it is not known.
    pub fn owner(&self, offset: u64) -> Option<Owner> {
        *self.units.get(to_usize(offset >> self.unit_bits))?
    }

    /// How many units of each owner, by its number, there are in each of `columns` parts of the
    /// file bytes `range`.
    pub fn columns(&self, range: Range<u64>, columns: usize) -> Vec<[u32; Owner::ALL.len()]> {
        let first = range.start >> self.unit_bits;
        let last = range
            .end
            .div_ceil(self.unit())
            .min(to_u64(self.units.len()));
        let width = u128::from(last.saturating_sub(first));
        let count = u128::from(to_u64(columns.max(1)));
        let edge = |column: u128| {
            let by = width * column / count;
            to_usize(first.saturating_add(u64::try_from(by).unwrap_or(u64::MAX)))
        };
        let column = |n: u128| {
            let mut cells = [0u32; Owner::ALL.len()];
            // A file of few units: neighbouring columns show the same one.
            let (start, end) = (edge(n), edge(n + 1).max(edge(n) + 1));
            for owner in self
                .units
                .get(start..end.min(self.units.len()))
                .into_iter()
                .flatten()
            {
                if let Some(cell) = owner.and_then(|owner| cells.get_mut(owner as usize)) {
                    *cell += 1;
                }
            }
            cells
        };
        (0..count).map(column).collect()
    }

    /// Bytes of each owner, by its number, in the whole file.
    pub fn totals(&self) -> [u64; Owner::ALL.len()] {
        let mut totals = [0; Owner::ALL.len()];
        for owner in self.units.iter().flatten() {
            if let Some(total) = totals.get_mut(*owner as usize) {
                *total += self.unit();
            }
        }
        totals
    }

    /// The structures whose place is known from the header and the lists.
    fn fixed(&mut self, image: &Qcow2) {
        let node = Arc::clone(&self.node);
        let source = node.source.as_ref();
        let header = &image.head.header;
        self.own(HostOffset(0), 1, Owner::Header, false);
        self.own(
            header.refcount_table,
            header.refcount_table_bytes(),
            Owner::RefcountTable,
            false,
        );
        self.own(
            header.l1_table,
            u64::from(header.l1_entries) * L1Entry::LEN,
            Owner::L1,
            false,
        );
        if let Some(pointer) = image.head.extensions.get(Extensions::CRYPTO)
            && let (Some(at), Some(len)) = (be64(pointer, 0), be64(pointer, 8))
        {
            self.own(HostOffset(at), len, Owner::Encryption, false);
        }
        match image.snapshots(source) {
            Ok(snapshots) => {
                let list = snapshots
                    .iter()
                    .map(|s| 64 + to_u64(s.id.len() + s.name.len()));
                let list = list.sum();
                self.own(header.snapshot_table, list, Owner::Snapshot, false);
                self.total += snapshots
                    .iter()
                    .map(|s| u64::from(s.l1_entries))
                    .sum::<u64>();
                for snapshot in snapshots.iter().rev() {
                    let entries = u64::from(snapshot.l1_entries);
                    self.own(
                        snapshot.l1_table,
                        entries * L1Entry::LEN,
                        Owner::Snapshot,
                        false,
                    );
                    let walk = TableWalk::new(&node.source, image, snapshot.l1_table, entries);
                    self.todo.push(Job::Tables {
                        walk,
                        snapshot: true,
                    });
                }
            }
            Err(error) => self.problems.push(error.to_string()),
        }
        // Bitmaps that are out of date are nobody's, as for the check.
        if !image.bitmaps_consistent() {
            return;
        }
        match image.bitmaps(source) {
            Ok(bitmaps) => {
                if let Some(Ok(extension)) = image.head.extensions.bitmaps(0) {
                    self.own(
                        extension.directory,
                        extension.directory_len,
                        Owner::Bitmap,
                        false,
                    );
                }
                bitmaps.iter().for_each(|bitmap| self.bitmap(bitmap));
            }
            Err(error) => self.problems.push(error.to_string()),
        }
    }

    fn bitmap(&mut self, bitmap: &BitmapDirectoryEntry) {
        let table = bitmap.table;
        let inside = self.node.source.len().saturating_sub(table.0);
        let len = (u64::from(bitmap.table_entries) * 8).min(inside);
        self.own(table, len, Owner::Bitmap, false);
        let mut bytes = vec![0; to_usize(len)];
        if read_padded(self.node.source.as_ref(), table.0, &mut bytes).is_err() {
            return;
        }
        for word in bytes.chunks_exact(8) {
            let at = be64(word, 0).unwrap_or(0) & OFFSET_MASK;
            if at != 0 {
                self.own(HostOffset(at), 1, Owner::Bitmap, false);
            }
        }
    }

    fn work(&mut self, job: Job) -> Result<()> {
        match job {
            Job::Tables { mut walk, snapshot } => {
                let Some((guest, at)) = walk.next_place()? else {
                    return Ok(());
                };
                // A table of the active disk may be a snapshot's as well; one that claims the
                // place of something else is not read as a table.
                let known = self.exact(at);
                if known.is_none() {
                    let owner = if snapshot { Owner::Snapshot } else { Owner::L2 };
                    let bytes = walk.read(at)?;
                    self.own(at, 1, owner, false);
                    self.entries(&L2Table { guest, at, bytes }, &walk, snapshot);
                } else if !(snapshot && matches!(known, Some(Owner::L2 | Owner::Snapshot))) {
                    self.own(at, 1, Owner::Corrupt, false);
                }
                self.todo.push(Job::Tables { walk, snapshot });
                Ok(())
            }
            Job::Refcounts { index } => {
                if self.refcounts(index)? {
                    self.todo.push(Job::Refcounts { index: index + 1 });
                }
                Ok(())
            }
        }
    }

    fn entries(&mut self, table: &L2Table, walk: &TableWalk, snapshot: bool) {
        let external = self.node.image.as_ref().is_ok_and(|image| {
            image
                .as_qcow2()
                .is_some_and(|i| i.head.header.has(incompatible::DATA_FILE))
        });
        if external {
            return;
        }
        let cluster = walk.layout().cluster;
        for (_, entry) in entries(&table.bytes, walk.layout()) {
            let owner = |owner| if snapshot { Owner::Snapshot } else { owner };
            match entry.kind {
                L2Kind::Standard { host } => self.own(host, 1, owner(Owner::Data), snapshot),
                L2Kind::Zero { host: Some(host) } => {
                    self.own(host, 1, owner(Owner::Reserved), snapshot);
                }
                L2Kind::Compressed(packed) => {
                    let (first, last) = packed.host_clusters(cluster);
                    let len = last.0.saturating_sub(first.0).saturating_add(1);
                    self.own(first, len, owner(Owner::Compressed), true);
                }
                L2Kind::Zero { host: None } | L2Kind::Unallocated => {}
            }
        }
    }

    /// Refcount block `index` against what is owned: what is left is free or leaked, and what
    /// is owned without being counted is in danger. False behind the last block.
    fn refcounts(&mut self, index: u64) -> Result<bool> {
        let node = Arc::clone(&self.node);
        let Some(image) = node.image.as_ref().ok().and_then(|image| image.as_qcow2()) else {
            return Ok(false);
        };
        let header = &image.head.header;
        let per = header.refcount_width.per_block(header.cluster);
        let first = index.saturating_mul(per);
        let end = header.cluster.clusters(node.source.len());
        if first >= end {
            return Ok(false);
        }
        let last = first.saturating_add(per).min(end);
        let mut word = [0; 8];
        let inside = index < header.refcount_table_bytes() / RefcountTableEntry::LEN;
        let at = header.refcount_table.0 + index * RefcountTableEntry::LEN;
        if inside {
            read_padded(node.source.as_ref(), at, &mut word)?;
        }
        let block = RefcountTableEntry::from_bits(be64(&word, 0).unwrap_or(0), at)
            .ok()
            .and_then(|entry| entry.0)
            .filter(|host| header.cluster.is_aligned(host.0) && host.0 < node.source.len());
        let counts = match block {
            Some(host) => {
                self.own(host, 1, Owner::RefcountBlock, false);
                let mut bytes = vec![0; to_usize(header.cluster.bytes())];
                read_padded(node.source.as_ref(), host.0, &mut bytes)?;
                Some(RefcountBlock::from_bytes(bytes, header.refcount_width))
            }
            None => None,
        };
        for cluster in first..last {
            let counted = counts.as_ref().is_some_and(|c| c.get(cluster - first) > 0);
            let unit = to_usize(cluster >> (self.unit_bits - self.cluster_bits));
            let Some(slot) = self.units.get_mut(unit) else {
                break;
            };
            // A block further on may own a cluster that is counted here.
            match (*slot, counted) {
                (None, false) => *slot = Some(Owner::Free),
                (None | Some(Owner::Free), true) => *slot = Some(Owner::Leaked),
                _ => {}
            }
        }
        Ok(true)
    }

    /// The owner of exactly the cluster at `at`, where units are that fine.
    fn exact(&self, at: HostOffset) -> Option<Owner> {
        let owner = self.owner(at.0)?;
        (self.unit_bits == self.cluster_bits).then_some(owner)
    }

    /// Makes `owner` the owner of what the bytes `at..at + len` touch. `again`: it may be
    /// owned already.
    fn own(&mut self, at: HostOffset, len: u64, owner: Owner, again: bool) {
        if len == 0 || at.0 >= self.node.source.len() {
            return;
        }
        let fine = self.unit_bits == self.cluster_bits;
        let last = (at.0.saturating_add(len - 1)) >> self.unit_bits;
        for unit in at.0 >> self.unit_bits..=last {
            let Some(slot) = self.units.get_mut(to_usize(unit)) else {
                return;
            };
            *slot = Some(match *slot {
                None | Some(Owner::Free | Owner::Leaked) => owner,
                // Refcount blocks come last: what looked leaked or free was one.
                Some(old) if again || !fine => old.max_unless_snapshot(owner),
                Some(_) => Owner::Corrupt,
            });
        }
    }
}

impl Owner {
    /// The one to show of two; what the active disk uses is not only a snapshot's.
    fn max_unless_snapshot(self, other: Owner) -> Owner {
        match (self, other) {
            (owner, Owner::Snapshot) => owner,
            _ => self.max(other),
        }
    }
}
