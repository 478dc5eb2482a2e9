//! Operations in sentences.

use crate::protocol::{Field, Kind, LayerId, Operation, Place};
use crate::units::bytes;
use crate::worker::session::Session;

/// What becomes of what.
#[must_use]
pub fn summary(session: &Session, form: &Operation) -> String {
    let [top, base, new] = names(session, form);
    let has_base = form.base.is_some();
    match form.kind {
        Kind::Commit => commit(session, form, &base),
        Kind::Pull if has_base => {
            format!("{top} takes over what it needs from below and then stands on {base}.")
        }
        Kind::Pull => format!("{top} takes over everything from below and then stands alone."),
        Kind::Rebase if form.is(Field::Unsafe) && has_base => {
            format!("Only the link of {top} changes: it will name {base}. Nothing is compared.")
        }
        Kind::Rebase if form.is(Field::Unsafe) => {
            format!("Only the link of {top} changes: it will name no backing file.")
        }
        Kind::Rebase if has_base => {
            format!("{top} gets {base} as its backing file and reads the same as before.")
        }
        Kind::Rebase => format!("{top} will stand alone and read the same as before."),
        Kind::Remove => format!("{top} is taken out of the chain."),
        Kind::Overlay => format!(
            "{new} is made on {top}: writes go to {new} from then on, and {top} stays as it is."
        ),
        Kind::GoBack if form.makes().is_some() => {
            format!("{new} is made on {base}, so that it starts as the disk was there.")
        }
        Kind::GoBack => format!(
            "Nothing is written: {base} is used itself from then on. What came after it becomes invalid as soon as somebody writes to it."
        ),
        Kind::Snapshot => format!(
            "{top} keeps what it is now as the internal snapshot \"{}\".",
            form.get(Field::SnapshotName)
        ),
        Kind::Revert => format!(
            "{top} becomes what it was at snapshot {}. What was written since is lost, unless another snapshot has it.",
            snapshot(session, form)
        ),
        Kind::DeleteSnapshot => format!(
            "Snapshot {} of {top} is deleted; the disk stays as it is now.",
            snapshot(session, form)
        ),
        Kind::Resize => resize(session, form, &top),
        Kind::Repair => format!(
            "{top} is checked, and {} mended.",
            if form.get(Field::Fix) == "all" {
                "everything that can be is"
            } else {
                "clusters that nobody uses are"
            }
        ),
        Kind::Amend => format!(
            "{top} is changed to {}; its guest sees the same.",
            form.get(Field::Amendment)
        ),
        Kind::Bitmap => bitmap(form, &top),
        Kind::Create => format!("{new} is made: an empty disk of {}.", form.get(Field::Size)),
        Kind::Export if has_base => format!(
            "What {top} reads like is written to {new}, without what {base} has: {base} is its backing file."
        ),
        Kind::Export => {
            format!("What {top} reads like is written to {new}, which stands alone.")
        }
    }
}

/// What is said when it is done.
#[must_use]
pub fn done(session: &Session, form: &Operation) -> String {
    let [top, base, new] = names(session, form);
    let has_base = form.base.is_some();
    match form.kind {
        Kind::Commit => commit(session, form, &base),
        Kind::Pull if has_base => format!("{top} now stands on {base}."),
        Kind::Pull => format!("{top} now stands alone."),
        Kind::Rebase if has_base => format!("The backing file of {top} is now {base}."),
        Kind::Rebase => format!("{top} has no backing file any more."),
        Kind::Remove => format!("{top} is no longer part of the chain and can be deleted."),
        Kind::Overlay => format!("{new} is the new overlay on {top}."),
        Kind::GoBack if form.makes().is_some() => {
            format!("{new} is the new overlay on {base}: the disk is as it was there.")
        }
        Kind::GoBack => format!("{base} is the layer to use from now on."),
        Kind::Snapshot => format!(
            "{top} has the snapshot \"{}\".",
            form.get(Field::SnapshotName)
        ),
        Kind::Revert => format!("{top} is what it was at the snapshot."),
        Kind::DeleteSnapshot => format!("The snapshot of {top} is deleted."),
        Kind::Resize => format!("{top} has its new size."),
        Kind::Repair => format!("{top} is mended."),
        Kind::Amend => format!("{top} is changed: {}.", form.get(Field::Amendment)),
        Kind::Bitmap => format!("The bitmaps of {top} are changed."),
        Kind::Create => format!("{new} is made."),
        Kind::Export => format!("{new} reads like {top}."),
    }
}

/// What else is worth knowing beforehand.
#[must_use]
pub fn warnings(session: &Session, form: &Operation) -> Vec<String> {
    let mut found = Vec::new();
    let place = super::place::of(session, form);
    if form.makes().is_some() && super::made_on(form).is_some() && place != Place::Folder {
        let below = super::made_on(form).map(|layer| name(session, layer));
        found.push(format!(
            "The link to {} is its plain name: keep both files in one folder.",
            below.unwrap_or_default()
        ));
    }
    if form.kind == Kind::Repair && form.get(Field::Fix) == "all" {
        found.push(
            "Mending a damaged image can lose data: keep a copy of it until you have looked at the result."
                .to_owned(),
        );
    }
    found
}

fn name(session: &Session, layer: LayerId) -> String {
    session
        .node(layer)
        .map(|id| session.name(id))
        .unwrap_or_default()
}

/// The names of top, base and the new file.
fn names(session: &Session, form: &Operation) -> [String; 3] {
    let name = |layer: Option<LayerId>| layer.map(|layer| name(session, layer)).unwrap_or_default();
    [
        name(form.top),
        name(form.base),
        form.get(Field::Name).trim().to_owned(),
    ]
}

fn commit(session: &Session, form: &Operation, base: &str) -> String {
    let merged = merged(session, form);
    let verb = if merged.len() == 1 { "is" } else { "are" };
    format!("{} {verb} merged into {base}.", listed(&merged))
}

fn resize(session: &Session, form: &Operation, top: &str) -> String {
    let id = form.top.and_then(|top| session.node(top).ok());
    let now = id.map_or(0, |id| session.tree.node(id).virtual_size());
    let then = crate::size::parse_change(form.get(Field::Size), now).unwrap_or(now);
    if then < now {
        format!(
            "The disk of {top} shrinks from {} to {}: what lies behind the new end is lost.",
            bytes(now),
            bytes(then)
        )
    } else {
        format!(
            "The disk of {top} grows from {} to {}; what it gains reads as zeros. Its partitions and file systems have to be grown from inside.",
            bytes(now),
            bytes(then)
        )
    }
}

fn bitmap(form: &Operation, top: &str) -> String {
    let name = form.get(Field::Bitmap);
    match form.get(Field::Action) {
        "add" => format!("{top} gets the bitmap {name}, which records writes from then on."),
        "remove" => format!("{top} loses the bitmap {name}."),
        "clear" => format!("All bits of the bitmap {name} are cleared."),
        "enable" => format!("The bitmap {name} records writes from then on."),
        "disable" => format!("The bitmap {name} stops recording writes."),
        _ => format!(
            "The bits of {} are added to the bitmap {name}.",
            form.get(Field::OtherBitmap)
        ),
    }
}

/// The chosen snapshot: its ID and its name.
fn snapshot(session: &Session, form: &Operation) -> String {
    let id = form.get(Field::Snapshot);
    let node = form.top.and_then(|top| session.node(top).ok());
    let list = node.and_then(|node| session.tree.node(node).snapshots().ok());
    let chosen = list.and_then(|list| list.into_iter().find(|entry| entry.id == id));
    chosen.map_or_else(|| id.to_owned(), |entry| format!("\"{}\"", entry.name))
}

/// Names of the layers a commit merges, from the base up.
fn merged(session: &Session, form: &Operation) -> Vec<String> {
    let Some(top) = form.top.and_then(|top| session.node(top).ok()) else {
        return Vec::new();
    };
    let base = form.base.and_then(|base| session.node(base).ok());
    let mut names: Vec<String> = std::iter::successors(Some(top), |&id| session.tree.backing(id))
        .take(session.tree.nodes().len())
        .take_while(|&id| Some(id) != base)
        .map(|id| session.name(id))
        .collect();
    names.reverse();
    names
}

/// `a, b and c`; only the ends of a long list.
#[must_use]
pub fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first, .., last] if names.len() > 5 => {
            format!("{first}, {last} and {} layers between", names.len() - 2)
        }
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}
