//! Reading metadata in large pieces, over holes without touching them.

use crate::source::{ReadAt, read_padded};
use backchain_format::bytes::{be64, to_u64, to_usize};
use std::io;
use std::ops::Range;

/// Bytes read at once where there is a choice.
pub(super) const PIECE: u64 = 1 << 20;

/// A reader of one file with a buffer and a memory of where the last hole was.
pub(super) struct Words<'a> {
    source: &'a dyn ReadAt,
    buffer: Vec<u8>,
    /// The last answer about data, and from where on it holds.
    known: Option<(u64, Option<Range<u64>>)>,
}

impl<'a> Words<'a> {
    pub(super) fn new(source: &'a dyn ReadAt) -> Self {
        Self {
            source,
            buffer: Vec::new(),
            known: None,
        }
    }

    /// First byte at or after `at` that may be other than zero; `None`: nothing but zeros.
    fn next_data(&mut self, at: u64) -> io::Result<Option<u64>> {
        if let Some((from, answer)) = &self.known
            && at >= *from
        {
            match answer {
                None => return Ok(None),
                Some(data) if at < data.end => return Ok(Some(at.max(data.start))),
                Some(_) => {}
            }
        }
        let answer = if at < self.source.len() {
            // A source that reports an empty or an earlier range tells nothing.
            let data = self.source.data_at(at)?;
            data.map(|data| data.start.max(at)..data.end.max(at + 1))
        } else {
            None
        };
        let start = answer.as_ref().map(|data| data.start);
        self.known = Some((at, answer));
        Ok(start)
    }

    /// The bytes `start..start + len`, zeros behind the end of the file; `None` when all of
    /// them are zeros for sure.
    pub(super) fn load(&mut self, start: u64, len: u64) -> io::Result<Option<&[u8]>> {
        let data = self.next_data(start)?;
        if data.is_none_or(|data| data >= start.saturating_add(len)) {
            return Ok(None);
        }
        let len = to_usize(len);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let buffer = self.buffer.get_mut(..len).unwrap_or_default();
        read_padded(self.source, start, buffer)?;
        Ok(Some(buffer))
    }

    /// Calls `each` with offset and value of every word in `start..end` that is not zero.
    /// `failed` gets the start of each piece that could not be read.
    pub(super) fn each(
        &mut self,
        start: u64,
        end: u64,
        each: &mut dyn FnMut(u64, u64),
        failed: &mut dyn FnMut(u64, &io::Error),
    ) {
        let mut at = start;
        while at < end {
            match self.next_data(at) {
                Ok(None) => return,
                // Words start at multiples of 8 from the start of the range.
                Ok(Some(data)) => at += (data - at) / 8 * 8,
                Err(error) => {
                    failed(at, &error);
                    return;
                }
            }
            if at >= end {
                return;
            }
            let len = PIECE.min(end - at);
            match self.load(at, len) {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    for (n, word) in bytes.chunks_exact(8).enumerate() {
                        let word = be64(word, 0).unwrap_or(0);
                        if word != 0 {
                            each(at + to_u64(n) * 8, word);
                        }
                    }
                }
                Err(error) => failed(at, &error),
            }
            at += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A file of 64 PiB with two islands of ones.
    struct Sparse(AtomicUsize);

    impl ReadAt for Sparse {
        fn len(&self) -> u64 {
            1 << 56
        }
        fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            for (n, byte) in buf.iter_mut().enumerate() {
                let at = offset + to_u64(n);
                let inside = (4096..4104).contains(&at) || ((1 << 50)..(1 << 50) + 8).contains(&at);
                *byte = u8::from(inside);
            }
            Ok(())
        }
        fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
            Ok([4096..4104, (1 << 50)..(1 << 50) + 8]
                .into_iter()
                .find(|r| r.end > offset))
        }
    }

    #[test]
    fn holes_cost_no_reads() {
        let source = Sparse(AtomicUsize::new(0));
        let mut words = Words::new(&source);
        let mut found = Vec::new();
        words.each(
            0,
            1 << 56,
            &mut |at, word| found.push((at, word)),
            &mut |_, _| panic!(),
        );
        let ones = 0x0101_0101_0101_0101;
        assert_eq!(found, [(4096, ones), (1 << 50, ones)]);
        assert_eq!(source.0.load(Ordering::Relaxed), 2);
    }
}
