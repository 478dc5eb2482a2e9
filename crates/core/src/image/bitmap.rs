//! The bits of one persistent bitmap, a cluster of them at a time.

use super::Qcow2;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{Source, read_padded};
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{BitmapDirectoryEntry, ClusterSize};
use std::ops::Range;

/// The host offset in an entry of a bitmap's table.
pub(crate) const HOST: u64 = 0x00ff_ffff_ffff_fe00;
/// A table entry without a host offset for a chunk of ones; 0 is one of zeros.
pub(crate) const ALL_ONES: u64 = 1;

/// A bitmap of an image as it is stored: its table in memory, its bits in the file.
#[derive(Clone)]
pub struct BitmapBits {
    source: Source,
    cluster: ClusterSize,
    /// Bytes of the disk.
    size: u64,
    granularity_bits: u8,
    table: Vec<u64>,
}

/// The part of a bitmap that one cluster holds or would hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// No bit is set.
    Zeros,
    /// Every bit is set, those behind the end of the disk included.
    Ones,
    /// The bits; bit 0 is the least significant one of byte 0.
    Bits(Vec<u8>),
}

impl BitmapBits {
    /// Reads the table of a bitmap of `image`, whose file is `source`. Fails when it is not as
    /// long as the disk makes it or does not lie within the file.
    pub fn open(source: &Source, image: &Qcow2, entry: &BitmapDirectoryEntry) -> Result<Self> {
        let header = &image.head.header;
        let mut bits = Self::blank(source, header.cluster, header.size, entry.granularity_bits);
        let needed = chunks(header.cluster, entry.granularity_bits, header.size);
        let corrupt = |what: String| Error::new(ErrorKind::Corrupt, what);
        if u64::from(entry.table_entries) != needed {
            return Err(corrupt(format!(
                "the table of bitmap '{}' has {} entries instead of {needed}",
                entry.name, entry.table_entries
            )));
        }
        let len = needed * 8;
        let end = entry.table.0.checked_add(len);
        if end.is_none_or(|end| end > source.len()) {
            return Err(corrupt(format!(
                "the table of bitmap '{}' is past the end of the file",
                entry.name
            )));
        }
        if needed > BitmapDirectoryEntry::MAX_BYTES >> header.cluster.bits() {
            return Err(corrupt(format!(
                "the table of bitmap '{}' has {needed} entries: more than {} bytes of bits",
                entry.name,
                BitmapDirectoryEntry::MAX_BYTES
            )));
        }
        let mut bytes = vec![0; to_usize(len)];
        read_padded(source.as_ref(), entry.table.0, &mut bytes)?;
        bits.table = words(&bytes);
        Ok(bits)
    }

    /// A bitmap of zeros for a disk of `size` bytes that is not stored anywhere yet.
    pub(crate) fn blank(
        source: &Source,
        cluster: ClusterSize,
        size: u64,
        granularity_bits: u8,
    ) -> Self {
        Self {
            source: source.clone(),
            cluster,
            size,
            granularity_bits,
            table: Vec::new(),
        }
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// log2 of the bytes that one bit stands for.
    pub fn granularity_bits(&self) -> u8 {
        self.granularity_bits
    }

    /// Entries of the table.
    pub fn len(&self) -> u64 {
        chunks(self.cluster, self.granularity_bits, self.size)
    }

    /// Whether it is the bitmap of a disk without a byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Guest bytes that one chunk stands for.
    pub fn span(&self) -> u64 {
        span(self.cluster, self.granularity_bits)
    }

    /// The table entry of chunk `index`; 0 when there is none.
    pub(crate) fn entry(&self, index: u64) -> u64 {
        self.table.get(to_usize(index)).copied().unwrap_or(0)
    }

    /// The host offset of the cluster with chunk `index`.
    pub(crate) fn host(&self, index: u64) -> Option<u64> {
        Some(self.entry(index) & HOST).filter(|&host| host != 0)
    }

    /// Reads chunk `index`.
    pub fn chunk(&self, index: u64) -> Result<Chunk> {
        let Some(host) = self.host(index) else {
            return Ok(if self.entry(index) & ALL_ONES != 0 {
                Chunk::Ones
            } else {
                Chunk::Zeros
            });
        };
        let inside = host.checked_add(self.cluster.bytes());
        if !self.cluster.is_aligned(host) || inside.is_none() || host >= self.source.len() {
            let message = format!("bits of a bitmap at {host:#x} are misplaced");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let mut bytes = vec![0; to_usize(self.cluster.bytes())];
        read_padded(self.source.as_ref(), host, &mut bytes)?;
        Ok(Chunk::Bits(bytes))
    }

    /// Calls `dirty` with the parts of the guest range that the bitmap says are dirty, in order.
    /// Ranges are cut at `range` and at the end of the disk.
    pub fn dirty(
        &self,
        range: Range<u64>,
        dirty: &mut dyn FnMut(Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let end = range.end.min(self.size);
        let mut pos = range.start;
        while pos < end {
            let index = pos / self.span();
            let first = index.saturating_mul(self.span());
            let stop = end.min(first.saturating_add(self.span()));
            match self.chunk(index)? {
                Chunk::Zeros => {}
                Chunk::Ones => dirty(pos..stop)?,
                Chunk::Bits(bytes) => {
                    let bits = u32::from(self.granularity_bits);
                    for run in runs(&bytes) {
                        let from = first.saturating_add(run.start << bits).max(pos);
                        let to = first.saturating_add(run.end << bits).min(stop);
                        if from < to {
                            dirty(from..to)?;
                        }
                    }
                }
            }
            pos = stop;
        }
        Ok(())
    }
}

/// Guest bytes that one cluster of bits stands for.
pub(crate) fn span(cluster: ClusterSize, granularity_bits: u8) -> u64 {
    // At most 2^(21 + 3 + 31).
    (cluster.bytes() * 8) << granularity_bits
}

/// Table entries of a bitmap for a disk of `size` bytes.
pub(crate) fn chunks(cluster: ClusterSize, granularity_bits: u8, size: u64) -> u64 {
    size.div_ceil(span(cluster, granularity_bits))
}

/// Big-endian words.
pub(crate) fn words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|word| be64(word, 0).unwrap_or(0))
        .collect()
}

/// Runs of set bits, in order; long runs may come in pieces.
fn runs(bytes: &[u8]) -> impl Iterator<Item = Range<u64>> {
    let mut at = 0usize;
    std::iter::from_fn(move || {
        let rest = bytes.get(at / 8..)?;
        let first = *rest.first()? & (0xff << (at % 8));
        if first == 0 {
            let skip = rest.iter().skip(1).position(|&byte| byte != 0)?;
            at = (at / 8 + 1 + skip) * 8;
        }
        let byte = *bytes.get(at / 8)? & (0xff << (at % 8));
        let start = at / 8 * 8 + to_usize(u64::from(byte.trailing_zeros()));
        at = start;
        while let Some(&byte) = bytes.get(at / 8) {
            if at.is_multiple_of(8) && byte == 0xff {
                at += 8;
            } else if byte >> (at % 8) & 1 == 1 {
                at += 1;
            } else {
                break;
            }
        }
        Some(to_u64(start)..to_u64(at))
    })
}

/// Sets bits `first` to `last`; bit 0 is the least significant one of byte 0.
pub(crate) fn set_bits(bytes: &mut [u8], first: u64, last: u64) {
    let mut bit = first;
    while bit <= last {
        let Some(byte) = bytes.get_mut(to_usize(bit / 8)) else {
            return;
        };
        if bit.is_multiple_of(8) && last - bit >= 7 {
            *byte = 0xff;
            bit += 8;
        } else {
            *byte |= 1 << (bit % 8);
            bit += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(bytes: &[u8]) -> Vec<bool> {
        (0..bytes.len() * 8)
            .map(|n| bytes[n / 8] >> (n % 8) & 1 == 1)
            .collect()
    }

    #[test]
    fn ranges_of_bits_are_set_and_nothing_beside_them() {
        for first in 0..20u64 {
            for last in first..24 {
                let mut bytes = [0u8; 3];
                set_bits(&mut bytes, first, last);
                let want: Vec<bool> = (0..24).map(|n| (first..=last).contains(&n)).collect();
                assert_eq!(bits(&bytes), want);
            }
        }
    }

    #[test]
    fn runs_are_all_that_is_set() {
        for seed in 0..2000u32 {
            let mut word = seed.wrapping_mul(0x9e37_79b9);
            let bytes: Vec<u8> = (0..12)
                .map(|_| {
                    word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    match word >> 28 {
                        0..=5 => 0,
                        6..=10 => 0xff,
                        _ => word.to_be_bytes()[1],
                    }
                })
                .collect();
            let mut back = vec![0; 12];
            let mut end = 0;
            for run in runs(&bytes) {
                assert!(run.start >= end && run.start < run.end);
                end = run.end;
                set_bits(&mut back, run.start, run.end - 1);
            }
            assert_eq!(back, bytes);
        }
    }
}
