//! The steps of a change of snapshots, phase by phase.

use super::link::{HeadCell, header_write};
use super::snapshot_shift::{ClearFlags, Shift};
use super::{Refcounts, Stage, Step, StepQueue};
use crate::chain::Node;
use crate::error::Result;
use backchain_format::qcow2::{Header, incompatible};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A part of the change. Between two syncs phases write to different places.
pub(super) enum Phase {
    /// These steps: bytes that nothing points at yet, or references that go.
    Write(Vec<Step>),
    /// Refcounts up or down.
    Shift(Shift),
    /// Copied flags away.
    Clear(ClearFlags),
    /// Makes refcounts, new clusters and flags durable: now something may refer to them.
    Settle,
    /// The header that makes the change; durable before anything else.
    Header(Box<Header>),
    /// What was written is durable before anything else is.
    Sync,
    /// Takes one reference off each of these clusters, once all before is durable, and gives
    /// freed clusters back.
    Drop(Vec<Range<u64>>),
}

/// Carries the phases out one after the other.
pub(super) struct SnapshotStage {
    node: Arc<Node>,
    head: HeadCell,
    refcounts: Refcounts,
    /// The header says that refcounts may be wrong; they were corrected in memory.
    dirty: bool,
    phases: VecDeque<Phase>,
    /// Windows of the current shift that are written.
    windows: u64,
    file_end: u64,
    /// Shifts whose freed clusters are still to be given back.
    done: Vec<Shift>,
    /// Clusters of a refcount table that moved.
    dropped: Vec<u64>,
}

impl SnapshotStage {
    pub(super) fn new(
        node: &Arc<Node>,
        head: HeadCell,
        refcounts: Refcounts,
        dirty: bool,
        phases: Vec<Phase>,
    ) -> Self {
        Self {
            file_end: node.source.len(),
            node: Arc::clone(node),
            head,
            refcounts,
            dirty,
            phases: phases.into(),
            windows: 0,
            done: Vec::new(),
            dropped: Vec::new(),
        }
    }

    fn sync(&self, out: &mut StepQueue) {
        out.push(Step::Sync { node: self.node.id });
    }

    /// Blocks, the length of the file and, behind a sync, the refcount table.
    fn settle(&mut self, out: &mut StepQueue) -> Result<()> {
        self.refcounts.flush_blocks(out)?;
        let end = self.refcounts.end();
        if end > self.file_end {
            self.file_end = end;
            out.push(Step::SetLen {
                to: self.node.id,
                len: end,
            });
        }
        self.sync(out);
        if self.refcounts.table_dirty() {
            if self.refcounts.flush_table(out) {
                let (at, clusters) = self.refcounts.table();
                let mut head = self.head.lock();
                head.header.refcount_table = at;
                head.header.refcount_table_clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
                out.push(header_write(self.node.id, &head));
            }
            self.sync(out);
        }
        self.dropped.extend(self.refcounts.take_dropped());
        Ok(())
    }

    fn header(&mut self, new: &Header, out: &mut StepQueue) {
        let mut head = self.head.lock();
        let header = &mut head.header;
        (header.l1_table, header.l1_entries) = (new.l1_table, new.l1_entries);
        (header.snapshot_table, header.snapshots) = (new.snapshot_table, new.snapshots);
        header.size = new.size;
        out.push(header_write(self.node.id, &head));
    }

    fn drop_all(&mut self, ranges: Vec<Range<u64>>, out: &mut StepQueue) -> Result<()> {
        let mut clusters = std::mem::take(&mut self.dropped);
        clusters.extend(ranges.into_iter().flatten());
        self.refcounts.references_removed(clusters);
        self.refcounts.flush_blocks(out)?;
        let to = self.node.id;
        for shift in &mut self.done {
            shift.discard(to, out);
        }
        Ok(())
    }

    /// Some steps of a phase; true when the phase goes on.
    fn phase(&mut self, phase: &mut Phase, out: &mut StepQueue) -> Result<bool> {
        match phase {
            Phase::Write(steps) => steps.drain(..).for_each(|step| out.push(step)),
            Phase::Shift(shift) => {
                if self.windows > 0 {
                    // A block that new clusters were taken from may be written again.
                    self.sync(out);
                }
                self.windows += 1;
                return shift.advance(self.node.id, &mut self.refcounts, out);
            }
            Phase::Clear(clear) => return clear.advance(self.node.id, out),
            Phase::Settle => self.settle(out)?,
            Phase::Header(header) => {
                self.header(header, out);
                self.sync(out);
            }
            Phase::Sync => self.sync(out),
            Phase::Drop(ranges) => {
                self.sync(out);
                let ranges = std::mem::take(ranges);
                self.drop_all(ranges, out)?;
            }
        }
        Ok(false)
    }
}

impl Stage for SnapshotStage {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        if std::mem::take(&mut self.dirty) {
            // The corrected refcounts are durable before the bit that says they are not goes.
            self.settle(out)?;
            let mut head = self.head.lock();
            head.header.incompatible &= !incompatible::DIRTY;
            out.push(header_write(self.node.id, &head));
            out.push(Step::Sync { node: self.node.id });
            return Ok(true);
        }
        let Some(mut phase) = self.phases.pop_front() else {
            return Ok(false);
        };
        if self.phase(&mut phase, out)? {
            self.phases.push_front(phase);
        } else {
            self.windows = 0;
            if let Phase::Shift(shift) = phase {
                self.done.push(shift);
            }
        }
        Ok(!self.phases.is_empty())
    }
}
