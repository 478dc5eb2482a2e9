//! Comparing what two chains show to the guest.
//!
//! Both chains are swept at once. Ranges that come from the same place are equal, and zeros
//! equal zeros, without a byte being read; what is left are [`Piece`]s, which any number of
//! threads can compare, each with its own [`Comparer`].

use crate::chain::{Chain, ChainExtent, ChainExtents, Node, Unpacked};
use crate::error::Result;
use crate::extent::{Extent, Place};
use backchain_format::bytes::{align_down, to_u64, to_usize};
use backchain_format::raw::{self, SECTOR};
use std::sync::Arc;

/// Bytes of a piece at most: both sides of one stay in a processor's own cache.
const PIECE: u64 = 256 << 10;

/// What comparing two chains comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The guest sees the same.
    Identical {
        /// One disk is longer; the rest of it reads as zeros.
        sizes_differ: bool,
    },
    /// The guest sees something else.
    Content {
        /// The first sector (of 512 bytes) that differs, in bytes.
        offset: u64,
        /// It lies behind the end of the shorter disk.
        in_tail: bool,
    },
    /// The sizes differ, which strict comparing does not allow.
    Size,
    /// One chain has data, the other zeros, or one has zeros that the other just lacks, which
    /// strict comparing does not allow.
    Status {
        /// Where that begins, in bytes.
        offset: u64,
    },
}

impl Verdict {
    /// Whether the chains count as the same.
    pub fn is_identical(self) -> bool {
        matches!(self, Verdict::Identical { .. })
    }
}

/// A guest range that two chains take from different places.
#[derive(Debug, Clone)]
pub struct Piece {
    /// First guest byte.
    pub start: u64,
    /// Bytes; at most 256 KiB.
    pub len: u64,
    sides: [Side; 2],
}

/// Where one chain has the bytes of a piece.
#[derive(Debug, Clone)]
struct Side {
    node: Option<Arc<Node>>,
    place: Place,
}

/// A comparison under way: an iterator over the pieces that have to be read, in guest order.
pub struct Comparison {
    sides: [Sweep; 2],
    sizes: [u64; 2],
    strict: bool,
    pos: u64,
    end: u64,
    status: Option<u64>,
}

struct Sweep {
    chain: Chain,
    extents: ChainExtents,
    now: Option<ChainExtent>,
}

impl Sweep {
    fn new(chain: &Chain, start: u64, size: u64) -> Result<Self> {
        Ok(Self {
            chain: chain.clone(),
            extents: chain.extents_to(start, size)?,
            now: None,
        })
    }

    /// The rest from `pos` on of the extent there; `None` at the end.
    fn at(&mut self, pos: u64) -> Result<Option<ChainExtent>> {
        while self.now.is_none_or(|now| now.end() <= pos) {
            match self.extents.next() {
                Some(next) => self.now = Some(next?),
                None => return Ok(None),
            }
        }
        Ok(self.now.map(|now| now.slice(pos, u64::MAX)))
    }

    fn side(&self, extent: &ChainExtent) -> Side {
        let node = extent.depth.and_then(|d| self.chain.layers().get(d));
        Side {
            node: node.cloned(),
            place: extent.place,
        }
    }
}

impl Comparison {
    /// Compares `a` with `b`; `strict`: sizes and allocation too, as `qemu-img compare -s`.
    pub fn new(a: &Chain, b: &Chain, strict: bool) -> Result<Self> {
        // Disks are whole sectors, as in QEMU.
        let sizes = [a, b].map(|chain| raw::virtual_size(chain.virtual_size()));
        let end = sizes[0].max(sizes[1]);
        let stop = if strict && sizes[0] != sizes[1] {
            0
        } else {
            end
        };
        Ok(Self {
            sides: [Sweep::new(a, 0, end)?, Sweep::new(b, 0, end)?],
            sizes,
            strict,
            pos: 0,
            end: stop,
            status: None,
        })
    }

    /// Compares the guest bytes `range` alone, and not strictly.
    pub fn within(a: &Chain, b: &Chain, range: std::ops::Range<u64>) -> Result<Self> {
        let whole = Self::new(a, b, false)?;
        let end = range.end.min(whole.end);
        let start = range.start.min(end);
        Ok(Self {
            sides: [Sweep::new(a, start, end)?, Sweep::new(b, start, end)?],
            pos: start,
            end,
            ..whole
        })
    }

    /// Bytes of the longer disk.
    pub fn size(&self) -> u64 {
        self.sizes[0].max(self.sizes[1])
    }

    /// How far the comparison has come, in bytes.
    pub fn position(&self) -> u64 {
        self.pos
    }

    /// The verdict once all pieces were compared; `mismatch` is the least offset that
    /// [`Comparer::compare`] returned.
    pub fn verdict(&self, mismatch: Option<u64>) -> Verdict {
        let sizes_differ = self.sizes[0] != self.sizes[1];
        match (mismatch, self.status) {
            (None, _) if self.strict && sizes_differ => Verdict::Size,
            (Some(offset), _) => Verdict::Content {
                offset,
                in_tail: offset >= self.sizes[0].min(self.sizes[1]),
            },
            (None, Some(offset)) => Verdict::Status { offset },
            (None, None) => Verdict::Identical { sizes_differ },
        }
    }

    fn pull(&mut self) -> Result<Option<Piece>> {
        while self.pos < self.end {
            let start = self.pos;
            let [a, b] = &mut self.sides;
            let (Some(left), Some(right)) = (a.at(start)?, b.at(start)?) else {
                self.pos = self.end;
                break;
            };
            if self.strict && status(left.place) != status(right.place) {
                self.status = Some(start);
                self.end = start;
                break;
            }
            let len = left.len.min(right.len).min(self.end - start);
            if left.place.reads_zero() && right.place.reads_zero() {
                self.pos = start + len;
                continue;
            }
            let sides = [a.side(&left), b.side(&right)];
            if same_place(&sides) {
                self.pos = start + len;
                continue;
            }
            let len = len.min(PIECE);
            self.pos = start + len;
            return Ok(Some(Piece { start, len, sides }));
        }
        Ok(None)
    }
}

impl Iterator for Comparison {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.pull().transpose();
        if matches!(piece, Some(Err(_))) {
            self.end = self.pos;
        }
        piece
    }
}

/// What strict comparing tells apart.
fn status(place: Place) -> u8 {
    match place {
        Place::Data { .. } => 0,
        Place::Compressed { .. } => 3,
        Place::Zero { .. } => 1,
        Place::BeyondEnd | Place::Unallocated => 2,
    }
}

fn same_place(sides: &[Side; 2]) -> bool {
    let [a, b] = sides;
    match (&a.node, &b.node) {
        (Some(x), Some(y)) => x.key == y.key && a.place == b.place,
        _ => false,
    }
}

/// Compares pieces: buffers and codec state, one for each thread.
#[derive(Default)]
pub struct Comparer {
    sides: [Reading; 2],
}

#[derive(Default)]
struct Reading {
    unpacked: Unpacked,
    buffer: Vec<u8>,
}

impl Reading {
    /// The bytes that one side shows.
    fn fetch(&mut self, side: &Side, piece: &Piece) -> Result<&[u8]> {
        let len = to_usize(piece.len);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let bytes = self.buffer.get_mut(..len).unwrap_or_default();
        match &side.node {
            Some(node) if !side.place.reads_zero() => {
                let extent = Extent {
                    start: piece.start,
                    len: piece.len,
                    place: side.place,
                };
                self.unpacked.read(node, &extent, bytes)?;
            }
            _ => bytes.fill(0),
        }
        Ok(bytes)
    }
}

impl Comparer {
    /// The first sector of `piece` that differs, as a guest offset.
    pub fn compare(&mut self, piece: &Piece) -> Result<Option<u64>> {
        let [left, right] = &mut self.sides;
        let a = left.fetch(&piece.sides[0], piece)?;
        let b = right.fetch(&piece.sides[1], piece)?;
        if a == b {
            return Ok(None);
        }
        let differs = a.iter().zip(b).position(|(a, b)| a != b);
        Ok(differs.map(|at| align_down(piece.start + to_u64(at), SECTOR)))
    }
}

/// Compares two chains in one thread.
pub fn compare(a: &Chain, b: &Chain, strict: bool) -> Result<Verdict> {
    let mut comparison = Comparison::new(a, b, strict)?;
    let mut comparer = Comparer::default();
    let mut mismatch = None;
    while mismatch.is_none()
        && let Some(piece) = comparison.next().transpose()?
    {
        mismatch = comparer.compare(&piece)?;
    }
    Ok(comparison.verdict(mismatch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{MapGate, Tree};
    use crate::source::{ReadAt, Source};
    use std::io;
    use std::ops::Range;

    /// A raw file of which only `data` may be read.
    struct Island {
        len: u64,
        data: Range<u64>,
        fill: u8,
    }

    impl ReadAt for Island {
        fn len(&self) -> u64 {
            self.len
        }
        fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            for (n, byte) in buf.iter_mut().enumerate() {
                let inside = self.data.contains(&(offset + to_u64(n)));
                *byte = if inside { self.fill } else { 0 };
            }
            Ok(())
        }
        fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
            Ok((offset < self.data.end).then(|| self.data.clone()))
        }
    }

    fn chains<const N: usize>(files: [Island; N]) -> [Chain; N] {
        let mut gate = MapGate::default();
        let names: Vec<String> = (0..N).map(|n| n.to_string()).collect();
        for (name, file) in names.iter().zip(files) {
            let source: Source = Arc::new(file);
            gate.0.insert(name.clone(), source);
        }
        let mut tree = Tree::new();
        let mut next = names.iter();
        std::array::from_fn(|_| {
            let name = next.next().unwrap();
            let id = tree.add(&gate, name, Some(crate::Format::Raw)).unwrap();
            tree.chain(id).unwrap()
        })
    }

    fn island(len: u64, data: Range<u64>, fill: u8) -> Island {
        Island { len, data, fill }
    }

    #[test]
    fn only_what_may_differ_is_read() {
        const TIB: u64 = 1 << 40;
        let [a, b, c] = chains([
            island(TIB, 4096..8192, 7),
            island(TIB, 4096..8192, 7),
            island(TIB, 0..0, 0),
        ]);
        let pieces = |x, y| Comparison::new(x, y, false).unwrap().count();
        assert_eq!(pieces(&a, &a), 0, "the same place");
        assert_eq!(pieces(&c, &c), 0, "zeros");
        assert_eq!(pieces(&a, &b), 1, "one range of data on both sides");
        let same = Verdict::Identical {
            sizes_differ: false,
        };
        assert_eq!(compare(&a, &b, true).unwrap(), same);
        let differs = Verdict::Content {
            offset: 4096,
            in_tail: false,
        };
        assert_eq!(compare(&a, &c, false).unwrap(), differs);
        let status = Verdict::Status { offset: 4096 };
        assert_eq!(compare(&a, &c, true).unwrap(), status);
    }

    #[test]
    fn a_longer_tail_has_to_be_zeros() {
        let [short, zeros] = chains([island(4096, 0..1024, 1), island(1 << 20, 0..1024, 1)]);
        let identical = Verdict::Identical { sizes_differ: true };
        assert_eq!(compare(&short, &zeros, false).unwrap(), identical);
        assert_eq!(compare(&zeros, &short, false).unwrap(), identical);
        assert_eq!(compare(&short, &zeros, true).unwrap(), Verdict::Size);
        let [short, tail] = chains([
            island(4096, 4096..4096, 0),
            island(1 << 20, 70_001..70_002, 9),
        ]);
        let differs = Verdict::Content {
            offset: 69_632, // the sector of byte 70001
            in_tail: true,
        };
        assert_eq!(compare(&short, &tail, false).unwrap(), differs);
    }
}
