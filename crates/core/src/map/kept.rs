//! Host clusters behind unallocated subclusters.
//!
//! With extended L2 entries a cluster may have a host cluster although the subcluster in
//! question is not allocated. It matters to nobody but the map, which names the host offset.

use crate::chain::Node;
use crate::error::Result;
use crate::source::read_padded;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{L1Entry, L2Entry, L2Kind, L2Layout};
use std::sync::Arc;

/// Bytes of the L1 table read at once.
const L1_SLICE: u64 = 64 << 10;

/// Looks up host clusters of one image with extended L2 entries, best in guest order.
pub(super) struct Kept {
    node: Arc<Node>,
    layout: L2Layout,
    l1_table: u64,
    l1_entries: u64,
    /// A slice of the L1 table: its first index, and its bytes.
    l1: (u64, Vec<u8>),
    /// The L2 table read last: its offset, and its bytes.
    l2: (u64, Vec<u8>),
}

impl Kept {
    /// For `node`, when it has subclusters.
    pub(super) fn new(node: &Arc<Node>) -> Option<Self> {
        let image = node.image.as_ref().ok()?.as_qcow2()?;
        let layout = image.layout();
        layout.extended.then(|| Self {
            node: Arc::clone(node),
            layout,
            l1_table: image.head.header.l1_table.0,
            l1_entries: u64::from(image.head.header.l1_entries),
            l1: (0, Vec::new()),
            l2: (0, Vec::new()),
        })
    }

    /// How many of the `len` unallocated bytes from guest byte `start` on are alike, and the
    /// host offset of the first of them.
    pub(super) fn piece(&mut self, start: u64, len: u64) -> Result<(u64, Option<u64>)> {
        let span = self.layout.table_span();
        let end = start.saturating_add(len);
        let mut index = start / span;
        while index.saturating_mul(span) < end {
            let table = self.table(index)?;
            if let Some(table) = table {
                if index > start / span {
                    break;
                }
                return self.in_table(table, start, len);
            }
            index += 1;
        }
        Ok((len.min(index.saturating_mul(span) - start), None))
    }

    /// The L2 table for one L1 entry.
    fn table(&mut self, index: u64) -> Result<Option<u64>> {
        if index >= self.l1_entries {
            return Ok(None);
        }
        let per_slice = L1_SLICE / L1Entry::LEN;
        let first = index / per_slice * per_slice;
        if self.l1.0 != first || self.l1.1.is_empty() {
            let want = (self.l1_entries - first).min(per_slice) * L1Entry::LEN;
            let mut bytes = vec![0; to_usize(want)];
            self.read(self.l1_table + first * L1Entry::LEN, &mut bytes)?;
            self.l1 = (first, bytes);
        }
        let bits = be64(&self.l1.1, to_usize((index - first) * L1Entry::LEN)).unwrap_or(0);
        Ok(L1Entry::from_bits(bits, 0)?.table.map(|table| table.0))
    }

    fn in_table(&mut self, table: u64, start: u64, len: u64) -> Result<(u64, Option<u64>)> {
        let cluster = self.layout.cluster.bytes();
        if self.l2.0 != table || self.l2.1.is_empty() {
            let mut bytes = vec![0; to_usize(cluster)];
            self.read(table, &mut bytes)?;
            self.l2 = (table, bytes);
        }
        let within = start % cluster;
        let mut alike = 0;
        let first = start % self.layout.table_span() / cluster;
        for index in first..self.layout.entries() {
            let at = to_usize(index * self.layout.entry_len());
            let word = |by| be64(&self.l2.1, at + by).unwrap_or(0);
            let entry = L2Entry::from_bits(word(0), word(8), self.layout);
            if let L2Kind::Standard { host } = entry.kind {
                if alike > 0 {
                    break;
                }
                return Ok((len.min(cluster - within), Some(host.0 + within)));
            }
            alike += if alike == 0 {
                cluster - within
            } else {
                cluster
            };
            if alike >= len {
                break;
            }
        }
        Ok((alike.clamp(1, len), None))
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        debug_assert!(to_u64(bytes.len()) <= 2 << 20);
        read_padded(self.node.source.as_ref(), at, bytes).map_err(|e| self.node.blame(e))
    }
}
