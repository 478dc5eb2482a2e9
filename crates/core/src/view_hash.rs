//! Hashing what a guest sees: whether two chains, or one before and after a change, show the
//! same disk.
//!
//! A hash is over the guest's bytes, however they are stored: unallocated clusters, zero
//! clusters and written zeros give the same digest.

use crate::chain::{Chain, ChainExtent, ChainExtents, Reader};
use crate::error::Result;
use backchain_format::bytes::{align_down, all_zero, to_u64, to_usize};
use std::fmt;

/// Bytes of the unit in which [`Over::Data`] tells zeros from data.
pub const BLOCK: u64 = 4096;

/// Bytes read at once: slow sources need large reads.
const WINDOW: u64 = 4 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Sets digests of [`Over::Data`] apart from all others.
const CONTEXT: &str = "backchain 2026-11 guest view: blocks that are not zero";

/// What of a guest view is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Every byte: BLAKE3 of the raw disk. `qemu-img convert -O raw` and `b3sum` come to the
    /// same. Takes its time for every byte of the disk's virtual size.
    Bytes,
    /// The blocks of 4 KiB that are not all zeros, each behind its number, and at the end the
    /// length of the disk, as 64-bit little-endian integers. A last block that is cut off is
    /// filled up with zeros. It takes only as long as there is data.
    Data,
}

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    /// As `b3sum` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A hash under way.
pub struct ViewHash {
    reader: Reader,
    extents: ChainExtents,
    now: Option<ChainExtent>,
    pos: u64,
    len: u64,
    over: Over,
    hasher: Box<blake3::Hasher>,
    window: Vec<u8>,
}

impl ViewHash {
    /// Hashes the first `len` bytes of the disk that `chain` shows, all of it when `None`.
    /// Behind its end are zeros.
    ///
    /// # Errors
    /// When an image of the chain cannot be read.
    pub fn new(chain: &Chain, len: Option<u64>, over: Over) -> Result<Self> {
        let len = len.unwrap_or_else(|| chain.virtual_size());
        let hasher = match over {
            Over::Bytes => blake3::Hasher::new(),
            Over::Data => blake3::Hasher::new_derive_key(CONTEXT),
        };
        Ok(Self {
            extents: chain.extents_to(0, len)?,
            reader: Reader::new(chain.clone()),
            now: None,
            pos: 0,
            len,
            over,
            hasher: Box::new(hasher),
            window: Vec::new(),
        })
    }

    /// Bytes of the disk that are hashed.
    pub fn done(&self) -> u64 {
        self.pos
    }

    /// Bytes of the disk to be hashed.
    pub fn total(&self) -> u64 {
        self.len
    }

    /// Goes on until about `budget` bytes were read or hashed; false at the end. Zeros that are
    /// skipped count next to nothing.
    ///
    /// # Errors
    /// When an image cannot be read. The hash is of no use then.
    pub fn advance(&mut self, budget: u64) -> Result<bool> {
        let mut left = budget.max(1);
        while self.pos < self.len {
            if left == 0 {
                return Ok(true);
            }
            let zeros = self.zeros()?;
            let cost = if zeros > 0 {
                self.hash_zeros(zeros, left)
            } else {
                self.hash_window(left)?
            };
            left = left.saturating_sub(cost);
        }
        Ok(false)
    }

    /// The digest of what was hashed: that of the disk once [`Self::advance`] has said so.
    pub fn digest(&self) -> Digest {
        let mut hasher = self.hasher.clone();
        if self.over == Over::Data {
            hasher.update(&self.pos.to_le_bytes());
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// Hashes to the end: for disks that are known to be small, and where nobody waits.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn finish(mut self) -> Result<Digest> {
        while self.advance(u64::MAX)? {}
        Ok(self.digest())
    }

    /// How many bytes from here on are known to be zeros: whole blocks, or up to the end.
    fn zeros(&mut self) -> Result<u64> {
        let Some(extent) = self.extent(self.pos)? else {
            return Ok(self.len - self.pos);
        };
        if !extent.place.reads_zero() {
            return Ok(0);
        }
        let end = extent.end().min(self.len);
        let end = if end < self.len {
            align_down(end, BLOCK)
        } else {
            end
        };
        Ok(end.saturating_sub(self.pos))
    }

    /// Hashes some of `zeros` zeros; returns what that cost.
    fn hash_zeros(&mut self, zeros: u64, budget: u64) -> u64 {
        if self.over == Over::Data {
            self.pos += zeros;
            return 1 << 10;
        }
        // Only whole blocks before the end.
        let part = align_down(budget, BLOCK).max(BLOCK);
        let end = self.pos + zeros.min(part);
        let cost = end - self.pos;
        while self.pos < end {
            let n = (end - self.pos).min(to_u64(ZEROS.len()));
            self.hasher
                .update(ZEROS.get(..to_usize(n)).unwrap_or(&ZEROS));
            self.pos += n;
        }
        cost
    }

    /// Reads and hashes what comes next, whatever it is.
    fn hash_window(&mut self, budget: u64) -> Result<u64> {
        let part = align_down(budget, BLOCK).clamp(BLOCK, WINDOW);
        let len = part.min(self.len - self.pos);
        let mut window = std::mem::take(&mut self.window);
        // Blocks are hashed whole.
        window.resize(to_usize(len.next_multiple_of(BLOCK)), 0);
        let (bytes, tail) = window.split_at_mut(to_usize(len));
        tail.fill(0);
        self.fill(bytes)?;
        match self.over {
            Over::Bytes => {
                self.hasher.update(bytes);
            }
            Over::Data => {
                let numbers = self.pos / BLOCK..;
                for (block, number) in window.chunks(to_usize(BLOCK)).zip(numbers) {
                    if !all_zero(block) {
                        self.hasher.update(&number.to_le_bytes());
                        self.hasher.update(block);
                    }
                }
            }
        }
        self.window = window;
        self.pos += len;
        Ok(len)
    }

    /// Fills `buf` with the guest's bytes from here on.
    fn fill(&mut self, buf: &mut [u8]) -> Result<()> {
        let mut pos = self.pos;
        let mut rest = buf;
        while !rest.is_empty() {
            let Some(extent) = self.extent(pos)? else {
                rest.fill(0);
                break;
            };
            let n = (extent.end() - pos).min(to_u64(rest.len()));
            let (now, later) = rest.split_at_mut(to_usize(n));
            self.reader.read_extent(&extent.slice(pos, n), now)?;
            pos += n;
            rest = later;
        }
        Ok(())
    }

    /// The extent at `pos`, which never goes back. `None` behind the last one.
    fn extent(&mut self, pos: u64) -> Result<Option<ChainExtent>> {
        while self.now.is_none_or(|now| now.end() <= pos) {
            match self.extents.next() {
                Some(next) => self.now = Some(next?),
                None => return Ok(None),
            }
        }
        Ok(self.now)
    }
}
