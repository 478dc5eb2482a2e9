//! The header itself: which cipher, which slots, where the payload is.

use super::{CipherSpec, HEADER_LEN, HashName, MAGIC, MAX_ITERATIONS, SECTOR, SLOTS, STRIPES};
use crate::FormatError;
use crate::bytes::{be64, to_u64, to_usize};
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Marks of a key slot that opens, and of one that does not.
const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct RawSlot {
    active: U32,
    iterations: U32,
    salt: [u8; 32],
    key_offset: U32,
    stripes: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 6],
    version: U16,
    cipher: [u8; 32],
    mode: [u8; 32],
    hash: [u8; 32],
    payload_offset: U32,
    key_bytes: U32,
    digest: [u8; 20],
    digest_salt: [u8; 32],
    digest_iterations: U32,
    uuid: [u8; 40],
    slots: [RawSlot; SLOTS],
}

/// One of the eight places where the master key can be, encrypted with a passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// It opens with some passphrase.
    pub active: bool,
    /// Iterations of PBKDF2 from passphrase to slot key; 1 to [`MAX_ITERATIONS`] when active.
    pub iterations: u32,
    /// Salt of the same.
    pub salt: [u8; 32],
    /// Where the key material is, in bytes from the start of the header.
    pub key_offset: u64,
    /// Anti-forensic stripes: [`STRIPES`].
    pub stripes: u32,
}

/// A validated header: names are known, key material lies between header and payload and does
/// not overlap, and no derivation takes more than [`MAX_ITERATIONS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// How sectors are encrypted.
    pub cipher: CipherSpec,
    /// The hash of PBKDF2 and of the anti-forensic splitter.
    pub hash: HashName,
    /// Where the encrypted data starts, in bytes from the start of the header.
    pub payload_offset: u64,
    /// Digest of the master key: tells whether a passphrase was the right one.
    pub digest: [u8; 20],
    /// Salt of the digest.
    pub digest_salt: [u8; 32],
    /// Iterations of the digest; 1 to [`MAX_ITERATIONS`].
    pub digest_iterations: u32,
    /// A UUID as text, at most 40 bytes.
    pub uuid: String,
    /// The key slots.
    pub slots: [KeySlot; SLOTS],
}

impl Header {
    /// Reads a header. `at` is where it is in the file, for errors.
    ///
    /// # Errors
    /// *Truncated*, *unsupported* for other versions, ciphers or hashes, *corrupt* for the rest.
    pub fn from_bytes(bytes: &[u8], at: u64) -> Result<Self, FormatError> {
        let known = bytes.get(..to_usize(HEADER_LEN));
        let raw = known.and_then(|known| RawHeader::read_from_bytes(known).ok());
        let Some(raw) = raw else {
            return Err(FormatError::truncated(at, "the LUKS header is cut off"));
        };
        Self::validate(&raw).map_err(|mut error| {
            error.offset = error.offset.saturating_add(at);
            // They are QEMU's words, but for the place.
            let words = error.message.clone();
            error.as_qemu(words)
        })
    }

    fn validate(raw: &RawHeader) -> Result<Self, FormatError> {
        if raw.magic != MAGIC {
            return Err(FormatError::corrupt(0, "Volume is not in LUKS format"));
        }
        if raw.version.get() != 1 {
            let message = format!("LUKS version {} is not supported", raw.version);
            return Err(FormatError::unsupported(6, message));
        }
        let name = text(&raw.cipher, 8, "LUKS header cipher name")?;
        let mode = text(&raw.mode, 40, "LUKS header cipher mode")?;
        let hash = text(&raw.hash, 72, "LUKS header hash spec")?;
        let digest = "LUKS key";
        iterations(raw.digest_iterations.get(), 164, digest)?;
        let mut slots = Vec::with_capacity(SLOTS);
        for (number, slot) in raw.slots.iter().enumerate() {
            slots.push(slot_from(slot, number)?);
        }
        let Ok(slots) = <[KeySlot; SLOTS]>::try_from(slots) else {
            return Err(FormatError::corrupt(
                208,
                "a LUKS header has eight key slots",
            ));
        };
        let payload_offset = u64::from(raw.payload_offset.get()) * SECTOR;
        check_places(&slots, material_len(raw.key_bytes.get()), payload_offset)?;
        let cipher = CipherSpec::parse(&name, &mode, raw.key_bytes.get())?;
        let hash = hash.parse().map_err(|()| {
            FormatError::unsupported(72, format!("Hash algorithm '{hash}' not supported"))
        })?;
        Ok(Self {
            cipher,
            hash,
            payload_offset,
            digest: raw.digest,
            digest_salt: raw.digest_salt,
            digest_iterations: raw.digest_iterations.get(),
            // Only shown: what is not text is not worth refusing the image.
            uuid: until_nul(&raw.uuid),
            slots,
        })
    }

    /// Bytes of the key material of one slot, whole sectors.
    pub fn key_material_len(&self) -> u64 {
        material_len(u32::try_from(self.cipher.key_len()).unwrap_or(u32::MAX))
    }

    /// The header as stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let sectors = |bytes: u64| U32::new(u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX));
        let raw = RawHeader {
            magic: MAGIC,
            version: U16::new(1),
            cipher: field(self.cipher.algorithm.family()),
            mode: field(&self.cipher.mode_field()),
            hash: field(self.hash.name()),
            payload_offset: sectors(self.payload_offset),
            key_bytes: U32::new(u32::try_from(self.cipher.key_len()).unwrap_or(u32::MAX)),
            digest: self.digest,
            digest_salt: self.digest_salt,
            digest_iterations: U32::new(self.digest_iterations),
            uuid: field(&self.uuid),
            slots: self.slots.each_ref().map(|slot| RawSlot {
                active: U32::new(if slot.active { ENABLED } else { DISABLED }),
                iterations: U32::new(slot.iterations),
                salt: slot.salt,
                key_offset: sectors(slot.key_offset),
                stripes: U32::new(slot.stripes),
            }),
        };
        raw.as_bytes().to_vec()
    }
}

/// Bytes of the key material of a slot for keys of `key_bytes` bytes, whole sectors.
fn material_len(key_bytes: u32) -> u64 {
    (u64::from(key_bytes) * u64::from(STRIPES)).next_multiple_of(SECTOR)
}

/// Key material must be behind the header, before the payload, and each in its own place.
fn check_places(slots: &[KeySlot; SLOTS], len: u64, payload: u64) -> Result<(), FormatError> {
    for (number, slot) in slots.iter().enumerate() {
        let at = slot_at(number) + 40;
        let start = slot.key_offset;
        if start < HEADER_LEN.next_multiple_of(SECTOR) {
            let message = format!("Keyslot {number} is overlapping with the LUKS header");
            return Err(FormatError::corrupt(at, message));
        }
        // A payload offset of 0 is a detached header, whose payload is elsewhere.
        if payload != 0 && start + len > payload {
            let message = format!("Keyslot {number} is overlapping with the encrypted payload");
            return Err(FormatError::corrupt(at, message));
        }
        for (other, slot) in slots.iter().enumerate().skip(number + 1) {
            if start < slot.key_offset + len && slot.key_offset < start + len {
                let message =
                    format!("Keyslots {number} and {other} are overlapping in the header");
                return Err(FormatError::corrupt(at, message));
            }
        }
    }
    Ok(())
}

/// Where the fields of a key slot are, in bytes from the start of the header; the first four say
/// whether it opens.
pub fn slot_place(number: usize) -> std::ops::Range<u64> {
    slot_at(number)..slot_at(number + 1)
}

fn slot_at(number: usize) -> u64 {
    208 + 48 * to_u64(number)
}

fn slot_from(raw: &RawSlot, number: usize) -> Result<KeySlot, FormatError> {
    let at = slot_at(number);
    let active = match raw.active.get() {
        ENABLED => true,
        DISABLED => false,
        _ => {
            let message = format!("Keyslot {number} state (active/disable) is corrupted");
            return Err(FormatError::corrupt(at, message));
        }
    };
    if raw.stripes.get() != STRIPES {
        let message = format!(
            "Keyslot {number} is corrupted (stripes {} != {STRIPES})",
            raw.stripes
        );
        return Err(FormatError::corrupt(at + 44, message));
    }
    if active {
        iterations(raw.iterations.get(), at + 4, &format!("Keyslot {number}"))?;
    }
    Ok(KeySlot {
        active,
        iterations: raw.iterations.get(),
        salt: raw.salt,
        key_offset: u64::from(raw.key_offset.get()) * SECTOR,
        stripes: raw.stripes.get(),
    })
}

fn iterations(count: u32, at: u64, what: &str) -> Result<(), FormatError> {
    if count == 0 {
        let message = format!("{what} iteration count is zero");
        return Err(FormatError::corrupt(at, message));
    }
    if count > MAX_ITERATIONS {
        let message =
            format!("{what} asks for {count} iterations, at most {MAX_ITERATIONS} are carried out");
        return Err(FormatError::unsupported(at, message));
    }
    Ok(())
}

fn until_nul(field: &[u8]) -> String {
    let text = field.split(|&b| b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn text(field: &[u8], at: u64, what: &str) -> Result<String, FormatError> {
    if field.contains(&0) {
        return Ok(until_nul(field));
    }
    let message = format!("{what} is not NUL terminated");
    Err(FormatError::corrupt(at, message))
}

/// A field of `N` bytes with `text` in it, cut off before a last NUL.
fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    for (byte, text) in field.iter_mut().take(N - 1).zip(text.bytes()) {
        *byte = text;
    }
    field
}

/// qcow2's pointer to the LUKS header it keeps: the header extension 0x0537be77.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderPointer {
    /// Where the header starts in the image file; a multiple of the cluster size.
    pub offset: u64,
    /// Bytes of header and key material.
    pub len: u64,
}

impl HeaderPointer {
    /// Reads the extension's data.
    pub fn from_bytes(data: &[u8]) -> Result<Self, FormatError> {
        match (be64(data, 0), be64(data, 8), data.len()) {
            (Some(offset), Some(len), 16) => Ok(Self { offset, len }),
            (_, _, n) => {
                let message =
                    format!("the encryption header extension has {n} bytes, 16 are needed");
                Err(FormatError::corrupt(0, message))
            }
        }
    }

    /// The extension's data.
    pub fn to_bytes(self) -> Vec<u8> {
        [self.offset.to_be_bytes(), self.len.to_be_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let cipher = CipherSpec::parse("aes", "xts-plain64", 64).unwrap();
        let slot = |number: u64| KeySlot {
            active: number == 0,
            iterations: 1000,
            salt: [1; 32],
            key_offset: 4096 + number * 258_048,
            stripes: STRIPES,
        };
        Header {
            cipher,
            hash: HashName::Sha256,
            payload_offset: 2_068_480,
            digest: [2; 20],
            digest_salt: [3; 32],
            digest_iterations: 1000,
            uuid: "d0e1befa-df3e-448c-95bf-beddb63feb48".to_owned(),
            slots: [0, 1, 2, 3, 4, 5, 6, 7].map(slot),
        }
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let header = header();
        let bytes = header.to_bytes();
        assert_eq!(to_u64(bytes.len()), HEADER_LEN);
        assert_eq!(Header::from_bytes(&bytes, 0).unwrap(), header);
    }

    /// Every field that could make a reader run away is checked.
    #[test]
    fn hostile_fields_are_refused() {
        let bytes = header().to_bytes();
        let changed = |at: usize, with: [u8; 4]| {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&with);
            Header::from_bytes(&bytes, 4096)
        };
        for at in [
            0,        // magic
            5,        // version
            104,      // payload offset: key material behind it
            108,      // key bytes
            164,      // digest iterations
            208,      // slot state
            212,      // slot iterations
            248,      // key material over itself
            252,      // stripes
            208 + 48, // state of the second slot
        ] {
            let with = if at == 104 {
                [0, 0, 0, 9]
            } else {
                [0xff, 0xff, 0xff, 0xfe]
            };
            let error = changed(at, with).unwrap_err();
            assert!(error.offset >= 4096, "{error}");
        }
        assert!(changed(164, [0; 4]).is_err(), "no iterations at all");
        assert!(changed(248, [0, 0, 0, 1]).is_err(), "in the header");
        assert!(Header::from_bytes(&bytes[..591], 0).is_err());
        for at in 8..104 {
            let _ = changed(at, [0xff; 4]);
        }
    }
}
