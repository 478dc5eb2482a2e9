//! Trees and chains of hand-made images: links, loops, labels, and who decides about a range.

use backchain::chain::{Link, MapGate};
use backchain::format::bytes::{to_u64, to_usize};
use backchain::plan::CreateOptions;
use backchain::{ErrorKind, Format, Operation, Place, Source, Step, Tree};
use std::sync::Arc;

/// Carries out a plan that only makes one small file.
fn file_of(tree: &Tree, operation: &Operation) -> Vec<u8> {
    let mut file = Vec::new();
    for step in tree.plan(operation).unwrap() {
        match step.unwrap() {
            Step::SetLen { len, .. } => file.resize(to_usize(len), 0),
            Step::Write { dst, bytes, .. } => {
                let start = to_usize(dst.0);
                file.resize(file.len().max(start + bytes.len()), 0);
                file[start..start + bytes.len()].copy_from_slice(&bytes);
            }
            _ => {}
        }
    }
    file
}

fn overlay(size: u64, backing: Option<(&str, Option<Format>)>) -> Vec<u8> {
    let options = CreateOptions {
        size: Some(size),
        cluster_size: 512,
        backing_name: backing.map(|(name, _)| name.to_owned()),
        backing_format: backing.and_then(|(_, format)| format),
        ..CreateOptions::default()
    };
    let name = "new".to_owned();
    file_of(
        &Tree::new(),
        &Operation::Create {
            name,
            options,
            backing: None,
        },
    )
}

fn gate(files: Vec<(&str, Vec<u8>)>) -> MapGate {
    let source = |bytes: Vec<u8>| -> Source { Arc::new(bytes) };
    MapGate(
        files
            .into_iter()
            .map(|(n, b)| (n.to_owned(), source(b)))
            .collect(),
    )
}

const QCOW2: Option<Format> = Some(Format::Qcow2);
const RAW: Option<Format> = Some(Format::Raw);

#[test]
fn a_shorter_middle_layer_hides_what_is_below_its_end() {
    let gate = gate(vec![
        ("base", vec![7; 4096]),
        ("mid", overlay(1024, Some(("base", RAW)))),
        ("top", overlay(8192, Some(("mid", QCOW2)))),
    ]);
    let mut tree = Tree::new();
    let top = tree.add(&gate, "top", None).unwrap();
    let chain = tree.chain(top).unwrap();
    let found: Vec<_> = chain
        .extents(0)
        .unwrap()
        .map(Result::unwrap)
        .map(|e| (e.start, e.len, e.depth, e.place))
        .collect();
    let host = backchain::HostOffset(0);
    assert_eq!(
        found,
        [
            (0, 1024, Some(2), Place::Data { host }),
            (1024, 7168, Some(1), Place::BeyondEnd)
        ]
    );
}

#[test]
fn loops_are_found_and_named() {
    let gate = gate(vec![
        ("a", overlay(512, Some(("b", QCOW2)))),
        ("b", overlay(512, Some(("c", QCOW2)))),
        ("c", overlay(512, Some(("b", QCOW2)))),
        ("self", overlay(512, Some(("self", QCOW2)))),
    ]);
    let mut tree = Tree::new();
    let a = tree.add(&gate, "a", None).unwrap();
    let error = tree.chain(a).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Loop);
    assert!(error.message().contains("b -> c -> b"), "{error}");
    let own = tree.add(&gate, "self", None).unwrap();
    assert_eq!(tree.chain(own).unwrap_err().kind(), ErrorKind::Loop);
}

#[test]
fn a_missing_backing_file_leaves_the_overlay_in_the_tree() {
    let gate = gate(vec![("top", overlay(512, Some(("gone", QCOW2))))]);
    let mut tree = Tree::new();
    let top = tree.add(&gate, "top", None).unwrap();
    assert!(matches!(tree.link(top), Link::Broken(e) if e.kind() == ErrorKind::NotFound));
    assert_eq!(tree.chain(top).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_label_that_disagrees_with_the_content_is_never_written_through() {
    let gate = gate(vec![
        ("base", overlay(512, None)),
        ("top", overlay(512, Some(("base", RAW)))),
    ]);
    let mut tree = Tree::new();
    let top = tree.add(&gate, "top", None).unwrap();
    let base = tree.find("base").unwrap();
    assert_eq!(tree.wrong_label(base), Some((Format::Raw, Format::Qcow2)));
    let commit = Operation::Commit {
        top,
        base,
        relink: vec![],
        empty_top: false,
        bitmaps: false,
        allow_broken: false,
        allow_plaintext: false,
    };
    assert_eq!(
        tree.plan(&commit).err().unwrap().kind(),
        ErrorKind::WrongLabel
    );
}

#[test]
fn a_base_with_other_overlays_is_not_committed_into_by_default() {
    let gate = gate(vec![
        ("base", overlay(512, None)),
        ("top", overlay(512, Some(("base", QCOW2)))),
        ("sibling", overlay(512, Some(("base", QCOW2)))),
        ("child", overlay(512, Some(("sibling", QCOW2)))),
    ]);
    let mut tree = Tree::new();
    let top = tree.add(&gate, "top", None).unwrap();
    let child = tree.add(&gate, "child", None).unwrap();
    let base = tree.find("base").unwrap();
    let commit = |allow_broken| Operation::Commit {
        top,
        base,
        relink: vec![],
        empty_top: false,
        bitmaps: false,
        allow_broken,
        allow_plaintext: false,
    };
    let error = tree.plan(&commit(false)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Dependents);
    assert!(
        error.message().contains("sibling") && error.message().contains("child"),
        "{error}"
    );
    let plan = tree.plan(&commit(true)).unwrap();
    assert_eq!(plan.info.broken_dependents.len(), 2);
    assert!(plan.info.broken_dependents.contains(&child));

    // Images known to be invalid need no protection.
    tree.give_up(child);
    tree.give_up(tree.find("sibling").unwrap());
    assert_eq!(
        tree.plan(&commit(false)).unwrap().info.broken_dependents,
        []
    );
}

#[test]
fn a_rebase_onto_what_depends_on_the_overlay_is_a_loop() {
    let gate = gate(vec![
        ("base", overlay(512, None)),
        ("mid", overlay(512, Some(("base", QCOW2)))),
        ("top", overlay(512, Some(("mid", QCOW2)))),
    ]);
    let mut tree = Tree::new();
    let top = tree.add(&gate, "top", None).unwrap();
    let mid = tree.find("mid").unwrap();
    let safe = Operation::Rebase {
        overlay: mid,
        base: Some(top),
        name: None,
        format: None,
        compress: false,
    };
    let name = Some("top".to_owned());
    let relink = Operation::Relink {
        overlay: mid,
        name,
        format: QCOW2,
        base: Some(top),
    };
    for operation in [safe, relink] {
        assert_eq!(tree.plan(&operation).err().unwrap().kind(), ErrorKind::Loop);
    }
}

#[test]
fn a_new_image_is_as_large_as_its_tables_and_reads_as_nothing() {
    for bits in 9..=21 {
        for refcount_bits in [1, 16, 64] {
            let options = CreateOptions {
                size: Some(100 << 20),
                cluster_size: 1 << bits,
                refcount_bits,
                ..CreateOptions::default()
            };
            let create = Operation::Create {
                name: "new".into(),
                options,
                backing: None,
            };
            let file = file_of(&Tree::new(), &create);
            let len = to_u64(file.len());
            let gate = gate(vec![("new", file)]);
            let mut tree = Tree::new();
            let id = tree.add(&gate, "new", None).unwrap();
            let node = tree.node(id);
            assert_eq!(node.virtual_size(), 100 << 20);
            assert_eq!(len % (1 << bits), 0);
            let extents: Vec<_> = node.extents(0).unwrap().map(Result::unwrap).collect();
            assert_eq!(extents.len(), 1);
            assert_eq!(extents[0].place, Place::Unallocated);
        }
    }
}
