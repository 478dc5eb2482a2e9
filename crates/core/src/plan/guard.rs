//! What is refused before there is a step.

use crate::chain::{Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::Format;
use backchain_format::qcow2::{CryptMethod, L1Entry, MAX_L1_BYTES, incompatible};
use std::sync::Arc;

/// Fails when the header of `node` must not be changed.
pub(super) fn header_writable(tree: &Tree, node: &Node) -> Result<()> {
    if let Some((label, content)) = tree.wrong_label(node.id) {
        let message = format!(
            "the overlay says it is {label}, but it holds {content}; \
             writing to it would destroy it. Correct the label with rebase -u -F {content}"
        );
        return Err(Error::new(ErrorKind::WrongLabel, message).about(&node.name));
    }
    if !node.has_file() {
        let message = "there is no file to write to";
        return Err(Error::new(ErrorKind::Invalid, message).about(&node.name));
    }
    let Some(image) = node.image()?.as_qcow2() else {
        return Ok(());
    };
    let header = &image.head.header;
    if header.has(incompatible::CORRUPT) {
        let message = "the image is marked corrupt and must not be written; repair it first";
        return Err(Error::new(ErrorKind::Refused, message).about(&node.name));
    }
    Ok(())
}

/// Fails when `node` cannot be emptied: nothing of its internal snapshots would be left.
pub(super) fn can_be_emptied(tree: &Tree, node: &Node) -> Result<()> {
    data_writable_beside_snapshots(tree, node)?;
    let count = node
        .image()?
        .as_qcow2()
        .map_or(0, |i| i.head.header.snapshots);
    if count == 0 {
        return Ok(());
    }
    let message = format!(
        "the image has {count} internal snapshot(s) and cannot be emptied; commit without \
         emptying it (-d)"
    );
    Err(Error::new(ErrorKind::Unsupported, message).about(&node.name))
}

/// Fails when the L1 table is longer than QEMU's limit: not every operation works page by page.
pub(super) fn within_qemu_limits(node: &Node) -> Result<()> {
    match node.image.as_ref().ok().and_then(|i| i.as_qcow2()) {
        Some(image) if image.head.header.is_beyond_qemu() => {
            let message = format!(
                "the L1 table is longer than the {MAX_L1_BYTES} bytes that QEMU opens; \
                 this operation does not work on such images"
            );
            Err(Error::new(ErrorKind::Unsupported, message).about(&node.name))
        }
        _ => Ok(()),
    }
}

/// Fails when a disk of `size` bytes would need a longer L1 table than QEMU opens, unless the
/// image has one already.
pub(super) fn may_grow_to(node: &Node, size: u64) -> Result<()> {
    let Some(image) = node.image()?.as_qcow2() else {
        return Ok(());
    };
    let header = &image.head.header;
    let limit = if header.is_beyond_qemu() {
        u64::from(u32::MAX) * L1Entry::LEN
    } else {
        MAX_L1_BYTES
    };
    if header.l1_entries_for(size) * L1Entry::LEN <= limit {
        return Ok(());
    }
    let message = format!(
        "the image cannot grow to {size} bytes: its L1 table would be longer than {limit} bytes"
    );
    Err(Error::new(ErrorKind::Refused, message).about(&node.name))
}

/// Fails when a disk cannot grow: snapshots of version 2 do not record their disk's size.
pub(super) fn can_grow(node: &Node) -> Result<()> {
    let Some(image) = node.image()?.as_qcow2() else {
        if node
            .opened
            .window
            .is_some_and(|window| window.size.is_some())
        {
            let message = "Cannot resize fixed-size raw disks";
            return Err(Error::new(ErrorKind::Unsupported, message).about(&node.name));
        }
        return Ok(());
    };
    if image.head.is_v3() || image.head.header.snapshots == 0 {
        return Ok(());
    }
    let message = "the image is of version 2 and has internal snapshots, so it cannot be resized";
    Err(Error::new(ErrorKind::Unsupported, message).about(&node.name))
}

/// Fails when guest data cannot be written to `node`. Its own internal snapshots stay as they
/// are: clusters and tables they share are copied first.
pub(super) fn data_writable_beside_snapshots(tree: &Tree, node: &Node) -> Result<()> {
    header_writable(tree, node)?;
    let Some(image) = node.image()?.as_qcow2() else {
        return node.cipher().map(|_| ());
    };
    let header = &image.head.header;
    let reason = if header.crypt == CryptMethod::Aes {
        "the image is encrypted with the old AES method, which is not safe; it is only read. \
         Convert it to LUKS"
            .to_owned()
    } else {
        node.cipher()?;
        return data_file_writable(tree, node);
    };
    Err(Error::new(ErrorKind::Unsupported, reason).about(&node.name))
}

/// Fails when the external data file of `node`, if it has one, is not there or not its own.
pub(super) fn data_file_writable(tree: &Tree, node: &Node) -> Result<()> {
    if !node.wants_data_file() {
        return Ok(());
    }
    let Some(data) = &node.data else {
        let error = node.data_error.as_ref().map(Error::duplicate);
        let missing = || Error::new(ErrorKind::NotFound, "the external data file is missing");
        return Err(error.unwrap_or_else(missing).about(&node.name));
    };
    let others = tree.data_owners(data.id).len() > 1 || !tree.children(data.id).is_empty();
    if others {
        let message = format!(
            "its data file '{}' is used by another image too, which would read differently",
            data.name
        );
        return Err(Error::new(ErrorKind::Refused, message).about(&node.name));
    }
    let snapshots = node
        .image()?
        .as_qcow2()
        .map_or(0, |i| i.head.header.snapshots);
    if snapshots > 0 {
        let message = "the image has internal snapshots and an external data file, which do not \
                       go together";
        return Err(Error::new(ErrorKind::Refused, message).about(&node.name));
    }
    Ok(())
}

/// Fails when guest data of one of these images cannot be read for want of a passphrase.
pub(super) fn unlocked(nodes: &[Arc<Node>]) -> Result<()> {
    nodes.iter().try_for_each(|node| node.cipher().map(|_| ()))
}

/// Fails when guest data of encrypted images would be written to an image that is not.
pub(super) fn no_plaintext(from: &[Arc<Node>], to: &Node, allow: bool) -> Result<()> {
    if allow || to.image()?.encryption().is_some() {
        return Ok(());
    }
    for node in from {
        if node.image()?.encryption().is_some() {
            let message = format!(
                "{} is encrypted and {} is not: its data would be readable by anybody. \
                 Override this check if that is what you want",
                node.file_name(),
                to.file_name()
            );
            return Err(Error::new(ErrorKind::Plaintext, message).about(&to.name));
        }
    }
    Ok(())
}

/// Fails when `broken` holds any image, naming them and the ways out.
pub(super) fn no_dependents(
    tree: &Tree,
    changed: &Node,
    broken: &[NodeId],
    allow: bool,
) -> Result<()> {
    if broken.is_empty() || allow {
        return Ok(());
    }
    let names: Vec<&str> = broken.iter().map(|&id| tree.node(id).file_name()).collect();
    let message = format!(
        "{} would read differently afterwards, because {} is below {}. \
         Pull into them first, delete them if nobody needs them any more, or override this check",
        names.join(", "),
        changed.file_name(),
        if broken.len() == 1 { "it" } else { "them" },
    );
    Err(Error::new(ErrorKind::Dependents, message).about(&changed.name))
}

/// The format to use for a label check on create and relink.
pub(super) fn check_label(node: &Node, label: Format) -> Result<()> {
    if node.probed != label && node.probed != Format::Raw {
        let message = format!("the file holds {}, not {label}", node.probed);
        return Err(Error::new(ErrorKind::WrongLabel, message).about(&node.name));
    }
    Ok(())
}
