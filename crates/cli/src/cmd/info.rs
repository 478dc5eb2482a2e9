//! `info`: what is known about an image without reading its tables.

use crate::args::Output;
use crate::failure::{Failure, Outcome, code};
use crate::open::{self, Input};
use crate::output::{self, info, json};
use backchain::{ErrorKind, Link, NodeId, Tree};
use clap::Args;
use serde_json::Value;
use std::io::Write;

/// Show what is known about an image
#[derive(Args)]
pub(crate) struct Options {
    /// Show the backing files too
    #[arg(short, long)]
    backing_chain: bool,
    /// How to print it
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    #[command(flatten)]
    input: Input,
    /// The image
    filename: String,
}

pub(crate) fn run(options: &Options) -> Outcome {
    let mut tree = Tree::new();
    let nodes = layers(options, &mut tree)?;
    let mut out = output::stdout();
    let mut values = Vec::new();
    for (index, &id) in nodes.iter().enumerate() {
        let node = tree.node(id);
        let facts = info::Facts::of(node)
            .map_err(|error| Failure::open(&node.name, open::reason(&error, &node.name)))?;
        if facts.distrusted_bitmaps {
            output::complain(
                "warning: a program lacking bitmap support modified this file, so all bitmaps \
                 are now considered inconsistent\n\
                 Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.",
            );
        }
        match options.output {
            Output::Json => values.push(facts.json()),
            Output::Human => {
                if index > 0 {
                    writeln!(out)?;
                }
                facts.text(&mut out)?;
            }
        }
    }
    if options.output == Output::Json {
        let value = if options.backing_chain {
            Value::Array(values)
        } else {
            values.pop().unwrap_or_default()
        };
        json::write(&mut out, &value)?;
    }
    out.flush()?;
    Ok(code::OK)
}

/// The image named, and its backing files when they are wanted.
fn layers(options: &Options, tree: &mut Tree) -> Result<Vec<NodeId>, Failure> {
    let gate = options.input.gate()?;
    let given = options.input.given(&options.filename)?;
    if !options.backing_chain {
        return Ok(vec![open::metadata(tree, &gate, &given)?]);
    }
    let name = given.text;
    let format = open::format(name, given.format)?;
    let id = tree.add(&gate, &given.name, format);
    let id = id.map_err(|error| Failure::open(name, open::reason(&error, &given.name)))?;
    if tree.find_loop(id).is_some() {
        return Err(Failure::new(format_args!(
            "Backing file '{name}' creates an infinite loop."
        )));
    }
    let mut nodes = Vec::new();
    let mut at = Some(id);
    while let Some(id) = at {
        let node = tree.node(id);
        if let Some(why) = open::why_not_image(node) {
            return Err(Failure::open(&node.name, why));
        }
        nodes.push(id);
        at = match tree.link(id) {
            Link::None => None,
            Link::To(next) => Some(*next),
            Link::Broken(error) => {
                let name = info::full_backing_name(node).unwrap_or_default();
                if error.kind() == ErrorKind::NotGranted {
                    return Err(Failure::open(&name, error.message()));
                }
                return Err(Failure::open(&name, open::reason(error, &name)));
            }
        };
    }
    Ok(nodes)
}
