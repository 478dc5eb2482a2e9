//! On-disk formats of VM disk images: bytes to validated structs and back.
//!
//! This crate does no I/O and knows no chain. Every `from_bytes` takes untrusted bytes and
//! either returns a value whose fields satisfy the specification or an error that says what is
//! wrong, where, and what the limit is. *Unsupported* (a valid image we cannot handle) and
//! *corrupt* (an image that breaks its own specification) are different errors.
//!
//! Sources: QEMU's `docs/interop/qcow2.rst`, the LUKS specification.
#![forbid(unsafe_code)]

pub mod bytes;
mod error;
pub mod luks;
pub mod probe;
pub mod qcow2;
pub mod raw;
mod units;

pub use error::{ErrorKind, FormatError};
pub use probe::{Format, probe};
pub use units::{GuestOffset, HostOffset};
