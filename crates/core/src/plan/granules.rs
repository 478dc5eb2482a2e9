//! One guest cluster of a qcow2 target: its mapping, and its pieces sorted into granules.

use super::flow::Piece;
use backchain_format::HostOffset;
use backchain_format::qcow2::{CompressedCluster, L2Entry, L2Kind, L2Layout, Subclusters};

/// A cluster's mapping, the same for standard and extended entries: one granule or 32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) host: Option<HostOffset>,
    pub(super) packed: Option<CompressedCluster>,
    pub(super) allocated: u32,
    pub(super) zero: u32,
    pub(super) shared: bool,
}

impl State {
    pub(super) fn of(entry: L2Entry, layout: L2Layout) -> Self {
        let mut state = Self {
            host: None,
            packed: None,
            allocated: 0,
            zero: 0,
            shared: false,
        };
        let all = if layout.extended { u32::MAX } else { 1 };
        match entry.kind {
            L2Kind::Unallocated => state.zero = entry.subclusters.zero,
            L2Kind::Compressed(packed) => {
                state.packed = Some(packed);
                state.allocated = all;
            }
            L2Kind::Zero { host } => {
                state.host = host;
                state.zero = all;
            }
            L2Kind::Standard { host } => {
                state.host = Some(host);
                state.allocated = if layout.extended {
                    entry.subclusters.allocated
                } else {
                    1
                };
                state.zero = entry.subclusters.zero;
            }
        }
        state
    }

    /// A host cluster that held nothing before (preallocated) stays when it still holds nothing.
    pub(super) fn is_kept_by(&self, now: &State) -> bool {
        self.allocated == 0 && now.host == self.host && !now.shared
    }

    pub(super) fn entry(&self, layout: L2Layout, copied: bool) -> L2Entry {
        if layout.extended {
            let kind = self
                .host
                .map_or(L2Kind::Unallocated, |host| L2Kind::Standard { host });
            let subclusters = Subclusters {
                allocated: self.allocated,
                zero: self.zero,
            };
            return L2Entry {
                kind,
                copied,
                subclusters,
            };
        }
        let kind = match self.host {
            host if self.zero != 0 => L2Kind::Zero { host },
            Some(host) => L2Kind::Standard { host },
            None => L2Kind::Unallocated,
        };
        L2Entry {
            kind,
            copied,
            subclusters: Subclusters::default(),
        }
    }
}

/// A cluster's pieces sorted into its granules.
pub(super) struct Subs(Vec<(u32, Vec<Piece>)>);

impl Subs {
    pub(super) fn new(start: u64, layout: L2Layout, pieces: &[Piece]) -> Self {
        if !layout.extended {
            return Self(vec![(0, pieces.to_vec())]);
        }
        let granule = layout.granule();
        let mut subs = Vec::new();
        let mut piece = pieces.iter();
        let mut now = piece.next().cloned();
        for index in 0..Subclusters::COUNT {
            let end = start + (u64::from(index) + 1) * granule;
            let mut parts = Vec::new();
            while let Some(part) = now.take() {
                if part.start >= end {
                    now = Some(part);
                    break;
                }
                if part.end() > end {
                    parts.push(part.slice(part.start, end - part.start));
                    now = Some(part.slice(end, part.end() - end));
                    break;
                }
                parts.push(part);
                now = piece.next().cloned();
            }
            if parts.is_empty() {
                break;
            }
            subs.push((index, parts));
        }
        Self(subs)
    }

    /// Bit n: granule n is on the disk.
    pub(super) fn mask(&self) -> u32 {
        self.0.iter().fold(0, |mask, (index, _)| mask | 1 << index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &[Piece])> {
        self.0
            .iter()
            .map(|(index, parts)| (*index, parts.as_slice()))
    }
}
