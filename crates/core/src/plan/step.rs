//! Steps: the instructions a plan is made of.

use crate::NodeId;
use backchain_format::HostOffset;
use backchain_format::qcow2::Codec;
use serde::{Deserialize, Serialize};

/// One instruction. Offsets are byte offsets in files, lengths are bytes and never 0.
///
/// Steps between two [`Step::Sync`]s are unordered: they never touch the same bytes, and none
/// reads what any step of the plan writes. A step on a file that the plan creates may come
/// only behind its [`Step::Create`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Step {
    /// Makes the new, empty file `node` (see [`super::NewFile`]).
    Create {
        /// The new file.
        node: NodeId,
    },
    /// Copies bytes as they are from one file to another. Bytes past the end of `from` are
    /// zeros.
    Copy {
        /// Read from this file.
        from: NodeId,
        /// At this offset.
        src: HostOffset,
        /// Write to this file.
        to: NodeId,
        /// At this offset.
        dst: HostOffset,
        /// Bytes.
        len: u64,
        /// `dst` reads as zeros already, so blocks of zeros need not be written.
        sparse: bool,
    },
    /// Unpacks one compressed cluster and writes a part of it.
    Inflate {
        /// Read from this file.
        from: NodeId,
        /// Packed bytes start here.
        src: HostOffset,
        /// Upper limit of their length; may reach past the end of the file.
        len: u64,
        /// How they are packed.
        codec: Codec,
        /// Bytes of the whole unpacked cluster.
        cluster: u64,
        /// First unpacked byte wanted.
        skip: u64,
        /// Unpacked bytes wanted.
        take: u64,
        /// Write to this file.
        to: NodeId,
        /// At this offset.
        dst: HostOffset,
    },
    /// Writes guest bytes that come out of an encrypted image or go into one; carried out by
    /// [`Recoder`](super::Recoder) with the ciphers of [`PlanInfo`](super::PlanInfo).
    Recode {
        /// Where the bytes come from, and how they are decrypted or unpacked.
        origin: Origin,
        /// Write to this file.
        to: NodeId,
        /// At this offset.
        dst: HostOffset,
        /// Encrypt them with the cipher of `to`: the offset in bytes, a multiple of 512, that
        /// the vector of the first sector is made from. `len` is a multiple of 512 then.
        encrypt: Option<u64>,
        /// Bytes.
        len: u64,
        /// `dst` reads as zeros already, so blocks of zeros need not be written. Never where
        /// the bytes are encrypted.
        sparse: bool,
    },
    /// Makes a range read as zeros, by punching a hole where that is possible.
    Zero {
        /// In this file.
        to: NodeId,
        /// From this offset on.
        dst: HostOffset,
        /// Bytes.
        len: u64,
    },
    /// Takes blocks of the disk for a range that reads as zeros, and goes on doing so. May be
    /// left out where there is no such thing.
    Allocate {
        /// In this file.
        to: NodeId,
        /// From this offset on.
        dst: HostOffset,
        /// Bytes.
        len: u64,
        /// Write zeros there rather than only taking the blocks.
        write: bool,
    },
    /// Gives a range that nothing refers to any more back to the file system. May be left out.
    Discard {
        /// In this file.
        to: NodeId,
        /// From this offset on.
        dst: HostOffset,
        /// Bytes.
        len: u64,
    },
    /// Writes bytes of metadata.
    Write {
        /// To this file.
        to: NodeId,
        /// At this offset.
        dst: HostOffset,
        /// What they are.
        kind: MetadataKind,
        /// The bytes.
        #[serde(skip)]
        bytes: Vec<u8>,
    },
    /// Sets the length of a file; new bytes read as zeros.
    SetLen {
        /// Of this file.
        to: NodeId,
        /// Bytes.
        len: u64,
    },
    /// Everything before it is on stable storage, and in this order, before anything behind it.
    Sync {
        /// The file written to.
        node: NodeId,
    },
    /// The last touch of this file: make it durable and let go of it.
    Seal {
        /// The file.
        node: NodeId,
    },
}

/// Where the bytes of a [`Step::Recode`] come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "origin", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Origin {
    /// From nowhere: they are zeros.
    Zeros,
    /// From a file, as they are or encrypted. Bytes past the end of it are zeros, encrypted
    /// ones where the others are.
    Stored {
        /// Read from this file.
        from: NodeId,
        /// At this offset.
        src: HostOffset,
        /// Decrypt them with the cipher of `from`: the offset in bytes that counts for the
        /// first one's sector.
        decrypt: Option<u64>,
    },
    /// From one compressed cluster. These are not encrypted.
    Packed {
        /// Read from this file.
        from: NodeId,
        /// Packed bytes start here.
        src: HostOffset,
        /// Upper limit of their length; may reach past the end of the file.
        packed: u64,
        /// How they are packed.
        codec: Codec,
        /// Bytes of the whole unpacked cluster.
        cluster: u64,
        /// First unpacked byte wanted.
        skip: u64,
    },
}

impl Origin {
    /// The file it reads.
    pub fn source(&self) -> Option<NodeId> {
        match self {
            Origin::Zeros => None,
            Origin::Stored { from, .. } | Origin::Packed { from, .. } => Some(*from),
        }
    }

    /// The origin of the bytes `by` further on.
    #[must_use]
    pub fn advanced(self, by: u64) -> Self {
        match self {
            Origin::Zeros => Origin::Zeros,
            Origin::Stored { from, src, decrypt } => Origin::Stored {
                from,
                src: src.plus(by),
                decrypt: decrypt.map(|at| at.saturating_add(by)),
            },
            Origin::Packed {
                from,
                src,
                packed,
                codec,
                cluster,
                skip,
            } => Origin::Packed {
                from,
                src,
                packed,
                codec,
                cluster,
                skip: skip.saturating_add(by),
            },
        }
    }
}

/// What the bytes of a [`Step::Write`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MetadataKind {
    /// Header and header extensions.
    Header,
    /// The name of the backing file.
    BackingName,
    /// (A part of) an L1 table.
    L1,
    /// (A part of) an L2 table.
    L2,
    /// (A part of) the refcount table.
    RefcountTable,
    /// A refcount block.
    RefcountBlock,
    /// Bitmap directory, tables and bits.
    Bitmap,
    /// LUKS header and key material.
    CryptoHeader,
    /// The table of internal snapshots.
    SnapshotTable,
    /// Compressed clusters: the guest's data, packed by the planner.
    Packed,
}

impl Step {
    /// The file the step writes to.
    pub fn target(&self) -> NodeId {
        match self {
            Step::Create { node } | Step::Sync { node } | Step::Seal { node } => *node,
            Step::Copy { to, .. }
            | Step::Inflate { to, .. }
            | Step::Recode { to, .. }
            | Step::Zero { to, .. }
            | Step::Allocate { to, .. }
            | Step::Discard { to, .. }
            | Step::Write { to, .. }
            | Step::SetLen { to, .. } => *to,
        }
    }

    /// Guest or metadata bytes it writes.
    pub fn bytes(&self) -> u64 {
        match self {
            Step::Copy { len, .. }
            | Step::Zero { len, .. }
            | Step::Allocate {
                len, write: true, ..
            } => *len,
            Step::Inflate { take, .. } => *take,
            Step::Write { bytes, .. } => backchain_format::bytes::to_u64(bytes.len()),
            _ => 0,
        }
    }

    /// Takes `next` in when it continues this step.
    pub(crate) fn merge(&mut self, next: &Step) -> bool {
        match (self, next) {
            (
                Step::Copy {
                    from,
                    src,
                    to,
                    dst,
                    len,
                    sparse,
                },
                Step::Copy {
                    from: f2,
                    src: s2,
                    to: t2,
                    dst: d2,
                    len: l2,
                    sparse: p2,
                },
            ) if (*from, *to, *sparse) == (*f2, *t2, *p2)
                && src.plus(*len) == *s2
                && dst.plus(*len) == *d2 =>
            {
                *len += *l2;
                true
            }
            (
                Step::Recode {
                    origin,
                    to,
                    dst,
                    encrypt,
                    len,
                    sparse,
                },
                Step::Recode {
                    origin: o2,
                    to: t2,
                    dst: d2,
                    encrypt: e2,
                    len: l2,
                    sparse: p2,
                },
            ) if (*to, *sparse) == (*t2, *p2)
                && dst.plus(*len) == *d2
                && encrypt.map(|at| at.saturating_add(*len)) == *e2
                && !matches!(origin, Origin::Packed { .. })
                && origin.advanced(*len) == *o2 =>
            {
                *len += *l2;
                true
            }
            (
                Step::Zero { to, dst, len },
                Step::Zero {
                    to: t2,
                    dst: d2,
                    len: l2,
                },
            )
            | (
                Step::Discard { to, dst, len },
                Step::Discard {
                    to: t2,
                    dst: d2,
                    len: l2,
                },
            ) if to == t2 && dst.plus(*len) == *d2 => {
                *len += *l2;
                true
            }
            _ => false,
        }
    }
}
