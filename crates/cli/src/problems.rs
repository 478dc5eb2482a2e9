//! What is wrong with an image and its links, and what is worth knowing about them.

use crate::output::size;
use backchain::format::qcow2::{autoclear, incompatible};
use backchain::{Format, Link, Node, Tree};
use std::path::Path;

/// One thing.
pub(crate) struct Problem {
    /// The image, or what hangs on it, cannot be read as it should.
    pub(crate) broken: bool,
    /// What it is, in words that need no context but the image's name.
    pub(crate) text: String,
}

/// Whether an image is fine, in one word.
pub(crate) fn state(tree: &Tree, node: &Node) -> &'static str {
    if node.image.is_err() {
        "damaged"
    } else if tree.find_loop(node.id).is_some() {
        "loop"
    } else if wrong_label(tree, node).is_some() {
        "wrong-label"
    } else if matches!(tree.link(node.id), Link::Broken(_)) {
        "missing-backing"
    } else {
        "ok"
    }
}

/// Everything, what is broken first.
pub(crate) fn of(tree: &Tree, node: &Node) -> Vec<Problem> {
    let mut list = Vec::new();
    let mut broken = |text: String| list.push(Problem { broken: true, text });
    if let Err(error) = &node.image {
        broken(error.to_string());
    }
    if let Some(nodes) = tree.find_loop(node.id) {
        let names: Vec<_> = nodes.iter().map(|&id| tree.node(id).file_name()).collect();
        broken(format!(
            "the backing files form a loop: {}",
            names.join(" -> ")
        ));
    }
    if let Some((overlay, label)) = wrong_label(tree, node) {
        let content = node.probed;
        broken(format!(
            "{overlay} says it is {label}, but it holds {content}"
        ));
    }
    if let Link::Broken(error) = tree.link(node.id) {
        broken(error.message().to_owned());
    }
    if let Some(error) = &node.data_error {
        broken(error.message().to_owned());
    }
    let mut worth = |text: String| {
        list.push(Problem {
            broken: false,
            text,
        });
    };
    marks(node, &mut worth);
    link(tree, node, &mut worth);
    let above = tree.children(node.id);
    if above.len() > 1 {
        worth(format!(
            "{} images depend on it: a change to it changes them all",
            above.len()
        ));
    }
    list
}

/// What the header says of the image's health.
fn marks(node: &Node, worth: &mut dyn FnMut(String)) {
    let Some(image) = node.image.as_ref().ok().and_then(|image| image.as_qcow2()) else {
        return;
    };
    let header = &image.head.header;
    if header.has(incompatible::CORRUPT) {
        worth("marked corrupt: repair it before anything writes to it".to_owned());
    }
    if header.has(incompatible::DIRTY) {
        worth("not closed properly: its refcounts may be wrong".to_owned());
    }
    let unknown = header.autoclear & !autoclear::KNOWN;
    if unknown != 0 {
        worth(format!(
            "has autoclear bits that nobody knows: {unknown:#x}"
        ));
    }
    if image.forgets_bitmaps() {
        worth("its bitmaps are not consistent any more".to_owned());
    }
}

/// The link to the backing file.
fn link(tree: &Tree, node: &Node, worth: &mut dyn FnMut(String)) {
    let Some(backing) = node.backing() else {
        return;
    };
    if backing.format.is_none() {
        worth("the format of its backing file is not recorded".to_owned());
    }
    if Path::new(&backing.name).is_absolute() {
        worth("names its backing file with an absolute path".to_owned());
    }
    let Some(below) = tree.backing(node.id).map(|id| tree.node(id)) else {
        return;
    };
    if below.image.is_err() {
        return;
    }
    let (own, lower) = (node.virtual_size(), below.virtual_size());
    if lower == 0 && own > 0 && below.probed == Format::Raw {
        worth("its backing file is empty".to_owned());
    } else if own > lower {
        let more = size::human(own - lower);
        worth(format!("{more} longer than its backing file"));
    } else if own < lower {
        let less = size::human(lower - own);
        worth(format!("{less} shorter than its backing file"));
    }
}

/// An overlay whose header has another format for `node` than what it holds, and that format.
fn wrong_label(tree: &Tree, node: &Node) -> Option<(String, Format)> {
    tree.children(node.id).into_iter().find_map(|child| {
        let overlay = tree.node(child);
        let label = overlay.backing()?.format.as_deref()?.parse().ok()?;
        // Whatever it holds may be used as raw bytes; that it holds an image is what is odd.
        (label != node.probed).then(|| (overlay.file_name().to_owned(), label))
    })
}
