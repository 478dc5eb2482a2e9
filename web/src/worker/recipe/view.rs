//! What a guest sees: what it wrote, above what was there before.

use super::parse::{What, Written};
use backchain::chain::Reader;
use backchain::{Chain, Place, ReadAt};
use std::cell::RefCell;
use std::io;
use std::ops::Range;

/// Where nothing is written, all is zeros; ranges that may hold something are told in units of
/// so many bytes.
const UNIT: u64 = 64 << 10;

/// A disk as its guest sees it.
pub struct View {
    size: u64,
    writes: Vec<Written>,
    /// What was there before.
    below: Option<RefCell<Reader>>,
    /// Where something is, in order.
    ranges: Vec<Range<u64>>,
}

impl View {
    /// A new disk: the later writes lie above the earlier ones.
    #[must_use]
    pub fn new(size: u64, writes: Vec<Written>) -> Self {
        Self::over(size, writes, Vec::new(), None)
    }

    /// The disk that `chain` is, written to.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub fn above(chain: Chain, writes: Vec<Written>) -> backchain::Result<Self> {
        let mut ranges = Vec::new();
        for extent in chain.extents(0)? {
            let extent = extent?;
            if matches!(extent.place, Place::Data { .. } | Place::Compressed { .. }) {
                ranges.push(extent.start..extent.end());
            }
        }
        let size = chain.virtual_size();
        Ok(Self::over(size, writes, ranges, Some(Reader::new(chain))))
    }

    fn over(
        size: u64,
        writes: Vec<Written>,
        mut found: Vec<Range<u64>>,
        below: Option<Reader>,
    ) -> Self {
        found.extend(writes.iter().map(|written| written.start..written.end()));
        found.sort_by_key(|range| range.start);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for range in found {
            let start = range.start - range.start % UNIT;
            let end = range.end.next_multiple_of(UNIT).min(size);
            match ranges.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => ranges.push(start..end),
            }
        }
        Self {
            size,
            writes,
            below: below.map(RefCell::new),
            ranges,
        }
    }

    /// The byte that `len` bytes from `start` on consist of, where that is sure without a look.
    #[must_use]
    pub fn uniform(&self, start: u64, len: u64) -> Option<u8> {
        let end = start.checked_add(len)?;
        let last = self
            .writes
            .iter()
            .rfind(|written| written.start < end && start < written.end())?;
        match last.what {
            What::Fill(_, byte) if last.start <= start && end <= last.end() => Some(byte),
            _ => None,
        }
    }
}

impl ReadAt for View {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match &self.below {
            Some(reader) => {
                let mut reader = reader.borrow_mut();
                reader.read_at(offset, buf).map_err(io::Error::other)?;
            }
            None => buf.fill(0),
        }
        for written in &self.writes {
            let inside = |at: u64| {
                usize::try_from(at.saturating_sub(offset)).map_or(buf.len(), |at| at.min(buf.len()))
            };
            let part = inside(written.start)..inside(written.end());
            let Some(part) = buf.get_mut(part) else {
                continue;
            };
            match &written.what {
                What::Fill(_, byte) => part.fill(*byte),
                What::Text(text) => {
                    let skip = usize::try_from(offset.saturating_sub(written.start));
                    let text = text.as_bytes().iter().skip(skip.unwrap_or(usize::MAX));
                    part.fill(0);
                    part.iter_mut().zip(text).for_each(|(to, &from)| *to = from);
                }
            }
        }
        Ok(())
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let nth = self.ranges.partition_point(|range| range.end <= offset);
        let next = self.ranges.get(nth);
        Ok(next.map(|range| range.start.max(offset)..range.end))
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::writes;
    use super::View;
    use backchain::ReadAt;
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn later_writes_lie_above_earlier_ones() {
        let view = View::new(
            1 << 20,
            writes("0+300K=11 64K+64K=22 65535\"text\"").unwrap(),
        );
        let read = |at| {
            let mut buf = [0; 4];
            view.read_exact_at(at, &mut buf).unwrap();
            buf
        };
        assert_eq!(read(0), [0x11; 4]);
        assert_eq!(read(65534), *b"\x11tex");
        assert_eq!(read(65537), *b"xt\0\0");
        assert_eq!(read(65597), [0, 0, 0x22, 0x22]);
        assert_eq!(read(300 << 10), [0; 4]);
    }

    #[wasm_bindgen_test]
    fn holes_and_uniform_ranges_are_known() {
        let view = View::new(
            1 << 20,
            writes("100K+10K=11 300K+100K=22 310K\"x\"").unwrap(),
        );
        assert_eq!(view.data_at(0).unwrap(), Some(65536..131_072));
        assert_eq!(view.data_at(140_000).unwrap(), Some(262_144..458_752));
        assert_eq!(view.data_at(500_000).unwrap(), None);
        assert_eq!(view.uniform(100 << 10, 10 << 10), Some(0x11));
        assert_eq!(view.uniform(300 << 10, 100 << 10), None);
        assert_eq!(view.uniform(320 << 10, 10 << 10), Some(0x22));
        assert_eq!(view.uniform(0, 200 << 10), None);
    }
}
