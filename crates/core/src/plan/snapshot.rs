//! Internal snapshots: taking one, going back to one, deleting one.
//!
//! The header is the one place that makes a snapshot be there, or another L1 table the active
//! one: a single write. Before it go the refcounts of what will be shared, without the copied
//! flags; behind it those of what is not referred to any more, and the flags of what has one
//! owner again. See `docs/decisions/0013-snapshots.md`.

use super::snapshot_shift::{ClearFlags, Shift};
use super::snapshot_stage::Phase;
use super::snapshot_target::{Target, broken};
use super::{MetadataKind, Plan, guard};
use crate::chain::{NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::image::SnapshotQuery;
use backchain_format::qcow2::{Header, MAX_SNAPSHOTS, SnapshotEntry};

/// Bytes of refcount blocks that going back to a snapshot may hold: those of four terabytes of
/// differences with QEMU's default sizes.
const APPLY_BLOCKS: u64 = 128 << 20;

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
