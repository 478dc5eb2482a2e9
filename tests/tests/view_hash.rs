//! A hash of a guest view depends on what the guest sees and on nothing else, and is the one
//! that other programs come to.

use backchain::plan::{CreateOptions, Operation, Preview};
use backchain::view_hash::{BLOCK, Digest, Over, ViewHash};
use backchain::{Chain, Format, ReadAt, Source};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_testkit::build::TreeSpec;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, id};
use backchain_testkit::rng::Rng;
use backchain_testkit::{cases, qemu};
use proptest::prelude::*;
use std::sync::Arc;

fn fail(error: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

/// Hashes in turns of any length.
fn hash(chain: &Chain, len: Option<u64>, over: Over, rng: &mut Rng) -> Digest {
    let mut hash = ViewHash::new(chain, len, over).unwrap();
    while hash.advance(rng.below(300_000)).unwrap() {
        assert!(hash.done() < hash.total());
    }
    assert_eq!(hash.done(), hash.total());
    hash.digest()
}

/// What [`Over::Data`] says, in the plainest terms.
fn data_hash(view: &[u8]) -> Digest {
    let mut hasher =
        blake3::Hasher::new_derive_key("backchain 2026-11 guest view: blocks that are not zero");
    for (number, block) in view.chunks(to_usize(BLOCK)).enumerate() {
        if block.iter().any(|b| *b != 0) {
            let mut block = block.to_vec();
            block.resize(to_usize(BLOCK), 0);
            hasher.update(&to_u64(number).to_le_bytes()).update(&block);
        }
    }
    hasher.update(&to_u64(view.len()).to_le_bytes());
    Digest(*hasher.finalize().as_bytes())
}

fn bytes_hash(view: &[u8]) -> Digest {
    Digest(*blake3::hash(view).as_bytes())
}

/// The views of a tree are hashed as the model's bytes; a part of one, or more than there is,
/// as that many bytes.
fn told(spec: &TreeSpec, seed: u64) -> Result<(), TestCaseError> {
    let case = Case::build(spec);
    let opened = case.open();
    let mut rng = Rng::new(seed);
    for number in 0..case.nodes.len() {
        let mut view = case.view(number);
        let chain = opened.chain(id(number)).map_err(fail)?;
        prop_assert_eq!(hash(&chain, None, Over::Bytes, &mut rng), bytes_hash(&view));
        prop_assert_eq!(hash(&chain, None, Over::Data, &mut rng), data_hash(&view));
        let len = rng.below(2 * to_u64(view.len()) + 1);
        view.resize(to_usize(len), 0);
        prop_assert_eq!(
            hash(&chain, Some(len), Over::Bytes, &mut rng),
            bytes_hash(&view)
        );
        prop_assert_eq!(
            hash(&chain, Some(len), Over::Data, &mut rng),
            data_hash(&view)
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn a_view_has_the_hash_of_its_bytes(spec in tree(Limits::SMALL), seed: u64) {
        told(&spec, seed)?;
    }
}

/// A tebibyte with a little data at both ends is hashed by its data in no time.
#[test]
fn large_disks_cost_what_they_hold() {
    struct Ends;
    const TIB: u64 = 1 << 40;
    impl ReadAt for Ends {
        fn len(&self) -> u64 {
            TIB
        }
        fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
            assert!(!(8192..TIB - 8192).contains(&offset), "only data is read");
            buf.fill(7);
            Ok(())
        }
        fn data_at(&self, offset: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
            Ok(match offset {
                0..8192 => Some(offset..8192),
                _ => Some(offset.max(TIB - 8192)..TIB),
            })
        }
    }
    let gate = backchain::chain::MapGate([("raw".to_owned(), Arc::new(Ends) as Source)].into());
    let mut tree = backchain::Tree::new();
    let top = tree.add(&gate, "raw", Some(Format::Raw)).unwrap();
    let chain = tree.chain(top).unwrap();
    let mut hash = ViewHash::new(&chain, None, Over::Data).unwrap();
    let mut turns = 0;
    while hash.advance(4096).unwrap() {
        turns += 1;
    }
    assert!(turns < 10, "{turns}");
}

/// `qemu-img convert -O raw` writes the bytes that are hashed.
#[test]
fn qemu_img_comes_to_the_same() {
    if !qemu::installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (base, top, raw) = (path("base.qcow2"), path("top.qcow2"), path("flat.raw"));
    let run = |program: &str, args: &[&str]| {
        let done = std::process::Command::new(program)
            .args(args)
            .output()
            .unwrap();
        assert!(done.status.success(), "{program} {args:?}: {done:?}");
    };
    run("qemu-img", &["create", "-q", "-f", "qcow2", &base, "40M"]);
    run(
        "qemu-io",
        &["-c", "write -P 3 1M 3M", "-c", "write -z 2M 64k", &base],
    );
    run(
        "qemu-img",
        &[
            "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &top, "45M",
        ],
    );
    run(
        "qemu-io",
        &["-c", "write -P 4 12345 70000", "-c", "write -z 3M 1M", &top],
    );
    run("qemu-img", &["convert", "-O", "raw", &top, &raw]);
    let gate = backchain_native::FsGate::new(backchain_native::GateOptions::default());
    let mut tree = backchain::Tree::new();
    let top = tree.add(&gate, &top, None).unwrap();
    let chain = tree.chain(top).unwrap();
    let digest = ViewHash::new(&chain, None, Over::Bytes)
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(digest, bytes_hash(&std::fs::read(&raw).unwrap()));
    assert_eq!(digest.to_string().len(), 64);
    let plan = tree
        .plan(&Operation::flatten(top, "x", CreateOptions::default()))
        .unwrap();
    assert!(Preview::of(plan).unwrap().copied > 0, "there was data");
}
