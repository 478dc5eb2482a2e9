//! Clusters that were free when a plan began, for new data to go to.
//!
//! What the plan itself frees is not among them: until that is durable, a crash would show an
//! older reference what was written over it. Long runs come first, so that data stays together;
//! short ones only where there is much of them.

use crate::chain::Node;
use crate::error::Result;
use crate::source::read_padded;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::{ClusterSize, RefcountBlock, RefcountTableEntry, RefcountWidth};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a run that is taken without a second thought.
const LONG: u64 = 1 << 20;
/// Short runs are taken when they are at least this part of the file.
const PART: u64 = 16;

/// A look through the refcounts of a file as it was opened, once for long runs and once for
/// short ones.
pub(super) struct FreeSpace {
    node: Arc<Node>,
    cluster: ClusterSize,
    width: RefcountWidth,
    /// Whole clusters of the file.
    clusters: u64,
    /// The next cluster to look at.
    at: u64,
    /// What is left of the last run found.
    run: Range<u64>,
    /// The block last read, by its index.
    block: Option<(u64, RefcountBlock)>,
    looking_for: LookingFor,
    /// Clusters in short runs, as far as was looked.
    short: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LookingFor {
    Long,
    Short,
    Nothing,
}

impl FreeSpace {
    /// `trusted`: the refcounts are known to be right.
    pub(super) fn new(
        node: &Arc<Node>,
        cluster: ClusterSize,
        width: RefcountWidth,
        trusted: bool,
    ) -> Self {
        Self {
            node: Arc::clone(node),
            cluster,
            width,
            clusters: node.source.len() >> cluster.bits(),
            at: 0,
            run: 0..0,
            block: None,
            looking_for: if trusted {
                LookingFor::Long
            } else {
                LookingFor::Nothing
            },
            short: 0,
        }
    }

    /// Takes one free cluster. `table`: the refcount table as it was opened; `used`: clusters
    /// that are not free whatever their refcounts say.
    pub(super) fn take(
        &mut self,
        table: &[u64],
        used: &dyn Fn(u64) -> bool,
    ) -> Result<Option<u64>> {
        loop {
            for cluster in self.run.by_ref() {
                if !used(cluster) {
                    return Ok(Some(cluster));
                }
            }
            if !self.find(table)? {
                return Ok(None);
            }
        }
    }

    /// Looks for the next run.
    fn find(&mut self, table: &[u64]) -> Result<bool> {
        while self.looking_for != LookingFor::Nothing {
            while self.at < self.clusters {
                let run = self.next_run(table)?;
                self.at = run.end;
                let len = run.end - run.start;
                let long = len << self.cluster.bits() >= LONG;
                if len > 0 && long == (self.looking_for == LookingFor::Long) {
                    self.run = run;
                    return Ok(true);
                }
                if !long {
                    self.short += len;
                }
            }
            let many = self.short * PART >= self.clusters && self.short > 0;
            self.looking_for = if many && self.looking_for == LookingFor::Long {
                self.at = 0;
                LookingFor::Short
            } else {
                LookingFor::Nothing
            };
        }
        self.block = None;
        Ok(false)
    }

    /// The next run of free clusters within one block, which may be empty.
    fn next_run(&mut self, table: &[u64]) -> Result<Range<u64>> {
        let per = self.width.per_block(self.cluster);
        let index = self.at / per;
        let end = ((index + 1) * per).min(self.clusters);
        if self.block.as_ref().is_none_or(|(read, _)| *read != index) {
            let bits = table.get(to_usize(index)).copied().unwrap_or(0);
            let entry = RefcountTableEntry::from_bits(bits, 0)
                .ok()
                .and_then(|e| e.0);
            let Some(host) = entry
                .filter(|host| self.cluster.is_aligned(host.0) && host.0 < self.node.source.len())
            else {
                // Without a block its clusters would need one first.
                return Ok(end..end);
            };
            let mut bytes = vec![0; to_usize(self.cluster.bytes())];
            read_padded(self.node.source.as_ref(), host.0, &mut bytes)
                .map_err(|e| self.node.blame(e))?;
            self.block = Some((index, RefcountBlock::from_bytes(bytes, self.width)));
        }
        let Some((_, block)) = &self.block else {
            return Ok(end..end);
        };
        let is_free = |cluster: &u64| block.get(cluster % per) == 0;
        let start = (self.at..end).find(is_free).unwrap_or(end);
        let len = (start..end).take_while(is_free).count();
        Ok(start..start + to_u64(len))
    }
}
