//! The law and crashes with encrypted layers anywhere in the tree: what the guest sees stays the
//! same, whichever way data moves between encrypted and plain images, and wherever a plan ends.

use backchain::Operation;
use backchain::crypto::{Seed, SlotRequest};
use backchain::plan::Amendment;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::build::{TreeSpec, passphrase};
use backchain_testkit::case::{Case, id};
use backchain_testkit::cases;
use backchain_testkit::judge::{carry_out, judge};
use backchain_testkit::ops::{Kind, Pick, pick};
use backchain_testkit::recovery::{intact, recovers};
use backchain_testkit::rng::Rng;
use backchain_testkit::sim::crash_states;
use proptest::prelude::*;
use std::sync::Arc;

fn law(spec: &TreeSpec, pick: &Pick) -> Result<(), TestCaseError> {
    let case = Case::build(spec);
    let Some(op) = pick.fit(&case) else {
        return Ok(());
    };
    let result = carry_out(&case.open(), &case.files, &op.operation, op.window)
        .and_then(|done| judge(&case, &op, &done));
    result.map_err(|why| TestCaseError::fail(format!("{:?}: {why}", op.operation)))
}

fn survives(spec: &TreeSpec, pick: &Pick, seed: u64) -> Result<(), TestCaseError> {
    let case = Case::build(spec);
    let Some(op) = pick.fit(&case) else {
        return Ok(());
    };
    let done = carry_out(&case.open(), &case.files, &op.operation, op.window);
    let done = done.map_err(|why| TestCaseError::fail(format!("{:?}: {why}", op.operation)))?;
    let mut rng = Rng::new(seed);
    for state in crash_states(&done.run, 12, &mut rng) {
        let result =
            intact(&case, &op, &state.files).and_then(|()| recovers(&case, &op, &state.files));
        result.map_err(|why| {
            TestCaseError::fail(format!("{:?}: {}: {why}", op.operation, state.story))
        })?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn commit_keeps_the_law(spec in tree(Limits::ENCRYPTED), pick in pick(Kind::Commit)) {
        law(&spec, &pick)?;
    }

    #[test]
    fn pull_keeps_the_law(spec in tree(Limits::ENCRYPTED), pick in pick(Kind::Pull)) {
        law(&spec, &pick)?;
    }

    #[test]
    fn rebase_keeps_the_law(spec in tree(Limits::ENCRYPTED), pick in pick(Kind::Rebase)) {
        law(&spec, &pick)?;
    }

    #[test]
    fn remove_keeps_the_law(spec in tree(Limits::ENCRYPTED), pick in pick(Kind::Remove)) {
        law(&spec, &pick)?;
    }

    #[test]
    fn convert_keeps_the_law(spec in tree(Limits::ENCRYPTED), pick in pick(Kind::Convert)) {
        law(&spec, &pick)?;
    }

    #[test]
    fn overwriting_keeps_the_law(spec in tree(Limits::ENCRYPTED), pick in pick(Kind::Overwrite)) {
        law(&spec, &pick)?;
    }
}

proptest! {
    #![proptest_config(cases(10))]

    #[test]
    fn commit_survives(spec in tree(Limits::ENCRYPTED_TINY), pick in pick(Kind::Commit), seed: u64) {
        survives(&spec, &pick, seed)?;
    }

    #[test]
    fn pull_survives(spec in tree(Limits::ENCRYPTED_TINY), pick in pick(Kind::Pull), seed: u64) {
        survives(&spec, &pick, seed)?;
    }

    #[test]
    fn rebase_survives(spec in tree(Limits::ENCRYPTED_TINY), pick in pick(Kind::Rebase), seed: u64) {
        survives(&spec, &pick, seed)?;
    }
}

/// The headers of these images end behind their first slot: key material of another one would
/// go over somebody else's clusters, so that is refused.
fn key_material_stays_in_the_header(spec: &TreeSpec) -> Result<(), TestCaseError> {
    let case = Case::build(spec);
    let old = passphrase();
    let tree = case.open();
    for number in 0..case.nodes.len() {
        let node = tree.node(id(number));
        let Ok((area, _)) = node.luks() else {
            continue;
        };
        let source = node.source.as_ref();
        for (slot, force) in [(Some(0), true), (Some(6), false), (None, false)] {
            let request = SlotRequest::Fill {
                slot,
                passphrase: b"another",
                iterations: 1,
            };
            let key = || Ok(area.unlock(source, old.as_bytes())?.1);
            let change = area
                .change_slots(source, key, &request, force, &Seed([3; 32]))
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            let operation = Operation::Amend {
                node: id(number),
                change: Amendment::KeySlots(Arc::new(change)),
            };
            prop_assert!(tree.plan(&operation).is_err());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn key_slots_outside_the_header_are_refused(spec in tree(Limits::ENCRYPTED_TINY)) {
        key_material_stays_in_the_header(&spec)?;
    }
}
