//! Compressed cluster descriptors.

use super::ClusterSize;
use crate::HostOffset;
use serde::{Deserialize, Serialize};

/// How compressed clusters are packed; one for the whole image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Raw deflate without the zlib header, window of 12 bits. Called "zlib" by QEMU.
    Zlib,
    /// Zstandard frames.
    Zstd,
}

impl Codec {
    /// QEMU's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Zlib => "zlib",
            Codec::Zstd => "zstd",
        }
    }
}

/// Where the packed bytes of one guest cluster are (spec: "Compressed Clusters Descriptor").
///
/// With x = 62 - (cluster_bits - 8): bits 0 to x-1 are the host offset (any byte), bits x to 61
/// the number of *additional* 512-byte sectors behind the one that the offset is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressedCluster {
    /// First byte of the packed data.
    pub host: HostOffset,
    /// Upper limit of the packed bytes: to the end of the last sector. The stream ends earlier.
    pub len: u64,
}

impl CompressedCluster {
    /// Reads bits 0 to 61 of an L2 entry.
    pub fn from_bits(bits: u64, cluster: ClusterSize) -> Self {
        let offset_bits = 62 - (cluster.bits() - 8);
        let host = bits & ((1 << offset_bits) - 1);
        let sectors = bits >> offset_bits & ((1 << (cluster.bits() - 8)) - 1);
        Self {
            host: HostOffset(host),
            len: (sectors + 1) * 512 - host % 512,
        }
    }

    /// The L2 entry bits (0 to 61) for packed data of `len` bytes at `host`; `None` when either
    /// is too large for the descriptor.
    pub fn to_bits(self, cluster: ClusterSize) -> Option<u64> {
        let offset_bits = 62 - (cluster.bits() - 8);
        let last = self.host.0.checked_add(self.len.checked_sub(1)?)?;
        let sectors = last / 512 - self.host.0 / 512;
        let fits = self.host.0 >> offset_bits == 0 && sectors >> (cluster.bits() - 8) == 0;
        fits.then_some(sectors << offset_bits | self.host.0)
    }

    /// First and last host cluster touched, as cluster-aligned host offsets: each of them has a
    /// reference for every compressed cluster in it.
    pub fn host_clusters(self, cluster: ClusterSize) -> (HostOffset, HostOffset) {
        let last = self.host.0.saturating_add(self.len.saturating_sub(1));
        (
            HostOffset(cluster.align_down(self.host.0)),
            HostOffset(cluster.align_down(last)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_round_trip_for_every_cluster_size() {
        for bits in 9..=21 {
            let cluster = ClusterSize::from_bits(bits).unwrap();
            let packed = CompressedCluster {
                host: HostOffset(0x12345),
                len: 300,
            };
            let back = CompressedCluster::from_bits(packed.to_bits(cluster).unwrap(), cluster);
            assert_eq!(back.host, packed.host);
            assert!(back.len >= packed.len && back.len < packed.len + 512);
        }
    }

    #[test]
    fn data_longer_than_the_descriptor_can_say_is_refused() {
        let cluster = ClusterSize::from_bits(9).unwrap();
        assert!(
            CompressedCluster {
                host: HostOffset(0),
                len: 1025
            }
            .to_bits(cluster)
            .is_none()
        );
        assert!(
            CompressedCluster {
                host: HostOffset(1 << 61),
                len: 1
            }
            .to_bits(cluster)
            .is_none()
        );
    }
}
