//! The file on disk, by owner, with what the check finds.

use super::{MAX_COLUMNS, TURN, node, words};
use crate::js;
use crate::protocol::LayerId;
use crate::protocol::look::{Defect, DiskSeen, Look, Seen};
use crate::worker::session::Session;
use backchain::check::{Finding, Severity, check};
use backchain::format::bytes::to_usize;
use backchain::image::Image;
use backchain::inspect::{HostMap, Owner};
use backchain::{Node, NodeId};
use serde_bytes::ByteBuf;
use std::sync::Arc;

/// Findings listed.
const MAX_FINDINGS: u64 = 1000;

/// The file whose owners are known, as long as the tree lasts.
pub(super) struct Known {
    node: NodeId,
    map: HostMap,
    findings: Option<Vec<Defect>>,
    /// The part that was shown last, and its cells.
    shown: (std::ops::Range<u64>, u32),
}

/// Goes on with a file until it is done or others wait.
pub(super) async fn disk(
    session: &mut Session,
    layer: LayerId,
    range: std::ops::Range<u64>,
    cells: u32,
    stale: &dyn Fn() -> bool,
    tell: &dyn Fn(Seen),
) -> Result<Option<Look>, String> {
    let node = node(session, layer)?;
    node.image().map_err(words)?;
    if session
        .memory
        .disk
        .as_ref()
        .is_none_or(|known| known.node != node.id)
    {
        let Some(map) = HostMap::new(&node) else {
            return Err(
                "Only qcow2 files have parts to tell apart: all of this one is data.".to_owned(),
            );
        };
        session.memory.disk = Some(Known::new(&node, map));
    }
    let Some(known) = &mut session.memory.disk else {
        return Ok(None);
    };
    let cells = cells.clamp(1, MAX_COLUMNS);
    let range = range.start..range.end.min(node.source.len());
    known.shown = (range.clone(), cells);
    let mut more = true;
    while more {
        let until = js::now() + TURN;
        while more && js::now() < until {
            more = known.map.advance(4);
        }
        tell(Seen::Disk(disk_seen(known, layer, &node, &range, cells)));
        js::pause().await;
        if more && stale() {
            let (start, end) = (range.start, range.end);
            return Ok(Some(Look::Disk {
                layer,
                start,
                end,
                cells,
            }));
        }
    }
    if known.findings.is_none() && node.source.len() <= LARGEST_CHECKED {
        known.findings = Some(defects(&node));
        tell(Seen::Disk(disk_seen(known, layer, &node, &range, cells)));
    }
    Ok(None)
}

impl Known {
    fn new(node: &Node, map: HostMap) -> Self {
        Self {
            node: node.id,
            map,
            findings: None,
            shown: (0..node.source.len(), 1),
        }
    }
}

/// Checks a file that is being looked at, however large it is.
pub(super) fn check_now(
    session: &mut Session,
    layer: LayerId,
    tell: &dyn Fn(Seen),
) -> Result<(), String> {
    let node = node(session, layer)?;
    let known = session.memory.disk.as_mut();
    if let Some(known) = known.filter(|known| known.node == node.id) {
        known.findings = Some(defects(&node));
        let (range, cells) = known.shown.clone();
        tell(Seen::Disk(disk_seen(known, layer, &node, &range, cells)));
    }
    Ok(())
}

/// The check runs in one go: for larger files it would keep the engine busy for too long.
const LARGEST_CHECKED: u64 = 64 << 30;

fn defects(node: &Node) -> Vec<Defect> {
    let mut found = Vec::new();
    if let Ok(Image::Qcow2(image)) = &node.image {
        let bits = image.head.header.cluster.bits();
        check(node.source.as_ref(), image, MAX_FINDINGS, &mut |finding| {
            found.push(Defect {
                text: finding.to_string(),
                offset: place(finding, bits),
                leak: finding.severity() == Severity::Leak,
            });
        });
    }
    found
}

/// Where in the file a finding is about.
fn place(finding: &Finding, cluster_bits: u32) -> Option<u64> {
    match finding {
        Finding::Leak { cluster, .. }
        | Finding::RefcountTooLow { cluster, .. }
        | Finding::RefcountUnreadable { cluster } => cluster.checked_shl(cluster_bits),
        Finding::RefcountOverflow { offset }
        | Finding::PastEnd { offset, .. }
        | Finding::L2TableMisaligned { offset }
        | Finding::ClusterMisaligned { offset, .. }
        | Finding::Subclusters { offset }
        | Finding::CompressedCopied { offset }
        | Finding::SnapshotL1Misaligned { offset, .. } => Some(*offset),
        _ => None,
    }
}

fn disk_seen(
    known: &Known,
    layer: LayerId,
    node: &Node,
    range: &std::ops::Range<u64>,
    cells: u32,
) -> DiskSeen {
    let columns = known.map.columns(range.clone(), to_usize(u64::from(cells)));
    let cells: Vec<u8> = columns
        .iter()
        .map(|counts| {
            // Owners further down the list are rarer and tell more.
            let last = counts.iter().rposition(|&count| count > 0);
            last.and_then(|owner| u8::try_from(owner).ok())
                .unwrap_or(u8::MAX)
        })
        .collect();
    let totals = known.map.totals();
    let totals = Owner::ALL
        .iter()
        .zip(totals)
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(owner, bytes)| (owner_name(*owner).to_owned(), *owner as u8, bytes))
        .collect();
    DiskSeen {
        layer,
        size: node.source.len(),
        unit: known.map.unit(),
        start: range.start,
        end: range.end,
        cells: ByteBuf::from(cells),
        totals,
        done: known.map.done(),
        total: known.map.total(),
        findings: known.findings.clone(),
        unchecked: known.findings.is_none() && node.source.len() > LARGEST_CHECKED,
    }
}

/// What an owner is called.
pub(super) fn owner_name(owner: Owner) -> &'static str {
    match owner {
        Owner::Free => "free",
        Owner::Leaked => "leaked",
        Owner::Data => "data",
        Owner::Compressed => "compressed data",
        Owner::Reserved => "kept for zeros",
        Owner::Snapshot => "only in snapshots",
        Owner::Bitmap => "bitmaps",
        Owner::L2 => "L2 tables",
        Owner::L1 => "L1 table",
        Owner::RefcountBlock => "refcount blocks",
        Owner::RefcountTable => "refcount table",
        Owner::Encryption => "encryption header",
        Owner::Header => "header",
        Owner::Corrupt => "in conflict",
    }
}

/// Who owns byte `offset` of the file, as far as it is known without walking all of it.
pub(super) fn owner_at(session: &mut Session, node: &Arc<Node>, offset: u64) -> Option<Owner> {
    known(session, node)?.owner(offset)
}

/// The owners of a file, as far as they can be known in a moment; `None` for a raw file.
pub(super) fn known<'a>(session: &'a mut Session, node: &Arc<Node>) -> Option<&'a HostMap> {
    if session
        .memory
        .disk
        .as_ref()
        .is_none_or(|known| known.node != node.id)
    {
        session.memory.disk = HostMap::new(node).map(|map| Known::new(node, map));
    }
    let map = &mut session.memory.disk.as_mut()?.map;
    let until = js::now() + TURN;
    while map.advance(16) && js::now() < until {}
    Some(map)
}
