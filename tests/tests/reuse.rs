//! Property: where clusters of an image are free, new data goes there, and nobody ever sees what
//! was there before.

use backchain_tests::Dir;
use std::fs;

/// Length of a file.
fn len(dir: &Dir, name: &str) -> u64 {
    fs::metadata(dir.path().join(name))
        .expect("it is there")
        .len()
}

/// `base`, 16 MiB of data with a hole of free clusters in the file, and a reference in `raw`.
fn holey(options: &str) -> Dir {
    let dir = Dir::new();
    dir.qemu_ok(&["create", "-q", "-f", "qcow2", "-o", options, "base", "24M"]);
    dir.io("qcow2", "base", &["write -P 1 0 16M", "discard 2M 12M"]);
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-o", options, "-b", "base", "-F", "qcow2", "top",
    ]);
    dir
}

#[test]
fn a_commit_fills_free_clusters_before_the_file_grows() {
    for options in [
        "cluster_size=64k",
        "cluster_size=4k",
        "compat=0.10",
        "extended_l2=on",
    ] {
        let dir = holey(options);
        let before = len(&dir, "base");
        dir.io(
            "qcow2",
            "top",
            &["write -P 2 1M 6M", "write -P 3 20M 1000k"],
        );
        dir.qemu_ok(&["convert", "-O", "raw", "top", "reference"]);
        dir.own_ok(&["commit", "-q", "top"]);
        // A few tables may lie behind the end.
        assert!(len(&dir, "base") <= before + (1 << 20), "{options}");
        dir.assert_clean("base");
        dir.assert_same("base", "reference");
        dir.assert_same("top", "reference");
    }
}

#[test]
fn what_was_in_a_free_cluster_does_not_show_when_the_disk_grows() {
    for options in ["cluster_size=64k", "extended_l2=on,cluster_size=64k"] {
        let dir = holey(options);
        // The disk ends within a cluster, and with extended L2 entries within a subcluster.
        dir.qemu_ok(&["resize", "-q", "--shrink", "base", "24M"]);
        let odd = ((24 << 20) + 64 * 1024 + 3 * 512).to_string();
        dir.qemu_ok(&["resize", "-q", "base", &odd]);
        dir.qemu_ok(&["resize", "-q", "top", &odd]);
        dir.io(
            "qcow2",
            "top",
            &[&format!("write -P 7 {} 2k", (24 << 20) + 63 * 1024)],
        );
        dir.own_ok(&["commit", "-q", "-d", "top"]);
        dir.qemu_ok(&["resize", "-q", "base", "25M"]);
        dir.assert_clean("base");
        let end = (24 << 20) + 65 * 1024;
        dir.io(
            "qcow2",
            "base",
            &[&format!("read -P 0 {end} {}", (25 << 20) - end)],
        );
    }
}

#[test]
fn with_few_free_clusters_data_stays_together_at_the_end() {
    let dir = Dir::new();
    dir.qemu_ok(&["create", "-q", "-f", "qcow2", "base", "32M"]);
    dir.io(
        "qcow2",
        "base",
        &["write -P 1 0 16M", "discard 2M 64k", "discard 4M 64k"],
    );
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top",
    ]);
    dir.io("qcow2", "top", &["write -P 2 20M 4M"]);
    dir.own_ok(&["commit", "-q", "-d", "top"]);
    let map = dir.own_ok(&["map", "base"]);
    let pieces = map
        .lines()
        .filter(|line| line.starts_with("0x1400000"))
        .count();
    assert!(pieces == 1 && map.contains("0x400000"), "{map}");
    dir.assert_same("base", "top");
}
