//! Comparing what two views hold, byte by byte, where they do not say so themselves.

use crate::chain::{ChainExtent, Reader};
use crate::error::Result;
use backchain_format::bytes::to_usize;

/// Readers for comparing content.
pub(super) struct Same {
    pub(super) view: Reader,
    pub(super) under: Option<Reader>,
    pub(super) buffers: (Vec<u8>, Vec<u8>),
}

impl Same {
    /// Compares the first `len` bytes of two extents that start together, granule by granule.
    /// Returns how many bytes the verdict is about and whether they differ.
    pub(super) fn differs(
        &mut self,
        view: &ChainExtent,
        under: Option<ChainExtent>,
        len: u64,
        granule: u64,
    ) -> Result<(u64, bool)> {
        let (a, b) = &mut self.buffers;
        a.resize(to_usize(len), 0);
        b.resize(to_usize(len), 0);
        self.view.read_extent(view, a)?;
        match (&mut self.under, under) {
            (Some(reader), Some(extent)) => reader.read_extent(&extent, b)?,
            _ => b.fill(0),
        }
        // The first part ends at a granule's boundary of the disk.
        let mut end = (granule - view.start % granule).min(len);
        let part = |from: u64, to: u64| {
            a.get(to_usize(from)..to_usize(to)) != b.get(to_usize(from)..to_usize(to))
        };
        let verdict = part(0, end);
        while end < len {
            let next = (end + granule).min(len);
            if part(end, next) != verdict {
                break;
            }
            end = next;
        }
        Ok((end, verdict))
    }
}
