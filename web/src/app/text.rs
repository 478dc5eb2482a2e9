//! Numbers as people read them.

use crate::protocol::{Group, Kind, Role, State};
pub use crate::units::bytes;

/// `part` of `whole` as a number from 0 to 1.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for bars and percentages only")]
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        (part as f64 / whole as f64).clamp(0.0, 1.0)
    }
}

#[must_use]
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Base => "base",
        Role::Middle => "overlay",
        Role::Active => "active",
        Role::Single => "standalone",
        Role::Spare => "not needed",
    }
}

#[must_use]
pub fn state(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Missing => "backing file missing",
        State::Loop => "loop",
        State::WrongLabel => "wrong format label",
        State::Invalid => "invalid",
        State::Damaged => "damaged",
    }
}

/// A group's name.
#[must_use]
pub fn group(group: Group) -> (&'static str, &'static str) {
    match group {
        Group::Merge => ("merge", "Merge"),
        Group::Snapshots => ("snapshots", "Snapshots"),
        Group::Change => ("change", "Change"),
        Group::New => ("new", "New"),
    }
}

/// An operation's names: its hook, its label, its key, what it is for, and its icon.
pub struct Words {
    pub id: &'static str,
    pub label: &'static str,
    pub key: &'static str,
    pub what: &'static str,
    pub icon: &'static str,
}

#[must_use]
pub fn words(kind: Kind) -> Words {
    let (id, label, key, what, icon) = match kind {
        Kind::Commit => (
            "commit",
            "Commit",
            "c",
            "Merge layers down into a backing file. Layers in between, and other overlays on it, become invalid.",
            "fa-level-down-alt",
        ),
        Kind::Pull => (
            "pull",
            "Pull",
            "p",
            "Merge backing data up into an overlay. Nothing becomes invalid.",
            "fa-level-up-alt",
        ),
        Kind::Rebase => (
            "rebase",
            "Rebase",
            "r",
            "Give an overlay another backing file, keeping what it reads.",
            "fa-exchange-alt",
        ),
        Kind::Remove => (
            "remove",
            "Remove layer",
            "x",
            "Take one layer out of the middle of a chain.",
            "fa-minus-circle",
        ),
        Kind::Overlay => (
            "overlay",
            "New overlay",
            "n",
            "Take an external snapshot: a new overlay takes the writes, and the old file becomes its backing file.",
            "fa-layer-group",
        ),
        Kind::GoBack => (
            "go-back",
            "Go back to a layer",
            "g",
            "Revert an external snapshot: go on from an earlier layer, and drop what came after it.",
            "fa-history",
        ),
        Kind::Snapshot => (
            "snapshot",
            "Take internal snapshot",
            "s",
            "Keep what the disk is now inside the same qcow2 file.",
            "fa-camera",
        ),
        Kind::Revert => (
            "revert",
            "Revert to internal snapshot",
            "v",
            "Make the disk what it was when an internal snapshot was taken.",
            "fa-undo",
        ),
        Kind::DeleteSnapshot => (
            "delete-snapshot",
            "Delete internal snapshot",
            "d",
            "Forget an internal snapshot; the disk stays as it is now.",
            "fa-trash",
        ),
        Kind::Resize => (
            "resize",
            "Resize",
            "z",
            "Give the disk another size. What it gains reads as zeros; what it loses is gone.",
            "fa-arrows-alt-h",
        ),
        Kind::Repair => (
            "repair",
            "Repair",
            "k",
            "Mend leaked clusters and wrong refcounts, as \"check -r\" does.",
            "fa-wrench",
        ),
        Kind::Amend => (
            "amend",
            "Amend",
            "a",
            "Change what kind of qcow2 file it is: version, refcount width, lazy refcounts.",
            "fa-pen",
        ),
        Kind::Bitmap => (
            "bitmap",
            "Bitmaps",
            "t",
            "Add, remove, clear, enable, disable or merge a persistent dirty bitmap.",
            "fa-th-large",
        ),
        Kind::Create => (
            "create",
            "New image",
            "i",
            "Make a new, empty disk image.",
            "fa-plus-circle",
        ),
        Kind::Export => (
            "export",
            "Export",
            "e",
            "Write what a layer reads like into a new raw or qcow2 file: flattened, converted, compressed.",
            "fa-file-export",
        ),
    };
    Words {
        id,
        label,
        key,
        what,
        icon,
    }
}
