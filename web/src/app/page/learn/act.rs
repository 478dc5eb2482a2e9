//! From what a lesson calls an act to what is asked of the worker, and in words.

use super::goal::find;
use super::lesson::Act;
use crate::app::text::words;
use crate::protocol::course::Ask;
use crate::protocol::operation::ON;
use crate::protocol::{Field, Kind, LayerId, Operation, Tree};

/// What the operation form says for an act; `None` for acts that have no form, and where a layer
/// is not there.
#[must_use]
pub fn operation(act: &Act, tree: &Tree) -> Option<Operation> {
    let id = |name: &str| find(tree, name).map(|layer| layer.id);
    let or_none = |name: &str| -> Option<Option<LayerId>> {
        if name.is_empty() {
            Some(None)
        } else {
            id(name).map(Some)
        }
    };
    let file = |name: &str| format!("{name}.qcow2");
    Some(match *act {
        Act::Commit { top, base, force } => Operation {
            force,
            ..Operation::new(Kind::Commit, id(top)?, Some(id(base)?))
        },
        Act::Pull { top, base } => Operation::new(Kind::Pull, id(top)?, or_none(base)?),
        Act::Rebase {
            overlay,
            base,
            link_only,
        } => {
            let rebase = Operation::new(Kind::Rebase, id(overlay)?, or_none(base)?);
            rebase.with(Field::Unsafe, if link_only { ON } else { "" })
        }
        Act::Remove { layer, method } => {
            let remove = Operation::new(Kind::Remove, id(layer)?, None);
            remove.with(Field::Method, method.to_string())
        }
        Act::Overlay { on, name } => {
            let overlay = Operation::new(Kind::Overlay, id(on)?, None);
            overlay.with(Field::Name, file(name))
        }
        Act::GoBack { from, to, name } => {
            let back = Operation::new(Kind::GoBack, id(from)?, Some(id(to)?));
            back.with(Field::Name, file(name))
        }
        Act::Snapshot { layer, name } => {
            let snapshot = Operation::new(Kind::Snapshot, id(layer)?, None);
            snapshot.with(Field::SnapshotName, name)
        }
        Act::Revert { layer, id: of, .. } => {
            Operation::new(Kind::Revert, id(layer)?, None).with(Field::Snapshot, of)
        }
        Act::DeleteSnapshot { layer, id: of, .. } => {
            Operation::new(Kind::DeleteSnapshot, id(layer)?, None).with(Field::Snapshot, of)
        }
        Act::Write { .. } | Act::Delete(_) | Act::Remake => return None,
    })
}

/// What the worker is asked for, for acts that have no form.
#[must_use]
pub fn ask(act: &Act, tree: &Tree, recipe: &str) -> Option<Ask> {
    let id = |name: &str| find(tree, name).map(|layer| layer.id);
    Some(match *act {
        Act::Write { layer, writes } => Ask::Write {
            layer: id(layer)?,
            writes: writes.to_owned(),
        },
        Act::Delete(layers) => Ask::Delete {
            layers: layers.iter().filter_map(|name| id(name)).collect(),
        },
        Act::Remake => Ask::Make {
            recipe: recipe.to_owned(),
        },
        _ => return None,
    })
}

/// The label of the button that does it, for acts that have no form.
#[must_use]
pub fn button(act: &Act) -> Option<String> {
    Some(match act {
        Act::Write { layer, .. } => format!("Let the guest on {layer} write"),
        Act::Delete([one]) => format!("Delete {one}"),
        Act::Delete(layers) => format!("Delete the {} files", layers.len()),
        Act::Remake => "Make the chain anew".to_owned(),
        _ => return None,
    })
}

/// What to choose in the form, in words.
#[must_use]
pub fn hint(act: &Act) -> Option<String> {
    let what = match *act {
        Act::Commit { top, base, .. } => format!("top `{top}`, base `{base}`"),
        Act::Pull { top, base: "" } => format!("top `{top}`, no base"),
        Act::Pull { top, base } => format!("top `{top}`, base `{base}`"),
        Act::Rebase {
            overlay,
            base,
            link_only,
        } => {
            let only = if link_only {
                ", *only change the link*"
            } else {
                ""
            };
            format!("`{overlay}`, to stand on `{base}`{only}")
        }
        Act::Remove { layer, method } => format!("`{layer}`, *Method {method}*"),
        Act::Overlay { on, name } => format!("on `{on}`, with the name `{name}.qcow2`"),
        Act::GoBack { from, to, name } => {
            format!("from `{from}` to `{to}`, in a fresh overlay `{name}.qcow2`")
        }
        Act::Snapshot { layer, name } => format!("of `{layer}`, with the name `{name}`"),
        Act::Revert { layer, name, .. } => format!("`{layer}`, to `{name}`"),
        Act::DeleteSnapshot { layer, name, .. } => format!("of `{layer}`: `{name}`"),
        Act::Write { .. } | Act::Delete(_) | Act::Remake => return None,
    };
    let label = words(kind(act)?).label;
    Some(format!("*{label}*: {what}"))
}

/// The kind of operation an act is.
#[must_use]
pub fn kind(act: &Act) -> Option<Kind> {
    Some(match act {
        Act::Commit { .. } => Kind::Commit,
        Act::Pull { .. } => Kind::Pull,
        Act::Rebase { .. } => Kind::Rebase,
        Act::Remove { .. } => Kind::Remove,
        Act::Overlay { .. } => Kind::Overlay,
        Act::GoBack { .. } => Kind::GoBack,
        Act::Snapshot { .. } => Kind::Snapshot,
        Act::Revert { .. } => Kind::Revert,
        Act::DeleteSnapshot { .. } => Kind::DeleteSnapshot,
        Act::Write { .. } | Act::Delete(_) | Act::Remake => return None,
    })
}
