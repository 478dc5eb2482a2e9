//! What the target of a change is to hold, and where the bytes come from: the reading half of
//! every plan that moves data.
//!
//! A flow walks two views at once, in guest order. The *view* is what must be readable through
//! the target when the plan is done; the *under* view is what the target will have below it
//! then. A piece is *changed* when the target must hold it itself.

use super::convert_zeros::Finder;
use super::crew::Crew;
use super::same::Same;
use crate::chain::{Chain, ChainExtent, ChainExtents, Node, Reader};
use crate::error::{Error, Result};
use crate::extent::Place;
use std::collections::VecDeque;
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
    /// How much further on it is than in its own view, modulo 2^64.
    pub shift: u64,
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

    /// Its first byte as the guest of its own view sees it.
    pub(crate) fn source_start(&self) -> u64 {
        self.start.wrapping_sub(self.shift)
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.from.is_none()
    }

    /// The same range, all zeros.
    pub(crate) fn zeroed(self) -> Self {
        Self {
            from: None,
            place: Place::Zero { host: None },
            ..self
        }
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
    /// Zeros from the target's old end on, where something else would show.
    Behind {
        /// The old end.
        end: u64,
        /// Up to here the target may map something behind its end.
        mapped: u64,
    },
    /// Everything but zeros; the target is empty.
    All,
    /// Everything, zeros too.
    Every,
    /// Everything that the view's top layer has, and of the layers below it what reads
    /// differently in the backing file that the target has.
    Onto,
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
    /// Zeros within data are looked for.
    finder: Option<Finder>,
    /// What cannot be read becomes zeros.
    salvage: bool,
    /// What could not be read since this was last asked: offset, bytes, why not.
    lost: Vec<(u64, u64, Error)>,
    /// Guest bytes of the views that came before this one.
    before: u64,
    /// Guest bytes left out at the start of this view, and how many of the rest count.
    window: Option<(u64, u64)>,
    /// Nothing is known to be zero below the target.
    opaque: bool,
    /// Views that follow this one, each starting at a sector.
    then: VecDeque<Flow>,
}

struct Under {
    extents: Peek,
    chain: Chain,
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
        let compare = matches!(take, Take::Below { compare: true, .. } | Take::Onto);
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
            finder: None,
            salvage: false,
            lost: Vec::new(),
            before: 0,
            window: None,
            opaque: false,
            then: VecDeque::new(),
        })
    }

    /// A flow over what a disk gains when it grows to `size` bytes, from guest byte `start` on.
    /// Up to `mapped` the target may have tables for it already.
    pub(crate) fn growth(
        view: &Chain,
        under: Option<Chain>,
        start: u64,
        size: u64,
        mapped: u64,
    ) -> Result<Self> {
        let end = view.virtual_size();
        let mut flow = Self::new(view, None, Take::Behind { end, mapped }, 1)?;
        let peek = |chain: &Chain| -> Result<Peek> {
            let extents = chain.extents_to(start, size)?;
            Ok(Peek { extents, now: None })
        };
        flow.view = peek(view)?;
        if let Some(chain) = under {
            let extents = peek(&chain)?;
            flow.under = Some(Under { extents, chain });
        }
        Ok(flow)
    }

    /// Looks for runs of at least `least` zeros within data; `only_packed`: within compressed
    /// clusters alone.
    pub(crate) fn finding_zeros(mut self, least: u64, only_packed: bool) -> Self {
        let finder = Finder::new(&self.view_chain, self.granule, least, only_packed);
        self.finder = Some(finder);
        self
    }

    /// Makes zeros of what cannot be read.
    pub(crate) fn salvaging(mut self) -> Self {
        self.salvage = true;
        self
    }

    /// Tells the crew what could not be read.
    pub(crate) fn report(&mut self, crew: &dyn Crew) {
        for (offset, len, why) in self.lost.drain(..) {
            crew.lost(offset, len, &why);
        }
    }

    /// Only the `len` bytes from `start` on, as far as there are so many: the flow starts there.
    pub(crate) fn window(mut self, start: u64, len: u64) -> Result<Self> {
        let start = start.min(self.view_chain.virtual_size());
        let len = len.min(self.view_chain.virtual_size() - start);
        self.view.extents = self.view_chain.extents(start)?;
        self.window = Some((start, len));
        Ok(self)
    }

    /// Puts another view behind this one, from the next sector on.
    pub(crate) fn then(&mut self, mut next: Flow) {
        // This view counts in whole sectors from now on.
        let end = self.then.back().unwrap_or(self).own_end();
        let whole = end.checked_next_multiple_of(backchain_format::raw::SECTOR);
        next.before = whole.unwrap_or(end);
        self.then.push_back(next);
    }

    /// The target has something below it that shows through where it holds nothing.
    pub(crate) fn over_something(mut self) -> Self {
        self.opaque = true;
        self
    }

    /// Guest bytes of this view alone: whole sectors when others follow or came before.
    fn own_size(&self) -> u64 {
        let size = match self.window {
            Some((_, len)) => len,
            None => self.view_chain.virtual_size(),
        };
        let joined = self.before > 0 || !self.then.is_empty();
        let whole = size.checked_next_multiple_of(backchain_format::raw::SECTOR);
        whole.filter(|_| joined).unwrap_or(size)
    }

    fn own_end(&self) -> u64 {
        self.before.saturating_add(self.own_size())
    }

    /// Goes on, behind the view's end, with what `target` (a larger disk) reads there itself.
    pub(crate) fn followed_by(mut self, target: Chain) -> Self {
        let size = target.virtual_size();
        if size > self.size() {
            self.rest = Some((target, size));
        }
        self
    }

    /// Guest bytes the flow covers.
    pub(crate) fn size(&self) -> u64 {
        let size = self.then.back().unwrap_or(self).own_end();
        self.rest.as_ref().map_or(size, |(_, rest)| size.max(*rest))
    }

    /// The piece at guest byte `pos`, which must not go back; `None` at the end.
    pub(crate) fn at(&mut self, pos: u64) -> Result<Option<Piece>> {
        while pos >= self.own_end()
            && let Some(mut next) = self.then.pop_front()
        {
            next.then = std::mem::take(&mut self.then);
            next.rest = self.rest.take();
            next.lost = std::mem::take(&mut self.lost);
            *self = next;
        }
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
        let (skip, end) = match self.window {
            Some((start, len)) => (start, start + len),
            None => (0, u64::MAX),
        };
        let local = pos.saturating_sub(self.before).saturating_add(skip);
        if local < end
            && let Some(piece) = self.own(local)?
        {
            let mut piece = piece.slice(local, end - local);
            piece.shift = self.before.wrapping_sub(skip);
            piece.start = piece.start.wrapping_add(piece.shift);
            return Ok(Some(piece));
        }
        if pos >= self.own_end() {
            return self.behind(pos);
        }
        // What is missing of the last sector.
        let rest = ChainExtent {
            start: pos,
            len: self.own_end() - pos,
            depth: None,
            place: Place::BeyondEnd,
        };
        let changed = matches!(self.take, Take::Every);
        Ok(Some(self.piece(
            &self.view_chain,
            rest,
            changed,
            !self.opaque,
        )))
    }

    /// The piece of this view at its byte `pos`.
    fn own(&mut self, pos: u64) -> Result<Option<Piece>> {
        let Some(view) = self.view.at(pos)? else {
            return Ok(None);
        };
        let mut len = view.len;
        let mut below = None;
        if let Some(under) = &mut self.under
            && let Some(extent) = under.extents.at(pos)?
        {
            len = len.min(extent.len);
            below = Some(extent);
        }
        let under_zero = !self.opaque && below.is_none_or(|e| e.place.reads_zero());
        let mut compare = true;
        let candidate = match self.take {
            Take::Every => true,
            // Zeros are there already.
            Take::All => !(view.place.reads_zero() && under_zero),
            Take::Onto if view.depth == Some(0) || self.view_chain.layers().len() == 1 => {
                compare = false;
                true
            }
            Take::Onto => !self.same_place(&view, below.as_ref()),
            Take::Above(target) => match view.depth {
                Some(depth) if depth == target => view.place == Place::BeyondEnd,
                Some(depth) => depth < target,
                None => false,
            },
            Take::Behind { end, .. } if pos < end => {
                len = len.min(end - pos);
                false
            }
            Take::Behind { mapped, .. } if pos < mapped => {
                len = len.min(mapped - pos);
                true
            }
            Take::Behind { .. } => !under_zero,
            Take::Below { from, .. } if pos < from => {
                len = len.min(from - pos);
                false
            }
            Take::Below { .. } => view.depth != Some(0) && !self.same_place(&view, below.as_ref()),
        };
        let mut changed = candidate;
        if candidate
            && compare
            && let Some(same) = &mut self.same
        {
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
        let view = view.slice(pos, len);
        let (len, is_zero) = self.look(&view, changed)?;
        let view = view.slice(pos, len);
        if is_zero {
            changed = !(matches!(self.take, Take::All) && under_zero);
        }
        let piece = self.piece(&self.view_chain, view, changed, under_zero);
        Ok(Some(if is_zero { piece.zeroed() } else { piece }))
    }

    /// How much of an extent is alike, and whether it is zeros, though it is not said to be:
    /// because there is nothing else in it, or because it cannot be read.
    fn look(&mut self, view: &ChainExtent, changed: bool) -> Result<(u64, bool)> {
        let Some(finder) = &mut self.finder else {
            return Ok((view.len, false));
        };
        if !changed || view.place.reads_zero() {
            return Ok((view.len, false));
        }
        let mut view = *view;
        if self.salvage {
            let (len, lost) = finder.salvage(&view);
            if let Some(error) = lost {
                self.lost.push((self.before + view.start, len, error));
                return Ok((len, true));
            }
            view = view.slice(view.start, len);
        }
        let layer = view.depth.and_then(|d| self.view_chain.layers().get(d));
        let packing = layer.and_then(|node| node.image().ok()?.packing());
        finder.look(&view, packing.map_or(0, |(cluster, _)| cluster))
    }

    fn behind(&mut self, pos: u64) -> Result<Option<Piece>> {
        let Some((chain, size)) = self.rest.take() else {
            return Ok(None);
        };
        if pos >= size {
            return Ok(None);
        }
        // From here on nothing is taken: the flow becomes one over the target alone.
        self.before = 0;
        self.window = None;
        self.finder = None;
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
            shift: 0,
        }
    }
}
