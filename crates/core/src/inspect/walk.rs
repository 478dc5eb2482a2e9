//! A walk over the L2 tables that one L1 table names, in guest order.

use crate::error::{Error, ErrorKind, Result};
use crate::image::Qcow2;
use crate::source::{Source, read_padded};
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{L1Entry, L2Entry, L2Layout};

/// L1 entries read at once.
const ENTRIES: u64 = 8192;

/// An L2 table in memory.
pub(super) struct L2Table {
    /// Guest offset of its first entry.
    pub(super) guest: u64,
    /// Where it is in the file.
    pub(super) at: HostOffset,
    /// All of it.
    pub(super) bytes: Vec<u8>,
}

pub(super) struct TableWalk {
    source: Source,
    layout: L2Layout,
    l1_table: HostOffset,
    l1_entries: u64,
    next: u64,
    /// L1 entries from `first` on.
    window: Vec<u8>,
    first: u64,
}

impl TableWalk {
    /// Over the active L1 table of `image`.
    pub(super) fn active(source: &Source, image: &Qcow2) -> Self {
        let header = &image.head.header;
        Self::new(source, image, header.l1_table, u64::from(header.l1_entries))
    }

    /// Over `l1_entries` entries at `l1_table`.
    pub(super) fn new(
        source: &Source,
        image: &Qcow2,
        l1_table: HostOffset,
        l1_entries: u64,
    ) -> Self {
        // A table may claim more entries than the file has bytes.
        let inside = source.len().saturating_sub(l1_table.0) / L1Entry::LEN;
        Self {
            source: source.clone(),
            layout: image.layout(),
            l1_table,
            l1_entries: l1_entries.min(inside),
            next: 0,
            window: Vec::new(),
            first: 0,
        }
    }

    pub(super) fn layout(&self) -> L2Layout {
        self.layout
    }

    /// The next table that the L1 table names: its guest offset and place. Tables at places
    /// where none can be are passed over.
    pub(super) fn next_place(&mut self) -> Result<Option<(u64, HostOffset)>> {
        while self.next < self.l1_entries {
            let index = self.next;
            self.next += 1;
            let bits = self.entry(index)?;
            let at = self.l1_table.0.saturating_add(index * L1Entry::LEN);
            let Ok(L1Entry {
                table: Some(table), ..
            }) = L1Entry::from_bits(bits, at)
            else {
                continue;
            };
            if self.layout.cluster.is_aligned(table.0) && table.0 < self.source.len() {
                return Ok(Some((
                    index.saturating_mul(self.layout.table_span()),
                    table,
                )));
            }
        }
        Ok(None)
    }

    /// The next table with its bytes.
    pub(super) fn next(&mut self) -> Result<Option<L2Table>> {
        let Some((guest, at)) = self.next_place()? else {
            return Ok(None);
        };
        let bytes = self.read(at)?;
        Ok(Some(L2Table { guest, at, bytes }))
    }

    /// The bytes of the table at `at`.
    pub(super) fn read(&self, at: HostOffset) -> Result<Vec<u8>> {
        let mut bytes = vec![0; to_usize(self.layout.cluster.bytes())];
        read_padded(self.source.as_ref(), at.0, &mut bytes)?;
        Ok(bytes)
    }

    fn entry(&mut self, index: u64) -> Result<u64> {
        let held = to_u64(self.window.len()) / L1Entry::LEN;
        if !(self.first..self.first + held).contains(&index) {
            let count = ENTRIES.min(self.l1_entries - index);
            let at = self
                .l1_table
                .0
                .checked_add(index * L1Entry::LEN)
                .ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, "the L1 table is beyond 2^64 bytes")
                })?;
            self.window.resize(to_usize(count * L1Entry::LEN), 0);
            self.first = index;
            read_padded(self.source.as_ref(), at, &mut self.window)?;
        }
        let by = to_usize((index - self.first) * L1Entry::LEN);
        Ok(be64(&self.window, by).unwrap_or(0))
    }
}

/// The entries of an L2 table that say something, with their numbers; defective ones are left out.
pub(super) fn entries(bytes: &[u8], layout: L2Layout) -> impl Iterator<Item = (u64, L2Entry)> {
    let len = to_usize(layout.entry_len());
    bytes
        .chunks_exact(len)
        .enumerate()
        .filter_map(move |(index, words)| {
            let bits = be64(words, 0).unwrap_or(0);
            let bitmap = be64(words, 8).unwrap_or(0);
            if bits == 0 && bitmap == 0 || L2Entry::defect(bits, bitmap, layout).is_some() {
                return None;
            }
            Some((to_u64(index), L2Entry::from_bits(bits, bitmap, layout)))
        })
}
