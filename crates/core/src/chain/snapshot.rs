//! Chains as an internal snapshot of their top sees them.

use super::layers::Chain;
use super::node::{Node, NodeId};
use super::tree::Tree;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, SnapshotQuery};
use backchain_format::qcow2::SnapshotEntry;
use std::sync::Arc;

impl Node {
    /// The internal snapshots, in the order of the table; none in a raw image.
    pub fn snapshots(&self) -> Result<Vec<SnapshotEntry>> {
        match self.image()?.as_qcow2() {
            Some(image) => image
                .snapshots(self.source.as_ref())
                .map_err(|e| self.blame(e)),
            None => Ok(Vec::new()),
        }
    }

    /// This node as `snapshot`, one of its own, has it: the same number, file and backing link,
    /// with the L1 table and the disk size of the snapshot.
    pub fn at_snapshot(&self, snapshot: &SnapshotEntry) -> Result<Self> {
        let Some(image) = self.image()?.as_qcow2() else {
            let message = "a raw image has no internal snapshots";
            return Err(Error::new(ErrorKind::Invalid, message).about(&self.name));
        };
        let view = image.at_snapshot(snapshot).map_err(|e| self.blame(e))?;
        Ok(Self {
            image: Ok(Image::Qcow2(Box::new(view))),
            ..self.duplicate()
        })
    }
}

impl Tree {
    /// The chain from `top` down as `snapshot` of `top` sees it: what the guest saw when it was
    /// taken, provided the layers below did not change since. Its virtual size is the snapshot's.
    pub fn snapshot_chain(&self, top: NodeId, snapshot: &SnapshotEntry) -> Result<Chain> {
        let view = self.node(top).at_snapshot(snapshot)?;
        Ok(self.chain(top)?.with_top(Arc::new(view)))
    }

    /// The same for the snapshot that `query` means; fails with [`ErrorKind::NotFound`] when there
    /// is none.
    pub fn chain_at(&self, top: NodeId, query: &SnapshotQuery) -> Result<Chain> {
        let node = self.node(top);
        let list = node.snapshots()?;
        let snapshot = query.find(&list).map_err(|e| node.blame(e))?;
        self.snapshot_chain(top, snapshot)
    }
}
