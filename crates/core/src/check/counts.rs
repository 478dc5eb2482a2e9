//! Counters of references to host clusters: dense where something is, absent elsewhere.
//!
//! Memory has a fixed budget, whatever a file claims. When it is used up, the counters of the
//! highest clusters are dropped and the window they cover ends there; the caller counts again
//! for the rest. An image that is not hostile needs one window for some 24 million clusters.

use backchain_format::bytes::{to_u64, to_usize};

/// log2 of the clusters in one chunk.
const CHUNK_BITS: u32 = 15;
/// Clusters in one chunk.
pub(super) const CHUNK: u64 = 1 << CHUNK_BITS;
/// Bytes of counters held at once.
const BUDGET: usize = 48 << 20;

/// What active L2 (or L1) entries say about a cluster, beside how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    /// The reference says nothing: it is not from the active tables, or has no such flag.
    Silent,
    /// An active entry has the flag: the refcount must be one.
    Set,
    /// An active entry lacks the flag: the refcount must not be one.
    Clear,
}

/// A counter as kept: the count, and whether active entries with and without the copied flag
/// refer to the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) references: u64,
    pub(super) flag_set: bool,
    pub(super) flag_clear: bool,
}

/// The two flag bits in a narrow counter; the 14 bits below count.
pub(super) const NARROW_SET: u16 = 1 << 15;
pub(super) const NARROW_CLEAR: u16 = 1 << 14;
const NARROW_MAX: u16 = NARROW_CLEAR - 1;
const WIDE_SET: u64 = 1 << 63;
const WIDE_CLEAR: u64 = 1 << 62;
const WIDE_MAX: u64 = WIDE_CLEAR - 1;

/// The counters of [`CHUNK`] clusters.
pub(super) enum Chunk {
    Narrow(Box<[u16]>),
    /// For chunks with a cluster that has more than 16383 references.
    Wide(Box<[u64]>),
}

impl Chunk {
    fn new() -> Self {
        Chunk::Narrow(vec![0; to_usize(CHUNK)].into())
    }

    fn bytes(&self) -> usize {
        match self {
            Chunk::Narrow(slots) => size_of_val::<[u16]>(slots),
            Chunk::Wide(slots) => size_of_val::<[u64]>(slots),
        }
    }

    fn widen(&mut self) {
        if let Chunk::Narrow(slots) = self {
            let widened = slots.iter().map(|&slot| {
                let flag = |bit: u16, wide: u64| if slot & bit != 0 { wide } else { 0 };
                u64::from(slot & NARROW_MAX)
                    | flag(NARROW_SET, WIDE_SET)
                    | flag(NARROW_CLEAR, WIDE_CLEAR)
            });
            *self = Chunk::Wide(widened.collect());
        }
    }

    /// Adds `times` to the counters of slots `start..end`, as far as they go. Returns the slot
    /// at which a narrow chunk ran out of bits.
    fn add(&mut self, start: usize, end: usize, times: u64, copied: Copied) -> Option<usize> {
        match self {
            Chunk::Narrow(slots) => {
                let flags = match copied {
                    Copied::Silent => 0,
                    Copied::Set => NARROW_SET,
                    Copied::Clear => NARROW_CLEAR,
                };
                let small = u16::try_from(times)
                    .unwrap_or(NARROW_CLEAR)
                    .min(NARROW_CLEAR);
                // Two plain loops over the same few words: both compile to vector code. The
                // terms are at most 2^14 each, so their sum fits.
                let slots = slots.get_mut(start..end)?;
                let most = slots.iter().fold(0, |most, &n| most.max(n & NARROW_MAX));
                if most + small > NARROW_MAX {
                    return Some(start);
                }
                for slot in slots {
                    *slot = (*slot + small) | flags;
                }
            }
            Chunk::Wide(slots) => {
                let flags = match copied {
                    Copied::Silent => 0,
                    Copied::Set => WIDE_SET,
                    Copied::Clear => WIDE_CLEAR,
                };
                for slot in slots.get_mut(start..end)? {
                    let sum = (*slot & WIDE_MAX).saturating_add(times).min(WIDE_MAX);
                    *slot = *slot & !WIDE_MAX | flags | sum;
                }
            }
        }
        None
    }

    /// The counter of a slot.
    pub(super) fn get(&self, slot: usize) -> Count {
        match self {
            Chunk::Narrow(slots) => {
                let slot = slots.get(slot).copied().unwrap_or(0);
                Count {
                    references: u64::from(slot & NARROW_MAX),
                    flag_set: slot & NARROW_SET != 0,
                    flag_clear: slot & NARROW_CLEAR != 0,
                }
            }
            Chunk::Wide(slots) => {
                let slot = slots.get(slot).copied().unwrap_or(0);
                Count {
                    references: slot & WIDE_MAX,
                    flag_set: slot & WIDE_SET != 0,
                    flag_clear: slot & WIDE_CLEAR != 0,
                }
            }
        }
    }
}

/// The counters of a window of host clusters.
pub(super) struct Counts {
    start: u64,
    end: u64,
    chunks: Vec<Option<Chunk>>,
    used: usize,
    budget: usize,
}

impl Counts {
    /// Counters for clusters from `start` (a multiple of [`CHUNK`]) up to `end` at most.
    pub(super) fn new(start: u64, end: u64) -> Self {
        Self::with_budget(start, end, BUDGET)
    }

    fn with_budget(start: u64, end: u64, budget: usize) -> Self {
        let chunks = to_usize(end.saturating_sub(start).div_ceil(CHUNK));
        Self {
            start,
            end,
            chunks: std::iter::repeat_with(|| None).take(chunks).collect(),
            used: 0,
            budget,
        }
    }

    /// First cluster of the window.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// First cluster behind the window. It falls as memory runs out.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Adds `times` references to each of `len` clusters from `first` on. Clusters outside the
    /// window are passed over.
    pub(super) fn add(&mut self, first: u64, len: u64, times: u64, copied: Copied) {
        let mut at = first.max(self.start);
        let last = first.saturating_add(len);
        while at < last.min(self.end) {
            let index = to_usize((at - self.start) >> CHUNK_BITS);
            let slot = (at - self.start) % CHUNK;
            let stop = CHUNK.min(slot + (last.min(self.end) - at));
            self.add_in_chunk(index, to_usize(slot), to_usize(stop), times, copied);
            at += stop - slot;
        }
    }

    fn add_in_chunk(&mut self, index: usize, slot: usize, stop: usize, times: u64, copied: Copied) {
        let Some(place) = self.chunks.get_mut(index) else {
            return;
        };
        let (mut before, mut grown) = (0, false);
        let chunk = match place {
            Some(chunk) => {
                before = chunk.bytes();
                chunk
            }
            none => {
                grown = true;
                none.insert(Chunk::new())
            }
        };
        if let Some(full) = chunk.add(slot, stop, times, copied) {
            chunk.widen();
            grown = true;
            chunk.add(full, stop, times, copied);
        }
        if grown {
            self.used += chunk.bytes() - before;
            self.shrink();
        }
    }

    /// Drops the highest chunks until the budget is kept.
    fn shrink(&mut self) {
        while self.used > self.budget && self.chunks.len() > 1 {
            if let Some(Some(chunk)) = self.chunks.pop() {
                self.used -= chunk.bytes();
            }
            self.end = self.end.min(self.start + to_u64(self.chunks.len()) * CHUNK);
        }
    }

    /// The counter of a cluster; zero outside the window.
    pub(super) fn get(&self, cluster: u64) -> Count {
        let slot = to_usize(cluster.saturating_sub(self.start) % CHUNK);
        match self.chunk(cluster) {
            Some(chunk) if cluster >= self.start => chunk.get(slot),
            _ => Count::default(),
        }
    }

    /// A run of `len` clusters from `from` on that nothing refers to, the first there is;
    /// `None` when it would reach past the end of the window.
    pub(super) fn free_run(&self, from: u64, len: u64) -> Option<u64> {
        let (mut start, mut at) = (from.max(self.start), from.max(self.start));
        while at - start < len {
            if at >= self.end {
                return None;
            }
            if self.chunk(at).is_none() {
                at = ((at - self.start) / CHUNK + 1) * CHUNK + self.start;
            } else if self.get(at).references == 0 {
                at += 1;
            } else {
                at += 1;
                start = at;
            }
        }
        (start + len <= self.end).then_some(start)
    }

    /// The first cluster of a range that something refers to.
    pub(super) fn first_used(&self, range: std::ops::Range<u64>) -> Option<u64> {
        let mut at = range.start.max(self.start);
        let end = range.end.min(self.end);
        while at < end {
            if self.chunk(at).is_none() {
                at = ((at - self.start) / CHUNK + 1) * CHUNK + self.start;
            } else if self.get(at).references > 0 {
                return Some(at);
            } else {
                at += 1;
            }
        }
        None
    }

    /// The chunk that holds a cluster of the window, unless nothing refers to any of it.
    pub(super) fn chunk(&self, cluster: u64) -> Option<&Chunk> {
        let index = to_usize(cluster.checked_sub(self.start)? >> CHUNK_BITS);
        self.chunks.get(index)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_past_what_a_narrow_chunk_holds() {
        let mut counts = Counts::new(0, 100_000);
        counts.add(32_760, 20, 16_383, Copied::Set);
        counts.add(32_765, 1, 1, Copied::Clear);
        counts.add(32_765, 1, u64::MAX, Copied::Silent);
        let both = counts.get(32_765);
        assert!(both.flag_set && both.flag_clear && both.references > 1 << 60);
        let one = Count {
            references: 16_383,
            flag_set: true,
            flag_clear: false,
        };
        assert_eq!(counts.get(32_760), one);
        assert_eq!(counts.get(32_779), one);
        assert_eq!(counts.get(32_780), Count::default());
    }

    #[test]
    fn memory_stays_within_its_budget_and_what_remains_is_right() {
        let chunk = 2 * to_usize(CHUNK);
        let mut counts = Counts::with_budget(CHUNK, 100 * CHUNK, 3 * chunk);
        for n in (1..100).rev() {
            counts.add(n * CHUNK + 5, 1, 2, Copied::Silent);
        }
        assert!(counts.used <= 3 * chunk);
        assert_eq!(counts.end(), 4 * CHUNK);
        for n in 1..4 {
            assert_eq!(counts.get(n * CHUNK + 5).references, 2);
        }
        assert_eq!(counts.get(5).references, 0);
        assert_eq!(counts.get(4 * CHUNK + 5).references, 0);
    }
}
