//! Crashes: whatever prefix of a plan, and whatever torn subset of what was not durable yet,
//! reaches the disk, no image is damaged, every image the plan keeps reads as before, and the
//! same operation, planned again on what is there, completes it.

use backchain_testkit::build::TreeSpec;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::Case;
use backchain_testkit::cases;
use backchain_testkit::judge::carry_out;
use backchain_testkit::ops::{Kind, Pick, pick};
use backchain_testkit::recovery::{intact, recovers};
use backchain_testkit::rng::Rng;
use backchain_testkit::sim::crash_states;
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

    /// Writing over an image: everything that does not reach it.
    #[test]
    fn overwrite_survives(spec in tree(Limits::TINY), pick in pick(Kind::Overwrite), seed: u64) {
        survives(&spec, &pick, seed)?;
    }

    /// New files harm no old one.
    #[test]
    fn convert_survives(spec in tree(Limits::TINY), pick in pick(Kind::Convert), seed: u64) {
        survives(&spec, &pick, seed)?;
    }
}
