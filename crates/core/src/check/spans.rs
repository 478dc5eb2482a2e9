//! Ranges that overlap, as disjoint spans with the number of ranges on each.
//!
//! A hostile image can name 65536 snapshots whose L1 tables are the same 32 MiB. Walking spans
//! instead of tables reads every byte of the file once, however often it is named.

/// A range of bytes that is part of `times` tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// First byte.
    pub(super) start: u64,
    /// First byte behind it.
    pub(super) end: u64,
    /// Tables it is part of.
    pub(super) times: u64,
    /// Whether the active L1 table is one of them.
    pub(super) active: bool,
}

/// Collects ranges.
#[derive(Default)]
pub(super) struct Ranges(Vec<Span>);

impl Ranges {
    /// Adds a range of `len` bytes, one table's.
    pub(super) fn add(&mut self, start: u64, len: u64, active: bool) {
        if len > 0 {
            let end = start.saturating_add(len);
            self.0.push(Span {
                start,
                end,
                times: 1,
                active,
            });
        }
    }

    /// The disjoint spans in order.
    pub(super) fn spans(&self) -> Vec<Span> {
        let mut edges: Vec<(u64, bool, bool)> = Vec::with_capacity(self.0.len() * 2);
        for range in &self.0 {
            edges.push((range.start, true, range.active));
            edges.push((range.end, false, range.active));
        }
        edges.sort_unstable();
        let mut spans = Vec::new();
        let (mut times, mut active, mut from) = (0u64, 0u64, 0);
        for (at, opens, is_active) in edges {
            if at > from && times > 0 {
                spans.push(Span {
                    start: from,
                    end: at,
                    times,
                    active: active > 0,
                });
            }
            from = at;
            let by = u64::from(is_active);
            (times, active) = if opens {
                (times + 1, active + by)
            } else {
                (times.saturating_sub(1), active.saturating_sub(by))
            };
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_one_span_with_its_number_of_ranges() {
        let mut ranges = Ranges::default();
        let list = [
            (10, 5, true),
            (0, 30, false),
            (12, 10, false),
            (12, 10, false),
            (40, 0, true),
            (40, 2, false),
        ];
        for (start, len, active) in list {
            ranges.add(start, len, active);
        }
        let spans = ranges.spans();
        assert!(spans.windows(2).all(|w| w[0].end <= w[1].start));
        for byte in 0..50 {
            let holds = |r: &&(u64, u64, bool)| r.0 <= byte && byte < r.0 + r.1;
            let want = list.iter().filter(holds).count() as u64;
            let span = spans.iter().find(|s| s.start <= byte && byte < s.end);
            assert_eq!(span.map_or(0, |s| s.times), want, "byte {byte}");
            let active = list.iter().filter(holds).any(|r| r.2);
            assert_eq!(span.is_some_and(|s| s.active), active, "byte {byte}");
        }
    }
}
