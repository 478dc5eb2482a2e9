//! qcow2, versions 2 and 3.

mod bitmap;
mod compressed;
mod extension;
mod feature;
mod head;
mod header;
mod l1;
mod l2;
mod refcount;
mod snapshot;
mod subcluster;

pub use bitmap::{BitmapDirectoryEntry, BitmapsExtension};
pub use compressed::{Codec, CompressedCluster};
pub use extension::{Extension, Extensions};
pub use feature::{Feature, FeatureKind, FeatureNames, autoclear, compatible, incompatible};
pub use head::{Backing, Head, MAX_BACKING_NAME};
pub use header::{
    ClusterSize, CryptMethod, HEADER_V2_LEN, HEADER_V3_LEN, Header, MAX_L1_BYTES,
    MAX_REFCOUNT_TABLE_BYTES, Version,
};
pub use l1::L1Entry;
pub use l2::{L2Entry, L2Kind, L2Layout};
pub use refcount::{RefcountBlock, RefcountTableEntry, RefcountWidth};
pub use snapshot::{MAX_SNAPSHOTS, SnapshotEntry};
pub use subcluster::Subclusters;

/// The first four bytes of every qcow2 file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The host offset bits of L1, L2 and refcount table entries: 9 to 55.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
