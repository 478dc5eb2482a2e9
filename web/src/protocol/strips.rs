//! What each layer holds, in the few columns of a bar.

use super::LayerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Columns of a bar: as many as a wide one has pixels to show.
pub const COLUMNS: usize = 240;

/// The layers from `top` down to `bottom`. What hides their data is looked for among these
/// layers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub top: LayerId,
    pub bottom: LayerId,
    /// Guest bytes that the columns stand for, from 0 on: the same for all layers of a tree.
    pub end: u64,
}

/// What was found so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub ask: Ask,
    pub strips: Vec<Strip>,
    /// Nothing more comes.
    pub finished: bool,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Strip {
    pub layer: LayerId,
    /// For each column, [`CLASSES`](super::look::CLASSES) shares of its width, as in
    /// [`Lane::cells`](super::look::Lane::cells).
    pub cells: ByteBuf,
}
