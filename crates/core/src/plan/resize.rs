//! Another size for a disk: growing. What the disk gains reads as zeros, whatever the backing
//! file has there and whatever the image still maps behind its end.

use super::flow::Flow;
use super::info::{InfoBuilder, word};
use super::link::{HeadCell, clear_unknown_bits};
use super::qcow2_stage::Qcow2Stage;
use super::qcow2_target::Qcow2Target;
use super::snapshot_target::broken;
use super::{Fixed, Plan, Preallocation, Stage, Step, data_file, guard, repair, resize_shrink};
use crate::chain::{Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Place;
use crate::image::Image;
use backchain_format::HostOffset;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::{Header, L1Entry, MAX_L1_BYTES, Version};
use std::sync::Arc;

/// [`super::Operation::Resize`].
pub(super) fn plan_resize(
    tree: &Tree,
    image: NodeId,
    size: u64,
    preallocation: Preallocation,
    allow_broken: bool,
) -> Result<Plan> {
    let node = tree.node(image);
    guard::header_writable(tree, node)?;
    guard::can_grow(node)?;
    guard::data_file_writable(tree, node)?;
    let old = node.virtual_size();
    let mut info = InfoBuilder::new(tree);
    info.equivalent(format!(
        "qemu-img resize {}{} {size}",
        if size < old { "--shrink " } else { "" },
        word(&node.name)
    ));
    if size < old {
        if preallocation != Preallocation::Off {
            let message = "Preallocation can only be used for growing images";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let mut lost = broken(tree, image);
        lost.retain(|id| tree.node(*id).virtual_size() > size);
        guard::no_dependents(tree, node, &lost, allow_broken)?;
        info.broken(&lost);
    }
    info.written(image);
    match node.image()? {
        Image::Raw { offset, .. } => {
            let steps = raw(node, *offset, size, preallocation)?;
            Ok(Plan::new(info.build(), vec![Box::new(Fixed(steps))]))
        }
        // What it grows by reads as noise until it is written, as in QEMU.
        Image::Luks(volume) => {
            let steps = raw(node, volume.payload(), size, preallocation)?;
            Ok(Plan::new(info.build(), vec![Box::new(Fixed(steps))]))
        }
        Image::Qcow2(_) if size == old => Ok(Plan::new(InfoBuilder::new(tree).build(), Vec::new())),
        Image::Qcow2(qcow2) => {
            repair::warning(node).into_iter().for_each(|w| info.warn(w));
            if let Some(data) = &node.data {
                info.written(data.id);
            }
            if size < old {
                return resize_shrink::plan(tree, image, size, info.build());
            }
            grow(tree, node, &qcow2.head.header, size, preallocation, info)
        }
    }
}

/// A raw file: its length is all there is.
fn raw(node: &Node, offset: u64, size: u64, preallocation: Preallocation) -> Result<Vec<Step>> {
    let to = node.id;
    if preallocation == Preallocation::Metadata {
        let message = "Unsupported preallocation mode: metadata";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let len = offset.checked_add(size).filter(|len| *len < 1 << 63);
    let Some(len) = len else {
        let message = "the file would be longer than 2^63 bytes";
        return Err(Error::new(ErrorKind::Invalid, message).about(&node.name));
    };
    let old = node.source.len();
    let mut steps = vec![Step::SetLen { to, len }];
    if preallocation != Preallocation::Off && old < len {
        steps.push(Step::Allocate {
            to,
            dst: HostOffset(old),
            len: len - old,
            write: preallocation == Preallocation::Full,
        });
    }
    steps.push(Step::Seal { node: to });
    Ok(steps)
}

fn grow(
    tree: &Tree,
    node: &Arc<Node>,
    header: &Header,
    size: u64,
    preallocation: Preallocation,
    mut info: InfoBuilder<'_>,
) -> Result<Plan> {
    guard::data_writable_beside_snapshots(tree, node)?;
    let (old, is_v3) = (header.size, header.version == Version::V3);
    if header.l1_entries_for(size) * L1Entry::LEN > MAX_L1_BYTES {
        let message = "Failed to grow the L1 table: File too large";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let chain = tree.chain(node.id)?;
    info.read(chain.layers());
    // A data file that others read has a place for everything.
    let preallocation = match preallocation {
        Preallocation::Off if data_file::is_raw(node) => Preallocation::Metadata,
        other => other,
    };
    let start = header.cluster.align_down(old);
    let mapped = match preallocation {
        Preallocation::Off => mapped(node, header)?.min(size),
        _ => size,
    };
    // As QEMU does; but in version 2, which has no zero clusters, only where it must be.
    let below = chain.below(1);
    let hides = is_v3 && below.as_ref().is_some_and(|b| b.virtual_size() > old);
    let mut flow = Flow::growth(&chain, below, start, size, mapped)?;
    if hides {
        flow = flow.over_something();
    }
    let target = Qcow2Target::new(node, HeadCell::of(node)?, true)?.growing(preallocation)?;
    let seal = vec![Step::Seal { node: node.id }];
    let stage = Qcow2Stage::new(target, flow, Some(size), seal).starting_at(start);
    let stages: Vec<Box<dyn Stage>> =
        vec![Box::new(Fixed(clear_unknown_bits(node)?)), Box::new(stage)];
    Ok(Plan::new(info.build(), stages))
}

/// Up to which guest byte there may be something behind the disk's end: what an interrupted
/// change left, the state of a virtual machine, or the rest of the last cluster.
fn mapped(node: &Node, header: &Header) -> Result<u64> {
    let old = header.size;
    // Longer ones were refused before.
    let len = (u64::from(header.l1_entries) * L1Entry::LEN).min(MAX_L1_BYTES);
    let mut bytes = vec![0; to_usize(len)];
    crate::source::read_padded(node.source.as_ref(), header.l1_table.0, &mut bytes)
        .map_err(|e| node.blame(e))?;
    let last = bytes.chunks_exact(8).rposition(|entry| entry != [0; 8]);
    let end = last.map_or(0, |index| {
        (to_u64(index) + 1).saturating_mul(header.l2_layout().table_span())
    });
    let mut tail = old > 0 && !header.cluster.is_aligned(old);
    if tail {
        let last = node.extents(old - 1)?.next().transpose()?;
        tail = last.is_some_and(|e| e.place != Place::Unallocated);
    }
    Ok(if end > old {
        end
    } else if tail {
        header
            .cluster
            .align_down(old)
            .saturating_add(header.cluster.bytes())
    } else {
        0
    })
}
