//! What the engine reads of random trees is what the model says, and qemu-img reads the same:
//! that judges the reading side of the engine and the builder of the test images at once.

use backchain::chain::Reader;
use backchain::extent::Place;
use backchain_format::Format;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, engine_view, id};
use backchain_testkit::model::{Cell, Layer, first_difference};
use backchain_testkit::rng::Rng;
use backchain_testkit::verify::verify;
use backchain_testkit::{cases, qemu};
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases(200))]

    /// Every image of a tree reads as its model, whole and in random pieces.
    #[test]
    fn chains_read_as_the_model(spec in tree(Limits::SMALL), seed: u64) {
        reads_as_the_model(&Case::build(&spec), seed)?;
    }

    /// Extents cover the disk without gaps, each decided by the layer that decides in the
    /// model, and no two neighbours could be one.
    #[test]
    fn extents_agree_with_the_model(spec in tree(Limits::SMALL)) {
        extents_agree(&Case::build(&spec))?;
    }

    /// The builder's images are flawless: otherwise they could not judge anything.
    #[test]
    fn built_images_are_consistent(spec in tree(Limits::SMALL)) {
        let case = Case::build(&spec);
        for node in case.nodes.iter().filter(|n| n.format == Format::Qcow2) {
            let report = verify(case.files[&node.name].bytes());
            prop_assert_eq!(report.errors, Vec::<String>::new(), "{}", &node.name);
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    /// The same for the largest clusters and disks.
    #[test]
    fn large_clusters_read_as_the_model(spec in tree(Limits::ALL), seed: u64) {
        let case = Case::build(&spec);
        reads_as_the_model(&case, seed)?;
        extents_agree(&case)?;
    }

    /// qemu-img finds nothing wrong with the images and reads what the model says.
    #[test]
    fn qemu_reads_as_the_model(spec in tree(Limits { odd_sizes: false, ..Limits::SMALL })) {
        if !qemu::installed() {
            return Ok(());
        }
        let case = Case::build(&spec);
        let dir = qemu::directory(&case.files);
        for (number, node) in case.nodes.iter().enumerate() {
            if node.format == Format::Qcow2 {
                qemu::check(dir.path(), &node.name, false).map_err(TestCaseError::fail)?;
            }
            let seen = qemu::view(dir.path(), &node.name, node.format.name());
            let seen = seen.map_err(TestCaseError::fail)?;
            let difference = first_difference(&seen, &case.view(number));
            prop_assert!(difference.is_none(), "{}: {}", node.name, difference.unwrap());
        }
    }
}

fn reads_as_the_model(case: &Case, seed: u64) -> Result<(), TestCaseError> {
    let tree = case.open();
    let mut rng = Rng::new(seed);
    for (number, node) in case.nodes.iter().enumerate() {
        let expected = case.view(number);
        let seen = engine_view(&tree, id(number)).map_err(fail)?;
        let difference = first_difference(&seen, &expected);
        prop_assert!(
            difference.is_none(),
            "{}: {}",
            node.name,
            difference.unwrap()
        );

        let mut reader = Reader::new(tree.chain(id(number)).map_err(fail)?);
        for _ in 0..8 {
            let start = rng.below(to_u64(expected.len()) + 1000);
            let len = to_usize(rng.below(20_000));
            let mut piece = vec![0xaa; len];
            reader.read_at(start, &mut piece).map_err(fail)?;
            let rest = expected.iter().copied().skip(to_usize(start));
            let mut wanted: Vec<u8> = rest.take(len).collect();
            wanted.resize(len, 0);
            let difference = first_difference(&piece, &wanted);
            prop_assert!(
                difference.is_none(),
                "{} from {start}: {}",
                node.name,
                difference.unwrap()
            );
        }
    }
    Ok(())
}

fn extents_agree(case: &Case) -> Result<(), TestCaseError> {
    let tree = case.open();
    for number in 0..case.nodes.len() {
        let numbers = case.chain(number);
        let layers: Vec<_> = numbers.iter().map(|n| &case.nodes[*n].layer).collect();
        let chain = tree.chain(id(number)).map_err(fail)?;
        let mut pos = 0;
        let mut last = None;
        for extent in chain.extents(0).map_err(fail)? {
            let extent = extent.map_err(fail)?;
            prop_assert_eq!(extent.start, pos);
            prop_assert!(extent.len > 0);
            if let Some(last) = last.replace(extent) {
                let same =
                    last.depth == extent.depth && last.place.continues(last.len, extent.place);
                prop_assert!(!same, "{last:?} and {extent:?} are one");
            }
            pos = extent.end();
            for at in (extent.start..extent.end()).step_by(512) {
                let decides =
                    |layer: &Layer| at >= layer.size() || layer.cell(at) != Cell::Unallocated;
                let deciding = layers.iter().position(|layer| decides(layer));
                prop_assert_eq!(extent.depth, deciding, "at {:#x}", at);
                let Some(depth) = deciding else {
                    prop_assert_eq!(extent.place, Place::Unallocated);
                    continue;
                };
                let zero = at >= layers[depth].size() || layers[depth].cell(at) == Cell::Zero;
                // Raw holes and clusters behind a cut end of the file are zeros too.
                prop_assert!(!zero || extent.place.reads_zero(), "{extent:?} at {at:#x}");
            }
        }
        prop_assert_eq!(pos, layers[0].size());
    }
    Ok(())
}

#[allow(clippy::needless_pass_by_value)]
fn fail(error: backchain::Error) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

/// The random trees do have what these tests are about.
#[test]
fn random_trees_reach_every_feature() {
    use backchain_format::qcow2::{Codec, Head};
    use backchain_testkit::build::FormatSpec;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use std::collections::BTreeMap;

    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let mut runner = TestRunner::deterministic();
    for _ in 0..200 {
        let spec = tree(Limits::SMALL)
            .new_tree(&mut runner)
            .expect("no filters");
        let spec = spec.current();
        let case = Case::build(&spec);
        let tree = case.open();
        for (number, (layer, parent)) in spec.nodes.iter().enumerate() {
            let mut count = |what, yes: bool| *seen.entry(what).or_default() += u32::from(yes);
            let size = case.nodes[number].layer.size();
            let below = parent.map(|p| case.nodes[p].layer.size());
            count(
                "shorter than its backing file",
                below.is_some_and(|b| b > size),
            );
            count(
                "longer than its backing file",
                below.is_some_and(|b| b < size),
            );
            count(
                "siblings",
                spec.nodes
                    .iter()
                    .filter(|(_, p)| p.is_some() && p == parent)
                    .count()
                    > 1,
            );
            let FormatSpec::Qcow2(format) = &layer.format else {
                count("raw", true);
                count("raw of odd length", !layer.size.is_multiple_of(512));
                continue;
            };
            let file = case.files[&case.nodes[number].name].bytes();
            let head = Head::from_bytes(file).expect("a valid head");
            count("version 2", !format.v3);
            count("512 byte clusters", format.cluster_bits == 9);
            count("64 KiB clusters", format.cluster_bits >= 16);
            count("extended L2", format.extended);
            count("1-bit refcounts", format.refcount_order == 0);
            count("64-bit refcounts", format.refcount_order == 6);
            count(
                "file cut within a cluster",
                !to_u64(file.len()).is_multiple_of(head.header.cluster.bytes()),
            );
            count(
                "disk ends within a cluster",
                !size.is_multiple_of(head.header.cluster.bytes()),
            );
            count("data file", format.data_file);
            count(
                "raw data file",
                case.raw_data(number, &case.files).is_some(),
            );
            count("leaks", !verify(file).leaks.is_empty());
            let extents = tree.node(id(number)).extents(0).expect("readable");
            let mut places = std::collections::BTreeSet::new();
            for extent in extents {
                match extent.expect("readable").place {
                    Place::Data { .. } => count("data", true),
                    Place::Compressed { host, .. } => {
                        let new = places.insert(host.0 >> format.cluster_bits);
                        let zlib = format.codec == Codec::Zlib;
                        count(if zlib { "zlib" } else { "zstd" }, true);
                        count("shared host cluster", !new);
                    }
                    Place::Zero { host: None } => count("zero", true),
                    Place::Zero { host: Some(_) } => count("zero with a host cluster", true),
                    _ => {}
                }
            }
        }
    }
    let rare: Vec<_> = seen.iter().filter(|(_, n)| **n < 5).collect();
    assert!(rare.is_empty(), "{rare:?} of {seen:?}");
}
