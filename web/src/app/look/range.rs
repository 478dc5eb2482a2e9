//! A window on a long line of bytes, moved and zoomed.

/// Bytes `start..end` of `0..size`; never empty unless the size is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub start: u64,
    pub end: u64,
    pub size: u64,
}

/// The closest a view gets, in bytes.
const CLOSEST: u64 = 4096;

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

    #[must_use]
    pub fn width(self) -> u64 {
        self.end - self.start
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

    /// What a key does to the view; `None` for keys that mean nothing here.
    #[must_use]
    pub fn keyed(self, key: &str) -> Option<Self> {
        Some(match key {
            "+" | "=" => self.zoomed(2.0, 0.5),
            "-" => self.zoomed(0.5, 0.5),
            "ArrowRight" => self.moved(0.1),
            "ArrowLeft" => self.moved(-0.1),
            "PageDown" => self.moved(0.9),
            "PageUp" => self.moved(-0.9),
            "Home" | "0" => Self::whole(self.size),
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
        assert_eq!(view.width(), 4096);
        assert_eq!(view.moved(-1e12).start, 0);
        assert_eq!(view.moved(1e12).end, view.size);
        assert_eq!(View::whole(100).zoomed(2.0, 0.5), View::whole(100));
        assert_eq!(View::whole(0).moved(1.0).width(), 0);
    }
}
