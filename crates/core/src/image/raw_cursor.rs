//! Extents of a raw image: data and holes, as the file system tells them.

use crate::error::Result;
use crate::extent::{Extent, Place};
use crate::source::Source;
use backchain_format::HostOffset;

pub(super) struct RawCursor {
    source: Source,
    /// Where in the file the disk starts.
    offset: u64,
    /// Bytes of the disk.
    size: u64,
    /// Next byte of the disk.
    pos: u64,
}

impl RawCursor {
    pub(super) fn new(source: Source, offset: u64, size: u64, pos: u64) -> Self {
        Self {
            source,
            offset,
            size,
            pos,
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Extent>> {
        if self.pos >= self.size {
            return Ok(None);
        }
        let start = self.pos;
        let at = self.offset.saturating_add(start);
        let file_len = self.source.len();
        let data = if at < file_len {
            self.source.data_at(at)?
        } else {
            None
        };
        let host = HostOffset(at);
        let zero = Place::Zero { host: Some(host) };
        let (end, place) = match data {
            Some(data) if data.start <= at => (data.end.min(file_len), Place::Data { host }),
            Some(data) => (data.start, zero),
            None => (u64::MAX, zero),
        };
        // A source that reports an empty range must not stop the walk.
        let end = end.saturating_sub(self.offset).clamp(start + 1, self.size);
        self.pos = end;
        Ok(Some(Extent {
            start,
            len: end - start,
            place,
        }))
    }
}
