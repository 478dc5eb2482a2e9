//! LUKS, version 1: the header in front of encrypted data, in a file of its own or inside a
//! qcow2 image.
//!
//! Source: "LUKS On-Disk Format Specification", version 1.2.3, and for the names QEMU's
//! `docs/interop/qcow2.rst`, section "Full disk encryption header pointer".

mod header;
mod spec;

pub use header::{Header, HeaderPointer, KeySlot, slot_place};
pub use spec::{Algorithm, CipherSpec, HashName, IvGenerator, Mode};

/// The first six bytes.
pub const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";

/// Bytes of the header, without key material.
pub const HEADER_LEN: u64 = 592;

/// Key slots of every header.
pub const SLOTS: usize = 8;

/// Anti-forensic stripes of every key slot; the specification's and QEMU's only value.
pub const STRIPES: u32 = 4000;

/// Bytes of a sector: of payload and key material offsets, and of what is encrypted at once.
pub const SECTOR: u64 = 512;

/// Header and key material start at multiples of this many bytes in what is written here, as in
/// what QEMU and cryptsetup write.
pub const ALIGNMENT: u64 = 4096;

/// The longest stretching of a passphrase that is carried out, in iterations of PBKDF2. Ten
/// seconds of the fastest hash on a fast machine are a fifth of it; more would hang, not
/// protect.
pub const MAX_ITERATIONS: u32 = 1 << 28;
