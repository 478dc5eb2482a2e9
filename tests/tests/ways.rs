//! The ways to a goal: each one that is offered leads there, costs what it says, and keeps what
//! it does not name as invalid.

use backchain::plan::{Preview, RemoveMethod, Window};
use backchain::ways::{Goal, Means, Way, Ways};
use backchain::{NodeId, Operation, Tree};
use backchain_testkit::build::TreeSpec;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, engine_view, id, open};
use backchain_testkit::cases;
use backchain_testkit::judge::carry_out;
use backchain_testkit::model::first_difference;
use backchain_testkit::sim::Effect;
use proptest::prelude::*;

const NEW: &str = "new.qcow2";

fn goal(case: &Case, numbers: (u8, u8), remove: bool) -> Option<Goal> {
    let tops: Vec<usize> = (0..case.nodes.len())
        .filter(|n| case.nodes[*n].parent.is_some())
        .collect();
    let top = *tops.get(usize::from(numbers.0).checked_rem(tops.len())?)?;
    let chain = case.chain(top);
    let nth = usize::from(numbers.1) % (chain.len() - 1);
    Some(if remove {
        Goal::Remove {
            layer: id(chain[nth + 1]),
            active: id(top),
        }
    } else {
        Goal::Shorten {
            top: id(top),
            below: nth,
        }
    })
}

/// Counts the ways a few steps at a time.
fn count(tree: &Tree, goal: Goal, turn: usize) -> Vec<Way> {
    let mut ways = Ways::new(tree, goal, Some(NEW)).unwrap();
    while ways.advance(tree, turn) {
        let (done, all) = ways.progress();
        assert!(done <= all);
    }
    ways.ranked(&Preview::written)
}

fn leads_there(case: &Case, goal: Goal, way: &Way) -> Result<(), String> {
    let opened = case.open();
    let done = carry_out(&opened, &case.files, &way.operation, Window::default())?;
    let preview = way.cost.as_ref().map_err(ToString::to_string)?;
    // Zeros may be made by a new length as well.
    let written: u64 = done
        .run
        .log
        .iter()
        .map(|entry| match &entry.effect {
            Effect::Write(_, bytes) => bytes.len() as u64,
            Effect::Zero(_, len) => *len,
            _ => 0,
        })
        .sum();
    if preview.written() > written {
        return Err(format!(
            "{written} bytes written, {} told",
            preview.written()
        ));
    }
    let names = case.nodes.iter().map(|n| (n.name.as_str(), n.format));
    let new = (NEW, backchain::Format::Qcow2);
    let made = way.means == Means::Flatten;
    let after = open(&done.run.after, names.chain(made.then_some(new)));
    for number in 0..case.nodes.len() {
        if way.invalid().contains(&id(number)) || changed(way) == Some(id(number)) {
            continue;
        }
        let view = engine_view(&after, id(number)).map_err(|e| e.to_string())?;
        if let Some(difference) = first_difference(&view, &case.view(number)) {
            return Err(format!("{number} reads differently: {difference}"));
        }
    }
    let end = match goal {
        _ if made => id(case.nodes.len()),
        // The deepest layer holds it all.
        Goal::Shorten { below: 0, .. } if way.means == Means::Commit => {
            changed(way).ok_or("no target")?
        }
        Goal::Remove { active, .. } => active,
        Goal::Shorten { top, .. } => top,
    };
    let chain = after.chain(end).map_err(|e| e.to_string())?;
    match goal {
        Goal::Remove { layer, .. } if chain.depth_of(layer).is_some() => {
            Err("the layer is still in the chain".to_owned())
        }
        Goal::Shorten { below, .. } if chain.layers().len() > below + 1 => {
            Err(format!("{} layers are left", chain.layers().len()))
        }
        _ => Ok(()),
    }
}

/// The layer that shows something else, as it takes in what was above it.
fn changed(way: &Way) -> Option<NodeId> {
    match way.operation {
        Operation::Commit { base, .. } => Some(base),
        Operation::Remove {
            layer,
            method: Some(RemoveMethod::Commit),
            ..
        } => {
            let preview = way.cost.as_ref().ok()?;
            let links = preview.info.links.iter();
            let mut below = links.filter_map(|(_, to)| *to).filter(|to| *to != layer);
            below.next()
        }
        _ => None,
    }
}

fn offered(spec: &TreeSpec, numbers: (u8, u8), remove: bool, turn: usize) -> Result<(), String> {
    let case = Case::build(spec);
    let Some(goal) = goal(&case, numbers, remove) else {
        return Ok(());
    };
    let tree = case.open();
    let ways = count(&tree, goal, turn);
    let at_least = if remove { 1 } else { 3 };
    if ways.len() < at_least {
        return Err(format!("only {} ways", ways.len()));
    }
    let costs: Vec<_> = ways
        .iter()
        .map(|way| {
            let cost = way.cost.as_ref().ok().map(Preview::written);
            (cost.is_none(), way.refusal.is_some(), cost)
        })
        .collect();
    if !costs.is_sorted() {
        return Err(format!("not sorted: {costs:?}"));
    }
    for way in ways.iter().filter(|way| way.cost.is_ok()) {
        leads_there(&case, goal, way).map_err(|why| format!("{:?}: {why}", way.operation))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn every_way_of_removing_a_layer_leads_there(
        spec in tree(Limits::SMALL), numbers: (u8, u8), turn in 1..50_usize,
    ) {
        offered(&spec, numbers, true, turn).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn every_way_of_shortening_a_chain_leads_there(
        spec in tree(Limits::SMALL), numbers: (u8, u8), turn in 1..50_usize,
    ) {
        offered(&spec, numbers, false, turn).map_err(TestCaseError::fail)?;
    }

    /// The engine's own choice between the two methods is the cheaper one.
    #[test]
    fn the_cheaper_method_is_the_one_that_is_chosen(
        spec in tree(Limits { branches: 0, ..Limits::SMALL }), numbers: (u8, u8),
    ) {
        let case = Case::build(&spec);
        let Some(goal @ Goal::Remove { layer, active }) = goal(&case, numbers, true) else {
            return Ok(());
        };
        let tree = case.open();
        let method = Operation::Remove {
            layer, active, method: None, allow_broken: false, allow_plaintext: false,
        };
        let Ok(chosen) = tree.plan(&method) else { return Ok(()) };
        let ways = count(&tree, goal, 1000);
        let best = ways.iter().find(|way| matches!(way.means, Means::Commit | Means::Rebase));
        let best = best.unwrap().cost.as_ref().unwrap().written();
        let chosen = Preview::of(chosen).unwrap().written();
        prop_assert_eq!(chosen, best);
    }
}

/// What a way breaks is told, and it comes behind those that break nothing.
#[test]
fn a_way_that_breaks_others_comes_last_and_says_so() {
    use backchain::plan::CreateOptions;
    use backchain::stage::try_out;
    use std::sync::Arc;
    let mut gate = backchain::chain::MapGate::default();
    gate.0
        .insert("base.raw".into(), Arc::new(vec![1_u8; 1 << 20]));
    let overlays = [
        ("sn1", "base.raw"),
        ("sn2", "sn1"),
        ("sn3", "sn2"),
        ("other", "sn1"),
    ];
    for (name, backing) in overlays {
        let mut tree = Tree::new();
        let backing = tree.add(&gate, backing, None).unwrap();
        let create = Operation::Create {
            name: name.into(),
            options: CreateOptions::default(),
            backing: Some(backing),
        };
        let made = try_out(&tree, tree.plan(&create).unwrap()).unwrap();
        let (_, file) = made.into_iter().next().unwrap();
        gate.0.insert(name.into(), file);
    }
    let mut tree = Tree::new();
    let active = tree.add(&gate, "sn3", None).unwrap();
    let other = tree.add(&gate, "other", None).unwrap();
    let layer = tree.find("sn2").unwrap();
    let ways = count(&tree, Goal::Remove { layer, active }, 10);
    let means: Vec<Means> = ways.iter().map(|way| way.means).collect();
    assert_eq!(means.last(), Some(&Means::Commit), "{means:?}");
    let commit = ways.last().unwrap();
    assert_eq!(commit.invalid(), [other]);
    assert!(
        commit
            .refusal
            .as_ref()
            .unwrap()
            .to_string()
            .contains("other")
    );
    let rebase = ways.iter().find(|way| way.means == Means::Rebase).unwrap();
    assert_eq!((rebase.invalid(), rebase.refusal.is_none()), (vec![], true));
    assert_eq!(rebase.released(&tree), tree.node(layer).source.len());
}
