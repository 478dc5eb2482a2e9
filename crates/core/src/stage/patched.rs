//! A file as it would be.

use super::piece::{Piece, Workshop};
use crate::source::{ReadAt, Source};
use backchain_format::bytes::{to_u64, to_usize};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Pieces that are told together as one range of data.
const JOINED: usize = 256;

/// A file as a plan would leave it: a list of where its bytes are. Reading costs a look-up in
/// the list and reading there.
///
/// A file patched again is no deeper than before: its pieces never lie in a patched file, but
/// for compressed clusters that are themselves put together of several.
#[derive(Default)]
pub struct Patched {
    len: u64,
    /// By their first bytes, with their lengths; without overlaps. What lies between is zeros.
    pieces: BTreeMap<u64, (u64, Piece)>,
    workshop: Workshop,
}

impl Patched {
    /// The file `source` as it is.
    pub fn over(source: &Source) -> Self {
        let mut file = Self::default();
        file.copy(source, 0, 0, source.len());
        file.len = source.len();
        file
    }

    /// How many ranges have their bytes in places of their own.
    pub fn pieces(&self) -> u64 {
        to_u64(self.pieces.len())
    }

    /// The file and the offset in it of the `len` bytes from `at` on, when all of them that are
    /// not behind the end are in one.
    pub(super) fn lone(&self, at: u64, len: u64) -> Option<(Source, u64)> {
        let (&start, (size, piece)) = self.pieces.range(..=at).next_back()?;
        let end = at.saturating_add(len).min(self.len);
        match piece {
            // Behind the other file's end there have to be zeros, too.
            Piece::Stored { source, at: host }
                if end <= start + size
                    && (end == at.saturating_add(len) || host + (end - start) == source.len()) =>
            {
                Some((Arc::clone(source), host + (at - start)))
            }
            _ => None,
        }
    }

    /// Puts `len` bytes of another file, from `src` on, at `dst`. Behind its end are zeros.
    pub(super) fn copy(&mut self, from: &Source, src: u64, dst: u64, len: u64) {
        self.zero(dst, len);
        let Some(patched) = from.as_patched() else {
            let len = len.min(from.len().saturating_sub(src));
            let source = Arc::clone(from);
            self.insert(dst, len, Piece::Stored { source, at: src });
            return;
        };
        for (start, len, piece) in patched.slice(src, src.saturating_add(len)) {
            self.insert(dst + (start - src), len, piece);
        }
    }

    /// Puts a piece of `len` bytes at `dst`.
    pub(super) fn put(&mut self, dst: u64, len: u64, piece: Piece) {
        self.zero(dst, len);
        self.insert(dst, len, piece);
    }

    /// Makes `len` bytes from `dst` on zeros. The file gets as long as that.
    pub(super) fn zero(&mut self, dst: u64, len: u64) {
        let end = dst.saturating_add(len);
        self.cut(dst, end);
        self.len = self.len.max(end);
    }

    /// Makes bytes zeros, but the file no longer.
    pub(super) fn discard(&mut self, dst: u64, len: u64) {
        self.cut(dst, dst.saturating_add(len).min(self.len));
    }

    /// Sets the length; new bytes are zeros.
    pub(super) fn set_len(&mut self, len: u64) {
        self.cut(len, u64::MAX);
        self.len = len;
    }

    /// Takes away what there is between two bytes.
    fn cut(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        self.split(start);
        self.split(end);
        // Both ends are between pieces now.
        self.pieces
            .extract_if(start..end, |_, _| true)
            .for_each(drop);
    }

    /// Makes two pieces of one that reaches across `at`.
    fn split(&mut self, at: u64) {
        let Some((&start, (len, piece))) = self.pieces.range_mut(..at).next_back() else {
            return;
        };
        let by = at - start;
        if *len > by {
            let rest = (*len - by, piece.advanced(by));
            *len = by;
            self.pieces.insert(at, rest);
        }
    }

    /// Puts a piece where there is none.
    fn insert(&mut self, at: u64, len: u64, piece: Piece) {
        if len == 0 {
            return;
        }
        if let Some((&start, (size, last))) = self.pieces.range_mut(..at).next_back()
            && start + *size == at
            && last.continues(*size, &piece)
        {
            *size += len;
        } else {
            self.pieces.insert(at, (len, piece));
        }
    }

    /// The parts of pieces between two bytes: where, how long, and what.
    fn slice(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, Piece)> {
        self.from(start).map_while(move |(at, len, piece)| {
            let from = at.max(start);
            let to = (at + len).min(end);
            (from < to).then(|| (from, to - from, piece.advanced(from - at)))
        })
    }

    /// The pieces from the first one that ends behind `start`.
    fn from(&self, start: u64) -> impl Iterator<Item = (u64, u64, &Piece)> {
        let before = self.pieces.range(..start).next_back();
        let before = before.filter(|(at, (len, _))| *at + len > start);
        let pieces = before.into_iter().chain(self.pieces.range(start..));
        pieces.map(|(&at, (len, piece))| (at, *len, piece))
    }
}

impl ReadAt for Patched {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(to_u64(buf.len()));
        let end = end.filter(|&end| end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut rest = buf;
        let mut pos = offset;
        for (at, len, piece) in self.from(offset) {
            if at >= end {
                break;
            }
            let start = at.max(offset);
            let (gap, here) = rest.split_at_mut(to_usize(start - pos));
            gap.fill(0);
            pos = (at + len).min(end);
            let (here, later) = here.split_at_mut(to_usize(pos - start));
            piece.read(start - at, &self.workshop, here)?;
            rest = later;
        }
        rest.fill(0);
        Ok(())
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let mut found: Option<Range<u64>> = None;
        for (nth, (at, len, piece)) in self.from(offset).enumerate() {
            let skip = offset.saturating_sub(at);
            // Data goes on where the next piece begins with data.
            let data = match &found {
                Some(range) if range.end != at || nth >= JOINED => break,
                _ => piece.data(skip..len)?,
            };
            match (&mut found, data) {
                (None, Some(data)) => found = Some(at + data.start..at + data.end),
                (Some(range), Some(data)) if data.start == 0 => range.end = at + data.end,
                (Some(_), _) => break,
                (None, None) => {}
            }
        }
        Ok(found)
    }

    fn as_patched(&self) -> Option<&Patched> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes all over a file, a hundred thousand of them, against an array; each costs about
    /// the same, however many pieces there are.
    #[test]
    fn many_pieces_are_right() {
        const UNIT: u64 = 16;
        let mut bytes: Vec<u8> = (0..8_u8).cycle().take(1 << 22).collect();
        let source: Source = Arc::new(bytes.clone());
        let mut file = Patched::over(&source);
        let units = to_u64(bytes.len()) / UNIT;
        let mut word = 1_u64;
        for round in 0..100_000_u64 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let dst = (word >> 20) % (units - 8) * UNIT;
            let len = (1 + (word >> 50) % 8) * UNIT;
            let (start, end) = (to_usize(dst), to_usize(dst + len));
            match round % 4 {
                0 => {
                    file.zero(dst, len);
                    bytes[start..end].fill(0);
                }
                1 => {
                    let src = (word >> 30) % (units - 8) * UNIT;
                    file.copy(&source, src, dst, len);
                    let from = (0..8_u8).cycle().take(end - start);
                    bytes[start..end].copy_from_slice(&from.collect::<Vec<_>>());
                }
                _ => {
                    let own = vec![u8::try_from(round % 251).unwrap(); end - start];
                    bytes[start..end].copy_from_slice(&own);
                    file.put(dst, len, Piece::held(own));
                }
            }
        }
        assert!(file.pieces() > 50_000);
        let mut read = vec![0xee; bytes.len()];
        file.read_exact_at(0, &mut read).unwrap();
        assert!(read == bytes);
    }

    #[test]
    fn lengths_come_and_go() {
        let source: Source = Arc::new(vec![5_u8; 10]);
        let mut file = Patched::over(&source);
        file.set_len(4);
        file.set_len(8);
        file.copy(&source, 8, 6, 4);
        file.discard(9, 100);
        let mut read = [1; 10];
        file.read_exact_at(0, &mut read).unwrap();
        assert_eq!(read, [5, 5, 5, 5, 0, 0, 5, 5, 0, 0]);
        assert_eq!(file.data_at(5).unwrap(), Some(6..8));
        assert_eq!(file.data_at(8).unwrap(), None);
        assert!(file.read_exact_at(7, &mut [0; 4]).is_err());
    }
}
