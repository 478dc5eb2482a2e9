//! A chain: one path through the tree, top to base.

use super::node::{Node, NodeId};
use super::sweep::ChainExtents;
use crate::error::Result;
use std::sync::Arc;

/// Layers from the top (first) to the base (last), all of them readable. Never empty.
#[derive(Debug, Clone)]
pub struct Chain {
    layers: Vec<Arc<Node>>,
}

impl Chain {
    pub(super) fn new(layers: Vec<Arc<Node>>) -> Self {
        debug_assert!(!layers.is_empty());
        Self { layers }
    }

    /// The layers, top first.
    pub fn layers(&self) -> &[Arc<Node>] {
        &self.layers
    }

    /// The top layer.
    pub fn top(&self) -> &Arc<Node> {
        &self.layers[0]
    }

    /// The base layer.
    pub fn base(&self) -> &Arc<Node> {
        &self.layers[self.layers.len() - 1]
    }

    /// Size in bytes of the disk the chain shows: the top layer's.
    pub fn virtual_size(&self) -> u64 {
        self.top().virtual_size()
    }

    /// How deep below the top (0) the node is.
    pub fn depth_of(&self, id: NodeId) -> Option<usize> {
        self.layers.iter().position(|n| n.id == id)
    }

    /// The chain without its `depth` upper layers; `None` when nothing is left.
    pub fn below(&self, depth: usize) -> Option<Chain> {
        let layers = self.layers.get(depth..)?.to_vec();
        (!layers.is_empty()).then_some(Self { layers })
    }

    /// The chain with another view of its top layer.
    pub(super) fn with_top(mut self, top: Arc<Node>) -> Self {
        if let Some(first) = self.layers.first_mut() {
            *first = top;
        }
        self
    }

    /// The chain's extents from guest byte `start` on, in guest order and coalesced.
    pub fn extents(&self, start: u64) -> Result<ChainExtents> {
        ChainExtents::new(&self.layers, start, self.virtual_size())
    }

    /// The same up to `size` bytes, which may be more than the top layer has: a shorter top
    /// reads as zeros from its end on.
    pub fn extents_to(&self, start: u64, size: u64) -> Result<ChainExtents> {
        ChainExtents::new(&self.layers, start, size)
    }
}
