//! Numbers of bytes as people read them, in the units they set. Page and worker each have a
//! setting of their own: the page tells the worker.

use serde::{Deserialize, Serialize};
use std::cell::Cell;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Units {
    /// `1.5 GiB`: powers of 1024, as qemu-img has it.
    #[default]
    Binary,
    /// `1.6 GB`: powers of 1000, as disks are sold.
    Decimal,
    /// `1610612736 B`.
    Exact,
}

impl Units {
    pub const ALL: [Self; 3] = [Self::Binary, Self::Decimal, Self::Exact];

    /// The name it is stored by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Decimal => "decimal",
            Self::Exact => "exact",
        }
    }

    /// `count` bytes in these units, to a tenth where that tells something.
    #[must_use]
    pub fn bytes(self, count: u64) -> String {
        let (step, names) = match self {
            Self::Binary => (1024, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]),
            Self::Decimal => (1000, ["kB", "MB", "GB", "TB", "PB", "EB"]),
            Self::Exact => return format!("{} B", grouped(count)),
        };
        if count < step {
            return format!("{count} B");
        }
        let mut divisor = step;
        let mut name = "";
        for next in names {
            name = next;
            if count / divisor < step {
                break;
            }
            // Six names reach beyond what 64 bits count.
            divisor = divisor.saturating_mul(step);
        }
        let tenths = (u128::from(count) * 10 + u128::from(divisor) / 2) / u128::from(divisor);
        if tenths >= 1000 || tenths.is_multiple_of(10) {
            format!("{} {name}", tenths / 10)
        } else {
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
    }
}

/// `1 234 567`, with spaces that do not break.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

thread_local! {
    static NOW: Cell<Units> = const { Cell::new(Units::Binary) };
}

/// Uses these units from now on.
pub fn set(units: Units) {
    NOW.set(units);
}

/// The units in use.
#[must_use]
pub fn now() -> Units {
    NOW.get()
}

/// `count` bytes in the units that are set.
#[must_use]
pub fn bytes(count: u64) -> String {
    NOW.get().bytes(count)
}

#[cfg(test)]
mod tests {
    use super::Units;
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn bytes_are_read_in_every_unit() {
        for (count, binary, decimal, exact) in [
            (0, "0 B", "0 B", "0 B"),
            (1000, "1000 B", "1 kB", "1\u{202f}000 B"),
            (1536, "1.5 KiB", "1.5 kB", "1\u{202f}536 B"),
            (
                1 << 30,
                "1 GiB",
                "1.1 GB",
                "1\u{202f}073\u{202f}741\u{202f}824 B",
            ),
            (
                u64::MAX,
                "16 EiB",
                "18.4 EB",
                "18\u{202f}446\u{202f}744\u{202f}073\u{202f}709\u{202f}551\u{202f}615 B",
            ),
        ] {
            assert_eq!(Units::Binary.bytes(count), binary);
            assert_eq!(Units::Decimal.bytes(count), decimal);
            assert_eq!(Units::Exact.bytes(count), exact);
        }
    }
}
