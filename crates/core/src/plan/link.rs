//! Changing headers: backing links and feature bits.

use super::{MetadataKind, Stage, Step, StepQueue};
use crate::chain::{Link, Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::qcow2::{Backing, Head, autoclear};
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

fn header_write(to: NodeId, head: &Head) -> Step {
    Step::Write {
        to,
        dst: HostOffset(0),
        kind: MetadataKind::Header,
        bytes: head.to_bytes(),
    }
}

/// The steps that give `head`'s image another backing file: the name first, to a place nobody
/// looks at yet, then the header that points there.
pub(super) fn relink_steps(
    node: NodeId,
    mut head: Head,
    backing: Option<Backing>,
) -> Result<Vec<Step>> {
    let unchanged_name =
        head.backing.as_ref().map(|b| &b.name) == backing.as_ref().map(|b| &b.name);
    let same_area = {
        let mut probe = head.clone();
        let old = probe.to_bytes().len();
        probe.backing.clone_from(&backing);
        probe.set_backing(backing.clone())?;
        probe.to_bytes().len() == old
    };
    let mut steps = Vec::new();
    if unchanged_name && same_area {
        // Only the label changes, if anything: the name stays where it is.
        let place = head.header.backing_name;
        head.set_backing(backing)?;
        head.header.backing_name = place;
    } else {
        head.set_backing(backing)?;
        if let Some((dst, name)) = head.name_bytes() {
            let kind = MetadataKind::BackingName;
            steps.push(Step::Write {
                to: node,
                dst,
                kind,
                bytes: name.to_vec(),
            });
            steps.push(Step::Sync { node });
        }
    }
    steps.push(header_write(node, &head));
    steps.push(Step::Seal { node });
    Ok(steps)
}

/// A stage that relinks `node`, whose head is then what the stages before left.
pub(super) struct Relink {
    pub(super) node: NodeId,
    pub(super) head: HeadCell,
    pub(super) backing: Option<Backing>,
}

impl Stage for Relink {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        let head = self.head.lock().clone();
        let steps = relink_steps(self.node, head, self.backing.take())?;
        steps.into_iter().for_each(|step| out.push(step));
        Ok(false)
    }
}

/// What `overlay`'s header is to say when `target` becomes its backing file.
pub(super) fn backing_for(tree: &Tree, overlay: &str, target: &Node) -> Result<Backing> {
    Ok(Backing {
        name: link_name(tree, overlay, target),
        format: Some(target.image()?.format().name().to_owned()),
    })
}

/// The name under which `overlay` refers to `target`: as some image of the same directory
/// already does, else relative to the overlay's directory.
fn link_name(tree: &Tree, overlay: &str, target: &Node) -> String {
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
            return backing.name.clone();
        }
    }
    relative(&here, &target.name)
}

/// `target` as seen from directory `here` (empty or ending in a slash).
fn relative(here: &str, target: &str) -> String {
    if let Some(rest) = target.strip_prefix(here)
        && (!here.is_empty() || !target.starts_with('/'))
    {
        return rest.to_owned();
    }
    let absolute = here.starts_with('/');
    if absolute != target.starts_with('/') || here.split('/').any(|part| part == "..") {
        return target.to_owned();
    }
    // Up to the common directory, then down.
    let from: Vec<&str> = here.trim_end_matches('/').split('/').collect();
    let to: Vec<&str> = target.split('/').collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    if absolute && common <= 1 {
        return target.to_owned();
    }
    let up = "../".repeat(from.len() - common);
    format!("{up}{}", to.get(common..).unwrap_or_default().join("/"))
}

#[cfg(test)]
mod tests {
    use super::relative;

    #[test]
    fn names_are_relative_where_that_is_shorter_than_the_whole_path() {
        assert_eq!(relative("", "base.img"), "base.img");
        assert_eq!(relative("dir/", "dir/base.img"), "base.img");
        assert_eq!(relative("/vm/a/", "/vm/b/base.img"), "../b/base.img");
        assert_eq!(relative("/vm/a/", "/other/base.img"), "/other/base.img");
        assert_eq!(relative("dir/", "base.img"), "../base.img");
        assert_eq!(relative("", "/abs/base.img"), "/abs/base.img");
    }
}
