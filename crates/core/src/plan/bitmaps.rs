//! Persistent dirty bitmaps of a target: what the plan changes is recorded in them, and bitmaps
//! of other images are merged into them or copied.
//!
//! While the plan runs they are marked in use, so that a crash leaves bitmaps that nobody
//! trusts rather than wrong ones (spec: "Bitmap directory", flag 0).

use super::bitmap_directory::{Directory, bits, extension, fits, qcow2, table_clusters};
use super::bitmap_head;
use super::bitmap_merge::Shape;
use super::link::HeadCell;
use super::{MetadataKind, Refcounts, Step, StepQueue};
use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::image::bitmap::{ALL_ONES, set_bits};
use crate::image::{BitmapBits, Chunk};
use backchain_format::HostOffset;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::{BitmapDirectoryEntry, BitmapsExtension, ClusterSize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// Bytes of bitmaps held in memory; beyond that whole chunks count as changed.
const MEMORY: u64 = 32 << 20;
/// Bytes of bits written, and chunks looked at, before steps are handed on.
const BATCH: u64 = 4 << 20;
const LOOKED_AT: u64 = 4096;

/// The bitmaps of one target that are valid and have to stay so.
pub(crate) struct Bitmaps {
    node: Arc<Node>,
    cluster: ClusterSize,
    directory: Directory,
    list: Vec<Bitmap>,
    held: u64,
    /// The next bitmap and chunk to store.
    next: (usize, u64),
    /// Tables that are written when the bits are durable.
    later: Vec<Step>,
    /// A directory with new bitmaps in it that the header has to lead to.
    moved: Option<BitmapsExtension>,
}

struct Bitmap {
    entry: BitmapDirectoryEntry,
    /// Its number in the directory; `None` for one that the plan makes.
    stored: Option<usize>,
    bits: BitmapBits,
    chunks: BTreeMap<u64, Chunk>,
    /// Bitmaps that are merged into it.
    sources: Vec<BitmapBits>,
    /// The table as it will be.
    table: Vec<u64>,
}

impl Bitmap {
    /// The first 16 bytes of the directory entry: table, its entries, flags.
    fn start(&self, more_flags: u32) -> Vec<u8> {
        let mut bytes = self.entry.table.0.to_be_bytes().to_vec();
        bytes.extend(self.entry.table_entries.to_be_bytes());
        bytes.extend((self.entry.flags | more_flags).to_be_bytes());
        bytes
    }

    fn shape(&self, cluster: ClusterSize, size: u64) -> Shape {
        Shape {
            cluster,
            granularity_bits: self.entry.granularity_bits,
            size,
        }
    }
}

impl Bitmaps {
    /// Reads the directory and tables of the bitmaps of `node` that are consistent.
    pub(crate) fn new(node: &Arc<Node>) -> Result<Self> {
        let mut bitmaps = Self {
            node: Arc::clone(node),
            cluster: qcow2(node)?.head.header.cluster,
            directory: Directory::read(node)?,
            list: Vec::new(),
            held: 0,
            next: (0, 0),
            later: Vec::new(),
            moved: None,
        };
        for (index, entry) in bitmaps.directory.list.iter().enumerate() {
            if !entry.in_use() {
                bitmaps.list.push(Bitmap {
                    entry: entry.clone(),
                    stored: Some(index),
                    bits: bits(node, entry)?,
                    chunks: BTreeMap::new(),
                    sources: Vec::new(),
                    table: Vec::new(),
                });
            }
        }
        Ok(bitmaps)
    }

    /// Merges `entry`, a bitmap of `from`, into the bitmap of the same name, which is made where
    /// there is none. `size`: bytes of the target's disk afterwards. False when the target's own
    /// was not saved properly.
    pub(crate) fn merge(
        &mut self,
        from: &Node,
        entry: &BitmapDirectoryEntry,
        size: u64,
    ) -> Result<bool> {
        let refused = |why: String| Error::new(ErrorKind::Invalid, why).about(&self.node.name);
        let name = &entry.name;
        if self
            .directory
            .list
            .iter()
            .any(|e| &e.name == name && e.in_use())
        {
            return Ok(false);
        }
        let source = bits(from, entry)?;
        if let Some(known) = self.list.iter_mut().find(|b| &b.entry.name == name) {
            known.sources.push(source);
            return Ok(true);
        }
        let image = qcow2(&self.node)?;
        let made = self.list.iter().filter(|b| b.stored.is_none());
        let others = made.map(|b| &b.entry).chain(&self.directory.list);
        fits(image, name, (entry.granularity_bits, size), others)
            .map_err(|why| refused(format!("Failed to create bitmap {name}: {why}")))?;
        let blank = BitmapBits::blank(
            &self.node.source,
            self.cluster,
            size,
            entry.granularity_bits,
        );
        self.list.push(Bitmap {
            entry: BitmapDirectoryEntry {
                table: HostOffset(0),
                table_entries: 0,
                flags: entry.flags & BitmapDirectoryEntry::AUTO,
                stored_len: to_u64(BitmapDirectoryEntry::len_for(name.len())),
                ..entry.clone()
            },
            stored: None,
            bits: blank,
            chunks: BTreeMap::new(),
            sources: vec![source],
            table: Vec::new(),
        });
        // Whether the header has room is known now.
        let mut head = HeadCell::of(&self.node)?.lock().clone();
        let place = HostOffset(self.cluster.bytes());
        let extension = extension(place, self.count(), 24)?;
        bitmap_head::switch(self.node.id, &mut head, Some(extension))
            .map_err(|e| self.node.blame(e))?;
        Ok(true)
    }

    /// Bitmaps afterwards.
    fn count(&self) -> usize {
        let made = self.list.iter().filter(|b| b.stored.is_none()).count();
        self.directory.list.len() + made
    }

    fn write(&self, dst: HostOffset, bytes: Vec<u8>) -> Step {
        Step::Write {
            to: self.node.id,
            dst,
            kind: MetadataKind::Bitmap,
            bytes,
        }
    }

    /// Marks all of them as in use, durably.
    pub(crate) fn begin(&self, out: &mut StepQueue) {
        let steps = self.entries(BitmapDirectoryEntry::IN_USE);
        if !steps.is_empty() {
            steps.into_iter().for_each(|step| out.push(step));
            out.push(Step::Sync { node: self.node.id });
        }
    }

    /// Writes of the entries that are stored already.
    fn entries(&self, more_flags: u32) -> Vec<Step> {
        let stored = self.list.iter().filter_map(|b| Some((b, b.stored?)));
        stored
            .map(|(b, index)| self.write(self.directory.place_of(index), b.start(more_flags)))
            .collect()
    }

    /// Records that the guest range from `start` on, of `len` bytes, changed.
    pub(crate) fn mark(&mut self, start: u64, len: u64) -> Result<()> {
        for bitmap in &mut self.list {
            if bitmap.stored.is_none() || bitmap.entry.flags & BitmapDirectoryEntry::AUTO == 0 {
                continue;
            }
            let span = bitmap.bits.span();
            let end = start + len;
            let mut pos = start;
            while pos < end {
                let index = pos / span;
                let stop = end.min((index + 1).saturating_mul(span));
                let chunk = match bitmap.chunks.entry(index) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let chunk = if self.held >= MEMORY {
                            Chunk::Ones
                        } else {
                            bitmap.bits.chunk(index).map_err(|e| self.node.blame(e))?
                        };
                        if chunk != Chunk::Ones {
                            self.held += self.cluster.bytes();
                        }
                        new.insert(chunk)
                    }
                };
                if *chunk == Chunk::Zeros {
                    *chunk = Chunk::Bits(vec![0; to_usize(self.cluster.bytes())]);
                }
                if let Chunk::Bits(bytes) = chunk {
                    let bit = |at: u64| (at - index * span) >> bitmap.entry.granularity_bits;
                    set_bits(bytes, bit(pos), bit(stop - 1));
                }
                pos = stop;
            }
        }
        Ok(())
    }

    /// Writes some of the bits of a disk that now has `size` bytes; false when all are written.
    pub(crate) fn store(
        &mut self,
        size: u64,
        refcounts: &mut Refcounts,
        out: &mut StepQueue,
    ) -> Result<bool> {
        let (mut written, mut looked_at) = (0, 0);
        while written < BATCH && looked_at < LOOKED_AT {
            let (number, index) = self.next;
            let Some(bitmap) = self.list.get_mut(number) else {
                return Ok(false);
            };
            let shape = bitmap.shape(self.cluster, size);
            if index >= shape.chunks() {
                self.store_table(number, refcounts, out)?;
                self.next = (number + 1, 0);
                continue;
            }
            looked_at += 1;
            self.next.1 += 1;
            let was = bitmap.bits.entry(index);
            let changed = bitmap.chunks.remove(&index);
            if changed.is_none() && bitmap.sources.is_empty() {
                bitmap.table.push(was);
                continue;
            }
            let blame = |e| self.node.blame(e);
            let stored = bitmap.bits.chunk(index).map_err(blame)?;
            let own = changed.unwrap_or_else(|| stored.clone());
            let new = shape.merge(index, own, &bitmap.sources).map_err(blame)?;
            let host = bitmap.bits.host(index);
            if new == stored {
                bitmap.table.push(was);
                continue;
            }
            let entry = match (new, host) {
                (Chunk::Bits(bytes), host) => {
                    let at = match host {
                        Some(host) => HostOffset(host),
                        None => refcounts.allocate(1)?,
                    };
                    written += to_u64(bytes.len());
                    out.push(Step::Write {
                        to: self.node.id,
                        dst: at,
                        kind: MetadataKind::Bitmap,
                        bytes,
                    });
                    at.0
                }
                (plain, host) => {
                    if let Some(host) = host {
                        refcounts.drop_reference(host >> self.cluster.bits());
                    }
                    if plain == Chunk::Ones { ALL_ONES } else { 0 }
                }
            };
            bitmap.table.push(entry);
        }
        Ok(true)
    }

    /// Writes the table of a bitmap whose bits are written.
    fn store_table(
        &mut self,
        number: usize,
        refcounts: &mut Refcounts,
        out: &mut StepQueue,
    ) -> Result<()> {
        let Some(bitmap) = self.list.get_mut(number) else {
            return Ok(());
        };
        let table = std::mem::take(&mut bitmap.table);
        let old = bitmap.entry.clone();
        let unchanged = || (0..).zip(&table).all(|(n, &e)| e == bitmap.bits.entry(n));
        let entries = u32::try_from(table.len()).unwrap_or(u32::MAX);
        if bitmap.stored.is_some() && entries == old.table_entries && unchanged() {
            return Ok(());
        }
        let clusters = self.cluster.clusters(to_u64(table.len()) * 8);
        let before = table_clusters(&old, self.cluster);
        let fits = clusters <= before.end - before.start;
        let in_place = bitmap.stored.is_some() && fits;
        bitmap.entry.table_entries = entries;
        if !in_place {
            if bitmap.stored.is_some() {
                before.for_each(|cluster| refcounts.drop_reference(cluster));
            }
            bitmap.entry.table = refcounts.allocate(clusters)?;
        }
        let at = bitmap.entry.table;
        // Still in use: an entry across two sectors may be written by half.
        let start = bitmap.start(BitmapDirectoryEntry::IN_USE);
        let stored = bitmap.stored;
        let bytes = table.iter().flat_map(|e| e.to_be_bytes()).collect();
        let step = self.write(at, bytes);
        if in_place {
            self.later.push(step);
        } else {
            out.push(step);
        }
        if let Some(index) = stored
            && !(in_place && entries == old.table_entries)
        {
            let step = self.write(self.directory.place_of(index), start);
            self.later.push(step);
        }
        Ok(())
    }

    /// When all bits are written: what is to be written once they are durable. Then, when that
    /// is, [`Self::finish`].
    pub(crate) fn stored(
        &mut self,
        refcounts: &mut Refcounts,
        out: &mut StepQueue,
    ) -> Result<Vec<Step>> {
        if self.list.iter().all(|b| b.stored.is_some()) {
            return Ok(std::mem::take(&mut self.later));
        }
        // A directory with the new ones, as it is to be in the end.
        let mut bytes = Vec::new();
        for index in 0..self.directory.list.len() {
            let mut raw = self.directory.raw(index).to_vec();
            let kept = self.list.iter().find(|b| b.stored == Some(index));
            if let (Some(kept), Some(start)) = (kept, raw.get_mut(..16)) {
                start.copy_from_slice(&kept.start(0));
            }
            bytes.extend(raw);
        }
        for made in self.list.iter().filter(|b| b.stored.is_none()) {
            bytes.extend(made.entry.to_bytes());
        }
        let clusters = self.cluster.clusters(to_u64(bytes.len()));
        let place = refcounts.allocate(clusters)?;
        self.moved = Some(extension(place, self.count(), bytes.len())?);
        out.push(self.write(place, bytes));
        for cluster in self.directory.clusters(self.cluster) {
            refcounts.drop_reference(cluster);
        }
        Ok(std::mem::take(&mut self.later))
    }

    /// Declares them valid again.
    pub(crate) fn finish(&self, head: &HeadCell, out: &mut StepQueue) -> Result<()> {
        let steps = match self.moved {
            None => self.entries(0),
            Some(extension) => bitmap_head::switch(self.node.id, &mut head.lock(), Some(extension))
                .map_err(|e| self.node.blame(e))?,
        };
        steps.into_iter().for_each(|step| out.push(step));
        Ok(())
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// The bitmaps of `node` that can be merged into others. One that was not saved properly is an
/// error; or, with `skip`, its name goes to `skipped`.
pub(crate) fn usable(
    node: &Node,
    skip: bool,
    skipped: &mut Vec<String>,
) -> Result<Vec<BitmapDirectoryEntry>> {
    let mut list = Vec::new();
    for entry in Directory::read(node)?.list {
        if !entry.in_use() {
            list.push(entry);
        } else if skip {
            skipped.push(entry.name);
        } else {
            let message = format!(
                "Cannot copy inconsistent bitmap '{}'\n\
                 Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
                entry.name
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    }
    Ok(list)
}
