//! Guest bytes: cheap to make, different at every place, often equal between layers on purpose.

use crate::rng::{Rng, mix};
use backchain_format::bytes::to_u64;

/// Fills `buf`, the bytes from guest offset `at` on, in the style drawn from `rng`: unique to
/// this image, or what any other image would have there too (rebase compares by content), or
/// zeros stored as data, or noise in part.
pub(super) fn fill(buf: &mut [u8], at: u64, rng: &mut Rng) {
    match rng.below(8) {
        0 => buf.fill(0),
        1 | 2 => pattern(buf, at, 0x5eed),
        3 => {
            pattern(buf, at, rng.word());
            let noisy = buf.len() / 3;
            rng.fill(&mut buf[..noisy]);
        }
        _ => pattern(buf, at, rng.word()),
    }
}

/// One word for each sector, and now and then a sector of zeros.
fn pattern(buf: &mut [u8], at: u64, tag: u64) {
    for (index, sector) in buf.chunks_mut(512).enumerate() {
        let word = mix(tag ^ (at / 512 + to_u64(index)).wrapping_mul(0x9e37_79b9));
        if word.is_multiple_of(9) {
            sector.fill(0);
            continue;
        }
        let word = word.to_le_bytes();
        for chunk in sector.chunks_mut(8) {
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
