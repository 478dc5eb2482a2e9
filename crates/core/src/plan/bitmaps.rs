//! Persistent dirty bitmaps of a target: what the plan changes is recorded in them.
//!
//! While the plan runs they are marked in use, so that a crash leaves bitmaps that nobody
//! trusts rather than wrong ones (spec: "Bitmap directory", flag 0).

use super::{MetadataKind, Refcounts, Step, StepQueue};
use crate::chain::{Node, NodeId};
use crate::error::{Error, ErrorKind, Result};
use crate::image::bitmap::{ALL_ONES, HOST, set_bits};
use crate::source::read_padded;
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{BitmapDirectoryEntry, ClusterSize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// Bytes of bitmaps held in memory; beyond that whole chunks count as changed.
const MEMORY: u64 = 32 << 20;

/// The bitmaps of one target that are valid and have to stay so.
pub(crate) struct Bitmaps {
    node: Arc<Node>,
    cluster: ClusterSize,
    list: Vec<Bitmap>,
    held: u64,
}

struct Bitmap {
    entry: BitmapDirectoryEntry,
    /// Where the directory entry is.
    at: HostOffset,
    table: Vec<u64>,
    chunks: BTreeMap<u64, Chunk>,
}

impl Bitmap {
    /// Writes the first 16 bytes of the directory entry: table, its entries, flags.
    fn directory_entry(&self, to: NodeId, more_flags: u32) -> Step {
        let mut bytes = self.entry.table.0.to_be_bytes().to_vec();
        let entries = u32::try_from(self.table.len()).unwrap_or(u32::MAX);
        bytes.extend(entries.to_be_bytes());
        bytes.extend((self.entry.flags | more_flags).to_be_bytes());
        Step::Write {
            to,
            dst: self.at,
            kind: MetadataKind::Bitmap,
            bytes,
        }
    }
}

/// The part of a bitmap that one cluster holds.
enum Chunk {
    Bits(Vec<u8>),
    Ones,
}

impl Chunk {
    /// Reads the cluster at `host`; zeros when there is none.
    fn read(node: &Node, cluster: ClusterSize, host: u64) -> Result<Self> {
        let mut bytes = vec![0; to_usize(cluster.bytes())];
        if host != 0 {
            read_padded(node.source.as_ref(), host, &mut bytes).map_err(|e| node.blame(e))?;
        }
        Ok(Chunk::Bits(bytes))
    }
}

impl Bitmaps {
    /// Reads the directory and tables of the bitmaps of `node` that are consistent.
    pub(crate) fn new(node: &Arc<Node>) -> Result<Self> {
        let mut bitmaps = Self {
            node: Arc::clone(node),
            cluster: ClusterSize::MIN,
            list: Vec::new(),
            held: 0,
        };
        let Some(image) = node.image()?.as_qcow2().filter(|i| i.bitmaps_consistent()) else {
            return Ok(bitmaps);
        };
        bitmaps.cluster = image.head.header.cluster;
        let Some(extension) = image.head.extensions.bitmaps(0).transpose()? else {
            return Ok(bitmaps);
        };
        let mut at = extension.directory;
        for entry in image
            .bitmaps(node.source.as_ref())
            .map_err(|e| node.blame(e))?
        {
            let len = entry.stored_len;
            if entry.flags & BitmapDirectoryEntry::IN_USE == 0 {
                bitmaps.add(entry, at)?;
            }
            at = at.plus(len);
        }
        Ok(bitmaps)
    }

    fn add(&mut self, entry: BitmapDirectoryEntry, at: HostOffset) -> Result<()> {
        let needed = self.chunks(&entry, self.node.virtual_size());
        if u64::from(entry.table_entries) != needed {
            let message = format!(
                "the table of bitmap '{}' has {} entries instead of {needed}",
                entry.name, entry.table_entries
            );
            return Err(Error::new(ErrorKind::Corrupt, message).about(&self.node.name));
        }
        let len = needed * 8;
        if entry
            .table
            .0
            .checked_add(len)
            .is_none_or(|end| end > self.node.source.len())
        {
            let message = format!(
                "the table of bitmap '{}' is past the end of the file",
                entry.name
            );
            return Err(Error::new(ErrorKind::Corrupt, message).about(&self.node.name));
        }
        let mut bytes = vec![0; to_usize(len)];
        read_padded(self.node.source.as_ref(), entry.table.0, &mut bytes)
            .map_err(|e| self.node.blame(e))?;
        let table = bytes
            .chunks_exact(8)
            .map(|w| be64(w, 0).unwrap_or(0))
            .collect();
        self.list.push(Bitmap {
            entry,
            at,
            table,
            chunks: BTreeMap::new(),
        });
        Ok(())
    }

    /// Guest bytes that one cluster of a bitmap stands for.
    fn chunk_span(&self, entry: &BitmapDirectoryEntry) -> u64 {
        self.cluster
            .bytes()
            .saturating_mul(8)
            .checked_shl(u32::from(entry.granularity_bits))
            .filter(|n| *n > 0)
            .unwrap_or(u64::MAX)
    }

    fn chunks(&self, entry: &BitmapDirectoryEntry, size: u64) -> u64 {
        size.div_ceil(self.chunk_span(entry))
    }

    /// Marks all of them as in use, durably.
    pub(crate) fn begin(&self, out: &mut StepQueue) {
        for bitmap in &self.list {
            out.push(bitmap.directory_entry(self.node.id, BitmapDirectoryEntry::IN_USE));
        }
        if !self.list.is_empty() {
            out.push(Step::Sync { node: self.node.id });
        }
    }

    /// Records that the guest range from `start` on, of `len` bytes, changed.
    pub(crate) fn mark(&mut self, start: u64, len: u64) -> Result<()> {
        let spans: Vec<u64> = self
            .list
            .iter()
            .map(|b| self.chunk_span(&b.entry))
            .collect();
        for (bitmap, span) in self.list.iter_mut().zip(spans) {
            if bitmap.entry.flags & BitmapDirectoryEntry::AUTO == 0 {
                continue;
            }
            let end = start + len;
            let mut pos = start;
            while pos < end {
                let index = pos / span;
                let stop = end.min((index + 1).saturating_mul(span));
                let known = bitmap.table.get(to_usize(index)).copied().unwrap_or(0);
                let chunk = match bitmap.chunks.entry(index) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let ones = known & HOST == 0 && known & ALL_ONES != 0;
                        if ones || self.held >= MEMORY {
                            new.insert(Chunk::Ones)
                        } else {
                            self.held += self.cluster.bytes();
                            new.insert(Chunk::read(&self.node, self.cluster, known & HOST)?)
                        }
                    }
                };
                if let Chunk::Bits(bytes) = chunk {
                    let bit = |at: u64| (at - index * span) >> bitmap.entry.granularity_bits;
                    set_bits(bytes, bit(pos), bit(stop - 1));
                }
                pos = stop;
            }
        }
        Ok(())
    }

    /// Writes the bits of a disk that now has `size` bytes. What is returned is to be written
    /// when that is durable: the tables; then, when those are, [`Self::finish`].
    pub(crate) fn store(
        &mut self,
        size: u64,
        refcounts: &mut Refcounts,
        out: &mut StepQueue,
    ) -> Result<Vec<Step>> {
        let (to, kind, cluster) = (self.node.id, MetadataKind::Bitmap, self.cluster);
        let needed: Vec<u64> = self
            .list
            .iter()
            .map(|b| self.chunks(&b.entry, size))
            .collect();
        let mut later = Vec::new();
        for (bitmap, needed) in self.list.iter_mut().zip(needed) {
            let before = bitmap.table.clone();
            bitmap.table.resize(to_usize(needed), 0);
            for (index, chunk) in std::mem::take(&mut bitmap.chunks) {
                let Some(entry) = bitmap.table.get_mut(to_usize(index)) else {
                    continue;
                };
                match chunk {
                    Chunk::Ones => {
                        if *entry & HOST != 0 {
                            refcounts.drop_reference((*entry & HOST) >> cluster.bits());
                        }
                        *entry = ALL_ONES;
                    }
                    Chunk::Bits(bytes) => {
                        if *entry & HOST == 0 {
                            *entry = refcounts.allocate(1)?.0;
                        }
                        let dst = HostOffset(*entry & HOST);
                        out.push(Step::Write {
                            to,
                            dst,
                            kind,
                            bytes,
                        });
                    }
                }
            }
            if bitmap.table == before {
                continue;
            }
            let bytes = bitmap.table.iter().flat_map(|e| e.to_be_bytes()).collect();
            let clusters = |entries: usize| cluster.clusters(to_u64(entries) * 8);
            if clusters(bitmap.table.len()) <= clusters(before.len()) {
                later.push(Step::Write {
                    to,
                    dst: bitmap.entry.table,
                    kind,
                    bytes,
                });
                continue;
            }
            let first = bitmap.entry.table.0 >> cluster.bits();
            (first..first + clusters(before.len())).for_each(|c| refcounts.drop_reference(c));
            bitmap.entry.table = refcounts.allocate(clusters(bitmap.table.len()))?;
            out.push(Step::Write {
                to,
                dst: bitmap.entry.table,
                kind,
                bytes,
            });
            // Still in use: an entry across two sectors may be written by half.
            later.push(bitmap.directory_entry(to, BitmapDirectoryEntry::IN_USE));
        }
        Ok(later)
    }

    /// Declares them valid again.
    pub(crate) fn finish(&self, out: &mut StepQueue) {
        for bitmap in &self.list {
            out.push(bitmap.directory_entry(self.node.id, 0));
        }
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
