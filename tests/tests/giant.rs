//! Property: the size of a disk costs neither memory nor time. Every command works on the
//! largest disks that the format can say within 256 MiB.

use backchain_tests::Dir;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

const LIMIT: u64 = 256 << 20;

/// Runs backchain, which has to succeed within the limit.
fn own(dir: &Dir, arguments: &[&str]) -> String {
    let (said, peak) = dir.own_measured(arguments);
    assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
    assert!(peak <= LIMIT, "{arguments:?} took {} KiB", peak >> 10);
    said.out
}

/// Guest writes near the start, in the middle and at the very end of a disk of `size` bytes.
fn write(dir: &Dir, image: &str, size: u64, first: u8) {
    let (middle, end) = (size / 2 - 4096, size - (1 << 20));
    let commands = [
        format!("write -P {first} 4k 100k"),
        format!("write -P {} {middle} 1M", first + 1),
        format!("write -z {end} 64k"),
        format!("write -P {} {} 512k", first + 2, end + (512 << 10)),
    ];
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    dir.io("qcow2", image, &commands);
}

/// The guest sees in `image` what two rounds of [`write`] left there.
fn assert_written(dir: &Dir, image: &str, size: u64) {
    let map = own(dir, &["map", "--output=json", image]);
    let map: serde_json::Value = serde_json::from_str(&map).expect("JSON");
    let data: u64 = map
        .as_array()
        .expect("a list")
        .iter()
        .filter(|entry| entry["data"] == true)
        .map(|entry| entry["length"].as_u64().expect("a length"))
        .sum();
    assert!((1 << 20..64 << 20).contains(&data), "{data} bytes of data");
    // Another image of the same size, with large clusters, as QEMU makes it.
    let size_text = size.to_string();
    dir.qemu_ok(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=2M",
        "reference",
        &size_text,
    ]);
    write(dir, "reference", size, 1);
    write(dir, "reference", size, 11);
    own(dir, &["compare", image, "reference"]);
}

/// Created, written by QEMU, checked, committed into and mapped.
fn whole_life(size: u64, cluster: &str) {
    let dir = Dir::new();
    let option = format!("cluster_size={cluster}");
    let size_text = size.to_string();
    own(
        &dir,
        &[
            "create", "-q", "-f", "qcow2", "-o", &option, "base", &size_text,
        ],
    );
    write(&dir, "base", size, 1);
    own(
        &dir,
        &[
            "create", "-q", "-f", "qcow2", "-o", &option, "-b", "base", "-F", "qcow2", "top",
        ],
    );
    write(&dir, "top", size, 11);
    own(&dir, &["check", "top"]);
    own(&dir, &["commit", "-q", "top"]);
    for image in ["base", "top"] {
        own(&dir, &["check", image]);
        dir.assert_clean(image);
        assert_written(&dir, image, size);
    }
    own(&dir, &["info", "--backing-chain", "top"]);
    own(&dir, &["blockpull", "-q", "top"]);
    dir.assert_clean("top");
    assert_written(&dir, "top", size);
}

#[test]
fn a_disk_of_64_tib_with_clusters_of_2_mib() {
    whole_life(64 << 40, "2M");
}

#[test]
fn a_disk_of_128_gib_with_clusters_of_512_bytes_which_is_the_most_that_qemu_opens() {
    whole_life(128 << 30, "512");
}

#[test]
fn a_disk_of_a_tebibyte_with_clusters_of_512_bytes_is_beyond_qemu_and_has_to_be_asked_for() {
    let dir = Dir::new();
    let create = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=512",
        "base",
        "1T",
    ];
    // By default it is refused as QEMU refuses it.
    assert_eq!(dir.both(&create).code, Some(1));
    own(
        &dir,
        &[&create[..2], &["--beyond-qemu"], &create[2..]].concat(),
    );
    assert_ne!(
        dir.qemu(&["info", "base"]).code,
        Some(0),
        "QEMU opens it after all"
    );

    // QEMU writes to an overlay of its own kind, which is committed.
    let size = 1 << 40;
    for first in [1, 11] {
        dir.qemu_ok(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=64k",
            "top",
            "1T",
        ]);
        write(&dir, "top", size, first);
        own(&dir, &["rebase", "-u", "-b", "base", "-F", "qcow2", "top"]);
        own(&dir, &["commit", "-q", "-d", "top"]);
        own(&dir, &["check", "base"]);
    }
    assert_written(&dir, "base", size);
    own(&dir, &["info", "base"]);
    fs::remove_file(dir.path().join("top")).expect("it is not needed any more");
    // An overlay of the same kind can be emptied and pulled into.
    own(
        &dir,
        &[
            &create[..2],
            &["--beyond-qemu", "-b", "base", "-F", "qcow2"],
            &create[2..6],
            &["over"],
        ]
        .concat(),
    );
    own(&dir, &["commit", "-q", "over"]);
    own(&dir, &["blockpull", "-q", "over"]);
    own(&dir, &["check", "over"]);
    own(&dir, &["compare", "over", "base"]);
}

#[test]
fn a_far_end_of_the_file_makes_the_refcount_table_grow() {
    let dir = Dir::new();
    let options = "cluster_size=512";
    dir.qemu_ok(&["create", "-q", "-f", "qcow2", "-o", options, "base", "4M"]);
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top",
    ]);
    dir.io("qcow2", "top", &["write -P 5 0 1M"]);
    // Whatever is behind the last cluster, new ones go behind that.
    let base = File::options()
        .write(true)
        .open(dir.path().join("base"))
        .expect("it is there");
    base.set_len(100 << 30).expect("a sparse file");
    own(&dir, &["commit", "-q", "-d", "top"]);
    own(&dir, &["check", "base"]);
    dir.assert_clean("base");
    dir.assert_same("base", "top");
}

#[test]
fn a_claim_of_billions_of_entries_costs_nothing() {
    let dir = Dir::new();
    dir.qemu_ok(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=512",
        "tiny",
        "1M",
    ]);
    let path = dir.path().join("tiny");
    let file = File::options()
        .write(true)
        .open(&path)
        .expect("it is there");
    let entries = u32::MAX;
    file.write_all_at(&entries.to_be_bytes(), 36).expect("room");
    drop(file);
    let (said, peak) = dir.own_measured(&["map", "tiny"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("Active L1 table too large") || said.err.contains("L1 table"));
    assert!(peak <= LIMIT);

    // The same in a file long enough to hold them all, as holes.
    fs::copy(&path, dir.path().join("long")).expect("room");
    let long = File::options()
        .write(true)
        .open(dir.path().join("long"))
        .expect("it is there");
    long.set_len(40 << 30).expect("a sparse file");
    own(&dir, &["map", "long"]);
    let (said, peak) = dir.own_measured(&["check", "long"]);
    assert!(said.code.is_some() && peak <= LIMIT, "{said:?}");
    own(&dir, &["info", "long"]);
}
