//! LUKS volumes: unlocking one with a passphrase, and making the header of a new one.

use super::cipher::Cipher;
use super::hash::pbkdf2;
use super::split;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{ReadAt, read_padded};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::luks::{
    ALIGNMENT, Algorithm, CipherSpec, HEADER_LEN, HashName, Header, IvGenerator, KeySlot, Mode,
    SLOTS, STRIPES,
};
use std::fmt;
use std::sync::Arc;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The key that encrypts the data of a volume; passphrases only encrypt this key.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<Vec<u8>>);

impl MasterKey {
    /// Gives it to its cipher.
    pub fn cipher(&self, spec: CipherSpec) -> Result<Cipher> {
        Cipher::new(spec, &self.0)
    }
}

impl fmt::Debug for MasterKey {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

/// 32 random bytes, from which everything random in a header is derived: the engine itself is
/// deterministic. Use every seed once.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed(pub [u8; 32]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

/// What a seed grows into: the stream of AES-256 in counter mode.
pub(super) struct Random {
    cipher: Cipher,
    at: u64,
}

impl Random {
    pub(super) fn new(seed: &Seed) -> Result<Self> {
        let spec = CipherSpec {
            algorithm: Algorithm::Aes(256),
            mode: Mode::Ctr,
            iv: IvGenerator::Plain64,
            iv_hash: None,
        };
        Ok(Self {
            cipher: Cipher::new(spec, &seed.0)?,
            at: 0,
        })
    }

    /// Fills `out`; no byte of the stream is used twice.
    pub(super) fn fill(&mut self, out: &mut [u8]) {
        let len = to_u64(out.len()).next_multiple_of(super::SECTOR);
        let mut stream = Zeroizing::new(vec![0; to_usize(len)]);
        self.cipher.encrypt(self.at, &mut stream);
        self.at += len;
        for (byte, random) in out.iter_mut().zip(stream.iter()) {
            *byte = *random;
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }
}

/// How a new volume is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LuksOptions {
    /// How sectors are encrypted.
    pub cipher: CipherSpec,
    /// The hash of the passphrase's stretching.
    pub hash: HashName,
    /// Iterations of it for the first key slot.
    pub slot_iterations: u32,
    /// Iterations for the digest of the master key.
    pub digest_iterations: u32,
}

/// A volume that is just being made: everything up to its payload, and the key.
#[derive(Debug, Clone)]
pub struct Volume {
    /// The header, at 0.
    pub area: LuksArea,
    /// Header and key material as stored.
    pub bytes: Vec<u8>,
    /// The cipher of its data.
    pub cipher: Arc<Cipher>,
}

impl Volume {
    /// Header and key material up to the last byte that is not zero.
    pub fn used(&self) -> &[u8] {
        let end = self.bytes.iter().rposition(|&byte| byte != 0);
        self.bytes
            .get(..end.map_or(0, |at| at + 1))
            .unwrap_or_default()
    }
}

impl PartialEq for Volume {
    fn eq(&self, other: &Self) -> bool {
        // The key is in there.
        self.bytes == other.bytes
    }
}

impl Eq for Volume {}

/// A LUKS header with its key material, somewhere in a file.
#[derive(Debug, Clone)]
pub struct LuksArea {
    /// The header.
    pub header: Header,
    /// Where it is in the file, in bytes.
    pub at: u64,
}

impl LuksArea {
    /// Reads the header at `at` of a file.
    pub fn read(source: &dyn ReadAt, at: u64) -> Result<Self> {
        let available = source.len().saturating_sub(at).min(HEADER_LEN);
        let mut bytes = vec![0; to_usize(available)];
        source.read_exact_at(at, &mut bytes)?;
        let header = Header::from_bytes(&bytes, at)?;
        Ok(Self { header, at })
    }

    /// Looks for the key slot that `passphrase` opens. Every slot is tried, as slow as its
    /// iterations make it.
    ///
    /// # Errors
    /// *Locked* when it opens none of them.
    pub fn unlock(&self, source: &dyn ReadAt, passphrase: &[u8]) -> Result<(usize, MasterKey)> {
        for number in 0..SLOTS {
            if let Some(key) = self.try_slot(source, number, passphrase)? {
                return Ok((number, key));
            }
        }
        let message = "Invalid password, cannot unlock any keyslot";
        Err(Error::new(ErrorKind::Locked, message).with_qemu(message))
    }

    /// The master key, if `passphrase` opens this slot.
    pub fn try_slot(
        &self,
        source: &dyn ReadAt,
        number: usize,
        passphrase: &[u8],
    ) -> Result<Option<MasterKey>> {
        let header = &self.header;
        let Some(slot) = header.slots.get(number).filter(|slot| slot.active) else {
            return Ok(None);
        };
        let mut material = Zeroizing::new(vec![0; to_usize(header.key_material_len())]);
        read_padded(
            source,
            self.at.saturating_add(slot.key_offset),
            &mut material,
        )?;
        let cipher = slot_cipher(header, slot, passphrase)?;
        cipher.decrypt(0, &mut material);
        let len = header.cipher.key_len();
        let used = len * to_usize(u64::from(slot.stripes));
        let material = material.get(..used).unwrap_or_default();
        let key = split::merge(header.hash, material, len)?;
        let digest = digest(header, &key)?;
        Ok((digest == header.digest).then_some(MasterKey(key)))
    }

    /// A new volume that `passphrase` opens.
    pub fn create(options: &LuksOptions, passphrase: &[u8], seed: &Seed) -> Result<Volume> {
        let mut random = Random::new(seed)?;
        let cipher = options.cipher;
        cipher.check()?;
        let mut key = Zeroizing::new(vec![0; cipher.key_len()]);
        random.fill(&mut key);
        let step = slot_step(cipher);
        let slot = |number: u64| KeySlot {
            active: false,
            iterations: 0,
            salt: [0; 32],
            key_offset: ALIGNMENT + number * step,
            stripes: STRIPES,
        };
        let mut header = Header {
            cipher,
            hash: options.hash,
            payload_offset: payload_offset(cipher),
            digest: [0; 20],
            digest_salt: random.array(),
            digest_iterations: options.digest_iterations.max(1),
            uuid: uuid(random.array()),
            slots: [0, 1, 2, 3, 4, 5, 6, 7].map(slot),
        };
        header.digest = digest(&header, &key)?;
        let mut area = Self { header, at: 0 };
        let key = MasterKey(key);
        let (at, material) =
            area.fill_slot(0, &key, passphrase, options.slot_iterations, &mut random)?;
        let mut bytes = area.header.to_bytes();
        bytes.resize(to_usize(area.header.payload_offset), 0);
        let start = to_usize(at);
        if let Some(place) = bytes.get_mut(start..start + material.len()) {
            place.copy_from_slice(&material);
        }
        let cipher = Arc::new(key.cipher(cipher)?);
        Ok(Volume {
            area,
            bytes,
            cipher,
        })
    }

    /// Puts the master key into slot `number` under `passphrase`. Returns the key material and
    /// where it goes, in bytes from the start of the header; the header has to be written
    /// behind it.
    pub(super) fn fill_slot(
        &mut self,
        number: usize,
        key: &MasterKey,
        passphrase: &[u8],
        iterations: u32,
        random: &mut Random,
    ) -> Result<(u64, Vec<u8>)> {
        let (hash, len) = (self.header.hash, self.header.cipher.key_len());
        let padded = to_usize(self.header.key_material_len());
        let Some(slot) = self.header.slots.get_mut(number) else {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("there is no key slot {number}, they are 0 to {}", SLOTS - 1),
            ));
        };
        slot.active = true;
        slot.salt = random.array();
        slot.iterations = iterations.max(1);
        let slot = slot.clone();
        let mut material = Zeroizing::new(vec![0; len * to_usize(u64::from(slot.stripes))]);
        random.fill(&mut material);
        split::split(hash, &key.0, &mut material)?;
        material.resize(padded, 0);
        slot_cipher(&self.header, &slot, passphrase)?.encrypt(0, &mut material);
        Ok((slot.key_offset, material.to_vec()))
    }
}

/// Bytes from the key material of one slot to that of the next, in a new header.
fn slot_step(cipher: CipherSpec) -> u64 {
    let material = to_u64(cipher.key_len()) * u64::from(STRIPES);
    material.next_multiple_of(ALIGNMENT)
}

/// Bytes in front of the data of a new volume.
pub fn payload_offset(cipher: CipherSpec) -> u64 {
    ALIGNMENT + to_u64(SLOTS) * slot_step(cipher)
}

/// The cipher of a slot's key material.
fn slot_cipher(header: &Header, slot: &KeySlot, passphrase: &[u8]) -> Result<Cipher> {
    let mut key = Zeroizing::new(vec![0; header.cipher.key_len()]);
    pbkdf2(
        header.hash,
        passphrase,
        &slot.salt,
        slot.iterations,
        &mut key,
    )?;
    Cipher::new(header.cipher, &key)
}

fn digest(header: &Header, key: &[u8]) -> Result<[u8; 20]> {
    let mut digest = [0; 20];
    let (salt, iterations) = (&header.digest_salt, header.digest_iterations);
    pbkdf2(header.hash, key, salt, iterations, &mut digest)?;
    Ok(digest)
}

/// A random UUID (version 4) as text.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (n, byte) in bytes.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(cipher: &str, mode: &str, key: u32, hash: HashName) -> LuksOptions {
        LuksOptions {
            cipher: CipherSpec::parse(cipher, mode, key).unwrap(),
            hash,
            slot_iterations: 10,
            digest_iterations: 10,
        }
    }

    /// Whatever the algorithms, what was made opens with its passphrase and no other.
    #[test]
    fn a_new_volume_opens_with_its_passphrase_only() {
        for (number, (cipher, mode, key, hash)) in (0u8..).zip([
            ("aes", "xts-plain64", 64, HashName::Sha256),
            ("aes", "xts-plain", 48, HashName::Sha1),
            ("aes", "cbc-essiv:sha256", 16, HashName::Sha512),
            ("aes", "xts-essiv:sha256", 32, HashName::Sha224),
            ("twofish", "cbc-plain64", 24, HashName::Ripemd160),
            ("serpent", "ctr-plain", 32, HashName::Sm3),
            ("cast5", "cbc-essiv:md5", 16, HashName::Md5),
            ("serpent", "ecb-plain64", 16, HashName::Sha384),
        ]) {
            let options = options(cipher, mode, key, hash);
            let volume = LuksArea::create(&options, b"right", &Seed([number; 32])).unwrap();
            let bytes = volume.bytes;
            let area = LuksArea::read(&bytes, 0).unwrap();
            let (slot, found) = area.unlock(&bytes, b"right").unwrap();
            assert_eq!(slot, 0);
            let error = area.unlock(&bytes, b"wrong").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Locked);

            let cipher = found.cipher(area.header.cipher).unwrap();
            let plain: Vec<u8> = (0..2048u32).map(|n| n.to_le_bytes()[0]).collect();
            let mut data = plain.clone();
            volume.cipher.encrypt(1 << 41, &mut data);
            assert_ne!(data, plain);
            let mut part = [0; 700];
            cipher.read(&data, 300, (1 << 41) + 300, &mut part).unwrap();
            assert_eq!(part, plain[300..1000]);
            cipher.decrypt(1 << 41, &mut data);
            assert_eq!(data, plain);
        }
    }

    /// The same seed gives the same header; another one shares nothing with it.
    #[test]
    fn everything_random_comes_from_the_seed() {
        let options = options("aes", "xts-plain64", 32, HashName::Sha256);
        let make = |seed| LuksArea::create(&options, b"x", &Seed([seed; 32])).unwrap();
        let (first, again, other) = (make(1), make(1), make(2));
        assert_eq!(first, again);
        let (a, b) = (first.area.header, other.area.header);
        assert_ne!(a.uuid, b.uuid);
        assert_ne!(a.digest_salt, b.digest_salt);
        assert_ne!(a.slots[0].salt, b.slots[0].salt);
    }
}
