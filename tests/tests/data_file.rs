//! External data files and names from strangers: what is not opened, and what is not written.

use backchain::plan::Operation;
use backchain::{Error, ErrorKind, NodeId, Tree};
use backchain_native::{FsGate, GateOptions};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs qemu-img in `dir`, where data files are looked for.
fn qemu_img(dir: &Path, args: &[&str]) {
    let mut command = Command::new("qemu-img");
    let output = command.current_dir(dir).args(args).output();
    let output = output.expect("qemu-img has to be installed");
    assert!(output.status.success(), "{args:?}: {output:?}");
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().expect("UTF-8").to_owned()
}

/// An image `name` whose data file is `data`, by its whole path.
fn image(dir: &Path, name: &str, data: &str) {
    let options = format!("data_file={}", path(dir, data));
    qemu_img(
        dir,
        &["create", "-q", "-fqcow2", "-o", &options, name, "1M"],
    );
}

fn open(dir: &Path, name: &str) -> (Tree, NodeId) {
    let mut tree = Tree::new();
    let id = tree.add(&FsGate::default(), &path(dir, name), None);
    (tree, id.expect("the file is there"))
}

fn why(tree: &Tree, id: NodeId) -> Error {
    tree.chain(id).expect_err("it cannot be read")
}

/// Writes another name of the same length over that of the data file.
fn rename_data(image: &Path, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    let mut bytes = fs::read(image).expect("the image");
    let at = bytes.windows(old.len()).position(|w| w == old.as_bytes());
    let at = at.expect("the name of the data file");
    bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    fs::write(image, bytes).expect("room");
}

#[test]
fn an_image_is_not_its_own_data_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    image(dir, "a.img", "x.img");
    rename_data(&dir.join("a.img"), &path(dir, "x.img"), &path(dir, "a.img"));
    let (tree, id) = open(dir, "a.img");
    assert_eq!(why(&tree, id).kind(), ErrorKind::Refused);
}

/// Its bytes would be read as guest data, and its metadata written over.
#[test]
fn an_image_of_the_chain_is_no_data_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    image(dir, "a.img", "x.img");
    let base = ["create", "-q", "-fqcow2", "-ba.img", "-Fqcow2", "b.img"];
    qemu_img(dir, &base);
    rename_data(&dir.join("a.img"), &path(dir, "x.img"), &path(dir, "b.img"));
    let (tree, id) = open(dir, "b.img");
    assert_eq!(why(&tree, id).kind(), ErrorKind::Refused);
}

#[test]
fn a_data_file_of_two_images_is_not_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    image(dir, "base.img", "x.data");
    image(dir, "other", "x.data");
    let top = [
        "create",
        "-q",
        "-fqcow2",
        "-bbase.img",
        "-Fqcow2",
        "top.img",
    ];
    qemu_img(dir, &top);
    let (mut tree, top) = open(dir, "top.img");
    let commit = |tree: &Tree| {
        let base = tree.backing(top).expect("its backing file");
        tree.plan(&Operation::Commit {
            top,
            base,
            relink: Vec::new(),
            empty_top: true,
            allow_broken: true,
            allow_plaintext: false,
            bitmaps: false,
        })
    };
    assert!(commit(&tree).is_ok());
    let gate = FsGate::default();
    let other = tree.add(&gate, &path(dir, "other"), None);
    other.expect("the file is there");
    let error = commit(&tree).err().expect("it is refused");
    assert_eq!(error.kind(), ErrorKind::Refused);
}

/// A guest can make its raw disk look like an image: what that names is not opened.
#[test]
fn the_data_file_of_a_file_that_only_looks_like_an_image_is_not_opened() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    image(dir, "disk.img", "x.data");
    let top = [
        "create",
        "-q",
        "-fqcow2",
        "-bdisk.img",
        "-Fqcow2",
        "top.img",
    ];
    qemu_img(dir, &top);
    // The label becomes an extension that nobody knows.
    let mut bytes = fs::read(dir.join("top.img")).expect("the overlay");
    let label = [0xe2, 0x79, 0x2a, 0xca];
    let at = bytes.windows(4).position(|w| w == label).expect("a label");
    bytes[at..at + 4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
    fs::write(dir.join("top.img"), bytes).expect("room");

    let (tree, id) = open(dir, "top.img");
    let error = why(&tree, id);
    assert_eq!(error.kind(), ErrorKind::NotGranted, "{error}");
    let names: Vec<_> = tree.nodes().iter().map(|n| n.file_name()).collect();
    assert_eq!(names, ["top.img", "disk.img"]);

    let mut tree = Tree::new();
    let gate = FsGate::new(GateOptions {
        trust_probed: true,
        ..GateOptions::default()
    });
    let id = tree.add(&gate, &path(dir, "top.img"), None);
    let id = id.expect("the file is there");
    assert!(tree.chain(id).is_ok());
}

/// Whatever a guest writes into its data file, nothing that stands there is followed.
#[test]
fn a_data_file_that_looks_like_an_image_is_raw() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    image(dir, "a.img", "x.data");
    let link = [
        "create",
        "-q",
        "-fqcow2",
        "-u",
        "-b/etc/passwd",
        "-Fraw",
        "inner",
        "1M",
    ];
    qemu_img(dir, &link);
    fs::copy(dir.join("inner"), dir.join("x.data")).expect("room");
    let (tree, id) = open(dir, "a.img");
    let chain = tree.chain(id).expect("readable");
    assert_eq!(chain.layers().len(), 1);
    assert_eq!(tree.nodes().len(), 2);
    let data = chain.top().data_node();
    assert!(data.image().expect("raw").as_qcow2().is_none());
}

/// Names are short in headers; longer ones, and nested ones, end with an error at once.
#[test]
fn hostile_names_end_with_an_error() {
    let gate = FsGate::default();
    let deep =
        |open: &str, close: &str| format!("json:{}1{}", open.repeat(50_000), close.repeat(50_000));
    for name in [
        deep("{\"file\":", "}"),
        deep("[", "]"),
        format!(
            "json:{{\"driver\":\"raw\",\"file.filename\":\"{}\"}}",
            "x".repeat(1 << 24)
        ),
        format!("json:{}", "'".repeat(10_000)),
        "json:{\"driver\":\"raw\",\"offset\":18446744073709551615,\"file.filename\":\"/dev/null\"}"
            .to_owned(),
        "json:{\"driver\":\"raw\",\"file.filename\":\"a\\u0000b\"}".to_owned(),
        "a\0b".to_owned(),
    ] {
        assert!(Tree::new().add(&gate, &name, None).is_err());
    }
}

/// A disk of zeros of any size is planned and read without a byte in memory.
#[test]
fn endless_zeros_are_read() {
    let gate = FsGate::default();
    let name = "json:{\"driver\":\"null-co\",\"size\":\"8E\"}";
    assert!(
        Tree::new()
            .add(
                &gate,
                "json:{\"driver\":\"null-co\",\"size\":\"16E\"}",
                None
            )
            .is_err()
    );
    let mut tree = Tree::new();
    let id = tree.add(&gate, name, None).expect("zeros");
    let chain = tree.chain(id).expect("readable");
    assert_eq!(chain.extents(0).expect("extents").count(), 1);
}
