//! How far a command is that reads metadata.

use crate::output::progress::{Progress, When};
use backchain::image::Qcow2;
use backchain::{ReadAt, Source};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// A source that shows how much of the metadata has been read. The total is what there is at
/// most: holes make it faster.
pub(crate) struct Metered {
    inner: Source,
    done: AtomicU64,
    total: u64,
    progress: Progress,
}

impl Metered {
    /// Meters a pass over the metadata of an image.
    pub(crate) fn new(source: &Source, image: &Qcow2, title: &str, when: When) -> Self {
        let header = &image.head.header;
        let clusters = header.cluster.clusters(source.len());
        let tables = u64::from(header.l1_entries).saturating_mul(header.cluster.bytes());
        let counts = clusters.saturating_mul(header.refcount_width.bits()) / 8;
        Self {
            inner: Source::clone(source),
            done: AtomicU64::new(0),
            total: tables.min(source.len()).saturating_add(counts),
            progress: Progress::start(title, when),
        }
    }

    /// Everything was read.
    pub(crate) fn finish(&self) {
        self.progress.finish();
    }
}

impl ReadAt for Metered {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = backchain::format::bytes::to_u64(buf.len());
        let done = self.done.fetch_add(len, Ordering::Relaxed);
        self.progress.set(done, self.total);
        self.inner.read_exact_at(offset, buf)
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.data_at(offset)
    }
}
