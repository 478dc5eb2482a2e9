//! Comparing two chains with several threads.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use backchain::compare::{Comparer, Comparison, Piece, Verdict};
use backchain::{Chain, Error, ErrorKind, Result};

/// Bytes of pieces that a thread takes at once: enough to make waiting for its turn rare.
const BATCH: u64 = 4 << 20;
/// Pieces taken at once at most.
const BATCH_PIECES: usize = 512;

/// How to compare.
#[derive(Default)]
pub struct CompareOptions<'a> {
    /// Compare sizes and allocation too (`qemu-img compare -s`).
    pub strict: bool,
    /// Threads; as many as there are processors, but no more than four, when `None`.
    pub threads: Option<NonZeroUsize>,
    /// Set to true by somebody else, it stops the comparison.
    pub cancel: Option<&'a AtomicBool>,
    /// Called now and then, from any thread, with the bytes done and those of the longer disk.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
}

/// What the threads share: the one sweep over both chains, and the first result.
struct Shared {
    comparison: Comparison,
    /// The least offset with a difference or an error, and the error.
    found: Option<(u64, Option<Error>)>,
}

impl Shared {
    fn found(&mut self, offset: u64, error: Option<Error>) {
        if self.found.as_ref().is_none_or(|(least, _)| offset < *least) {
            self.found = Some((offset, error));
        }
    }

    /// The next pieces; empty when there are no more, or none that matters: pieces come in
    /// guest order, so nothing behind a difference can change the verdict.
    fn take(&mut self) -> Vec<Piece> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while self.found.is_none() && bytes < BATCH && batch.len() < BATCH_PIECES {
            match self.comparison.next() {
                None => break,
                Some(Ok(piece)) => {
                    bytes += piece.len;
                    batch.push(piece);
                }
                Some(Err(error)) => {
                    let offset = self.comparison.position();
                    self.found(offset, Some(error));
                }
            }
        }
        batch
    }
}

/// Compares what two chains show to the guest. Fails when something cannot be read before the
/// first difference.
pub fn compare(a: &Chain, b: &Chain, options: &CompareOptions<'_>) -> Result<Verdict> {
    let comparison = Comparison::new(a, b, options.strict)?;
    let size = comparison.size();
    let shared = Mutex::new(Shared {
        comparison,
        found: None,
    });
    let lock =
        || -> MutexGuard<'_, Shared> { shared.lock().unwrap_or_else(PoisonError::into_inner) };
    let cancelled = || {
        options
            .cancel
            .is_some_and(|flag| flag.load(Ordering::Relaxed))
    };
    let work = || {
        let mut comparer = Comparer::default();
        while !cancelled() {
            let (batch, position) = {
                let mut shared = lock();
                (shared.take(), shared.comparison.position())
            };
            if batch.is_empty() {
                break;
            }
            for piece in &batch {
                let (offset, error) = match comparer.compare(piece) {
                    Ok(None) => continue,
                    Ok(Some(offset)) => (offset, None),
                    Err(error) => (piece.start, Some(error)),
                };
                lock().found(offset, error);
                break;
            }
            if let Some(progress) = options.progress {
                progress(position, size);
            }
        }
    };
    let processors = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = options
        .threads
        .map_or_else(|| processors().min(4), NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 1..threads {
            // Without another thread this one does it all.
            let started = thread::Builder::new().spawn_scoped(scope, work);
            if started.is_err() {
                break;
            }
        }
        work();
    });
    if cancelled() {
        return Err(Error::new(ErrorKind::Cancelled, "stopped"));
    }
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    match shared.found {
        Some((_, Some(error))) => Err(error),
        Some((offset, None)) => Ok(shared.comparison.verdict(Some(offset))),
        None => Ok(shared.comparison.verdict(None)),
    }
}
