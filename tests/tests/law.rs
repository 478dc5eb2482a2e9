//! The one law: what the guest saw before is what it sees afterwards, byte for byte, through
//! every image that stays valid; every other image was named beforehand.
//!
//! Random trees made by the testkit's own builder, random operations planned by the engine and
//! carried out on a disk in memory that checks the invariants of plans, and judged by the
//! builder's model, by the testkit's consistency check, and for a sample by qemu-img.

use backchain::ErrorKind;
use backchain::plan::{Operation, Preview, RemoveMethod};
use backchain_format::Format;
use backchain_testkit::build::TreeSpec;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, id};
use backchain_testkit::judge::{carry_out, judge, left_by, made_format};
use backchain_testkit::model::first_difference;
use backchain_testkit::ops::{Kind, Op, Pick, new_name, pick};
use backchain_testkit::sim::SimFile;
use backchain_testkit::{cases, qemu};
use proptest::prelude::*;

fn law(spec: &TreeSpec, pick: &Pick) -> Result<(), TestCaseError> {
    let case = Case::build_labelled(spec, !pick.options.is_multiple_of(3));
    let Some(op) = pick.fit(&case) else {
        return Ok(());
    };
    let result = carry_out(&case.open(), &case.files, &op.operation, op.window)
        .and_then(|done| judge(&case, &op, &done));
    result.map_err(|why| TestCaseError::fail(format!("{:?}: {why}", op.operation)))
}

proptest! {
    #![proptest_config(cases(150))]

    /// Commit, any top into any base below it, with and without relinking, emptying the top or
    /// not: top, what is above it and base are as promised.
    #[test]
    fn commit_keeps_the_law(spec in tree(Limits::SMALL), pick in pick(Kind::Commit)) {
        law(&spec, &pick)?;
    }

    /// Pull into any overlay, down to any base or none: nothing reads differently.
    #[test]
    fn pull_keeps_the_law(spec in tree(Limits::SMALL), pick in pick(Kind::Pull)) {
        law(&spec, &pick)?;
    }

    /// Safe rebase of any image onto any other of the tree, or none: nothing reads differently.
    #[test]
    fn rebase_keeps_the_law(spec in tree(Limits::SMALL), pick in pick(Kind::Rebase)) {
        law(&spec, &pick)?;
    }

    /// Both methods of removing a middle layer.
    #[test]
    fn remove_keeps_the_law(spec in tree(Limits::SMALL), pick in pick(Kind::Remove)) {
        law(&spec, &pick)?;
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// An unsafe rebase changes the link and nothing else.
    #[test]
    fn relink_changes_only_the_link(spec in tree(Limits::SMALL), pick in pick(Kind::Relink)) {
        law(&spec, &pick)?;
    }

    /// A new overlay reads as its backing file.
    #[test]
    fn create_keeps_the_law(spec in tree(Limits::SMALL), pick in pick(Kind::Create)) {
        law(&spec, &pick)?;
    }

    /// Writing over an image changes it up to the end of the source, and nothing else.
    #[test]
    fn overwrite_keeps_the_law(spec in tree(Limits::SMALL), pick in pick(Kind::Overwrite)) {
        law(&spec, &pick)?;
    }

    /// A flattened image reads as the chain it was made from.
    #[test]
    fn convert_keeps_the_law(spec in tree(Limits::SMALL), pick in pick(Kind::Convert)) {
        law(&spec, &pick)?;
    }
}

fn any_pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        4 => pick(Kind::Commit),
        2 => pick(Kind::Pull),
        2 => pick(Kind::Rebase),
        2 => pick(Kind::Remove),
        1 => pick(Kind::Create),
        1 => pick(Kind::Convert),
    ]
}

/// What makes an image grow.
fn moving_pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        2 => pick(Kind::Commit),
        2 => pick(Kind::Pull),
        1 => pick(Kind::Convert),
    ]
}

proptest! {
    #![proptest_config(cases(40))]

    /// The largest clusters, and L1 tables of several clusters.
    #[test]
    fn large_images_keep_the_law(spec in tree(Limits::ALL), pick in any_pick()) {
        law(&spec, &pick)?;
    }

    /// Images whose refcount table, L1 table and file grow several times over.
    #[test]
    fn growing_images_keep_the_law(spec in tree(Limits::GROWTH), pick in moving_pick()) {
        law(&spec, &pick)?;
    }

    /// One operation after the other on the same images: what one leaves, the next takes.
    #[test]
    fn operations_follow_each_other(
        spec in tree(Limits { size: 300 << 10, ..Limits::SMALL }),
        picks in prop::collection::vec(any_pick(), 2..6),
    ) {
        let mut case = Case::build(&spec);
        for pick in picks {
            let Some(op) = pick.fit(&case) else { continue };
            let next = carry_out(&case.open(), &case.files, &op.operation, op.window)
                .and_then(|done| judge(&case, &op, &done).map(|()| done))
                .and_then(|done| left_by(&case, &op, &done));
            case = next.map_err(|why| {
                TestCaseError::fail(format!("{:?}: {why}", op.operation))
            })?;
        }
    }

    /// qemu-img finds nothing wrong with the files afterwards and reads them as we do.
    #[test]
    fn qemu_agrees(
        spec in tree(Limits { odd_sizes: false, ..Limits::SMALL }),
        pick in any_pick(),
    ) {
        if !qemu::installed() {
            return Ok(());
        }
        let case = Case::build(&spec);
        let Some(op) = pick.fit(&case) else { return Ok(()) };
        let done = carry_out(&case.open(), &case.files, &op.operation, op.window);
        let done = done.map_err(TestCaseError::fail)?;
        ask_qemu(&case, &op, &done.run.after).map_err(|why| {
            TestCaseError::fail(format!("{:?}: {why}", op.operation))
        })?;
    }

    /// Without the override, a change that breaks others is refused, and only that.
    #[test]
    fn dependents_are_protected(spec in tree(Limits::SMALL), pick in any_pick()) {
        let case = Case::build(&spec);
        let Some(mut op) = pick.fit(&case) else { return Ok(()) };
        let tree = case.open();
        let broken = match tree.plan(&op.operation) {
            Ok(plan) => !plan.info.broken_dependents.is_empty(),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        match &mut op.operation {
            Operation::Commit { allow_broken, .. } | Operation::Remove { allow_broken, .. } => {
                *allow_broken = false;
            }
            _ => {}
        }
        match tree.plan(&op.operation) {
            Ok(_) => prop_assert!(!broken, "not refused: {:?}", op.operation),
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::Dependents);
                prop_assert!(broken, "refused: {}", error);
            }
        }
    }

    /// Without a method, removing a layer takes one of the two, and not the dearer one.
    #[test]
    fn remove_chooses_the_cheaper_method(spec in tree(Limits::SMALL), pick in pick(Kind::Remove)) {
        let case = Case::build(&spec);
        let Some(op) = pick.fit(&case) else { return Ok(()) };
        let tree = case.open();
        let written = |wanted| -> Result<_, TestCaseError> {
            let Operation::Remove { layer, active, .. } = op.operation else {
                return Err(TestCaseError::fail("not a remove"));
            };
            let operation = Operation::Remove { layer, active, method: wanted, allow_broken: true, allow_plaintext: true };
            let plan = tree.plan(&operation).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let preview = Preview::of(plan).map_err(|e| TestCaseError::fail(e.to_string()))?;
            Ok(preview.written())
        };
        let (own, commit, rebase) = (
            written(None)?,
            written(Some(RemoveMethod::Commit))?,
            written(Some(RemoveMethod::Rebase))?,
        );
        prop_assert!(own == commit || own == rebase, "{own} of {commit} and {rebase}");
    }
}

proptest! {
    #![proptest_config(cases(20))]

    /// A top that is not right above base cannot be emptied: what is between would show.
    #[test]
    fn only_the_layer_above_base_is_emptied(spec in tree(Limits::TINY), pick in pick(Kind::Commit)) {
        let case = Case::build(&spec);
        let Some(mut op) = pick.fit(&case) else { return Ok(()) };
        let Operation::Commit { top, base, relink, empty_top, .. } = &mut op.operation else {
            return Err(TestCaseError::fail("not a commit"));
        };
        relink.clear();
        *empty_top = true;
        let tree = case.open();
        let right_above = tree.backing(*top) == Some(*base);
        prop_assert_eq!(tree.plan(&op.operation).is_ok(), right_above);
    }
}

/// qemu-img's check of every valid image, and its view of it.
fn ask_qemu(case: &Case, op: &Op, after: &backchain_testkit::case::Files) -> Result<(), String> {
    let dir = qemu::directory(after);
    for (number, node) in case.nodes.iter().enumerate() {
        if node.format == Format::Qcow2 {
            qemu::check(dir.path(), &node.name, false)?;
        }
        if op.listed.contains(&number) {
            continue;
        }
        let target = op.target.as_ref().filter(|(n, _)| *n == number);
        let expected = target.map_or_else(|| case.view(number), |(_, view)| view.clone());
        let seen = qemu::view(dir.path(), &node.name, node.format.name())?;
        if let Some(difference) = first_difference(&seen, &expected) {
            return Err(format!("{}: {difference}", node.name));
        }
    }
    // QEMU goes on writing to what we wrote.
    for node in case.nodes.iter().filter(|n| n.format == Format::Qcow2) {
        let before = case.files[&node.name].bytes();
        let changed = after[&node.name].bytes() != before;
        if changed {
            qemu::write(dir.path(), &node.name)?;
            qemu::check(dir.path(), &node.name, false)?;
        }
    }
    let new = new_name(case);
    if let (Some(format), Some((view, _))) = (made_format(op), &op.made) {
        if format == Format::Qcow2 {
            qemu::check(dir.path(), &new, true)?;
        }
        let seen = qemu::view(dir.path(), &new, format.name())?;
        if let Some(difference) = first_difference(&seen, view) {
            return Err(format!("{new}: {difference}"));
        }
    }
    Ok(())
}

/// A name that does not fit the first cluster is refused before there is a step, however much
/// data the operation would have moved first.
#[test]
fn a_name_that_does_not_fit_is_refused_at_once() {
    use backchain_testkit::build::{FormatSpec, LayerSpec, Qcow2Spec};
    let layer = |seed| LayerSpec {
        format: FormatSpec::Qcow2(Qcow2Spec::plain(9)),
        size: 8192,
        mix: [0, 1, 0, 0],
        seed,
    };
    let nodes = vec![(layer(1), None), (layer(2), Some(0)), (layer(3), Some(1))];
    let case = Case::build(&TreeSpec { nodes });
    let rebase = |len: usize| Operation::Rebase {
        overlay: id(2),
        base: Some(id(0)),
        name: Some("x".repeat(len)),
        format: None,
        compress: false,
    };
    assert!(case.open().plan(&rebase(200)).is_ok());
    let error = case.open().plan(&rebase(500)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

/// The random operations do reach what is hard about them.
#[test]
fn random_operations_reach_the_hard_parts() {
    use backchain::Step;
    use backchain::plan::MetadataKind;
    use backchain_format::qcow2::Head;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use std::collections::BTreeMap;

    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let mut runner = TestRunner::deterministic();
    for (limits, rounds) in [(Limits::SMALL, 150), (Limits::GROWTH, 90)] {
        for _ in 0..rounds {
            let spec = tree(limits).new_tree(&mut runner).expect("no filters");
            let picks = if limits.growth {
                moving_pick().boxed()
            } else {
                any_pick().boxed()
            };
            let pick = picks.new_tree(&mut runner).expect("no filters");
            let case = Case::build(&spec.current());
            let Some(op) = pick.current().fit(&case) else {
                continue;
            };
            let plan = case.open().plan(&op.operation).expect("nothing is refused");
            for step in plan.with_window(op.window) {
                let what = match step.expect("nothing is damaged") {
                    Step::Copy { .. } => "copy",
                    Step::Inflate { .. } => "inflate",
                    Step::Zero { .. } => "zero",
                    Step::SetLen { .. } => "a length",
                    Step::Write { kind, .. } => match kind {
                        MetadataKind::Bitmap => "bitmaps",
                        MetadataKind::BackingName => "names",
                        MetadataKind::RefcountTable => "refcount table",
                        _ => continue,
                    },
                    _ => continue,
                };
                *seen.entry(what).or_default() += 1;
            }
            let done = carry_out(&case.open(), &case.files, &op.operation, op.window);
            let run = done.expect("as in the other tests").run;
            for (name, file) in &run.after {
                let head = |f: &SimFile| Head::from_bytes(f.bytes()).ok().map(|h| h.header);
                let (Some(old), Some(new)) = (run.before.get(name).and_then(head), head(file))
                else {
                    continue;
                };
                let mut count = |what, yes| *seen.entry(what).or_default() += u32::from(yes);
                let clusters = (old.refcount_table_clusters, new.refcount_table_clusters);
                count(
                    "refcount table moved",
                    old.refcount_table != new.refcount_table,
                );
                count("refcount table moved twice", clusters.1 > clusters.0 + 1);
                count("L1 table moved", old.l1_table != new.l1_table);
                count("disk grew", new.size > old.size);
            }
        }
    }
    let rare: Vec<_> = seen.iter().filter(|(_, n)| **n < 2).collect();
    assert!(rare.is_empty() && seen.len() == 11, "{rare:?} of {seen:?}");
}
