//! Extents of a whole chain: a sweep over all its layers at once.
//!
//! Every layer contributes its own extents in guest order; a heap holds where each layer's
//! current extent ends, a bit set which layers are allocated there. The topmost set bit wins.
//! So each table is read once and in order, depth costs a layer's own extents and never a
//! look-up per extent and layer, and memory is one table slice a layer.

use super::node::Node;
use crate::error::Result;
use crate::extent::{Extent, Place};
use crate::image::Extents;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// A guest range whose bytes all come from one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainExtent {
    /// First guest byte.
    pub start: u64,
    /// Bytes; never 0.
    pub len: u64,
    /// The layer that decides: 0 is the top. `None` when no layer does: zeros.
    pub depth: Option<usize>,
    /// Where in that layer; [`Place::Unallocated`] when none decides.
    pub place: Place,
}

impl ChainExtent {
    /// First guest byte behind it.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// As an extent of its layer.
    pub fn extent(&self) -> Extent {
        Extent {
            start: self.start,
            len: self.len,
            place: self.place,
        }
    }

    /// The part from `start` on, of at most `len` bytes.
    #[must_use]
    pub fn slice(&self, start: u64, len: u64) -> Self {
        let part = self.extent().slice(start, len);
        Self {
            start: part.start,
            len: part.len,
            place: part.place,
            depth: self.depth,
        }
    }

    fn merge(&mut self, next: &ChainExtent) -> bool {
        let mut extent = self.extent();
        let joins = self.depth == next.depth && extent.merge(&next.extent());
        self.len = extent.len;
        joins
    }
}

/// Iterator over [`ChainExtent`]s. After an error it ends.
pub struct ChainExtents {
    layers: Vec<Layer>,
    /// End of each layer's current extent, nearest first.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    allocated: BitSet,
    pos: u64,
    size: u64,
    ahead: Option<ChainExtent>,
    failed: bool,
}

struct Layer {
    node: Arc<Node>,
    extents: Extents,
    now: Extent,
}

impl ChainExtents {
    pub(super) fn new(nodes: &[Arc<Node>], start: u64, size: u64) -> Result<Self> {
        let mut sweep = Self {
            layers: Vec::with_capacity(nodes.len()),
            ends: BinaryHeap::with_capacity(nodes.len()),
            allocated: BitSet::new(nodes.len()),
            pos: start,
            size,
            ahead: None,
            failed: false,
        };
        for node in nodes {
            let extents = node.extents(start)?;
            let now = Extent {
                start,
                len: 0,
                place: Place::Unallocated,
            };
            sweep.layers.push(Layer {
                node: Arc::clone(node),
                extents,
                now,
            });
        }
        if start < size {
            for depth in 0..nodes.len() {
                sweep.advance(depth)?;
            }
        }
        Ok(sweep)
    }

    /// Moves layer `depth` on to its next extent.
    fn advance(&mut self, depth: usize) -> Result<()> {
        let Some(layer) = self.layers.get_mut(depth) else {
            return Ok(());
        };
        layer.now = match layer.extents.next() {
            Some(extent) => extent.map_err(|e| layer.node.blame(e))?,
            None => {
                let start = layer.now.end();
                Extent {
                    start,
                    len: u64::MAX - start,
                    place: Place::BeyondEnd,
                }
            }
        };
        self.allocated.set(depth, layer.now.place.is_allocated());
        self.ends.push(Reverse((layer.now.end(), depth)));
        Ok(())
    }

    fn pull(&mut self) -> Result<Option<ChainExtent>> {
        if self.pos >= self.size {
            return Ok(None);
        }
        while let Some(&Reverse((end, depth))) = self.ends.peek() {
            if end > self.pos {
                break;
            }
            self.ends.pop();
            self.advance(depth)?;
        }
        let end = self
            .ends
            .peek()
            .map_or(self.size, |Reverse((end, _))| (*end).min(self.size));
        let depth = self.allocated.first();
        let start = self.pos;
        let place = match depth.and_then(|d| self.layers.get(d)) {
            Some(layer) => layer.now.slice(start, end - start).place,
            None => Place::Unallocated,
        };
        self.pos = end;
        Ok(Some(ChainExtent {
            start,
            len: end - start,
            depth,
            place,
        }))
    }
}

impl Iterator for ChainExtents {
    type Item = Result<ChainExtent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let mut extent = self.ahead.take();
        loop {
            let next = match self.pull() {
                Ok(Some(next)) => next,
                Ok(None) => return extent.map(Ok),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            };
            match &mut extent {
                None => extent = Some(next),
                Some(extent) if extent.end() == next.start && extent.depth == next.depth => {
                    if !extent.merge(&next) {
                        self.ahead = Some(next);
                        return Some(Ok(*extent));
                    }
                }
                Some(extent) => {
                    self.ahead = Some(next);
                    return Some(Ok(*extent));
                }
            }
        }
    }
}

/// Which layers are allocated at the current position.
struct BitSet(Vec<u64>);

impl BitSet {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn set(&mut self, index: usize, value: bool) {
        if let Some(word) = self.0.get_mut(index / 64) {
            let bit = 1u64 << (index % 64);
            *word = if value { *word | bit } else { *word & !bit };
        }
    }

    fn first(&self) -> Option<usize> {
        let (index, word) = self.0.iter().enumerate().find(|(_, word)| **word != 0)?;
        Some(index * 64 + usize::try_from(word.trailing_zeros()).unwrap_or(0))
    }
}
