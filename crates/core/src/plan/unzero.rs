//! Zero clusters become data, or nothing where there is no backing file: version 2 has none.
//!
//! Each L2 table is changed in place, once, however many internal snapshots share it: a cluster
//! made for one of its entries has as many references as the table.

use super::transaction::Transaction;
use super::{MetadataKind, Step, StepQueue};
use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Qcow2;
use crate::source::read_padded;
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{L1Entry, L2Entry, L2Kind, L2Layout, SnapshotEntry};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of L2 tables looked at before steps are handed on.
const BATCH: u64 = 2 << 20;

pub(super) struct Unzero {
    node: Arc<Node>,
    layout: L2Layout,
    /// Host offsets of all L2 tables, in order.
    tables: Vec<u64>,
    next: usize,
    /// There is a backing file that must not show through.
    backed: bool,
}

impl Unzero {
    pub(super) fn new(
        node: &Arc<Node>,
        image: &Qcow2,
        snapshots: &[SnapshotEntry],
    ) -> Result<Self> {
        Ok(Self {
            node: Arc::clone(node),
            layout: image.layout(),
            tables: tables(node, image, snapshots)?,
            next: 0,
            backed: image.head.backing.is_some(),
        })
    }

    /// Changes some tables; false when there are no more.
    pub(super) fn advance(
        &mut self,
        change: &mut Transaction,
        out: &mut StepQueue,
    ) -> Result<bool> {
        let mut looked_at = 0;
        let mut references = Vec::new();
        while looked_at < BATCH {
            let Some(&table) = self.tables.get(self.next) else {
                break;
            };
            self.next += 1;
            looked_at += self.layout.cluster.bytes();
            references.extend(self.table(table, change, out)?);
        }
        if !references.is_empty() {
            change.publish(references, out)?;
        }
        Ok(self.next < self.tables.len())
    }

    pub(super) fn progress(&self) -> (u64, u64) {
        (to_u64(self.next), to_u64(self.tables.len()))
    }

    /// The write that changes a table, when there is something to change.
    fn table(
        &self,
        table: u64,
        change: &mut Transaction,
        out: &mut StepQueue,
    ) -> Result<Option<Step>> {
        let cluster = self.layout.cluster;
        let number = |host: HostOffset| host.0 >> cluster.bits();
        let mut bytes = read_table(&self.node, self.layout, table)?;
        let sharers = change.refcounts.get(number(HostOffset(table)))?;
        let mut dirty: Option<Range<usize>> = None;
        for index in 0..to_usize(self.layout.entries()) {
            let at = index * 8;
            let entry = L2Entry::from_bits(be64(&bytes, at).unwrap_or(0), 0, self.layout);
            let L2Kind::Zero { host } = entry.kind else {
                continue;
            };
            if let Some(host) = host
                && (!cluster.is_aligned(host.0) || host.0 >= self.node.source.len())
            {
                let message =
                    format!("zero cluster at {host} is misplaced (L2 table at {table:#x})");
                return Err(Error::new(ErrorKind::Corrupt, message).about(&self.node.name));
            }
            let own = match host {
                Some(host) if change.refcounts.get(number(host))? == sharers => Some(host),
                _ => None,
            };
            let (kind, copied) = if let Some(host) = own {
                out.push(Step::Zero {
                    to: self.node.id,
                    dst: host,
                    len: cluster.bytes(),
                });
                (L2Kind::Standard { host }, entry.copied)
            } else {
                if let Some(host) = host {
                    (0..sharers).for_each(|_| change.refcounts.drop_reference(number(host)));
                }
                if self.backed {
                    let host = change.refcounts.allocate(1)?;
                    if sharers > 1 {
                        change.refcounts.set(number(host), sharers)?;
                    }
                    (L2Kind::Standard { host }, sharers <= 1)
                } else {
                    (L2Kind::Unallocated, false)
                }
            };
            let new = L2Entry {
                kind,
                copied,
                ..L2Entry::UNALLOCATED
            };
            let (bits, _) = new.to_bits(self.layout).unwrap_or((0, 0));
            if let Some(word) = bytes.get_mut(at..at + 8) {
                word.copy_from_slice(&bits.to_be_bytes());
            }
            dirty = Some(dirty.map_or(at..at + 8, |d| d.start..at + 8));
        }
        Ok(dirty.map(|range| {
            let dst = HostOffset(table).plus(to_u64(range.start));
            let part = bytes.get(range).unwrap_or_default().to_vec();
            change.write(dst, MetadataKind::L2, part)
        }))
    }
}

/// Whether there are compressed clusters.
pub(super) fn has_packed(node: &Node, image: &Qcow2, list: &[SnapshotEntry]) -> Result<bool> {
    let layout = image.layout();
    for table in tables(node, image, list)? {
        let bytes = read_table(node, layout, table)?;
        let step = to_usize(layout.entry_len());
        let mut words = bytes.chunks_exact(step).filter_map(|entry| be64(entry, 0));
        if words.any(|word| word & L2Entry::COMPRESSED != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_table(node: &Node, layout: L2Layout, at: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; to_usize(layout.cluster.bytes())];
    read_padded(node.source.as_ref(), at, &mut bytes).map_err(|e| node.blame(e))?;
    Ok(bytes)
}

/// Host offsets of the L2 tables of the disk and of all snapshots, each once, in order.
fn tables(node: &Node, image: &Qcow2, snapshots: &[SnapshotEntry]) -> Result<Vec<u64>> {
    let header = &image.head.header;
    let active = (header.l1_table, header.l1_entries);
    let others = snapshots.iter().map(|s| (s.l1_table, s.l1_entries));
    let mut list = Vec::new();
    for (at, entries) in std::iter::once(active).chain(others) {
        let len = u64::from(entries) * L1Entry::LEN;
        if at
            .0
            .checked_add(len)
            .is_none_or(|end| end > node.source.len())
        {
            let message = format!("L1 table at {at} ({len} bytes) is past the end of the file");
            return Err(Error::new(ErrorKind::Corrupt, message).about(&node.name));
        }
        let mut bytes = vec![0; to_usize(len)];
        read_padded(node.source.as_ref(), at.0, &mut bytes).map_err(|e| node.blame(e))?;
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let place = at.0 + to_u64(index) * L1Entry::LEN;
            let entry = L1Entry::from_bits(be64(word, 0).unwrap_or(0), place);
            let Some(table) = entry.map_err(|e| node.blame(e))?.table else {
                continue;
            };
            if !header.cluster.is_aligned(table.0) || table.0 >= node.source.len() {
                let message = format!("L2 table at {table} is misplaced (byte {place})");
                return Err(Error::new(ErrorKind::Corrupt, message).about(&node.name));
            }
            list.push(table.0);
        }
        list.sort_unstable();
        list.dedup();
    }
    Ok(list)
}
