//! Encrypted images: from a passphrase to a key, and from bytes in a file to guest bytes.
//!
//! All of it is computation: passphrases, random seeds and iteration counts come from the
//! caller. Keys are overwritten when they are dropped.

mod block;
mod cipher;
mod hash;
mod luks;
mod slots;
mod split;

pub use cipher::{Cipher, SECTOR};
pub use hash::pbkdf2;
pub use luks::{LuksArea, LuksOptions, MasterKey, Seed, Volume, payload_offset};
pub use slots::{SlotChange, SlotRequest};
