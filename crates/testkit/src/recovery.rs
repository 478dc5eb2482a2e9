//! What must hold when a plan was carried out in part only.

use crate::bitmaps::tell;
use crate::case::{Case, Files, engine_view, id, open};
use crate::judge::{carry_out, made_format, reads, reopen, views};
use crate::ops::{Op, data_name};
use crate::verify::verify;
use backchain::plan::{Operation, Target};
use backchain_format::Format;

/// No image is damaged; what the plan keeps reads as before.
///
/// # Errors
/// What is broken.
pub fn intact(case: &Case, op: &Op, files: &Files) -> Result<(), String> {
    sound(case, files)?;
    let tree = open(
        files,
        case.nodes.iter().map(|n| (n.name.as_str(), n.format)),
    );
    let target = op.target.as_ref().map(|(n, _)| *n);
    for (number, node) in case.nodes.iter().enumerate() {
        let changes = op.asked.iter().any(|(n, _)| *n == number);
        if op.listed.contains(&number) || target == Some(number) || changes {
            continue;
        }
        reads(&tree, id(number), &case.view(number)).map_err(|e| format!("{}: {e}", node.name))?;
    }
    if let Some(target) = target.filter(|n| case.nodes[*n].format == Format::Qcow2) {
        let name = &case.nodes[target].name;
        let view = engine_view(&tree, id(target)).map_err(|e| e.to_string())?;
        let (before, after) = (case.files[name].bytes(), files[name].bytes());
        tell(before, after, &case.view(target), &view, false)?;
    }
    Ok(())
}

fn sound(case: &Case, files: &Files) -> Result<(), String> {
    for node in case.nodes.iter().filter(|n| n.format == Format::Qcow2) {
        let report = verify(files[&node.name].bytes());
        if !report.errors.is_empty() {
            return Err(format!("{} is damaged: {:?}", node.name, report.errors));
        }
    }
    Ok(())
}

/// The same operation again, fitted to the links as they are now, completes it.
///
/// # Errors
/// What keeps it from doing so.
pub fn recovers(case: &Case, op: &Op, files: &Files) -> Result<(), String> {
    let tree = open(
        files,
        case.nodes.iter().map(|n| (n.name.as_str(), n.format)),
    );
    let mut operation = op.operation.clone();
    let mut files = files.clone();
    match &mut operation {
        Operation::Commit { top, relink, .. } => {
            relink.retain(|child| tree.backing(*child) == Some(*top));
        }
        Operation::Remove { layer, active, .. } => {
            // Out of the chain already, as far as this active layer can tell.
            let chain = tree.chain(*active).map_err(|e| e.to_string())?;
            if chain.depth_of(*layer).is_none() {
                let rest = tree.children(*layer);
                let Some(next) = rest.first() else {
                    return views(case, op, &tree);
                };
                *active = *next;
            }
        }
        Operation::Create { name, .. }
        | Operation::Convert {
            target: Target::New { name, .. },
            ..
        } => {
            files.remove(name);
            files.remove(&data_name(name));
        }
        _ => {}
    }
    let done =
        carry_out(&tree, &files, &operation, op.window).map_err(|e| format!("again: {e}"))?;
    sound(case, &done.run.after).map_err(|e| format!("again: {e}"))?;
    let after = reopen(case, &done.run.after, made_format(op));
    views(case, op, &after).map_err(|e| format!("again: {e}"))
}
