//! Finding a missing backing file: which of the given files it is, although the overlay's
//! header calls it by another name.

use super::{Granted, LayerId};
use serde::{Deserialize, Serialize};

/// Page to worker. `layer` is an overlay whose backing file is missing, or was located before.
#[derive(Debug, Serialize, Deserialize)]
pub enum Locate {
    /// Asks which of the files here it may be.
    Suggest { layer: LayerId },
    /// Takes a file that is here already.
    Take { layer: LayerId, file: LayerId },
    /// Adds files that were just dropped or picked for it, and takes the one that fits best.
    Give {
        layer: LayerId,
        granted: Vec<Granted>,
    },
    /// Goes back to what the header says.
    Forget { layer: LayerId },
}

/// Worker to page. Whenever links changed, an [`super::Event::Tree`] has been sent before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Located {
    /// What may be the missing file, best first.
    Suggestions {
        layer: LayerId,
        wanted: Wanted,
        suggestions: Vec<Suggestion>,
    },
    /// From now on, and until the page is closed, this is its backing file. A rebase of the link
    /// alone records the file's name.
    Linked { layer: LayerId, file: Suggestion },
    /// The header's own name counts again.
    Forgotten { layer: LayerId },
    /// In words. Nothing was linked.
    Failed { layer: LayerId, why: String },
}

/// What an overlay says about the backing file it misses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// As recorded in the header.
    pub name: String,
    /// The recorded format, "" when there is none.
    pub format: String,
    /// The overlay's own size: a backing file seldom has another one.
    pub virtual_size: Option<u64>,
}

/// A file that may be the missing one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suggestion {
    pub file: LayerId,
    pub name: String,
    pub fit: Fit,
}

/// In what a file agrees with what is wanted. The more telling comes first, so that the greater
/// of two fits is the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fit {
    /// The file name is the recorded one, without regard to folders and to upper and lower case.
    pub name: bool,
    /// Its virtual size is the overlay's.
    pub size: bool,
    /// It is of the recorded format; also when none is recorded.
    pub format: bool,
}

impl Fit {
    /// Good enough to be proposed when nobody pointed at this file: the name alone tells; size
    /// and format only together.
    #[must_use]
    pub fn likely(self) -> bool {
        self.name || self.size && self.format
    }
}
