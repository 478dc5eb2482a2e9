//! One qcow2 image whose tables are replaced by others: what is needed to plan that.

use super::info::InfoBuilder;
use super::link::{HeadCell, clear_unknown_bits};
use super::snapshot_reach::Reach;
use super::snapshot_stage::{Phase, SnapshotStage};
use super::{Fixed, MetadataKind, Plan, Refcounts, Stage, Step, guard, repair};
use crate::chain::{Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Qcow2;
use backchain_format::HostOffset;
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{Header, SnapshotEntry, incompatible};
use std::ops::Range;
use std::sync::Arc;

/// An image whose tables are to change.
pub(super) struct Target<'a> {
    pub(super) tree: &'a Tree,
    pub(super) node: &'a Arc<Node>,
    pub(super) head: HeadCell,
    pub(super) header: Header,
    pub(super) list: Vec<SnapshotEntry>,
    pub(super) refcounts: Refcounts,
    pub(super) dirty: bool,
}

impl<'a> Target<'a> {
    pub(super) fn new(tree: &'a Tree, image: NodeId) -> Result<Self> {
        let node = tree.node(image);
        guard::header_writable(tree, node)?;
        let Some(qcow2) = node.image()?.as_qcow2() else {
            let message = "a raw image cannot have internal snapshots";
            return Err(Error::new(ErrorKind::Unsupported, message).about(&node.name));
        };
        let header = qcow2.head.header.clone();
        let mut refcounts = Refcounts::new(node, &header)?;
        let dirty = header.has(incompatible::DIRTY);
        if dirty {
            repair::correct(node, &mut refcounts)?;
        }
        Ok(Self {
            tree,
            node,
            head: HeadCell::of(node)?,
            list: node.snapshots()?,
            header,
            refcounts,
            dirty,
        })
    }

    /// Snapshots of an image with an external data file cannot keep its data.
    pub(super) fn keeps_its_data(&self) -> Result<()> {
        if !self.header.has(incompatible::DATA_FILE) {
            return Ok(());
        }
        let message = "an image with an external data file cannot have internal snapshots";
        Err(Error::new(ErrorKind::Unsupported, message).about(&self.node.name))
    }

    pub(super) fn reach(&self, at: HostOffset, entries: u32) -> Result<Arc<Reach>> {
        let reach = Reach::new(self.node, self.header.l2_layout(), at, entries)?;
        Ok(Arc::new(reach))
    }

    pub(super) fn active(&self) -> Result<Arc<Reach>> {
        self.reach(self.header.l1_table, self.header.l1_entries)
    }

    /// The L1 table of a snapshot, checked.
    pub(super) fn of(&self, snapshot: &SnapshotEntry) -> Result<Arc<Reach>> {
        self.node.at_snapshot(snapshot)?;
        self.reach(snapshot.l1_table, snapshot.l1_entries)
    }

    /// Clusters of `len` bytes at `at`.
    pub(super) fn clusters(&self, at: HostOffset, len: u64) -> Range<u64> {
        let cluster = self.header.cluster;
        let first = at.0 >> cluster.bits();
        first..first + cluster.clusters(len)
    }

    /// Clusters of an L1 table.
    pub(super) fn l1_clusters(&self, at: HostOffset, entries: u32) -> Range<u64> {
        self.clusters(at, u64::from(entries) * 8)
    }

    /// Clusters of the table of snapshots as it is.
    pub(super) fn table_clusters(&self) -> Range<u64> {
        let len = self.list.iter().filter_map(SnapshotEntry::to_bytes);
        let len = len.map(|bytes| to_u64(bytes.len())).sum();
        self.clusters(self.header.snapshot_table, len)
    }

    /// Takes room for bytes that nothing points at yet. 0 bytes have no place.
    pub(super) fn place(
        &mut self,
        bytes: Vec<u8>,
        kind: MetadataKind,
    ) -> Result<(HostOffset, Option<Step>)> {
        let clusters = self.header.cluster.clusters(to_u64(bytes.len()));
        if clusters == 0 {
            return Ok((HostOffset(0), None));
        }
        let dst = self.refcounts.allocate(clusters)?;
        let to = self.node.id;
        let step = Step::Write {
            to,
            dst,
            kind,
            bytes,
        };
        Ok((dst, Some(step)))
    }

    /// Takes room for a new table of snapshots and puts it into the header.
    pub(super) fn new_table(
        &mut self,
        list: &[SnapshotEntry],
        header: &mut Header,
    ) -> Result<Option<Step>> {
        let Some(bytes) = Qcow2::snapshot_table(list) else {
            let message = "the table of snapshots would be too large";
            return Err(Error::new(ErrorKind::Refused, message).about(&self.node.name));
        };
        let (at, step) = self.place(bytes, MetadataKind::SnapshotTable)?;
        header.snapshot_table = at;
        header.snapshots = u32::try_from(list.len()).unwrap_or(u32::MAX);
        Ok(step)
    }

    /// Puts the plan together. What is dropped at the end is kept in memory till then.
    pub(super) fn plan(mut self, mut phases: Vec<Phase>, drops: &[Range<u64>]) -> Result<Plan> {
        let mut info = InfoBuilder::new(self.tree);
        info.written(self.node.id);
        repair::warning(self.node)
            .into_iter()
            .for_each(|w| info.warn(w));
        phases.push(Phase::Write(vec![Step::Seal { node: self.node.id }]));
        for cluster in drops.iter().cloned().flatten() {
            self.refcounts.pin(cluster);
        }
        let stages: Vec<Box<dyn Stage>> = vec![
            Box::new(Fixed(clear_unknown_bits(self.node)?)),
            Box::new(SnapshotStage::new(
                self.node,
                self.head,
                self.refcounts,
                self.dirty,
                phases,
            )),
        ];
        Ok(Plan::new(info.build(), stages))
    }
}

/// The images that read through `image` and were not given up.
pub(super) fn broken(tree: &Tree, image: NodeId) -> Vec<NodeId> {
    let mut broken = tree.dependents(image);
    broken.retain(|id| !tree.is_given_up(*id));
    broken
}
