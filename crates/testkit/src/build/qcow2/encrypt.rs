//! Encryption: one LUKS header for all images, and the guest's bytes encrypted in place.

use backchain::chain::Secret;
use backchain::crypto::{LuksArea, LuksOptions, Seed, Volume};
use backchain_format::bytes::to_usize;
use backchain_format::luks::{CipherSpec, HashName};
use std::sync::LazyLock;

/// Passphrase of every encrypted image.
const PASSPHRASE: &[u8] = b"of the testkit";

static VOLUME: LazyLock<Volume> = LazyLock::new(|| {
    let options = LuksOptions {
        cipher: CipherSpec::parse("aes", "xts-plain64", 32).expect("a cipher"),
        hash: HashName::Sha256,
        slot_iterations: 1,
        digest_iterations: 1,
    };
    LuksArea::create(&options, PASSPHRASE, &Seed([7; 32])).expect("a header")
});

/// The passphrase of every encrypted image.
pub fn passphrase() -> Secret {
    Secret::new(PASSPHRASE)
}

/// The bytes of the header: as far as they are used, and as if the payload were elsewhere, so
/// that it is short.
pub(super) fn header() -> Vec<u8> {
    let mut header = VOLUME.area.header.clone();
    let end = header.slots[0].key_offset + header.key_material_len();
    header.payload_offset = 0;
    let mut bytes = VOLUME.bytes[..to_usize(end)].to_vec();
    let head = header.to_bytes();
    bytes[..head.len()].copy_from_slice(&head);
    bytes
}

/// Encrypts what is at offset `host` of an image.
pub(super) fn encrypt(host: u64, bytes: &mut [u8]) {
    VOLUME.cipher.encrypt(host, bytes);
}
