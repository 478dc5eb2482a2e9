//! Which guest cluster a place of a file belongs to.

use super::walk::{L2Table, TableWalk, entries};
use crate::chain::Node;
use crate::error::Result;
use backchain_format::qcow2::{ClusterSize, L2Kind};
use serde::Serialize;
use std::collections::HashSet;

/// What is at one place of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The guest offset of the cluster's first byte, for guest data and L2 tables.
    pub guest: Option<u64>,
    /// The name of the snapshot whose data it is; `None` for the active disk.
    pub snapshot: Option<String>,
    /// The L2 table that refers to it.
    pub table: Option<u64>,
}

/// A search for the guest cluster that the host cluster at some byte of a qcow2 file belongs
/// to: the first one found, in the active disk and then in the snapshots. Reads all L2 tables
/// if need be, so it goes on a few at a time.
pub struct OwnerSearch {
    /// Disks still to be looked at, last first: the snapshot's name and its tables.
    disks: Vec<(Option<String>, TableWalk)>,
    cluster: ClusterSize,
    host: u64,
    /// Snapshots share tables, and a damaged L1 table may name one over and over.
    seen: HashSet<u64>,
    best: Option<(u64, Found)>,
}

impl OwnerSearch {
    /// For byte `host` of the node's file; `None` where it is not qcow2.
    ///
    /// # Errors
    /// When the list of snapshots cannot be read.
    pub fn new(node: &Node, host: u64) -> Result<Option<Self>> {
        let Some(image) = node.image()?.as_qcow2() else {
            return Ok(None);
        };
        let mut disks = Vec::new();
        for snapshot in image.snapshots(node.source.as_ref())?.into_iter().rev() {
            let entries = u64::from(snapshot.l1_entries);
            let walk = TableWalk::new(&node.source, image, snapshot.l1_table, entries);
            disks.push((Some(snapshot.name), walk));
        }
        disks.push((None, TableWalk::active(&node.source, image)));
        Ok(Some(Self {
            disks,
            cluster: image.head.header.cluster,
            host,
            seen: HashSet::new(),
            best: None,
        }))
    }

    /// Looks at one more table; false when [`OwnerSearch::found`] will not change any more.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn advance(&mut self) -> Result<bool> {
        let Some((snapshot, walk)) = self.disks.last_mut() else {
            return Ok(false);
        };
        let Some((guest, at)) = walk.next_place()? else {
            self.disks.pop();
            return Ok(true);
        };
        if !self.seen.insert(at.0) {
            return Ok(true);
        }
        let table = L2Table {
            guest,
            at,
            bytes: walk.read(at)?,
        };
        if table.at.0 == self.cluster.align_down(self.host) {
            let found = Found {
                guest: Some(table.guest),
                snapshot: snapshot.clone(),
                table: None,
            };
            self.best = Some((self.host, found));
            self.disks.clear();
            return Ok(false);
        }
        let mut sure = false;
        for (index, entry) in entries(&table.bytes, walk.layout()) {
            let (at, len) = match entry.kind {
                L2Kind::Standard { host } | L2Kind::Zero { host: Some(host) } => {
                    (host.0, self.cluster.bytes())
                }
                L2Kind::Compressed(packed) => (packed.host.0, packed.len),
                L2Kind::Zero { host: None } | L2Kind::Unallocated => continue,
            };
            // The length of packed bytes is an upper limit: of two that claim the place, the
            // one that begins later has it.
            let nearer = self.best.as_ref().is_none_or(|(known, _)| at > *known);
            if nearer && (at..at.saturating_add(len)).contains(&self.host) {
                let found = Found {
                    guest: Some(guest.saturating_add(index << self.cluster.bits())),
                    snapshot: snapshot.clone(),
                    table: Some(table.at.0),
                };
                self.best = Some((at, found));
                // A cluster that is not packed is nobody else's.
                sure = at == self.host || !matches!(entry.kind, L2Kind::Compressed(_));
            }
        }
        if sure {
            self.disks.clear();
        }
        Ok(!sure)
    }

    /// What was found so far.
    pub fn found(&self) -> Option<&Found> {
        self.best.as_ref().map(|(_, found)| found)
    }
}

/// [`OwnerSearch`] in one go.
///
/// # Errors
/// When a table cannot be read.
pub fn find_owner(node: &Node, host: u64) -> Result<Option<Found>> {
    let Some(mut search) = OwnerSearch::new(node, host)? else {
        return Ok(None);
    };
    while search.advance()? {}
    Ok(search.found().cloned())
}
