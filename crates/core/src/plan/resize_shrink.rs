//! A smaller size for a disk.
//!
//! The header with the new size and the shorter L1 table comes first and is one write: whatever
//! the crash, the disk is the old one or the new one. Then what the last L2 table has behind the
//! end goes, then refcounts, refcount blocks that count nothing any more, and the end of the
//! file. Internal snapshots keep what is theirs.

use super::snapshot_reach::Reach;
use super::snapshot_shift::Shift;
use super::snapshot_stage::Phase;
use super::snapshot_target::Target;
use super::{MetadataKind, Plan, PlanInfo, Step};
use crate::chain::{NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{CryptMethod, Header, L1Entry, L2Entry, L2Kind, RefcountTableEntry};
use std::ops::Range;
use std::sync::Arc;

/// The plan, with `info` about it.
pub(super) fn plan(tree: &Tree, image: NodeId, size: u64, info: PlanInfo) -> Result<Plan> {
    let mut target = Target::new(tree, image)?;
    let node = target.node;
    if node
        .image()?
        .as_qcow2()
        .is_some_and(|i| i.bitmaps_consistent())
    {
        let message = "the image has persistent bitmaps, which cannot be made shorter; \
                       remove them first";
        return Err(Error::new(ErrorKind::Unsupported, message).about(&node.name));
    }
    let old = target.header.clone();
    let cluster = old.cluster;
    let keep = cluster.clusters(size);
    let entries = old.l1_entries_for(size);
    let header = Header {
        size,
        l1_entries: u32::try_from(entries).unwrap_or(u32::MAX),
        ..old.clone()
    };
    let active = target.active()?;
    let tail = Reach::new(node, old.l2_layout(), old.l1_table, old.l1_entries)?;
    let tail = Arc::new(tail.starting_at(keep)?);
    Shift::down(&tail).check(&mut target.refcounts)?;

    let kept = cluster.clusters(entries * L1Entry::LEN);
    let l1 = target.l1_clusters(old.l1_table, old.l1_entries);
    let unused = l1.start + kept..l1.end;
    let mut drops = vec![unused];
    let mut new = Vec::new();
    let mut gone = Vec::new();
    if let Some(cut) = cut(&mut target, &active, keep, &mut new, &mut gone)? {
        drops.push(cut..cut + 1);
    }
    gone.extend(tail_of_cluster(&target, &active, size)?);

    let dropped = drops.iter().cloned().flatten().collect();
    let left = Shift::down(&tail).remaining(&mut target.refcounts, &dropped)?;
    let table = left.unused.iter().map(|(index, _)| Step::Write {
        to: node.id,
        dst: old.refcount_table.plus(index * RefcountTableEntry::LEN),
        kind: MetadataKind::RefcountTable,
        bytes: vec![0; 8],
    });
    let table: Vec<Step> = table.collect();
    let per_block = target.refcounts.clusters_per_block();
    let counted = |number: u64| {
        let block = number / per_block;
        !left.unused.iter().any(|(index, _)| *index == block)
    };
    let blocks = left.unused.iter().map(|(_, host)| *host);
    drops.extend(blocks.filter(|n| counted(*n)).map(|n| n..n + 1));

    let mut end = Vec::new();
    let len = left.end << cluster.bits();
    if len < node.source.len() {
        let to = node.id;
        end.extend([Step::Sync { node: to }, Step::SetLen { to, len }]);
    }
    if let Some(data) = &node.data {
        let to = data.id;
        if size < data.source.len() {
            end.push(Step::SetLen { to, len: size });
        }
        end.push(Step::Seal { node: to });
    }
    let phases = vec![
        Phase::Write(new),
        Phase::Settle,
        Phase::Header(Box::new(header)),
        Phase::Write(gone),
        Phase::Sync,
        Phase::Shift(Shift::down(&tail)),
        Phase::Sync,
        Phase::Write(table),
        Phase::Drop(drops.clone()),
        Phase::Write(end),
    ];
    let mut plan = target.plan(phases, &drops)?;
    let (files, warnings) = (std::mem::take(&mut plan.info.files), info.warnings.clone());
    plan.info = PlanInfo {
        warnings,
        files: if info.files.is_empty() {
            files
        } else {
            info.files.clone()
        },
        ..info
    };
    Ok(plan)
}

/// Takes what is behind the end out of the L2 table that the end is in: in place, or in a copy
/// when a snapshot has the table too. Returns the cluster of a table that was replaced.
fn cut(
    target: &mut Target<'_>,
    active: &Reach,
    keep: u64,
    new: &mut Vec<Step>,
    gone: &mut Vec<Step>,
) -> Result<Option<u64>> {
    let layout = active.layout;
    let index = to_usize(keep / layout.entries());
    let from = to_usize(keep % layout.entries() * layout.entry_len());
    if from == 0 {
        return Ok(None);
    }
    let Some((entry, table, mut bytes)) = active.table(index)? else {
        return Ok(None);
    };
    let Some(behind) = bytes.get_mut(from..) else {
        return Ok(None);
    };
    let Some(last) = behind.iter().rposition(|byte| *byte != 0) else {
        return Ok(None);
    };
    let len = (last + 1).next_multiple_of(8);
    behind.fill(0);
    let to = target.node.id;
    let number = table.0 >> layout.cluster.bits();
    if !entry.copied && target.refcounts.get(number)? > 1 {
        let (copy, step) = target.place(bytes, MetadataKind::L2)?;
        new.extend(step);
        let entry = L1Entry {
            table: Some(copy),
            copied: true,
        };
        gone.push(Step::Write {
            to,
            dst: active.at.plus(to_u64(index) * L1Entry::LEN),
            kind: MetadataKind::L1,
            bytes: entry.to_bits().to_be_bytes().to_vec(),
        });
        return Ok(Some(number));
    }
    gone.push(Step::Write {
        to,
        dst: table.plus(to_u64(from)),
        kind: MetadataKind::L2,
        bytes: vec![0; len],
    });
    Ok(None)
}

/// Zeros behind the end within the last cluster, unless somebody else has it too: whoever makes
/// the disk longer again, QEMU included, shows what is there.
fn tail_of_cluster(target: &Target<'_>, active: &Reach, size: u64) -> Result<Option<Step>> {
    let layout = active.layout;
    let within = layout.cluster.offset_in(size);
    let plain = target.header.crypt == CryptMethod::None && target.node.data.is_none();
    if within == 0 || !plain {
        return Ok(None);
    }
    let number = size >> layout.cluster.bits();
    let index = to_usize(number / layout.entries());
    let Some((_, _, bytes)) = active.table(index)? else {
        return Ok(None);
    };
    let at = to_usize(number % layout.entries() * layout.entry_len());
    let (word, bitmap) = (
        be64(&bytes, at).unwrap_or(0),
        be64(&bytes, at + 8).unwrap_or(0),
    );
    let bitmap = if layout.extended { bitmap } else { 0 };
    let entry = L2Entry::from_bits(word, bitmap, layout);
    let L2Kind::Standard { host } = entry.kind else {
        return Ok(None);
    };
    let dst: HostOffset = host.plus(within);
    let file: Range<u64> = 0..target.node.source.len();
    Ok((entry.copied && file.contains(&dst.0)).then(|| Step::Zero {
        to: target.node.id,
        dst,
        len: layout.cluster.bytes() - within,
    }))
}
