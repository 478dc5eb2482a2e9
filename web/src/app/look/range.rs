//! A window on a long line of bytes, moved and zoomed.

/// Bytes `start..end` of `0..size`; never empty unless the size is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub start: u64,
    pub end: u64,
    pub size: u64,
}

/// The closest a view gets, in bytes.
const CLOSEST: u64 = 512;

impl View {
    /// All of it.
    #[must_use]
    pub fn whole(size: u64) -> Self {
        Self {
            start: 0,
            end: size,
            size,
        }
    }

    /// Bytes `part` of it, or all when there are none in it.
    #[must_use]
    pub fn part(size: u64, part: Option<(u64, u64)>) -> Self {
        let Some((start, end)) = part else {
            return Self::whole(size);
        };
        let (start, end) = (start.min(size), end.min(size));
        if start >= end {
            return Self::whole(size);
        }
        let len = (end - start).max(CLOSEST.min(size));
        let start = start.min(size - len);
        Self {
            start,
            end: start + len,
            size,
        }
    }

    #[must_use]
    pub fn width(self) -> u64 {
        self.end - self.start
    }

    #[must_use]
    pub fn contains(self, at: u64) -> bool {
        (self.start..self.end).contains(&at)
    }

    /// Which part of the view, from 0 to 1, the byte `at` is at.
    #[must_use]
    pub fn part_of(self, at: u64) -> f64 {
        crate::app::text::share(at.saturating_sub(self.start), self.width())
    }

    /// Moved so far that `at` is in it.
    #[must_use]
    pub fn showing(self, at: u64) -> Self {
        if self.contains(at) || self.size == 0 {
            return self;
        }
        let at = at.min(self.size - 1);
        let width = self.width();
        let start = if at < self.start {
            at
        } else {
            at + 1 - width.min(at + 1)
        };
        let start = start.min(self.size - width);
        Self {
            start,
            end: start + width,
            size: self.size,
        }
    }

    /// What is shown, in words: exactly where that is a small part of the whole.
    #[must_use]
    pub fn words(self) -> String {
        use crate::app::text::bytes;
        if self.width() < self.size / 100 {
            format!(
                "{:#x} – {:#x} ({}) of {}",
                self.start,
                self.end,
                bytes(self.width()),
                bytes(self.size)
            )
        } else {
            let (start, end) = (bytes(self.start), bytes(self.end));
            format!("{start} – {end} of {}", bytes(self.size))
        }
    }

    /// The byte at `part` (0 to 1) of the view.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place on the screen is no more exact than this"
    )]
    pub fn at(self, part: f64) -> u64 {
        let by = (self.width() as f64 * part.clamp(0.0, 1.0)) as u64;
        self.start + by.min(self.width().saturating_sub(1))
    }

    /// Shows `1 / factor` as much, with the byte at `part` staying where it is.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place on the screen is no more exact than this"
    )]
    pub fn zoomed(self, factor: f64, part: f64) -> Self {
        let fixed = self.at(part);
        let len = (self.width() as f64 / factor) as u64;
        let len = len.clamp(CLOSEST.min(self.size), self.size);
        let before = (len as f64 * part.clamp(0.0, 1.0)) as u64;
        let start = fixed.saturating_sub(before).min(self.size - len);
        Self {
            start,
            end: start + len,
            size: self.size,
        }
    }

    /// Moves by `part` of the view, to the right when positive.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place on the screen is no more exact than this"
    )]
    pub fn moved(self, part: f64) -> Self {
        let by = (self.width() as f64 * part.abs()) as u64;
        let start = if part < 0.0 {
            self.start.saturating_sub(by)
        } else {
            self.start.saturating_add(by).min(self.size - self.width())
        };
        Self {
            start,
            end: start + self.width(),
            size: self.size,
        }
    }

    /// What a key does to the view; `None` for keys that mean nothing here. Zooming keeps `at`
    /// where it is on the screen.
    #[must_use]
    pub fn keyed(self, key: &str, at: Option<u64>) -> Option<Self> {
        let middle = at.filter(|at| self.contains(*at));
        let middle = middle.map_or(0.5, |at| self.part_of(at));
        Some(match key {
            "+" | "=" => self.zoomed(2.0, middle),
            "-" => self.zoomed(0.5, middle),
            "PageDown" => self.moved(0.9),
            "PageUp" => self.moved(-0.9),
            "Home" | "0" => Self::whole(self.size),
            "End" => self.moved(f64::MAX),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::View;
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn a_view_stays_inside_and_keeps_the_point_under_the_pointer() {
        let mut view = View::whole(1 << 40);
        let fixed = view.at(0.25);
        for _ in 0..40 {
            view = view.zoomed(2.0, 0.25);
            assert!(view.start < view.end && view.end <= view.size);
            assert!((view.start..=view.end).contains(&fixed), "{view:?} {fixed}");
        }
        assert_eq!(view.width(), 512);
        assert_eq!(view.moved(-1e12).start, 0);
        assert_eq!(view.moved(1e12).end, view.size);
        assert_eq!(View::whole(100).zoomed(2.0, 0.5), View::whole(100));
        assert_eq!(View::whole(0).moved(1.0).width(), 0);
    }

    #[wasm_bindgen_test]
    fn a_view_follows_a_place_and_comes_back_from_numbers() {
        let view = View::part(1 << 40, Some((4096, 8192)));
        assert_eq!((view.start, view.end), (4096, 8192));
        assert_eq!(view.showing(5000), view);
        assert_eq!(view.showing(0).start, 0);
        assert_eq!(view.showing(8192).end, 8193);
        assert_eq!(view.showing(u64::MAX).end, 1 << 40);
        for part in [None, Some((9, 9)), Some((1 << 41, 1 << 42))] {
            assert_eq!(View::part(1 << 40, part), View::whole(1 << 40));
        }
        assert_eq!(View::part(100, Some((99, 100))), View::whole(100));
    }
}
