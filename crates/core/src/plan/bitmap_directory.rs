//! The bitmap directory of an image: what is in it, and what can be added.

use super::bitmap_merge::Shape;
use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::image::bitmap::{HOST, words};
use crate::image::{BitmapBits, Qcow2};
use crate::source::read_padded;
use backchain_format::HostOffset;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::{BitmapDirectoryEntry, BitmapsExtension, ClusterSize};
use std::ops::Range;

/// The directory of the bitmaps that count; empty where the header says that the extension is
/// not to be trusted.
#[derive(Default)]
pub(super) struct Directory {
    /// Where it is in the file, and its bytes there.
    place: Option<(HostOffset, u64)>,
    pub(super) list: Vec<BitmapDirectoryEntry>,
    /// Each entry as it is stored, padding included.
    raw: Vec<Vec<u8>>,
}

impl Directory {
    pub(super) fn read(node: &Node) -> Result<Self> {
        let Some(image) = node.image()?.as_qcow2() else {
            return Ok(Self::default());
        };
        if !image.bitmaps_consistent() || !image.head.is_v3() {
            return Ok(Self::default());
        }
        let Some(extension) = image.head.extensions.bitmaps(0).transpose()? else {
            return Ok(Self::default());
        };
        let list = image
            .bitmaps(node.source.as_ref())
            .map_err(|e| node.blame(e))?;
        let mut at = extension.directory;
        let mut raw = Vec::new();
        for entry in &list {
            let mut bytes = vec![0; to_usize(entry.stored_len)];
            read_padded(node.source.as_ref(), at.0, &mut bytes).map_err(|e| node.blame(e))?;
            raw.push(bytes);
            at = at.plus(entry.stored_len);
        }
        Ok(Self {
            place: Some((extension.directory, extension.directory_len)),
            list,
            raw,
        })
    }

    /// The number of the bitmap with this name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.list.iter().position(|entry| entry.name == name)
    }

    /// Where the entry with this number is.
    pub(super) fn place_of(&self, index: usize) -> HostOffset {
        let before: u64 = self.list.iter().take(index).map(|e| e.stored_len).sum();
        let start = self.place.map_or(HostOffset(0), |(at, _)| at);
        start.plus(before)
    }

    /// The entry with this number as it is stored.
    pub(super) fn raw(&self, index: usize) -> &[u8] {
        self.raw.get(index).map_or(&[], Vec::as_slice)
    }

    /// Host clusters of the directory.
    pub(super) fn clusters(&self, cluster: ClusterSize) -> Range<u64> {
        let (at, len) = self.place.unwrap_or_default();
        let first = at.0 >> cluster.bits();
        first..first + cluster.clusters(len)
    }
}

/// The table and bits of a bitmap of `node`.
pub(super) fn bits(node: &Node, entry: &BitmapDirectoryEntry) -> Result<BitmapBits> {
    let image = qcow2(node)?;
    BitmapBits::open(&node.source, image, entry).map_err(|e| node.blame(e))
}

pub(super) fn qcow2(node: &Node) -> Result<&Qcow2> {
    node.image()?.as_qcow2().ok_or_else(|| {
        let message = "the image has no persistent bitmaps: it is not qcow2";
        Error::new(ErrorKind::Invalid, message).about(&node.name)
    })
}

/// Host clusters of the table and the bits of a bitmap, also of one that nobody trusts.
pub(super) fn clusters_of(node: &Node, entry: &BitmapDirectoryEntry) -> Result<Vec<u64>> {
    let cluster = qcow2(node)?.head.header.cluster;
    let len = u64::from(entry.table_entries) * 8;
    let end = entry.table.0.checked_add(len);
    let most = BitmapDirectoryEntry::MAX_BYTES >> cluster.bits();
    if end.is_none_or(|end| end > node.source.len()) || u64::from(entry.table_entries) > most {
        let message = format!(
            "the table of bitmap '{}' is too long, or past the end of the file",
            entry.name
        );
        return Err(Error::new(ErrorKind::Corrupt, message).about(&node.name));
    }
    let mut bytes = vec![0; to_usize(len)];
    read_padded(node.source.as_ref(), entry.table.0, &mut bytes).map_err(|e| node.blame(e))?;
    let mut all: Vec<u64> = table_clusters(entry, cluster).collect();
    let hosts = words(&bytes).into_iter().map(|word| word & HOST);
    all.extend(
        hosts
            .filter(|&host| host != 0)
            .map(|host| host >> cluster.bits()),
    );
    Ok(all)
}

/// Host clusters of a bitmap's table.
pub(super) fn table_clusters(entry: &BitmapDirectoryEntry, cluster: ClusterSize) -> Range<u64> {
    let first = entry.table.0 >> cluster.bits();
    first..first + cluster.clusters(u64::from(entry.table_entries) * 8)
}

/// The granularity that QEMU gives a bitmap by default: a cluster, from 4 to 64 KiB.
pub(super) fn default_granularity(cluster: ClusterSize) -> u8 {
    u8::try_from(cluster.bits().clamp(12, 16)).unwrap_or(16)
}

/// Whether the image can have another bitmap beside `others`, on a disk of `size` bytes; else
/// why not, in QEMU's words.
pub(super) fn fits<'a>(
    image: &Qcow2,
    name: &str,
    (granularity_bits, size): (u8, u64),
    others: impl IntoIterator<Item = &'a BitmapDirectoryEntry>,
) -> Result<(), String> {
    if !image.head.is_v3() {
        return Err("Cannot store dirty bitmaps in qcow2 v2 files".to_owned());
    }
    if name.len() > BitmapDirectoryEntry::MAX_NAME {
        return Err(format!(
            "Name length exceeds maximum ({} characters)",
            BitmapDirectoryEntry::MAX_NAME
        ));
    }
    let shape = Shape {
        cluster: image.head.header.cluster,
        granularity_bits,
        size,
    };
    let bits = size.div_ceil(1 << granularity_bits);
    let most = BitmapDirectoryEntry::MAX_BYTES;
    if bits > most * 8 || shape.chunks() > u64::from(BitmapDirectoryEntry::MAX_TABLE_ENTRIES) {
        let message = "Too much space will be occupied by the bitmap. Use larger granularity";
        return Err(message.to_owned());
    }
    if size == 0 {
        return Err("The disk has no bytes".to_owned());
    }
    let (mut count, mut taken) = (1, to_u64(BitmapDirectoryEntry::len_for(name.len())));
    for other in others {
        count += 1;
        taken += other.stored_len;
    }
    if count > BitmapsExtension::MAX_COUNT {
        return Err("Maximum number of persistent bitmaps is already reached".to_owned());
    }
    if taken > BitmapsExtension::MAX_DIRECTORY {
        return Err("Not enough space in the bitmap directory".to_owned());
    }
    Ok(())
}

/// The extension for a directory of `count` bitmaps.
pub(super) fn extension(
    directory: HostOffset,
    count: usize,
    len: usize,
) -> Result<BitmapsExtension> {
    let count = u32::try_from(count)
        .map_err(|_| Error::new(ErrorKind::Invalid, "there are too many bitmaps"))?;
    Ok(BitmapsExtension {
        count,
        directory_len: to_u64(len),
        directory,
    })
}
