//! `amend`: changes what kind of qcow2 image an image is.

use crate::failure::Failure;
use backchain::format::qcow2::incompatible;
use backchain::{NodeId, Tree};

/// Fails, in qemu-img's words, when the image is marked corrupt: nobody may write it.
pub(crate) fn refuse_corrupt(tree: &Tree, id: NodeId, name: &str) -> Result<(), Failure> {
    let image = tree.node(id).image()?;
    match image.as_qcow2() {
        Some(image) if image.head.header.has(incompatible::CORRUPT) => Err(Failure::open(
            name,
            "qcow2: Image is corrupt; cannot be opened read/write",
        )),
        _ => Ok(()),
    }
}
