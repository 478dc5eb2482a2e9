//! Crashes: whatever prefix of a plan, and whatever torn subset of what was not durable yet,
//! reaches the disk, no image is damaged, every image the plan keeps reads as before, and the
//! same operation, planned again on what is there, completes it.

use backchain::plan::Operation;
use backchain_format::Format;
use backchain_testkit::bitmaps::tell;
use backchain_testkit::build::TreeSpec;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, Files, engine_view, id, open};
use backchain_testkit::cases;
use backchain_testkit::judge::{carry_out, reads, views};
use backchain_testkit::ops::{Kind, Op, Pick, pick};
use backchain_testkit::rng::Rng;
use backchain_testkit::sim::crash_states;
use backchain_testkit::verify::verify;
use proptest::prelude::*;

/// Prefixes looked at in one plan.
const PREFIXES: usize = 24;

fn survives(spec: &TreeSpec, pick: &Pick, seed: u64) -> Result<(), TestCaseError> {
    survives_at(spec, pick, seed, PREFIXES)
}

fn survives_at(
    spec: &TreeSpec,
    pick: &Pick,
    seed: u64,
    prefixes: usize,
) -> Result<(), TestCaseError> {
    let case = Case::build(spec);
    let Some(op) = pick.fit(&case) else {
        return Ok(());
    };
    let done = carry_out(&case.open(), &case.files, &op.operation, op.window);
    let done = done.map_err(|why| TestCaseError::fail(format!("{:?}: {why}", op.operation)))?;
    let mut rng = Rng::new(seed);
    for state in crash_states(&done.run, prefixes, &mut rng) {
        let result =
            intact(&case, &op, &state.files).and_then(|()| recovers(&case, &op, &state.files));
        result.map_err(|why| {
            TestCaseError::fail(format!("{:?}: {}: {why}", op.operation, state.story))
        })?;
    }
    Ok(())
}

/// No image is damaged; what the plan keeps reads as before.
fn intact(case: &Case, op: &Op, files: &Files) -> Result<(), String> {
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
fn recovers(case: &Case, op: &Op, files: &Files) -> Result<(), String> {
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
        Operation::Create { name, .. } | Operation::Convert { name, .. } => {
            files.remove(name);
        }
        _ => {}
    }
    let done =
        carry_out(&tree, &files, &operation, op.window).map_err(|e| format!("again: {e}"))?;
    sound(case, &done.run.after).map_err(|e| format!("again: {e}"))?;
    let after = backchain_testkit::judge::reopen(
        case,
        &done.run.after,
        backchain_testkit::judge::made_format(op),
    );
    views(case, op, &after).map_err(|e| format!("again: {e}"))
}

proptest! {
    #![proptest_config(cases(40))]

    /// Commit: the top, all that is above it and all that does not reach base.
    #[test]
    fn commit_survives(spec in tree(Limits::TINY), pick in pick(Kind::Commit), seed: u64) {
        survives(&spec, &pick, seed)?;
    }

    /// Pull: everything.
    #[test]
    fn pull_survives(spec in tree(Limits::TINY), pick in pick(Kind::Pull), seed: u64) {
        survives(&spec, &pick, seed)?;
    }

    /// Safe rebase: everything.
    #[test]
    fn rebase_survives(spec in tree(Limits::TINY), pick in pick(Kind::Rebase), seed: u64) {
        survives(&spec, &pick, seed)?;
    }

    /// Both ways of removing a layer.
    #[test]
    fn remove_survives(spec in tree(Limits::TINY), pick in pick(Kind::Remove), seed: u64) {
        survives(&spec, &pick, seed)?;
    }
}

proptest! {
    #![proptest_config(cases(4))]

    /// While refcount and L1 tables move.
    #[test]
    fn growing_images_survive(
        spec in tree(Limits::GROWTH),
        pick in prop_oneof![pick(Kind::Commit), pick(Kind::Pull)],
        seed: u64,
    ) {
        survives_at(&spec, &pick, seed, 10)?;
    }
}

proptest! {
    #![proptest_config(cases(15))]

    /// An unsafe rebase: the old link or the new one, nothing else.
    #[test]
    fn relink_survives(spec in tree(Limits::TINY), pick in pick(Kind::Relink), seed: u64) {
        survives(&spec, &pick, seed)?;
    }

    /// New files harm no old one.
    #[test]
    fn create_survives(spec in tree(Limits::TINY), pick in pick(Kind::Create), seed: u64) {
        survives(&spec, &pick, seed)?;
    }

    /// New files harm no old one.
    #[test]
    fn convert_survives(spec in tree(Limits::TINY), pick in pick(Kind::Convert), seed: u64) {
        survives(&spec, &pick, seed)?;
    }
}
