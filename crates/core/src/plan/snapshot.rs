//! Internal snapshots: taking one, going back to one, deleting one.
//!
//! The header is the one place that makes a snapshot be there, or another L1 table the active
//! one: a single write. Before it go the refcounts of what will be shared, without the copied
//! flags; behind it those of what is not referred to any more, and the flags of what has one
//! owner again. See `docs/decisions/0013-snapshots.md`.

use super::info::InfoBuilder;
use super::link::{HeadCell, clear_unknown_bits};
use super::snapshot_reach::Reach;
use super::snapshot_shift::{ClearFlags, Shift};
use super::snapshot_stage::{Phase, SnapshotStage};
use super::{Fixed, MetadataKind, Plan, Refcounts, Stage, Step, guard, repair};
use crate::chain::{Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Qcow2, SnapshotQuery};
use backchain_format::HostOffset;
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{Header, MAX_SNAPSHOTS, SnapshotEntry, incompatible};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of refcount blocks that going back to a snapshot may hold: those of four terabytes of
/// differences with QEMU's default sizes.
const APPLY_BLOCKS: u64 = 128 << 20;

/// An image whose snapshots are to change.
struct Target<'a> {
    tree: &'a Tree,
    node: &'a Arc<Node>,
    head: HeadCell,
    header: Header,
    list: Vec<SnapshotEntry>,
    refcounts: Refcounts,
    dirty: bool,
}

impl<'a> Target<'a> {
    fn new(tree: &'a Tree, image: NodeId) -> Result<Self> {
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
    fn keeps_its_data(&self) -> Result<()> {
        if !self.header.has(incompatible::DATA_FILE) {
            return Ok(());
        }
        let message = "an image with an external data file cannot have internal snapshots";
        Err(Error::new(ErrorKind::Unsupported, message).about(&self.node.name))
    }

    fn reach(&self, at: HostOffset, entries: u32) -> Result<Arc<Reach>> {
        let reach = Reach::new(self.node, self.header.l2_layout(), at, entries)?;
        Ok(Arc::new(reach))
    }

    fn active(&self) -> Result<Arc<Reach>> {
        self.reach(self.header.l1_table, self.header.l1_entries)
    }

    /// The L1 table of a snapshot, checked.
    fn of(&self, snapshot: &SnapshotEntry) -> Result<Arc<Reach>> {
        self.node.at_snapshot(snapshot)?;
        self.reach(snapshot.l1_table, snapshot.l1_entries)
    }

    /// Clusters of `len` bytes at `at`.
    fn clusters(&self, at: HostOffset, len: u64) -> Range<u64> {
        let cluster = self.header.cluster;
        let first = at.0 >> cluster.bits();
        first..first + cluster.clusters(len)
    }

    /// Clusters of an L1 table.
    fn l1_clusters(&self, at: HostOffset, entries: u32) -> Range<u64> {
        self.clusters(at, u64::from(entries) * 8)
    }

    /// Clusters of the table of snapshots as it is.
    fn table_clusters(&self) -> Range<u64> {
        let len = self.list.iter().filter_map(SnapshotEntry::to_bytes);
        let len = len.map(|bytes| to_u64(bytes.len())).sum();
        self.clusters(self.header.snapshot_table, len)
    }

    /// Takes room for bytes that nothing points at yet. 0 bytes have no place.
    fn place(&mut self, bytes: Vec<u8>, kind: MetadataKind) -> Result<(HostOffset, Option<Step>)> {
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
    fn new_table(&mut self, list: &[SnapshotEntry], header: &mut Header) -> Result<Option<Step>> {
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
    fn plan(mut self, phases: Vec<Phase>, drops: &[Range<u64>]) -> Result<Plan> {
        let mut info = InfoBuilder::new(self.tree);
        info.written(self.node.id);
        repair::warning(self.node)
            .into_iter()
            .for_each(|w| info.warn(w));
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

/// [`super::Operation::SnapshotCreate`]. `date` is the time in seconds and nanoseconds.
pub(super) fn plan_create(
    tree: &Tree,
    image: NodeId,
    name: &str,
    date: (u32, u32),
) -> Result<Plan> {
    let mut target = Target::new(tree, image)?;
    target.keeps_its_data()?;
    if target.header.snapshots >= MAX_SNAPSHOTS {
        let message = format!("the image has {MAX_SNAPSHOTS} snapshots, it cannot have more");
        return Err(Error::new(ErrorKind::Refused, message).about(&target.node.name));
    }
    let active = target.active()?;
    Shift::up(&active)
        .check(&mut target.refcounts)
        .map_err(|e| target.node.blame(e))?;

    let (l1_table, l1) = target.place(active.shared_bytes(), MetadataKind::L1)?;
    let highest = target.list.iter().map(|s| number(&s.id)).max();
    let mut list = target.list.clone();
    list.push(SnapshotEntry {
        l1_table,
        l1_entries: target.header.l1_entries,
        id: highest.map_or(1, |n| n.saturating_add(1)).to_string(),
        name: name.to_owned(),
        date_sec: date.0,
        date_nsec: date.1,
        vm_clock_nsec: 0,
        vm_state_size: 0,
        disk_size: Some(target.header.size),
        icount: Some(0),
        stored: Vec::new(),
    });
    let mut header = target.header.clone();
    let table = target.new_table(&list, &mut header)?;
    let old = target.table_clusters();
    let drops = [old];
    let phases = vec![
        Phase::Write(l1.into_iter().chain(table).collect()),
        Phase::Shift(Shift::up(&active)),
        Phase::Clear(ClearFlags::new(&active)),
        Phase::Settle,
        Phase::Header(Box::new(header)),
        Phase::Drop(drops.to_vec()),
    ];
    target.plan(phases, &drops)
}

/// The number at the start of an ID, as QEMU counts on from it.
fn number(id: &str) -> u64 {
    let digits = id.trim_start();
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits.get(..end).unwrap_or_default().parse().unwrap_or(0)
}

/// [`super::Operation::SnapshotApply`].
pub(super) fn plan_apply(
    tree: &Tree,
    image: NodeId,
    snapshot: &SnapshotQuery,
    allow_broken: bool,
) -> Result<Plan> {
    let mut target = Target::new(tree, image)?;
    target.keeps_its_data()?;
    let chosen = snapshot.find(&target.list)?.clone();
    let node = target.node;
    if node
        .image()?
        .as_qcow2()
        .is_some_and(|i| i.bitmaps_consistent())
    {
        let message = "the image has persistent bitmaps, which would not say what changes; \
                       remove them first";
        return Err(Error::new(ErrorKind::Refused, message).about(&node.name));
    }
    let broken = broken(tree, image);
    guard::no_dependents(tree, node, &broken, allow_broken)?;
    let size = chosen.disk_size.unwrap_or(target.header.size);
    if size != target.header.size {
        guard::can_grow(node)?;
    }
    let (active, then) = (target.active()?, target.of(&chosen)?);
    let up = || Shift::up(&then).but(&active);
    let down = || Shift::down(&active).but(&then);
    let blocks = up().check(&mut target.refcounts)? + down().check(&mut target.refcounts)?;
    if blocks > APPLY_BLOCKS {
        let message = format!(
            "the snapshot differs so much that {blocks} bytes of refcounts change; \
             convert it into a new image instead"
        );
        return Err(Error::new(ErrorKind::Refused, message).about(&node.name));
    }
    let (l1_table, l1) = target.place(then.shared_bytes(), MetadataKind::L1)?;
    let header = Header {
        l1_table,
        l1_entries: chosen.l1_entries,
        size,
        ..target.header.clone()
    };
    let drops = [target.l1_clusters(target.header.l1_table, target.header.l1_entries)];
    let phases = vec![
        Phase::Write(l1.into_iter().collect()),
        Phase::Shift(up()),
        Phase::Clear(ClearFlags::new(&then)),
        Phase::Settle,
        Phase::Header(Box::new(header)),
        Phase::Shift(down()),
        Phase::Drop(drops.to_vec()),
    ];
    let mut plan = target.plan(phases, &drops)?;
    plan.info.broken_dependents = broken;
    Ok(plan)
}

/// The images that read through `image` and were not given up.
pub(super) fn broken(tree: &Tree, image: NodeId) -> Vec<NodeId> {
    let mut broken = tree.dependents(image);
    broken.retain(|id| !tree.is_given_up(*id));
    broken
}

/// [`super::Operation::SnapshotDelete`].
pub(super) fn plan_delete(tree: &Tree, image: NodeId, snapshot: &SnapshotQuery) -> Result<Plan> {
    let mut target = Target::new(tree, image)?;
    let chosen = snapshot.find(&target.list)?.clone();
    target.keeps_its_data()?;
    let index = snapshot.position(&target.list);
    let (active, then) = (target.active()?, target.of(&chosen)?);
    Shift::down(&then).check(&mut target.refcounts)?;
    let mut list = target.list.clone();
    if let Some(index) = index {
        list.remove(index);
    }
    let mut header = target.header.clone();
    let table = target.new_table(&list, &mut header)?;
    let drops = [
        target.table_clusters(),
        target.l1_clusters(chosen.l1_table, chosen.l1_entries),
    ];
    let phases = vec![
        Phase::Write(table.into_iter().collect()),
        Phase::Settle,
        Phase::Header(Box::new(header)),
        Phase::Shift(Shift::down(&then).with_flags(&active)),
        Phase::Drop(drops.to_vec()),
    ];
    target.plan(phases, &drops)
}
