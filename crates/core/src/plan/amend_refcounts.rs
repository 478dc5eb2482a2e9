//! Amend to another width of refcounts: the refcount structure is built anew beside the old one,
//! and one write of the header switches over.

use super::amend::invalid;
use super::transaction::Transaction;
use super::{MetadataKind, Stage, Step, StepQueue};
use crate::chain::Node;
use crate::error::Result;
use backchain_format::HostOffset;
use backchain_format::bytes::to_usize;
use backchain_format::qcow2::{
    ClusterSize, MAX_REFCOUNT_TABLE_BYTES, RefcountBlock, RefcountTableEntry, RefcountWidth,
    incompatible,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Refcounts looked at before steps are handed on.
const BATCH: u64 = 1 << 18;

pub(super) struct Rewidth {
    change: Transaction,
    cluster: ClusterSize,
    width: RefcountWidth,
    /// The new table.
    table: BTreeMap<u64, u64>,
    /// Clusters of the old structure.
    old: HashSet<u64>,
    /// The block to build next, and the first one that may count new clusters.
    next: u64,
    tail: u64,
    /// First cluster that nothing counts now.
    end: u64,
    /// Blocks read and not changed can be read again.
    forgetful: bool,
    started: bool,
}

impl Rewidth {
    /// Fails when a refcount is too large for `width`, in QEMU's words.
    pub(super) fn new(node: &Arc<Node>, width: RefcountWidth) -> Result<Self> {
        let mut change = Transaction::new(node)?;
        let header = change.head.lock().header.clone();
        let cluster = header.cluster;
        let per = width.per_block(cluster);
        let refcounts = &mut change.refcounts;
        let end = refcounts.covered();
        if width.max() < header.refcount_width.max() {
            let step = refcounts.clusters_per_block();
            let mut at = 0;
            while at < end {
                if !refcounts.is_zero_around(at)? {
                    for number in at..at + step {
                        let count = refcounts.get(number)?;
                        if count > width.max() {
                            return Err(invalid(format!(
                                "Cannot decrease refcount entry width to {} bits: \
                                 Cluster at offset {:#x} has a refcount of {count}",
                                width.bits(),
                                number << cluster.bits()
                            )));
                        }
                    }
                }
                refcounts.forget_unchanged();
                at += step;
            }
        }
        let entries = (end.max(cluster.clusters(node.source.len())) / per + 2) * 2;
        if entries * RefcountTableEntry::LEN > MAX_REFCOUNT_TABLE_BYTES {
            return Err(invalid(format!(
                "the refcount table would exceed {MAX_REFCOUNT_TABLE_BYTES} bytes"
            )));
        }
        Ok(Self {
            old: refcounts.own_clusters().collect(),
            tail: cluster.clusters(node.source.len()) / per,
            change,
            cluster,
            width,
            table: BTreeMap::new(),
            next: 0,
            end,
            forgetful: !header.has(incompatible::DIRTY),
            started: false,
        })
    }

    /// The new block with this number, as far as the clusters of now are concerned; `None` when
    /// it counts nothing. `old`: the clusters of the old structure, which nothing needs then.
    fn block(&mut self, index: u64, own: &BTreeSet<u64>) -> Result<Option<RefcountBlock>> {
        let per = self.width.per_block(self.cluster);
        let (first, last) = (index * per, (index + 1) * per);
        let mut block = RefcountBlock::new(self.cluster, self.width);
        let step = self.change.refcounts.clusters_per_block();
        let mut at = first;
        while at < last {
            let stop = last.min((at / step + 1) * step);
            if !self.change.refcounts.is_zero_around(at)? {
                for number in at..stop {
                    let mut count = self.change.refcounts.get(number)?;
                    if self.old.contains(&number) {
                        count = count.saturating_sub(1);
                    }
                    // It fits: that was seen before, and new clusters have one.
                    let _ = block.set(number - first, count);
                }
            }
            at = stop;
        }
        debug_assert!(own.range(first..last).all(|n| block.get(n - first) == 1));
        Ok(Some(block).filter(|block| !block.is_zero()))
    }

    fn write_block(&self, at: u64, block: &RefcountBlock) -> Step {
        let (dst, kind) = (HostOffset(at), MetadataKind::RefcountBlock);
        self.change.write(dst, kind, block.as_bytes().to_vec())
    }

    /// Builds blocks that count no new cluster. False when there are no more.
    fn blocks(&mut self, out: &mut StepQueue) -> Result<bool> {
        let per = self.width.per_block(self.cluster);
        let none = BTreeSet::new();
        let mut looked_at = 0;
        while self.next < self.tail && looked_at < BATCH {
            let index = self.next;
            self.next += 1;
            looked_at += per;
            if let Some(block) = self.block(index, &none)? {
                let at = self.change.refcounts.allocate(1)?.0;
                self.table.insert(index, at);
                out.push(self.write_block(at, &block));
            }
            if self.forgetful {
                self.change.refcounts.forget_unchanged();
            }
        }
        Ok(self.next < self.tail)
    }

    /// Builds the rest and the table, and switches over.
    fn rest(&mut self, out: &mut StepQueue) -> Result<()> {
        let per = self.width.per_block(self.cluster);
        let bits = self.cluster.bits();
        let none = BTreeSet::new();
        let mut wanted: BTreeSet<u64> = BTreeSet::new();
        for index in self.tail..self.end.div_ceil(per) {
            if self.block(index, &none)?.is_some() {
                wanted.insert(index);
            }
        }
        let mut own: BTreeSet<u64> = self.table.values().map(|at| at >> bits).collect();
        wanted.extend(own.iter().map(|number| number / per));
        let mut place: Option<(HostOffset, u64)> = None;
        loop {
            let missing = wanted.iter().find(|i| !self.table.contains_key(i)).copied();
            if let Some(index) = missing {
                let at = self.change.refcounts.allocate(1)?.0;
                self.table.insert(index, at);
                own.insert(at >> bits);
                wanted.insert((at >> bits) / per);
                continue;
            }
            let entries = self.table.last_key_value().map_or(1, |(last, _)| last + 1);
            let needed = self.cluster.clusters(entries * RefcountTableEntry::LEN);
            if place.is_some_and(|(_, clusters)| clusters >= needed) {
                break;
            }
            if let Some((at, clusters)) = place {
                // Too short after all: given up like the old structure.
                let first = at.0 >> bits;
                (first..first + clusters).for_each(|n| {
                    own.remove(&n);
                    self.old.insert(n);
                });
            }
            let at = self.change.refcounts.allocate(needed)?;
            place = Some((at, needed));
            for number in at.0 >> bits..(at.0 >> bits) + needed {
                own.insert(number);
                wanted.insert(number / per);
            }
        }
        let (at, clusters) = place.unwrap_or_default();
        if clusters << bits > MAX_REFCOUNT_TABLE_BYTES {
            return Err(invalid(format!(
                "the refcount table would exceed {MAX_REFCOUNT_TABLE_BYTES} bytes"
            )));
        }
        // The old structure may have grown to count the new one.
        self.old.extend(self.change.refcounts.own_clusters());
        let tail = self.tail;
        for index in wanted.into_iter().filter(|index| *index >= tail) {
            let block = self.block(index, &own)?;
            let block = block.unwrap_or_else(|| RefcountBlock::new(self.cluster, self.width));
            if let Some(at) = self.table.get(&index) {
                out.push(self.write_block(*at, &block));
            }
        }
        let mut bytes = vec![0; to_usize(clusters << bits)];
        for (index, host) in &self.table {
            let start = to_usize(index * RefcountTableEntry::LEN);
            if let Some(word) = bytes.get_mut(start..start + 8) {
                word.copy_from_slice(&host.to_be_bytes());
            }
        }
        out.push(self.change.write(at, MetadataKind::RefcountTable, bytes));
        let unused = self.unused()?;
        self.change.publish(Vec::new(), out)?;
        {
            let header = &mut self.change.head.lock().header;
            header.refcount_table = at;
            header.refcount_table_clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
            header.refcount_width = self.width;
        }
        out.push(self.change.header_write());
        self.change.sync(out);
        let to = self.change.node.id;
        for number in unused {
            out.push(Step::Discard {
                to,
                dst: HostOffset(number << bits),
                len: self.cluster.bytes(),
            });
        }
        out.push(Step::Seal { node: to });
        Ok(())
    }

    /// The clusters of the old structure that nobody else refers to as well, in order.
    fn unused(&mut self) -> Result<Vec<u64>> {
        let mut old: Vec<u64> = self.old.iter().copied().collect();
        old.sort_unstable();
        let mut unused = Vec::new();
        for number in old {
            if self.change.refcounts.get(number)? <= 1 {
                unused.push(number);
            }
        }
        Ok(unused)
    }
}

impl Stage for Rewidth {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        if !std::mem::replace(&mut self.started, true) {
            self.change.begin(out)?;
        }
        if self.blocks(out)? {
            return Ok(true);
        }
        self.rest(out)?;
        Ok(false)
    }

    fn progress(&self) -> (u64, u64) {
        (self.next, self.tail)
    }
}
