//! The course: chains made for lessons, what their guests write, and what they read.

use super::LayerId;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Makes the chain of a recipe and opens it in place of what is open.
    Make { recipe: String },
    /// Opens the chain that a worker which is no more left behind, in its folder.
    Adopt { folder: String },
    /// A guest writes to a layer: `3M"text"`, as in recipes.
    Write { layer: LayerId, writes: String },
    /// Deletes files.
    Delete { layers: Vec<LayerId> },
    /// What each layer's guest reads at these places: offset and number of bytes.
    Peek { places: Vec<(u64, u32)> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done; the tree has been sent. With the worker's folder in the origin-private file system.
    Done {
        folder: String,
    },
    Failed(String),
    Peeked(Vec<Peeked>),
}

/// What a layer's guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peeked {
    pub layer: LayerId,
    /// The text at each place; "" for zeros. `None` when it cannot be read.
    pub texts: Vec<Option<String>>,
    /// Names of the internal snapshots.
    pub snapshots: Vec<String>,
    /// Errors that a check of the file finds.
    pub errors: u64,
}
