//! `chain`: the tree that images form.

use crate::args::Output;
use crate::failure::{Failure, Outcome, code};
use crate::open;
use crate::output::{self, json, size};
use crate::work;
use backchain::{Format, Link, Node, NodeId, Tree};
use backchain_native::{FsGate, GateOptions, find_beside};
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

/// Draw how images back each other
///
/// Shows the whole tree that the images belong to, with every image beside them that is part of
/// it. For a directory, all the images in it.
#[derive(Args)]
pub(crate) struct Options {
    /// How to print it
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// Follow backing files named inside an image whose own format nobody recorded
    #[arg(long)]
    trust_probed: bool,
    /// Images, or directories of images
    #[arg(required = true, value_name = "FILE|DIR")]
    files: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Outcome {
    // Drawing needs headers only, so it does not matter who has the images open.
    let gate = FsGate::new(GateOptions {
        force_share: true,
        trust_probed: options.trust_probed,
    });
    let mut tree = Tree::new();
    let mut named = Vec::new();
    for file in &options.files {
        if Path::new(file).is_dir() {
            let found = find_beside(file.trim_end_matches('/'));
            let found = found.map_err(|error| Failure::open(file, error))?;
            for name in &found.names {
                if let Ok(id) = tree.add(&gate, name, None) {
                    named.push(id);
                }
            }
        } else {
            let id = tree.add(&gate, file, None);
            let id = id.map_err(|error| Failure::open(file, open::reason(&error, file)))?;
            named.push(id);
        }
    }
    work::look_beside(&mut tree);
    let shown = related(&tree, &named);
    let mut out = output::stdout();
    match options.output {
        Output::Json => {
            let images: Vec<Value> = shown.iter().map(|&id| describe(&tree, id)).collect();
            json::write(&mut out, &json!({ "images": images }))?;
        }
        Output::Human => {
            for text in drawn(&tree, &shown) {
                write!(out, "{text}")?;
            }
        }
    }
    out.flush()?;
    let damaged = named.iter().any(|&id| tree.node(id).image.is_err());
    Ok(if damaged { code::FAILED } else { code::OK })
}

/// Everything connected with the images that were named, in the order it was opened.
fn related(tree: &Tree, named: &[NodeId]) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    let mut next: Vec<NodeId> = named.to_vec();
    while let Some(id) = next.pop() {
        if found.insert(id) {
            next.extend(tree.backing(id));
            next.extend(tree.children(id));
        }
    }
    found
}

/// One drawing for each tree and each loop.
fn drawn(tree: &Tree, shown: &BTreeSet<NodeId>) -> Vec<String> {
    let mut done = BTreeSet::new();
    let mut texts = Vec::new();
    for &id in shown.iter().filter(|&&id| tree.backing(id).is_none()) {
        texts.push(draw(tree, id, &mut done));
    }
    // What is left hangs on a loop; it is drawn from a member of the loop.
    for &id in shown {
        if !done.contains(&id)
            && let Some(first) = tree.find_loop(id).and_then(|nodes| nodes.first().copied())
        {
            texts.push(draw(tree, first, &mut done));
        }
    }
    texts
}

/// Draws `root` and what is above it. Deep chains must not overflow the stack: the tree is put
/// together from the leaves.
fn draw(tree: &Tree, root: NodeId, done: &mut BTreeSet<NodeId>) -> String {
    let mut lines = String::new();
    // (node, prefix of its own line, prefix of the lines below it)
    let mut stack = vec![(root, String::new(), String::new())];
    while let Some((id, first, rest)) = stack.pop() {
        if !done.insert(id) {
            continue;
        }
        lines.push_str(&format!("{first}{}\n", line(tree, id)));
        let children: Vec<NodeId> = tree
            .children(id)
            .into_iter()
            .filter(|c| !done.contains(c))
            .collect();
        let last = children.len().saturating_sub(1);
        for (index, child) in children.into_iter().enumerate().rev() {
            let (branch, below) = if index == last {
                ("└── ", "    ")
            } else {
                ("├── ", "│   ")
            };
            stack.push((child, format!("{rest}{branch}"), format!("{rest}{below}")));
        }
    }
    lines
}

fn line(tree: &Tree, id: NodeId) -> String {
    let node = tree.node(id);
    let mut text = node.name.clone();
    if let Ok(image) = &node.image {
        let disk = node.allocated.map_or_else(|| "?".to_owned(), size::human);
        text.push_str(&format!(
            "  {}, {}, {disk} on disk",
            image.format(),
            size::human(image.virtual_size())
        ));
        let snapshots = image
            .as_qcow2()
            .map_or(0, |image| image.head.header.snapshots);
        if snapshots > 0 {
            text.push_str(&format!(", {snapshots} internal snapshot(s)"));
        }
    }
    for problem in problems(tree, node) {
        text.push_str(&format!("  [{problem}]"));
    }
    text
}

fn state(tree: &Tree, node: &Node) -> &'static str {
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

/// An overlay whose header has another format for `node` than what it holds, and that format.
fn wrong_label(tree: &Tree, node: &Node) -> Option<(String, Format)> {
    tree.children(node.id).into_iter().find_map(|child| {
        let overlay = tree.node(child);
        let label = overlay.backing()?.format.as_deref()?.parse().ok()?;
        (label != node.probed).then(|| (overlay.file_name().to_owned(), label))
    })
}

fn problems(tree: &Tree, node: &Node) -> Vec<String> {
    let mut list = Vec::new();
    if let Err(error) = &node.image {
        list.push(error.to_string());
    }
    if let Some(nodes) = tree.find_loop(node.id) {
        let names: Vec<_> = nodes.iter().map(|&id| tree.node(id).file_name()).collect();
        list.push(format!(
            "the backing files form a loop: {}",
            names.join(" -> ")
        ));
    }
    if let Some((overlay, label)) = wrong_label(tree, node) {
        let content = node.probed;
        list.push(format!(
            "{overlay} says it is {label}, but it holds {content}"
        ));
    }
    if let Link::Broken(error) = tree.link(node.id) {
        list.push(error.message().to_owned());
    }
    if let Some(backing) = node.backing()
        && backing.format.is_none()
    {
        list.push("the format of its backing file is not recorded".to_owned());
    }
    if let Some(below) = tree.backing(node.id)
        && tree.node(below).image.is_ok()
        && tree.node(below).probed == Format::Raw
        && tree.node(below).virtual_size() == 0
        && node.virtual_size() > 0
    {
        list.push("its backing file is empty".to_owned());
    }
    list
}

fn describe(tree: &Tree, id: NodeId) -> Value {
    let node = tree.node(id);
    let mut map = Map::new();
    let mut set = |key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    set("filename", json!(node.name));
    if let Ok(image) = &node.image {
        set("format", json!(image.format()));
        set("virtual-size", json!(image.virtual_size()));
        if let Some(image) = image.as_qcow2() {
            set("cluster-size", json!(image.head.header.cluster.bytes()));
            set("snapshots", json!(image.head.header.snapshots));
        }
    }
    set("file-length", json!(node.source.len()));
    if let Some(allocated) = node.allocated {
        set("actual-size", json!(allocated));
    }
    if let Some(backing) = node.backing() {
        set("backing-filename", json!(backing.name));
        if let Some(format) = &backing.format {
            set("backing-filename-format", json!(format));
        }
    }
    if let Some(below) = tree.backing(id) {
        set("backing", json!(tree.node(below).name));
    }
    let above = tree.children(id);
    set(
        "overlays",
        above.iter().map(|&c| json!(tree.node(c).name)).collect(),
    );
    set("state", json!(state(tree, node)));
    set("problems", json!(problems(tree, node)));
    Value::Object(map)
}
