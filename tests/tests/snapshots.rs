//! Committing into a base that has internal snapshots of its own: they keep what they held.

use backchain_tests::Dir;

/// Base options that differ in how tables and clusters are shared with a snapshot.
const OPTIONS: [&str; 5] = [
    "cluster_size=64k",
    "cluster_size=512",
    "cluster_size=2M",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=4k,refcount_bits=2",
];

/// `[base with snapshots one, two] <- [top]`, top overwriting shared, own and new clusters.
fn chain(options: &str, top_size: &str) -> Dir {
    let dir = Dir::new();
    dir.qemu_ok(&["create", "-q", "-f", "qcow2", "-o", options, "base", "6M"]);
    dir.io("qcow2", "base", &["write -P 1 0 3M", "write -P 2 5M 100k"]);
    dir.qemu_ok(&["snapshot", "-c", "one", "base"]);
    dir.io("qcow2", "base", &["write -P 3 1M 200k", "write -z 2M 64k"]);
    dir.qemu_ok(&["snapshot", "-c", "two", "base"]);
    dir.io("qcow2", "base", &["write -P 4 4M 30k"]);
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top", top_size,
    ]);
    dir.io(
        "qcow2",
        "top",
        &[
            "write -P 5 1100k 9k",
            "write -z 256k 256k",
            "write -P 6 3500k 40k",
            "write -P 7 4M 2k",
        ],
    );
    for snapshot in ["one", "two"] {
        dir.qemu_ok(&[
            "convert", "-q", "-l", snapshot, "-O", "raw", "base", snapshot,
        ]);
    }
    dir.qemu_ok(&["convert", "-q", "-O", "raw", "top", "reference"]);
    dir
}

fn judge(dir: &Dir, what: &str) {
    dir.qemu_ok(&["check", "-q", "base"]);
    dir.qemu_ok(&[
        "compare",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "base",
        "reference",
    ]);
    for snapshot in ["one", "two"] {
        let after = format!("{snapshot}.after");
        dir.qemu_ok(&["convert", "-q", "-l", snapshot, "-O", "raw", "base", &after]);
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let (before, now) = (read(snapshot), read(&after));
        // qemu-img gives the copy the size that the disk has now.
        let same = now.starts_with(&before) && now[before.len()..].iter().all(|&b| b == 0);
        assert!(same, "{what}: snapshot '{snapshot}' reads differently");
    }
}

#[test]
fn snapshots_of_the_base_survive_a_commit_into_it() {
    for options in OPTIONS {
        for size in ["6M", "9M"] {
            let dir = chain(options, size);
            dir.own_ok(&["commit", "-q", "-d", "top"]);
            judge(&dir, options);
            // Everything shared was copied already: a second commit writes in place.
            dir.io("qcow2", "top", &["write -P 8 0 3M"]);
            dir.qemu_ok(&["convert", "-q", "-O", "raw", "top", "reference"]);
            dir.own_ok(&["commit", "-q", "-d", "top"]);
            judge(&dir, options);
        }
    }
}

#[test]
fn a_version_2_base_with_snapshots_does_not_grow() {
    let dir = chain("compat=0.10", "9M");
    let before = std::fs::read(dir.path().join("base")).unwrap();
    assert!(dir.own(&["commit", "-q", "-d", "top"]).code != Some(0));
    assert!(before == std::fs::read(dir.path().join("base")).unwrap());
}

/// The engine's view of a snapshot is what the disk was when it was taken: its own size, its own
/// clusters, and what the backing file shows through.
#[test]
fn a_snapshot_is_seen_as_it_was_taken() {
    use backchain::Tree;
    use backchain::chain::Reader;
    use backchain::image::SnapshotQuery;
    use backchain_native::{FsGate, GateOptions};

    for options in OPTIONS {
        let dir = chain(options, "6M");
        // Above the chain, so that its snapshot has something to show through.
        dir.qemu_ok(&["snapshot", "-c", "six", "top"]);
        dir.io("qcow2", "top", &["write -P 9 3M 1M"]);
        dir.qemu_ok(&["resize", "-q", "top", "7M"]);
        let gate = FsGate::new(GateOptions::default());
        let read = |image: &str, query: SnapshotQuery| {
            let mut tree = Tree::new();
            let name = dir.path().join(image).to_string_lossy().into_owned();
            let id = tree.add(&gate, &name, None).unwrap();
            let chain = tree.chain_at(id, &query)?;
            let mut view = vec![0xaa; usize::try_from(chain.virtual_size()).unwrap()];
            Reader::new(chain).read_at(0, &mut view)?;
            Ok::<_, backchain::Error>(view)
        };
        let file = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let name = |name: &str| SnapshotQuery::IdOrName(name.to_owned());
        assert!(
            read("base", name("one")).unwrap() == file("one"),
            "{options}"
        );
        assert!(read("base", name("2")).unwrap() == file("two"), "{options}");
        assert!(
            read("top", name("six")).unwrap() == file("reference"),
            "{options}"
        );
        let none = read("base", SnapshotQuery::Name("2".to_owned())).unwrap_err();
        assert_eq!(none.kind(), backchain::ErrorKind::NotFound);
    }
}
