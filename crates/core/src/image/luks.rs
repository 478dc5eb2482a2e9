//! A LUKS volume as an image: a header with key material, and behind it the encrypted disk.

use crate::crypto::LuksArea;
use crate::error::Result;
use crate::extent::{Extent, Place};
use crate::source::ReadAt;
use backchain_format::{HostOffset, raw};

/// A LUKS volume whose header was read.
#[derive(Debug, Clone)]
pub struct Luks {
    /// The header.
    pub area: LuksArea,
    /// Virtual size in bytes: what the file has behind the header, in whole sectors.
    pub size: u64,
}

impl Luks {
    /// Reads the header at the start of the file.
    pub fn open(source: &dyn ReadAt) -> Result<Self> {
        let area = LuksArea::read(source, 0)?;
        let len = raw::virtual_size(source.len());
        let size = len.saturating_sub(area.header.payload_offset);
        Ok(Self { area, size })
    }

    /// Where the encrypted disk starts in the file.
    pub fn payload(&self) -> u64 {
        self.area.header.payload_offset
    }

    /// All of it is data: what is a hole in the file is not zeros.
    pub(super) fn extent(&self, pos: u64) -> Option<Extent> {
        let len = self.size.checked_sub(pos).filter(|&len| len > 0)?;
        let host = HostOffset(self.payload().saturating_add(pos));
        Some(Extent {
            start: pos,
            len,
            place: Place::Data { host },
        })
    }
}
