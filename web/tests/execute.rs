//! The browser executor, against the engine's plans, on files of the origin-private file
//! system: what the guest reads afterwards is what it read before.
#![cfg(target_arch = "wasm32")]

use backchain::chain::Reader;
use backchain::{Source, Tree};
use backchain_web::protocol::{Access, Field, Granted, Kind, Operation, Progress};
use backchain_web::worker::execute::{Run, Stopped};
use backchain_web::worker::operation::{place, plan, sum};
use backchain_web::worker::private;
use backchain_web::worker::recipe;
use backchain_web::worker::session::Session;
use std::cell::Cell;
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_dedicated_worker);

async fn demo_session() -> Session {
    let folder = recipe::make(recipe::DEMO_FOLDER, recipe::DEMO)
        .await
        .unwrap();
    let mut session = Session::default();
    session
        .files
        .add_folder(0, recipe::DEMO_FOLDER.to_owned(), folder, true)
        .await
        .unwrap();
    session.open();
    session
}

fn layer(session: &Session, name: &str) -> u32 {
    let view = session.view();
    view.layers.iter().find(|l| l.name == name).unwrap().id
}

fn operation(session: &Session, kind: Kind, top: &str, base: Option<&str>) -> Operation {
    let base = base.map(|base| layer(session, base));
    Operation::new(kind, layer(session, top), base)
}

/// A sample of what the guest reads from `name`: one block at the start of each MiB.
fn guest(session: &Session, name: &str) -> Vec<u8> {
    let id = session.node(layer(session, name)).unwrap();
    let chain = session.tree.chain(id).unwrap();
    let mut reader = Reader::new(chain);
    let mut seen = Vec::new();
    for at in (0..256_u64).map(|mib| mib << 20) {
        let mut block = vec![0; 512];
        reader.read_at(at, &mut block).unwrap();
        seen.extend(block);
    }
    seen
}

async fn carry_out(
    session: &mut Session,
    operation: &Operation,
    stop: &Cell<bool>,
    report: &dyn Fn(Progress),
) -> Result<(), Stopped> {
    let plan = plan(session, operation).unwrap().unwrap();
    let total = sum(session, operation, &|| false, &|_| ())
        .await?
        .unwrap()
        .written();
    let mut run = Run::new(session, &[], stop, report, total);
    let place = place::destination(session, operation, None, &[]);
    if let Some(name) = operation.makes() {
        run = run.making(name, place.clone());
    }
    let mut ended = run.carry_out(plan).await;
    if let Ok(written) = &mut ended
        && let Some(handle) = written.made.take()
    {
        let origin = place::origin(session, operation, None, &place).unwrap();
        session.files.add_handle(origin, handle).await.unwrap();
    }
    session.files.refresh().await;
    session.open();
    ended.map(|_| ())
}

#[wasm_bindgen_test]
async fn what_stays_valid_reads_as_before() {
    for (kind, top, base, same) in [
        (
            Kind::Commit,
            "Snap-3.qcow2",
            Some("Snap-1.qcow2"),
            "Snap-4.qcow2",
        ),
        (Kind::Pull, "Snap-4.qcow2", None, "Snap-4.qcow2"),
        (
            Kind::Rebase,
            "Snap-3.qcow2",
            Some("Snap-1.qcow2"),
            "Snap-4.qcow2",
        ),
        (Kind::Remove, "Snap-2.qcow2", None, "Snap-4.qcow2"),
    ] {
        let mut session = demo_session().await;
        let before = guest(&session, same);
        let operation = operation(&session, kind, top, base);
        let seen = Cell::new(0.0);
        let report = |progress: Progress| {
            assert!(progress.done <= progress.total);
            seen.set(1.0);
        };
        carry_out(&mut session, &operation, &Cell::new(false), &report)
            .await
            .unwrap();
        assert!(guest(&session, same) == before, "{kind:?}");
        assert!(seen.get() > 0.0, "no progress was told");
    }
}

/// Snapshots, new files and changes to one image: the disk of the active layer stays what it is,
/// and what is made reads like what it was made of.
#[wasm_bindgen_test]
async fn every_other_kind_is_carried_out() {
    let top = "Snap-4.qcow2";
    let made = |kind, name: &str| (kind, vec![(Field::Name, name.to_owned())]);
    let named = |name: &str| vec![(Field::SnapshotName, name.to_owned())];
    let first = || vec![(Field::Snapshot, "1".to_owned())];
    let packed = vec![
        (Field::Name, "packed.qcow2".to_owned()),
        (Field::Compress, "zstd".to_owned()),
    ];
    let mut session = demo_session().await;
    let before = guest(&session, top);
    for (kind, entries) in [
        (Kind::Snapshot, named("one")),
        (Kind::Revert, first()),
        (Kind::DeleteSnapshot, first()),
        (Kind::Resize, vec![(Field::Size, "+1M".to_owned())]),
        (
            Kind::Amend,
            vec![(Field::Amendment, "refcount_bits=32".to_owned())],
        ),
        (Kind::Bitmap, vec![(Field::Bitmap, "b".to_owned())]),
        made(Kind::Overlay, "over.qcow2"),
        (Kind::Export, packed),
    ] {
        let mut operation = operation(&session, kind, top, None);
        operation.entries = entries;
        carry_out(&mut session, &operation, &Cell::new(false), &|_| ())
            .await
            .unwrap();
        assert!(guest(&session, top) == before, "{kind:?}");
        if let Some(name) = operation.makes() {
            assert!(guest(&session, name) == before, "{kind:?}");
        }
    }
}

/// A name that is taken, in the tree or in the folder, is never written over.
#[wasm_bindgen_test]
async fn what_is_there_is_not_written_over() {
    let mut session = demo_session().await;
    let make = |session: &Session, name: &str| {
        operation(session, Kind::Overlay, "Snap-4.qcow2", None).with(Field::Name, name)
    };
    let known = make(&session, "Snap-1.qcow2");
    assert!(plan(&session, &known).is_err());
    // Somebody else makes a file of that name meanwhile.
    let new = make(&session, "new.qcow2");
    private::scratch(recipe::DEMO_FOLDER, "new.qcow2")
        .await
        .unwrap();
    let ended = carry_out(&mut session, &new, &Cell::new(false), &|_| ()).await;
    assert!(
        matches!(&ended, Err(Stopped::Failed { why, .. }) if why.contains("already")),
        "{ended:?}"
    );
}

#[wasm_bindgen_test]
async fn a_stopped_run_changes_no_byte() {
    let mut session = demo_session().await;
    let all = |session: &Session| {
        let bytes = |source: &Source| {
            let mut bytes = vec![0; usize::try_from(source.len()).unwrap()];
            source.read_exact_at(0, &mut bytes).unwrap();
            bytes
        };
        let nodes = session.tree.nodes().iter();
        nodes
            .map(|node| (node.name.clone(), bytes(&node.source)))
            .collect::<Vec<_>>()
    };
    let before = all(&session);
    let commit = operation(
        &session,
        Kind::Commit,
        "Snap-4.qcow2",
        Some("RootBase.qcow2"),
    );
    let stop = Cell::new(false);
    // Stopped as soon as the run says anything.
    let stopped = carry_out(&mut session, &commit, &stop, &|_| stop.set(true)).await;
    assert!(matches!(stopped, Err(Stopped::Cancelled)), "{stopped:?}");
    assert!(all(&session) == before);
}

#[wasm_bindgen_test]
async fn only_granted_files_are_opened() {
    let session = demo_session().await;
    let entry = &session.files.0[usize::try_from(layer(&session, "Snap-1.qcow2")).unwrap()];
    let mut alone = Session::default();
    let granted = Granted {
        gift: 0,
        path: "Snap-1.qcow2".to_owned(),
        access: Access::File(entry.file.clone().into()),
    };
    alone.files.add(vec![granted]).await.unwrap();
    alone.open();
    let view = alone.view();
    assert_eq!(view.layers.len(), 1);
    assert_eq!(view.layers[0].state.name(), "missing");
    assert_eq!(view.layers[0].backing_name, "RootBase.qcow2");
    let tree: &Tree = &alone.tree;
    assert!(tree.chain(alone.node(0).unwrap()).is_err());
}
