//! Recipes become chains: trees, raw bases, texts, snapshots, broken links.
#![cfg(target_arch = "wasm32")]

use backchain::chain::Reader;
use backchain::image::SnapshotQuery;
use backchain::{Chain, Place};
use backchain_web::worker::recipe;
use backchain_web::worker::session::Session;
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_dedicated_worker);

const FOLDER: &str = "recipe-test";

async fn made(recipe: &str) -> Session {
    let folder = recipe::make(FOLDER, recipe).await.unwrap();
    let mut session = Session::default();
    session
        .files
        .add_folder(0, FOLDER.to_owned(), folder, true)
        .await
        .unwrap();
    session.open();
    session
}

/// Each layer with its backing file and its state.
fn drawn(session: &Session) -> Vec<String> {
    let mut drawn: Vec<String> = session
        .view()
        .layers
        .iter()
        .map(|l| format!("{} < {} {}", l.name, l.backing_name, l.state.name()))
        .collect();
    drawn.sort();
    drawn
}

fn chain(session: &Session, name: &str) -> Chain {
    let view = session.view();
    let layer = view.layers.iter().find(|l| l.name == name).unwrap();
    session.tree.chain(session.node(layer.id).unwrap()).unwrap()
}

fn read(chain: Chain, at: u64) -> String {
    let mut buf = [0; 4];
    Reader::new(chain).read_at(at, &mut buf).unwrap();
    String::from_utf8_lossy(&buf).into_owned()
}

#[wasm_bindgen_test]
async fn a_tree_on_a_raw_base_reads_what_its_guests_wrote() {
    let session = made(
        "RootBase 8M raw: 0+1M=41 2M\"base\"
         Overlay-1 < RootBase: 2M\"one.\" 512K+256K=00
         Overlay-1A < Overlay-1 12M: 10M\"long\"
         Overlay-2 < RootBase: 3M\"two.\"",
    )
    .await;
    assert_eq!(
        drawn(&session),
        [
            "Overlay-1.qcow2 < RootBase.img ok",
            "Overlay-1A.qcow2 < Overlay-1.qcow2 ok",
            "Overlay-2.qcow2 < RootBase.img ok",
            "RootBase.img <  ok",
        ]
    );
    for (name, at, expected) in [
        ("RootBase.img", 0, "AAAA"),
        ("RootBase.img", 2 << 20, "base"),
        ("Overlay-1A.qcow2", 2 << 20, "one."),
        ("Overlay-1A.qcow2", 512 << 10, "\0\0\0\0"),
        ("Overlay-1A.qcow2", 256 << 10, "AAAA"),
        ("Overlay-1A.qcow2", 10 << 20, "long"),
        ("Overlay-2.qcow2", 2 << 20, "base"),
        ("Overlay-2.qcow2", 3 << 20, "two."),
    ] {
        assert_eq!(read(chain(&session, name), at), expected, "{name} at {at}");
    }
    // A layer holds what its own guest wrote, and nothing else.
    let two = chain(&session, "Overlay-2.qcow2");
    let own: u64 = two
        .top()
        .extents(0)
        .unwrap()
        .map(Result::unwrap)
        .filter(|extent| matches!(extent.place, Place::Data { .. }))
        .map(|extent| extent.len)
        .sum();
    assert_eq!(own, 64 << 10);
}

#[wasm_bindgen_test]
async fn a_snapshot_keeps_what_is_written_over_later() {
    let session = made(
        "Base 8M: 0+1M=41
         Disk < Base: 2M\"old.\"
         snapshot Disk monday
         write Disk: 2M\"new.\" 3M\"more\"",
    )
    .await;
    assert_eq!(
        drawn(&session),
        ["Base.qcow2 <  ok", "Disk.qcow2 < Base.qcow2 ok"]
    );
    let now = chain(&session, "Disk.qcow2");
    let monday = SnapshotQuery::Name("monday".to_owned());
    let then = session.tree.chain_at(now.top().id, &monday).unwrap();
    assert_eq!(read(now.clone(), 2 << 20), "new.");
    assert_eq!(read(now.clone(), 3 << 20), "more");
    assert_eq!(read(now, 0), "AAAA");
    assert_eq!(read(then.clone(), 2 << 20), "old.");
    assert_eq!(read(then, 3 << 20), "\0\0\0\0");
}

#[wasm_bindgen_test]
async fn chains_can_be_broken_on_purpose() {
    let lost = made("Base 8M: 0+1M=41\nTop < Base: 0\"x\"\nforget Base").await;
    assert_eq!(drawn(&lost), ["Top.qcow2 < Base.qcow2 missing"]);
    let circle = made("A 8M: 0\"a\"\nB < A: 0\"b\"\nC < B: 0\"c\"\nlink A C").await;
    assert_eq!(
        drawn(&circle),
        [
            "A.qcow2 < C.qcow2 loop",
            "B.qcow2 < A.qcow2 loop",
            "C.qcow2 < B.qcow2 loop",
        ]
    );
}

#[wasm_bindgen_test]
async fn what_cannot_be_made_is_said() {
    let refused = recipe::make(FOLDER, "Top < Base: 0\"x\"").await;
    assert!(refused.is_err());
}
