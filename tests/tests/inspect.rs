//! What the engine shows of chains and files is true: the map agrees with the extents, the owners
//! of host clusters with the tables and with the check, and a search finds what is there.

use backchain::check::{Finding, check};
use backchain::extent::Place;
use backchain::inspect::{Cell, HostMap, Overview, Owner, Search, fields, find_owner};
use backchain_format::Format;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, id};
use backchain_testkit::cases;
use backchain_testkit::rng::Rng;
use proptest::prelude::*;

fn fail(error: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

proptest! {
    #![proptest_config(cases(150))]

    /// In every column, what the guest sees of each layer is what the chain's extents say, and
    /// hidden and seen bytes together are what the layer itself holds there.
    #[test]
    fn the_cluster_map_is_what_the_layers_hold(spec in tree(Limits::SMALL), seed: u64) {
        let case = Case::build(&spec);
        let opened = case.open();
        let mut rng = Rng::new(seed);
        for number in 0..case.nodes.len() {
            let chain = opened.chain(id(number)).map_err(fail)?;
            let size = chain.virtual_size();
            if size == 0 {
                continue;
            }
            let start = rng.below(size);
            let end = start + 1 + rng.below(size - start);
            let columns = 1 + to_usize(rng.below(40));
            let map = Overview::new(&chain, start..end, columns).finish().map_err(fail)?;
            for column in 0..to_u64(columns) {
                let bounds = map.column(column);
                let mut seen = vec![Cell::default(); chain.layers().len()];
                for extent in chain.extents(0).map_err(fail)? {
                    let extent = extent.map_err(fail)?;
                    let (from, to) = (extent.start.max(bounds.start), extent.end().min(bounds.end));
                    let Some(depth) = extent.depth.filter(|_| from < to) else { continue };
                    match extent.place {
                        Place::Data { .. } => seen[depth].data += to - from,
                        Place::Compressed { .. } => seen[depth].compressed += to - from,
                        Place::Zero { .. } => seen[depth].zero += to - from,
                        _ => {}
                    }
                }
                for (depth, seen) in seen.iter().enumerate() {
                    let cell = map.cells(depth)[to_usize(column)];
                    prop_assert_eq!(
                        (cell.data, cell.compressed, cell.zero),
                        (seen.data, seen.compressed, seen.zero),
                        "layer {} column {} {:?}", depth, column, &bounds
                    );
                    let mut held = (0, 0);
                    for extent in chain.layers()[depth].extents(0).map_err(fail)? {
                        let extent = extent.map_err(fail)?;
                        let (from, to) = (extent.start.max(bounds.start), extent.end().min(bounds.end));
                        match extent.place {
                            Place::Data { .. } | Place::Compressed { .. } if from < to => held.0 += to - from,
                            Place::Zero { .. } if from < to => held.1 += to - from,
                            _ => {}
                        }
                    }
                    prop_assert_eq!(cell.data + cell.compressed + cell.shadowed, held.0);
                    prop_assert_eq!(cell.zero + cell.shadowed_zero, held.1);
                }
            }
        }
    }

    /// Every host cluster that an extent names belongs to guest data, leads back to its guest
    /// offset, and what the map calls leaked is what the check calls leaked.
    #[test]
    fn the_file_on_disk_is_owned_as_its_tables_say(spec in tree(Limits::SMALL)) {
        let case = Case::build(&spec);
        let opened = case.open();
        for (number, _) in case.nodes.iter().enumerate().filter(|(_, n)| n.format == Format::Qcow2) {
            let node = opened.node(id(number));
            let image = node.image().map_err(fail)?.as_qcow2().unwrap();
            let mut map = HostMap::new(node).unwrap();
            while map.advance(8) {}
            prop_assert_eq!(map.problems(), &[] as &[String]);
            prop_assert_eq!(map.owner(0), Some(Owner::Header));
            prop_assert_eq!(map.owner(image.head.header.refcount_table.0), Some(Owner::RefcountTable));
            // Guest data may be in a file of its own.
            let own = node.data.is_none();
            for extent in node.extents(0).map_err(fail)?.filter(|_| own) {
                let extent = extent.map_err(fail)?;
                let (host, owner) = match extent.place {
                    Place::Data { host } => (host.0, Owner::Data),
                    Place::Compressed { host, .. } => (host.0, Owner::Compressed),
                    _ => continue,
                };
                prop_assert_eq!(map.owner(host), Some(owner), "host {:#x}", host);
                let found = find_owner(node, host).map_err(fail)?.unwrap();
                let cluster = image.head.header.cluster;
                prop_assert_eq!(found.guest, Some(cluster.align_down(extent.start)));
                let table = fields(node, Owner::L2, found.table.unwrap()..found.table.unwrap() + cluster.bytes());
                prop_assert!(table.map_err(fail)?.iter().any(|f| f.target == Some(cluster.align_down(host))
                    || owner == Owner::Compressed && f.target == Some(host)));
            }
            let clusters = node.source.len().div_ceil(map.unit());
            let mut leaks = 0;
            check(node.source.as_ref(), image, u64::MAX, &mut |finding| {
                // Clusters that are counted behind the end of the file are not on the map.
                leaks += match finding {
                    Finding::Leak { cluster, references: 0, .. } => u64::from(*cluster < clusters),
                    _ => 0,
                };
            });
            let leaked = map.totals()[Owner::Leaked as usize] / map.unit();
            prop_assert_eq!(leaked, leaks);
            prop_assert_eq!(map.totals()[Owner::Corrupt as usize], 0);
            let columns = map.columns(0..node.source.len(), 7);
            prop_assert_eq!(columns.len(), 7);
        }
    }

    /// A search of the guest view hits exactly where the bytes are.
    #[test]
    fn searches_find_every_place(spec in tree(Limits::SMALL), seed: u64) {
        let case = Case::build(&spec);
        let opened = case.open();
        let mut rng = Rng::new(seed);
        let top = case.nodes.len() - 1;
        let view = case.view(top);
        if view.len() < 64 {
            return Ok(());
        }
        let at = to_usize(rng.below(to_u64(view.len()) - 8));
        let needle = view[at..at + 1 + to_usize(rng.below(8))].to_vec();
        let expected: Vec<u64> = view
            .windows(needle.len())
            .enumerate()
            .filter(|(_, w)| *w == needle)
            .map(|(n, _)| to_u64(n))
            .take(50)
            .collect();
        let mut search = Search::guest(opened.chain(id(top)).map_err(fail)?, needle, 0).map_err(fail)?;
        let mut hits = Vec::new();
        while hits.len() < 50 && let Some(hit) = search.advance().map_err(fail)? {
            hits.extend(hit);
        }
        prop_assert_eq!(hits, expected);
    }
}
