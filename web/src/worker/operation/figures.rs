//! The figures of a preview: links afterwards, and where data goes.

use super::{merged_away, unneeded};
use crate::protocol::operation::NEW;
use crate::protocol::{After, Fate, Field, Kind, LayerId, Operation};
use crate::worker::session::Session;
use backchain::NodeId;
use backchain::plan::PlanInfo;

/// Every layer with its link and what became of it.
#[must_use]
pub fn after(session: &Session, form: &Operation, info: &PlanInfo) -> Vec<After> {
    let top = form.top.and_then(|top| session.node(top).ok());
    let base = form.base.and_then(|base| session.node(base).ok());
    let unneeded = unneeded(session, form, info);
    let written = |id: NodeId| {
        info.files
            .iter()
            .any(|file| file.node == id && file.written)
    };
    session
        .tree
        .nodes()
        .iter()
        .filter_map(|node| {
            let id = node.id;
            let link = info.links.iter().find(|(overlay, _)| *overlay == id);
            let backing = link.map_or_else(|| session.tree.backing(id), |(_, to)| *to);
            let invalid = info.invalid.contains(&id)
                || info.broken_dependents.contains(&id)
                || merged_away(info).contains(&id);
            // The layer whose link changes may take data as well: only then is it "written".
            let takes_data = match form.kind {
                Kind::Commit => base == Some(id),
                Kind::Pull => top == Some(id),
                Kind::Rebase => !form.is(Field::Unsafe) && top == Some(id),
                _ => written(id) && link.is_none(),
            };
            let removed = unneeded.contains(&id) || form.kind == Kind::Remove && top == Some(id);
            let fate = if invalid {
                Fate::Invalid
            } else if takes_data {
                Fate::Written
            } else if link.is_some() {
                Fate::Relinked
            } else if removed {
                Fate::Spare
            } else if written(id) {
                Fate::Written
            } else {
                Fate::Untouched
            };
            Some(After {
                layer: session.layer(id)?,
                backing: backing.and_then(|id| session.layer(id)),
                fate,
            })
        })
        .collect()
}

/// Whose data goes where: the dashed arrows.
#[must_use]
pub fn flow(session: &Session, form: &Operation, info: &PlanInfo) -> Vec<(LayerId, LayerId)> {
    let Some(top) = form.top.and_then(|top| session.node(top).ok()) else {
        return Vec::new();
    };
    let base = form.base.and_then(|base| session.node(base).ok());
    // The layers below, until the one that stays or becomes the backing file.
    let mut below: Vec<NodeId> = Vec::new();
    let mut at = session.tree.backing(top);
    while let Some(next) = at.filter(|next| Some(*next) != base && !below.contains(next)) {
        below.push(next);
        at = session.tree.backing(next);
    }
    let to = |target: LayerId, ids: Vec<NodeId>| -> Vec<(LayerId, LayerId)> {
        ids.into_iter()
            .filter_map(|id| Some((session.layer(id)?, target)))
            .collect()
    };
    let with_top = || [&[top], below.as_slice()].concat();
    match form.kind {
        Kind::Commit => form.base.map_or_else(Vec::new, |base| to(base, with_top())),
        Kind::Export => to(NEW, with_top()),
        Kind::Rebase if form.is(Field::Unsafe) => Vec::new(),
        Kind::Pull | Kind::Rebase => form.top.map_or_else(Vec::new, |top| to(top, below)),
        Kind::Remove => {
            let overlay = info.links.first().map(|(overlay, _)| *overlay);
            let takes = info
                .files
                .iter()
                .filter(|file| file.written)
                .map(|file| file.node)
                .find(|&id| Some(id) != overlay)
                .or(overlay);
            takes
                .and_then(|takes| session.layer(takes))
                .map_or_else(Vec::new, |takes| to(takes, vec![top]))
        }
        _ => Vec::new(),
    }
}
