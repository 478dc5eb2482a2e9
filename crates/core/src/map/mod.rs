//! The map of a chain: guest ranges with what `qemu-img map` says about each.

mod kept;

use crate::chain::{Chain, ChainExtent, ChainExtents, Node};
use crate::error::Result;
use crate::extent::Place;
use crate::source::read_padded;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{RefcountBlock, RefcountTableEntry};
use kept::Kept;
use serde::Serialize;
use std::sync::Arc;

/// One line of the map. The fields are those of QEMU's `MapEntry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    /// First guest byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// The layer that decides: 0 is the top.
    pub depth: usize,
    /// That layer says something; otherwise it is zeros for want of anything below.
    pub present: bool,
    /// Reads as zeros.
    pub zero: bool,
    /// The layer stores bytes for it.
    pub data: bool,
    /// The bytes are packed.
    pub compressed: bool,
    /// Offset in the layer's file, where the bytes are there as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl MapEntry {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    fn merge(&mut self, next: &MapEntry) -> bool {
        let follows = match (self.offset, next.offset) {
            (None, None) => true,
            (Some(a), Some(b)) => a.checked_add(self.length) == Some(b),
            _ => false,
        };
        let same = (self.depth, self.present, self.zero, self.data)
            == (next.depth, next.present, next.zero, next.data);
        let joins =
            self.end() == next.start && follows && same && self.compressed == next.compressed;
        if joins {
            self.length += next.length;
        }
        joins
    }
}

/// Iterator over the map of a chain, in guest order, with neighbours joined. After an error it
/// ends.
pub struct Map {
    layers: Vec<Layer>,
    extents: ChainExtents,
    /// What is left of an extent that comes in several entries.
    rest: Option<ChainExtent>,
    end: u64,
    ahead: Option<MapEntry>,
    failed: bool,
}

struct Layer {
    node: Arc<Node>,
    /// Known once an extent of data was met: the file has holes where the image has data.
    preallocated: Option<bool>,
    /// For images with subclusters.
    kept: Option<Kept>,
}

impl Map {
    /// The map of `chain` from guest byte `start` on, over at most `length` bytes.
    ///
    /// # Errors
    /// When a layer's tables cannot be opened; later ones come from the iterator.
    pub fn new(chain: &Chain, start: u64, length: u64) -> Result<Self> {
        let layers = chain.layers().iter().map(|node| Layer {
            node: Arc::clone(node),
            preallocated: None,
            kept: Kept::new(node),
        });
        Ok(Self {
            layers: layers.collect(),
            extents: chain.extents(start)?,
            rest: None,
            end: start.saturating_add(length).min(chain.virtual_size()),
            ahead: None,
            failed: false,
        })
    }

    fn pull(&mut self) -> Result<Option<MapEntry>> {
        let extent = match self.rest.take() {
            Some(rest) => rest,
            None => match self.extents.next().transpose()? {
                Some(extent) => extent,
                None => return Ok(None),
            },
        };
        if extent.start >= self.end {
            return Ok(None);
        }
        let extent = extent.slice(extent.start, self.end - extent.start);
        let mut entry = self.entry(&extent);
        match extent.place {
            Place::Data { .. } if self.is_encrypted(entry.depth) => entry.offset = None,
            Place::Data { host } if self.is_preallocated(entry.depth)? => {
                (entry.length, entry.zero) = self.holes(entry.depth, host.0, extent.len)?;
            }
            Place::Unallocated | Place::BeyondEnd if !self.is_encrypted(entry.depth) => {
                let layer = self.layers.get_mut(entry.depth);
                if let Some(kept) = layer.and_then(|layer| layer.kept.as_mut()) {
                    (entry.length, entry.offset) = kept.piece(extent.start, extent.len)?;
                }
            }
            _ => {}
        }
        if entry.length < extent.len {
            self.rest = Some(extent.slice(entry.end(), extent.end() - entry.end()));
        }
        Ok(Some(entry))
    }

    /// Whether what a layer's file holds is something else than what the guest reads there.
    fn is_encrypted(&self, depth: usize) -> bool {
        let layer = self.layers.get(depth);
        let image = layer.and_then(|layer| layer.node.image.as_ref().ok());
        image.is_some_and(|image| image.encryption().is_some())
    }

    fn entry(&self, extent: &ChainExtent) -> MapEntry {
        let last = self.layers.len().saturating_sub(1);
        let mut entry = MapEntry {
            start: extent.start,
            length: extent.len,
            depth: extent.depth.unwrap_or(last),
            present: true,
            zero: false,
            data: false,
            compressed: false,
            offset: None,
        };
        match extent.place {
            Place::Data { host } => {
                entry.data = true;
                entry.offset = Some(host.0);
            }
            Place::Compressed { .. } => {
                entry.data = true;
                entry.compressed = true;
            }
            Place::Zero { host } => {
                entry.zero = true;
                let host = host.filter(|_| !self.is_encrypted(entry.depth));
                entry.offset = host.map(|h| h.0);
            }
            // QEMU names the layer above the one that is too short.
            Place::BeyondEnd => {
                entry.zero = true;
                entry.present = false;
                entry.depth = entry.depth.saturating_sub(1);
            }
            Place::Unallocated => {
                entry.zero = true;
                entry.present = false;
            }
        }
        entry
    }

    /// How many of the `len` bytes from `host` on in the layer's file are alike, and whether
    /// they are a hole.
    fn holes(&self, depth: usize, host: u64, len: u64) -> Result<(u64, bool)> {
        let Some(layer) = self.layers.get(depth) else {
            return Ok((len, false));
        };
        let node = layer.node.data_node();
        let data = if host < node.source.len() {
            node.source.data_at(host).map_err(|e| node.blame(e))?
        } else {
            None
        };
        Ok(match data {
            Some(data) if data.start <= host => {
                (data.end.saturating_sub(host).clamp(1, len), false)
            }
            Some(data) => ((data.start - host).min(len), true),
            None => (len, true),
        })
    }

    fn is_preallocated(&mut self, depth: usize) -> Result<bool> {
        let Some(layer) = self.layers.get_mut(depth) else {
            return Ok(false);
        };
        if let Some(known) = layer.preallocated {
            return Ok(known);
        }
        let found = has_preallocated_metadata(&layer.node)?;
        layer.preallocated = Some(found);
        Ok(found)
    }
}

impl Iterator for Map {
    type Item = Result<MapEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut entry = self.ahead.take();
        while !self.failed {
            match self.pull() {
                Ok(Some(next)) => match &mut entry {
                    None => entry = Some(next),
                    Some(now) => {
                        if !now.merge(&next) {
                            self.ahead = Some(next);
                            break;
                        }
                    }
                },
                Ok(None) => break,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        entry.map(Ok)
    }
}

/// Whether a qcow2 image has clearly more clusters than its file takes bytes on the disk: then
/// its clusters were allocated beforehand and may be holes, and the file system is asked.
fn has_preallocated_metadata(node: &Node) -> Result<bool> {
    let (Some(image), Some(allocated)) = (node.image()?.as_qcow2(), node.allocated) else {
        return Ok(false);
    };
    let header = &image.head.header;
    let cluster = header.cluster;
    let clusters = cluster.clusters(node.source.len());
    let real = allocated / cluster.bytes();
    // QEMU's measure: a tenth more, and at least two.
    let most = (real.saturating_mul(10) / 9).max(real.saturating_add(2));
    if clusters <= most {
        return Ok(false);
    }
    let per_block = header.refcount_width.per_block(cluster);
    let blocks = clusters.div_ceil(per_block);
    let table_len = header.refcount_table_bytes().min(blocks * 8);
    let mut table = vec![0; to_usize(table_len)];
    let read =
        |at, buf: &mut [u8]| read_padded(node.source.as_ref(), at, buf).map_err(|e| node.blame(e));
    read(header.refcount_table.0, &mut table)?;
    let mut used = 0u64;
    for index in 0..to_u64(table.len()) / 8 {
        let bits = be64(&table, to_usize(index * 8)).unwrap_or(0);
        let Ok(RefcountTableEntry(Some(host))) = RefcountTableEntry::from_bits(bits, 0) else {
            continue;
        };
        let mut bytes = vec![0; to_usize(cluster.bytes())];
        read(host.0, &mut bytes)?;
        let block = RefcountBlock::from_bytes(bytes, header.refcount_width);
        let covered = (clusters - index * per_block).min(per_block);
        used += to_u64((0..covered).filter(|&i| block.get(i) != 0).count());
        if used > most {
            return Ok(true);
        }
    }
    Ok(false)
}
