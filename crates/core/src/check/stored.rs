//! The refcounts as the image stores them, and their comparison with what was counted.

use super::Fix;
use super::counts::{CHUNK, Chunk, Counts, NARROW_CLEAR, NARROW_SET};
use super::finding::Finding;
use super::geometry::{Geometry, bits};
use super::report::{Recorder, Told};
use super::words::Words;
use crate::source::{ReadAt, read_padded};
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_usize};
use backchain_format::qcow2::{RefcountBlock, RefcountTableEntry};
use std::io;
use std::ops::Range;

/// Bytes of the cached slices of tables and blocks.
const SLICE: u64 = 4096;
/// Cached slices.
const SLICES: u64 = 256;

/// Reader of stored refcounts.
pub(super) struct Stored<'a> {
    source: &'a dyn ReadAt,
    geometry: Geometry,
    table: u64,
    entries: u64,
    slices: Vec<(u64, Vec<u8>)>,
    /// It was told that a block cannot be read.
    complained: bool,
}

/// Where the refcount block for some clusters is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Absent,
    At(u64),
    Unusable(u64),
}

impl<'a> Stored<'a> {
    pub(super) fn new(
        source: &'a dyn ReadAt,
        geometry: Geometry,
        table: HostOffset,
        entries: u64,
    ) -> Self {
        Self {
            source,
            geometry,
            table: table.0,
            entries,
            slices: Vec::new(),
            complained: false,
        }
    }

    /// A few bytes at `offset`, through the cache; they do not cross a multiple of 8.
    fn bytes(&mut self, offset: u64) -> io::Result<&[u8]> {
        let start = offset / SLICE * SLICE;
        // Multiplied, so that tables and blocks at round offsets do not share a slot.
        let slot =
            to_usize((start / SLICE).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (SLICES - 1));
        if self.slices.is_empty() {
            self.slices.resize(to_usize(SLICES), (u64::MAX, Vec::new()));
        }
        let (at, bytes) = self
            .slices
            .get_mut(slot)
            .ok_or(io::ErrorKind::InvalidInput)?;
        if *at != start {
            bytes.resize(to_usize(SLICE), 0);
            *at = u64::MAX;
            read_padded(self.source, start, bytes)?;
            *at = start;
        }
        Ok(bytes.get(to_usize(offset - start)..).unwrap_or_default())
    }

    fn block(&mut self, index: u64) -> io::Result<Block> {
        if index >= self.entries {
            return Ok(Block::Absent);
        }
        let at = self.table.saturating_add(index * RefcountTableEntry::LEN);
        let word = be64(self.bytes(at)?, 0).unwrap_or(0);
        let offset = word & !bits::TABLE_RESERVED;
        // Offsets of files are signed numbers to QEMU.
        Ok(if offset == 0 {
            Block::Absent
        } else if self.geometry.is_aligned(offset) && offset < 1 << 63 {
            Block::At(offset)
        } else {
            Block::Unusable(offset)
        })
    }

    /// The stored refcount of one cluster; `None` when it cannot be read.
    pub(super) fn count(&mut self, cluster: u64) -> Option<u64> {
        let (width, per_block) = (self.geometry.width, self.per_block());
        match self.block(cluster / per_block).ok()? {
            Block::Absent => Some(0),
            Block::Unusable(_) => None,
            Block::At(offset) => {
                let bit = (cluster % per_block) * width.bits();
                // The eight bytes around it, so that narrow counts keep their place.
                let start = bit / 64 * 8;
                let at = offset.checked_add(start)?;
                let bytes = self.bytes(at).ok()?.get(..8)?.to_vec();
                let index = (bit - start * 8) / width.bits();
                Some(RefcountBlock::from_bytes(bytes, width).get(index))
            }
        }
    }

    /// Where the block with this index is; `None` when there is none.
    pub(super) fn block_at(&mut self, index: u64) -> io::Result<Option<u64>> {
        Ok(match self.block(index)? {
            Block::At(offset) => Some(offset),
            Block::Absent | Block::Unusable(_) => None,
        })
    }

    /// Whether there are blocks for all these clusters.
    pub(super) fn covers(&mut self, clusters: Range<u64>) -> bool {
        let per = self.per_block();
        let indexes = clusters.start / per..clusters.end.div_ceil(per);
        let mut blocks = indexes.map(|index| self.block_at(index).ok().flatten());
        blocks.all(|block| block.is_some())
    }

    pub(super) fn per_block(&self) -> u64 {
        self.geometry.width.per_block(self.geometry.layout.cluster)
    }
}

/// What comparing a window found beside the findings.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Compared {
    /// The last cluster that is in use.
    pub(super) highest: u64,
    /// Some copied flag of an active table is wrong.
    pub(super) flags: bool,
    /// A cluster in use counts as free, or there is none of the space to count it.
    pub(super) rebuild: bool,
    /// References more than refcounts can hold.
    pub(super) overflow: u64,
}

/// Compares the counts of a window with what is stored, and tells what `fix` does about it.
pub(super) fn compare(
    stored: &mut Stored<'_>,
    words: &mut Words<'_>,
    counts: &Counts,
    fix: Fix,
    recorder: &mut Recorder<'_>,
) -> Compared {
    let mut result = Compared::default();
    let per_block = stored.per_block();
    let clusters = stored.geometry.clusters;
    let inside = |at: u64, len: u64| len.min(clusters.saturating_sub(at));
    let mut at = counts.start();
    while at < counts.end() {
        let index = at / per_block;
        // Behind the table nothing is stored, so only what was counted matters.
        let block_end = if index < stored.entries {
            (index + 1) * per_block
        } else {
            u64::MAX
        };
        let end = block_end.min((at / CHUNK + 1) * CHUNK).min(counts.end());
        let chunk = counts.chunk(at);
        let len = end - at;
        match stored.block(index) {
            Ok(Block::Absent) if chunk.is_none() => {}
            Ok(Block::Absent) => segment(stored, counts, at..end, None, fix, recorder, &mut result),
            Ok(Block::At(block)) => {
                let bits = stored.geometry.width.bits();
                // Segments start at a multiple of 64 clusters, so at a whole byte.
                let from = block.saturating_add(at % per_block * bits / 8);
                match words.load(from, (len * bits).div_ceil(8)) {
                    Ok(None) if chunk.is_none() => {}
                    Ok(bytes) => {
                        segment(stored, counts, at..end, bytes, fix, recorder, &mut result)
                    }
                    Err(_) => recorder.unreadable_refcounts(at, inside(at, len)),
                }
            }
            Ok(Block::Unusable(offset)) => {
                let told = stored.complained || stored.geometry.is_aligned(offset);
                if !told {
                    stored.complained = true;
                    recorder.tell(Told::BlockUnaligned { offset, index });
                }
                recorder.unreadable_refcounts(at, inside(at, len));
            }
            Err(_) => recorder.unreadable_refcounts(at, inside(at, len)),
        }
        at = end;
    }
    result
}

/// Compares a range of clusters, all in one chunk; `bytes` are their stored counts.
fn segment(
    stored: &Stored<'_>,
    counts: &Counts,
    range: Range<u64>,
    bytes: Option<&[u8]>,
    fix: Fix,
    recorder: &mut Recorder<'_>,
    result: &mut Compared,
) {
    let (first, len) = (range.start, range.end - range.start);
    let slot = to_usize((first - counts.start()) % CHUNK);
    let mut done = 0;
    if let (16, Some(Chunk::Narrow(slots)), Some(bytes)) =
        (stored.geometry.width.bits(), counts.chunk(first), bytes)
    {
        done = alike(
            slots.get(slot..).unwrap_or_default(),
            bytes,
            len,
            first,
            result,
        );
    }
    if done == len {
        return;
    }
    let width = stored.geometry.width;
    let block = bytes.map(|bytes| RefcountBlock::from_bytes(bytes.to_vec(), width));
    for n in done..len {
        let cluster = first + n;
        let count = counts.get(cluster);
        let refcount = block.as_ref().map_or(0, |block| block.get(n));
        // What is stored for clusters behind the file matters only if they are referred to.
        if cluster >= stored.geometry.clusters && count.references == 0 {
            continue;
        }
        let excess = count.references.saturating_sub(width.max());
        if excess > 0 && fix == Fix::Nothing {
            result.overflow = result.overflow.saturating_add(excess);
            let offset = cluster << stored.geometry.cluster_bits;
            recorder.add_times(&Finding::RefcountOverflow { offset }, excess);
        }
        let references = count.references.min(width.max());
        if refcount > 0 || references > 0 {
            result.highest = cluster;
        }
        let stays = fix.leaves(refcount, references);
        if refcount != references {
            result.rebuild |= refcount == 0;
            let finding = if refcount > references {
                Finding::Leak {
                    cluster,
                    refcount,
                    references,
                }
            } else {
                Finding::RefcountTooLow {
                    cluster,
                    refcount,
                    references,
                }
            };
            if stays == refcount {
                recorder.add(&finding);
            } else {
                recorder.mended(&finding, 1);
            }
        }
        let wrong = if stays == 1 {
            count.flag_clear
        } else {
            count.flag_set
        };
        result.flags |= wrong;
    }
}

/// How many leading clusters have nothing wrong with them: the common case, made fast.
fn alike(slots: &[u16], bytes: &[u8], len: u64, first: u64, result: &mut Compared) -> u64 {
    let mut done = 0;
    // Eight clusters at once, as long as each is used once.
    let ones = u128::from_ne_bytes([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
    let groups = slots.chunks_exact(8).zip(bytes.chunks_exact(16));
    for (slots, bytes) in groups.take(to_usize(len / 8)) {
        let once = slots
            .iter()
            .fold(0, |all, slot| all | (slot & !NARROW_SET ^ 1))
            == 0;
        let stored = bytes.try_into().map(u128::from_ne_bytes).ok();
        if !once || stored != Some(ones) {
            break;
        }
        done += 8;
    }
    if done > 0 {
        result.highest = first + done - 1;
    }
    let rest = slots.iter().zip(bytes.chunks_exact(2));
    for (slot, bytes) in rest.take(to_usize(len)).skip(to_usize(done)) {
        let refcount = match bytes {
            [high, low] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        };
        let fine = match refcount {
            0 => *slot == 0,
            1 => *slot & !NARROW_SET == 1,
            n => *slot & !NARROW_CLEAR == n,
        };
        if !fine {
            break;
        }
        done += 1;
        if refcount > 0 {
            result.highest = first + done - 1;
        }
    }
    done
}
