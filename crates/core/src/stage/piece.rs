//! Where a range of a patched file has its bytes.

use crate::chain::NodeId;
use crate::plan::{Ciphers, Origin, Recoder};
use crate::source::{Source, read_padded};
use backchain_format::HostOffset;
use backchain_format::bytes::{align_down, align_up, to_u64, to_usize};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of memory that a piece takes in its list, about.
pub(super) const MEMORY: u64 = 64;

/// Shorter pieces are not searched for holes: some files take their time to tell.
const WORTH_ASKING: u64 = 4096;

/// The bytes of a range. Zeros have no piece.
#[derive(Clone)]
pub(super) enum Piece {
    /// Those of another file, from byte `at` on. All of them are before its end.
    Stored { source: Source, at: u64 },
    /// Bytes in memory, but for the first `skip`.
    Held { bytes: Arc<[u8]>, skip: u64 },
    /// Bytes that are made when they are read, but for the first `skip`.
    Made { made: Arc<Made>, skip: u64 },
}

impl Piece {
    pub(super) fn held(bytes: Vec<u8>) -> Self {
        let bytes = bytes.into();
        Piece::Held { bytes, skip: 0 }
    }

    pub(super) fn made(made: Made) -> Self {
        let made = Arc::new(made);
        Piece::Made { made, skip: 0 }
    }

    /// The piece without its first `by` bytes.
    pub(super) fn advanced(&self, by: u64) -> Self {
        let mut piece = self.clone();
        let (Piece::Stored { at: skip, .. } | Piece::Held { skip, .. } | Piece::Made { skip, .. }) =
            &mut piece;
        *skip += by;
        piece
    }

    /// Whether `next`, `len` bytes behind, goes on in the same file.
    pub(super) fn continues(&self, len: u64, next: &Piece) -> bool {
        match (self, next) {
            (Piece::Stored { source, at }, Piece::Stored { source: s2, at: a2 }) => {
                Arc::ptr_eq(source, s2) && at + len == *a2
            }
            _ => false,
        }
    }

    pub(super) fn read(&self, by: u64, workshop: &Workshop, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Piece::Stored { source, at } => read_padded(source.as_ref(), at + by, buf),
            Piece::Held { bytes, skip } => {
                let start = to_usize(skip + by);
                let from = bytes.get(start..start.saturating_add(buf.len()));
                buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Piece::Made { made, skip } => workshop.make(made, skip + by, buf),
        }
    }

    /// The first range within its bytes `within` that may hold something else than zeros.
    pub(super) fn data(&self, within: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let Piece::Stored { source, at } = self else {
            return Ok(Some(within));
        };
        if within.end - within.start < WORTH_ASKING {
            return Ok(Some(within));
        }
        let data = source.data_in(at + within.start..at + within.end)?;
        Ok(data.map(|data| data.start - at..data.end - at))
    }
}

/// Bytes that come out of a compressed cluster, or out of or into an encrypted image.
pub(super) struct Made {
    origin: Origin,
    source: Option<Source>,
    to: NodeId,
    encrypt: Option<u64>,
    len: u64,
    ciphers: Arc<Ciphers>,
}

impl Made {
    pub(super) fn new(
        origin: Origin,
        source: Option<Source>,
        to: NodeId,
        encrypt: Option<u64>,
        len: u64,
        ciphers: &Arc<Ciphers>,
    ) -> Self {
        let (origin, source) = match source {
            Some(source) => past_patches(origin, source, len),
            None => (origin, None),
        };
        Self {
            origin,
            source,
            to,
            encrypt,
            len,
            ciphers: Arc::clone(ciphers),
        }
    }
}

/// The file behind a patched one, where all that is to be read is in there: many changes one
/// upon the other are then no deeper than one.
fn past_patches(origin: Origin, source: Source, len: u64) -> (Origin, Option<Source>) {
    let (src, bytes) = match &origin {
        Origin::Stored { src, .. } => (src.0, len),
        Origin::Packed { src, packed, .. } => (src.0, *packed),
        Origin::Zeros => return (origin, None),
    };
    let below = source.as_patched().and_then(|file| file.lone(src, bytes));
    let Some((below, at)) = below else {
        return (origin, Some(source));
    };
    let mut origin = origin;
    if let Origin::Stored { src, .. } | Origin::Packed { src, .. } = &mut origin {
        *src = HostOffset(at);
    }
    (origin, Some(below))
}

/// Makes bytes; keeps the cluster that was unpacked last.
#[derive(Default)]
pub(super) struct Workshop(Mutex<(Option<Arc<Made>>, Recoder)>);

impl Workshop {
    /// Fills `buf` with the bytes of `made` from `skip` on.
    fn make(&self, made: &Arc<Made>, skip: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut workshop = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, recoder) = &mut *workshop;
        if !last.as_ref().is_some_and(|last| Arc::ptr_eq(last, made)) {
            recoder.forget();
            *last = Some(Arc::clone(made));
        }
        let source = made.source.as_deref();
        let mut fill = |at: u64, buf: &mut [u8]| {
            let (origin, encrypt) = (made.origin.advanced(at), made.encrypt.map(|e| e + at));
            let filled = recoder.fill(&made.ciphers, &origin, source, made.to, encrypt, buf);
            filled.map_err(|error| io::Error::other(error.to_string()))
        };
        if made.encrypt.is_none() {
            return fill(skip, buf);
        }
        // Whole sectors are encrypted.
        let sector = crate::crypto::SECTOR;
        let start = align_down(skip, sector);
        let end = align_up(skip + to_u64(buf.len()), sector).map_or(made.len, |e| e.min(made.len));
        let mut sectors = vec![0; to_usize(end.saturating_sub(start))];
        fill(start, &mut sectors)?;
        let from = to_usize(skip - start);
        let wanted = sectors.get(from..from.saturating_add(buf.len()));
        buf.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
