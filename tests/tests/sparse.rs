//! Large disks with few clusters: tables that are read in several pieces, extents across their
//! ends, L1 tables of many kilobytes, and long runs of nothing between.

use backchain::chain::Reader;
use backchain::plan::{Operation, Window};
use backchain::{Format, NodeId, Tree};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::Backing;
use backchain_testkit::case::{Files, id, open};
use backchain_testkit::cases;
use backchain_testkit::judge::carry_out;
use backchain_testkit::model::first_difference;
use backchain_testkit::rng::Rng;
use backchain_testkit::sparse::{Cluster, Sparse, interesting, read};
use backchain_testkit::verify::verify;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Four layers of one shape, base first: 0 <- 1 <- 2 <- 3.
fn layers(seed: u64) -> Vec<Sparse> {
    let mut rng = Rng::new(seed);
    let mut shape = || match rng.below(4) {
        0 => (9, false),
        1 => (17, true),
        2 => (17, false),
        _ => (16, rng.chance(1, 2)),
    };
    let (first, second) = (shape(), shape());
    // The disk is of the size that the finest clusters make interesting.
    let small = first.0.min(second.0) == 9;
    (0..4u64)
        .map(|number| {
            let (cluster_bits, extended) = if number == 0 { first } else { second };
            let cluster = 1u64 << cluster_bits;
            let size = if small { 700 << 20 } else { 5 << 30 };
            let size = size
                - if rng.chance(1, 3) {
                    rng.below(1 << 20) * 512
                } else {
                    0
                };
            let entries = cluster / if extended { 16 } else { 8 };
            let mut layer = Sparse {
                cluster_bits,
                extended,
                size,
                clusters: Default::default(),
                seed: rng.word(),
            };
            for at in interesting(entries, size.div_ceil(cluster), &mut rng) {
                let kind = match rng.below(4) {
                    0 => Cluster::Zero,
                    1 => Cluster::Data(u32::try_from(rng.word() >> 32).expect("32 bits") | 1),
                    _ => Cluster::Data(u32::MAX),
                };
                layer.clusters.insert(at, kind);
            }
            layer
        })
        .collect()
}

fn name(number: usize) -> String {
    format!("n{number}.qcow2")
}

fn reopen(files: &Files) -> Tree {
    let names: Vec<String> = (0..4).map(name).collect();
    open(files, names.iter().map(|n| (n.as_str(), Format::Qcow2)))
}

/// Compares image `node` with the chain of layers it must read as, wherever any layer has
/// something, and just before and behind it.
fn same(tree: &Tree, node: NodeId, chain: &[&Sparse], all: &[Sparse]) -> Result<(), String> {
    let disk = tree.chain(node).map_err(|e| e.to_string())?;
    let size = disk.virtual_size();
    let mut reader = Reader::new(disk);
    let mut places = BTreeSet::new();
    for layer in all {
        for cluster in layer.clusters.keys() {
            let (at, len) = (cluster << layer.cluster_bits, 1 << layer.cluster_bits);
            let (from, to) = (at.saturating_sub(512), (at + len + 512).min(size));
            // In pieces, so that the larger clusters of one layer cost little beside small ones.
            places.extend(
                (from..to)
                    .step_by(65_536)
                    .map(|p| (p, (to - p).min(65_536))),
            );
        }
        places.insert((layer.size.min(size) / 512 * 512, 512));
    }
    for (at, len) in places {
        let len = len.min(size.saturating_sub(at));
        let mut seen = vec![0xaa; to_usize(len)];
        reader.read_at(at, &mut seen).map_err(|e| e.to_string())?;
        let mut expected = read(chain, at, len.next_multiple_of(512));
        expected.truncate(to_usize(len));
        if let Some(difference) = first_difference(&seen, &expected) {
            return Err(format!("{node} from {at:#x}: {difference}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(12))]

    /// Reading, and every operation that moves data.
    #[test]
    fn large_disks_keep_the_law(seed: u64, which in 0..6u32, tiny: bool) {
        let layers = layers(seed);
        let mut files = Files::new();
        for (number, layer) in layers.iter().enumerate() {
            let backing = number.checked_sub(1).map(|below| Backing {
                name: name(below),
                format: Some("qcow2".to_owned()),
            });
            files.insert(name(number), layer.build(backing));
        }
        let tree = reopen(&files);
        let chain = |top: usize| layers[..=top].iter().rev().collect::<Vec<_>>();
        for top in 0..4 {
            same(&tree, id(top), &chain(top), &layers).map_err(TestCaseError::fail)?;
        }

        let commit = |top: usize, base: usize, relink: &[usize]| Operation::Commit {
            top: id(top),
            base: id(base),
            relink: relink.iter().map(|n| id(*n)).collect(),
            empty_top: relink.is_empty(),
            bitmaps: false,
            allow_broken: true,
            allow_plaintext: false,
        };
        let (operation, kept): (_, &[usize]) = match which {
            0 => (commit(2, 0, &[3]), &[2, 3]),
            1 => (commit(3, 2, &[]), &[0, 1, 3]),
            2 => (commit(1, 0, &[2]), &[1, 2, 3]),
            3 => (Operation::Pull { overlay: id(3), base: Some(id(0)) }, &[0, 1, 2, 3]),
            4 => (Operation::Pull { overlay: id(2), base: None }, &[0, 1, 2, 3]),
            _ => {
                let (name, format) = (None, None);
                let rebase = Operation::Rebase { overlay: id(3), base: Some(id(1)), name, format, compress: false };
                (rebase, &[0, 1, 2, 3])
            }
        };
        let window = if tiny { Window { bytes: 300_000, tables: 100_000 } } else { Window::default() };
        let done = carry_out(&tree, &files, &operation, window).map_err(TestCaseError::fail)?;
        let after = reopen(&done.run.after);
        for top in kept {
            same(&after, id(*top), &chain(*top), &layers)
                .map_err(|why| TestCaseError::fail(format!("{operation:?}: {why}")))?;
        }
        for number in 0..4 {
            let file = &done.run.after[&name(number)];
            let report = verify(file.bytes());
            prop_assert_eq!((report.errors, report.leaks.len()), (Vec::<String>::new(), 0));
            prop_assert!(to_u64(file.bytes().len()) < 200 << 20);
        }
    }
}

/// The size of a disk alone costs nothing: 32 TiB with a few clusters are planned, mapped and
/// compared in the time that their tables take.
#[test]
fn virtual_size_alone_costs_nothing() {
    use backchain::compare::compare;
    use backchain::plan::{CreateOptions, Preview};
    use backchain::{Map, Plan};
    use std::time::{Duration, Instant};

    let layer = |seed: u64, at: &[u64]| Sparse {
        cluster_bits: 16,
        extended: false,
        size: 32 << 40,
        clusters: at.iter().map(|n| (*n, Cluster::Data(u32::MAX))).collect(),
        seed,
    };
    let below = Some(Backing {
        name: name(0),
        format: Some("qcow2".to_owned()),
    });
    let last = (32 << 24) - 1;
    let base = layer(1, &[0, 5, 100_000, 300_000_000]);
    let files = Files::from([
        (name(0), base.build(None)),
        (
            name(1),
            layer(2, &[5, 6, 70_000_000, last]).build(below.clone()),
        ),
        (name(2), layer(3, &[7]).build(below)),
    ]);
    let names: Vec<String> = (0..3).map(name).collect();
    let tree = open(&files, names.iter().map(|n| (n.as_str(), Format::Qcow2)));
    let convert = |format| {
        let options = CreateOptions {
            format,
            ..CreateOptions::default()
        };
        Operation::flatten(id(1), "new.img", options)
    };
    let operations = [
        Operation::Commit {
            top: id(1),
            base: id(0),
            relink: Vec::new(),
            empty_top: true,
            bitmaps: false,
            allow_broken: true,
            allow_plaintext: false,
        },
        Operation::Pull {
            overlay: id(1),
            base: None,
        },
        Operation::Rebase {
            overlay: id(1),
            base: Some(id(2)),
            name: None,
            format: None,
            compress: false,
        },
        convert(Format::Raw),
        convert(Format::Qcow2),
    ];
    let soon = |what: &str, start: Instant| {
        let time = start.elapsed();
        assert!(time < Duration::from_secs(20), "{what} took {time:?}");
    };
    for operation in operations {
        let start = Instant::now();
        let plan: Plan = tree.plan(&operation).unwrap();
        let preview = Preview::of(plan).unwrap();
        assert!(
            preview.steps < 1000,
            "{operation:?}: {} steps",
            preview.steps
        );
        assert!(
            preview.copied <= 16 << 16,
            "{operation:?}: {} bytes",
            preview.copied
        );
        soon(&format!("{operation:?}"), start);
    }
    let start = Instant::now();
    let chain = |n| tree.chain(id(n)).unwrap();
    assert!(Map::new(&chain(1), 0, u64::MAX).unwrap().count() < 100);
    soon("map", start);
    let start = Instant::now();
    assert!(compare(&chain(1), &chain(1), false).unwrap().is_identical());
    assert!(!compare(&chain(1), &chain(2), false).unwrap().is_identical());
    soon("compare", start);
}
