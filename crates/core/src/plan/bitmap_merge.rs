//! The bits of one chunk of a bitmap, put together from its own and those of others.

use crate::error::Result;
use crate::image::bitmap::set_bits;
use crate::image::{BitmapBits, Chunk};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::ClusterSize;

/// How a bitmap is cut into chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) cluster: ClusterSize,
    pub(super) granularity_bits: u8,
    /// Bytes of the disk.
    pub(super) size: u64,
}

impl Shape {
    /// Guest bytes that one chunk stands for.
    pub(super) fn span(&self) -> u64 {
        crate::image::bitmap::span(self.cluster, self.granularity_bits)
    }

    /// Chunks of the whole bitmap.
    pub(super) fn chunks(&self) -> u64 {
        crate::image::bitmap::chunks(self.cluster, self.granularity_bits, self.size)
    }

    /// Bits of chunk `index` that stand for a part of the disk.
    fn bits(&self, index: u64) -> u64 {
        let start = index.saturating_mul(self.span());
        let bytes = self.size.saturating_sub(start).min(self.span());
        bytes.div_ceil(1 << self.granularity_bits)
    }

    /// `own` as chunk `index`, together with what `sources` say is dirty.
    pub(super) fn merge(&self, index: u64, own: Chunk, sources: &[BitmapBits]) -> Result<Chunk> {
        let start = index.saturating_mul(self.span());
        let end = self.size.min(start.saturating_add(self.span()));
        let mut chunk = own;
        for source in sources {
            source.dirty(start..end, &mut |range| {
                let bytes = match &mut chunk {
                    Chunk::Ones => return Ok(()),
                    Chunk::Bits(bytes) => bytes,
                    zeros => {
                        *zeros = Chunk::Bits(vec![0; to_usize(self.cluster.bytes())]);
                        let Chunk::Bits(bytes) = zeros else {
                            return Ok(());
                        };
                        bytes
                    }
                };
                let bit = |at: u64| (at - start) >> self.granularity_bits;
                set_bits(bytes, bit(range.start), bit(range.end - 1));
                Ok(())
            })?;
        }
        Ok(self.simplest(index, chunk))
    }

    /// The chunk without a cluster of its own where it needs none.
    pub(super) fn simplest(&self, index: u64, chunk: Chunk) -> Chunk {
        let Chunk::Bits(bytes) = chunk else {
            return chunk;
        };
        if bytes.iter().all(|&byte| byte == 0) {
            return Chunk::Zeros;
        }
        let bits = self.bits(index);
        let (whole, rest) = (bits / 8, bits % 8);
        let full = bytes.iter().take(to_usize(whole)).all(|&byte| byte == 0xff);
        let mask = (1u8 << rest) - 1;
        let tail = bytes.get(to_usize(whole)).copied().unwrap_or(0);
        if full && to_u64(bytes.len()) >= whole && tail & mask == mask {
            return Chunk::Ones;
        }
        Chunk::Bits(bytes)
    }
}
