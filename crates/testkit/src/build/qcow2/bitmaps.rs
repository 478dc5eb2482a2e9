//! Persistent dirty bitmaps.

use super::super::Qcow2Spec;
use super::Shape;
use crate::rng::Rng;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::BitmapDirectoryEntry;

/// One bitmap.
pub(super) struct Bitmap {
    name: String,
    granularity_bits: u8,
    flags: u32,
    pub(super) chunks: Vec<Chunk>,
}

/// The bits that one cluster of the bitmap has or would have.
pub(super) enum Chunk {
    Zeros,
    Ones,
    Bits(Vec<u8>),
}

impl Bitmap {
    /// Up to two bitmaps, where the format has them.
    pub(super) fn random(shape: &Shape, format: &Qcow2Spec, rng: &mut Rng) -> Vec<Self> {
        if !format.bitmaps || !format.v3 {
            return Vec::new();
        }
        let one = |number: u64, rng: &mut Rng| {
            let granularity_bits = 9 + rng.below(5);
            let span = (shape.cluster() * 8) << granularity_bits;
            let chunks = (0..shape.size.div_ceil(span)).map(|_| match rng.below(4) {
                0 => Chunk::Zeros,
                1 => Chunk::Ones,
                _ => {
                    let mut bits = vec![0; to_usize(shape.cluster())];
                    let used = shape
                        .size
                        .div_ceil(8 << granularity_bits)
                        .min(shape.cluster());
                    for byte in bits.iter_mut().take(to_usize(used)) {
                        if rng.chance(1, 4) {
                            *byte = rng.word().to_le_bytes()[0];
                        }
                    }
                    // Bits behind the end of the disk are zero.
                    let last = shape.size.div_ceil(1 << granularity_bits);
                    if to_u64(bits.len()) * 8 > last && !last.is_multiple_of(8) {
                        bits[to_usize(last / 8)] &= (1 << (last % 8)) - 1;
                    }
                    Chunk::Bits(bits)
                }
            });
            let chunks = chunks.collect();
            Self {
                // A long name puts the next entry across the boundary of a sector.
                name: format!("b{number}{}", "-".repeat(to_usize(rng.below(2) * 476))),
                granularity_bits: u8::try_from(granularity_bits).expect("at most 13"),
                flags: match rng.below(5) {
                    0 => 0,
                    1 => BitmapDirectoryEntry::AUTO | BitmapDirectoryEntry::IN_USE,
                    _ => BitmapDirectoryEntry::AUTO,
                },
                chunks,
            }
        };
        (0..1 + rng.below(2))
            .map(|number| one(number, rng))
            .collect()
    }

    /// Bytes of its table.
    pub(super) fn table_len(&self) -> u64 {
        to_u64(self.chunks.len()) * 8
    }

    /// Its entry in the directory.
    pub(super) fn entry(&self, table: u64) -> Vec<u8> {
        let mut out = table.to_be_bytes().to_vec();
        let entries = u32::try_from(self.chunks.len()).expect("a small disk");
        out.extend(entries.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend([1, self.granularity_bits]);
        let name = u16::try_from(self.name.len()).expect("a short name");
        out.extend(name.to_be_bytes());
        out.extend([0; 4]);
        out.extend(self.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }
}

/// Bytes of the directory.
pub(super) fn directory_len(bitmaps: &[Bitmap]) -> u64 {
    to_u64(bitmaps.iter().map(|b| b.entry(0).len()).sum::<usize>())
}
