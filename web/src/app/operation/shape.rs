//! What each operation asks for: the forms as data.

use crate::protocol::{Field, Kind, Layer, Operation, Role};
use crate::size;

/// The layers an operation asks for, and its fields in their order.
pub struct Shape {
    /// What the first layer is called.
    pub top: &'static str,
    pub base: Option<Base>,
    pub fields: &'static [Field],
}

/// The second layer.
pub struct Base {
    pub label: &'static str,
    /// What it means to choose none; it must be chosen where this is not said.
    pub none: Option<&'static str>,
    /// The layers below the first one come first.
    pub below_first: bool,
}

/// What is asked for to make a file.
const NEW: &[Field] = &[
    Field::Name,
    Field::Place,
    Field::Size,
    Field::Format,
    Field::Preallocation,
    Field::Cluster,
    Field::Compat,
    Field::RefcountBits,
    Field::ExtendedL2,
    Field::LazyRefcounts,
];

#[must_use]
pub fn shape(kind: Kind) -> Shape {
    let (top, base, fields): (_, _, &'static [Field]) = match kind {
        Kind::Commit => (
            "Merge down (top)",
            Some(("into (base)", None, true)),
            &[Field::Bitmaps, Field::EmptyTop],
        ),
        Kind::Pull => (
            "Pull into (top)",
            Some(("which then stands on (base)", Some(ALONE), true)),
            &[],
        ),
        Kind::Rebase => (
            "Change (top)",
            Some(("to stand on (base)", Some(ALONE), false)),
            &[Field::Unsafe, Field::Pack],
        ),
        Kind::Remove => ("Take out", None, &[Field::Method]),
        Kind::Overlay => (
            "On (backing file)",
            None,
            &[Field::Name, Field::Place, Field::Size, Field::Cluster],
        ),
        Kind::GoBack => (
            "Give up (active)",
            Some(("and go back to", None, true)),
            &[Field::How, Field::Name, Field::Place, Field::Cluster],
        ),
        Kind::Snapshot => ("Of", None, &[Field::SnapshotName]),
        Kind::Revert | Kind::DeleteSnapshot => ("Of", None, &[Field::Snapshot]),
        Kind::Resize => (
            "Change",
            None,
            &[Field::Size, Field::Shrink, Field::Preallocation],
        ),
        Kind::Repair => ("Mend", None, &[Field::Fix]),
        Kind::Amend => ("Change", None, &[Field::Amendment]),
        Kind::Bitmap => (
            "Of",
            Some(("from the layer", Some("the same one"), false)),
            &[
                Field::Action,
                Field::Bitmap,
                Field::Granularity,
                Field::OtherBitmap,
            ],
        ),
        Kind::Create => ("Beside", None, NEW),
        Kind::Export => (
            "What reads like",
            Some((
                "on top of (backing file)",
                Some("nothing: it stands alone"),
                true,
            )),
            &[
                Field::Name,
                Field::Place,
                Field::Format,
                Field::Compress,
                Field::Snapshot,
                Field::FindZeros,
                Field::Bitmaps,
                Field::Preallocation,
                Field::Cluster,
                Field::Compat,
                Field::RefcountBits,
                Field::ExtendedL2,
                Field::LazyRefcounts,
            ],
        ),
    };
    Shape {
        top,
        base: base.map(|(label, none, below_first)| Base {
            label,
            none,
            below_first,
        }),
        fields,
    }
}

const ALONE: &str = "nothing: it stands alone";

/// How a field is filled in.
pub enum Control {
    Text,
    /// A size with qemu's units.
    Size,
    Switch,
    Select(&'static [(&'static str, &'static str)]),
    /// One of the layer's internal snapshots, or what is said here.
    Snapshot(Option<&'static str>),
    /// One of the layer's bitmaps.
    Bitmap,
    /// One of the other layer's bitmaps.
    OtherBitmap,
    Place,
}

/// A field as the form shows it.
pub struct Spec {
    /// Its hook.
    pub id: &'static str,
    pub label: &'static str,
    pub help: &'static str,
    pub control: Control,
    /// Shown only when asked for.
    pub rare: bool,
}

#[must_use]
pub fn spec(kind: Kind, field: Field) -> Spec {
    let spec = |id, label, help, control| Spec {
        id,
        label,
        help,
        control,
        rare: false,
    };
    let rare = |id, label, help, control| Spec {
        id,
        label,
        help,
        control,
        rare: true,
    };
    match field {
        Field::Unsafe => spec(
            "unsafe",
            "Only change the link (unsafe)",
            "For a backing file that was moved or renamed. Nothing is compared or copied: what the overlay reads may change.",
            Control::Switch,
        ),
        Field::Pack => rare(
            "pack",
            "Compress what is copied",
            "Only whole clusters are.",
            Control::Switch,
        ),
        Field::Bitmaps => rare(
            "bitmaps",
            match kind {
                Kind::Commit => "Merge the bitmaps, too",
                _ => "Copy the bitmaps, too",
            },
            "",
            Control::Switch,
        ),
        Field::EmptyTop => rare(
            "empty-top",
            "Empty the top afterwards",
            "As \"qemu-img commit\" does: it stays an overlay to go on with.",
            Control::Switch,
        ),
        Field::Method => spec(
            "method",
            "How",
            "",
            Control::Select(&[
                ("", "the cheaper way"),
                ("1", "Method 1: commit it into the layer below"),
                (
                    "2",
                    "Method 2: copy what the layer above needs (safe rebase)",
                ),
            ]),
        ),
        Field::How => spec(
            "how",
            "How",
            "",
            Control::Select(&[
                ("overlay", "with a fresh overlay: the layer stays as it is"),
                ("itself", "use the layer itself: nothing is written"),
            ]),
        ),
        Field::Name => spec("name", "File name", "", Control::Text),
        Field::Place => spec("place", "Where", "", Control::Place),
        Field::Size => spec(
            "size",
            match kind {
                Kind::Resize => "New size",
                _ => "Size of the disk",
            },
            match kind {
                Kind::Resize => "Such as 20G, or +1G and -512M for a change.",
                Kind::Overlay => "As its backing file, unless something is entered.",
                _ => "Such as 10G or 512M.",
            },
            Control::Size,
        ),
        Field::Shrink => spec(
            "shrink",
            "Cut off what is behind the new end",
            "The file system inside must have been shrunk before.",
            Control::Switch,
        ),
        Field::Format => spec(
            "format",
            "Format",
            "",
            Control::Select(&[("qcow2", "qcow2"), ("raw", "raw")]),
        ),
        Field::Cluster => rare(
            "cluster",
            "Cluster size",
            "A power of two from 512 to 2M.",
            Control::Size,
        ),
        Field::Compat => rare(
            "compat",
            "Version",
            "",
            Control::Select(&[
                ("1.1", "3 (compat 1.1)"),
                ("0.10", "2 (compat 0.10), for very old programs"),
            ]),
        ),
        Field::RefcountBits => rare(
            "refcount-bits",
            "Refcount width",
            "",
            Control::Select(&[
                ("1", "1 bit"),
                ("2", "2 bits"),
                ("4", "4 bits"),
                ("8", "8 bits"),
                ("16", "16 bits"),
                ("32", "32 bits"),
                ("64", "64 bits"),
            ]),
        ),
        Field::ExtendedL2 => rare(
            "extended-l2",
            "Subclusters (extended L2)",
            "Smaller copies when an overlay is first written to.",
            Control::Switch,
        ),
        Field::LazyRefcounts => rare(
            "lazy-refcounts",
            "Lazy refcounts",
            "Faster writes; a crash makes a repair necessary.",
            Control::Switch,
        ),
        Field::Preallocation => rare(
            "preallocation",
            "Preallocation",
            "",
            Control::Select(&[
                ("off", "off: the file grows as it is written"),
                ("metadata", "metadata: everything has its place"),
            ]),
        ),
        Field::Compress => spec(
            "compress",
            "Compression",
            "",
            Control::Select(&[
                ("", "none"),
                ("zlib", "zlib: every program reads it"),
                ("zstd", "zstd: faster to read"),
            ]),
        ),
        Field::FindZeros => spec(
            "find-zeros",
            "Leave out zeros found in the data",
            "All of it is read for that.",
            Control::Switch,
        ),
        Field::Snapshot => spec(
            "snapshot",
            match kind {
                Kind::Export => "As it was at",
                _ => "Snapshot",
            },
            "",
            Control::Snapshot(matches!(kind, Kind::Export).then_some("now")),
        ),
        Field::SnapshotName => spec("snapshot-name", "Name of the snapshot", "", Control::Text),
        Field::Fix => spec(
            "fix",
            "What",
            "",
            Control::Select(&[
                ("leaks", "leaked clusters only: always safe"),
                ("all", "everything that can be mended"),
            ]),
        ),
        Field::Amendment => spec(
            "amendment",
            "To",
            "",
            Control::Select(&[
                ("compat=1.1", "version 3 (compat 1.1)"),
                ("compat=0.10", "version 2 (compat 0.10)"),
                ("lazy_refcounts=on", "lazy refcounts on"),
                ("lazy_refcounts=off", "lazy refcounts off"),
                ("refcount_bits=1", "refcounts of 1 bit"),
                ("refcount_bits=2", "refcounts of 2 bits"),
                ("refcount_bits=4", "refcounts of 4 bits"),
                ("refcount_bits=8", "refcounts of 8 bits"),
                ("refcount_bits=16", "refcounts of 16 bits"),
                ("refcount_bits=32", "refcounts of 32 bits"),
                ("refcount_bits=64", "refcounts of 64 bits"),
            ]),
        ),
        Field::Action => spec(
            "action",
            "What",
            "",
            Control::Select(&[
                ("add", "add a bitmap"),
                ("remove", "remove it"),
                ("clear", "clear all its bits"),
                ("enable", "enable it: it records writes"),
                ("disable", "disable it"),
                ("merge", "merge another one into it"),
            ]),
        ),
        Field::Bitmap => spec("bitmap", "Bitmap", "", Control::Bitmap),
        Field::Granularity => spec(
            "granularity",
            "Granularity",
            "Bytes that one bit stands for, such as 64K; usual when empty.",
            Control::Size,
        ),
        Field::Goal => rare("goal", "", "", Control::Text),
        Field::OtherBitmap => spec(
            "other-bitmap",
            "Bitmap to merge into it",
            "",
            Control::OtherBitmap,
        ),
    }
}

/// Whether a field matters for what else is entered.
#[must_use]
pub fn matters(operation: &Operation, top: Option<&Layer>, field: Field) -> bool {
    let qcow2 = operation.get(Field::Format) == "qcow2";
    let action = operation.get(Field::Action);
    let makes = operation.makes().is_some();
    match field {
        Field::Name | Field::Place => makes,
        Field::Pack => !operation.is(Field::Unsafe),
        Field::Bitmaps => {
            qcow2 && (operation.is(field) || top.is_some_and(|layer| !layer.bitmaps.is_empty()))
        }
        Field::EmptyTop => top.is_some_and(|layer| layer.role == Role::Active),
        Field::Shrink => {
            let now = top.and_then(|layer| layer.virtual_size).unwrap_or(0);
            operation.is(field)
                || size::parse_change(operation.get(Field::Size), now).is_ok_and(|then| then < now)
        }
        Field::Compress
        | Field::Compat
        | Field::RefcountBits
        | Field::ExtendedL2
        | Field::LazyRefcounts => qcow2,
        Field::Preallocation => qcow2 && operation.get(Field::Compress).is_empty(),
        Field::Cluster => qcow2 && makes,
        Field::Snapshot if operation.kind == Kind::Export => {
            top.is_some_and(|layer| !layer.snapshots.is_empty())
        }
        Field::Granularity => action == "add",
        Field::OtherBitmap => action == "merge",
        _ => true,
    }
}

/// Whether the second layer matters for what else is entered.
#[must_use]
pub fn base_matters(operation: &Operation) -> bool {
    match operation.kind {
        Kind::Bitmap => operation.get(Field::Action) == "merge",
        Kind::Export => operation.get(Field::Format) == "qcow2",
        _ => true,
    }
}

/// What is still to be chosen or entered, in words.
#[must_use]
pub fn missing(operation: &Operation, top: Option<&Layer>) -> Option<String> {
    let shape = shape(operation.kind);
    if operation.kind.needs_layer() && top.is_none() {
        return Some("Choose a layer.".to_owned());
    }
    let base = shape.base.filter(|base| base.none.is_none());
    if operation.base.is_none()
        && let Some(base) = base
    {
        return Some(match base.below_first {
            true if top.is_some_and(|layer| layer.backing_name.is_empty()) => {
                "This layer has no backing file: there is nothing below it.".to_owned()
            }
            _ => "Choose the other layer.".to_owned(),
        });
    }
    let fields = shape.fields.iter();
    fields
        .filter(|field| matters(operation, top, **field))
        .find_map(|field| fault(operation, top, *field))
}

/// What is wrong with what was entered into a field, in words.
#[must_use]
pub fn fault(operation: &Operation, top: Option<&Layer>, field: Field) -> Option<String> {
    let text = operation.get(field);
    match spec(operation.kind, field).control {
        Control::Size if operation.kind == Kind::Resize => {
            let now = top.and_then(|layer| layer.virtual_size).unwrap_or(0);
            size::parse_change(text, now).err()
        }
        Control::Size if text.trim().is_empty() => (operation.kind == Kind::Create
            && field == Field::Size)
            .then(|| "Enter a size, such as 10G.".to_owned()),
        Control::Size => size::parse(text).err(),
        Control::Snapshot(None) if text.is_empty() => {
            let name = top.map_or("This layer", |layer| layer.name.as_str());
            Some(match top {
                Some(layer) if !layer.snapshots.is_empty() => "Choose a snapshot.".to_owned(),
                _ => format!("{name} has no internal snapshots."),
            })
        }
        Control::Bitmap | Control::OtherBitmap if text.trim().is_empty() => {
            Some("Name a bitmap.".to_owned())
        }
        Control::Text if text.trim().is_empty() => Some("Enter a name.".to_owned()),
        _ => None,
    }
}
