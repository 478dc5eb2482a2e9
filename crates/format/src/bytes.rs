//! Reading big-endian numbers out of slices without panicking, and the few conversions
//! between widths that the crates need.

/// The `u16` at byte `at`, if there are two bytes.
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(array(bytes, at)?))
}

/// The `u32` at byte `at`, if there are four bytes.
pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(array(bytes, at)?))
}

/// The `u64` at byte `at`, if there are eight bytes.
pub fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(array(bytes, at)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Widens a length in memory. Lossless: no supported target has pointers wider than 64 bits.
pub const fn to_u64(n: usize) -> u64 {
    n as u64
}

/// Narrows a length that fits in memory; `usize::MAX` (which no buffer can have) otherwise, so
/// that a later bounds check fails instead of silently seeing a small number.
pub fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// `n` rounded up to a multiple of `unit`, a power of two; `None` beyond 2^64.
pub fn align_up(n: u64, unit: u64) -> Option<u64> {
    Some(n.checked_add(unit - 1)? & !(unit - 1))
}

/// `n` rounded down to a multiple of `unit`, a power of two.
pub fn align_down(n: u64, unit: u64) -> u64 {
    n & !(unit - 1)
}

/// Whether there is nothing but zeros, looked at word by word: whole files go through this.
pub fn all_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let any = |block: &[u8; 64]| {
        let (words, _) = block.as_chunks::<8>();
        words
            .iter()
            .fold(0, |any, word| any | u64::from_ne_bytes(*word))
            != 0
    };
    !blocks.iter().any(any) && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_not_all_zero() {
        let mut bytes = vec![0; 200];
        assert!(all_zero(&bytes) && all_zero(&[]));
        for at in 0..200 {
            bytes[at] = 1;
            assert!(!all_zero(&bytes), "byte {at}");
            bytes[at] = 0;
        }
    }

    #[test]
    fn numbers_are_read_only_where_all_their_bytes_exist() {
        let bytes = [0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(be32(&bytes, 4), Some(2));
        assert_eq!(be64(&bytes, 0), Some(0x1_0000_0002));
        assert_eq!(be64(&bytes, 1), None);
        assert_eq!(be32(&bytes, usize::MAX), None);
    }

    #[test]
    fn rounding_up_reports_overflow() {
        assert_eq!(align_up(513, 512), Some(1024));
        assert_eq!(align_up(u64::MAX, 512), None);
        assert_eq!(align_down(1023, 512), 512);
    }
}
