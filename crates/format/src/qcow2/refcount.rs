//! Refcount tables and blocks.

use super::{ClusterSize, OFFSET_MASK};
use crate::bytes::{to_u64, to_usize};
use crate::{FormatError, HostOffset};

/// The width of a refcount in bits: 1 << order, order 0 to 6. Version 2 always has 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefcountWidth {
    order: u32,
}

impl RefcountWidth {
    /// 16 bits: all of version 2, and QEMU's default.
    pub const DEFAULT: Self = Self { order: 4 };

    /// From the header's `refcount_order`; `None` above 6.
    pub const fn from_order(order: u32) -> Option<Self> {
        if order <= 6 {
            Some(Self { order })
        } else {
            None
        }
    }

    /// From a width of 1, 2, 4, 8, 16, 32 or 64 bits.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits.is_power_of_two() && bits <= 64 {
            Some(Self {
                order: bits.trailing_zeros(),
            })
        } else {
            None
        }
    }

    /// The header's `refcount_order`.
    pub const fn order(self) -> u32 {
        self.order
    }

    /// The width in bits.
    pub const fn bits(self) -> u64 {
        1 << self.order
    }

    /// The largest refcount that can be stored.
    pub const fn max(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// Refcounts in one block, which is one cluster: also the number of clusters it covers.
    pub const fn per_block(self, cluster: ClusterSize) -> u64 {
        cluster.bytes() * 8 / self.bits()
    }
}

/// One 8-byte entry of the refcount table: where a refcount block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefcountTableEntry(pub Option<HostOffset>);

impl RefcountTableEntry {
    /// Bytes of an entry.
    pub const LEN: u64 = 8;

    /// Reads an entry found at byte `at`; bits 0 to 8 are reserved.
    pub fn from_bits(bits: u64, at: u64) -> Result<Self, FormatError> {
        if bits & 0x1ff != 0 {
            let message = format!("refcount table entry {bits:#x} has reserved bits set");
            return Err(FormatError::corrupt(at, message));
        }
        let host = bits & !0x1ff;
        if host & !OFFSET_MASK != 0 {
            let message = format!("refcount block offset {host:#x} is beyond 2^56");
            return Err(FormatError::corrupt(at, message));
        }
        Ok(Self((host != 0).then_some(HostOffset(host))))
    }

    /// The entry's eight bytes as a number.
    pub fn to_bits(self) -> u64 {
        self.0.map_or(0, |host| host.0)
    }
}

/// A refcount block in memory: counts packed at the image's width.
///
/// Widths under 8 bits are packed from the least significant bit of each byte up; wider ones
/// are big-endian (spec: "Refcount block entry").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefcountBlock {
    bytes: Vec<u8>,
    width: RefcountWidth,
}

impl RefcountBlock {
    /// A block of zeros.
    pub fn new(cluster: ClusterSize, width: RefcountWidth) -> Self {
        Self {
            bytes: vec![0; to_usize(cluster.bytes())],
            width,
        }
    }

    /// Takes the bytes of a block as read.
    pub fn from_bytes(bytes: Vec<u8>, width: RefcountWidth) -> Self {
        Self { bytes, width }
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Refcounts in this block.
    pub fn len(&self) -> u64 {
        to_u64(self.bytes.len()) * 8 / self.width.bits()
    }

    /// Whether the block covers nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether every count in the block is zero.
    pub fn is_zero(&self) -> bool {
        self.bytes.iter().all(|&b| b == 0)
    }

    /// The count at `index`; zero beyond the end.
    pub fn get(&self, index: u64) -> u64 {
        let bits = self.width.bits();
        if bits < 8 {
            let bit = index * bits;
            let byte = self.bytes.get(to_usize(bit / 8)).copied().unwrap_or(0);
            return u64::from(byte) >> (bit % 8) & self.width.max();
        }
        let len = to_usize(bits / 8);
        let at = to_usize(index.saturating_mul(bits / 8));
        let bytes = self
            .bytes
            .get(at..at.saturating_add(len))
            .unwrap_or_default();
        bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b))
    }

    /// Stores `count` at `index`. Returns false, changing nothing, when the count is too large
    /// for the width or the index is beyond the end.
    #[must_use]
    pub fn set(&mut self, index: u64, count: u64) -> bool {
        let bits = self.width.bits();
        if count > self.width.max() || index >= self.len() {
            return false;
        }
        if bits < 8 {
            let bit = index * bits;
            let Some(byte) = self.bytes.get_mut(to_usize(bit / 8)) else {
                return false;
            };
            let shift = bit % 8;
            // The count fits in `bits` < 8 bits, so its low byte is all of it.
            let [.., low] = count.to_be_bytes();
            let [.., mask] = self.width.max().to_be_bytes();
            *byte = *byte & !(mask << shift) | low << shift;
            return true;
        }
        let len = to_usize(bits / 8);
        let at = to_usize(index * (bits / 8));
        let source = count.to_be_bytes();
        let Some(target) = self.bytes.get_mut(at..at + len) else {
            return false;
        };
        let (_, tail) = source.split_at(8 - len);
        target.copy_from_slice(tail);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_stores_its_largest_count_beside_untouched_neighbours() {
        let cluster = ClusterSize::from_bits(9).unwrap();
        for order in 0..=6 {
            let width = RefcountWidth::from_order(order).unwrap();
            let mut block = RefcountBlock::new(cluster, width);
            assert_eq!(block.len(), width.per_block(cluster));
            assert!(block.set(3, width.max()));
            assert_eq!(
                (block.get(2), block.get(3), block.get(4)),
                (0, width.max(), 0)
            );
            assert!(block.set(3, 0) && block.is_zero());
            let last = block.len() - 1;
            assert!(block.set(last, 1) && block.get(last) == 1);
            assert!(!block.set(block.len(), 1));
            if order < 6 {
                assert!(!block.set(0, width.max() + 1));
            }
        }
    }

    #[test]
    fn narrow_counts_start_at_the_least_significant_bit() {
        let block =
            RefcountBlock::from_bytes(vec![0b0000_0110], RefcountWidth::from_order(0).unwrap());
        assert_eq!([0, 1, 2, 3].map(|i| block.get(i)), [0, 1, 1, 0]);
    }
}
