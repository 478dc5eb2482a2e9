//! Refcounts of all that an L1 table leads to, one up or one down, and the copied flags that say
//! "one".
//!
//! Host clusters are taken in windows: one walk over the L2 tables counts the references to a
//! window, then its refcount blocks are read, changed and written once. So memory does not grow
//! with the image, and nothing is read that was written before.

use super::snapshot_reach::{Reach, Window};
use super::{MetadataKind, Refcounts, Step, StepQueue, Window as Settings};
use crate::chain::NodeId;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{L1Entry, L2Entry};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// Refcount blocks in memory at once, as a multiple of the tables of a window.
const BLOCKS: u64 = 4;
/// Clusters counted at once.
const CLUSTERS: u64 = 16 << 20;
/// Freed ranges that are given back to the file system; the rest stays allocated there.
const DISCARDS: usize = 1 << 14;

/// Adds one to, or takes one off, the refcount of every cluster that `reach` leads to.
pub(super) struct Shift {
    reach: Arc<Reach>,
    up: bool,
    /// The active L1 table, whose copied flags are to be exact afterwards.
    exact: Option<Arc<Reach>>,
    /// References that are there before and afterwards: they are not counted.
    but: Option<Arc<Reach>>,
    pos: u64,
    end: u64,
    /// Ranges of clusters that nothing refers to any more.
    freed: Vec<Range<u64>>,
}

/// What a shift down leaves.
pub(super) struct Remaining {
    /// First host cluster behind all that are in use.
    pub(super) end: u64,
    /// Refcount blocks that count nothing: index and host cluster.
    pub(super) unused: Vec<(u64, u64)>,
}

impl Shift {
    /// Refcounts up.
    pub(super) fn up(reach: &Arc<Reach>) -> Self {
        Self::new(reach, true)
    }

    /// Refcounts down.
    pub(super) fn down(reach: &Arc<Reach>) -> Self {
        Self::new(reach, false)
    }

    fn new(reach: &Arc<Reach>, up: bool) -> Self {
        Self {
            reach: Arc::clone(reach),
            up,
            exact: None,
            but: None,
            pos: 0,
            end: 1,
            freed: Vec::new(),
        }
    }

    /// Corrects the copied flags of the active tables along with the refcounts.
    pub(super) fn with_flags(mut self, active: &Arc<Reach>) -> Self {
        self.exact = Some(Arc::clone(active));
        self
    }

    /// Leaves alone what `but` leads to as well. The changed blocks stay in memory, because the
    /// other half of the change comes to them too, and what was written is not read.
    pub(super) fn but(mut self, but: &Arc<Reach>) -> Self {
        self.but = Some(Arc::clone(but));
        self
    }

    /// Fails when a refcount would not fit its width, or is lower than the references: looks at
    /// everything and changes nothing. Returns the bytes of the blocks that would change.
    pub(super) fn check(mut self, refcounts: &mut Refcounts) -> Result<u64> {
        let mut blocks = 0;
        let tables = Settings::default().tables;
        while let Some(window) = self.window(refcounts, tables)? {
            let mut last = None;
            for (cluster, count) in window.iter() {
                let index = cluster / refcounts.clusters_per_block();
                blocks += u64::from(last.replace(index) != Some(index));
                let stored = refcounts.get(cluster)?;
                if stored < count {
                    let message = format!(
                        "host cluster {cluster} has {count} references and a refcount of {stored}; \
                         repair the image first"
                    );
                    return Err(self.reach.corrupt(message));
                }
                if self.up && stored > refcounts.max() - count {
                    let message = format!(
                        "the refcount of host cluster {cluster} would be {}, at most {} fit into \
                         the refcounts of the image",
                        stored.saturating_add(count),
                        refcounts.max()
                    );
                    return Err(Error::new(ErrorKind::Refused, message));
                }
            }
            refcounts.release(&window.range);
        }
        Ok(blocks << self.reach.layout.cluster.bits())
    }

    /// What is left when the refcounts are down: where the file can end, and the refcount blocks
    /// that count nothing but themselves. `dropped` are clusters that lose one reference more.
    pub(super) fn remaining(
        mut self,
        refcounts: &mut Refcounts,
        dropped: &BTreeSet<u64>,
    ) -> Result<Remaining> {
        let per = refcounts.clusters_per_block();
        let blocks: Vec<(u64, u64)> = refcounts.block_clusters().collect();
        let hosts: HashSet<u64> = blocks.iter().map(|(_, host)| *host).collect();
        let mut needed = BTreeSet::new();
        let mut end = 0;
        let tables = Settings::default().tables;
        self.end = refcounts.covered();
        while let Some(window) = self.window(refcounts, tables)? {
            self.end = refcounts.covered();
            let here = blocks
                .iter()
                .filter(|(index, _)| window.range.contains(&(index * per)));
            for (index, _) in here {
                for cluster in index * per..(index + 1) * per {
                    let stored = refcounts.get(cluster)?;
                    let gone = window.get(cluster) + u64::from(dropped.contains(&cluster));
                    if stored > gone && !hosts.contains(&cluster) {
                        needed.insert(*index);
                        end = end.max(cluster + 1);
                    }
                }
            }
            refcounts.release(&window.range);
        }
        // A block that is needed has to be counted itself.
        let by_index: BTreeMap<u64, u64> = blocks.iter().copied().collect();
        let mut open: Vec<u64> = needed.iter().copied().collect();
        while let Some(index) = open.pop() {
            if let Some(host) = by_index.get(&index) {
                end = end.max(host + 1);
                if needed.insert(host / per) {
                    open.push(host / per);
                }
            }
        }
        let unused = blocks.into_iter().filter(|(i, _)| !needed.contains(i));
        Ok(Remaining {
            end,
            unused: unused.collect(),
        })
    }

    /// References to the next window of clusters; `None` behind the last.
    fn window(&mut self, refcounts: &Refcounts, tables: u64) -> Result<Option<Window>> {
        if self.pos >= self.end {
            return Ok(None);
        }
        let per_block = refcounts.clusters_per_block();
        let block = 1u64 << self.reach.layout.cluster.bits();
        let blocks = tables.saturating_mul(BLOCKS) / block;
        let span = blocks
            .saturating_mul(per_block)
            .min(CLUSTERS)
            .max(per_block);
        let end = self.pos.saturating_add(span);
        let mut window = Window::new(self.pos..end);
        let last = self.reach.count(&mut window)?;
        if last > refcounts.covered() {
            let message = format!(
                "host cluster {} is referred to but has no refcount; repair the image first",
                last - 1
            );
            return Err(self.reach.corrupt(message));
        }
        if let Some(but) = &self.but {
            let mut kept = Window::new(window.range.clone());
            but.count(&mut kept)?;
            window.subtract(&kept);
        }
        self.pos = end;
        self.end = last;
        if let Some(exact) = &self.exact {
            // Flags are looked at wherever the active tables lead to.
            let mut unused = Window::new(0..0);
            self.end = self.end.max(exact.count(&mut unused)?);
        }
        Ok(Some(window))
    }

    /// Writes the next window; false when there is none.
    pub(super) fn advance(
        &mut self,
        to: NodeId,
        refcounts: &mut Refcounts,
        out: &mut StepQueue,
    ) -> Result<bool> {
        let Some(window) = self.window(refcounts, out.window.tables)? else {
            return Ok(false);
        };
        for (cluster, count) in window.iter() {
            let stored = refcounts.get(cluster)?;
            if self.up {
                refcounts.set(cluster, stored.saturating_add(count))?;
                continue;
            }
            let left = stored.saturating_sub(count);
            refcounts.set(cluster, left)?;
            if left == 0 {
                self.free(cluster);
            }
        }
        if let Some(exact) = &self.exact {
            let whole = window.range.start == 0 && window.range.end >= self.end;
            flags(to, exact, &window.range, whole, refcounts, out)?;
        }
        refcounts.flush_blocks(out)?;
        if self.but.is_none() {
            refcounts.release(&window.range);
        }
        Ok(true)
    }

    fn free(&mut self, cluster: u64) {
        if let Some(last) = self.freed.last_mut().filter(|last| last.end == cluster) {
            last.end += 1;
        } else if self.freed.len() < DISCARDS {
            self.freed.push(cluster..cluster + 1);
        }
    }

    /// Gives what is free now back to the file system: when nothing is read any more.
    pub(super) fn discard(&mut self, to: NodeId, out: &mut StepQueue) {
        let bits = self.reach.layout.cluster.bits();
        for range in self.freed.drain(..) {
            out.push(Step::Discard {
                to,
                dst: HostOffset(range.start << bits),
                len: (range.end - range.start) << bits,
            });
        }
    }
}

/// Sets or clears the copied flags of all entries that lead to a window of host clusters;
/// `whole` when there is only one window.
fn flags(
    to: NodeId,
    active: &Reach,
    window: &Range<u64>,
    whole: bool,
    refcounts: &mut Refcounts,
    out: &mut StepQueue,
) -> Result<()> {
    let layout = active.layout;
    let bits = layout.cluster.bits();
    let l1_bytes = active.l1.iter().flat_map(|e| e.to_be_bytes()).collect();
    let mut l1 = Changed::new(to, active.at, MetadataKind::L1, l1_bytes, whole);
    for index in 0..active.l1.len() {
        let Some((entry, table, bytes)) = active.table(index)? else {
            continue;
        };
        let number = table.0 >> bits;
        if window.contains(&number) {
            let copied = refcounts.get(number)? == 1;
            let new = L1Entry { copied, ..entry }.to_bits();
            l1.word(index * 8, new, out);
        }
        let words = words(&bytes, layout.entry_len());
        let mut l2 = Changed::new(to, table, MetadataKind::L2, bytes, whole);
        for (at, word) in words {
            let host = (word & HOST_MASK) >> bits;
            let plain = word & L2Entry::COMPRESSED == 0 && host != 0;
            if plain && window.contains(&host) {
                let flag = u64::from(refcounts.get(host)? == 1) * L2Entry::COPIED;
                l2.word(at, word & !L2Entry::COPIED | flag, out);
            }
        }
        l2.end(out);
    }
    l1.end(out);
    Ok(())
}

/// Clears all copied flags of an L1 table and its L2 tables, a batch of tables at a time.
pub(super) struct ClearFlags {
    reach: Arc<Reach>,
    next: usize,
}

impl ClearFlags {
    pub(super) fn new(reach: &Arc<Reach>) -> Self {
        Self {
            reach: Arc::clone(reach),
            next: 0,
        }
    }

    /// Some tables; false when all are done.
    pub(super) fn advance(&mut self, to: NodeId, out: &mut StepQueue) -> Result<bool> {
        let reach = Arc::clone(&self.reach);
        if self.next == 0 {
            let bytes = reach.l1.iter().flat_map(|e| e.to_be_bytes()).collect();
            let mut l1 = Changed::new(to, reach.at, MetadataKind::L1, bytes, true);
            for (index, entry) in reach.l1.iter().enumerate() {
                l1.word(index * 8, entry & !L1Entry::COPIED, out);
            }
            l1.end(out);
        }
        let mut looked = 0;
        while self.next < reach.l1.len() && looked < out.window.tables {
            let index = self.next;
            self.next += 1;
            let Some((_, table, bytes)) = reach.table(index)? else {
                continue;
            };
            looked += to_u64(bytes.len());
            let words = words(&bytes, reach.layout.entry_len());
            let mut l2 = Changed::new(to, table, MetadataKind::L2, bytes, true);
            for (at, word) in words {
                if word & L2Entry::COMPRESSED == 0 {
                    l2.word(at, word & !L2Entry::COPIED, out);
                }
            }
            l2.end(out);
        }
        Ok(self.next < reach.l1.len())
    }
}

/// The host offset in an entry.
const HOST_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// The first words of the entries of a table that are not 0, with their places.
fn words(bytes: &[u8], entry_len: u64) -> Vec<(usize, u64)> {
    let step = to_usize(entry_len);
    let entries = bytes.chunks_exact(step).enumerate();
    let word = |(slot, words)| Some((slot * step, be64(words, 0).filter(|word| *word != 0)?));
    entries.filter_map(word).collect()
}

/// Changed words of one table. Those of other windows are not written with them, unless there
/// is only one.
struct Changed {
    to: NodeId,
    table: HostOffset,
    kind: MetadataKind,
    bytes: Vec<u8>,
    whole: bool,
    dirty: Range<usize>,
}

impl Changed {
    fn new(to: NodeId, table: HostOffset, kind: MetadataKind, bytes: Vec<u8>, whole: bool) -> Self {
        Self {
            to,
            table,
            kind,
            bytes,
            whole,
            dirty: 0..0,
        }
    }

    /// The word at byte `at` of the table becomes `new`; they come in ascending order.
    fn word(&mut self, at: usize, new: u64, out: &mut StepQueue) {
        let Some(word) = self.bytes.get_mut(at..at + 8) else {
            return;
        };
        if *word == new.to_be_bytes() {
            return;
        }
        word.copy_from_slice(&new.to_be_bytes());
        if self.dirty.end != at && !self.whole {
            self.end(out);
        }
        if self.dirty.is_empty() {
            self.dirty.start = at;
        }
        self.dirty.end = at + 8;
    }

    fn end(&mut self, out: &mut StepQueue) {
        let dirty = std::mem::replace(&mut self.dirty, 0..0);
        if let Some(bytes) = self.bytes.get(dirty.clone()).filter(|b| !b.is_empty()) {
            out.push(Step::Write {
                to: self.to,
                dst: self.table.plus(to_u64(dirty.start)),
                kind: self.kind,
                bytes: bytes.to_vec(),
            });
        }
    }
}
