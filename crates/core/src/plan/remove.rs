//! Taking a middle layer out of a chain: Methods 1 and 2 of the handout.

use super::commit::Commit;
use super::{Plan, Preview, RemoveMethod, rebase};
use crate::chain::{NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};

/// What was overridden.
#[derive(Clone, Copy)]
pub(super) struct Allow {
    pub(super) broken: bool,
    pub(super) plaintext: bool,
}

/// [`super::Operation::Remove`].
pub(super) fn plan_remove(
    tree: &Tree,
    layer: NodeId,
    active: NodeId,
    method: Option<RemoveMethod>,
    allow: Allow,
) -> Result<Plan> {
    let chain = tree.chain(active)?;
    let name = &tree.node(layer).name;
    let depth = match chain.depth_of(layer) {
        Some(0) => Err(format!(
            "'{name}' is the active layer; going back to the layer below it is not a removal"
        )),
        Some(depth) => Ok(depth),
        None => Err(format!(
            "'{name}' is not below '{}' in its chain",
            tree.node(active).name
        )),
    };
    let depth = depth.map_err(|message| Error::new(ErrorKind::Invalid, message))?;
    let Some(below) = chain.layers().get(depth + 1).map(|n| n.id) else {
        let message =
            format!("'{name}' is the base of the chain; pull it into the layer above instead");
        return Err(Error::new(ErrorKind::Invalid, message));
    };
    match method {
        Some(RemoveMethod::Commit) => by_commit(tree, layer, below, allow),
        Some(RemoveMethod::Rebase) => by_rebase(tree, layer, below),
        None => {
            let commit = by_commit(tree, layer, below, allow).and_then(Preview::of);
            let rebase = by_rebase(tree, layer, below).and_then(Preview::of);
            match (commit, rebase) {
                (Ok(commit), Ok(rebase)) if rebase.written() < commit.written() => {
                    by_rebase(tree, layer, below)
                }
                (Err(_), Ok(_)) => by_rebase(tree, layer, below),
                _ => by_commit(tree, layer, below, allow),
            }
        }
    }
}

/// Method 1: commit the layer into the one below, relink what was above.
fn by_commit(tree: &Tree, layer: NodeId, below: NodeId, allow: Allow) -> Result<Plan> {
    let relink = tree.valid_children(layer);
    let commit = Commit {
        tree,
        top: layer,
        base: below,
        relink: &relink,
        empty_top: false,
        bitmaps: false,
        allow_broken: allow.broken,
        allow_plaintext: allow.plaintext,
    };
    let mut plan = commit.plan()?;
    plan.info.method = Some(RemoveMethod::Commit);
    Ok(plan)
}

/// Method 2: the layers above take in what they would miss, then get the layer below as their
/// backing file. Nothing becomes invalid.
fn by_rebase(tree: &Tree, layer: NodeId, below: NodeId) -> Result<Plan> {
    let mut children = tree.valid_children(layer).into_iter();
    let Some(first) = children.next() else {
        return Err(Error::new(ErrorKind::Invalid, "nothing is above the layer"));
    };
    let mut plan = rebase::plan_rebase(tree, first, Some(below), (None, None), false)?;
    for child in children {
        plan.append(rebase::plan_rebase(
            tree,
            child,
            Some(below),
            (None, None),
            false,
        )?);
    }
    plan.info.superseded.push(layer);
    plan.info.method = Some(RemoveMethod::Rebase);
    Ok(plan)
}
