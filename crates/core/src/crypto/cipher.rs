//! Encrypting and decrypting sectors.

use super::block::{self, Blocks};
use super::hash;
use crate::error::Result;
use crate::source::{ReadAt, read_padded};
use backchain_format::bytes::{align_down, align_up, to_u64, to_usize};
use backchain_format::luks::{self, Algorithm, CipherSpec, IvGenerator, Mode};
use std::fmt;
use std::io;

/// Bytes that are encrypted together.
pub const SECTOR: u64 = luks::SECTOR;
const SECTOR_LEN: usize = 512;
/// Bytes of the longest block.
const MAX_BLOCK: usize = 16;

/// A cipher with its key: turns sectors into guest bytes and back.
///
/// Every sector has an initialisation vector made from its number. Offsets here are those that
/// the numbers are counted from: `Image::iv_offset` says which they are for an image.
pub struct Cipher {
    spec: CipherSpec,
    blocks: Box<dyn Blocks>,
    /// The second key of XTS.
    tweaks: Option<Box<dyn Blocks>>,
    /// The cipher of ESSIV, and the bytes of its blocks.
    essiv: Option<(Box<dyn Blocks>, usize)>,
}

impl Cipher {
    /// Gives a cipher its key, which is [`CipherSpec::key_len`] bytes long.
    ///
    /// # Errors
    /// *Invalid* for a key of another length, *unsupported* for parts that do not go together.
    pub fn new(spec: CipherSpec, key: &[u8]) -> Result<Self> {
        spec.check()?;
        let algorithm = spec.algorithm;
        let (data_key, tweaks) = match spec.mode {
            Mode::Xts => {
                let (data, tweak) = key.split_at(key.len() / 2);
                (data, Some(block::new(algorithm, tweak)?))
            }
            _ => (key, None),
        };
        let essiv = match spec.iv {
            IvGenerator::Essiv => {
                let (algorithm, hash) = spec.essiv()?;
                let key = hash::digest(hash, key)?;
                Some((block::new(algorithm, &key)?, algorithm.block_len()))
            }
            _ => None,
        };
        Ok(Self {
            spec,
            blocks: block::new(algorithm, data_key)?,
            tweaks,
            essiv,
        })
    }

    /// The method of old qcow2 images: AES-128-CBC, with the first 16 bytes of the passphrase
    /// as the key.
    pub fn legacy_aes(passphrase: &[u8]) -> Result<Self> {
        let mut key = zeroize::Zeroizing::new([0; 16]);
        for (byte, given) in key.iter_mut().zip(passphrase) {
            *byte = *given;
        }
        let spec = CipherSpec {
            algorithm: Algorithm::Aes(128),
            mode: Mode::Cbc,
            iv: IvGenerator::Plain64,
            iv_hash: None,
        };
        Self::new(spec, key.as_slice())
    }

    /// How it encrypts.
    pub fn spec(&self) -> CipherSpec {
        self.spec
    }

    /// Encrypts whole sectors in place; the first one is at `offset`, a multiple of
    /// [`SECTOR`]. Bytes behind the last whole sector stay as they are.
    pub fn encrypt(&self, offset: u64, bytes: &mut [u8]) {
        self.each(offset, bytes, Self::encrypt_sector);
    }

    /// Decrypts whole sectors in place. See [`Self::encrypt`].
    pub fn decrypt(&self, offset: u64, bytes: &mut [u8]) {
        self.each(offset, bytes, Self::decrypt_sector);
    }

    fn each(&self, offset: u64, bytes: &mut [u8], work: fn(&Self, u64, &mut [u8; SECTOR_LEN])) {
        let (sectors, _) = bytes.as_chunks_mut::<SECTOR_LEN>();
        let mut number = offset / SECTOR;
        for sector in sectors {
            work(self, number, sector);
            number = number.wrapping_add(1);
        }
    }

    /// Fills `buf` with the decrypted bytes that are at `src` of `source`, where `src` is
    /// `offset` for the vectors. Nothing needs to be aligned; past the end of the file there
    /// are (encrypted) zeros.
    pub fn read(
        &self,
        source: &dyn ReadAt,
        src: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> io::Result<()> {
        let skip = offset - align_down(offset, SECTOR);
        let len = to_u64(buf.len());
        if skip == 0 && len.is_multiple_of(SECTOR) {
            read_padded(source, src, buf)?;
            self.decrypt(offset, buf);
            return Ok(());
        }
        let whole = align_up(skip.saturating_add(len), SECTOR).unwrap_or(u64::MAX);
        let mut sectors = vec![0; to_usize(whole)];
        read_padded(source, src.saturating_sub(skip), &mut sectors)?;
        self.decrypt(offset - skip, &mut sectors);
        let start = to_usize(skip);
        if let Some(wanted) = sectors.get(start..start + buf.len()) {
            buf.copy_from_slice(wanted);
        }
        Ok(())
    }

    /// The initialisation vector of a sector, zeros behind its number.
    fn vector(&self, number: u64) -> [u8; MAX_BLOCK] {
        let mut vector = [0; MAX_BLOCK];
        let number = match self.spec.iv {
            IvGenerator::Plain => number & u64::from(u32::MAX),
            _ => number,
        };
        let (start, _) = vector.split_at_mut(8);
        start.copy_from_slice(&number.to_le_bytes());
        if let Some((cipher, len)) = &self.essiv {
            let (block, _) = vector.split_at_mut(*len);
            cipher.encrypt(block);
        }
        vector
    }

    fn encrypt_sector(&self, number: u64, sector: &mut [u8; SECTOR_LEN]) {
        match self.spec.mode {
            Mode::Ecb => self.blocks.encrypt(sector),
            Mode::Cbc => {
                let len = self.spec.algorithm.block_len();
                let mut before = self.vector(number);
                for block in sector.chunks_exact_mut(len) {
                    xor(block, &before);
                    self.blocks.encrypt(block);
                    let (start, _) = before.split_at_mut(len);
                    start.copy_from_slice(block);
                }
            }
            Mode::Xts => {
                let tweaks = self.tweaks(number);
                xor(sector, &tweaks);
                self.blocks.encrypt(sector);
                xor(sector, &tweaks);
            }
            Mode::Ctr => self.count(number, sector),
        }
    }

    fn decrypt_sector(&self, number: u64, sector: &mut [u8; SECTOR_LEN]) {
        match self.spec.mode {
            Mode::Ecb => self.blocks.decrypt(sector),
            Mode::Cbc => {
                // What each block is to be combined with: the one before it, as stored.
                let len = self.spec.algorithm.block_len();
                let mut before = [0; SECTOR_LEN];
                let (first, rest) = before.split_at_mut(len);
                let vector = self.vector(number);
                first.copy_from_slice(vector.get(..len).unwrap_or_default());
                rest.copy_from_slice(sector.get(..SECTOR_LEN - len).unwrap_or_default());
                self.blocks.decrypt(sector);
                xor(sector, &before);
            }
            Mode::Xts => {
                let tweaks = self.tweaks(number);
                xor(sector, &tweaks);
                self.blocks.decrypt(sector);
                xor(sector, &tweaks);
            }
            Mode::Ctr => self.count(number, sector),
        }
    }

    /// The tweak of every block of a sector (IEEE 1619): each is the one before it times x.
    fn tweaks(&self, number: u64) -> [u8; SECTOR_LEN] {
        let mut tweak = self.vector(number);
        if let Some(cipher) = &self.tweaks {
            cipher.encrypt(&mut tweak);
        }
        let mut value = u128::from_le_bytes(tweak);
        let mut tweaks = [0; SECTOR_LEN];
        let (blocks, _) = tweaks.as_chunks_mut::<MAX_BLOCK>();
        for block in blocks {
            *block = value.to_le_bytes();
            let carry = value >> 127;
            value = (value << 1) ^ (carry * 0x87);
        }
        tweaks
    }

    /// Counter mode: the vector is a big-endian number that counts blocks.
    fn count(&self, number: u64, sector: &mut [u8; SECTOR_LEN]) {
        let len = self.spec.algorithm.block_len();
        let vector = self.vector(number);
        let mut stream = [0; SECTOR_LEN];
        let mut value = u128::from_be_bytes(vector) >> (8 * (MAX_BLOCK - len));
        for block in stream.chunks_exact_mut(len) {
            let bytes = value.to_be_bytes();
            block.copy_from_slice(bytes.get(MAX_BLOCK - len..).unwrap_or_default());
            value = value.wrapping_add(1);
        }
        self.blocks.encrypt(&mut stream);
        xor(sector, &stream);
    }
}

fn xor(bytes: &mut [u8], with: &[u8]) {
    for (byte, with) in bytes.iter_mut().zip(with) {
        *byte ^= with;
    }
}

impl fmt::Debug for Cipher {
    /// Never shows a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Cipher({}, {})",
            self.spec.algorithm,
            self.spec.mode_field()
        )
    }
}
