//! Growing a tree: opening files, their backing files and their data files.

use super::gate::{Denied, Gate, Granted, Request};
use super::locator::Locator;
use super::name::{self, Backing, File, Opening};
use super::node::{CipherCell, Fingerprint, FormatOrigin, Link, Node, NodeId};
use super::tree::{Tree, index};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Encryption, Image};
use crate::source::{Zeros, read_padded};
use backchain_format::probe::PROBE_BYTES;
use backchain_format::qcow2::Extensions;
use backchain_format::{Format, probe, raw};
use std::sync::Arc;

/// More files than anybody has in one tree; stops a hostile gate from filling the memory.
const MAX_NODES: usize = 10_000;

impl Tree {
    /// Opens the image `name` and, one after the other, all its backing files, with their data
    /// files. `format` overrides what the name says and what the file looks like. Fails only
    /// when `name` itself cannot be opened as a file: damage and broken links are recorded in
    /// the tree.
    pub fn add(&mut self, gate: &dyn Gate, name: &str, format: Option<Format>) -> Result<NodeId> {
        let id = self.add_one(gate, name, format)?;
        self.attach_data(gate, id);
        let mut at = id;
        while let Some(next) = self.follow(gate, at) {
            self.attach_data(gate, next);
            at = next;
        }
        Ok(id)
    }

    /// Opens the file `name` alone. Its backing file and its data file, if any, count as not
    /// granted.
    pub fn add_one(
        &mut self,
        gate: &dyn Gate,
        name: &str,
        format: Option<Format>,
    ) -> Result<NodeId> {
        let opening = Opening::parse_as(name, format)?;
        let origin = match opening.format {
            Some(_) => FormatOrigin::Given,
            None => FormatOrigin::Probed,
        };
        self.open(gate, opening, None, origin)
    }

    /// Opens what `opening` says.
    fn open(
        &mut self,
        gate: &dyn Gate,
        opening: Opening,
        referrer: Option<&Node>,
        origin: FormatOrigin,
    ) -> Result<NodeId> {
        let granted = match &opening.file {
            File::Named(name) if name.is_empty() || name == "file:" => {
                let message = "The 'file' block driver requires a file name";
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            File::Named(name) => gate.open(Request { name, referrer }).map_err(|d| {
                let here = Locator::resolve(name, referrer.map(|node| node.name.as_str()));
                denied(d, here.as_deref().unwrap_or(name))
            })?,
            // Zeros are no file: there is nothing to grant.
            File::Null(size) => Granted {
                name: "null-co://".to_owned(),
                key: format!("null-co:{}", self.nodes.len()),
                source: Arc::new(Zeros(*size)),
                modified: None,
                allocated: Some(0),
            },
        };
        self.insert(gate, granted, opening, origin)
    }

    /// Opens the backing file of `id`. Returns it when it is new to the tree.
    fn follow(&mut self, gate: &dyn Gate, id: NodeId) -> Option<NodeId> {
        if !matches!(self.link(id), Link::Broken(e) if e.kind() == ErrorKind::NotGranted) {
            return None;
        }
        let node = Arc::clone(self.node(id));
        let known = self.nodes.len();
        let opened = below(&node)
            .and_then(|(opening, origin)| self.open(gate, opening, Some(&node), origin));
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

    /// Opens the data file of `id`, if it has one that is not open yet. A data file is raw,
    /// whatever it looks like: nothing that stands in it is followed.
    fn attach_data(&mut self, gate: &dyn Gate, id: NodeId) {
        let node = Arc::clone(self.node(id));
        let pending = node.data_error.as_ref();
        if node.data.is_some() || pending.is_none_or(|e| e.kind() != ErrorKind::NotGranted) {
            return;
        }
        let data = self.open_data(gate, &node);
        if let Some(slot) = self.nodes.get_mut(index(id)) {
            *slot = Arc::new(node.with_data(data));
        }
    }

    fn open_data(&mut self, gate: &dyn Gate, node: &Node) -> Result<Arc<Node>> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        if !node.wants_data_file() {
            let message = "'data-file' can only be set for images with an external data file";
            return Err(invalid(message.to_owned()));
        }
        let Some(name) = data_name(node) else {
            return Err(invalid("'data-file' is required for this image".to_owned()));
        };
        let opening = Opening {
            format: Some(Format::Raw),
            ..Opening::plain(name)
        };
        let id = self.open(gate, opening, Some(node), FormatOrigin::Given)?;
        let data = self.node(id);
        let plain = matches!(data.image, Ok(Image::Raw { offset: 0, .. })) && data.has_file();
        if id == node.id || !plain {
            let message = format!(
                "its data file '{}' is an image of its own here, so it is not taken for plain data",
                data.name
            );
            return Err(Error::new(ErrorKind::Refused, message));
        }
        Ok(Arc::clone(data))
    }

    fn insert(
        &mut self,
        gate: &dyn Gate,
        granted: Granted,
        opening: Opening,
        origin: FormatOrigin,
    ) -> Result<NodeId> {
        let key = match opening.window {
            Some(window) => format!("{}+{}+{:?}", granted.key, window.offset, window.size),
            None => granted.key,
        };
        if let Some(&id) = self.by_key.get(&key) {
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
        let format = opening.format.unwrap_or(probed);
        let image = opening
            .check(format)
            .and_then(|()| match opening.range(source.len())? {
                Some((offset, size)) => Ok(Image::Raw {
                    size: raw::virtual_size(size),
                    offset,
                }),
                None if self.damaged => Image::open_damaged(source.as_ref(), format),
                None => Image::open(source.as_ref(), format),
            })
            .and_then(|image| encrypted_as_said(image, opening.key_format.as_deref()));
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        let mut node = Node {
            id,
            name,
            key: key.clone(),
            source,
            opened: opening,
            origin,
            probed,
            image,
            fingerprint,
            allocated: granted.allocated,
            data: None,
            data_error: None,
            unlocked: CipherCell::default(),
        };
        if let Some(id) = &node.opened.key_secret {
            node.unlocked.give(gate.secret(id).ok_or_else(|| {
                let message = format!("No secret with id '{id}'");
                Error::new(ErrorKind::Locked, message.as_str()).with_qemu(message.as_str())
            }));
        }
        if node.wants_data_file() || node.opened.data_file.is_some() {
            let message = "the external data file was not opened";
            node.data_error = Some(Error::new(ErrorKind::NotGranted, message));
        }
        self.links.push(first_link(&node));
        self.by_key.insert(key, id);
        self.nodes.push(Arc::new(node));
        Ok(id)
    }
}

/// Fails when an image is not encrypted the way the options say.
fn encrypted_as_said(image: Image, said: Option<&str>) -> Result<Image> {
    let found = match image.encryption() {
        None => None,
        Some(Encryption::Aes) => Some("aes"),
        Some(Encryption::Luks) => Some("luks"),
    };
    let message = match (said, found) {
        (Some(said), Some(found)) if said != found => {
            format!("Header reported '{found}' encryption format but options specify '{said}'")
        }
        (Some(said), None) => {
            format!("No encryption in image header, but options specified format '{said}'")
        }
        _ => return Ok(image),
    };
    Err(Error::new(ErrorKind::Invalid, message.as_str()).with_qemu(message.as_str()))
}

/// The backing link of a node of which nothing but the header was read.
fn first_link(node: &Node) -> Link {
    let not_opened = |message: String| {
        Link::Broken(Error::new(ErrorKind::NotGranted, message).about(&node.name))
    };
    match (&node.opened.backing, node.backing()) {
        (Backing::None, _) | (Backing::Header, None) => Link::None,
        (Backing::Device(device), _) => Link::Broken(name::no_device(device)),
        (Backing::Header, Some(backing)) => {
            not_opened(format!("backing file '{}' was not opened", backing.name))
        }
        (Backing::Options(_), _) => not_opened("the backing file was not opened".to_owned()),
    }
}

/// What is to be opened as the backing file of `node`, and how its format is known.
fn below(node: &Node) -> Result<(Opening, FormatOrigin)> {
    let header = node.backing();
    let label = match header.and_then(|b| b.format.as_deref()) {
        Some(label) => Some(label.parse::<Format>().map_err(|e| {
            let message = format!("backing format: {e}");
            Error::new(ErrorKind::Unsupported, message).with_qemu(e.to_string())
        })?),
        None => None,
    };
    let mut opening = match (&node.opened.backing, header) {
        (Backing::Options(options), header) => {
            let name = header.map(|b| b.name.clone());
            if let Some(name) = &name
                && !matches!(Locator::parse(name), Locator::Path(_))
            {
                let message = format!("options cannot be added to the backing file '{name}'");
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            let opening = Opening::backing(options, name)?;
            if opening.format.is_some() {
                return Ok((opening, FormatOrigin::Given));
            }
            opening
        }
        (_, Some(backing)) => Opening::parse_as(&backing.name, label)?,
        (_, None) => return Err(Error::new(ErrorKind::Invalid, "there is no backing file")),
    };
    opening.format = opening.format.or(label);
    let origin = match opening.format {
        Some(_) => FormatOrigin::Label,
        None => FormatOrigin::Probed,
    };
    Ok((opening, origin))
}

/// The name of the data file to ask the gate for: it is a path and nothing else, and QEMU takes
/// it as seen from the working directory.
fn data_name(node: &Node) -> Option<String> {
    if let Some(name) = &node.opened.data_file {
        return Some(name.clone());
    }
    let head = &node.image.as_ref().ok()?.as_qcow2()?.head;
    let name = head.extensions.string(Extensions::DATA_FILE)?;
    (!name.is_empty()).then(|| format!("file:{name}"))
}

/// Why the file called `name` from here is not open.
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
    let error = Error::new(kind, message);
    if kind == ErrorKind::NotFound {
        return error.with_qemu(format!(
            "Could not open '{name}': No such file or directory"
        ));
    }
    error
}
