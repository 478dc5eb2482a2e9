//! What statistics say of layers is what one finds by asking for every byte of every guest.

use backchain::chain::MapGate;
use backchain::inspect::{LayerStats, Stats};
use backchain::plan::{CreateOptions, Operation};
use backchain::stage::try_out;
use backchain::{NodeId, Place, Source, Tree};
use backchain_format::bytes::to_usize;
use backchain_native::{FsGate, GateOptions};
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, id};
use backchain_testkit::{cases, qemu};
use proptest::prelude::*;
use std::process::Command;
use std::sync::Arc;

/// Byte by byte: where every guest has its bytes from.
fn naive(tree: &Tree, images: usize) -> Vec<LayerStats> {
    let ids = || (0..images).map(id);
    let places: Vec<Vec<Place>> = ids()
        .map(|id| {
            let mut places = Vec::new();
            for extent in tree.node(id).extents(0).unwrap() {
                let extent = extent.unwrap();
                places.resize(to_usize(extent.end()), extent.place);
            }
            places
        })
        .collect();
    let mut seen: Vec<Vec<bool>> = places.iter().map(|p| vec![false; p.len()]).collect();
    for top in ids().filter(|id| tree.children(*id).is_empty()) {
        let chain: Vec<NodeId> = std::iter::successors(Some(top), |id| tree.backing(*id)).collect();
        for at in 0..places[to_usize(top.0.into())].len() {
            for id in &chain {
                let number = to_usize(id.0.into());
                let place = places[number].get(at);
                if let Some(seen) = seen[number].get_mut(at) {
                    *seen = true;
                }
                if place != Some(&Place::Unallocated) {
                    break;
                }
            }
        }
    }
    let stats = places.iter().zip(&seen).map(|(places, seen)| {
        let mut stats = LayerStats::default();
        for (place, seen) in places.iter().zip(seen) {
            let data = matches!(place, Place::Data { .. } | Place::Compressed { .. });
            match place {
                Place::Data { .. } => stats.data += 1,
                Place::Compressed { .. } => stats.compressed += 1,
                Place::Unallocated => stats.unallocated += 1,
                _ => stats.zero += 1,
            }
            match (data, seen) {
                (true, true) => stats.unique += 1,
                (true, false) => stats.shadowed += 1,
                (false, false) if *place != Place::Unallocated => stats.shadowed_zero += 1,
                _ => {}
            }
        }
        stats
    });
    stats.collect()
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn statistics_are_what_guests_read(
        spec in tree(Limits { size: 300 << 10, branches: 5, ..Limits::SMALL }), turn in 1..100_usize,
    ) {
        let case = Case::build(&spec);
        let tree = case.open();
        let mut stats = Stats::new(&tree, &|_| false);
        let mut pos = 0;
        while stats.advance(turn) {
            prop_assert!(pos <= stats.pos() && stats.pos() <= stats.size());
            pos = stats.pos();
        }
        for (number, expected) in naive(&tree, case.nodes.len()).into_iter().enumerate() {
            prop_assert_eq!(stats.layer(id(number)), Some(expected), "image {}", number);
            prop_assert!(stats.error(id(number)).is_none());
        }
    }
}

fn create(gate: &mut MapGate, name: &str, backing: Option<&str>) {
    let mut tree = Tree::new();
    let backing = backing.map(|backing| tree.add(gate, backing, None).unwrap());
    let create = Operation::Create {
        name: name.into(),
        options: CreateOptions {
            size: Some(4 << 20),
            ..CreateOptions::default()
        },
        backing,
    };
    let made = try_out(&tree, tree.plan(&create).unwrap()).unwrap();
    let file: Source = made.into_values().next().unwrap();
    gate.0.insert(name.into(), file);
}

fn run_all(tree: &Tree) -> Stats {
    let mut stats = Stats::new(tree, &|node| node.name == "whole.raw");
    while stats.advance(1) {}
    stats
}

/// Layers in a loop, and those on one, come to an end and are counted by themselves.
#[test]
fn loops_end() {
    let mut gate = MapGate::default();
    create(&mut gate, "b", None);
    create(&mut gate, "a", Some("b"));
    create(&mut gate, "top", Some("a"));
    let mut tree = Tree::new();
    let top = tree.add(&gate, "top", None).unwrap();
    let b = tree.find("b").unwrap();
    let relink = Operation::Relink {
        overlay: b,
        name: Some("a".into()),
        format: Some(backchain::Format::Qcow2),
        base: None,
    };
    let looped = try_out(&tree, tree.plan(&relink).unwrap()).unwrap();
    gate.0.insert("b".into(), looped[&b].clone());
    let mut tree = Tree::new();
    assert_eq!(tree.add(&gate, "top", None).unwrap(), top);
    assert!(tree.find_loop(top).is_some());
    let stats = run_all(&tree);
    for node in tree.nodes() {
        assert_eq!(
            stats.layer(node.id).unwrap().unallocated,
            4 << 20,
            "{}",
            node.name
        );
    }
}

/// An overlay that was given up hides nothing and reads nothing; an image that is not to be
/// searched counts as data.
#[test]
fn what_was_given_up_does_not_count() {
    let mut gate = MapGate::default();
    gate.0
        .insert("whole.raw".into(), Arc::new(vec![0_u8; 4 << 20]));
    create(&mut gate, "keep", Some("whole.raw"));
    create(&mut gate, "gone", Some("whole.raw"));
    let mut tree = Tree::new();
    let gone = tree.add(&gate, "gone", None).unwrap();
    let keep = tree.add(&gate, "keep", None).unwrap();
    let raw = tree.find("whole.raw").unwrap();
    let pull = Operation::Pull {
        overlay: keep,
        base: None,
    };
    let pulled = try_out(&tree, tree.plan(&pull).unwrap()).unwrap();
    // It still names its backing file, but needs nothing of it.
    let relink = |gate: &MapGate| {
        let mut tree = Tree::new();
        let keep = tree.add(gate, "keep", None).unwrap();
        let back = Operation::Relink {
            overlay: keep,
            name: Some("whole.raw".into()),
            format: Some(backchain::Format::Raw),
            base: None,
        };
        try_out(&tree, tree.plan(&back).unwrap()).unwrap()[&keep].clone()
    };
    gate.0.insert("keep".into(), pulled[&keep].clone());
    let file = relink(&gate);
    gate.0.insert("keep".into(), file);
    let mut tree = Tree::new();
    assert_eq!(tree.add(&gate, "gone", None).unwrap(), gone);
    assert_eq!(tree.add(&gate, "keep", None).unwrap(), keep);
    let all = 4 << 20;
    let both = run_all(&tree).layer(raw).unwrap();
    assert_eq!((both.data, both.unique), (all, all), "'gone' reads it");
    tree.give_up(gone);
    let one = run_all(&tree).layer(raw).unwrap();
    assert_eq!((one.data, one.unique, one.shadowed), (all, 0, all));
}

/// What is hidden, but kept by an internal snapshot, cannot be given back.
#[test]
fn snapshots_keep_what_is_hidden() {
    if !qemu::installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (base, top) = (path("base.qcow2"), path("top.qcow2"));
    let run = |program: &str, args: &[&str]| {
        let done = Command::new(program).args(args).output().unwrap();
        assert!(done.status.success(), "{program} {args:?}: {done:?}");
    };
    run("qemu-img", &["create", "-q", "-f", "qcow2", &base, "16M"]);
    run("qemu-io", &["-c", "write -P 1 0 4M", &base]);
    run("qemu-img", &["snapshot", "-c", "then", &base]);
    // The first MiB is the layer's alone again, and so is a fifth one.
    run(
        "qemu-io",
        &["-c", "write -P 2 0 1M", "-c", "write -P 2 8M 1M", &base],
    );
    run(
        "qemu-img",
        &[
            "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &top,
        ],
    );
    let hide = ["write -P 3 0 3M", "write -P 3 8448k 256k"];
    run("qemu-io", &["-c", hide[0], "-c", hide[1], &top]);
    let gate = FsGate::new(GateOptions::default());
    let mut tree = Tree::new();
    tree.add(&gate, &top, None).unwrap();
    let stats = run_all(&tree);
    let told = stats.layer(tree.find("base.qcow2").unwrap()).unwrap();
    let mib = 1 << 20;
    assert_eq!((told.data, told.unique), (5 * mib, 5 * mib - told.shadowed));
    assert_eq!((told.shadowed, told.kept), (3 * mib + mib / 4, 2 * mib));
    assert_eq!(told.could_give_back(), mib + mib / 4);
    let told = stats.layer(tree.find("top.qcow2").unwrap()).unwrap();
    assert_eq!((told.shadowed, told.kept), (0, 0));
}
