//! A change of one qcow2 image's metadata, in the order that survives a crash.
//!
//! What is new goes to places nobody looks at yet; then the refcounts and, where needed, the
//! refcount table; then whatever refers to the new things; and only when that is durable do
//! refcounts go down.

use super::link::{HeadCell, clear_unknown_bits, header_write};
use super::{MetadataKind, Refcounts, Step, StepQueue, repair};
use crate::chain::Node;
use crate::error::Result;
use backchain_format::HostOffset;
use backchain_format::qcow2::incompatible;
use std::sync::Arc;

pub(super) struct Transaction {
    pub(super) node: Arc<Node>,
    pub(super) head: HeadCell,
    pub(super) refcounts: Refcounts,
    /// References removed by steps that are written but not synced.
    removed: Vec<u64>,
    file_end: u64,
}

impl Transaction {
    /// Fails when the image's refcounts cannot be told, and for a raw image.
    pub(super) fn new(node: &Arc<Node>) -> Result<Self> {
        let head = HeadCell::of(node)?;
        let header = head.lock().header.clone();
        let mut refcounts = Refcounts::new(node, &header)?;
        if header.has(incompatible::DIRTY) {
            repair::correct(node, &mut refcounts)?;
        }
        Ok(Self {
            node: Arc::clone(node),
            head,
            refcounts,
            removed: Vec::new(),
            file_end: node.source.len(),
        })
    }

    /// What comes before the first change.
    pub(super) fn begin(&mut self, out: &mut StepQueue) -> Result<()> {
        clear_unknown_bits(&self.node)?
            .into_iter()
            .for_each(|step| out.push(step));
        if self.head.lock().header.has(incompatible::DIRTY) {
            self.head.lock().header.incompatible &= !incompatible::DIRTY;
            let header = self.header_write();
            self.publish(vec![header], out)?;
            self.sync(out);
        }
        Ok(())
    }

    /// A write of metadata.
    pub(super) fn write(&self, dst: HostOffset, kind: MetadataKind, bytes: Vec<u8>) -> Step {
        Step::Write {
            to: self.node.id,
            dst,
            kind,
            bytes,
        }
    }

    /// The header as it is now.
    pub(super) fn header_write(&self) -> Step {
        header_write(self.node.id, &self.head.lock())
    }

    pub(super) fn sync(&self, out: &mut StepQueue) {
        out.push(Step::Sync { node: self.node.id });
    }

    /// Makes everything new durable together with its refcounts, then adds `references`, the
    /// steps that lead there and away from what was dropped. They are not durable yet.
    pub(super) fn publish(&mut self, references: Vec<Step>, out: &mut StepQueue) -> Result<()> {
        let dropped = self.refcounts.take_dropped();
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
        let durable = std::mem::replace(&mut self.removed, dropped);
        self.refcounts.references_removed(durable);
        if self.refcounts.table_dirty() {
            if self.refcounts.flush_table(out) {
                let (at, clusters) = self.refcounts.table();
                {
                    let header = &mut self.head.lock().header;
                    header.refcount_table = at;
                    header.refcount_table_clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
                }
                out.push(self.header_write());
            }
            self.sync(out);
        }
        references.into_iter().for_each(|step| out.push(step));
        Ok(())
    }

    /// Lets refcounts go down and closes the image.
    pub(super) fn finish(&mut self, out: &mut StepQueue) -> Result<()> {
        self.removed.extend(self.refcounts.take_dropped());
        while !self.removed.is_empty() || self.refcounts.has_droppable() {
            self.sync(out);
            self.refcounts
                .references_removed(std::mem::take(&mut self.removed));
            self.refcounts.flush_blocks(out)?;
        }
        out.push(Step::Seal { node: self.node.id });
        Ok(())
    }
}
