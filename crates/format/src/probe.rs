//! Telling the format of a file from its first bytes.
//!
//! Probing is a security matter: a guest that can write its raw disk can put a qcow2 header at
//! the start of it. Callers must not follow references found in an image whose format was only
//! probed *because nothing else named it* as a backing file (semantics 32).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The formats the engine opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// Bytes of the disk, nothing else.
    Raw,
    /// QEMU copy on write, version 2 and 3.
    Qcow2,
    /// An encrypted volume, LUKS version 1.
    Luks,
}

impl Format {
    /// QEMU's name of the format, as used in headers and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Luks => "luks",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;
    fn from_str(s: &str) -> Result<Self, UnknownFormat> {
        match s {
            "raw" => Ok(Format::Raw),
            "qcow2" => Ok(Format::Qcow2),
            "luks" => Ok(Format::Luks),
            other => Err(UnknownFormat(other.to_owned())),
        }
    }
}

/// A format name that is not one of [`Format`]'s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Unknown driver '{0}'")]
pub struct UnknownFormat(pub String);

/// How many bytes [`probe`] wants to see (fewer are fine for a shorter file).
pub const PROBE_BYTES: usize = 512;

/// What the first bytes of a file say it is. Anything without a known magic is raw.
///
/// Version 1, QEMU's "qcow", counts as qcow2 too: opening it then fails for its version,
/// rather than showing its metadata as the disk.
pub fn probe(head: &[u8]) -> Format {
    let version = crate::bytes::be32(head, 4);
    if head.starts_with(&crate::qcow2::MAGIC) && matches!(version, Some(1..)) {
        Format::Qcow2
    } else if head.starts_with(&crate::luks::MAGIC) && crate::bytes::be16(head, 6) == Some(1) {
        Format::Luks
    } else {
        Format::Raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_magic_with_a_version_is_a_format() {
        assert_eq!(probe(b"QFI\xfb\0\0\0\0"), Format::Raw);
        assert_eq!(probe(b"QFI\xfb\0\0\0\x01"), Format::Qcow2);
        assert_eq!(probe(b"QFI\xfb\0\0\0\x03"), Format::Qcow2);
        assert_eq!(probe(b"QFI\xfb"), Format::Raw);
        assert_eq!(probe(b""), Format::Raw);
        assert_eq!(probe(b"LUKS\xba\xbe\0\x01"), Format::Luks);
        assert_eq!(probe(b"LUKS\xba\xbe\0\x02"), Format::Raw);
    }
}
