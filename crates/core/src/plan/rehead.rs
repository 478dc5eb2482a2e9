//! Rewriting header and extensions so that a crash leaves the old head or the new one.
//!
//! One sector is there or it is not. What does not fit into that: the table of feature names,
//! which is only for messages, is cut off first and put back last; a backing file name that has
//! to move is written beside the old one first.

use super::{MetadataKind, Step};
use crate::chain::NodeId;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::{Extensions, Head};
use std::ops::Range;

/// Disks write so many bytes at once or not at all.
const SECTOR: u64 = 512;
/// Bytes of the end marker of the extensions.
pub(super) const END: u64 = 8;

/// The steps that make `new` of `old`, the head as it is in the file. The place of the backing
/// file's name in `new` is chosen here. Where there is no room for them, names of features are
/// left out.
pub(super) fn steps(node: NodeId, old: &Head, new: &mut Head) -> Result<Vec<Step>> {
    if place_name(old, new).is_err() {
        new.extensions.set(Extensions::FEATURE_NAMES, None);
        place_name(old, new)?;
    }
    let (before, after) = (first_cluster(old), first_cluster(new));
    let Some(changed) = difference(&before, &after) else {
        return Ok(Vec::new());
    };
    if in_one_sector(&changed) {
        return Ok(vec![part(node, &after, changed)]);
    }
    let mut steps = Vec::new();
    let sync = Step::Sync { node };
    let mut now = old.clone();
    if let Some(at) = names_at_the_end(&now) {
        steps.push(bytes(node, at, vec![0; 8]));
        steps.push(sync.clone());
        now.extensions.0.pop();
    }
    let mut bare = new.clone();
    let names = names_at_the_end(&bare).and_then(|at| Some((at, bare.extensions.0.pop()?)));
    let mut before = first_cluster(&now);
    if let Some((to, name)) = bare.name_bytes()
        && bare.header.backing_name != now.header.backing_name
        && to.0 >= end(&now)
        && to_u64(name.len()) + to.0 > SECTOR
    {
        let name = name.to_vec();
        let range = to_usize(to.0)..to_usize(to.0) + name.len();
        if let Some(target) = before.get_mut(range) {
            target.copy_from_slice(&name);
        }
        steps.push(Step::Write {
            to: node,
            dst: to,
            kind: MetadataKind::BackingName,
            bytes: name,
        });
        steps.push(sync.clone());
        // The old name stays where nobody looks any more.
        let after = first_cluster(&bare);
        let head = to_usize(area_end(&bare).max(area_end(&now)));
        if let (Some(a), Some(b)) = (before.get(..head), after.get(..head))
            && let Some(changed) = difference(a, b)
        {
            steps.push(part(node, &after, changed));
        }
    } else {
        let after = first_cluster(&bare);
        if let Some(changed) = difference(&before, &after) {
            steps.push(part(node, &after, changed));
        }
    }
    if let Some((at, names)) = names {
        let mut data = names.data.clone();
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        data.resize(data.len().next_multiple_of(8), 0);
        data.extend([0; 8]);
        let mut front = names.kind.to_be_bytes().to_vec();
        front.extend(len.to_be_bytes());
        steps.push(sync.clone());
        steps.push(bytes(node, at + 8, data));
        steps.push(sync);
        steps.push(bytes(node, at, front));
    }
    Ok(steps)
}

/// Where the table of feature names starts when it is the last extension.
fn names_at_the_end(head: &Head) -> Option<u64> {
    let last = head.extensions.0.last()?;
    if last.kind != Extensions::FEATURE_NAMES {
        return None;
    }
    let at = head.extensions.position(Extensions::FEATURE_NAMES)?;
    Some(u64::from(head.header.header_length) + at)
}

/// First byte behind the end marker of the extensions.
fn area_end(head: &Head) -> u64 {
    u64::from(head.header.header_length) + head.extensions.len() + END
}

/// First byte behind the whole head.
fn end(head: &Head) -> u64 {
    let name = head.header.backing_name;
    let name_end = name.map_or(0, |(at, len)| at.0 + u64::from(len));
    area_end(head).max(name_end)
}

/// Chooses where the name in `new` goes: where it was, in the first sector with all the rest,
/// behind all of `old`, or else right behind the extensions.
fn place_name(old: &Head, new: &mut Head) -> Result<()> {
    let cluster = new.header.cluster.bytes();
    let first = area_end(new);
    let mut needed = first;
    if let Some((at, len)) = old.header.backing_name.filter(|_| new.backing.is_some()) {
        let long = u64::from(len);
        let apart = first.max(end(old));
        let place = if at.0 >= first && end(old) > SECTOR {
            at.0
        } else if first + long <= SECTOR || apart + long > cluster {
            first
        } else {
            apart
        };
        new.header.backing_name = Some((HostOffset(place), len));
        needed = place + long;
    }
    if needed > cluster {
        let message = format!(
            "header, extensions and backing file name would need {needed} bytes, the first \
             cluster has {cluster}"
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

/// Header, extensions and backing file name with zeros between them and behind.
pub(super) fn first_cluster(head: &Head) -> Vec<u8> {
    let mut bytes = head.to_bytes();
    if let Some((at, name)) = head.name_bytes() {
        let start = to_usize(at.0);
        bytes.resize(bytes.len().max(start + name.len()), 0);
        if let Some(target) = bytes.get_mut(start..start + name.len()) {
            target.copy_from_slice(name);
        }
    }
    bytes.resize(bytes.len().max(to_usize(head.header.cluster.bytes())), 0);
    bytes
}

/// The range outside of which the two are the same.
pub(super) fn difference(before: &[u8], after: &[u8]) -> Option<Range<u64>> {
    let differs = |(a, b): (&u8, &u8)| a != b;
    let first = before.iter().zip(after).position(differs)?;
    let last = before.iter().zip(after).rposition(differs)?;
    Some(to_u64(first)..to_u64(last) + 1)
}

/// Whether a disk writes the range at once or not at all.
pub(super) fn in_one_sector(range: &Range<u64>) -> bool {
    range.start / SECTOR == (range.end - 1) / SECTOR
}

/// Writes a part of a head.
pub(super) fn part(node: NodeId, head: &[u8], range: Range<u64>) -> Step {
    let slice = head.get(to_usize(range.start)..to_usize(range.end));
    bytes(node, range.start, slice.unwrap_or_default().to_vec())
}

fn bytes(node: NodeId, at: u64, bytes: Vec<u8>) -> Step {
    Step::Write {
        to: node,
        dst: HostOffset(at),
        kind: MetadataKind::Header,
        bytes,
    }
}
