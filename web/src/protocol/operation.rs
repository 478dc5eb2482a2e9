//! Operations: what a form says, and what the worker answers about it.

use super::LayerId;
use serde::{Deserialize, Serialize};

/// What can be done with layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Merges layers down into a backing file.
    Commit,
    /// Merges backing data up into an overlay.
    Pull,
    /// Gives an overlay another backing file.
    Rebase,
    /// Takes a layer out of the middle of a chain.
    Remove,
    /// Makes a new overlay on a layer: an external snapshot, or a thin clone.
    Overlay,
    /// Goes back to an earlier layer and drops what came after it.
    GoBack,
    /// Takes an internal snapshot.
    Snapshot,
    /// Makes the disk what it was at an internal snapshot.
    Revert,
    /// Deletes an internal snapshot.
    DeleteSnapshot,
    /// Gives the disk another size.
    Resize,
    /// Mends what a check finds.
    Repair,
    /// Changes what kind of qcow2 file it is.
    Amend,
    /// Changes a persistent bitmap.
    Bitmap,
    /// Makes a new, empty image.
    Create,
    /// Writes what a layer reads like into a new image.
    Export,
}

/// Kinds that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Layers are merged, or their links change.
    Merge,
    /// States of the disk are kept, or gone back to.
    Snapshots,
    /// One image changes.
    Change,
    /// A file is made.
    New,
}

impl Group {
    /// All groups, as menus have them.
    pub const ALL: [Self; 4] = [Self::Merge, Self::Snapshots, Self::Change, Self::New];

    /// Its kinds, as menus have them.
    #[must_use]
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Merge => &[Kind::Commit, Kind::Pull, Kind::Rebase, Kind::Remove],
            Self::Snapshots => &[
                Kind::Overlay,
                Kind::GoBack,
                Kind::Snapshot,
                Kind::Revert,
                Kind::DeleteSnapshot,
            ],
            Self::Change => &[Kind::Resize, Kind::Repair, Kind::Amend, Kind::Bitmap],
            Self::New => &[Kind::Create, Kind::Export],
        }
    }
}

impl Kind {
    /// Every kind, group by group.
    pub fn all() -> impl Iterator<Item = Self> {
        Group::ALL
            .into_iter()
            .flat_map(|group| group.kinds().iter().copied())
    }

    /// It can only be done with a layer: all but making a new image.
    #[must_use]
    pub fn needs_layer(self) -> bool {
        self != Self::Create
    }

    /// It makes a new file.
    #[must_use]
    pub fn makes_file(self) -> bool {
        matches!(
            self,
            Self::Overlay | Self::GoBack | Self::Create | Self::Export
        )
    }
}

/// What the form says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub kind: Kind,
    /// Commit: the topmost layer to merge. Remove: the layer to take out. Overlay: the layer
    /// that becomes the backing file. Going back: the active layer that is given up. Otherwise
    /// the layer that is changed or read. A new image lies beside it, and needs none.
    pub top: Option<LayerId>,
    /// Commit: the layer to merge into. Pull and rebase: the new backing file, if any. Going
    /// back: the earlier layer. Export: the backing file that is kept, if any. Merging bitmaps:
    /// the layer with the other bitmap, if it is another one.
    pub base: Option<LayerId>,
    /// Go on although other overlays will read differently afterwards.
    pub force: bool,
    /// What else was entered, as it was entered. A field that is not here has its usual value.
    pub entries: Vec<(Field, String)>,
}

impl Operation {
    /// An operation with every field at its usual value.
    pub fn new(kind: Kind, top: impl Into<Option<LayerId>>, base: Option<LayerId>) -> Self {
        Self {
            kind,
            top: top.into(),
            base,
            force: false,
            entries: Vec::new(),
        }
    }

    /// The same with this entry.
    #[must_use]
    pub fn with(self, field: Field, value: impl Into<String>) -> Self {
        let mut this = self.without(field);
        this.entries.push((field, value.into()));
        this
    }

    /// The same with this field at its usual value.
    #[must_use]
    pub fn without(mut self, field: Field) -> Self {
        self.entries.retain(|(known, _)| *known != field);
        self
    }

    /// What the field says.
    #[must_use]
    pub fn get(&self, field: Field) -> &str {
        self.entries
            .iter()
            .find(|(known, _)| *known == field)
            .map_or_else(|| field.usual(), |(_, value)| value)
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn is(&self, field: Field) -> bool {
        self.get(field) == ON
    }

    /// It names this layer.
    #[must_use]
    pub fn names(&self, layer: LayerId) -> bool {
        self.top == Some(layer) || self.base == Some(layer)
    }

    /// The name of the file it makes.
    #[must_use]
    pub fn makes(&self) -> Option<&str> {
        let makes = self.kind.makes_file()
            && !(self.kind == Kind::GoBack && self.get(Field::How) == "itself");
        makes.then(|| self.get(Field::Name))
    }
}

/// What a switch that is on says.
pub const ON: &str = "on";

/// A field of a form, besides its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Field {
    /// Rebase: only the link changes.
    Unsafe,
    /// Rebase: what is copied is compressed.
    Pack,
    /// Commit and export: bitmaps come along.
    Bitmaps,
    /// Commit: the top is emptied afterwards.
    EmptyTop,
    /// Remove: `1`, `2`, or nothing for the cheaper one.
    Method,
    /// Going back: `overlay` for a fresh overlay, `itself` to use the earlier layer as it is.
    How,
    /// Name of the file to make.
    Name,
    /// Where to make it: see [`Place`].
    Place,
    /// A size in bytes, with qemu's units.
    Size,
    /// What is behind the new end may be lost.
    Shrink,
    /// `qcow2` or `raw`.
    Format,
    /// Bytes of a cluster, with qemu's units.
    Cluster,
    /// `1.1` or `0.10`.
    Compat,
    /// Width of refcounts in bits.
    RefcountBits,
    /// Subclusters.
    ExtendedL2,
    /// Refcounts may be postponed.
    LazyRefcounts,
    /// `off`, or `metadata`: a place in the file for everything.
    Preallocation,
    /// Nothing, `zlib` or `zstd`.
    Compress,
    /// Zeros within the data are looked for and left out.
    FindZeros,
    /// ID of an internal snapshot; nothing for the disk as it is now.
    Snapshot,
    /// Name of a new internal snapshot.
    SnapshotName,
    /// Repair: `leaks` or `all`.
    Fix,
    /// Amend: `NAME=VALUE`, as `qemu-img amend -o` has it.
    Amendment,
    /// Bitmap: `add`, `remove`, `clear`, `enable`, `disable` or `merge`.
    Action,
    /// Name of a bitmap.
    Bitmap,
    /// Bytes that a bit of a new bitmap stands for, with qemu's units.
    Granularity,
    /// Name of the bitmap to merge.
    OtherBitmap,
    /// What it is done for, when it is one of several ways: `without LAYER`, or
    /// `shorter LAYER` and how many layers may be below it.
    Goal,
}

impl Field {
    /// What it says unless something else is entered.
    #[must_use]
    pub fn usual(self) -> &'static str {
        match self {
            Self::How => "overlay",
            Self::Place => "folder",
            Self::Format => "qcow2",
            Self::Cluster => "64K",
            Self::Compat => "1.1",
            Self::RefcountBits => "16",
            Self::Preallocation => "off",
            Self::Fix => "leaks",
            Self::Amendment => "compat=1.1",
            Self::Action => "add",
            _ => "",
        }
    }
}

/// Where a new file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Into the folder that a layer came with.
    Folder,
    /// To where the user says when it is run.
    Picked,
    /// Into the browser's own storage, to be saved from there.
    Private,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Folder, Self::Picked, Self::Private];

    /// What [`Field::Place`] says for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Picked => "picked",
            Self::Private => "private",
        }
    }

    /// The place that is called so.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|place| place.name() == name)
            .unwrap_or(Self::Private)
    }
}

/// What an operation would do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// One sentence: what becomes of what.
    pub summary: String,
    /// The same layers with their links afterwards.
    pub after: Vec<After>,
    /// The layer that is made, if one is.
    pub made: Option<Made>,
    /// Layers whose data is merged, and the layer it goes to.
    pub flow: Vec<(LayerId, LayerId)>,
    /// Bytes taken over as they are, expanded, zeroed, packed, and written as metadata.
    pub copied: u64,
    pub inflated: u64,
    pub zeroed: u64,
    pub packed: u64,
    pub metadata: u64,
    /// The bytes are the most there can be: how short they get is seen when they are packed.
    pub at_most: bool,
    pub writes: Vec<FileWrite>,
    /// Names of the images that read differently afterwards.
    pub invalid: Vec<String>,
    /// Names of the images that are still valid and not needed any more.
    pub spare: Vec<String>,
    pub warnings: Vec<String>,
    /// Why it will not be done as it stands. Planning ends there.
    pub refusal: Option<String>,
    /// The refusal can be overridden by [`Operation::force`].
    pub can_force: bool,
    /// The refusal is about data that would be lost, which can be said to be meant.
    pub loses: bool,
    /// The same on command lines.
    pub commands: Vec<Command>,
    /// All ways to the same goal, the cheapest first; none where there is only this one.
    pub ways: Vec<Way>,
    /// Which of them this is.
    pub way: Option<u32>,
}

/// One way to a goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// The way in words.
    pub label: String,
    /// The form that goes this way.
    pub operation: Operation,
    /// Bytes that have to be written.
    pub written: u64,
    /// The same with what a browser has to write besides: whole files.
    pub here: u64,
    /// It can be done at all.
    pub possible: bool,
    /// It needs [`Operation::force`].
    pub refused: bool,
    /// Why it is refused or not possible.
    pub why: String,
    /// Names of the images that read differently afterwards.
    pub invalid: Vec<String>,
    /// Bytes of the files that can be deleted afterwards.
    pub released: u64,
}

/// The number of a layer that is not made yet.
pub const NEW: LayerId = 1 << 31;

/// A layer that an operation makes; its number in a preview is [`NEW`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    pub name: String,
    pub backing: Option<LayerId>,
}

/// The same with another program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// `backchain`, `qemu-img` or `virsh`.
    pub tool: String,
    /// What to type, line by line.
    pub lines: String,
}

/// One layer after an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct After {
    pub layer: LayerId,
    pub backing: Option<LayerId>,
    pub fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Untouched,
    Written,
    /// Only its backing link changes.
    Relinked,
    Invalid,
    /// Still valid, and no longer needed by the chain.
    Spare,
}

/// How one file will be written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileWrite {
    /// None for a new file.
    pub layer: Option<LayerId>,
    /// The gift it came with, or comes to lie in: leave to write is asked for by it.
    pub gift: Option<u32>,
    pub name: String,
    pub before: u64,
    pub after: u64,
    /// How the browser writes it, in words.
    pub how: String,
    /// Free space needed on the way.
    pub temporary: u64,
    pub in_place: bool,
}
