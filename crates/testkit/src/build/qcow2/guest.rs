//! The guest's side: what each cluster is, and its bytes.

use super::super::{Qcow2Spec, content, pack};
use super::{Guest, Shape};
use crate::model::{Cell, Layer};
use crate::rng::Rng;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::Subclusters;

/// All guest clusters, and their bytes up to the end of the last cluster: what is behind the
/// end of the disk is garbage that nobody may ever see.
pub(super) struct Disk {
    pub(super) clusters: Vec<Guest>,
    pub(super) bytes: Vec<u8>,
}

impl Disk {
    pub(super) fn random(shape: &Shape, format: &Qcow2Spec, mix: [u64; 4], rng: &mut Rng) -> Self {
        let cluster = to_usize(shape.cluster());
        let mut disk = Self {
            clusters: Vec::new(),
            bytes: vec![0; to_usize(shape.clusters) * cluster],
        };
        let (mut left, mut kind) = (0, 0);
        for index in 0..to_usize(shape.clusters) {
            if left == 0 {
                // Runs, so that there is something to coalesce.
                left = 1 + if rng.chance(1, 3) { rng.below(12) } else { 0 };
                kind = rng.weighted(&mix);
            }
            left -= 1;
            let start = index * cluster;
            let bytes = &mut disk.bytes[start..start + cluster];
            let guest = one(shape, format, kind, to_u64(start), bytes, rng);
            disk.clusters.push(guest);
        }
        disk
    }

    /// The model: cells by granule, bytes only where the cell is data.
    pub(super) fn layer(&self, shape: &Shape) -> Layer {
        let granule = shape.layout.granule();
        let per_cluster = shape.cluster() / granule;
        let size = to_usize(shape.size);
        let mut bytes = self.bytes[..size].to_vec();
        let mut cells = Vec::new();
        for (chunk, index) in bytes.chunks_mut(to_usize(granule)).zip(0u64..) {
            let guest = &self.clusters[to_usize(index / per_cluster)];
            let bit = 1u32 << (index % per_cluster);
            let cell = match guest {
                Guest::Unallocated => Cell::Unallocated,
                Guest::ZeroHost => Cell::Zero,
                Guest::Packed(_) => Cell::Data,
                Guest::Host(_) if !shape.layout.extended => Cell::Data,
                Guest::Zero(_) if !shape.layout.extended => Cell::Zero,
                Guest::Host(sub) | Guest::Zero(sub) => match () {
                    () if sub.allocated & bit != 0 => Cell::Data,
                    () if sub.zero & bit != 0 => Cell::Zero,
                    () => Cell::Unallocated,
                },
            };
            if cell != Cell::Data {
                chunk.fill(0);
            }
            cells.push(cell);
        }
        Layer {
            granule,
            cells,
            bytes,
        }
    }
}

/// Decides on one cluster of a kind (unallocated, data, zero, packed) and fills its bytes.
fn one(
    shape: &Shape,
    format: &Qcow2Spec,
    kind: usize,
    at: u64,
    bytes: &mut [u8],
    rng: &mut Rng,
) -> Guest {
    let all = Subclusters {
        allocated: u32::MAX,
        zero: 0,
    };
    if kind == 0 {
        return Guest::Unallocated;
    }
    if kind == 2 && format.v3 {
        if format.extended {
            return if rng.chance(1, 2) {
                Guest::Zero(Subclusters {
                    allocated: 0,
                    zero: if rng.chance(1, 3) {
                        u32::MAX
                    } else {
                        bits(rng) | 1
                    },
                })
            } else {
                content::fill(bytes, at, rng);
                let zero = bits(rng);
                Guest::Host(Subclusters {
                    allocated: bits(rng) & !zero,
                    zero,
                })
            };
        }
        return match rng.chance(1, 2) {
            true => Guest::Zero(Subclusters::default()),
            false => Guest::ZeroHost,
        };
    }
    content::fill(bytes, at, rng);
    if kind == 3 {
        let packed = pack::pack(format.codec, bytes);
        if let Some(packed) = packed.filter(|_| shape.clusters > 0) {
            return Guest::Packed(packed);
        }
    }
    if format.extended && rng.chance(2, 3) {
        let zero = bits(rng) & bits(rng);
        return Guest::Host(Subclusters {
            allocated: bits(rng) & !zero,
            zero,
        });
    }
    Guest::Host(all)
}

/// A bitmap: noise, or a run as real guests write.
fn bits(rng: &mut Rng) -> u32 {
    let noise = u32::try_from(rng.word() >> 32).expect("32 bits");
    if rng.chance(1, 2) {
        return noise;
    }
    let len = 1 + rng.below(31);
    let start = rng.below(32 - len + 1);
    let run = ((1u64 << len) - 1) << start;
    u32::try_from(run & u64::from(u32::MAX)).expect("32 bits")
}
