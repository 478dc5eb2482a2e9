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
    /// What is at one place, and what `lane`, a layer of the chain, has there itself.
    At {
        layer: LayerId,
        space: Space,
        offset: u64,
        lane: Option<LayerId>,
    },
    /// The next place of `needle` from `start` on, or the last one that begins before it.
    Find {
        layer: LayerId,
        space: Space,
        start: u64,
        needle: ByteBuf,
        back: bool,
    },
    /// Where `layer` and `other` differ next behind `start`, or last before it.
    Differ {
        layer: LayerId,
        other: LayerId,
        space: Space,
        start: u64,
        back: bool,
    },
    /// No more looking for bytes.
    StopFinding,
    /// The guest bytes `start..end` of the chain of `layer` as runs.
    Runs {
        layer: LayerId,
        start: u64,
        end: u64,
    },
    /// The bytes `start..end` of the file of `layer` as runs of one owner.
    Owners {
        layer: LayerId,
        start: u64,
        end: u64,
    },
    /// The check of a file that is too large to be checked unasked.
    Check { layer: LayerId },
}

impl Look {
    /// Whether `newer` makes this look pointless.
    #[must_use]
    pub fn replaced_by(&self, newer: &Self) -> bool {
        let seeks = |look: &Self| {
            matches!(
                look,
                Self::Find { .. } | Self::Differ { .. } | Self::StopFinding
            )
        };
        let same = std::mem::discriminant(self) == std::mem::discriminant(newer);
        same || seeks(self) && seeks(newer)
    }
}

/// What offsets count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    /// Bytes of the disk that the guest sees.
    #[default]
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
    /// The search was stopped.
    FindingStopped,
    Runs(RunsSeen),
    Owners(OwnersSeen),
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
    /// The file is so large that it is checked only when asked for.
    pub unchecked: bool,
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
    /// The number of the first byte's owner; 255 where there is none or it is not known.
    pub kind: u8,
    /// The same place in the file of a layer, for guest bytes that are there as they are.
    pub host: Option<(LayerId, u64)>,
}

/// A field of a structure of the format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldSeen {
    pub offset: u64,
    pub len: u64,
    /// The number of the owner whose structure it is a part of.
    pub kind: u8,
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
    /// The layer that was asked about, what it has there itself in words, and where.
    pub lane: Option<(LayerId, String, Option<u64>)>,
}

/// How far a search for bytes or differences has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FindSeen {
    pub layer: LayerId,
    pub space: Space,
    /// Bytes of the needle; 1 for a difference.
    pub len: u32,
    /// Differences were looked for.
    pub differ: bool,
    /// Towards the start.
    pub back: bool,
    /// Bytes that are done with, of all there were to search.
    pub done: u64,
    pub total: u64,
    pub hit: Option<u64>,
    /// Nothing more comes of this search.
    pub finished: bool,
    /// It was stopped before its end.
    pub stopped: bool,
}

/// Guest ranges, as `qemu-img map` lists them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunsSeen {
    pub layer: LayerId,
    pub start: u64,
    pub end: u64,
    pub runs: Vec<Run>,
    /// There are more.
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub start: u64,
    pub len: u64,
    /// The layer that decides.
    pub layer: Option<LayerId>,
    pub name: String,
    pub what: String,
    /// Offset in its file, where the bytes are there as they are.
    pub host: Option<u64>,
}

/// Parts of a file with one owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnersSeen {
    pub layer: LayerId,
    pub start: u64,
    pub end: u64,
    /// First byte, bytes, number of the owner (255: not known), its name.
    pub runs: Vec<(u64, u64, u8, String)>,
    pub more: bool,
}
