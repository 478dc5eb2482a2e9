//! Random damage: whatever is in the tables, every answer is a value or an error, and comes
//! soon. (`hostile.rs` has the malformed images known by name.)

use backchain::chain::Reader;
use backchain::check::check;
use backchain::image::Image;
use backchain::{Map, Tree};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::Head;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, id};
use backchain_testkit::cases;
use backchain_testkit::ops::{Kind, Pick, pick};
use backchain_testkit::rng::Rng;
use backchain_testkit::sim::{SimFile, crash_states};
use backchain_testkit::verify::verify;
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// Far more than any case needs.
const TIME: Duration = Duration::from_secs(20);
/// Items looked at of what may be endless.
const MANY: usize = 50_000;

fn any_pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        2 => pick(Kind::Commit),
        2 => pick(Kind::Pull),
        2 => pick(Kind::Rebase),
        1 => pick(Kind::Remove),
        1 => pick(Kind::Create),
        1 => pick(Kind::Convert),
    ]
}

proptest! {
    #![proptest_config(cases(150))]

    /// Reading, mapping, checking and planning never panic and never hang.
    #[test]
    fn damaged_images_are_survived(
        spec in tree(Limits::TINY),
        picks in prop::collection::vec(any_pick(), 4),
        seed: u64,
    ) {
        let whole = Case::build(&spec);
        let mut case = whole.clone();
        let mut rng = Rng::new(seed);
        let chosen = to_usize(rng.below(to_u64(case.nodes.len())));
        let name = case.nodes[chosen].name.clone();
        let bytes = damaged(case.files[&name].bytes(), &mut rng);
        case.files.insert(name, SimFile::new(bytes, false));

        let start = Instant::now();
        let tree = case.open();
        look_at(&tree);
        for pick in picks {
            let Some(op) = pick.fit(&whole) else { continue };
            if let Ok(plan) = tree.plan(&op.operation) {
                // Errors and an early end are fine.
                plan.with_window(op.window).take(MANY).for_each(drop);
            }
        }
        prop_assert!(start.elapsed() < TIME, "took {:?}", start.elapsed());
    }

    /// The engine's check finds neither more nor less than the testkit's on images that are
    /// sound but for leaks, those that a crash left included.
    #[test]
    fn check_agrees_on_sound_images(
        spec in tree(Limits::TINY),
        pick in any_pick(),
        seed: u64,
    ) {
        let case = Case::build(&spec);
        let mut states = vec![case.files.clone()];
        if let Some(op) = pick.fit(&case) {
            let tree = case.open();
            let plan = tree.plan(&op.operation).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let info = plan.info.clone();
            let run = backchain_testkit::sim::run(&case.files, &info, plan.with_window(op.window));
            let run = run.map_err(|e| TestCaseError::fail(e.0))?;
            let mut rng = Rng::new(seed);
            states.extend(crash_states(&run, 3, &mut rng).map(|state| state.files));
        }
        for files in states {
            for node in &case.nodes {
                let file = &files[&node.name];
                let Ok(Image::Qcow2(image)) = Image::open(file, node.format) else { continue };
                let mut found = Vec::new();
                let report = check(file, &image, 10, &mut |f| found.push(f.to_string()));
                let ours = verify(file.bytes());
                prop_assert_eq!(ours.errors, Vec::<String>::new());
                prop_assert_eq!((report.corruptions, report.check_errors), (0, 0), "{:?}", found);
                // Bitmaps that are not marked consistent count as lost there, as in QEMU.
                if image.bitmaps_consistent() || image.head.extensions.bitmaps(0).is_none() {
                    // Counts of clusters that a crash left behind the end of the file are not
                    // looked at there.
                    let end = to_u64(file.bytes().len()).div_ceil(image.head.header.cluster.bytes());
                    let leaks = ours.leaks.keys().filter(|c| **c < end).count();
                    prop_assert_eq!(report.leaks, to_u64(leaks), "{:?} {:?}", ours.leaks, found);
                }
            }
        }
    }
}

/// A few fields of the head or of a table overwritten, or the end missing.
fn damaged(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let header = Head::from_bytes(&bytes).ok().map(|h| h.header);
    let len = to_u64(bytes.len());
    for _ in 0..1 + rng.below(5) {
        let cluster = header.as_ref().map_or(512, |h| h.cluster.bytes());
        let table = match (&header, rng.below(6)) {
            (Some(h), 0 | 1) => (h.l1_table.0, u64::from(h.l1_entries) * 8),
            (Some(h), 2) => (h.refcount_table.0, h.refcount_table_bytes()),
            (Some(_), 3) => (0, 120),
            // Any cluster: often one of an L2 table, a bitmap or packed data.
            _ => (rng.below(len.div_ceil(cluster).max(1)) * cluster, cluster),
        };
        let at = table.0 + rng.below(table.1.max(8)) / 8 * 8;
        let Some(field) = bytes.get_mut(to_usize(at)..to_usize(at + 8)) else {
            continue;
        };
        let old = u64::from_be_bytes(field.try_into().expect("eight bytes"));
        let host = rng.below(len.div_ceil(cluster) + 2) * cluster;
        let new = match rng.below(10) {
            0 => 0,
            1 => u64::MAX,
            2 => old ^ 1 << rng.below(64),
            3 => host,
            4 => host | 1 << 63,
            5 => host | 1 << 62 | rng.word() & 0x3f00_0000_0000_0000,
            6 => (1 << 55) | old,
            7 => rng.word(),
            8 => rng.word() & 0xffff,
            _ => old.rotate_left(8),
        };
        field.copy_from_slice(&new.to_be_bytes());
    }
    if rng.chance(1, 6) {
        bytes.truncate(to_usize(rng.below(len)));
    }
    bytes
}

fn look_at(tree: &Tree) {
    let mut buffer = vec![0; 64 << 10];
    for number in 0..tree.nodes().len() {
        let node = tree.node(id(number));
        if let Ok(extents) = node.extents(0) {
            extents.take(MANY).for_each(drop);
        }
        if let Ok(Image::Qcow2(image)) = node.image() {
            check(node.source.as_ref(), image, 100, &mut |finding| {
                drop(finding.to_string());
            });
            drop((
                image.snapshots(node.source.as_ref()),
                image.bitmaps(node.source.as_ref()),
            ));
        }
        let Ok(chain) = tree.chain(id(number)) else {
            continue;
        };
        let size = chain.virtual_size();
        if let Ok(map) = Map::new(&chain, 0, u64::MAX) {
            map.take(MANY).for_each(drop);
        }
        let mut reader = Reader::new(chain);
        for at in [0, 65_536, size / 2, size.saturating_sub(1000)] {
            drop(reader.read_at(at, &mut buffer));
        }
    }
}
