//! What an L1 table leads to: its L2 tables and all their clusters, counted in windows of host
//! clusters so that memory stays bounded.

use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::source::read_padded;
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{L1Entry, L2Entry, L2Kind, L2Layout, MAX_L1_BYTES};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// An L2 table: the entry that leads to it, where it is, its bytes.
pub(super) type Table = (L1Entry, HostOffset, Vec<u8>);

/// An L1 table in memory, of which the part from guest cluster `first` on counts.
pub(super) struct Reach {
    node: Arc<Node>,
    pub(super) layout: L2Layout,
    pub(super) at: HostOffset,
    /// The entries as they are in the file.
    pub(super) l1: Vec<u64>,
    first: u64,
    /// A table that the plan is going to change, as it was: its index and what
    /// [`Self::table`] returns.
    held: Option<(usize, Table)>,
    /// Guest data is in a file of its own, where nothing is counted.
    external: bool,
}

impl Reach {
    /// Reads the L1 table of `entries` entries at `at`; its place and length were checked when
    /// the image was opened.
    pub(super) fn new(
        node: &Arc<Node>,
        layout: L2Layout,
        at: HostOffset,
        entries: u32,
    ) -> Result<Self> {
        let len = u64::from(entries) * L1Entry::LEN;
        if len > MAX_L1_BYTES {
            let message = format!(
                "the L1 table has {len} bytes; with more than {MAX_L1_BYTES} a disk has no \
                 snapshots and does not get shorter"
            );
            return Err(Error::new(ErrorKind::Unsupported, message).about(&node.name));
        }
        let mut bytes = vec![0; to_usize(len)];
        read_padded(node.source.as_ref(), at.0, &mut bytes).map_err(|e| node.blame(e))?;
        let l1: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|w| be64(w, 0).unwrap_or(0))
            .collect();
        let reach = Self {
            node: Arc::clone(node),
            layout,
            at,
            l1,
            first: 0,
            held: None,
            external: node.wants_data_file(),
        };
        // No two entries name the same L2 table, so there are no more than clusters. Millions
        // that do would take for ever to walk.
        let clusters = layout.cluster.clusters(node.source.len());
        let tables = to_u64(reach.l1.iter().filter(|e| **e != 0).count());
        if tables > clusters {
            return Err(reach.corrupt(format!(
                "the L1 table at {at} names {tables} L2 tables, but the file has only {clusters} clusters"
            )));
        }
        Ok(reach)
    }

    /// Only what is mapped from guest cluster `first` on.
    ///
    /// The table that this cluster is in is read now: it is going to change.
    pub(super) fn starting_at(mut self, first: u64) -> Result<Self> {
        self.first = first;
        let index = to_usize(first / self.layout.entries());
        self.held = self.table(index)?.map(|table| (index, table));
        Ok(self)
    }

    /// The entries without copied flags, as bytes.
    pub(super) fn shared_bytes(&self) -> Vec<u8> {
        let clear = |entry: &u64| (entry & !L1Entry::COPIED).to_be_bytes();
        self.l1.iter().flat_map(clear).collect()
    }

    /// The L2 table of this L1 index and its bytes.
    pub(super) fn table(&self, index: usize) -> Result<Option<Table>> {
        if let Some((held, table)) = &self.held
            && *held == index
        {
            return Ok(Some(table.clone()));
        }
        let bits = self.l1.get(index).copied().unwrap_or(0);
        let at = self.at.plus(to_u64(index) * L1Entry::LEN);
        let entry = L1Entry::from_bits(bits, at.0).map_err(|e| self.node.blame(e))?;
        let Some(table) = entry.table else {
            return Ok(None);
        };
        let cluster = self.layout.cluster;
        if !cluster.is_aligned(table.0) || table.0 >= self.node.source.len() {
            return Err(self.corrupt(format!(
                "L2 table {index} at {table} is misplaced (byte {at})"
            )));
        }
        let mut bytes = vec![0; to_usize(cluster.bytes())];
        read_padded(self.node.source.as_ref(), table.0, &mut bytes)
            .map_err(|e| self.node.blame(e))?;
        Ok(Some((entry, table, bytes)))
    }

    /// Counts the references to host clusters of the window. Returns the first cluster behind all
    /// that is referred to.
    pub(super) fn count(&self, counts: &mut Window) -> Result<u64> {
        let bits = self.layout.cluster.bits();
        let per = self.layout.entries();
        let mut end = 0;
        for index in to_usize(self.first / per)..self.l1.len() {
            let Some((_, table, bytes)) = self.table(index)? else {
                continue;
            };
            let before = self.first.saturating_sub(to_u64(index).saturating_mul(per));
            if before == 0 {
                let number = table.0 >> bits;
                counts.add(number, number + 1)?;
                end = end.max(number + 1);
            }
            let each = |range: Range<u64>| {
                end = end.max(range.end);
                counts.add(range.start, range.end)
            };
            self.clusters(index, &bytes, before, each)?;
        }
        Ok(end)
    }

    /// Calls `each` with the host clusters of the entries of one L2 table from `skip` on.
    pub(super) fn clusters(
        &self,
        index: usize,
        bytes: &[u8],
        skip: u64,
        mut each: impl FnMut(Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let layout = self.layout;
        let bits = layout.cluster.bits();
        if self.external {
            return Ok(());
        }
        let entries = bytes.chunks_exact(to_usize(layout.entry_len()));
        for (slot, words) in entries.enumerate().skip(to_usize(skip)) {
            let (word, bitmap) = (be64(words, 0).unwrap_or(0), be64(words, 8).unwrap_or(0));
            if word == 0 {
                continue;
            }
            let bitmap = if layout.extended { bitmap } else { 0 };
            if let Some(defect) = L2Entry::defect(word, bitmap, layout) {
                let guest = (to_u64(index) * layout.entries() + to_u64(slot)) << bits;
                return Err(self.corrupt(format!(
                    "L2 entry {word:#x} for guest offset {guest:#x}: {defect}"
                )));
            }
            match L2Entry::from_bits(word, bitmap, layout).kind {
                L2Kind::Standard { host } | L2Kind::Zero { host: Some(host) } => {
                    let number = host.0 >> bits;
                    each(number..number + 1)?;
                }
                L2Kind::Compressed(packed) => {
                    let (first, last) = packed.host_clusters(layout.cluster);
                    each(first.0 >> bits..(last.0 >> bits) + 1)?;
                }
                L2Kind::Unallocated | L2Kind::Zero { host: None } => {}
            }
        }
        Ok(())
    }

    pub(super) fn corrupt(&self, message: String) -> Error {
        Error::new(ErrorKind::Corrupt, message).about(&self.node.name)
    }
}

/// Clusters counted in one piece of memory.
const CHUNK: u64 = 1 << 15;

/// Counters for a window of host clusters; pieces without references take no memory.
pub(super) struct Window {
    pub(super) range: Range<u64>,
    chunks: BTreeMap<u64, Box<[u16]>>,
}

impl Window {
    pub(super) fn new(range: Range<u64>) -> Self {
        Self {
            range,
            chunks: BTreeMap::new(),
        }
    }

    /// Counts one reference to each cluster from `first` up to `end`, as far as they are within
    /// the window.
    fn add(&mut self, first: u64, end: u64) -> Result<()> {
        for cluster in first.max(self.range.start)..end.min(self.range.end) {
            let chunk = self.chunks.entry(cluster / CHUNK);
            let chunk = chunk.or_insert_with(|| vec![0; to_usize(CHUNK)].into());
            if let Some(slot) = chunk.get_mut(to_usize(cluster % CHUNK)) {
                *slot = slot.checked_add(1).ok_or_else(|| {
                    let message = format!("host cluster {cluster} is referred to too often");
                    Error::new(ErrorKind::Corrupt, message)
                })?;
            }
        }
        Ok(())
    }

    /// Takes off the references that `other`, of the same window, has.
    pub(super) fn subtract(&mut self, other: &Window) {
        for (index, chunk) in &mut self.chunks {
            let others = other.chunks.get(index).into_iter().flat_map(|c| c.iter());
            for (slot, other) in chunk.iter_mut().zip(others) {
                *slot = slot.saturating_sub(*other);
            }
        }
    }

    /// References to a cluster; 0 outside the window.
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let chunk = self.chunks.get(&(cluster / CHUNK));
        let slot = chunk.and_then(|chunk| chunk.get(to_usize(cluster % CHUNK)));
        slot.copied().map_or(0, u64::from)
    }

    /// Clusters with references, in order, and how many.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.chunks.iter().flat_map(|(chunk, slots)| {
            let numbered = (chunk * CHUNK..).zip(slots.iter());
            numbered
                .filter(|(_, count)| **count > 0)
                .map(|(cluster, count)| (cluster, u64::from(*count)))
        })
    }
}
