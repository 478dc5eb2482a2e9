//! Where the refcounts go when they are made anew.
//!
//! Blocks and table are put where nothing is referred to, and the old ones stay as they are until
//! the header names the new ones. The places are those that QEMU takes: the first that are free,
//! each block at or behind the clusters it counts.

use super::counts::{Copied, Counts};
use super::refcounts::Pass;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::{MAX_REFCOUNT_TABLE_BYTES, RefcountTableEntry};
use std::ops::Range;

/// Clusters behind the end of the file that new structures may take.
pub(super) const ROOM: u64 = 8 << 20;

/// Refcount blocks at most.
const MAX_BLOCKS: u64 = MAX_REFCOUNT_TABLE_BYTES / RefcountTableEntry::LEN;

/// Places in host clusters.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Of each block; 0 where none is needed.
    pub(super) blocks: Vec<u64>,
    /// Of the refcount table.
    pub(super) table: Range<u64>,
    /// Of a new snapshot table; empty when there is none.
    pub(super) snapshots: Range<u64>,
    /// All of these in order.
    pub(super) taken: Vec<Range<u64>>,
}

impl Layout {
    /// The first cluster behind all of it.
    pub(super) fn end(&self) -> u64 {
        self.taken.last().map_or(0, |range| range.end)
    }

    /// New references to a cluster: 1 or 0.
    pub(super) fn references(&self, cluster: u64) -> u64 {
        let before = self.taken.partition_point(|range| range.end <= cluster);
        let there = self.taken.get(before);
        u64::from(there.is_some_and(|range| range.start <= cluster))
    }

    /// Lays out refcounts for everything that `pass` counts, and `snapshots` clusters for a new
    /// snapshot table. `pass` has to count the old refcounts too.
    pub(super) fn of(pass: &mut Pass<'_>, snapshots: u64) -> Result<Self> {
        let per = pass.stored.per_block();
        let behind = pass.geometry.clusters + 1;
        let mut used = Vec::new();
        let mut windows = 0;
        pass.windows(&mut |_, counts| {
            windows += 1;
            let mut at = counts.start();
            // Behind the file there are only references that are wrong.
            let end = counts.end().min(behind);
            while let Some(cluster) = counts.first_used(at..end) {
                mark(&mut used, cluster / per);
                at = (cluster / per + 1) * per;
            }
        });
        let mut space = Space {
            counts: if windows == 1 {
                pass.window(0)
            } else {
                // Too many clusters to know them all at once.
                Counts::new(behind, behind + ROOM)
            },
            per,
            per_table: pass.geometry.cluster / RefcountTableEntry::LEN,
            used,
            layout: Layout::default(),
        };
        space.fill(snapshots)?;
        let mut layout = space.layout;
        layout.taken.sort_unstable_by_key(|range| range.start);
        Ok(layout)
    }
}

/// Notes that a block is needed. Indexes beyond any table are noted as the first such.
fn mark(used: &mut Vec<bool>, index: u64) {
    let index = to_usize(index.min(MAX_BLOCKS));
    if used.len() <= index {
        used.resize(index + 1, false);
    }
    if let Some(slot) = used.get_mut(index) {
        *slot = true;
    }
}

struct Space {
    counts: Counts,
    /// Clusters that one block counts.
    per: u64,
    /// Blocks that one cluster of the table names.
    per_table: u64,
    /// Which blocks are needed.
    used: Vec<bool>,
    layout: Layout,
}

impl Space {
    fn fill(&mut self, snapshots: u64) -> Result<()> {
        if snapshots > 0 {
            self.layout.snapshots = self.take(0, snapshots)?;
        }
        self.place_blocks()?;
        let mut len = self.table_clusters();
        loop {
            let table = self.take(0, len)?;
            self.layout.table = table.clone();
            self.place_blocks()?;
            let needed = self.table_clusters();
            if needed <= len {
                return Ok(());
            }
            // Its own blocks made it longer: nothing refers to this place.
            self.layout.taken.retain(|range| *range != table);
            len = needed;
        }
    }

    fn table_clusters(&self) -> u64 {
        to_u64(self.used.len()).div_ceil(self.per_table).max(1)
    }

    /// Finds places for the blocks that are needed and have none.
    fn place_blocks(&mut self) -> Result<()> {
        let (mut index, mut from) = (0, 0);
        while let Some(needed) = self.used.get(index) {
            self.layout.blocks.resize(self.used.len(), 0);
            if *needed && self.layout.blocks.get(index) == Some(&0) {
                from = from.max(to_u64(index) * self.per);
                let place = self.take(from, 1)?.start;
                from = place;
                if let Some(slot) = self.layout.blocks.get_mut(index) {
                    *slot = place;
                }
            }
            index += 1;
        }
        self.layout.blocks.resize(self.used.len(), 0);
        if to_u64(self.used.len()) > MAX_BLOCKS {
            let message =
                format!("the refcount table would exceed {MAX_REFCOUNT_TABLE_BYTES} bytes");
            return Err(Error::new(ErrorKind::Refused, message));
        }
        Ok(())
    }

    /// Takes the first `len` free clusters in a row from `from` on.
    fn take(&mut self, from: u64, len: u64) -> Result<Range<u64>> {
        let Some(start) = self.counts.free_run(from, len) else {
            let message = "there is no room for new refcounts";
            return Err(Error::new(ErrorKind::Refused, message));
        };
        let end = start + len;
        self.counts.add(start, len, 1, Copied::Silent);
        for index in start / self.per..=(end - 1) / self.per {
            mark(&mut self.used, index);
        }
        self.layout.taken.push(start..end);
        Ok(start..end)
    }
}
