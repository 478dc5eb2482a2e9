//! The proof that an operation changed nothing else: what each image showed before and after.

use super::Saved;
use serde::{Deserialize, Serialize};

/// What was found, sent before the run's outcome.
#[derive(Debug, Serialize, Deserialize)]
pub struct Proof {
    pub images: Vec<Image>,
    /// Images that were not compared: names and reasons.
    pub left_out: Vec<(String, String)>,
    /// Why there is no proof.
    pub missing: Option<String>,
    /// All of it as JSON, to be saved.
    pub receipt: Option<Saved>,
}

/// An image that was hashed twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub name: String,
    /// It is compared with what this other image showed: what a layer was merged into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<String>,
    /// Bytes of the guest's disk, and how many of them, from the start, are compared.
    pub virtual_size: u64,
    pub compared: u64,
    /// BLAKE3 of those bytes.
    pub before: String,
    /// `None` when they cannot be read any more.
    pub after: Option<String>,
    pub identical: bool,
    /// What else is to be said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Proof {
    /// Number of images that do not show what they did.
    #[must_use]
    pub fn different(&self) -> usize {
        self.images.iter().filter(|image| !image.identical).count()
    }
}
