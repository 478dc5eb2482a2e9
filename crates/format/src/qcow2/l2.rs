//! L2 table entries, standard and extended.

use super::{ClusterSize, CompressedCluster, OFFSET_MASK, Subclusters};
use crate::HostOffset;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// What is needed to read the L2 entries of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L2Layout {
    /// Cluster size of the image.
    pub cluster: ClusterSize,
    /// Entries are 16 bytes long and have subclusters.
    pub extended: bool,
    /// Version 3 and up: bit 0 of a standard entry means zero.
    pub zero_flag: bool,
    /// Clusters are in an external data file, each at its guest offset: a host offset of 0 with
    /// the copied flag is a cluster there.
    pub data_file: bool,
}

impl L2Layout {
    /// Bytes of an entry: 8, or 16 when extended.
    pub const fn entry_len(self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Entries in one L2 table.
    pub const fn entries(self) -> u64 {
        self.cluster.bytes() / self.entry_len()
    }

    /// Guest bytes that one L2 table maps.
    pub const fn table_span(self) -> u64 {
        self.entries() << self.cluster.bits()
    }

    /// The unit of allocation in bytes: a subcluster when extended, else a cluster.
    pub const fn granule(self) -> u64 {
        if self.extended {
            self.cluster.bytes() / 32
        } else {
            self.cluster.bytes()
        }
    }
}

/// Where a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2Kind {
    /// Not in this image.
    Unallocated,
    /// A host cluster; with extended entries `subclusters` says what of it counts.
    Standard {
        /// The host cluster, aligned to the cluster size unless the image is corrupt.
        host: HostOffset,
    },
    /// Reads as zeros; `host` is kept for later writes when there is one. Never with extended
    /// entries, where the bitmap says zero.
    Zero {
        /// The preallocated host cluster.
        host: Option<HostOffset>,
    },
    /// Packed bytes.
    Compressed(CompressedCluster),
}

/// One L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L2Entry {
    /// Where the cluster is.
    pub kind: L2Kind,
    /// The host cluster's refcount is exactly one. Never set for compressed clusters.
    pub copied: bool,
    /// The bitmap of an extended entry; default otherwise and for compressed clusters.
    pub subclusters: Subclusters,
}

impl L2Entry {
    /// The copied flag in the first word.
    pub const COPIED: u64 = COPIED;
    /// The flag of compressed clusters in the first word.
    pub const COMPRESSED: u64 = COMPRESSED;
    /// An entry for nothing.
    pub const UNALLOCATED: Self = Self {
        kind: L2Kind::Unallocated,
        copied: false,
        subclusters: Subclusters {
            allocated: 0,
            zero: 0,
        },
    };

    /// Reads an entry. `bits` is the first, `bitmap` the second word (0 for 8-byte entries).
    ///
    /// This never fails: what is wrong with an entry (reserved bits, alignment, end of file) is
    /// for `check` to report and for readers to refuse; see [`L2Entry::defect`].
    pub fn from_bits(bits: u64, bitmap: u64, layout: L2Layout) -> Self {
        let copied = bits & COPIED != 0;
        if bits & COMPRESSED != 0 {
            let packed = CompressedCluster::from_bits(bits & (COMPRESSED - 1), layout.cluster);
            return Self {
                kind: L2Kind::Compressed(packed),
                copied,
                subclusters: Subclusters::default(),
            };
        }
        let host = bits & OFFSET_MASK;
        // The first cluster of a data file is at offset 0, where nothing else can be.
        let first = layout.data_file && copied && (layout.extended || bits & ZERO == 0);
        let host = (host != 0 || first).then_some(HostOffset(host));
        let kind = match host {
            _ if layout.zero_flag && !layout.extended && bits & ZERO != 0 => L2Kind::Zero { host },
            Some(host) => L2Kind::Standard { host },
            None => L2Kind::Unallocated,
        };
        let subclusters = if layout.extended {
            Subclusters::from_bits(bitmap)
        } else {
            Subclusters::default()
        };
        Self {
            kind,
            copied,
            subclusters,
        }
    }

    /// What is wrong with the raw words of an entry, if anything.
    pub fn defect(bits: u64, bitmap: u64, layout: L2Layout) -> Option<&'static str> {
        let entry = Self::from_bits(bits, bitmap, layout);
        match entry.kind {
            L2Kind::Compressed(_) if bitmap != 0 && layout.extended => {
                Some("compressed cluster with a subcluster bitmap")
            }
            L2Kind::Standard { host } | L2Kind::Zero { host: Some(host) }
                if !layout.cluster.is_aligned(host.0) =>
            {
                Some("host offset not aligned to a cluster boundary")
            }
            L2Kind::Standard { .. } | L2Kind::Unallocated
                if !layout.zero_flag && bits & ZERO != 0 =>
            {
                Some("zero cluster in an image of version 2")
            }
            _ if !entry.subclusters.is_valid() => Some("subcluster both allocated and zero"),
            L2Kind::Unallocated if entry.subclusters.allocated != 0 => {
                Some("allocated subclusters without a host cluster")
            }
            _ => None,
        }
    }

    /// What is wrong with the entry for guest offset `guest` of an image with an external data
    /// file, if anything: clusters are where they are on the disk, and nothing is compressed.
    pub fn misplaced(&self, guest: u64, layout: L2Layout) -> Option<&'static str> {
        match self.kind {
            _ if !layout.data_file => None,
            L2Kind::Compressed(_) => Some("compressed cluster in an image with a data file"),
            L2Kind::Standard { host } | L2Kind::Zero { host: Some(host) } if host.0 != guest => {
                Some("the offset in the data file is not the guest offset")
            }
            _ => None,
        }
    }

    /// The two words to store; the second is 0 for 8-byte entries. `None` for a compressed
    /// cluster that does not fit its descriptor.
    pub fn to_bits(self, layout: L2Layout) -> Option<(u64, u64)> {
        let copied = if self.copied { COPIED } else { 0 };
        let bitmap = if layout.extended {
            self.subclusters.to_bits()
        } else {
            0
        };
        Some(match self.kind {
            L2Kind::Unallocated => (0, bitmap),
            L2Kind::Standard { host } => (host.0 | copied, bitmap),
            L2Kind::Zero { host: None } => (ZERO, 0),
            L2Kind::Zero { host: Some(host) } => (host.0 | copied | ZERO, 0),
            L2Kind::Compressed(packed) => (COMPRESSED | packed.to_bits(layout.cluster)?, 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(extended: bool, zero_flag: bool) -> L2Layout {
        L2Layout {
            cluster: ClusterSize::from_bits(16).unwrap(),
            extended,
            zero_flag,
            data_file: false,
        }
    }

    #[test]
    fn version_2_has_no_zero_flag() {
        let v2 = L2Entry::from_bits(0x10000 | 1, 0, layout(false, false));
        assert_eq!(
            v2.kind,
            L2Kind::Standard {
                host: HostOffset(0x10000)
            }
        );
        let v3 = L2Entry::from_bits(0x10000 | 1, 0, layout(false, true));
        assert_eq!(
            v3.kind,
            L2Kind::Zero {
                host: Some(HostOffset(0x10000))
            }
        );
    }

    #[test]
    fn entries_round_trip() {
        let layout = layout(true, true);
        let entry = L2Entry {
            kind: L2Kind::Standard {
                host: HostOffset(0x30000),
            },
            copied: true,
            subclusters: Subclusters {
                allocated: 0xf,
                zero: 0xf0,
            },
        };
        let (bits, bitmap) = entry.to_bits(layout).unwrap();
        assert_eq!(L2Entry::from_bits(bits, bitmap, layout), entry);
        assert_eq!(L2Entry::defect(bits, bitmap, layout), None);
    }

    #[test]
    fn the_first_cluster_of_a_data_file_is_at_offset_0() {
        let mut layout = layout(false, true);
        let first = 1 << 63;
        assert_eq!(
            L2Entry::from_bits(first, 0, layout).kind,
            L2Kind::Unallocated
        );
        layout.data_file = true;
        let entry = L2Entry::from_bits(first, 0, layout);
        let host = HostOffset(0);
        assert_eq!(entry.kind, L2Kind::Standard { host });
        assert_eq!(entry.to_bits(layout), Some((first, 0)));
        assert_eq!(entry.misplaced(0, layout), None);
        assert!(entry.misplaced(0x10000, layout).is_some());
        assert_eq!(L2Entry::from_bits(0, 0, layout).kind, L2Kind::Unallocated);
        let zero = L2Entry::from_bits(first | 1, 0, layout);
        assert_eq!(zero.kind, L2Kind::Zero { host: None });
    }

    #[test]
    fn a_misaligned_host_offset_is_a_defect() {
        assert!(L2Entry::defect(0x10200, 0, layout(false, true)).is_some());
    }
}
