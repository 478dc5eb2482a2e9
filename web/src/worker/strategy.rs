//! Which way a file gets its new content: the cheapest safe one, and why.
//!
//! Costs are counted in bytes that the browser copies, writes or reads, weighed by what
//! measurements say (`docs/decisions/0008-browser-writes.md`): copying a file in the browser and
//! writing it from pieces take about as long a byte, reading takes half of that. At the end the
//! browser reads what it puts in place once more, whichever way it was written.

use super::files::Entry;
use super::source::size_of;
use crate::app::text::bytes;
use backchain::plan::FileChange;

/// How a file gets its new content. Each way has its price; none touches the original before
/// the writer is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Through its handle, starting from a copy of the file that the browser makes.
    Update,
    /// Through its handle, starting from nothing: what stays is copied piece by piece and holes
    /// stay holes.
    Rewrite,
    /// Into a new file for the user to save, as this one cannot be written.
    SaveCopy,
    /// In the origin-private file system, where a browser need not check what is written.
    Private,
}

/// The chosen way for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub strategy: Strategy,
    /// What is done, and why so.
    pub words: String,
    /// Free space needed until the old file is gone. Beside the file, or in the browser's own
    /// storage ([`Strategy::in_browser`]).
    pub temporary: u64,
}

/// Files up to this size are copied in no time: nothing needs to be found out about them.
const SMALL: u64 = 16 << 20;
/// While the browser copies a file, nobody can tell how far it is, or stop it. What is copied
/// beyond this counts twice.
const PATIENCE: u64 = 512 << 20;

/// What is known about a file that is to be changed, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    /// Its length now.
    len: u64,
    /// How much of it is not zeros.
    data: u64,
    /// Where its zeros are is known: nobody needs to look for them.
    surveyed: bool,
    /// What the plan writes.
    written: u64,
    /// Its length afterwards.
    after: u64,
}

impl Strategy {
    #[must_use]
    pub fn in_place(self) -> bool {
        self != Self::SaveCopy
    }

    /// Written in the browser's own storage.
    #[must_use]
    pub fn in_browser(self) -> bool {
        matches!(self, Self::SaveCopy | Self::Private)
    }

    /// Starts from an empty file, which has to be given what stays of the old one.
    #[must_use]
    pub fn from_nothing(self) -> bool {
        matches!(self, Self::Rewrite | Self::SaveCopy)
    }
}

impl Way {
    /// The way for this file, to which a plan does `change`. Gifts in `read_only` may not be
    /// written.
    #[must_use]
    pub fn of(entry: &Entry, read_only: &[u32], change: Option<&FileChange>) -> Self {
        let len = size_of(&entry.file);
        let source = entry.source.inner();
        let known = source.known_data();
        let facts = |data| Facts {
            len,
            data,
            surveyed: known.is_some(),
            written: change.map_or(0, |change| change.written),
            after: change.map_or(len, |change| change.len_after),
        };
        if entry.private {
            return Self::private(facts(len));
        }
        if entry.planned {
            // It is there once the change before is applied.
            return facts(len).updated();
        }
        if entry.handle.is_none() || read_only.contains(&entry.gift) {
            let why = if entry.handle.is_none() {
                "This browser gives no way to write the file itself"
            } else {
                "There is no permission to write the file itself"
            };
            return Self::save_copy(facts(len), why);
        }
        let data = match known {
            Some(data) => data,
            None if len <= SMALL => len,
            // What cannot be read is told when it is written.
            None => source.sampled_data().unwrap_or(len),
        };
        facts(data).cheapest()
    }

    fn private(facts: Facts) -> Self {
        Self {
            strategy: Strategy::Private,
            words: "Written inside the browser's own storage.".to_owned(),
            temporary: facts.len.max(facts.after),
        }
    }

    fn save_copy(facts: Facts, why: &str) -> Self {
        Self {
            strategy: Strategy::SaveCopy,
            words: format!(
                "{why}: the changed file is made in the browser's own storage and offered to be saved. The original stays as it is."
            ),
            temporary: facts.after,
        }
    }
}

impl Facts {
    /// Of the two ways to write a file in its place, the one that costs less.
    fn cheapest(self) -> Way {
        // Few and simple calls are worth something.
        if self.rewrite() < self.update() / 10 * 9 {
            self.written_anew()
        } else {
            self.updated()
        }
    }

    /// What an update costs.
    fn update(self) -> u64 {
        let copied = self.len.saturating_add(self.len.saturating_sub(PATIENCE));
        copied
            .saturating_add(self.written)
            .saturating_add(self.after)
    }

    /// What writing it anew costs.
    fn rewrite(self) -> u64 {
        let looked_at = if self.surveyed { 0 } else { self.len / 2 };
        looked_at
            .saturating_add(self.data)
            .saturating_add(self.written)
            .saturating_add(self.after)
    }

    fn updated(self) -> Way {
        let small = self.len <= SMALL;
        let first = format!(
            "Updated through its handle: the browser copies the file ({}) first and puts the copy in its place at the end.",
            bytes(self.len)
        );
        Way {
            strategy: Strategy::Update,
            words: if small {
                first
            } else {
                format!("{first} Writing it anew would take longer, as most of it stays as it is.")
            },
            temporary: self.len.max(self.after),
        }
    }

    fn written_anew(self) -> Way {
        let holes = self.len.saturating_sub(self.data);
        let why = if holes > self.len / 10 {
            format!(
                "Only {} of its {} hold data: an update would have the browser copy all of it and fill the holes.",
                bytes(self.data),
                bytes(self.len)
            )
        } else {
            format!(
                "For an update the browser would copy all {} first, without a way to stop it.",
                bytes(self.len)
            )
        };
        Way {
            strategy: Strategy::Rewrite,
            words: format!(
                "Written anew beside the old file, holes kept, and put in its place at the end. {why}"
            ),
            temporary: self.data.saturating_add(self.written).min(self.after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, Strategy};
    use wasm_bindgen_test::wasm_bindgen_test;

    const MIB: u64 = 1 << 20;

    fn way(len: u64, data: u64, surveyed: bool) -> Strategy {
        let facts = Facts {
            len: len * MIB,
            data: data * MIB,
            surveyed,
            written: MIB,
            after: len * MIB,
        };
        facts.cheapest().strategy
    }

    #[wasm_bindgen_test]
    fn full_files_are_updated_unless_they_are_huge() {
        assert_eq!(way(10, 10, false), Strategy::Update);
        assert_eq!(way(300, 300, false), Strategy::Update);
        assert_eq!(way(300, 300, true), Strategy::Update);
        assert_eq!(way(10_000, 10_000, false), Strategy::Rewrite);
    }

    #[wasm_bindgen_test]
    fn files_with_holes_are_written_anew() {
        assert_eq!(way(600, 2, true), Strategy::Rewrite);
        assert_eq!(way(600, 60, false), Strategy::Rewrite);
        assert_eq!(way(600, 500, false), Strategy::Update);
    }

    #[wasm_bindgen_test]
    fn only_what_is_kept_needs_room_when_holes_stay() {
        let facts = Facts {
            len: 600 * MIB,
            data: 2 * MIB,
            surveyed: true,
            written: MIB,
            after: 600 * MIB,
        };
        assert_eq!(facts.cheapest().temporary, 3 * MIB);
        assert_eq!(facts.updated().temporary, 600 * MIB);
    }
}
