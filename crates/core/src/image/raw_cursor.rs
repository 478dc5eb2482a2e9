//! Extents of a raw image: data and holes, as the file system tells them.

use crate::error::Result;
use crate::extent::{Extent, Place};
use crate::source::Source;
use backchain_format::HostOffset;

pub(super) struct RawCursor {
    source: Source,
    size: u64,
    pos: u64,
}

impl RawCursor {
    pub(super) fn new(source: Source, size: u64, pos: u64) -> Self {
        Self { source, size, pos }
    }

    pub(super) fn next(&mut self) -> Result<Option<Extent>> {
        if self.pos >= self.size {
            return Ok(None);
        }
        let start = self.pos;
        let data = if start < self.source.len() {
            self.source.data_at(start)?
        } else {
            None
        };
        let (end, place) = match data {
            Some(data) if data.start <= start => (
                data.end.min(self.source.len()),
                Place::Data {
                    host: HostOffset(start),
                },
            ),
            Some(data) => (
                data.start,
                Place::Zero {
                    host: Some(HostOffset(start)),
                },
            ),
            None => (
                self.size,
                Place::Zero {
                    host: Some(HostOffset(start)),
                },
            ),
        };
        // A source that reports an empty range must not stop the walk.
        let end = end.clamp(start + 1, self.size);
        self.pos = end;
        Ok(Some(Extent {
            start,
            len: end - start,
            place,
        }))
    }
}
