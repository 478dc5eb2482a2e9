//! Where two layers differ: from one difference to the next, or to the one before.

use super::back::Windows;
use crate::chain::{Chain, Reader};
use crate::compare::Comparison;
use crate::error::Result;
use crate::source::{Source, read_padded};
use backchain_format::bytes::{to_u64, to_usize};
use std::ops::Range;

/// What is told apart: bytes of one row are one difference, and so are rows one after the other.
const ROW: u64 = 16;
/// Bytes compared at once.
const PIECE: u64 = 256 << 10;

/// The way to the next stretch of rows (of 16 bytes) that differ, a piece at a time.
pub struct Differences {
    sides: Sides,
    /// The part being compared, and what is left of it.
    window: Option<(Range<u64>, Pieces)>,
    /// Backwards: the parts still to come.
    back: Option<Windows>,
    pos: u64,
    /// The row before `pos` differs.
    inside: bool,
    /// Something in the window had to be read.
    read: bool,
    /// Backwards: where the last stretch within the window begins.
    last: Option<u64>,
    /// Backwards: a stretch that began at or before this byte.
    open: Option<u64>,
    end: u64,
}

// One of each search: a box would save nothing.
#[allow(clippy::large_enum_variant)]
enum Sides {
    Guest(Reader, Reader),
    Host(Source, Source),
}

enum Pieces {
    Guest(Box<Comparison>),
    Host(Range<u64>),
}

impl Differences {
    /// Towards the end: the next stretch that begins behind byte `start` of what the guests see.
    /// One that `start` is in is passed over.
    ///
    /// # Errors
    /// When a layer's tables cannot be read.
    pub fn guest(a: Chain, b: Chain, start: u64, back: bool) -> Result<Self> {
        let end = a.virtual_size().max(b.virtual_size());
        Self::new(
            Sides::Guest(Reader::new(a), Reader::new(b)),
            start,
            end,
            back,
        )
    }

    /// The same for the bytes of two files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn host(a: Source, b: Source, start: u64, back: bool) -> Result<Self> {
        let end = a.len().max(b.len());
        Self::new(Sides::Host(a, b), start, end, back)
    }

    fn new(mut sides: Sides, start: u64, end: u64, back: bool) -> Result<Self> {
        let start = (start / ROW * ROW).min(end);
        let mut inside = false;
        if !back && start < end {
            let row = (end - start).min(ROW);
            let (a, b) = sides.read(start, row)?;
            inside = a != b;
        }
        let window = if back {
            None
        } else {
            Some((start..end, sides.pieces(start..end)?))
        };
        Ok(Self {
            window,
            sides,
            back: back.then(|| Windows::before(start)),
            pos: start,
            inside,
            read: true,
            last: None,
            open: None,
            end,
        })
    }

    /// How far it has come: compared up to here, or down to here.
    pub fn pos(&self) -> u64 {
        self.pos
    }

    /// Bytes of the longer disk or file.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Goes on for a piece. Gives back the first byte of the stretch that was looked for;
    /// `None` inside means: go on; `None` outside: there is none.
    ///
    /// # Errors
    /// When the bytes cannot be read.
    pub fn advance(&mut self) -> Result<Option<Option<u64>>> {
        if self.back.is_some() {
            return self.advance_back();
        }
        let Some((_, pieces)) = &mut self.window else {
            return Ok(None);
        };
        let Some(piece) = self.sides.next_piece(pieces)? else {
            self.pos = self.end;
            return Ok(None);
        };
        let from = self.pos;
        let found = self.compare(&piece, from)?;
        Ok(Some(found.first().copied()))
    }

    fn advance_back(&mut self) -> Result<Option<Option<u64>>> {
        let Some((range, pieces)) = &mut self.window else {
            let Some(windows) = &mut self.back else {
                return Ok(None);
            };
            let Some(range) = windows.next(!self.read) else {
                // The stretch goes back to the first byte.
                return Ok(self.open.take().map(Some));
            };
            self.window = Some((range.clone(), self.sides.pieces(range.clone())?));
            (self.pos, self.read, self.inside, self.last) = (range.start, false, false, None);
            return Ok(Some(None));
        };
        let range = range.clone();
        if let Some(piece) = self.sides.next_piece(pieces)? {
            self.read = true;
            let from = self.pos;
            self.last = self.compare(&piece, from)?.last().copied().or(self.last);
            return Ok(Some(None));
        }
        self.window = None;
        let joined = self.inside && self.pos == range.end;
        self.pos = range.start;
        // A stretch that begins with the window may have begun before it.
        Ok(match (self.open, self.last) {
            (Some(open), _) if !joined => Some(Some(open)),
            (_, Some(last)) if last / ROW * ROW > range.start => Some(Some(last)),
            (_, last) => {
                self.open = last;
                Some(None)
            }
        })
    }

    /// Compares a piece: the first differing byte of every stretch that begins in it. `from` is
    /// where the last piece ended; what lies between is the same on both sides.
    fn compare(&mut self, piece: &Range<u64>, from: u64) -> Result<Vec<u64>> {
        if piece.start > from {
            self.inside = false;
        }
        let mut found = Vec::new();
        let (a, b) = self.sides.read(piece.start, piece.end - piece.start)?;
        let mut at = piece.start;
        while at < piece.end {
            // Rows are counted from the first byte of all, whatever the pieces are.
            let next = (at / ROW + 1).saturating_mul(ROW).min(piece.end);
            let row = to_usize(at - piece.start)..to_usize(next - piece.start);
            let (x, y) = (
                a.get(row.clone()).unwrap_or_default(),
                b.get(row).unwrap_or_default(),
            );
            let differs = x.iter().zip(y).position(|(x, y)| x != y);
            if let Some(by) = differs.filter(|_| !self.inside) {
                found.push(at + to_u64(by));
            }
            self.inside = differs.is_some();
            at = next;
        }
        self.pos = piece.end;
        Ok(found)
    }
}

impl Sides {
    fn read(&mut self, start: u64, len: u64) -> Result<(Vec<u8>, Vec<u8>)> {
        let (mut a, mut b) = (vec![0; to_usize(len)], vec![0; to_usize(len)]);
        match self {
            Sides::Guest(left, right) => {
                left.read_at(start, &mut a)?;
                right.read_at(start, &mut b)?;
            }
            Sides::Host(left, right) => {
                read_padded(left.as_ref(), start, &mut a)?;
                read_padded(right.as_ref(), start, &mut b)?;
            }
        }
        Ok((a, b))
    }

    fn pieces(&self, range: Range<u64>) -> Result<Pieces> {
        Ok(match self {
            Sides::Guest(a, b) => {
                Pieces::Guest(Box::new(Comparison::within(a.chain(), b.chain(), range)?))
            }
            Sides::Host(..) => Pieces::Host(range),
        })
    }

    /// The next range that is not known to be the same on both sides.
    fn next_piece(&self, pieces: &mut Pieces) -> Result<Option<Range<u64>>> {
        match (pieces, self) {
            (Pieces::Guest(comparison), _) => {
                let piece = comparison.next().transpose()?;
                Ok(piece.map(|piece| piece.start..piece.start.saturating_add(piece.len)))
            }
            (Pieces::Host(rest), Sides::Host(a, b)) => {
                if rest.start >= rest.end {
                    return Ok(None);
                }
                let mut start = rest.end;
                for source in [a, b] {
                    if rest.start < source.len()
                        && let Some(data) = source.data_at(rest.start)?
                    {
                        start = start.min(data.start.max(rest.start));
                    }
                }
                let piece = start..start.saturating_add(PIECE).min(rest.end);
                rest.start = piece.end;
                Ok((!piece.is_empty()).then_some(piece))
            }
            (Pieces::Host(_), Sides::Guest(..)) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn walk(a: &Source, b: &Source, start: u64, back: bool) -> Option<u64> {
        let mut way = Differences::host(a.clone(), b.clone(), start, back).unwrap();
        while let Some(hit) = way.advance().unwrap() {
            if hit.is_some() {
                return hit;
            }
        }
        None
    }

    /// There and back again over the same stretches, those across pieces and windows included.
    #[test]
    fn stretches_are_found_both_ways() {
        let a = vec![0_u8; 40 << 20];
        let mut b = a.clone();
        let stretches = [
            (3, 1),
            (1000, 100),
            (to_usize(PIECE) - 40, 80),
            ((16 << 20) - 10, 4096),
            ((24 << 20) - 64, 128),
            ((33 << 20) + 5, 3),
        ];
        for (at, len) in stretches {
            b[at..at + len].fill(7);
        }
        let starts: Vec<u64> = stretches.iter().map(|(at, _)| to_u64(*at)).collect();
        let (a, b): (Source, Source) = (Arc::new(a), Arc::new(b));
        // Row 0 differs: from there on the first stretch is left behind.
        let mut at = 0;
        let mut forwards = Vec::new();
        while let Some(hit) = walk(&a, &b, at, false) {
            forwards.push(hit);
            at = hit;
        }
        assert_eq!(forwards, starts[1..]);
        let mut at = 40 << 20;
        let mut backwards = Vec::new();
        while let Some(hit) = walk(&a, &b, at, true) {
            backwards.push(hit);
            at = hit;
        }
        backwards.reverse();
        assert_eq!(backwards, starts);
        assert_eq!(walk(&a, &a.clone(), 0, false), None);
        assert_eq!(walk(&a, &a.clone(), 40 << 20, true), None);
    }
}
