//! A file in memory.

use backchain::ReadAt;
use backchain_format::bytes::{to_u64, to_usize};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Blocks of a sparse file.
const BLOCK: u64 = 4096;

/// A file in memory. Clones share their bytes until one of them is written.
#[derive(Debug, Clone)]
pub struct SimFile {
    bytes: Arc<Vec<u8>>,
    holes: bool,
}

impl SimFile {
    /// A file with these bytes. With `holes`, blocks of zeros are holes of a sparse file.
    pub fn new(bytes: Vec<u8>, holes: bool) -> Self {
        Self {
            bytes: Arc::new(bytes),
            holes,
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes, growing the file where needed.
    pub fn write(&mut self, at: u64, data: &[u8]) {
        let bytes = Arc::make_mut(&mut self.bytes);
        let end = to_usize(at) + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[to_usize(at)..end].copy_from_slice(data);
    }

    /// Sets the length; new bytes are zeros.
    pub fn set_len(&mut self, len: u64) {
        Arc::make_mut(&mut self.bytes).resize(to_usize(len), 0);
    }
}

impl ReadAt for SimFile {
    fn len(&self) -> u64 {
        to_u64(self.bytes.len())
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.bytes.read_exact_at(offset, buf)
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let len = ReadAt::len(self);
        if offset >= len {
            return Ok(None);
        }
        if !self.holes {
            return Ok(Some(offset..len));
        }
        let block = |n: u64| {
            let end = ((n + 1) * BLOCK).min(len);
            &self.bytes[to_usize(n * BLOCK)..to_usize(end)]
        };
        let is_data = |n: &u64| block(*n).iter().any(|b| *b != 0);
        let blocks = len.div_ceil(BLOCK);
        let Some(first) = (offset / BLOCK..blocks).find(is_data) else {
            return Ok(None);
        };
        let end = (first..blocks).find(|n| !is_data(n)).unwrap_or(blocks);
        Ok(Some((first * BLOCK).max(offset)..(end * BLOCK).min(len)))
    }
}
