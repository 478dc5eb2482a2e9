//! Changes that are tried without writing, and applied together.

use super::{FileWrite, Kind, Operation, Outcome, Progress};
use serde::{Deserialize, Serialize};

/// What the page asks for. Until [`Ask::Apply`] nothing is written.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Tries an operation on top of what is staged: the tree and all looks show it from then on.
    Try { operation: Operation },
    /// Takes the last change back.
    Undo,
    /// Puts the change back that was taken back last.
    Redo,
    /// Takes all changes back, for good.
    Discard,
    /// Carries the changes out, one after the other. Files of the gifts in `read_only` may not
    /// be written.
    Apply { read_only: Vec<u32> },
}

/// What the worker says about it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// What is staged now. A tree follows.
    Stack(Stack),
    /// The last wish was not fulfilled, and nothing has changed: why.
    Failed(String),
    /// How far the applying is: the change with this number, and what is done for it. No number
    /// while the files are copied, as not all can be written in place.
    Applying {
        nth: Option<usize>,
        progress: Progress,
    },
    /// The applying has ended. What is staged still, and the tree, were sent before.
    Applied(Outcome),
}

/// Staged changes, the first one first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    pub done: Vec<Change>,
    /// Taken back; the last one is put back first.
    pub undone: Vec<Change>,
}

/// One staged change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub kind: Kind,
    /// One sentence: what becomes of what.
    pub summary: String,
    pub writes: Vec<FileWrite>,
    /// The gifts whose files it writes in place.
    pub gifts: Vec<u32>,
    /// Names of the images that read differently afterwards.
    pub invalid: Vec<String>,
}
