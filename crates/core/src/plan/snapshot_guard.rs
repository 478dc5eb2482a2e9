//! Changes below an image that its own internal snapshots would see.
//!
//! A snapshot reads through the same backing file as the active disk. A commit changes that
//! file, a rebase replaces it; both look after the active disk only. So whatever a snapshot would
//! read differently is found beforehand, and refused.

use super::flow::{Flow, Take};
use crate::chain::{Chain, Node, Tree};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::qcow2::SnapshotEntry;

/// Fails when the commit of what is above `depth` in `chain` changes something that a snapshot
/// of the top reads through the target.
pub(super) fn survive_commit(tree: &Tree, chain: &Chain, depth: usize) -> Result<()> {
    let top = chain.top();
    for snapshot in top.snapshots()? {
        let view = tree.snapshot_chain(top.id, &snapshot)?;
        let mut flow = Flow::new(chain, chain.below(depth + 1), Take::Above(depth), 1)?;
        for extent in view.extents(0)? {
            let extent = extent?;
            // What no layer decides, the target may decide afterwards.
            if extent.depth.is_some_and(|d| d < depth) {
                continue;
            }
            let mut pos = extent.start;
            while pos < extent.end()
                && let Some(piece) = flow.at(pos)?
            {
                if piece.changed {
                    return Err(refused(top, &snapshot, pos));
                }
                pos = piece.end();
            }
        }
    }
    Ok(())
}

/// Fails when a snapshot of the top of `chain` reads something else above `under`.
pub(super) fn survive_rebase(tree: &Tree, chain: &Chain, under: Option<&Chain>) -> Result<()> {
    let top = chain.top();
    for snapshot in top.snapshots()? {
        let view = tree.snapshot_chain(top.id, &snapshot)?;
        let take = Take::Below {
            compare: true,
            from: 0,
        };
        let mut flow = Flow::new(&view, under.cloned(), take, top.image()?.granule())?;
        let mut pos = 0;
        while let Some(piece) = flow.at(pos)? {
            if piece.changed {
                return Err(refused(top, &snapshot, piece.start));
            }
            pos = piece.end();
        }
    }
    Ok(())
}

/// Fails when a snapshot of `child` is longer than the backing file `top` and would see what
/// `base` has behind that end.
pub(super) fn survive_relink(child: &Node, top: &Node, base: &Node) -> Result<()> {
    for snapshot in child.snapshots()? {
        let size = snapshot.disk_size.unwrap_or(child.virtual_size());
        if size.min(base.virtual_size()) > top.virtual_size() {
            return Err(refused(child, &snapshot, top.virtual_size()));
        }
    }
    Ok(())
}

fn refused(node: &Node, snapshot: &SnapshotEntry, at: u64) -> Error {
    let message = format!(
        "its internal snapshot '{}' would read differently from byte {at} on, because it reads \
         through the backing file too; delete it (snapshot -d), or save it first (convert -l)",
        snapshot.name
    );
    Error::new(ErrorKind::Unsupported, message).about(&node.name)
}
