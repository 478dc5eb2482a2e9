//! Trying plans without writing: the patched files are, byte for byte, what carrying the plans
//! out makes of the real ones, however many are tried one upon the other.

use backchain::chain::MapGate;
use backchain::plan::{CreateOptions, Operation, Preview, Window};
use backchain::stage::{Patched, try_out};
use backchain::{ErrorKind, Format, ReadAt, Source, Tree};
use backchain_format::bytes::to_usize;
use backchain_testkit::build::TreeSpec;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, open_through};
use backchain_testkit::cases;
use backchain_testkit::judge::{carry_out, judge, left_by};
use backchain_testkit::model::first_difference;
use backchain_testkit::ops::{Kind, Pick, pick};
use backchain_testkit::rng::Rng;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

fn any_pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        3 => pick(Kind::Commit),
        2 => pick(Kind::Pull),
        2 => pick(Kind::Rebase),
        2 => pick(Kind::Remove),
        1 => pick(Kind::Create),
        1 => pick(Kind::Convert),
    ]
}

/// These leave images that read differently, so nothing follows them.
fn last_pick() -> impl Strategy<Value = Pick> {
    prop_oneof![pick(Kind::Relink), pick(Kind::Overwrite)]
}

fn open(case: &Case, gate: &MapGate) -> Tree {
    let names = case.nodes.iter().map(|n| (n.name.as_str(), n.format));
    open_through(gate, names)
}

/// Reads in pieces of any size, from front to back, then here and there.
fn read(source: &dyn ReadAt, rng: &mut Rng) -> Result<Vec<u8>, String> {
    let len = source.len();
    let mut bytes = vec![0xaa; to_usize(len)];
    let mut at = 0;
    while at < len {
        let n = (1 + rng.below(200_000)).min(len - at);
        let part = &mut bytes[to_usize(at)..to_usize(at + n)];
        let got = source.read_exact_at(at, part);
        got.map_err(|e| format!("{n} bytes at {at}: {e}"))?;
        at += n;
    }
    for _ in 0..20 {
        let start = rng.below(len + 1);
        let n = rng.below(len - start + 1).min(3000);
        let mut part = vec![0x55; to_usize(n)];
        let got = source.read_exact_at(start, &mut part);
        got.map_err(|e| format!("{n} bytes at {start}: {e}"))?;
        if part != bytes[to_usize(start)..][..to_usize(n)] {
            return Err(format!("{n} bytes at {start} are not what they were"));
        }
    }
    match source.read_exact_at(len, &mut [0]) {
        Ok(()) => Err("reads behind its end".to_owned()),
        Err(_) => Ok(bytes),
    }
}

/// What is not told as data is zeros, and there is an end to it.
fn holes(source: &dyn ReadAt, bytes: &[u8]) -> Result<(), String> {
    let mut at = 0;
    while let Some(range) = source.data_at(at).map_err(|e| e.to_string())? {
        let gap = bytes.get(to_usize(at)..to_usize(range.start));
        if range.start < at || range.end <= range.start || gap.is_none() {
            return Err(format!("the data at {at} is {range:?}"));
        }
        if gap.is_some_and(|gap| gap.iter().any(|b| *b != 0)) {
            return Err(format!("something between {at} and the data at {range:?}"));
        }
        at = range.end;
    }
    match bytes[to_usize(at)..].iter().any(|b| *b != 0) {
        true => Err(format!("something behind the last data at {at}")),
        false => Ok(()),
    }
}

/// Tries and carries out one operation after the other.
fn same(spec: &TreeSpec, picks: &[Pick], seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let mut case = Case::build(spec);
    let mut staged: BTreeMap<String, Source> = BTreeMap::new();
    for pick in picks {
        let Some(op) = pick.fit(&case) else { continue };
        let say = |why: String| format!("{:?}: {why}", op.operation);
        let mut gate = MapGate::default();
        for (name, file) in &case.files {
            let real = || Arc::new(file.clone()) as Source;
            let source = staged.get(name).cloned().unwrap_or_else(real);
            gate.0.insert(name.clone(), source);
        }
        let tree = open(&case, &gate);
        let plan = tree.plan(&op.operation).map_err(|e| say(e.to_string()))?;
        if Preview::of(plan).is_err() {
            // A disk that is not whole sectors cannot get into an encrypted one.
            continue;
        }
        // The plan for the patched files, carried out on real ones with the same bytes.
        let done = carry_out(&tree, &case.files, &op.operation, op.window).map_err(say)?;
        judge(&case, &op, &done).map_err(say)?;
        let plan = tree.plan(&op.operation).map_err(|e| say(e.to_string()))?;
        let tried = try_out(&tree, plan.with_window(op.window)).map_err(|e| say(e.to_string()))?;
        for file in done.info.files.iter().filter(|file| file.written) {
            let patched = tried.get(&file.node).ok_or_else(|| say("no file".into()))?;
            let about = |why: String| say(format!("{}: {why}", file.name));
            let bytes = read(patched.as_ref(), &mut rng).map_err(about)?;
            let expected = done.run.after[&file.name].bytes();
            if let Some(difference) = first_difference(&bytes, expected) {
                return Err(about(difference));
            }
            holes(patched.as_ref(), &bytes).map_err(about)?;
            staged.insert(file.name.clone(), patched.clone());
        }
        case = left_by(&case, &op, &done).map_err(say)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn what_is_tried_is_what_is_done(
        spec in tree(Limits::SMALL), pick in any_pick(), seed: u64,
    ) {
        same(&spec, &[pick], seed).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn what_changes_views_is_tried_as_well(
        spec in tree(Limits::SMALL), pick in last_pick(), seed: u64,
    ) {
        same(&spec, &[pick], seed).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn trials_pile_up(
        spec in tree(Limits { size: 300 << 10, ..Limits::SMALL }),
        picks in prop::collection::vec(any_pick(), 2..7),
        seed: u64,
    ) {
        same(&spec, &picks, seed).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn encrypted_images_can_be_tried(
        spec in tree(Limits { size: 300 << 10, ..Limits::ENCRYPTED }),
        picks in prop::collection::vec(
            prop_oneof![pick(Kind::Commit), pick(Kind::Pull), pick(Kind::Rebase)], 1..4),
        seed: u64,
    ) {
        same(&spec, &picks, seed).map_err(TestCaseError::fail)?;
    }
}

/// A qcow2 image of `size` bytes made by trying to make it.
fn blank(name: &str, gate: &MapGate, operation: impl Fn(&Tree) -> Operation) -> Arc<Patched> {
    let mut tree = Tree::new();
    for known in gate.0.keys() {
        tree.add(gate, known, None).unwrap();
    }
    let plan = tree.plan(&operation(&tree)).unwrap();
    let node = plan
        .info
        .files
        .iter()
        .find(|f| f.name == name)
        .unwrap()
        .node;
    try_out(&tree, plan).unwrap().remove(&node).unwrap()
}

/// A hundred commits and pulls, one tried upon the other, are read as fast as one: no piece
/// leads through the patched files of earlier trials.
#[test]
fn a_hundred_trials_are_no_deeper_than_one() {
    let mut gate = MapGate::default();
    let data: Vec<u8> = (0..1 << 20)
        .map(|n: u32| n.to_le_bytes()[n as usize % 3] | 1)
        .collect();
    gate.0.insert("base.raw".into(), Arc::new(data.clone()));
    let top = blank("top.qcow2", &gate, |tree| Operation::Create {
        name: "top.qcow2".into(),
        options: CreateOptions::default(),
        backing: tree.find("base.raw"),
    });
    gate.0.insert("top.qcow2".into(), top);
    for round in 0..50 {
        let mut tree = Tree::new();
        let top = tree.add(&gate, "top.qcow2", None).unwrap();
        let base = tree.find("base.raw").unwrap();
        let pull = tree
            .plan(&Operation::Pull {
                overlay: top,
                base: None,
            })
            .unwrap();
        let pulled = try_out(&tree, pull).unwrap().remove(&top).unwrap();
        gate.0.insert("top.qcow2".into(), pulled);
        let mut tree = Tree::new();
        let top = tree.add(&gate, "top.qcow2", None).unwrap();
        let new_base = tree.add(&gate, "base.raw", Some(Format::Raw)).unwrap();
        assert_ne!(top, new_base, "round {round}: it stands alone ({base})");
        let back = Operation::Rebase {
            overlay: top,
            base: Some(new_base),
            name: None,
            format: Some(Format::Raw),
            compress: false,
        };
        let back = try_out(&tree, tree.plan(&back).unwrap()).unwrap();
        gate.0.insert("top.qcow2".into(), back[&top].clone());
        let mut tree = Tree::new();
        let top = tree.add(&gate, "top.qcow2", None).unwrap();
        let base = tree.find("base.raw").unwrap();
        let commit = Operation::Commit {
            top,
            base,
            relink: Vec::new(),
            empty_top: true,
            bitmaps: false,
            allow_broken: false,
            allow_plaintext: false,
        };
        let done = try_out(&tree, tree.plan(&commit).unwrap()).unwrap();
        for (node, file) in done {
            assert!(
                file.pieces() < 100,
                "round {round}: {} pieces",
                file.pieces()
            );
            gate.0.insert(tree.node(node).name.clone(), file);
        }
    }
    let base = &gate.0["base.raw"];
    assert_eq!(read(base.as_ref(), &mut Rng::new(1)).unwrap(), data);
}

/// What would need too much memory is refused, and the message says how much that is.
#[test]
fn a_trial_knows_its_limits() {
    // Every second cluster of 512 bytes is data: each is a piece of its own once it is moved.
    let clusters = 2_200_000_u64;
    let sparse = Stripes(clusters * 512);
    let gate = MapGate([("striped.raw".to_owned(), Arc::new(sparse) as Source)].into());
    let mut tree = Tree::new();
    let top = tree.add(&gate, "striped.raw", Some(Format::Raw)).unwrap();
    let options = CreateOptions {
        cluster_size: 512,
        ..Default::default()
    };
    let plan = tree
        .plan(&Operation::flatten(top, "flat.qcow2", options))
        .unwrap();
    let window = Window {
        bytes: 1 << 20,
        tables: 1 << 20,
    };
    let error = try_out(&tree, plan.with_window(window)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("too large to be tried"), "{error}");
}

/// Data and holes of 512 bytes by turns.
struct Stripes(u64);

impl ReadAt for Stripes {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        for (byte, at) in buf.iter_mut().zip(offset..) {
            *byte = if at / 512 % 2 == 0 { 7 } else { 0 };
        }
        Ok(())
    }

    fn data_at(&self, offset: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
        let stripe = offset / 1024 * 1024;
        let start = if offset < stripe + 512 {
            stripe
        } else {
            stripe + 1024
        };
        Ok((start < self.0).then(|| start.max(offset)..start + 512))
    }
}
