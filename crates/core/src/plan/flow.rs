//! What the target of a change is to hold, and where the bytes come from: the reading half of
//! every plan that moves data.
//!
//! A flow walks two views at once, in guest order. The *view* is what must be readable through
//! the target when the plan is done; the *under* view is what the target will have below it
//! then. A piece is *changed* when the target must hold it itself.

use crate::chain::{Chain, ChainExtent, ChainExtents, Node, Reader};
use crate::error::Result;
use crate::extent::Place;
use backchain_format::bytes::to_usize;
use std::sync::Arc;

/// A guest range, where its bytes come from and whether the target must take them in.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// First guest byte.
    pub start: u64,
    /// Bytes; never 0.
    pub len: u64,
    /// The layer that holds the bytes; `None`: zeros.
    pub from: Option<Arc<Node>>,
    /// Where in that layer; data or compressed when there is a layer.
    pub place: Place,
    /// The target must hold this piece itself.
    pub changed: bool,
    /// Where the target holds nothing, this range will read as zeros.
    pub under_zero: bool,
}

impl Piece {
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// The part from `start` on, of at most `len` bytes.
    pub(crate) fn slice(&self, start: u64, len: u64) -> Self {
        let by = start - self.start;
        Self {
            start,
            len: len.min(self.len - by),
            place: self.place.advanced(by),
            ..self.clone()
        }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.from.is_none()
    }
}

/// Which layers of the view the target must take over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Take {
    /// Everything above the target, which is at this depth; and what lies behind its old end.
    Above(usize),
    /// Everything below the target, which is the top, when the place differs.
    Below {
        /// Compare bytes where the place differs and take only what reads differently.
        compare: bool,
        /// Nothing before this guest offset.
        from: u64,
    },
    /// Everything; the target is empty.
    All,
}

/// An iterator of pieces covering the guest range from 0 on without gaps.
pub(crate) struct Flow {
    view: Peek,
    view_chain: Chain,
    /// What follows behind the view's end, never changed: the target's own view.
    rest: Option<(Chain, u64)>,
    under: Option<Under>,
    take: Take,
    granule: u64,
    same: Option<Same>,
    /// The last piece, so that taking it in parts decides only once.
    last: Option<Piece>,
}

struct Under {
    extents: Peek,
    chain: Chain,
}

/// Readers for comparing content.
struct Same {
    view: Reader,
    under: Option<Reader>,
    buffers: (Vec<u8>, Vec<u8>),
}

/// Extents that can be taken in parts.
struct Peek {
    extents: ChainExtents,
    now: Option<ChainExtent>,
}

impl Peek {
    fn at(&mut self, pos: u64) -> Result<Option<ChainExtent>> {
        while self.now.is_none_or(|e| e.end() <= pos) {
            match self.extents.next().transpose()? {
                Some(extent) => self.now = Some(extent),
                None => return Ok(None),
            }
        }
        Ok(self.now.map(|e| e.slice(pos.max(e.start), u64::MAX)))
    }
}

/// Bytes compared at once.
const COMPARE: u64 = 1 << 20;

impl Flow {
    /// A flow over `view`. `under` is the chain below the target when the plan is done,
    /// `granule` the target's unit of allocation in bytes.
    pub(crate) fn new(
        view: &Chain,
        under: Option<Chain>,
        take: Take,
        granule: u64,
    ) -> Result<Self> {
        let compare = matches!(take, Take::Below { compare: true, .. });
        let same = compare.then(|| Same {
            view: Reader::new(view.clone()),
            under: under.clone().map(Reader::new),
            buffers: Default::default(),
        });
        let size = view.virtual_size();
        let under = match under {
            Some(chain) => {
                let extents = Peek {
                    extents: chain.extents_to(0, size)?,
                    now: None,
                };
                Some(Under { extents, chain })
            }
            None => None,
        };
        Ok(Self {
            view: Peek {
                extents: view.extents(0)?,
                now: None,
            },
            view_chain: view.clone(),
            rest: None,
            under,
            take,
            granule: granule.max(1),
            same,
            last: None,
        })
    }

    /// Goes on, behind the view's end, with what `target` (a larger disk) reads there itself.
    pub(crate) fn followed_by(mut self, target: Chain) -> Self {
        let size = target.virtual_size();
        if size > self.view_chain.virtual_size() {
            self.rest = Some((target, size));
        }
        self
    }

    /// Guest bytes the flow covers.
    pub(crate) fn size(&self) -> u64 {
        let size = self.view_chain.virtual_size();
        self.rest.as_ref().map_or(size, |(_, rest)| size.max(*rest))
    }

    /// The piece at guest byte `pos`, which must not go back; `None` at the end.
    pub(crate) fn at(&mut self, pos: u64) -> Result<Option<Piece>> {
        let known = self
            .last
            .as_ref()
            .filter(|p| p.start <= pos && pos < p.end());
        if let Some(piece) = known {
            return Ok(Some(piece.slice(pos, u64::MAX)));
        }
        self.last = self.decide(pos)?;
        Ok(self.last.clone())
    }

    fn decide(&mut self, pos: u64) -> Result<Option<Piece>> {
        let Some(view) = self.view.at(pos)? else {
            return self.behind(pos);
        };
        let mut len = view.len;
        let mut below = None;
        if let Some(under) = &mut self.under
            && let Some(extent) = under.extents.at(pos)?
        {
            len = len.min(extent.len);
            below = Some(extent);
        }
        let under_zero = below.is_none_or(|e| e.place.reads_zero());
        let candidate = match self.take {
            // Zeros are there already.
            Take::All => !(view.place.reads_zero() && under_zero),
            Take::Above(target) => match view.depth {
                Some(depth) if depth == target => view.place == Place::BeyondEnd,
                Some(depth) => depth < target,
                None => false,
            },
            Take::Below { from, .. } if pos < from => {
                len = len.min(from - pos);
                false
            }
            Take::Below { .. } => view.depth != Some(0) && !self.same_place(&view, below.as_ref()),
        };
        let mut changed = candidate;
        if candidate && let Some(same) = &mut self.same {
            // Whole granules are compared, so that a verdict holds for what it is used for.
            let boundary = pos / self.granule * self.granule + COMPARE.max(self.granule);
            len = len.min(boundary - pos);
            (len, changed) = same.differs(
                &view.slice(pos, len),
                below.map(|e| e.slice(pos, len)),
                len,
                self.granule,
            )?;
        }
        Ok(Some(self.piece(
            &self.view_chain,
            view.slice(pos, len),
            changed,
            under_zero,
        )))
    }

    fn behind(&mut self, pos: u64) -> Result<Option<Piece>> {
        let Some((chain, size)) = self.rest.take() else {
            return Ok(None);
        };
        if pos >= size {
            return Ok(None);
        }
        // From here on nothing is taken: the flow becomes one over the target alone.
        self.view = Peek {
            extents: chain.extents(pos)?,
            now: None,
        };
        self.view_chain = chain;
        self.under = None;
        self.take = Take::Below {
            compare: false,
            from: u64::MAX,
        };
        self.same = None;
        self.decide(pos)
    }

    /// Whether both views take these bytes from the same place.
    fn same_place(&self, view: &ChainExtent, below: Option<&ChainExtent>) -> bool {
        if view.place.reads_zero() {
            return below.is_none_or(|e| e.place.reads_zero());
        }
        let (Some(below), Some(under)) = (below, &self.under) else {
            return false;
        };
        let node = |chain: &Chain, extent: &ChainExtent| {
            extent
                .depth
                .and_then(|d| chain.layers().get(d))
                .map(|n| n.id)
        };
        view.place == below.place && node(&self.view_chain, view) == node(&under.chain, below)
    }

    fn piece(&self, chain: &Chain, extent: ChainExtent, changed: bool, under_zero: bool) -> Piece {
        let node = extent.depth.and_then(|d| chain.layers().get(d)).cloned();
        let from = if extent.place.reads_zero() {
            None
        } else {
            node
        };
        Piece {
            start: extent.start,
            len: extent.len,
            from,
            place: extent.place,
            changed,
            under_zero,
        }
    }
}

impl Same {
    /// Compares the first `len` bytes of two extents that start together, granule by granule.
    /// Returns how many bytes the verdict is about and whether they differ.
    fn differs(
        &mut self,
        view: &ChainExtent,
        under: Option<ChainExtent>,
        len: u64,
        granule: u64,
    ) -> Result<(u64, bool)> {
        let (a, b) = &mut self.buffers;
        a.resize(to_usize(len), 0);
        b.resize(to_usize(len), 0);
        self.view.read_extent(view, a)?;
        match (&mut self.under, under) {
            (Some(reader), Some(extent)) => reader.read_extent(&extent, b)?,
            _ => b.fill(0),
        }
        // The first part ends at a granule's boundary of the disk.
        let mut end = (granule - view.start % granule).min(len);
        let part = |from: u64, to: u64| {
            a.get(to_usize(from)..to_usize(to)) != b.get(to_usize(from)..to_usize(to))
        };
        let verdict = part(0, end);
        while end < len {
            let next = (end + granule).min(len);
            if part(end, next) != verdict {
                break;
            }
            end = next;
        }
        Ok((end, verdict))
    }
}
