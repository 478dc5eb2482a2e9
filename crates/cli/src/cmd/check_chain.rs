//! `check --backing-chain`: every layer, and the links between them.

use super::check::{Options, examine_node};
use crate::args::Output;
use crate::failure::{Failure, Outcome, code};
use crate::open::{self, reason};
use crate::output::{self, check as print, json};
use crate::problems;
use backchain::check::Fix;
use backchain::{Node, NodeId, Tree};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

/// Checks the image and everything below it. The worst of what was found is the exit code: a
/// layer or a link that cannot be followed is worse than a corrupt image, and that is worse than
/// lost clusters.
pub(super) fn run(options: &Options) -> Outcome {
    let mut tree = Tree::for_check();
    let gate = options.input.gate()?;
    let given = options.input.given(&options.filename)?;
    let format = open::format(given.text, given.format)?;
    let top = tree.add(&gate, &given.name, format);
    let top = top.map_err(|error| Failure::open(given.text, reason(&error, &given.name)))?;
    let mut out = output::stdout();
    let (mut worst, mut images) = (code::OK, Vec::new());
    for id in layers(&tree, top) {
        let node = Arc::clone(tree.node(id));
        let (found, entry) = layer(options, &tree, &node, &mut out)?;
        worst = worse(worst, found);
        images.push(entry);
    }
    if options.output == Output::Json && !options.quiet {
        json::write(&mut out, &json!({ "images": images }))?;
    }
    out.flush()?;
    Ok(worst)
}

/// The layers from `top` down, each once.
fn layers(tree: &Tree, top: NodeId) -> Vec<NodeId> {
    let (mut list, mut seen) = (Vec::new(), BTreeSet::new());
    let mut next = Some(top);
    while let Some(id) = next.filter(|id| seen.insert(*id)) {
        list.push(id);
        next = tree.backing(id);
    }
    list
}

/// One layer: its exit code, and what JSON says of it.
fn layer(
    options: &Options,
    tree: &Tree,
    node: &Arc<Node>,
    out: &mut impl Write,
) -> Result<(u8, Value), Failure> {
    let human = options.output == Output::Human && !options.quiet;
    if human {
        writeln!(out, "{}:", node.name)?;
        // Findings go to standard error: they belong below their image's name.
        out.flush()?;
    }
    let mut found = code::OK;
    let mut entry = json!({ "filename": node.name });
    let image = node.image.as_ref().ok().and_then(|image| image.as_qcow2());
    if image.is_some() {
        let diagnosis = examine_node(options, node, Fix::Nothing)?;
        let report = &diagnosis.report;
        if let Some(failure) = &diagnosis.failure {
            found = code::FAILED;
            output::complain(&format!("{}: check failed: {}", node.name, failure.reason));
        } else {
            found = print::exit_code(report);
            if human {
                print::text(out, report)?;
            }
            entry = print::json(report, &node.name);
        }
    } else if let (Ok(image), true) = (&node.image, human) {
        writeln!(out, "Images of format {} have no checks.", image.format())?;
    }
    let (mut broken, mut worth) = (Vec::new(), Vec::new());
    for problem in problems::of(tree, node) {
        if human {
            let what = if problem.broken { "error" } else { "warning" };
            writeln!(out, "{what}: {}", problem.text)?;
        } else if options.quiet && problem.broken {
            output::complain(&format!("{}: {}", node.name, problem.text));
        }
        if problem.broken {
            found = worse(found, code::FAILED);
            broken.push(problem.text);
        } else {
            worth.push(problem.text);
        }
    }
    if let Some(map) = entry.as_object_mut() {
        map.insert("problems".to_owned(), json!(broken));
        map.insert("warnings".to_owned(), json!(worth));
    }
    if human {
        writeln!(out)?;
    }
    Ok((found, entry))
}

/// The worse of two exit codes.
fn worse(one: u8, other: u8) -> u8 {
    let rank = |code| match code {
        code::OK => 0,
        code::LEAKS => 1,
        code::CORRUPT => 2,
        _ => 3,
    };
    if rank(other) > rank(one) { other } else { one }
}
