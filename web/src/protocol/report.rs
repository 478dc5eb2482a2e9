//! What was found about all files, as one file to keep.

use super::{Progress, Saved};
use serde::{Deserialize, Serialize};

/// What a report is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// For programs.
    Json,
    /// For people: one page that needs nothing else.
    Html,
}

/// Asks for a report on all files. [`Request::Cancel`](super::Request::Cancel) stops it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub format: Format,
}

/// What comes of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Progress(Progress),
    Ready(Saved),
    Cancelled,
    /// In words.
    Failed(String),
}
