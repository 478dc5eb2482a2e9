//! The native executor, with its threads and real files, comes to the same bytes as the disk in
//! memory that the other tests judge by.

use backchain::Tree;
use backchain::plan::Operation;
use backchain_format::bytes::to_u64;
use backchain_native::{FsGate, GateOptions, Options, execute};
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::Case;
use backchain_testkit::judge::carry_out;
use backchain_testkit::ops::{Kind, Op, pick};
use backchain_testkit::{cases, qemu};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

proptest! {
    #![proptest_config(cases(60))]

    /// Any operation on any tree.
    #[test]
    fn threads_come_to_the_same_files(
        spec in tree(Limits::SMALL),
        pick in prop_oneof![
            3 => pick(Kind::Commit),
            2 => pick(Kind::Pull),
            1 => pick(Kind::Rebase),
            1 => pick(Kind::Remove),
            1 => pick(Kind::Create),
            1 => pick(Kind::Convert),
        ],
    ) {
        let case = Case::build(&spec);
        let Some(op) = pick.fit(&case) else { return Ok(()) };
        let done = carry_out(&case.open(), &case.files, &op.operation, op.window);
        let done = done.map_err(TestCaseError::fail)?;

        let dir = qemu::directory(&case.files);
        on_disk(dir.path(), &case, &op).map_err(|e| TestCaseError::fail(e.to_string()))?;
        for (name, file) in &done.run.after {
            let found = fs::read(dir.path().join(name)).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(to_u64(found.len()), to_u64(file.bytes().len()), "{}", name);
            prop_assert!(found == file.bytes(), "{name} differs after {:?}", op.operation);
        }
    }
}

fn on_disk(dir: &Path, case: &Case, op: &Op) -> backchain::Result<()> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let gate = FsGate::new(GateOptions::default());
    let mut tree = Tree::new();
    for node in &case.nodes {
        gate.name(&path(&node.name));
    }
    for node in &case.nodes {
        tree.add_one(&gate, &path(&node.name), Some(node.format))?;
    }
    for node in &case.nodes {
        tree.add(&gate, &path(&node.name), Some(node.format))?;
    }
    let mut operation = op.operation.clone();
    if let Operation::Create { name, .. } | Operation::Convert { name, .. } = &mut operation {
        *name = path(name);
    }
    let plan = tree.plan(&operation)?.with_window(op.window);
    execute(plan, &gate, &Options::default())?;
    Ok(())
}
