//! How long a file a new image needs: what `qemu-img measure` says.
//!
//! QEMU counts metadata as for a full image and data clusters as far as there are any; where it
//! counts too much (a table of nothing is not written), so does this.

use crate::chain::{Chain, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::map::Map;
use crate::plan::{CreateOptions, Preallocation};
use backchain_format::Format;
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{
    BitmapDirectoryEntry, ClusterSize, L1Entry, L2Layout, MAX_L1_BYTES, RefcountTableEntry,
    RefcountWidth,
};
use serde::Serialize;

/// Lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measure {
    /// What the source's persistent bitmaps take, when both images can have some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<u64>,
    /// The file as it is after a conversion.
    pub required: u64,
    /// The file once the guest has written everywhere.
    pub fully_allocated: u64,
}

/// Measures a new image of `size` bytes with the content of `source`, or none, and the bitmaps of
/// `bitmaps`. `extra` bytes are taken by an encryption header; `has_backing`: the image will have
/// a backing file.
///
/// # Errors
/// In qemu-img's words when there cannot be such an image.
pub fn measure(
    source: Option<&Chain>,
    bitmaps: Option<&Node>,
    size: u64,
    options: &CreateOptions,
    has_backing: bool,
    extra: u64,
) -> Result<Measure> {
    if options.format == Format::Raw {
        let size = size
            .checked_next_multiple_of(backchain_format::raw::SECTOR)
            .ok_or_else(too_large)?;
        return Ok(Measure {
            bitmaps: None,
            required: size,
            fully_allocated: size,
        });
    }
    let invalid = |message: &str| Error::new(ErrorKind::Invalid, message);
    let cluster = ClusterSize::from_bytes(options.cluster_size)
        .ok_or_else(|| invalid("Cluster size must be a power of two between 512 and 2048k"))?;
    if options.extended_l2 && cluster.bytes() < 16384 {
        return Err(invalid(
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
        ));
    }
    let width = RefcountWidth::from_bits(options.refcount_bits).ok_or_else(|| {
        invalid("Refcount width must be a power of two and may not exceed 64 bits")
    })?;
    if !options.v3 && width != RefcountWidth::DEFAULT {
        return Err(invalid(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
        ));
    }
    let layout = L2Layout {
        cluster,
        extended: options.extended_l2,
        zero_flag: options.v3,
        data_file: false,
    };
    let aligned = size
        .checked_next_multiple_of(cluster.bytes())
        .filter(|size| size / layout.table_span() < MAX_L1_BYTES / L1Entry::LEN)
        .ok_or_else(too_large)?;
    let whole = full_size(aligned, layout, width).saturating_add(extra);
    let everything = matches!(
        options.preallocation,
        Preallocation::Falloc | Preallocation::Full
    );
    let data = match source {
        _ if everything => aligned,
        // What the backing file has already is not known.
        Some(_) if has_backing => aligned,
        Some(chain) => allocated(chain, cluster)?,
        None => 0,
    };
    let bitmaps = match bitmaps {
        Some(node) if options.v3 => bitmap_bytes(node, cluster)?,
        _ => None,
    };
    Ok(Measure {
        bitmaps,
        required: whole - aligned + data,
        fully_allocated: whole,
    })
}

fn too_large() -> Error {
    let message = "The image size is too large (try using a larger cluster size)";
    Error::new(ErrorKind::Invalid, message)
}

/// Length of a file in which all of a disk of `size` bytes (whole clusters) is allocated.
fn full_size(size: u64, layout: L2Layout, width: RefcountWidth) -> u64 {
    let cluster = layout.cluster;
    let tables = cluster.clusters(size).div_ceil(layout.entries());
    let l1 = cluster.clusters(tables * L1Entry::LEN);
    let clusters = 1 + tables + l1 + cluster.clusters(size);
    // The refcounts count themselves.
    let (mut blocks, mut table) = (0, 0);
    loop {
        let all = clusters + blocks + table;
        let next = all.div_ceil(width.per_block(cluster));
        let next_table = cluster.clusters(next * RefcountTableEntry::LEN);
        if (next, next_table) == (blocks, table) {
            return all << cluster.bits();
        }
        (blocks, table) = (next, next_table);
    }
}

/// Bytes in clusters that hold data.
fn allocated(chain: &Chain, cluster: ClusterSize) -> Result<u64> {
    let (mut bytes, mut seen) = (0, 0);
    // As the map has it, which knows of holes in preallocated clusters.
    for entry in Map::new(chain, 0, u64::MAX)? {
        let entry = entry?;
        if !entry.data || entry.zero {
            continue;
        }
        let start = cluster.align_down(entry.start).max(seen);
        let end = entry.start.saturating_add(entry.length);
        let end = end.next_multiple_of(cluster.bytes());
        if end > start {
            bytes += end - start;
            seen = end;
        }
    }
    Ok(bytes)
}

/// What copies of an image's bitmaps take in clusters of this size; `None` when it cannot have
/// any.
fn bitmap_bytes(node: &Node, cluster: ClusterSize) -> Result<Option<u64>> {
    let Some(image) = node.image()?.as_qcow2().filter(|image| image.head.is_v3()) else {
        return Ok(None);
    };
    if !image.bitmaps_consistent() {
        return Ok(Some(0));
    }
    let list = image.bitmaps(node.source.as_ref());
    let list = list.map_err(|error| node.blame(error))?;
    let (mut bytes, mut directory) = (0u64, 0u64);
    for entry in list {
        if entry.flags & BitmapDirectoryEntry::IN_USE != 0 {
            continue;
        }
        let bits = image
            .head
            .header
            .size
            .div_ceil(1 << entry.granularity_bits.min(63));
        let clusters = cluster.clusters(bits.div_ceil(8));
        bytes += (clusters + cluster.clusters(clusters * 8)) << cluster.bits();
        directory += to_u64(BitmapDirectoryEntry::len_for(entry.name.len()));
    }
    Ok(Some(
        bytes + (cluster.clusters(directory) << cluster.bits()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of qemu-img 10.0.2.
    #[test]
    fn lengths_are_qemus() {
        let options = CreateOptions::default();
        for (size, cluster_size, refcount_bits, extended_l2, required, full) in [
            (1 << 30, 65536, 16, false, 393_216, 1_074_135_040),
            (0, 65536, 16, false, 196_608, 196_608),
            (100 << 30, 512, 64, false, 3_462_825_472, 110_837_007_872),
            (100 << 30, 65536, 16, true, 29_753_344, 107_403_935_744),
        ] {
            let options = CreateOptions {
                cluster_size,
                refcount_bits,
                extended_l2,
                ..options.clone()
            };
            let measured = measure(None, None, size, &options, false, 0).unwrap();
            assert_eq!(
                (measured.required, measured.fully_allocated),
                (required, full)
            );
        }
        assert!(measure(None, None, 64 << 50, &options, false, 0).is_err());
        assert!(measure(None, None, u64::MAX, &options, false, 0).is_err());
    }
}
