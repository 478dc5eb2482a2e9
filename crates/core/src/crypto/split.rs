//! The anti-forensic splitter: a key spread over so many stripes that destroying any of them
//! destroys it.

use super::hash::digest;
use crate::error::Result;
use backchain_format::luks::HashName;
use zeroize::Zeroizing;

/// Spreads `key` over the stripes of `material`, all of them as long as the key. All stripes
/// but the last are random already.
pub(super) fn split(hash: HashName, key: &[u8], material: &mut [u8]) -> Result<()> {
    let len = key.len();
    let stripes = material.len() / len.max(1);
    let (random, last) = material.split_at_mut(len * stripes.saturating_sub(1));
    let mut block = folded(hash, random, len)?;
    xor(&mut block, key);
    for (byte, value) in last.iter_mut().zip(block.iter()) {
        *byte = *value;
    }
    Ok(())
}

/// The key of `len` bytes that was spread over `material`.
pub(super) fn merge(hash: HashName, material: &[u8], len: usize) -> Result<Zeroizing<Vec<u8>>> {
    let stripes = material.len() / len.max(1);
    let (random, last) = material.split_at(len * stripes.saturating_sub(1));
    let mut block = folded(hash, random, len)?;
    xor(&mut block, last);
    Ok(block)
}

/// All stripes combined, each diffused before the next one.
fn folded(hash: HashName, stripes: &[u8], len: usize) -> Result<Zeroizing<Vec<u8>>> {
    let mut block = Zeroizing::new(vec![0; len]);
    for stripe in stripes.chunks_exact(len.max(1)) {
        xor(&mut block, stripe);
        diffuse(hash, &mut block)?;
    }
    Ok(block)
}

/// Replaces every digest-sized part by the hash of its number and itself.
fn diffuse(hash: HashName, block: &mut [u8]) -> Result<()> {
    for (number, part) in (0u32..).zip(block.chunks_mut(hash.digest_len())) {
        let mut input = Zeroizing::new(number.to_be_bytes().to_vec());
        input.extend_from_slice(part);
        let output = digest(hash, &input)?;
        for (byte, value) in part.iter_mut().zip(output.iter()) {
            *byte = *value;
        }
    }
    Ok(())
}

fn xor(bytes: &mut [u8], with: &[u8]) {
    for (byte, with) in bytes.iter_mut().zip(with) {
        *byte ^= with;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_stripes_and_not_from_damaged_ones() {
        for (hash, len) in [
            (HashName::Sha256, 64),
            (HashName::Sha1, 32),
            (HashName::Sha512, 16),
        ] {
            let key: Vec<u8> = (1..=u8::try_from(len).unwrap()).collect();
            let mut material = vec![7; len * 50];
            split(hash, &key, &mut material).unwrap();
            assert_eq!(*merge(hash, &material, len).unwrap(), key);
            material[3] ^= 1;
            assert_ne!(*merge(hash, &material, len).unwrap(), key);
        }
    }
}
