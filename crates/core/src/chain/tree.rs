//! The tree: any set of files with the backing links between them.

use super::gate::{Denied, Gate, Granted, Request};
use super::layers::Chain;
use super::node::{Fingerprint, FormatOrigin, Link, Node, NodeId};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::source::read_padded;
use backchain_format::probe::PROBE_BYTES;
use backchain_format::{Format, probe};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Files and the links between them. A file is in the tree once, however many links lead to it.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: Vec<Arc<Node>>,
    links: Vec<Link>,
    by_key: HashMap<String, NodeId>,
    given_up: HashSet<NodeId>,
}

/// More files than anybody has in one tree; stops a hostile gate from filling the memory.
const MAX_NODES: usize = 10_000;

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the file `name` and, one after the other, all its backing files. `format` overrides
    /// what the file looks like. Fails only when `name` itself cannot be opened as a file:
    /// damage and broken links are recorded in the tree.
    pub fn add(&mut self, gate: &dyn Gate, name: &str, format: Option<Format>) -> Result<NodeId> {
        let id = self.add_one(gate, name, format)?;
        let mut at = id;
        while let Some(next) = self.follow(gate, at) {
            at = next;
        }
        Ok(id)
    }

    /// Opens the file `name` alone. Its link, if any, counts as not granted.
    pub fn add_one(
        &mut self,
        gate: &dyn Gate,
        name: &str,
        format: Option<Format>,
    ) -> Result<NodeId> {
        let granted = gate
            .open(Request {
                name,
                referrer: None,
            })
            .map_err(|d| denied(d, name))?;
        let origin = if format.is_some() {
            FormatOrigin::Given
        } else {
            FormatOrigin::Probed
        };
        self.insert(granted, format, origin)
    }

    /// Opens the backing file of `id`. Returns it when it is new to the tree.
    fn follow(&mut self, gate: &dyn Gate, id: NodeId) -> Option<NodeId> {
        if !matches!(self.link(id), Link::Broken(e) if e.kind() == ErrorKind::NotGranted) {
            return None;
        }
        let node = Arc::clone(self.node(id));
        let backing = node.backing()?;
        let known = self.nodes.len();
        let opened = gate
            .open(Request {
                name: &backing.name,
                referrer: Some(&node),
            })
            .map_err(|d| denied(d, &backing.name))
            .and_then(
                |granted| match backing.format.as_deref().map(str::parse::<Format>) {
                    None => self.insert(granted, None, FormatOrigin::Probed),
                    Some(Ok(format)) => self.insert(granted, Some(format), FormatOrigin::Label),
                    Some(Err(e)) => Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("backing format: {e}"),
                    )
                    .about(&granted.name)),
                },
            );
        let link = match opened {
            Ok(to) => Link::To(to),
            Err(error) => Link::Broken(error),
        };
        let next = match link {
            Link::To(to) if self.nodes.len() > known => Some(to),
            _ => None,
        };
        if let Some(slot) = self.links.get_mut(index(id)) {
            *slot = link;
        }
        next
    }

    fn insert(
        &mut self,
        granted: Granted,
        format: Option<Format>,
        origin: FormatOrigin,
    ) -> Result<NodeId> {
        if let Some(&id) = self.by_key.get(&granted.key) {
            return Ok(id);
        }
        if self.nodes.len() >= MAX_NODES {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("more than {MAX_NODES} files in one tree"),
            ));
        }
        let name = granted.name;
        let source = granted.source;
        let mut head = [0; PROBE_BYTES];
        read_padded(source.as_ref(), 0, &mut head).map_err(|e| Error::from(e).about(&name))?;
        let probed = probe(&head);
        let fingerprint = Fingerprint::of(source.as_ref(), granted.modified)
            .map_err(|e| Error::from(e).about(&name))?;
        let image = Image::open(source.as_ref(), format.unwrap_or(probed));
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        let link = match image.as_ref().ok().and_then(Image::backing) {
            Some(backing) => Link::Broken(
                Error::new(
                    ErrorKind::NotGranted,
                    format!("backing file '{}' was not opened", backing.name),
                )
                .about(&name),
            ),
            None => Link::None,
        };
        self.by_key.insert(granted.key.clone(), id);
        self.links.push(link);
        self.nodes.push(Arc::new(Node {
            id,
            name,
            key: granted.key,
            source,
            origin,
            probed,
            image,
            fingerprint,
            allocated: granted.allocated,
            data: None,
            data_error: None,
        }));
        Ok(id)
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

    /// Everything that reaches `id` through backing links, nearest first; without `id` itself.
    pub fn dependents(&self, id: NodeId) -> Vec<NodeId> {
        let mut found = vec![id];
        let mut next = 0;
        while let Some(&at) = found.get(next) {
            next += 1;
            for child in self.children(at) {
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

fn index(id: NodeId) -> usize {
    backchain_format::bytes::to_usize(u64::from(id.0))
}

fn denied(denied: Denied, name: &str) -> Error {
    let (kind, message) = match &denied {
        Denied::NotFound => (ErrorKind::NotFound, format!("file '{name}' was not found")),
        Denied::NotGranted(why) => (
            ErrorKind::NotGranted,
            format!("file '{name}' was not opened: {why}"),
        ),
        Denied::Unsupported(why) => (ErrorKind::Unsupported, why.clone()),
        Denied::InUse(why) => (ErrorKind::InUse, why.clone()),
        Denied::Io(error) => {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Io,
            };
            (kind, format!("file '{name}' could not be opened: {error}"))
        }
    };
    Error::new(kind, message)
}
