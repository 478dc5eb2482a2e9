//! Searching bytes: in what the guest sees, or in a file as it is.

use crate::chain::{Chain, Reader};
use crate::error::{Error, ErrorKind, Result};
use crate::source::{Source, read_padded};
use backchain_format::bytes::{to_u64, to_usize};

/// Bytes searched at once.
const PIECE: u64 = 1 << 20;

/// Longest text to look for, in bytes.
const MAX_NEEDLE: usize = 4096;

/// A search that goes on a piece at a time.
pub struct Search {
    bytes: Bytes,
    needle: Vec<u8>,
    pos: u64,
    end: u64,
}

enum Bytes {
    Guest(Box<Reader>),
    Host(Source),
}

impl Search {
    /// Searches the guest's view of `chain` from byte `start` on.
    pub fn guest(chain: Chain, needle: Vec<u8>, start: u64) -> Result<Self> {
        let end = chain.virtual_size();
        Self::new(
            Bytes::Guest(Box::new(Reader::new(chain))),
            needle,
            start,
            end,
        )
    }

    /// Searches a file from byte `start` on.
    pub fn host(source: Source, needle: Vec<u8>, start: u64) -> Result<Self> {
        let end = source.len();
        Self::new(Bytes::Host(source), needle, start, end)
    }

    /// Ends at byte `end`, if that is nearer than the end of all.
    #[must_use]
    pub fn until(mut self, end: u64) -> Self {
        self.end = self.end.min(end);
        self
    }

    /// # Errors
    /// For a needle of a length that is not allowed.
    pub(super) fn check(needle: &[u8]) -> Result<()> {
        if needle.is_empty() || needle.len() > MAX_NEEDLE {
            let message = format!(
                "{} bytes to search for, 1 to {MAX_NEEDLE} are allowed",
                needle.len()
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }

    fn new(bytes: Bytes, needle: Vec<u8>, start: u64, end: u64) -> Result<Self> {
        Self::check(&needle)?;
        Ok(Self {
            bytes,
            needle,
            pos: start,
            end,
        })
    }

    /// First byte where the search goes on.
    pub fn pos(&self) -> u64 {
        self.pos.min(self.end)
    }

    /// Where the search ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Searches one more mebibyte of what may be other than zeros. Gives back the offset of the
    /// next hit, if there is one in it; `None` inside means: go on; `None` outside: the end.
    pub fn advance(&mut self) -> Result<Option<Option<u64>>> {
        self.skip_zeros()?;
        let len = to_u64(self.needle.len());
        if self.end < len || self.pos > self.end - len {
            self.pos = self.end;
            return Ok(None);
        }
        // The needle may begin at the last byte of the piece.
        let take = (PIECE + len - 1).min(self.end - self.pos);
        let mut buffer = vec![0; to_usize(take)];
        match &mut self.bytes {
            Bytes::Guest(reader) => reader.read_at(self.pos, &mut buffer)?,
            Bytes::Host(source) => read_padded(source.as_ref(), self.pos, &mut buffer)?,
        }
        if let Some(by) = find(&buffer, &self.needle) {
            let hit = self.pos + to_u64(by);
            self.pos = hit + 1;
            return Ok(Some(Some(hit)));
        }
        self.pos += take - (len - 1);
        Ok(Some(None))
    }

    /// Moves on to where something else than zeros may be: nothing to do for a needle that
    /// begins with a zero, which may begin before the data does.
    fn skip_zeros(&mut self) -> Result<()> {
        if self.needle.first() == Some(&0) || self.pos >= self.end {
            return Ok(());
        }
        match &self.bytes {
            Bytes::Guest(reader) => {
                let mut extents = reader.chain().extents(self.pos)?;
                let data = extents.find(|e| e.as_ref().map_or(true, |e| !e.place.reads_zero()));
                self.pos = match data.transpose()? {
                    Some(extent) => extent.start.max(self.pos),
                    None => self.end,
                };
            }
            Bytes::Host(source) => {
                let data = source.data_at(self.pos)?;
                self.pos = data.map_or(self.end, |data| data.start.max(self.pos));
            }
        }
        Ok(())
    }
}

/// The first place of `needle` in `hay`.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(rest) = hay.get(from..) {
        let by = rest.iter().position(|&b| b == first)?;
        let at = from + by;
        if hay.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn hits_are_found_across_pieces_and_overlapping_ones_one_by_one() {
        let mut bytes = vec![1u8; to_usize(PIECE) + 10];
        let edge = to_usize(PIECE) - 1;
        bytes[edge..edge + 3].copy_from_slice(b"aaa");
        bytes[5] = b'a';
        let mut search = Search::host(Arc::new(bytes), b"aa".to_vec(), 0).unwrap();
        let mut hits = Vec::new();
        while let Some(hit) = search.advance().unwrap() {
            hits.extend(hit);
        }
        assert_eq!(hits, [PIECE - 1, PIECE]);
        assert!(Search::host(Arc::new(vec![0; 4]), Vec::new(), 0).is_err());
    }
}
