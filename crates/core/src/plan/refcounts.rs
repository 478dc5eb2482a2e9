//! Refcounts of a target: its file's state plus what the plan changes, and the allocator.
//!
//! New clusters are taken in order behind the end of the file, so they read as zeros before
//! they are written; those for guest data may also be ones that were free. Increments are in the blocks at once; decrements are kept until the
//! writes that remove the references are durable (invariant 3).

use super::free_space::FreeSpace;
use super::l1_window::MetadataClusters;
use super::{MetadataKind, Step, StepQueue};
use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::source::read_padded;
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{
    ClusterSize, Header, MAX_REFCOUNT_TABLE_BYTES, RefcountBlock, RefcountTableEntry,
    RefcountWidth, incompatible,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

pub(crate) struct Refcounts {
    node: Arc<Node>,
    cluster: ClusterSize,
    width: RefcountWidth,
    /// Where the table is now and how many clusters it has.
    table_at: HostOffset,
    table_clusters: u64,
    table: Vec<u64>,
    dirty_entries: BTreeSet<u64>,
    /// The table moved: it is written whole, and the header has to follow.
    moved: bool,
    blocks: BTreeMap<u64, Block>,
    /// Blocks that count the clusters of a table this plan made: it may move again.
    pinned: BTreeSet<u64>,
    /// The next cluster to try.
    next: u64,
    /// Where the next packed bytes go: inside a cluster that has room, or 0.
    packed_end: u64,
    /// Clusters that were free when the plan began.
    free: FreeSpace,
    /// The table as it was opened, where it was moved since.
    opened_table: Option<Vec<u64>>,
    /// References dropped by L2 or L1 entries not durable yet; then those that are.
    dropped: Vec<u64>,
    droppable: Vec<u64>,
}

struct Block {
    block: RefcountBlock,
    dirty: bool,
    /// Made by this plan.
    new: bool,
    /// Changed by this plan: the file is not asked for it again.
    changed: bool,
}

impl Refcounts {
    pub(crate) fn new(node: &Arc<Node>, header: &Header) -> Result<Self> {
        let mut bytes = vec![0; to_usize(header.refcount_table_bytes())];
        read_padded(node.source.as_ref(), header.refcount_table.0, &mut bytes)
            .map_err(|e| node.blame(e))?;
        let table = bytes
            .chunks_exact(8)
            .map(|w| be64(w, 0).unwrap_or(0))
            .collect();
        Ok(Self {
            node: Arc::clone(node),
            cluster: header.cluster,
            width: header.refcount_width,
            table_at: header.refcount_table,
            table_clusters: u64::from(header.refcount_table_clusters),
            table,
            dirty_entries: BTreeSet::new(),
            moved: false,
            blocks: BTreeMap::new(),
            pinned: BTreeSet::new(),
            next: header.cluster.clusters(node.source.len()),
            packed_end: 0,
            free: FreeSpace::new(
                node,
                header.cluster,
                header.refcount_width,
                !header.has(incompatible::DIRTY),
            ),
            opened_table: None,
            dropped: Vec::new(),
            droppable: Vec::new(),
        })
    }

    fn per_block(&self) -> u64 {
        self.width.per_block(self.cluster)
    }

    /// The block that covers block index `index`, read when it is not here; `None` where the
    /// table has none.
    fn block(&mut self, index: u64) -> Result<Option<&mut Block>> {
        if !self.blocks.contains_key(&index) {
            let bits = self.table.get(to_usize(index)).copied().unwrap_or(0);
            let at = self.table_at.0 + index * RefcountTableEntry::LEN;
            let entry = RefcountTableEntry::from_bits(bits, at).map_err(|e| self.node.blame(e))?;
            let Some(host) = entry.0 else { return Ok(None) };
            if !self.cluster.is_aligned(host.0) || host.0 >= self.node.source.len() {
                let message = format!("refcount block at {host} is misplaced (byte {at})");
                return Err(Error::new(ErrorKind::Corrupt, message).about(&self.node.name));
            }
            let mut bytes = vec![0; to_usize(self.cluster.bytes())];
            read_padded(self.node.source.as_ref(), host.0, &mut bytes)
                .map_err(|e| self.node.blame(e))?;
            let block = RefcountBlock::from_bytes(bytes, self.width);
            self.blocks.insert(
                index,
                Block {
                    block,
                    dirty: false,
                    new: false,
                    changed: false,
                },
            );
        }
        Ok(self.blocks.get_mut(&index))
    }

    /// The refcount of the host cluster with this number.
    pub(crate) fn get(&mut self, cluster: u64) -> Result<u64> {
        let per = self.per_block();
        Ok(self
            .block(cluster / per)?
            .map_or(0, |b| b.block.get(cluster % per)))
    }

    /// Stores a refcount; the block that covers it must exist.
    pub(crate) fn set(&mut self, cluster: u64, count: u64) -> Result<()> {
        let per = self.per_block();
        if let Some(block) = self.block(cluster / per)?
            && block.block.set(cluster % per, count)
        {
            block.dirty = true;
            block.changed = true;
            return Ok(());
        }
        let message = format!("refcount {count} of cluster {cluster} cannot be stored");
        Err(Error::new(ErrorKind::Corrupt, message).about(&self.node.name))
    }

    /// Stores what the refcount of a cluster of the file should have been, making a block where
    /// there is none.
    pub(crate) fn correct(&mut self, cluster: u64, count: u64) -> Result<()> {
        let index = cluster / self.per_block();
        // One step may make the block of another index, or the table longer, first.
        while !self.table_covers(cluster) {
            self.add_block(index)?;
        }
        // The file does not have it yet, and it covers clusters that are met again.
        self.pinned.insert(index);
        self.set(cluster, count)
    }

    /// Whether the block that covers `cluster` counts nothing at all.
    pub(crate) fn is_zero_around(&mut self, cluster: u64) -> Result<bool> {
        let index = cluster / self.per_block();
        Ok(self.block(index)?.is_none_or(|block| block.block.is_zero()))
    }

    /// Lets go of blocks that were read and not changed. Returns the bytes of those that stay.
    pub(crate) fn forget_unchanged(&mut self) -> u64 {
        self.blocks.retain(|_, block| block.dirty || block.new);
        to_u64(self.blocks.len()) << self.cluster.bits()
    }

    /// The largest refcount that fits.
    pub(crate) fn max(&self) -> u64 {
        self.width.max()
    }

    /// First cluster behind all that the blocks of the table cover.
    pub(crate) fn covered(&self) -> u64 {
        let last = self.table.iter().rposition(|entry| *entry != 0);
        last.map_or(0, |index| (to_u64(index) + 1) * self.per_block())
    }

    /// Keeps the block that covers `cluster` in memory: it will be changed once more, and what
    /// was written is not read.
    pub(crate) fn pin(&mut self, cluster: u64) {
        self.pinned.insert(cluster / self.per_block());
    }

    /// Lets go of the blocks of a range of clusters that are written and not changed any more.
    pub(crate) fn release(&mut self, clusters: &Range<u64>) {
        let per = self.per_block();
        let pinned = &self.pinned;
        self.blocks.retain(|index, block| {
            block.dirty
                || block.new
                || pinned.contains(index)
                || !clusters.contains(&index.saturating_mul(per))
        });
    }

    /// The blocks of the table: index and host cluster.
    pub(crate) fn block_clusters(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let bits = self.cluster.bits();
        let table = (0..).zip(&self.table).filter(|(_, entry)| **entry != 0);
        table.map(move |(index, entry)| (index, entry >> bits))
    }

    /// The clusters that one block covers.
    pub(crate) fn clusters_per_block(&self) -> u64 {
        self.per_block()
    }

    fn table_covers(&self, cluster: u64) -> bool {
        let index = to_usize(cluster / self.per_block());
        self.table.get(index).is_some_and(|&entry| entry != 0)
    }

    /// Host clusters that hold the table and its blocks, as far as the file is concerned.
    pub(crate) fn own_clusters(&self) -> impl Iterator<Item = u64> {
        let bits = self.cluster.bits();
        let first = self.table_at.0 >> bits;
        let blocks = self
            .table
            .iter()
            .filter(|e| **e != 0)
            .map(move |e| e >> bits);
        (first..first + self.table_clusters).chain(blocks)
    }

    /// Whether exactly one reference leads to the cluster at `host`.
    pub(crate) fn is_sole(&mut self, host: HostOffset) -> Result<bool> {
        Ok(self.get(host.0 >> self.cluster.bits())? == 1)
    }

    /// Takes `count` clusters in a row, each with refcount 1. They read as zeros.
    pub(crate) fn allocate(&mut self, count: u64) -> Result<HostOffset> {
        let per = self.per_block();
        'search: loop {
            let start = self.next;
            let end = start
                .checked_add(count)
                .filter(|end| *end < 1 << (55 - self.cluster.bits()));
            let Some(end) = end else {
                return Err(Error::new(
                    ErrorKind::Refused,
                    "the image file would grow beyond 2^55 bytes",
                )
                .about(&self.node.name));
            };
            for index in start / per..=(end - 1) / per {
                if self.table.get(to_usize(index)).copied().unwrap_or(0) == 0 {
                    self.add_block(index)?;
                    continue 'search;
                }
            }
            for cluster in start..end {
                if self.get(cluster)? != 0 {
                    self.next = cluster + 1;
                    continue 'search;
                }
            }
            for cluster in start..end {
                self.set(cluster, 1)?;
            }
            self.next = end;
            return Ok(HostOffset(start << self.cluster.bits()));
        }
    }

    /// Takes `len` bytes, less than a cluster, for packed data, behind the last ones where they
    /// have room: every cluster that they lie in gets one more reference.
    pub(crate) fn allocate_bytes(&mut self, len: u64) -> Result<HostOffset> {
        let bits = self.cluster.bits();
        let (start, used) = (
            self.packed_end,
            self.packed_end & (self.cluster.bytes() - 1),
        );
        let mut fresh = None;
        if used > 0 {
            let open = start >> bits;
            let count = self.get(open)?;
            if count < self.width.max() {
                let within = len <= self.cluster.bytes() - used;
                if !within {
                    fresh = Some(self.allocate(1)?);
                }
                if within || fresh == Some(HostOffset((open + 1) << bits)) {
                    self.set(open, count + 1)?;
                    self.packed_end = start + len;
                    return Ok(HostOffset(start));
                }
            }
        }
        let at = match fresh {
            Some(at) => at,
            None => self.allocate(1)?,
        };
        self.packed_end = at.0 + len;
        Ok(at)
    }

    /// Takes one cluster for guest data, one that was free if there are enough of them. `used`
    /// are not free, whatever their refcounts say. See [`Self::is_blank`].
    pub(crate) fn allocate_data(&mut self, used: &MetadataClusters) -> Result<HostOffset> {
        let table = self.opened_table.as_ref().unwrap_or(&self.table);
        match self.free.take(table, &|cluster| used.contains(cluster))? {
            Some(cluster) => {
                self.set(cluster, 1)?;
                Ok(HostOffset(cluster << self.cluster.bits()))
            }
            None => self.allocate(1),
        }
    }

    /// Whether a cluster that was just taken reads as zeros.
    pub(crate) fn is_blank(&self, host: HostOffset) -> bool {
        host.0 >= self.node.source.len()
    }

    /// Puts a new refcount block for block index `index` at the next cluster. That cluster is
    /// covered by an older block or by the new one itself.
    fn add_block(&mut self, index: u64) -> Result<()> {
        let per = self.per_block();
        let at = self.next;
        let own = at / per;
        if own != index && self.table.get(to_usize(own)).copied().unwrap_or(0) == 0 {
            return self.add_block(own);
        }
        if own != index && self.get(at)? != 0 {
            self.next = at + 1;
            return Ok(());
        }
        if index >= to_u64(self.table.len()) {
            return self.grow_table(index + 1);
        }
        self.next = at + 1;
        let block = RefcountBlock::new(self.cluster, self.width);
        self.blocks.insert(
            index,
            Block {
                block,
                dirty: true,
                new: true,
                changed: true,
            },
        );
        self.opened_table.get_or_insert_with(|| self.table.clone());
        if let Some(entry) = self.table.get_mut(to_usize(index)) {
            *entry = at << self.cluster.bits();
        }
        self.dirty_entries.insert(index);
        self.set(at, 1)
    }

    /// Moves the table to a larger place, with room for at least `entries` and half as many
    /// again.
    fn grow_table(&mut self, entries: u64) -> Result<()> {
        let want = (entries + entries / 2 + 1) * RefcountTableEntry::LEN;
        let clusters = self.cluster.clusters(
            want.min(MAX_REFCOUNT_TABLE_BYTES)
                .max(entries * RefcountTableEntry::LEN),
        );
        if clusters << self.cluster.bits() > MAX_REFCOUNT_TABLE_BYTES {
            let message =
                format!("the refcount table would exceed {MAX_REFCOUNT_TABLE_BYTES} bytes");
            return Err(Error::new(ErrorKind::Refused, message).about(&self.node.name));
        }
        let old = (self.table_at.0 >> self.cluster.bits(), self.table_clusters);
        self.table.resize(
            to_usize(clusters * self.cluster.bytes() / RefcountTableEntry::LEN),
            0,
        );
        self.table_clusters = clusters;
        // With room in the table, allocating cannot come back here.
        self.table_at = self.allocate(clusters)?;
        let first = self.table_at.0 >> self.cluster.bits();
        let per = self.per_block();
        self.pinned
            .extend(first / per..=(first + clusters - 1) / per);
        self.moved = true;
        self.dropped.extend(old.0..old.0 + old.1);
        Ok(())
    }

    /// Drops one reference to the cluster with this number, once that is safe.
    pub(crate) fn drop_reference(&mut self, cluster: u64) {
        self.dropped.push(cluster);
    }

    /// End of the last cluster taken so far, in bytes.
    pub(crate) fn end(&self) -> u64 {
        self.next << self.cluster.bits()
    }

    /// Where the table is and its clusters, for the header.
    pub(crate) fn table(&self) -> (HostOffset, u64) {
        (self.table_at, self.table_clusters)
    }

    /// Writes what may be written any time: changed blocks, and a table that nothing points at
    /// yet. Returns whether there was something: then it must not be called again before a sync.
    pub(crate) fn flush_blocks(&mut self, out: &mut StepQueue) -> Result<bool> {
        for cluster in std::mem::take(&mut self.droppable) {
            // A count of 0 was wrong before; it must not become a huge one.
            let count = self.get(cluster)?.saturating_sub(1);
            if self.table_covers(cluster) {
                self.set(cluster, count)?;
            }
        }
        let (to, kind) = (self.node.id, MetadataKind::RefcountBlock);
        let mut written = self.moved;
        for (index, block) in &mut self.blocks {
            if std::mem::take(&mut block.dirty) {
                written = true;
                let dst = HostOffset(self.table.get(to_usize(*index)).copied().unwrap_or(0));
                out.push(Step::Write {
                    to,
                    dst,
                    kind,
                    bytes: block.block.as_bytes().to_vec(),
                });
            }
        }
        if self.moved {
            let bytes = self.table.iter().flat_map(|e| e.to_be_bytes()).collect();
            out.push(self.write(self.table_at, MetadataKind::RefcountTable, bytes));
            self.dirty_entries.clear();
        }
        // A block that was made and filled is never needed again, but for the table's.
        let full = self.next / self.per_block();
        let pinned = &self.pinned;
        self.blocks.retain(|index, block| {
            block.changed && !(block.new && *index < full) || pinned.contains(index)
        });
        if full > (self.packed_end >> self.cluster.bits()) / self.per_block() {
            // The count of the cluster with room may be out of reach now.
            self.packed_end = 0;
        }
        Ok(written)
    }

    /// What must become durable between the blocks and the references: the table's entries.
    /// Returns true when the table moved, so that the header must be written in this place.
    pub(crate) fn flush_table(&mut self, out: &mut StepQueue) -> bool {
        for index in std::mem::take(&mut self.dirty_entries) {
            let entry = self.table.get(to_usize(index)).copied().unwrap_or(0);
            let at = self.table_at.plus(index * RefcountTableEntry::LEN);
            out.push(self.write(
                at,
                MetadataKind::RefcountTable,
                entry.to_be_bytes().to_vec(),
            ));
        }
        std::mem::take(&mut self.moved)
    }

    /// Whether [`Self::flush_table`] has something to write.
    pub(crate) fn table_dirty(&self) -> bool {
        self.moved || !self.dirty_entries.is_empty()
    }

    /// Tells that everything that removed the references dropped so far is durable.
    pub(crate) fn references_removed(&mut self, removed: Vec<u64>) {
        self.droppable.extend(removed);
    }

    /// The references dropped since the last call: pass them to
    /// [`Self::references_removed`] when the writes that removed them are durable.
    pub(crate) fn take_dropped(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.dropped)
    }

    /// Whether decrements wait for [`Self::flush_blocks`].
    pub(crate) fn has_droppable(&self) -> bool {
        !self.droppable.is_empty()
    }

    fn write(&self, dst: HostOffset, kind: MetadataKind, bytes: Vec<u8>) -> Step {
        Step::Write {
            to: self.node.id,
            dst,
            kind,
            bytes,
        }
    }
}
