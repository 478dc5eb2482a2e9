//! The numbers of one image that every part of a check needs.

use crate::image::Qcow2;
use backchain_format::qcow2::{L2Layout, RefcountWidth, incompatible};

/// Bits of L1, L2 and refcount table entries.
pub(super) mod bits {
    pub(in super::super) const COPIED: u64 = 1 << 63;
    pub(in super::super) const COMPRESSED: u64 = 1 << 62;
    pub(in super::super) const ZERO: u64 = 1;
    /// Host offset in an L1 or L2 entry.
    pub(in super::super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    /// Reserved in an L1 entry.
    pub(in super::super) const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
    /// Reserved in an L2 entry of a cluster that is not compressed.
    pub(in super::super) const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
    /// Reserved in a refcount table entry.
    pub(in super::super) const TABLE_RESERVED: u64 = 0x1ff;
    /// Reserved in a bitmap table entry.
    pub(in super::super) const BITMAP_RESERVED: u64 = 0xff00_0000_0000_01fe;
}

/// Sizes and limits of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) layout: L2Layout,
    /// log2 of the cluster size.
    pub(super) cluster_bits: u32,
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    /// Length of the file in bytes.
    pub(super) file_len: u64,
    /// Host clusters of the file; the last may be cut off.
    pub(super) clusters: u64,
    /// Width of refcounts.
    pub(super) width: RefcountWidth,
    /// Guest clusters are in another file.
    pub(super) data_file: bool,
}

impl Geometry {
    pub(super) fn of(image: &Qcow2, file_len: u64) -> Self {
        let header = &image.head.header;
        Self {
            layout: image.layout(),
            cluster_bits: header.cluster.bits(),
            cluster: header.cluster.bytes(),
            file_len,
            clusters: header.cluster.clusters(file_len),
            width: header.refcount_width,
            data_file: header.has(incompatible::DATA_FILE),
        }
    }

    /// The host clusters that a range of bytes touches, as first and number; `None` when the
    /// range reaches a whole cluster or more past the end of the file.
    pub(super) fn clusters_of(&self, offset: u64, size: u64) -> Option<(u64, u64)> {
        let end = offset.checked_add(size)?;
        if end.saturating_sub(self.file_len) >= self.cluster {
            return None;
        }
        let first = offset >> self.cluster_bits;
        let last = end.saturating_sub(1) >> self.cluster_bits;
        Some((first, last - first + 1))
    }

    /// The part of [`Self::clusters_of`] that lies behind the file, wherever it is.
    pub(super) fn behind(&self, offset: u64, size: u64) -> (u64, u64) {
        let first = (offset >> self.cluster_bits).max(self.clusters);
        let end = offset.saturating_add(size).div_ceil(self.cluster);
        (first, end.saturating_sub(first))
    }

    pub(super) fn is_aligned(&self, offset: u64) -> bool {
        offset & (self.cluster - 1) == 0
    }
}
