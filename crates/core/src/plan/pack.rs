//! Compressing clusters before they are written: how long they get decides where they go, so
//! the plan has to do it.
//!
//! A batch of clusters is read and packed by the crew, then put into the image in order.

use super::crew::{Crew, Task};
use super::flow::Piece;
use crate::chain::Unpacked;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, Place};
use crate::inflate::{PackState, deflate};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::{ClusterSize, Codec};
use std::sync::{Mutex, PoisonError};

/// Unpacked bytes of one batch; a crew of eight has something to do even with the largest
/// clusters. A browser has no crew, and listens between batches.
const BATCH: u64 = if cfg!(target_arch = "wasm32") {
    1 << 20
} else {
    16 << 20
};
/// Clusters of one batch at most.
const MAX_CLUSTERS: u64 = 256;

/// What became of a cluster.
pub(super) enum Packed {
    /// It holds nothing but zeros.
    Zero,
    /// Packed bytes.
    Bytes(Vec<u8>),
    /// It does not become shorter, or is not to be packed.
    Plain,
}

/// Packs clusters of one image.
pub(super) struct Packer {
    cluster: ClusterSize,
    codec: Codec,
    /// Zeros are packed like anything else.
    keep_zeros: bool,
    /// What each of the crew keeps between clusters.
    tools: Mutex<Vec<Tools>>,
}

#[derive(Default)]
struct Tools {
    unpacked: Unpacked,
    state: PackState,
    bytes: Vec<u8>,
    packed: Vec<u8>,
}

/// A cluster: its number, its pieces, and whether it may be packed at all.
pub(super) struct Candidate {
    pub(super) number: u64,
    pub(super) pieces: Vec<Piece>,
    pub(super) pack: bool,
}

impl Packer {
    pub(super) fn new(cluster: ClusterSize, codec: Codec, keep_zeros: bool) -> Self {
        Self {
            cluster,
            codec,
            keep_zeros,
            tools: Mutex::default(),
        }
    }

    /// Clusters of one batch.
    pub(super) fn batch(&self) -> usize {
        to_usize((BATCH / self.cluster.bytes()).clamp(1, MAX_CLUSTERS))
    }

    /// Packs a batch.
    pub(super) fn pack(&self, crew: &dyn Crew, batch: &[Candidate]) -> Result<Vec<Packed>> {
        let results = batch.iter().map(|_| Mutex::new(None)).collect();
        let work = Work {
            packer: self,
            batch,
            results,
        };
        crew.each(batch.len(), &work);
        let done = work.results.into_iter().map(|result| {
            let result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
            result.unwrap_or_else(|| {
                let message = "a cluster was not packed: a thread panicked";
                Err(Error::new(ErrorKind::Io, message))
            })
        });
        done.collect()
    }

    fn tools(&self) -> Tools {
        let mut tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        tools.pop().unwrap_or_default()
    }

    fn one(&self, candidate: &Candidate) -> Result<Packed> {
        if !candidate.pack {
            return Ok(Packed::Plain);
        }
        let mut tools = self.tools();
        let packed = self.with(&mut tools, candidate);
        let mut all = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(tools);
        packed
    }

    fn with(&self, tools: &mut Tools, candidate: &Candidate) -> Result<Packed> {
        let Tools {
            unpacked,
            state,
            bytes,
            packed,
        } = tools;
        // Behind the end of the disk there are zeros.
        bytes.clear();
        bytes.resize(to_usize(self.cluster.bytes()), 0);
        let start = candidate.number << self.cluster.bits();
        for piece in &candidate.pieces {
            let from = to_usize(piece.start.saturating_sub(start));
            let to = from.saturating_add(to_usize(piece.len));
            if let Some(part) = bytes.get_mut(from..to) {
                read(unpacked, piece, part)?;
            }
        }
        if !self.keep_zeros && is_zero(bytes) {
            return Ok(Packed::Zero);
        }
        if deflate(state, self.codec, bytes, packed)? {
            return Ok(Packed::Bytes(packed.clone()));
        }
        Ok(Packed::Plain)
    }
}

struct Work<'a> {
    packer: &'a Packer,
    batch: &'a [Candidate],
    results: Vec<Mutex<Option<Result<Packed>>>>,
}

impl Task for Work<'_> {
    fn part(&self, number: usize) {
        if let (Some(candidate), Some(result)) = (self.batch.get(number), self.results.get(number))
        {
            let packed = self.packer.one(candidate);
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(packed);
        }
    }
}

/// Fills `buf` with the bytes of a piece.
pub(super) fn read(unpacked: &mut Unpacked, piece: &Piece, buf: &mut [u8]) -> Result<()> {
    let extent = Extent {
        start: piece.source_start(),
        len: to_u64(buf.len()),
        place: piece.place,
    };
    match &piece.from {
        Some(node) => unpacked.read(node, &extent, buf),
        None => {
            buf.fill(0);
            Ok(())
        }
    }
}

/// Whether there are only zeros; comparing whole blocks is the fastest way to look.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|chunk| ZEROS.get(..chunk.len()) == Some(chunk))
}

/// Whether a packed cluster of `cluster` bytes is so short that it may be all zeros: those pack
/// to a thousandth of their size and less.
pub(super) fn may_be_zero(place: Place, cluster: u64) -> bool {
    match place {
        Place::Compressed { len, .. } => len <= cluster / 512 + 1024,
        _ => true,
    }
}
