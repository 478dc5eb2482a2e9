//! `ReadAt`: the one door through which bytes come in.

use backchain_format::bytes::{align_down, to_u64, to_usize};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// `Send + Sync` natively, where plans are executed by several threads; nothing in the browser,
/// whose files cannot leave their worker.
#[cfg(not(target_arch = "wasm32"))]
pub trait Shareable: Send + Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Send + Sync + ?Sized> Shareable for T {}
/// `Send + Sync` natively, where plans are executed by several threads; nothing in the browser,
/// whose files cannot leave their worker.
#[cfg(target_arch = "wasm32")]
pub trait Shareable {}
#[cfg(target_arch = "wasm32")]
impl<T: ?Sized> Shareable for T {}

/// A file that can be read at any offset, synchronously.
pub trait ReadAt: Shareable {
    /// Length of the file in bytes.
    fn len(&self) -> u64;

    /// Fills `buf` from byte `offset` on, or fails: there are no short reads.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The next range at or after `offset` that may hold something else than zeros; `None` when
    /// there are only holes up to the end. Sources that cannot tell say that all is data.
    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok((offset < self.len()).then(|| offset..self.len()))
    }

    /// The first range within `within` that may hold something else than zeros: what
    /// [`ReadAt::data_at`] says, for sources that take long to look further.
    fn data_in(&self, within: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let data = self.data_at(within.start)?;
        let data = data.map(|data| data.start.max(within.start)..data.end.min(within.end));
        Ok(data.filter(|data| data.start < data.end))
    }

    /// Whether the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The list of its pieces, when it is a file as a plan would leave it.
    fn as_patched(&self) -> Option<&crate::stage::Patched> {
        None
    }
}

/// A shared source.
pub type Source = Arc<dyn ReadAt>;

/// Reads like [`ReadAt::read_exact_at`], with zeros for everything past the end of the file.
pub fn read_padded(source: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let available = source.len().saturating_sub(offset).min(to_u64(buf.len()));
    let (inside, outside) = buf.split_at_mut(to_usize(available));
    outside.fill(0);
    if inside.is_empty() {
        Ok(())
    } else {
        source.read_exact_at(offset, inside)
    }
}

/// Bytes in memory are a source too.
impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        to_u64(self.as_slice().len())
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = to_usize(offset);
        let from = self.get(start..start.saturating_add(buf.len()));
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// So many zero bytes.
pub struct Zeros(pub u64);

impl ReadAt for Zeros {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        match offset.checked_add(to_u64(buf.len())) {
            Some(end) if end <= self.0 => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn data_at(&self, _offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok(None)
    }
}

/// A block cache in front of a source with a high cost per read (`FileReaderSync` in a browser
/// needs a millisecond for four bytes as for a mebibyte).
pub struct CachedSource<S> {
    inner: S,
    block: u64,
    blocks: usize,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    blocks: HashMap<u64, (u64, Arc<[u8]>)>,
    clock: u64,
}

impl<S: ReadAt> CachedSource<S> {
    /// Caches up to `blocks` blocks of `block` bytes (a power of two); the block used least
    /// recently goes first.
    pub fn new(inner: S, block: u64, blocks: usize) -> Self {
        debug_assert!(block.is_power_of_two() && blocks > 0);
        Self {
            inner,
            block,
            blocks,
            cache: Mutex::default(),
        }
    }

    /// The source behind the cache.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn block(&self, start: u64) -> io::Result<Arc<[u8]>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.clock += 1;
        let now = cache.clock;
        if let Some((used, bytes)) = cache.blocks.get_mut(&start) {
            *used = now;
            return Ok(Arc::clone(bytes));
        }
        let len = self.block.min(self.inner.len().saturating_sub(start));
        let mut bytes = vec![0; to_usize(len)];
        self.inner.read_exact_at(start, &mut bytes)?;
        let bytes: Arc<[u8]> = bytes.into();
        if cache.blocks.len() >= self.blocks {
            let oldest = cache.blocks.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(&start, _)| start) {
                cache.blocks.remove(&oldest);
            }
        }
        cache.blocks.insert(start, (now, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

impl<S: ReadAt> ReadAt for CachedSource<S> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        // Long reads would only push the metadata out.
        if to_u64(buf.len()) > self.block {
            return self.inner.read_exact_at(offset, buf);
        }
        let mut pos = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let start = align_down(pos, self.block);
            let block = self.block(start)?;
            let from = block.get(to_usize(pos - start)..).unwrap_or_default();
            let n = from.len().min(rest.len());
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&from[..n]);
            pos += to_u64(n);
            rest = later;
        }
        Ok(())
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.data_at(offset)
    }

    fn data_in(&self, within: Range<u64>) -> io::Result<Option<Range<u64>>> {
        self.inner.data_in(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Counting(Vec<u8>, AtomicUsize);
    impl ReadAt for Counting {
        fn len(&self) -> u64 {
            to_u64(self.0.as_slice().len())
        }
        fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.read_exact_at(offset, buf)
        }
    }

    #[test]
    fn the_cache_reads_each_block_once_and_tells_the_truth_across_blocks() {
        let bytes: Vec<u8> = (0..1000u32)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let cached = CachedSource::new(Counting(bytes.clone(), AtomicUsize::new(0)), 64, 4);
        let mut buf = [0; 50];
        for offset in [0, 30, 60, 10, 63] {
            cached.read_exact_at(offset, &mut buf).unwrap();
            assert_eq!(buf, bytes[to_usize(offset)..][..50]);
        }
        assert_eq!(cached.inner().1.load(Ordering::Relaxed), 2);
        assert!(cached.read_exact_at(960, &mut buf).is_err());
        cached.read_exact_at(950, &mut buf).unwrap();
        assert_eq!(buf, bytes[950..]);
    }

    #[test]
    fn bytes_past_the_end_read_as_zeros_where_asked_for() {
        let mut buf = [9; 4];
        read_padded(&vec![1u8, 2], 1, &mut buf).unwrap();
        assert_eq!(buf, [2, 0, 0, 0]);
        read_padded(&vec![1u8, 2], u64::MAX, &mut buf).unwrap();
        assert_eq!(buf, [0; 4]);
    }
}
