//! L1 table entries.

use super::OFFSET_MASK;
use crate::{FormatError, HostOffset};

const COPIED: u64 = 1 << 63;

/// One 8-byte L1 entry: where an L2 table is (spec: "Cluster mapping").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L1Entry {
    /// The L2 table; `None` when nothing below it is allocated.
    pub table: Option<HostOffset>,
    /// The table's refcount is exactly one.
    pub copied: bool,
}

impl L1Entry {
    /// The copied flag in the entry.
    pub const COPIED: u64 = COPIED;
    /// Bytes of an entry.
    pub const LEN: u64 = 8;

    /// Reads an entry found at byte `at` of the file; reserved bits must be zero.
    pub fn from_bits(bits: u64, at: u64) -> Result<Self, FormatError> {
        if bits & !(OFFSET_MASK | COPIED) != 0 {
            return Err(FormatError::corrupt(
                at,
                format!("L1 entry {bits:#x} has reserved bits set"),
            ));
        }
        let host = bits & OFFSET_MASK;
        Ok(Self {
            table: (host != 0).then_some(HostOffset(host)),
            copied: bits & COPIED != 0,
        })
    }

    /// The entry's eight bytes as a number.
    pub fn to_bits(self) -> u64 {
        match self.table {
            Some(host) => host.0 | if self.copied { COPIED } else { 0 },
            None => 0,
        }
    }
}
