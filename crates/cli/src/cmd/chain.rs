//! `chain`: the tree that images form.

use crate::args::Output;
use crate::failure::{Failure, Outcome, code};
use crate::open;
use crate::output::{self, json, size};
use crate::problems;
use crate::work;
use backchain::image::Qcow2;
use backchain::{NodeId, Tree};
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
            next.extend(tree.data_owners(id));
        }
    }
    // A data file is a part of its image, not a layer.
    found.retain(|&id| tree.data_owners(id).is_empty());
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
        if let Some(image) = image.as_qcow2() {
            let snapshots = u64::from(image.head.header.snapshots);
            if snapshots > 0 {
                text.push_str(&format!(", {}", count(snapshots, "internal snapshot")));
            }
            let bitmaps = bitmaps(image);
            if bitmaps > 0 {
                text.push_str(&format!(", {}", count(bitmaps, "bitmap")));
            }
        }
    }
    if let Some(data) = &node.data {
        text.push_str(&format!(", data in {}", data.name));
    }
    for problem in problems::of(tree, node) {
        text.push_str(&format!("  [{}]", problem.text));
    }
    text
}

/// A number of things.
fn count(n: u64, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

/// Persistent bitmaps that the header tells of, consistent or not.
fn bitmaps(image: &Qcow2) -> u64 {
    match image.head.extensions.bitmaps(0) {
        Some(Ok(extension)) => u64::from(extension.count),
        _ => 0,
    }
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
            set("bitmaps", json!(bitmaps(image)));
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
    if let Some(data) = &node.data {
        set("data-file", json!(data.name));
    }
    set("state", json!(problems::state(tree, node)));
    let (broken, worth): (Vec<_>, Vec<_>) = problems::of(tree, node)
        .into_iter()
        .partition(|problem| problem.broken);
    let texts = |list: Vec<problems::Problem>| -> Value {
        list.into_iter()
            .map(|problem| json!(problem.text))
            .collect()
    };
    set("problems", texts(broken));
    set("warnings", texts(worth));
    Value::Object(map)
}
