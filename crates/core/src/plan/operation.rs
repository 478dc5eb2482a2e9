//! What can be asked of a tree.

use super::convert_zeros::Zeros;
use crate::chain::NodeId;
use crate::check::Fix;
use crate::crypto::{SlotChange, Volume};
use crate::image::SnapshotQuery;
use backchain_format::Format;
use backchain_format::qcow2::Codec;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A change to one or more images of a tree. Layers are named by their numbers in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Operation {
    /// Merges `top` and everything between it and `base` down into `base`.
    Commit {
        /// The uppermost layer to merge.
        top: NodeId,
        /// The layer that takes the data; below `top`.
        base: NodeId,
        /// Overlays of `top` that get `base` as their backing file afterwards. All the overlays
        /// of `top` that the tree knows have to be here, or they count as broken dependents.
        relink: Vec<NodeId>,
        /// Empty `top` afterwards, as `qemu-img commit` does without `-d` and `-b`.
        empty_top: bool,
        /// Merge the bitmaps of the layers above `base` into those of the same name in `base`,
        /// which are made where there are none.
        #[serde(default)]
        bitmaps: bool,
        /// Go on although other images read differently afterwards.
        allow_broken: bool,
        /// Go on although data of an encrypted image gets into one that is not.
        #[serde(default)]
        allow_plaintext: bool,
    },
    /// Merges backing data up into `overlay` until `base` can be its backing file.
    Pull {
        /// The layer that takes the data: any overlay.
        overlay: NodeId,
        /// Its new backing file, below it in its chain; `None`: it stands alone.
        base: Option<NodeId>,
    },
    /// Changes the backing file of `overlay`; what it reads stays the same.
    Rebase {
        /// The layer to change.
        overlay: NodeId,
        /// Its new backing file, anywhere in the tree; `None`: it stands alone.
        base: Option<NodeId>,
        /// Name to record; `base`'s own name relative to the overlay when `None`.
        name: Option<String>,
        /// Format label to record; what `base` is when `None`.
        format: Option<Format>,
        /// Whole clusters that are copied are compressed.
        #[serde(default)]
        compress: bool,
    },
    /// Changes only the link of `overlay`, whatever it reads afterwards (`rebase -u`).
    Relink {
        /// The layer to change.
        overlay: NodeId,
        /// The new name, relative to the overlay or absolute; `None`: no backing file.
        name: Option<String>,
        /// The new format label.
        format: Option<Format>,
        /// The node with that name when it is in the tree: checked for loops and sizes.
        base: Option<NodeId>,
    },
    /// Takes the middle layer `layer` out of the chain of `active`.
    Remove {
        /// The layer to remove.
        layer: NodeId,
        /// A layer above it that stays valid.
        active: NodeId,
        /// How; the cheaper one when `None`.
        method: Option<RemoveMethod>,
        /// Go on although other images read differently afterwards.
        allow_broken: bool,
        /// Go on although data of an encrypted image gets into one that is not.
        #[serde(default)]
        allow_plaintext: bool,
    },
    /// Makes a new image, or a new overlay on a layer (an external snapshot).
    Create {
        /// Name of the new file.
        name: String,
        /// How it is to be.
        options: CreateOptions,
        /// The backing file.
        backing: Option<NodeId>,
    },
    /// Changes what kind of qcow2 image `node` is; its guest sees the same.
    Amend {
        /// The image.
        node: NodeId,
        /// The change.
        change: Amendment,
    },
    /// Changes one persistent bitmap of `node`.
    Bitmap {
        /// The image.
        node: NodeId,
        /// The bitmap's name.
        name: String,
        /// What to do with it, in this order.
        actions: Vec<BitmapAction>,
    },
    /// Gives the disk another size. What it gains reads as zeros; what it loses is gone.
    Resize {
        /// The image.
        image: NodeId,
        /// Bytes.
        size: u64,
        /// Whether what it gains is given its place now.
        preallocation: Preallocation,
        /// Go on although other images read differently afterwards.
        allow_broken: bool,
    },
    /// Takes an internal snapshot of what the disk is now.
    SnapshotCreate {
        /// The image.
        image: NodeId,
        /// Name of the snapshot: at most 65535 bytes; others may have the same.
        name: String,
        /// When, in seconds since the epoch: the engine has no clock.
        date_sec: u32,
        /// Nanoseconds on top.
        date_nsec: u32,
    },
    /// Makes the disk what it was when an internal snapshot was taken.
    SnapshotApply {
        /// The image.
        image: NodeId,
        /// Which one.
        snapshot: SnapshotQuery,
        /// Go on although other images read differently afterwards.
        allow_broken: bool,
    },
    /// Deletes an internal snapshot.
    SnapshotDelete {
        /// The image.
        image: NodeId,
        /// Which one.
        snapshot: SnapshotQuery,
    },
    /// Mends an image. The tree has to be one for checks (see [`crate::Tree::for_check`]) when
    /// its refcount table or its list of snapshots may be damaged.
    Repair {
        /// The image.
        image: NodeId,
        /// What to mend.
        fix: Fix,
    },
    /// Writes guest views, one behind the other, into an image.
    Convert {
        /// The chains' tops.
        sources: Vec<NodeId>,
        /// Where to.
        target: Target,
        /// How.
        options: ConvertOptions,
    },
}

impl Operation {
    /// Writes the guest view of `top` into a new image that stands alone.
    pub fn flatten(top: NodeId, name: impl Into<String>, options: CreateOptions) -> Self {
        Self::Convert {
            sources: vec![top],
            target: Target::New {
                name: name.into(),
                options,
                backing: None,
            },
            options: ConvertOptions::default(),
        }
    }
}

/// What [`Operation::Convert`] writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A new image.
    New {
        /// Name of the new file.
        name: String,
        /// How it is to be; its size is that of the sources together.
        options: CreateOptions,
        /// Its backing file: what reads the same there is not written, unless a lone source
        /// has it itself.
        backing: Option<NodeId>,
    },
    /// An image that is there; what lies behind the end of the sources stays.
    Existing {
        /// The image.
        node: NodeId,
        /// All of it reads as zeros, so zeros need not be written.
        is_zero: bool,
        /// What its own backing file reads the same is not written.
        over_backing: bool,
    },
}

/// How [`Operation::Convert`] writes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConvertOptions {
    /// The lone source as one of its internal snapshots has it.
    pub snapshot: Option<SnapshotQuery>,
    /// Only so many bytes of the lone source, from the first number on (start, length).
    pub window: Option<(u64, u64)>,
    /// What becomes of zeros.
    pub zeros: Zeros,
    /// Compress clusters (qcow2 only).
    pub compress: bool,
    /// Copy the lone source's persistent bitmaps too; with [`Broken::Skip`], not those that
    /// were not saved properly.
    pub bitmaps: Option<Broken>,
    /// Go on where a source cannot be read, with zeros; the plan's [`super::Crew`] is told.
    pub salvage: bool,
}

/// A change to what kind of qcow2 image an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Amendment {
    /// The format's version.
    Version {
        /// 3 (`compat=1.1`) rather than 2 (`compat=0.10`).
        v3: bool,
    },
    /// The width of refcounts in bits: a power of two up to 64.
    RefcountBits(u64),
    /// Whether refcounts may be postponed.
    LazyRefcounts(bool),
    /// The external data file.
    DataFile {
        /// Its name to record; empty: none.
        name: Option<String>,
        /// Whether it must stay valid as a raw image.
        raw: Option<bool>,
    },
    /// The key slots of an image encrypted with LUKS, of either format. What is to be written
    /// was worked out with the passphrases and is not told to anybody.
    #[serde(skip)]
    KeySlots(Arc<SlotChange>),
}

impl fmt::Display for Amendment {
    /// As qemu-img's `-o` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switch = |on: bool| if on { "on" } else { "off" };
        match self {
            Self::Version { v3 } => write!(f, "compat={}", if *v3 { "1.1" } else { "0.10" }),
            Self::KeySlots(_) => f.write_str("encrypt.state=STATE,..."),
            Self::RefcountBits(bits) => write!(f, "refcount_bits={bits}"),
            Self::LazyRefcounts(on) => write!(f, "lazy_refcounts={}", switch(*on)),
            Self::DataFile { name, raw } => {
                let name = name.iter().map(|name| format!("data_file={name}"));
                let raw = raw
                    .iter()
                    .map(|on| format!("data_file_raw={}", switch(*on)));
                f.write_str(&name.chain(raw).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// What becomes of bitmaps that were not saved properly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Broken {
    /// They are left out, with a warning.
    Skip,
    /// Nothing is done.
    Refuse,
}

/// What can be done with a persistent bitmap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BitmapAction {
    /// Makes it; from now on it records writes.
    Add {
        /// Bytes that one bit stands for: a power of two from 512 to 2 GiB; QEMU's default when
        /// `None` or 0.
        granularity: Option<u64>,
    },
    /// Takes it away, even one that was not saved properly.
    Remove,
    /// Clears all its bits.
    Clear,
    /// Lets it record writes.
    Enable,
    /// Stops it from recording writes.
    Disable,
    /// Adds the bits of another bitmap.
    Merge {
        /// The image with the other bitmap; the same one when `None`.
        source: Option<NodeId>,
        /// The other bitmap's name.
        bitmap: String,
    },
}

impl BitmapAction {
    /// The word that qemu-img has for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Remove => "remove",
            Self::Clear => "clear",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Merge { .. } => "merge",
        }
    }
}

impl Operation {
    /// The image whose L1 tables it holds whole, so that they may not be longer than QEMU's
    /// limit.
    pub(crate) fn holds_tables_of(&self) -> Option<NodeId> {
        match self {
            Self::Amend { node, .. } | Self::Bitmap { node, .. } => Some(*node),
            Self::Resize { image, .. }
            | Self::SnapshotCreate { image, .. }
            | Self::SnapshotApply { image, .. }
            | Self::SnapshotDelete { image, .. }
            | Self::Repair { image, .. } => Some(*image),
            Self::Commit { .. }
            | Self::Pull { .. }
            | Self::Rebase { .. }
            | Self::Relink { .. }
            | Self::Remove { .. }
            | Self::Create { .. }
            | Self::Convert { .. } => None,
        }
    }
}

/// The two ways of the handout to delete a middle snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoveMethod {
    /// Method 1: commit the layer into its backing file, relink the layer above.
    #[serde(rename = "1")]
    Commit,
    /// Method 2: safe rebase of the layer above onto the layer's backing file.
    #[serde(rename = "2")]
    Rebase,
}

/// What of a new image is allocated when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// A place in the file for everything, which stays a hole. Not for raw images, where
    /// everything has its place anyway.
    Metadata,
    /// The same, and blocks of the disk.
    Falloc,
    /// The same, and zeros are written to them.
    Full,
}

impl Preallocation {
    /// QEMU's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Metadata => "metadata",
            Self::Falloc => "falloc",
            Self::Full => "full",
        }
    }

    /// The one that QEMU calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Off, Self::Metadata, Self::Falloc, Self::Full]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// How a new image is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateOptions {
    /// Its format.
    pub format: Format,
    /// Virtual size in bytes; the backing file's when `None`.
    pub size: Option<u64>,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Version 3 (`compat=1.1`) rather than 2.
    pub v3: bool,
    /// Width of refcounts.
    pub refcount_bits: u64,
    /// 16-byte L2 entries with subclusters.
    pub extended_l2: bool,
    /// Set the lazy refcounts feature bit.
    pub lazy_refcounts: bool,
    /// How clusters written compressed are to be packed.
    pub codec: Codec,
    /// What of the guest's data gets its place at once.
    pub preallocation: Preallocation,
    /// The LUKS header and the key of an encrypted image. Keys are not written anywhere but
    /// there.
    #[serde(skip)]
    pub encryption: Option<Arc<Volume>>,
    /// The external data file: its path as seen from the working directory, recorded as it is.
    /// It is made with the image.
    pub data_file: Option<String>,
    /// The data file is to be readable as a raw image.
    pub data_file_raw: bool,
    /// The backing file's name to record when it is not the node's own.
    pub backing_name: Option<String>,
    /// The backing file's format label to record when it is not the node's own.
    pub backing_format: Option<Format>,
    /// Allow an L1 table longer than QEMU opens: 1 TiB with clusters of 512 bytes, for example.
    #[serde(default)]
    pub beyond_qemu: bool,
}

impl Default for CreateOptions {
    /// QEMU's defaults: clusters of 64 KiB, version 3, 16-bit refcounts, zlib.
    fn default() -> Self {
        Self {
            format: Format::Qcow2,
            size: None,
            cluster_size: 64 << 10,
            v3: true,
            refcount_bits: 16,
            extended_l2: false,
            lazy_refcounts: false,
            codec: Codec::Zlib,
            preallocation: Preallocation::Off,
            encryption: None,
            data_file: None,
            data_file_raw: false,
            backing_name: None,
            backing_format: None,
            beyond_qemu: false,
        }
    }
}
