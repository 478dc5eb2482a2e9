//! The native executor, with its threads and real files, comes to the same bytes as the disk in
//! memory that the other tests judge by.

use backchain::plan::{Operation, Target};
use backchain::{ErrorKind, Plan, Tree};
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{Extensions, Head};
use backchain_native::{FsGate, GateOptions, Options, execute, execute_steps};
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::build::{FormatSpec, TreeSpec};
use backchain_testkit::case::{Case, Files};
use backchain_testkit::judge::carry_out;
use backchain_testkit::ops::{Kind, Op, Pick, pick};
use backchain_testkit::recovery::{intact, recovers};
use backchain_testkit::sim::SimFile;
use backchain_testkit::{cases, qemu};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

proptest! {
    #![proptest_config(cases(60))]

    /// Any operation on any tree.
    #[test]
    fn threads_come_to_the_same_files(
        spec in tree(Limits::SMALL),
        pick in any_pick(),
    ) {
        let case = Case::build(&dense(spec));
        let Some(op) = fit(&pick, &case) else { return Ok(()) };
        let done = carry_out(&case.open(), &case.files, &op.operation, op.window);
        let done = done.map_err(TestCaseError::fail)?;

        let dir = qemu::directory(&case.files);
        let run = planned(dir.path(), &case, &op)
            .and_then(|(gate, plan)| execute(plan, &gate, &Options::default()));
        run.map_err(|e| TestCaseError::fail(e.to_string()))?;
        for (name, file) in &done.run.after {
            let found = fs::read(dir.path().join(name)).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(to_u64(found.len()), to_u64(file.bytes().len()), "{}", name);
            prop_assert!(found == file.bytes(), "{name} differs after {:?}", op.operation);
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// Stopped between any two steps: the images are valid, a new file is gone, and the same
    /// operation completes what was begun.
    #[test]
    fn a_stopped_run_leaves_valid_files(
        spec in tree(Limits::TINY),
        pick in any_pick(),
        stop: prop::sample::Index,
    ) {
        let case = Case::build(&dense(spec));
        let Some(op) = fit(&pick, &case) else { return Ok(()) };
        let fail = |e: backchain::Error| TestCaseError::fail(e.to_string());
        let done = carry_out(&case.open(), &case.files, &op.operation, op.window);
        let steps = done.map_err(TestCaseError::fail)?.run.log.len();
        let stop = stop.index(steps);

        let dir = qemu::directory(&case.files);
        let (gate, plan) = planned(dir.path(), &case, &op).map_err(fail)?;
        gate.release();
        let cancel = AtomicBool::new(false);
        let options = Options { cancel: Some(&cancel), ..Options::default() };
        let info = plan.info.clone();
        let stopping = plan.enumerate().map(|(number, step)| {
            cancel.store(number >= stop, Ordering::Relaxed);
            step
        });
        let error = execute_steps(&info, stopping, &options).expect_err("it was stopped");
        prop_assert_eq!(error.kind(), ErrorKind::Cancelled);

        let mut files = Files::new();
        for entry in fs::read_dir(dir.path()).expect("the directory") {
            let entry = entry.expect("an entry");
            let bytes = fs::read(entry.path()).expect("a file");
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, SimFile::new(bytes, false));
        }
        prop_assert_eq!(files.len(), case.files.len());
        let result = intact(&case, &op, &files).and_then(|()| recovers(&case, &op, &files));
        result.map_err(|why| {
            TestCaseError::fail(format!("{:?} stopped at {stop}: {why}", op.operation))
        })?;
    }
}

/// Without holes in raw files: which holes a file has is for the file system to say, and plans
/// differ with them.
fn dense(mut spec: TreeSpec) -> TreeSpec {
    for (layer, _) in &mut spec.nodes {
        if let FormatSpec::Raw { holes } = &mut layer.format {
            *holes = false;
        }
    }
    spec
}

fn any_pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        3 => pick(Kind::Commit),
        2 => pick(Kind::Pull),
        1 => pick(Kind::Rebase),
        1 => pick(Kind::Remove),
        1 => pick(Kind::Create),
        1 => pick(Kind::Convert),
        1 => pick(Kind::Overwrite),
    ]
}

/// New images without a data file: its name, as it is seen from here, would stand in the image.
fn fit(pick: &Pick, case: &Case) -> Option<Op> {
    let mut op = pick.fit(case)?;
    if let Operation::Create { options, .. }
    | Operation::Convert {
        target: Target::New { options, .. },
        ..
    } = &mut op.operation
    {
        (options.data_file, options.data_file_raw) = (None, false);
    }
    Some(op)
}

/// Opens the files in `dir` and plans the operation there.
fn planned(dir: &Path, case: &Case, op: &Op) -> backchain::Result<(FsGate, Plan)> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let gate = FsGate::new(GateOptions::default());
    let mut tree = Tree::new();
    for node in &case.nodes {
        gate.name(&path(&node.name));
    }
    for node in &case.nodes {
        // Data files are looked for in the working directory, unless they are named.
        let head = Head::from_bytes(case.files[&node.name].bytes()).ok();
        let data = head.and_then(|head| head.extensions.string(Extensions::DATA_FILE));
        let name = path(&node.name);
        match data {
            Some(data) => {
                let data = path(&data);
                let name = format!(
                    "json:{{'driver':'qcow2','file.filename':'{name}','data-file.filename':'{data}'}}"
                );
                tree.add_one(&gate, &name, None)?;
            }
            None => {
                tree.add_one(&gate, &name, Some(node.format))?;
            }
        }
    }
    for node in &case.nodes {
        tree.add(&gate, &path(&node.name), Some(node.format))?;
    }
    let mut operation = op.operation.clone();
    if let Operation::Create { name, .. }
    | Operation::Convert {
        target: Target::New { name, .. },
        ..
    } = &mut operation
    {
        *name = path(name);
    }
    let plan = tree.plan(&operation)?.with_window(op.window);
    Ok((gate, plan))
}
