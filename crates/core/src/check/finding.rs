//! What a check can find, and the sum of it.

use serde::Serialize;
use std::fmt;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Space is lost, nothing else.
    Leak,
    /// Data may be wrong, or further writes may destroy data.
    Corruption,
    /// A part of the image could not be checked.
    CheckError,
}

/// One thing that is wrong with an image. Its text has the words of `qemu-img check` where
/// qemu-img has words for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Finding {
    /// A cluster's refcount is higher than the number of references to it.
    Leak {
        /// Host cluster number.
        cluster: u64,
        /// As stored.
        refcount: u64,
        /// As counted.
        references: u64,
    },
    /// A cluster's refcount is lower than the number of references to it.
    RefcountTooLow {
        /// Host cluster number.
        cluster: u64,
        /// As stored.
        refcount: u64,
        /// As counted.
        references: u64,
    },
    /// More references than the image's refcounts can hold.
    RefcountOverflow {
        /// Byte offset of the host cluster.
        offset: u64,
    },
    /// Something is said to lie behind the end of the file.
    PastEnd {
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// Reserved bits of an L1 entry are set.
    L1Reserved {
        /// The entry.
        entry: u64,
    },
    /// An L2 table does not start at a cluster boundary.
    L2TableMisaligned {
        /// Where it starts.
        offset: u64,
    },
    /// Reserved bits of an L2 entry are set.
    L2Reserved {
        /// The entry.
        entry: u64,
    },
    /// A host cluster does not start at a cluster boundary.
    ClusterMisaligned {
        /// Where it starts.
        offset: u64,
        /// It holds data, rather than being kept for later.
        data: bool,
    },
    /// A subcluster is both allocated and zero.
    Subclusters {
        /// The host cluster.
        offset: u64,
    },
    /// Subclusters are allocated, but there is no host cluster.
    SubclustersWithoutCluster,
    /// A compressed cluster has the copied flag.
    CompressedCopied {
        /// Where its bytes start.
        offset: u64,
    },
    /// A compressed cluster has a subcluster bitmap.
    CompressedSubclusters {
        /// Index in its L2 table.
        index: u64,
        /// The entry.
        entry: u64,
    },
    /// A compressed cluster in an image whose data is in another file.
    CompressedInDataFile {
        /// Index in its L2 table.
        index: u64,
        /// The entry.
        entry: u64,
    },
    /// The copied flag of an L1 entry disagrees with the L2 table's refcount.
    L1Copied {
        /// Index in the active L1 table.
        index: u64,
        /// The entry.
        entry: u64,
        /// The L2 table's refcount as stored.
        refcount: u64,
    },
    /// The copied flag of an L2 entry disagrees with the cluster's refcount.
    L2Copied {
        /// The entry.
        entry: u64,
        /// The cluster's refcount as stored.
        refcount: u64,
    },
    /// Reserved bits of a refcount table entry are set.
    RefcountTableReserved {
        /// Its index.
        index: u64,
    },
    /// A refcount block does not start at a cluster boundary.
    RefcountBlockMisaligned {
        /// Index in the refcount table.
        index: u64,
    },
    /// A refcount block lies behind the end of the file.
    RefcountBlockOutside {
        /// Index in the refcount table.
        index: u64,
    },
    /// A refcount block's cluster is used for something else too.
    RefcountBlockShared {
        /// Index in the refcount table.
        index: u64,
        /// References to it as counted.
        references: u64,
    },
    /// A snapshot's L1 table does not start at a cluster boundary.
    SnapshotL1Misaligned {
        /// The snapshot's ID.
        id: String,
        /// The snapshot's name.
        name: String,
        /// Where the table starts.
        offset: u64,
    },
    /// A snapshot's L1 table is larger than any can be.
    SnapshotL1TooLarge {
        /// The snapshot's ID.
        id: String,
        /// The snapshot's name.
        name: String,
        /// Its entries.
        entries: u32,
    },
    /// A snapshot lacks fields that version 3 requires.
    SnapshotIncomplete {
        /// Index in the snapshot table.
        index: u32,
    },
    /// Internal snapshots in an image whose data is in another file.
    SnapshotsWithDataFile {
        /// Their number.
        count: u32,
    },
    /// More snapshots than any image can have.
    SnapshotsOverhanging {
        /// Snapshots too many.
        count: u32,
        /// The table would be too long, rather than have too many entries.
        too_big: bool,
    },
    /// A snapshot has more extra data than any can have.
    SnapshotExtra {
        /// Index in the snapshot table.
        index: u32,
        /// Its bytes.
        len: u32,
    },
    /// A refcount could not be read.
    RefcountUnreadable {
        /// Host cluster number.
        cluster: u64,
    },
    /// A structure could not be read, or is so damaged that it was passed over.
    Unreadable {
        /// What and why, in one sentence without a full stop.
        message: String,
    },
}

impl Finding {
    /// The host clusters it is about, in an image with clusters of `1 << cluster_bits` bytes.
    pub fn cluster(&self, cluster_bits: u32) -> Option<u64> {
        match self {
            Finding::Leak { cluster, .. } | Finding::RefcountTooLow { cluster, .. } => {
                Some(*cluster)
            }
            Finding::RefcountOverflow { offset }
            | Finding::L2TableMisaligned { offset }
            | Finding::ClusterMisaligned { offset, .. }
            | Finding::PastEnd { offset, .. } => Some(offset >> cluster_bits),
            _ => None,
        }
    }

    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Finding::Leak { .. } => Severity::Leak,
            Finding::RefcountUnreadable { .. } | Finding::Unreadable { .. } => Severity::CheckError,
            _ => Severity::Corruption,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Finding as F;
        match self {
            F::Leak {
                cluster,
                refcount,
                references,
            } => write!(
                f,
                "Leaked cluster {cluster} refcount={refcount} reference={references}"
            ),
            F::RefcountTooLow {
                cluster,
                refcount,
                references,
            } => write!(
                f,
                "ERROR cluster {cluster} refcount={refcount} reference={references}"
            ),
            F::RefcountOverflow { offset } => write!(
                f,
                "ERROR: overflow cluster offset={offset:#x}\nUse qemu-img amend to increase the \
                 refcount entry width or qemu-img convert to create a clean copy if the image \
                 cannot be opened for writing"
            ),
            F::PastEnd { offset, size } => write!(
                f,
                "ERROR: counting reference for region exceeding the end of the file by one \
                 cluster or more: offset {offset:#x} size {size:#x}"
            ),
            F::L1Reserved { entry } => {
                write!(f, "ERROR found L1 entry with reserved bits set: {entry:x}")
            }
            F::L2TableMisaligned { offset } => write!(
                f,
                "ERROR l2_offset={offset:x}: Table is not cluster aligned; L1 entry corrupted"
            ),
            F::L2Reserved { entry } => {
                write!(f, "ERROR found l2 entry with reserved bits set: {entry:x}")
            }
            F::ClusterMisaligned { offset, data } => {
                let kind = if *data { "Data" } else { "Preallocated" };
                write!(
                    f,
                    "ERROR offset={offset:x}: {kind} cluster is not properly aligned; L2 entry \
                     corrupted."
                )
            }
            F::Subclusters { offset } => write!(
                f,
                "ERROR offset={offset:x}: Allocated cluster has corrupted subcluster allocation \
                 bitmap"
            ),
            F::SubclustersWithoutCluster => {
                f.write_str("ERROR: Unallocated cluster has non-zero subcluster allocation map")
            }
            F::CompressedCopied { offset } => write!(
                f,
                "ERROR: coffset={offset:#x}: copied flag must never be set for compressed clusters"
            ),
            F::CompressedSubclusters { index, entry } => write!(
                f,
                "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, \
                 entry={entry:#x}"
            ),
            F::CompressedInDataFile { index, entry } => write!(
                f,
                "ERROR compressed cluster {index} with data file, entry={entry:#x}"
            ),
            F::L1Copied {
                index,
                entry,
                refcount,
            } => write!(
                f,
                "ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} \
                 refcount={refcount}"
            ),
            F::L2Copied { entry, refcount } => write!(
                f,
                "ERROR OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={refcount}"
            ),
            F::RefcountTableReserved { index } => {
                write!(
                    f,
                    "ERROR refcount table entry {index} has reserved bits set"
                )
            }
            F::RefcountBlockMisaligned { index } => write!(
                f,
                "ERROR refcount block {index} is not cluster aligned; refcount table entry \
                 corrupted"
            ),
            F::RefcountBlockOutside { index } => {
                write!(f, "ERROR refcount block {index} is outside image")
            }
            F::RefcountBlockShared { index, references } => {
                write!(f, "ERROR refcount block {index} refcount={references}")
            }
            F::SnapshotL1Misaligned { id, name, offset } => write!(
                f,
                "ERROR snapshot {id} ({name}) l1_offset={offset:#x}: L1 table is not cluster \
                 aligned; snapshot table entry corrupted"
            ),
            F::SnapshotL1TooLarge { id, name, entries } => write!(
                f,
                "ERROR snapshot {id} ({name}) l1_size={entries:#x}: L1 table is too large; \
                 snapshot table entry corrupted"
            ),
            F::SnapshotIncomplete { index } => {
                write!(f, "ERROR snapshot table entry {index} is incomplete")
            }
            F::SnapshotsWithDataFile { count } => {
                write!(f, "ERROR {count} snapshots in image with data file")
            }
            F::SnapshotsOverhanging { count, too_big } => {
                let why = if *too_big {
                    " (snapshot table is too big)"
                } else {
                    ""
                };
                write!(f, "Discarding {count} overhanging snapshots{why}")
            }
            F::SnapshotExtra { index, len } => write!(
                f,
                "Discarding too much extra metadata in snapshot table entry {index} ({len} > 1024)"
            ),
            F::RefcountUnreadable { cluster } => write!(
                f,
                "Can't get refcount for cluster {cluster}: Input/output error"
            ),
            F::Unreadable { message } => write!(f, "ERROR {message}"),
        }
    }
}
