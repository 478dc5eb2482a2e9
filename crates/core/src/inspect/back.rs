//! Windows that lead backwards through a range: small where there is something to read, large
//! where there is not.

use std::ops::Range;

/// Bytes of a window with something in it.
const SMALLEST: u64 = 16 << 20;
/// Bytes of a window at most.
const LARGEST: u64 = 1 << 40;

/// The windows of `0..end`, last first.
pub(super) struct Windows {
    end: u64,
    len: u64,
}

impl Windows {
    pub(super) fn before(end: u64) -> Self {
        Self { end, len: SMALLEST }
    }

    /// The next window; `None` at the start. `empty`: there was nothing to read in the last one.
    pub(super) fn next(&mut self, empty: bool) -> Option<Range<u64>> {
        if self.end == 0 {
            return None;
        }
        self.len = if empty {
            (self.len * 2).min(LARGEST)
        } else {
            SMALLEST
        };
        let window = self.end.saturating_sub(self.len)..self.end;
        self.end = window.start;
        Some(window)
    }
}
