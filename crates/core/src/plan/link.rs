//! Changing headers: backing links and feature bits.

use super::{MetadataKind, Stage, Step, StepQueue};
use crate::chain::{Link, Locator, Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::{Backing, Extension, Extensions, Head, autoclear};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A head that several stages of one plan change one after the other.
#[derive(Clone)]
pub(super) struct HeadCell(Arc<Mutex<Head>>);

impl HeadCell {
    /// The head of a qcow2 node, ready to be changed.
    pub(super) fn of(node: &Node) -> Result<Self> {
        Ok(Self(Arc::new(Mutex::new(head_to_change(node)?))))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Head> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of a qcow2 node, ready to be changed: autoclear bits nobody knows are cleared.
fn head_to_change(node: &Node) -> Result<Head> {
    let Some(image) = node.image()?.as_qcow2() else {
        let message = "a raw image has no header, so it cannot have a backing file";
        return Err(Error::new(ErrorKind::Invalid, message).about(&node.name));
    };
    let mut head = image.head.clone();
    head.header.autoclear &= autoclear::KNOWN;
    Ok(head)
}

/// The first steps on a target: clears autoclear bits that nobody knows, durably.
pub(super) fn clear_unknown_bits(node: &Node) -> Result<Vec<Step>> {
    let Some(image) = node.image()?.as_qcow2() else {
        return Ok(Vec::new());
    };
    if image.head.header.autoclear & !autoclear::KNOWN == 0 {
        return Ok(Vec::new());
    }
    let head = head_to_change(node)?;
    Ok(vec![
        header_write(node.id, &head),
        Step::Sync { node: node.id },
    ])
}

/// Writes the header alone: extensions and the backing file's name stay as they are. It is
/// shorter than a sector, so it is there or it is not.
pub(super) fn header_write(to: NodeId, head: &Head) -> Step {
    head_write(to, 0, head.header.to_bytes())
}

fn head_write(to: NodeId, at: usize, bytes: Vec<u8>) -> Step {
    Step::Write {
        to,
        dst: HostOffset(to_u64(at)),
        kind: MetadataKind::Header,
        bytes,
    }
}

/// Disks write so many bytes at once or not at all.
const SECTOR: usize = 512;

/// The steps that give `old`'s image another backing file. What the new head needs is written
/// first, to places nobody looks at yet; then one sector, the first, makes the change.
pub(super) fn relink_steps(
    node: NodeId,
    old: &Head,
    backing: Option<Backing>,
) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let sync = Step::Sync { node };
    let (new, prepared) = new_head(old, backing)?;
    if let Some((at, bytes)) = prepared {
        // A label behind the other extensions, which nobody reads while there is no backing
        // file: first what is behind its start, then its start.
        let (start, rest) = bytes.split_at(8.min(bytes.len()));
        steps.push(head_write(node, at + start.len(), rest.to_vec()));
        steps.push(sync.clone());
        steps.push(head_write(node, at, start.to_vec()));
        steps.push(sync.clone());
    }
    let (before, mut after) = (old.to_bytes(), new.to_bytes());
    if after.get(SECTOR..) == before.get(SECTOR..) {
        after.truncate(SECTOR);
    }
    let stays = new.header.backing_name == old.header.backing_name && name(&new) == name(old);
    if let Some((dst, name)) = new.name_bytes()
        && !stays
    {
        let (dst, name) = (to_usize(dst.0), name.to_vec());
        let end = dst + name.len();
        let used = old.header.backing_name.map_or(0..0, |(at, len)| {
            to_usize(at.0)..to_usize(at.0 + u64::from(len))
        });
        let free = dst >= before.len() && (end <= used.start || dst >= used.end);
        if free || end > SECTOR {
            steps.push(Step::Write {
                to: node,
                dst: HostOffset(to_u64(dst)),
                kind: MetadataKind::BackingName,
                bytes: name,
            });
            steps.push(sync);
        } else {
            // No room beside the old name, but all of it goes into one sector.
            after.resize(dst, 0);
            after.extend(name);
        }
    }
    steps.push(head_write(node, 0, after));
    steps.push(Step::Seal { node });
    Ok(steps)
}

fn name(head: &Head) -> Option<&str> {
    head.backing.as_ref().map(|b| b.name.as_str())
}

/// The head with another backing file, laid out so that what is behind the first sector stays
/// as it is, where that is possible; and, if need be, extension bytes to write beforehand, with
/// their place.
#[allow(clippy::type_complexity)]
fn new_head(old: &Head, backing: Option<Backing>) -> Result<(Head, Option<(usize, Vec<u8>)>)> {
    let mut new = old.clone();
    new.set_backing(backing)?;
    let (before, after) = (old.to_bytes(), new.to_bytes());
    if name(&new) == name(old) && after.len() == before.len() {
        // Only the label changes, if anything: the name stays where it is.
        new.header.backing_name = old.header.backing_name;
    }
    if after.get(SECTOR..) == before.get(SECTOR..) {
        return Ok((new, None));
    }
    let kind = Extensions::BACKING_FORMAT;
    if new.backing.is_none() {
        // Without a backing file its label means nothing. Taking it out would move all that
        // follows, over more than one sector.
        new.extensions = old.extensions.clone();
        return Ok((new, None));
    }
    let (None, None, Some(label)) = (
        &old.backing,
        old.extensions.get(kind),
        new.extensions.get(kind),
    ) else {
        return Ok((new, None));
    };
    let data = label.to_vec();
    new.extensions = old.extensions.clone();
    new.extensions.0.push(Extension { kind, data });
    let at = before.len().saturating_sub(8);
    let bytes = new.to_bytes().split_off(at);
    Ok((new, Some((at, bytes))))
}

/// A stage that relinks `node`, whose head is then what the stages before left.
pub(super) struct Relink {
    node: NodeId,
    head: HeadCell,
    backing: Option<Backing>,
}

impl Relink {
    /// Fails now when the new head does not fit, not when everything else is written.
    pub(super) fn new(node: NodeId, head: HeadCell, backing: Option<Backing>) -> Result<Self> {
        relink_steps(node, &head.lock(), backing.clone())?;
        Ok(Self {
            node,
            head,
            backing,
        })
    }
}

impl Stage for Relink {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        let head = self.head.lock().clone();
        let steps = relink_steps(self.node, &head, self.backing.take())?;
        steps.into_iter().for_each(|step| out.push(step));
        Ok(false)
    }
}

/// What `overlay`'s header is to say when `target` becomes its backing file.
pub(super) fn backing_for(tree: &Tree, overlay: &str, target: &Node) -> Result<Backing> {
    Ok(Backing {
        name: link_name(tree, overlay, target)?,
        format: Some(target.image()?.format().name().to_owned()),
    })
}

/// The name under which `overlay` refers to `target`: as some image of the same directory
/// already does, else relative to the overlay's directory.
fn link_name(tree: &Tree, overlay: &str, target: &Node) -> Result<String> {
    let dir = |name: &str| {
        name.rfind('/')
            .map_or(String::new(), |at| name[..=at].to_owned())
    };
    let here = dir(overlay);
    for node in tree.nodes() {
        if matches!(tree.link(node.id), Link::To(to) if *to == target.id)
            && dir(&node.name) == here
            && let Some(backing) = node.backing()
        {
            return Ok(backing.name.clone());
        }
    }
    Locator::relative(&target.name, overlay).ok_or_else(|| {
        let message = format!(
            "'{}' cannot be named as seen from '{overlay}': give both as absolute paths",
            target.name
        );
        Error::new(ErrorKind::Invalid, message)
    })
}
