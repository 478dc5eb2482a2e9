//! The external data file: every cluster at its guest offset.

use super::super::Qcow2Spec;
use super::guest::Disk;
use super::{Guest, Shape};
use crate::rng::Rng;
use crate::sim::SimFile;
use backchain_format::bytes::{to_u64, to_usize};

/// The data file of `disk`. Where the image says nothing of it there is garbage, but for one
/// that is to be readable as a raw image.
pub(super) fn encode(shape: &Shape, format: &Qcow2Spec, disk: &mut Disk, rng: &mut Rng) -> SimFile {
    let cluster = to_usize(shape.cluster());
    let granule = to_usize(shape.layout.granule());
    let mut file = vec![0; disk.clusters.len() * cluster];
    if !format.data_raw && rng.chance(1, 2) {
        rng.fill(&mut file);
    }
    for (index, guest) in disk.clusters.iter().enumerate() {
        let Guest::Host(sub) = guest else { continue };
        for (number, start) in (0..cluster).step_by(granule).enumerate() {
            let data = !shape.layout.extended || sub.allocated >> number & 1 != 0;
            if data || !format.data_raw {
                let range = index * cluster + start..index * cluster + start + granule;
                file[range.clone()].copy_from_slice(&disk.bytes[range]);
            }
        }
    }
    let end = to_usize(shape.size);
    if format.data_raw {
        file.truncate(end);
    } else if format.cut {
        // What is behind its end reads as zeros.
        let keep = end.min(512 * to_usize(rng.below(to_u64(end) / 512 + 1)));
        file.truncate(keep);
        disk.bytes[keep..].fill(0);
    } else if !format.leaky {
        file.truncate(end);
    }
    SimFile::new(file, rng.chance(1, 2))
}
