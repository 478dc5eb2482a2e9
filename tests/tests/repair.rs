//! Targets that were not closed properly: the plan corrects their refcounts before it relies on
//! them, and the dirty bit goes only when they are right.

use backchain_format::Format;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{Head, RefcountBlock, incompatible};
use backchain_testkit::build::TreeSpec;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, Files, id, open};
use backchain_testkit::judge::{carry_out, reads, views};
use backchain_testkit::ops::{Kind, Pick, pick};
use backchain_testkit::rng::Rng;
use backchain_testkit::sim::{SimFile, crash_states};
use backchain_testkit::verify::verify;
use backchain_testkit::{cases, qemu};
use backchain_tests::Dir;
use proptest::prelude::*;

fn is_dirty(bytes: &[u8]) -> bool {
    be64(bytes, 72).unwrap_or(0) & incompatible::DIRTY != 0 && bytes.get(7) == Some(&3)
}

/// Sets the dirty bit of a version 3 image and makes its refcounts wrong, each with a chance of
/// a quarter: too low, as QEMU leaves them, or too high.
fn soil(file: &mut SimFile, rng: &mut Rng) {
    let Ok(Head { header, .. }) = Head::from_bytes(file.bytes()) else {
        return;
    };
    if !is_v3(file.bytes()) {
        return;
    }
    file.write(
        72,
        &(header.incompatible | incompatible::DIRTY).to_be_bytes(),
    );
    let clusters = header.cluster.clusters(to_u64(file.bytes().len()));
    for index in 0..header.refcount_table_entries() {
        let at = header.refcount_table.0 + index * 8;
        let block = be64(file.bytes(), to_usize(at)).unwrap_or(0);
        if block == 0 {
            continue;
        }
        let range = to_usize(block)..to_usize(block + header.cluster.bytes());
        let Some(bytes) = file.bytes().get(range) else {
            continue;
        };
        let mut counts = RefcountBlock::from_bytes(bytes.to_vec(), header.refcount_width);
        let covered = clusters
            .saturating_sub(index * counts.len())
            .min(counts.len());
        for n in 0..covered {
            let count = counts.get(n);
            let wrong = match rng.below(8) {
                0 => 0,
                1 => (count + 1).min(header.refcount_width.max()),
                _ => count,
            };
            assert!(counts.set(n, wrong));
        }
        file.write(block, counts.as_bytes());
    }
}

fn is_v3(bytes: &[u8]) -> bool {
    bytes.get(7) == Some(&3)
}

/// Refcounts and flags are right wherever nothing says that they may be wrong.
fn sound(case: &Case, files: &Files) -> Result<(), String> {
    for node in case.nodes.iter().filter(|n| n.format == Format::Qcow2) {
        let bytes = files[&node.name].bytes();
        let report = verify(bytes);
        if !is_dirty(bytes) && !report.errors.is_empty() {
            return Err(format!("{} is damaged: {:?}", node.name, report.errors));
        }
    }
    Ok(())
}

fn survives(spec: &TreeSpec, pick: &Pick, seed: u64) -> Result<(), TestCaseError> {
    let fail = |why: String| TestCaseError::fail(format!("{pick:?}: {why}"));
    let mut case = Case::build(spec);
    let mut rng = Rng::new(seed);
    let nodes = case.nodes.iter().filter(|n| n.format == Format::Qcow2);
    for name in nodes.map(|n| n.name.clone()).collect::<Vec<_>>() {
        if let Some(file) = case.files.get_mut(&name) {
            soil(file, &mut rng);
        }
    }
    let Some(op) = pick.fit(&case) else {
        return Ok(());
    };
    let done = carry_out(&case.open(), &case.files, &op.operation, op.window).map_err(fail)?;
    sound(&case, &done.run.after).map_err(fail)?;
    let names = || case.nodes.iter().map(|n| (n.name.as_str(), n.format));
    views(&case, &op, &open(&done.run.after, names())).map_err(fail)?;
    if let Some((target, _)) = &op.target
        && case.nodes[*target].format == Format::Qcow2
    {
        let bytes = done.run.after[&case.nodes[*target].name].bytes();
        prop_assert!(!is_dirty(bytes), "the target is still dirty");
    }
    for state in crash_states(&done.run, 16, &mut rng) {
        let story = &state.story;
        sound(&case, &state.files).map_err(|why| fail(format!("{story}: {why}")))?;
        let tree = open(&state.files, names());
        for number in 0..case.nodes.len() {
            let target = op.target.as_ref().map(|(n, _)| *n);
            let changes = op.asked.iter().any(|(n, _)| *n == number);
            if op.listed.contains(&number) || target == Some(number) || changes {
                continue;
            }
            reads(&tree, id(number), &case.view(number))
                .map_err(|why| fail(format!("{story}: {number}: {why}")))?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn commit_into_dirty_images(spec in tree(Limits::TINY), pick in pick(Kind::Commit), seed: u64) {
        survives(&spec, &pick, seed)?;
    }

    #[test]
    fn pull_into_dirty_images(spec in tree(Limits::TINY), pick in pick(Kind::Pull), seed: u64) {
        survives(&spec, &pick, seed)?;
    }
}

/// What QEMU leaves behind when a guest with lazy refcounts dies.
#[test]
fn images_of_a_killed_qemu() {
    if !qemu::installed() {
        return;
    }
    let dir = Dir::new();
    let lazy = "lazy_refcounts=on,cluster_size=4k";
    dir.qemu_ok(&["create", "-q", "-f", "qcow2", "-o", lazy, "base", "64M"]);
    let overlay = [
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "-o", lazy, "top",
    ];
    dir.qemu_ok(&overlay);
    let die = |image: &str, writes: &[&str]| {
        let mut arguments = vec!["-f", "qcow2"];
        for command in writes.iter().chain(&["flush", "abort"]) {
            arguments.extend(["-c", command]);
        }
        arguments.push(image);
        let said = dir.run(std::path::Path::new("qemu-io"), &arguments);
        assert_eq!(said.code, None, "{said:?}");
    };
    // Enough that refcount blocks are missing too.
    die("base", &["write -P 1 0 12M", "write -P 2 40M 70k"]);
    die("top", &["write -P 3 1M 3M", "write -P 4 50M 100k"]);
    assert!(is_dirty(&dir.bytes()["base"]) && is_dirty(&dir.bytes()["top"]));
    assert_eq!(dir.qemu(&["check", "base"]).code, Some(2));
    dir.own_ok(&["convert", "-O", "raw", "top", "before"]);

    dir.own_ok(&["commit", "top"]);
    for image in ["base", "top"] {
        assert!(!is_dirty(&dir.bytes()[image]), "{image}");
        dir.assert_clean(image);
        dir.assert_same(image, "before");
    }
}
