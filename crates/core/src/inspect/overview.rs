//! The cluster map: guest addresses on one axis, layers on the other.

use super::walk::{TableWalk, entries};
use crate::chain::{Chain, Node};
use crate::error::{Error, Result};
use crate::extent::{Extent, Place};
use crate::image::Extents;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::L2Kind;
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of one layer in one column of the map, by what they are. What is missing to the
/// column's width is not in the layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Data the guest sees.
    pub data: u64,
    /// Compressed data the guest sees.
    pub compressed: u64,
    /// Zeros the layer itself says, and the guest sees.
    pub zero: u64,
    /// Data, compressed or not, that a layer above hides.
    pub shadowed: u64,
    /// Zeros that a layer above hides.
    pub shadowed_zero: u64,
    /// Of all these: bytes in clusters that an internal snapshot has, too.
    pub shared: u64,
}

impl Cell {
    /// Adds another cell.
    pub fn add(&mut self, other: &Cell) {
        self.data += other.data;
        self.compressed += other.compressed;
        self.zero += other.zero;
        self.shadowed += other.shadowed;
        self.shadowed_zero += other.shadowed_zero;
        self.shared += other.shared;
    }

    /// The field for bytes at `place`.
    fn slot(&mut self, place: Place, hidden: bool) -> Option<&mut u64> {
        Some(match (place, hidden) {
            (Place::Data { .. }, false) => &mut self.data,
            (Place::Compressed { .. }, false) => &mut self.compressed,
            (Place::Zero { .. }, false) => &mut self.zero,
            (Place::Data { .. } | Place::Compressed { .. }, true) => &mut self.shadowed,
            (Place::Zero { .. }, true) => &mut self.shadowed_zero,
            (Place::BeyondEnd | Place::Unallocated, _) => return None,
        })
    }
}

/// A map of a chain, filled in from the left to the right.
pub struct Overview {
    range: Range<u64>,
    columns: u64,
    lanes: Vec<Lane>,
    pos: u64,
    /// Lanes whose sharing with snapshots is looked at, last first, and where that is.
    sharing: Vec<(usize, TableWalk)>,
}

/// One layer of the map.
struct Lane {
    node: Arc<Node>,
    extents: Option<Extents>,
    now: Extent,
    cells: Vec<Cell>,
    error: Option<Error>,
}

impl Overview {
    /// A map of the guest bytes `range`, cut into `columns` (at least 1) of about equal width.
    /// A layer that cannot be read stays empty, with an error.
    pub fn new(chain: &Chain, range: Range<u64>, columns: usize) -> Self {
        let columns = columns.max(1);
        let lanes: Vec<Lane> = chain
            .layers()
            .iter()
            .map(|node| Lane::new(node, range.start, columns))
            .collect();
        let mut sharing = Vec::new();
        for (depth, lane) in lanes.iter().enumerate().rev() {
            let image = lane.node.image.as_ref().ok().and_then(|i| i.as_qcow2());
            if let Some(image) = image.filter(|i| i.head.header.snapshots > 0) {
                sharing.push((depth, TableWalk::active(&lane.node.source, image)));
            }
        }
        Self {
            pos: range.start,
            range,
            columns: to_u64(columns),
            lanes,
            sharing,
        }
    }

    /// Goes on for about `pieces` guest ranges or tables; false at the end.
    pub fn advance(&mut self, pieces: usize) -> bool {
        for _ in 0..pieces {
            if self.pos < self.range.end {
                self.piece();
            } else if !self.share() {
                return false;
            }
        }
        true
    }

    /// First guest byte not looked at yet.
    pub fn pos(&self) -> u64 {
        self.pos
    }

    /// The cells of the layer at `depth`, one a column.
    pub fn cells(&self, depth: usize) -> &[Cell] {
        self.lanes.get(depth).map_or(&[], |lane| &lane.cells)
    }

    /// The sum of the cells of the layer at `depth`.
    pub fn total(&self, depth: usize) -> Cell {
        let mut total = Cell::default();
        self.cells(depth).iter().for_each(|cell| total.add(cell));
        total
    }

    /// Why the layer at `depth` could not be read to its end.
    pub fn error(&self, depth: usize) -> Option<&Error> {
        self.lanes.get(depth)?.error.as_ref()
    }

    /// The guest bytes of column `column`.
    pub fn column(&self, column: u64) -> Range<u64> {
        let width = self.range.end - self.range.start;
        self.range.start + scale(width, column, self.columns)
            ..self.range.start + scale(width, column + 1, self.columns)
    }

    /// One guest range in which no layer changes its mind.
    fn piece(&mut self) {
        let start = self.pos;
        let mut end = self.range.end;
        for lane in &mut self.lanes {
            end = end.min(lane.at(start));
        }
        let (first, last) = (self.column_of(start), self.column_of(end - 1));
        for column in first..=last {
            let bounds = self.column(column);
            let bytes = bounds.end.min(end) - bounds.start.max(start);
            let mut hidden = false;
            for lane in &mut self.lanes {
                let place = lane.now.place;
                if let Some(cell) = lane.cells.get_mut(to_usize(column))
                    && let Some(slot) = cell.slot(place, hidden)
                {
                    *slot += bytes;
                }
                hidden |= place.is_allocated();
            }
        }
        self.pos = end;
    }

    fn column_of(&self, pos: u64) -> u64 {
        let (by, width) = (pos - self.range.start, self.range.end - self.range.start);
        // The first column that ends behind `pos`.
        let mut column = scale(self.columns, by, width).min(self.columns - 1);
        while self.column(column).end <= pos {
            column += 1;
        }
        while column > 0 && self.column(column).start > pos {
            column -= 1;
        }
        column
    }

    /// One L2 table of an image with snapshots; false when all are done.
    fn share(&mut self) -> bool {
        let Some((depth, walk)) = self.sharing.last_mut() else {
            return false;
        };
        let (depth, layout) = (*depth, walk.layout());
        match walk.next() {
            Ok(Some(table)) => {
                let cluster = layout.cluster.bytes();
                let mut runs: Vec<Range<u64>> = Vec::new();
                for (index, entry) in entries(&table.bytes, layout) {
                    let stored = match entry.kind {
                        L2Kind::Standard { .. } => true,
                        L2Kind::Zero { host } => host.is_some(),
                        L2Kind::Compressed(_) | L2Kind::Unallocated => false,
                    };
                    if stored && !entry.copied {
                        let start = table.guest.saturating_add(index * cluster);
                        match runs.last_mut() {
                            Some(run) if run.end == start => run.end += cluster,
                            _ => runs.push(start..start + cluster),
                        }
                    }
                }
                for run in runs {
                    self.mark_shared(depth, run);
                }
            }
            Ok(None) => {
                self.sharing.pop();
            }
            Err(error) => {
                self.sharing.pop();
                if let Some(lane) = self.lanes.get_mut(depth) {
                    lane.error.get_or_insert(error);
                }
            }
        }
        true
    }

    fn mark_shared(&mut self, depth: usize, run: Range<u64>) {
        let (start, end) = (run.start.max(self.range.start), run.end.min(self.range.end));
        if start >= end {
            return;
        }
        for column in self.column_of(start)..=self.column_of(end - 1) {
            let bounds = self.column(column);
            let bytes = bounds.end.min(end) - bounds.start.max(start);
            let lane = self.lanes.get_mut(depth);
            if let Some(cell) = lane.and_then(|lane| lane.cells.get_mut(to_usize(column))) {
                cell.shared += bytes;
            }
        }
    }
}

impl Lane {
    fn new(node: &Arc<Node>, start: u64, columns: usize) -> Self {
        let (extents, error) = match node.extents(start) {
            Ok(extents) => (Some(extents), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            node: Arc::clone(node),
            extents,
            now: Extent {
                start,
                len: 0,
                place: Place::Unallocated,
            },
            cells: vec![Cell::default(); columns],
            error,
        }
    }

    /// Makes `now` the extent at `pos`; returns where it ends.
    fn at(&mut self, pos: u64) -> u64 {
        while self.now.end() <= pos {
            self.now = match self.extents.as_mut().and_then(Iterator::next) {
                Some(Ok(extent)) => extent,
                Some(Err(error)) => {
                    self.error = Some(self.node.blame(error));
                    self.extents = None;
                    continue;
                }
                // Behind its end a layer hides what is below; a layer that could not be read
                // says nothing.
                None => Extent {
                    start: pos,
                    len: u64::MAX - pos,
                    place: if self.error.is_some() {
                        Place::Unallocated
                    } else {
                        Place::BeyondEnd
                    },
                },
            };
        }
        self.now.end()
    }
}

/// `value * part / whole`, rounded down.
fn scale(value: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// What a map tells about a whole layer, for a line of text.
impl Overview {
    /// Runs to the end. For disks whose size is known to be small, and for tests.
    pub fn finish(mut self) -> Result<Self> {
        while self.advance(4096) {}
        Ok(self)
    }
}
