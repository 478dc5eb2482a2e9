//! What each layer of a tree is good for: how much it holds, and how much of that anybody reads.

use super::walk::{TableWalk, entries};
use crate::chain::{Node, NodeId, Tree};
use crate::error::{Error, Result};
use crate::extent::Place;
use crate::image::Extents;
use backchain_format::qcow2::L2Kind;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// How a layer's disk divides up, in bytes. Data and compressed data together are what is
/// unique and what is shadowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LayerStats {
    /// Data as it is.
    pub data: u64,
    /// Data in compressed clusters.
    pub compressed: u64,
    /// Zeros the layer itself says.
    pub zero: u64,
    /// Left to the layer below.
    pub unallocated: u64,
    /// Of data, compressed or not: what some guest reads from this layer. A guest is one on a
    /// layer without overlays.
    pub unique: u64,
    /// Of data, compressed or not: what every guest has something else for in a layer above.
    pub shadowed: u64,
    /// Of what is shadowed: what an internal snapshot of the layer has, too, or may have.
    pub kept: u64,
    /// Of the zeros: what every guest has something else for in a layer above.
    pub shadowed_zero: u64,
}

impl LayerStats {
    /// Bytes that nobody reads from the layer: it could give them back.
    pub fn could_give_back(&self) -> u64 {
        self.shadowed.saturating_sub(self.kept)
    }
}

/// Statistics of all layers of a tree at once: one sweep over all of them in guest order.
///
/// A layer costs its own extents, and no look at those of the others.
pub struct Stats {
    lanes: Vec<Lane>,
    by_id: HashMap<NodeId, usize>,
    /// Where the current extent of each layer ends, nearest first; and, with numbers behind
    /// those of all layers, where what snapshots have begins and ends.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    pos: u64,
    size: u64,
}

/// One layer.
struct Lane {
    node: Arc<Node>,
    extents: Option<Extents>,
    kind: Kind,
    /// Up to here its bytes are counted.
    since: u64,
    below: Option<usize>,
    /// No overlay: a guest reads it.
    active: bool,
    /// Overlays through which a guest sees it here.
    through: usize,
    stats: LayerStats,
    error: Option<Error>,
    /// What internal snapshots have, too: only where there are some.
    kept: Option<Kept>,
    /// Its current or next range, and whether that has begun.
    run: Range<u64>,
    inside: bool,
}

/// Guest ranges whose clusters internal snapshots have, too, in order.
struct Kept {
    walk: TableWalk,
    runs: VecDeque<Range<u64>>,
}

/// What a layer has at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Compressed,
    Zero,
    Unallocated,
    /// It is not that long.
    Beyond,
    /// It cannot be read, so it may not hide anything.
    Unknown,
}

impl Stats {
    /// Statistics of all layers of `tree`. Images for which `whole` says so count as data from
    /// one end to the other: raw ones, where it takes long to find out about holes.
    pub fn new(tree: &Tree, whole: &dyn Fn(&Node) -> bool) -> Self {
        let nodes = tree.nodes().iter();
        // A data file is a part of its image.
        let nodes = nodes.filter(|node| tree.data_owners(node.id).is_empty());
        let mut lanes: Vec<Lane> = nodes.map(|node| Lane::new(node, whole)).collect();
        let by_id: HashMap<NodeId, usize> = (0..)
            .zip(&lanes)
            .map(|(index, lane)| (lane.node.id, index))
            .collect();
        link(tree, &mut lanes, &by_id);
        let size = lanes.iter().map(|lane| lane.node.virtual_size()).max();
        let mut stats = Self {
            ends: BinaryHeap::with_capacity(lanes.len()),
            lanes,
            by_id,
            pos: 0,
            size: size.unwrap_or(0),
        };
        for index in 0..stats.lanes.len() {
            stats.next(index);
            stats.next_kept(index);
        }
        stats
    }

    /// Goes on for about `extents` extents of any layer; false at the end.
    pub fn advance(&mut self, extents: usize) -> bool {
        for _ in 0..extents {
            let Some(Reverse((end, index))) = self.ends.pop() else {
                self.pos = self.size;
                return false;
            };
            self.pos = end;
            match index.checked_sub(self.lanes.len()) {
                None => self.next(index),
                Some(index) => self.next_kept(index),
            }
        }
        true
    }

    /// First guest byte that is not counted yet.
    pub fn pos(&self) -> u64 {
        self.pos.min(self.size)
    }

    /// Bytes of the longest disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What was found out about a layer so far.
    pub fn layer(&self, id: NodeId) -> Option<LayerStats> {
        Some(self.lane(id)?.stats)
    }

    /// Why a layer could not be read to its end: the rest of it is not counted.
    pub fn error(&self, id: NodeId) -> Option<&Error> {
        self.lane(id)?.error.as_ref()
    }

    fn lane(&self, id: NodeId) -> Option<&Lane> {
        self.lanes.get(*self.by_id.get(&id)?)
    }

    /// Moves a layer on to its next extent.
    fn next(&mut self, index: usize) {
        let Some(lane) = self.lanes.get_mut(index) else {
            return;
        };
        let (kind, end) = lane.pull(self.pos);
        if let Some(end) = end {
            self.ends.push(Reverse((end, index)));
        }
        lane.count(self.pos);
        let before = lane.lets_through();
        lane.kind = kind;
        let after = lane.lets_through();
        if before != after {
            self.tell(lane_below(&self.lanes, index), after);
        }
    }

    /// Passes an edge of what a layer's internal snapshots have.
    fn next_kept(&mut self, index: usize) {
        let lanes = self.lanes.len();
        let Some(lane) = self.lanes.get_mut(index) else {
            return;
        };
        lane.count(self.pos);
        lane.inside = self.pos >= lane.run.start && self.pos < lane.run.end;
        if !lane.inside && self.pos >= lane.run.start {
            let Some(run) = lane.next_run(self.pos) else {
                lane.kept = None;
                return;
            };
            lane.inside = run.start <= self.pos;
            lane.run = run;
        }
        let edge = if lane.inside {
            lane.run.end
        } else {
            lane.run.start
        };
        self.ends.push(Reverse((edge, lanes + index)));
    }

    /// Tells a layer that one more overlay lets a guest see it, or one less.
    fn tell(&mut self, mut below: Option<usize>, more: bool) {
        while let Some(lane) = below.and_then(|index| self.lanes.get_mut(index)) {
            lane.count(self.pos);
            let before = lane.lets_through();
            lane.through = if more {
                lane.through + 1
            } else {
                lane.through.saturating_sub(1)
            };
            if lane.lets_through() == before {
                break;
            }
            below = lane.below;
        }
    }
}

fn lane_below(lanes: &[Lane], index: usize) -> Option<usize> {
    lanes.get(index)?.below
}

/// Tells every layer what is below it, but for those in a loop and those that lead into one.
fn link(tree: &Tree, lanes: &mut [Lane], by_id: &HashMap<NodeId, usize>) {
    let below: Vec<Option<usize>> = lanes
        .iter()
        .map(|lane| {
            let given_up = tree.is_given_up(lane.node.id);
            let below = tree.backing(lane.node.id).filter(|_| !given_up);
            by_id.get(&below?).copied()
        })
        .collect();
    let mut overlays = vec![0_usize; lanes.len()];
    for &index in below.iter().flatten() {
        if let Some(count) = overlays.get_mut(index) {
            *count += 1;
        }
    }
    for (lane, count) in lanes.iter_mut().zip(&overlays) {
        lane.active = *count == 0;
    }
    // From the active layers down: what is never reached without an overlay left is in a loop.
    let mut free: Vec<usize> = (0..lanes.len())
        .filter(|index| overlays.get(*index) == Some(&0))
        .collect();
    while let Some(index) = free.pop() {
        let next = below.get(index).copied().flatten();
        if let Some(lane) = lanes.get_mut(index) {
            lane.below = next;
        }
        let left = next.and_then(|next| Some((next, overlays.get_mut(next)?)));
        if let Some((next, left)) = left {
            *left -= 1;
            if *left == 0 {
                free.push(next);
            }
        }
    }
    // Nobody can say what is seen of a loop: nothing of it counts as hidden.
    for (lane, left) in lanes.iter_mut().zip(overlays) {
        lane.active |= left > 0;
    }
}

impl Lane {
    fn new(node: &Arc<Node>, whole: &dyn Fn(&Node) -> bool) -> Self {
        let (mut extents, mut error) = (None, None);
        if !whole(node) {
            match node.extents(0) {
                Ok(found) => extents = Some(found),
                Err(why) => error = Some(why),
            }
        }
        Self {
            node: Arc::clone(node),
            extents,
            kind: Kind::Beyond,
            since: 0,
            below: None,
            active: true,
            through: 0,
            stats: LayerStats::default(),
            error,
            kept: Kept::of(node),
            run: 0..0,
            inside: false,
        }
    }

    /// The next range behind `pos` that internal snapshots have, too.
    fn next_run(&mut self, pos: u64) -> Option<Range<u64>> {
        loop {
            match self.kept.as_mut()?.next() {
                Ok(Some(run)) if run.end <= pos => {}
                Ok(run) => return run,
                Err(error) => {
                    self.error.get_or_insert(self.node.blame(error));
                    return None;
                }
            }
        }
    }

    /// What the layer has from `pos` on, and where that ends.
    fn pull(&mut self, pos: u64) -> (Kind, Option<u64>) {
        let size = self.node.virtual_size();
        if pos >= size {
            return (Kind::Beyond, None);
        }
        let next = self.extents.as_mut().and_then(Iterator::next);
        match next {
            Some(Ok(extent)) if extent.end() > pos => {
                let kind = match extent.place {
                    Place::Data { .. } => Kind::Data,
                    Place::Compressed { .. } => Kind::Compressed,
                    Place::Zero { .. } | Place::BeyondEnd => Kind::Zero,
                    Place::Unallocated => Kind::Unallocated,
                };
                (kind, Some(extent.end().min(size)))
            }
            Some(Err(error)) => {
                self.error = Some(self.node.blame(error));
                self.extents = None;
                (Kind::Unknown, Some(size))
            }
            _ if self.error.is_some() || self.extents.is_some() => (Kind::Unknown, Some(size)),
            _ => (Kind::Data, Some(size)),
        }
    }

    /// Whether a guest sees what is below through it.
    fn lets_through(&self) -> bool {
        self.is_seen() && matches!(self.kind, Kind::Unallocated | Kind::Unknown)
    }

    /// Whether a guest reads it where it has something.
    fn is_seen(&self) -> bool {
        self.active || self.through > 0
    }

    /// Counts the bytes up to `pos`, which were all of one kind.
    fn count(&mut self, pos: u64) {
        let bytes = pos.saturating_sub(self.since);
        self.since = pos;
        let seen = self.is_seen();
        let stats = &mut self.stats;
        let sum = match self.kind {
            Kind::Data => &mut stats.data,
            Kind::Compressed => &mut stats.compressed,
            Kind::Zero => &mut stats.zero,
            Kind::Unallocated => &mut stats.unallocated,
            Kind::Beyond | Kind::Unknown => return,
        };
        *sum += bytes;
        match self.kind {
            Kind::Data | Kind::Compressed if seen => stats.unique += bytes,
            Kind::Data | Kind::Compressed => {
                stats.shadowed += bytes;
                if self.inside {
                    stats.kept += bytes;
                }
            }
            Kind::Zero if !seen => stats.shadowed_zero += bytes,
            _ => {}
        }
    }
}

impl Kept {
    fn of(node: &Node) -> Option<Self> {
        let image = node.image.as_ref().ok()?.as_qcow2()?;
        (image.head.header.snapshots > 0).then(|| Self {
            walk: TableWalk::active(&node.source, image),
            runs: VecDeque::new(),
        })
    }

    fn next(&mut self) -> Result<Option<Range<u64>>> {
        let layout = self.walk.layout();
        let cluster = layout.cluster.bytes();
        if self.runs.is_empty() {
            let Some(table) = self.walk.next()? else {
                return Ok(None);
            };
            for (index, entry) in entries(&table.bytes, layout) {
                // Whether packed data is shared, only its refcount would tell.
                let shared = match entry.kind {
                    L2Kind::Standard { .. } => !entry.copied,
                    L2Kind::Compressed(_) => true,
                    L2Kind::Zero { .. } | L2Kind::Unallocated => false,
                };
                let start = table.guest.saturating_add(index * cluster);
                let end = start.saturating_add(cluster);
                match self.runs.back_mut() {
                    Some(run) if shared && run.end == start => run.end = end,
                    _ if shared => self.runs.push_back(start..end),
                    _ => {}
                }
            }
            if self.runs.is_empty() {
                // One table at a time: an empty range leads on to the next.
                let end = table.guest.saturating_add(layout.table_span());
                self.runs.push_back(end..end);
            }
        }
        Ok(self.runs.pop_front())
    }
}
