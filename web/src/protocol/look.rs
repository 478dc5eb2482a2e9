//! Looks into images: the cluster map, the file on disk, and bytes.

use super::LayerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// What to look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Look {
    /// The chain of `layer`: guest bytes `start..end`, cut into `columns`.
    Map {
        layer: LayerId,
        start: u64,
        end: u64,
        columns: u32,
    },
    /// The file of `layer`: bytes `start..end`, cut into `cells`.
    Disk {
        layer: LayerId,
        start: u64,
        end: u64,
        cells: u32,
    },
    /// `len` bytes from `start` on; of another layer, too, to show what differs.
    Bytes {
        layer: LayerId,
        space: Space,
        start: u64,
        len: u32,
        beside: Option<LayerId>,
    },
    /// What is at one place.
    At {
        layer: LayerId,
        space: Space,
        offset: u64,
    },
    /// The next place of `needle` from `start` on.
    Find {
        layer: LayerId,
        space: Space,
        start: u64,
        needle: ByteBuf,
    },
    /// No more looking for bytes.
    StopFinding,
}

impl Look {
    /// Whether `newer` makes this look pointless.
    #[must_use]
    pub fn replaced_by(&self, newer: &Self) -> bool {
        let same = std::mem::discriminant(self) == std::mem::discriminant(newer);
        same || matches!((self, newer), (Self::Find { .. }, Self::StopFinding))
    }
}

/// What offsets count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    /// Bytes of the disk that the guest sees.
    Guest,
    /// Bytes of the file.
    Host,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Seen {
    Map(MapSeen),
    Disk(DiskSeen),
    Bytes(BytesSeen),
    At(AtSeen),
    Find(FindSeen),
    /// A look that came to nothing, and why.
    Failed {
        look: Look,
        why: String,
    },
}

/// A cluster map, complete up to guest byte `done`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapSeen {
    pub layer: LayerId,
    pub start: u64,
    pub end: u64,
    pub columns: u32,
    pub done: u64,
    /// Top first.
    pub lanes: Vec<Lane>,
}

/// One layer of a cluster map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    pub layer: Option<LayerId>,
    pub name: String,
    /// For each column, [`CLASSES`] shares of its width, each from 0 to 255.
    pub cells: ByteBuf,
    /// Bytes of each class in all columns.
    pub totals: [u64; CLASSES],
    /// Why it could not be read to its end.
    pub error: Option<String>,
}

/// Classes of bytes on the map, in this order: data, compressed, zero, shadowed data, shadowed
/// zeros, shared with a snapshot.
pub const CLASSES: usize = 6;

/// A file on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskSeen {
    pub layer: LayerId,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the smallest part that is told apart.
    pub unit: u64,
    pub start: u64,
    pub end: u64,
    /// For each cell, the number of its most telling owner; 255 for none known.
    pub cells: ByteBuf,
    /// Name, number and bytes of each owner that there is.
    pub totals: Vec<(String, u8, u64)>,
    pub done: u64,
    pub total: u64,
    /// What the check found; `None` while it is not done.
    pub findings: Option<Vec<Defect>>,
}

/// A finding of the check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Defect {
    pub text: String,
    /// Where in the file it is about, when it is about one place.
    pub offset: Option<u64>,
    pub leak: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BytesSeen {
    pub layer: LayerId,
    pub space: Space,
    pub start: u64,
    /// Bytes of the whole disk or file.
    pub size: u64,
    pub bytes: ByteBuf,
    /// The same bytes of the other layer.
    pub beside: Option<(LayerId, ByteBuf)>,
    pub fields: Vec<FieldSeen>,
    /// What the first byte is a part of, in words.
    pub owner: String,
}

/// A field of a structure of the format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldSeen {
    pub offset: u64,
    pub len: u64,
    pub name: String,
    pub value: String,
    pub meaning: String,
    /// The place in the file that it points at.
    pub target: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AtSeen {
    pub layer: LayerId,
    pub space: Space,
    pub offset: u64,
    /// Facts in words.
    pub text: String,
    /// The same place in the file, where there is one, and in which layer's.
    pub host: Option<(LayerId, u64)>,
    /// The same place on the guest's disk, where there is one.
    pub guest: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FindSeen {
    pub layer: LayerId,
    pub space: Space,
    /// Bytes of the needle.
    pub len: u32,
    /// Searched up to here.
    pub pos: u64,
    pub end: u64,
    pub hit: Option<u64>,
    /// Nothing more comes of this search.
    pub finished: bool,
}
