//! The tree: any set of files with the backing links between them.

use super::gate::Secret;
use super::layers::Chain;
use super::node::{FormatOrigin, Link, Node, NodeId};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::Format;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Files and the links between them. A file is in the tree once, however many links lead to it.
#[derive(Debug, Default)]
pub struct Tree {
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) links: Vec<Link>,
    pub(super) by_key: HashMap<String, NodeId>,
    given_up: HashSet<NodeId>,
    /// Images are opened as `check` opens them.
    pub(super) damaged: bool,
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unlocks an encrypted image, which takes as long as its passphrase is stretched. Images
    /// that are not encrypted, or are unlocked already, stay as they are.
    ///
    /// # Errors
    /// *Locked* for a wrong passphrase; another one may be tried.
    pub fn unlock(&self, id: NodeId, passphrase: &Secret) -> Result<()> {
        self.node(id).unlock(passphrase)
    }

    /// An empty tree for checks and repairs: it takes images whose refcount table or list of
    /// snapshots is damaged.
    pub fn for_check() -> Self {
        Self {
            damaged: true,
            ..Self::default()
        }
    }

    /// All nodes in the order they were opened.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The node with this number.
    ///
    /// # Panics
    /// When the number is from another tree.
    pub fn node(&self, id: NodeId) -> &Arc<Node> {
        &self.nodes[index(id)]
    }

    /// Where the backing link of `id` leads.
    ///
    /// # Panics
    /// When the number is from another tree.
    pub fn link(&self, id: NodeId) -> &Link {
        &self.links[index(id)]
    }

    /// The backing file of `id`, when it is in the tree.
    pub fn backing(&self, id: NodeId) -> Option<NodeId> {
        match self.link(id) {
            Link::To(to) => Some(*to),
            _ => None,
        }
    }

    /// The node whose name, or else whose file name, is `name`.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        let exact = self.nodes.iter().find(|n| n.name == name);
        exact
            .or_else(|| self.nodes.iter().find(|n| n.file_name() == name))
            .map(|n| n.id)
    }

    /// The overlays that have `id` as their backing file.
    pub fn children(&self, id: NodeId) -> Vec<NodeId> {
        self.nodes
            .iter()
            .map(|n| n.id)
            .filter(|&n| self.backing(n) == Some(id))
            .collect()
    }

    /// The images that have `id` as their external data file.
    pub fn data_owners(&self, id: NodeId) -> Vec<NodeId> {
        let owns = |node: &&Arc<Node>| node.data.as_ref().is_some_and(|data| data.id == id);
        self.nodes.iter().filter(owns).map(|n| n.id).collect()
    }

    /// Gives an image up: it is invalid already, so what it reads need not be kept, and it is
    /// nobody's overlay that would have to be looked after.
    pub fn give_up(&mut self, id: NodeId) {
        self.given_up.insert(id);
    }

    /// Whether an image was given up.
    pub fn is_given_up(&self, id: NodeId) -> bool {
        self.given_up.contains(&id)
    }

    /// The overlays of `id` that were not given up.
    pub fn valid_children(&self, id: NodeId) -> Vec<NodeId> {
        let mut children = self.children(id);
        children.retain(|&child| !self.is_given_up(child));
        children
    }

    /// Everything that reads `id` through backing links, or as its data file, nearest first;
    /// without `id` itself.
    pub fn dependents(&self, id: NodeId) -> Vec<NodeId> {
        let mut found = vec![id];
        let mut next = 0;
        while let Some(&at) = found.get(next) {
            next += 1;
            for child in self.children(at).into_iter().chain(self.data_owners(at)) {
                if !found.contains(&child) {
                    found.push(child);
                }
            }
        }
        found.remove(0);
        found
    }

    /// The nodes of the loop that the links from `id` run into, in link order; `None` when the
    /// chain ends.
    pub fn find_loop(&self, id: NodeId) -> Option<Vec<NodeId>> {
        let mut path = vec![id];
        let mut at = id;
        while let Some(next) = self.backing(at) {
            if let Some(start) = path.iter().position(|&n| n == next) {
                return Some(path.split_off(start));
            }
            path.push(next);
            at = next;
        }
        None
    }

    /// The label of `id` in its overlay's header against its content: the names of both when
    /// they disagree.
    pub fn wrong_label(&self, id: NodeId) -> Option<(Format, Format)> {
        let node = self.node(id);
        if node.origin != FormatOrigin::Label {
            return None;
        }
        let opened = match &node.image {
            Ok(image) => image.format(),
            // Labelled qcow2 without the magic.
            Err(_) => Format::Qcow2,
        };
        (opened != node.probed).then_some((opened, node.probed))
    }

    /// The layers from `top` down to `bottom`, to look at what each holds: what lies below may be
    /// missing, so this is not what the guest reads. `None` when no way leads there.
    pub fn stretch(&self, top: NodeId, bottom: NodeId) -> Option<Chain> {
        let mut layers = vec![Arc::clone(self.node(top))];
        let mut at = top;
        while at != bottom {
            at = self
                .backing(at)
                .filter(|_| layers.len() <= self.nodes().len())?;
            layers.push(Arc::clone(self.node(at)));
        }
        Some(Chain::new(layers))
    }

    /// The chain from `top` down to its base. Fails on loops, broken links and damaged images,
    /// naming the file.
    pub fn chain(&self, top: NodeId) -> Result<Chain> {
        if let Some(nodes) = self.find_loop(top) {
            let mut names: Vec<_> = nodes.iter().map(|&n| self.node(n).name.as_str()).collect();
            names.extend(names.first().copied());
            let message = format!("the backing files form a loop: {}", names.join(" -> "));
            return Err(Error::new(ErrorKind::Loop, message));
        }
        let mut layers = Vec::new();
        let mut at = Some(top);
        while let Some(id) = at {
            let node = self.node(id);
            if let Some((label, content)) = self.wrong_label(id)
                && content == Format::Raw
            {
                let message =
                    format!("the overlay says it is {label}, but it looks like {content}");
                return Err(Error::new(ErrorKind::WrongLabel, message).about(&node.name));
            }
            node.image()?;
            if let Some(error) = &node.data_error {
                return Err(error.duplicate().about(&node.name));
            }
            layers.push(Arc::clone(node));
            at = match self.link(id) {
                Link::None => None,
                Link::To(next) => Some(*next),
                Link::Broken(error) => return Err(error.duplicate()),
            };
        }
        Ok(Chain::new(layers))
    }
}

pub(super) fn index(id: NodeId) -> usize {
    backchain_format::bytes::to_usize(u64::from(id.0))
}
