//! Repairs of images that were damaged at random, whole and interrupted.

use backchain::chain::MapGate;
use backchain::check::{CheckReport, Finding, Fix, diagnose};
use backchain::image::{Image, Qcow2};
use backchain::{NodeId, Operation, Source, Tree};
use backchain_format::Format;
use backchain_testkit::case::{Files, engine_view};
use backchain_testkit::qemu;
use backchain_testkit::rng::Rng;
use backchain_testkit::sim::{self, Run, SimFile, crash_states};
use backchain_tests::damaged::{Random, damage, images};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const NAME: &str = "image";

fn files(bytes: Vec<u8>) -> Files {
    Files::from([(NAME.to_owned(), SimFile::new(bytes, true))])
}

fn open(files: &Files, mut tree: Tree) -> Tree {
    let source = |file: &SimFile| Arc::new(file.clone()) as Source;
    let gate = MapGate(files.iter().map(|(n, f)| (n.clone(), source(f))).collect());
    tree.add(&gate, NAME, Some(Format::Qcow2))
        .expect("the file is there");
    tree
}

/// The repair carried out; `None` when it is refused, or the image cannot be opened.
fn repair(files: &Files, fix: Fix) -> Option<Run> {
    let tree = open(files, Tree::for_check());
    let image = NodeId(0);
    tree.node(image).image.as_ref().ok()?;
    let plan = tree.plan(&Operation::Repair { image, fix }).ok()?;
    let info = plan.info.clone();
    Some(sim::run(files, &info, plan).unwrap_or_else(|violation| panic!("{}", violation.0)))
}

/// Whether L2 tables are where none can be, in which qemu-img empties entries all the same, which
/// is somebody's data; or something lies behind the end, where qemu-img puts new refcounts.
fn beyond_comparison(bytes: &[u8]) -> bool {
    let source = bytes.to_vec();
    let image = Qcow2::open_damaged(&source).expect("it was opened before");
    let mut found = false;
    let mut emit = |finding: &Finding| {
        found |= matches!(
            finding,
            Finding::L2TableMisaligned { .. } | Finding::PastEnd { .. }
        );
    };
    backchain::check::check(&source, &image, u64::MAX, &mut emit);
    found
}

fn check(bytes: &[u8]) -> CheckReport {
    let source = bytes.to_vec();
    let image = Qcow2::open_damaged(&source).expect("it was opened before");
    let diagnosis = diagnose(&source, &image, Fix::Nothing, 0, &mut |_| {});
    diagnosis.report
}

/// What a guest reads; `None` when some of it cannot be read.
fn content(files: &Files) -> Option<Vec<u8>> {
    let tree = open(files, Tree::new());
    engine_view(&tree, NodeId(0)).ok()
}

fn bytes(files: &Files) -> &[u8] {
    files[NAME].bytes()
}

/// (errors, corruptions, leaks) as qemu-img counts them; `None` when it gives up.
fn qemu_check(path: &Path, arguments: &[&str]) -> Option<(u64, u64, u64)> {
    let output = Command::new("qemu-img")
        .args(["check", "-f", "qcow2", "--output=json"])
        .args(arguments)
        .arg(path)
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let number = |key: &str| {
        json.get(key)
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0)
    };
    Some((
        number("check-errors"),
        number("corruptions"),
        number("leaks"),
    ))
}

fn counts(report: &CheckReport) -> (u64, u64, u64) {
    (report.check_errors, report.corruptions, report.leaks)
}

/// After a repair both tools find the same, never more than after qemu-img's own repair, and a
/// guest that could read its disk still reads the same.
#[test]
fn a_repair_is_as_good_as_that_of_qemu_img() {
    if !qemu::installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path());
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let (mut repaired, mut clean) = (0, 0);
    for round in 0..24 {
        for path in &images {
            let mut damaged = std::fs::read(path).unwrap();
            damage(&mut damaged, &mut random);
            let before = files(damaged.clone());
            let (fix, word) = if round % 3 == 0 {
                (Fix::Leaks, "leaks")
            } else {
                (Fix::All, "all")
            };
            let story = format!("round {round} of {}, {word}", path.display());
            let Some(run) = repair(&before, fix) else {
                continue;
            };
            repaired += 1;
            std::fs::write(&ours, bytes(&run.after)).unwrap();
            std::fs::write(&theirs, &damaged).unwrap();
            let own = check(bytes(&run.after));
            assert_eq!(Some(counts(&own)), qemu_check(&ours, &[]), "{story}");
            if own.is_clean() {
                clean += 1;
            }
            qemu_check(&theirs, &["-r", word]);
            // Of an image with bitmaps qemu-img forgets all snapshots.
            if !beyond_comparison(&damaged)
                && !path.ends_with("snapshots.qcow2")
                && let Some(left) = qemu_check(&theirs, &[])
            {
                assert!(
                    counts(&own) <= left,
                    "{story}: {own:?} is left, by qemu-img {left:?}"
                );
            }
            // Guest data that lies on metadata changes with it, whoever repairs.
            let guest = content(&before);
            if guest.is_some() && content(&run.after) != guest {
                let theirs = content(&files(std::fs::read(&theirs).unwrap()));
                assert!(theirs != guest, "{story}: qemu-img keeps the content");
            }
        }
    }
    assert!(
        repaired > 100 && clean > 50,
        "{repaired} repaired, {clean} clean"
    );
}

/// Interrupted anywhere, a repair is completed by planning it again: the same is found then, and
/// the guest reads the same.
#[test]
fn an_interrupted_repair_is_completed_by_another() {
    if !qemu::installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut rng = Rng::new(42);
    let mut states = 0;
    for path in images(dir.path()) {
        for round in 0..12 {
            let mut damaged = std::fs::read(&path).unwrap();
            damage(&mut damaged, &mut random);
            let before = files(damaged);
            let Some(run) = repair(&before, Fix::All) else {
                continue;
            };
            let whole = counts(&check(bytes(&run.after)));
            // Guest data that lies on metadata changes with it.
            let guest =
                content(&before).filter(|guest| content(&run.after).as_ref() == Some(guest));
            for state in crash_states(&run, 12, &mut rng) {
                let story = format!("round {round} of {}: {}", path.display(), state.story);
                states += 1;
                let again = repair(&state.files, Fix::All);
                let again = again.unwrap_or_else(|| panic!("{story}: refused"));
                if guest.is_some() {
                    assert!(content(&state.files) == guest, "{story}: content");
                    assert!(
                        content(&again.after) == guest,
                        "{story}: content in the end"
                    );
                }
                let left = counts(&check(bytes(&again.after)));
                assert_eq!(left, whole, "{story}");
            }
        }
    }
    assert!(states > 500, "only {states} states");
}

/// The image is of a kind that this test is about.
#[test]
fn what_is_sound_is_left_alone() {
    if !qemu::installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for path in images(dir.path()) {
        let before = files(std::fs::read(&path).unwrap());
        for fix in [Fix::Leaks, Fix::All] {
            let run = repair(&before, fix).expect("it is sound");
            assert!(run.log.is_empty(), "{}", path.display());
        }
        let tree = open(&before, Tree::new());
        assert!(matches!(tree.node(NodeId(0)).image, Ok(Image::Qcow2(_))));
    }
}
