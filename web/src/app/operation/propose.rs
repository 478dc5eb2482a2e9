//! What a form says when it is opened.

use crate::protocol::{Field, Kind, Layer, LayerId, Operation, Place, Tree};

/// The most likely wish: `kind` for the selected layer, or for the end of the longest chain.
#[must_use]
pub fn proposal(tree: &Tree, kind: Kind, selected: Option<LayerId>) -> Option<Operation> {
    if tree.layers.is_empty() {
        return (kind == Kind::Create).then(|| fill(tree, Operation::new(kind, None, None)));
    }
    let depth = |id: LayerId| tree.below(id).len();
    let longest = tree
        .layers
        .iter()
        .filter(|layer| tree.overlays(layer.id).next().is_none())
        .max_by_key(|layer| (depth(layer.id), std::cmp::Reverse(layer.id)))
        .or(tree.layers.first())?
        .id;
    let chosen = selected
        .filter(|&id| tree.layer(id).is_some())
        .unwrap_or(longest);
    let top = match kind {
        // A layer without a backing file cannot be merged down or taken out of the middle.
        Kind::Commit if depth(chosen) == 0 => longest,
        Kind::Remove => {
            let in_the_middle = |id: LayerId| depth(id) > 0 && tree.overlays(id).next().is_some();
            Some(chosen)
                .filter(|&id| in_the_middle(id))
                .or_else(|| {
                    tree.below(longest)
                        .iter()
                        .map(|l| l.id)
                        .find(|&id| in_the_middle(id))
                })
                .unwrap_or(chosen)
        }
        // The selected layer is the one to go back to, when something came after it.
        Kind::GoBack => end_above(tree, chosen),
        _ => chosen,
    };
    let base = match kind {
        Kind::GoBack if top != chosen => Some(chosen),
        _ => default_base(tree, kind, top),
    };
    Some(fill(tree, Operation::new(kind, top, base)))
}

/// What `base` starts as for an operation on `top`.
#[must_use]
pub fn default_base(tree: &Tree, kind: Kind, top: LayerId) -> Option<LayerId> {
    let below = tree.below(top);
    match kind {
        Kind::Commit | Kind::GoBack => below.first().map(|layer| layer.id),
        Kind::Rebase => below.get(1).or(below.first()).map(|layer| layer.id),
        _ => None,
    }
}

/// The end of the longest chain above a layer.
fn end_above(tree: &Tree, id: LayerId) -> LayerId {
    tree.layers
        .iter()
        .filter(|layer| tree.overlays(layer.id).next().is_none())
        .filter_map(|layer| {
            let below = tree.below(layer.id);
            let above = below.iter().position(|layer| layer.id == id)?;
            Some((above, layer.id))
        })
        .max()
        .map_or(id, |(_, id)| id)
}

/// Fills in what depends on the layers: names, places, and the only choice there is.
#[must_use]
pub fn fill(tree: &Tree, operation: Operation) -> Operation {
    let top = operation.top.and_then(|top| tree.layer(top));
    let operation = match operation.kind {
        Kind::Overlay | Kind::GoBack => {
            let after = match operation.kind {
                Kind::Overlay => end_above(tree, operation.top.unwrap_or_default()),
                _ => operation.top.unwrap_or_default(),
            };
            let name = tree
                .layer(after)
                .map_or("overlay.qcow2", |layer| &layer.name);
            let name = next_name(tree, name);
            operation.with(Field::Name, name)
        }
        Kind::Create => {
            let name = unused(tree, "disk", ".qcow2");
            operation.with(Field::Name, name).with(Field::Size, "10G")
        }
        Kind::Export => {
            let name = top.map_or("disk", |layer| stem(&layer.name).0);
            let name = unused(tree, &format!("{name}-export"), ".qcow2");
            operation.with(Field::Name, name)
        }
        Kind::Snapshot => {
            let taken = |name: &str| {
                top.is_some_and(|layer| layer.snapshots.iter().any(|known| known.name == name))
            };
            let name = (1_u32..).map(|n| format!("snap{n}")).find(|n| !taken(n));
            operation.with(Field::SnapshotName, name.unwrap_or_default())
        }
        Kind::Revert | Kind::DeleteSnapshot => {
            let last = top.and_then(|layer| layer.snapshots.last());
            let id = last.map(|snapshot| snapshot.id.clone());
            operation.with(Field::Snapshot, id.unwrap_or_default())
        }
        Kind::Resize => {
            let now = top.and_then(|layer| layer.virtual_size).unwrap_or(0);
            operation.with(Field::Size, whole(now))
        }
        Kind::Bitmap => {
            let first = top.and_then(|layer| layer.bitmaps.first()).cloned();
            match first {
                Some(name) => operation
                    .with(Field::Action, "clear")
                    .with(Field::Bitmap, name),
                None => operation.with(Field::Bitmap, "bitmap0"),
            }
        }
        _ => operation,
    };
    if operation.kind.makes_file() {
        let place = if folder(tree, &operation).is_some() {
            Place::Folder
        } else if crate::app::files::can_pick_target() {
            Place::Picked
        } else {
            Place::Private
        };
        operation.with(Field::Place, place.name())
    } else {
        operation
    }
}

/// The same with what is not said filled in; what is said already stays.
#[must_use]
pub fn filled(tree: &Tree, operation: Operation) -> Operation {
    let entries = operation.entries.clone();
    let mut filled = fill(tree, operation);
    for (field, value) in entries {
        filled = filled.with(field, value);
    }
    filled
}

/// The folder that a new file would lie in beside its layer.
#[must_use]
pub fn folder<'a>(tree: &'a Tree, operation: &Operation) -> Option<&'a str> {
    let beside = match operation.kind {
        Kind::GoBack => operation.base,
        _ => operation.top,
    };
    let layer = beside.and_then(|id| tree.layer(id));
    layer.and_then(|layer| layer.folder.as_deref())
}

/// Dragging one layer onto another: what may be meant, the likeliest first.
#[must_use]
pub fn dragged(tree: &Tree, from: LayerId, onto: LayerId) -> Vec<Operation> {
    let is_below = |top: LayerId, id: LayerId| tree.below(top).iter().any(|l| l.id == id);
    if is_below(from, onto) {
        return vec![Operation::new(Kind::Commit, from, Some(onto))];
    }
    if !is_below(onto, from) {
        return vec![Operation::new(Kind::Rebase, from, Some(onto))];
    }
    // A layer onto one above it: its data moves up, or it becomes the backing file.
    let under = tree.layer(from).and_then(|layer| layer.backing);
    let mut found = vec![Operation::new(Kind::Pull, onto, under)];
    if tree.layer(onto).and_then(|layer| layer.backing) != Some(from) {
        found.push(Operation::new(Kind::Rebase, onto, Some(from)));
        found.push(Operation::new(Kind::Pull, onto, Some(from)));
    } else if under.is_some() {
        found.push(Operation::new(Kind::Rebase, onto, under));
    }
    found
}

/// A name in two parts: what comes before its ending, and the ending with its dot.
fn stem(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 => name.split_at(dot),
        _ => (name, ""),
    }
}

/// The name that comes after this one: `Snap-4.qcow2` is followed by `Snap-5.qcow2`.
fn next_name(tree: &Tree, name: &str) -> String {
    let (stem, _) = stem(name);
    let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (start, number) = stem.split_at(stem.len() - digits);
    let next = number.parse::<u32>().ok().and_then(|n| n.checked_add(1));
    let found = next.and_then(|next| {
        let mut names = (next..u32::MAX).map(|n| format!("{start}{n}.qcow2"));
        names.find(|name| !taken(tree, name))
    });
    found.unwrap_or_else(|| unused(tree, &format!("{stem}-overlay"), ".qcow2"))
}

fn unused(tree: &Tree, stem: &str, ending: &str) -> String {
    let plain = format!("{stem}{ending}");
    if !taken(tree, &plain) {
        return plain;
    }
    let mut names = (2_u32..).map(|n| format!("{stem}-{n}{ending}"));
    names.find(|name| !taken(tree, name)).unwrap_or(plain)
}

fn taken(tree: &Tree, name: &str) -> bool {
    tree.layers.iter().any(|layer: &Layer| layer.name == name)
}

/// The name with the ending that a format has, where it had that of the other.
#[must_use]
pub fn renamed(name: &str, format: &str) -> String {
    match (stem(name), format) {
        ((stem, ".qcow2"), "raw") => format!("{stem}.raw"),
        ((stem, ".raw" | ".img"), "qcow2") => format!("{stem}.qcow2"),
        _ => name.to_owned(),
    }
}

/// A size in the largest unit that says it exactly.
fn whole(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let fits = |&&(shift, _): &&(u32, &str)| bytes > 0 && bytes.trailing_zeros() >= shift;
    match units.iter().find(fits) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{renamed, stem, whole};
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn names_keep_what_is_not_their_ending() {
        assert_eq!(stem("a.b.qcow2"), ("a.b", ".qcow2"));
        assert_eq!(stem(".hidden"), (".hidden", ""));
        assert_eq!(renamed("x.qcow2", "raw"), "x.raw");
        assert_eq!(renamed("x.img", "qcow2"), "x.qcow2");
        assert_eq!(renamed("x.vm", "raw"), "x.vm");
    }

    #[wasm_bindgen_test]
    fn sizes_are_said_exactly() {
        assert_eq!(whole(10 << 30), "10G");
        assert_eq!(whole(1536 << 20), "1536M");
        assert_eq!(whole(513), "513");
        assert_eq!(whole(0), "0");
    }
}
