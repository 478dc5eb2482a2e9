//! The check against `qemu-img check`: same image, same counts.

use backchain::check::{CheckReport, Fix, Refcounts, Told, diagnose};
use backchain::image::Qcow2;
use backchain_testkit::qemu;
use backchain_tests::damaged::{Random, damage, images, word};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The counts and the lines of `qemu-img check`; `None` when it does not open the image.
fn qemu_check(path: &Path) -> Option<(CheckReport, BTreeSet<String>)> {
    let args = [
        "check",
        "-f",
        "qcow2",
        "--output=json",
        path.to_str().unwrap(),
    ];
    let output = Command::new("qemu-img").args(args).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let number = |key: &str| {
        json.get(key)
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0)
    };
    let report = CheckReport {
        image_end_offset: number("image-end-offset"),
        total_clusters: number("total-clusters"),
        allocated_clusters: number("allocated-clusters"),
        fragmented_clusters: number("fragmented-clusters"),
        compressed_clusters: number("compressed-clusters"),
        corruptions: number("corruptions"),
        leaks: number("leaks"),
        check_errors: number("check-errors"),
        ..CheckReport::default()
    };
    let lines = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| !line.starts_with("qemu"))
        .map(str::to_owned)
        .collect();
    Some((report, lines))
}

fn own_check(path: &Path) -> Option<(CheckReport, BTreeSet<String>)> {
    let source = std::fs::read(path).unwrap();
    let image = Qcow2::open(&source).ok()?;
    let mut lines = BTreeSet::new();
    let mut emit = |told: Told<'_>| lines.extend(told.to_string().lines().map(str::to_owned));
    let report = diagnose(&source, &image, Fix::Nothing, u64::MAX, &mut emit).report;
    Some((report, lines))
}

/// Damaged at random, an image is counted exactly as qemu-img counts it, and every finding has
/// qemu-img's words. This covers what no list of cases would: findings that lead to others.
#[test]
fn damaged_images_are_counted_as_qemu_img_counts_them() {
    if !qemu::installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let damaged = dir.path().join("damaged.qcow2");
    let mut compared = 0;
    for round in 0..16 {
        for path in &images {
            let mut bytes = std::fs::read(path).unwrap();
            if round > 0 {
                damage(&mut bytes, &mut random);
            }
            std::fs::write(&damaged, &bytes).unwrap();
            // Either may refuse to open what the other opens: not a matter of checking.
            let (Some(theirs), Some(ours)) = (qemu_check(&damaged), own_check(&damaged)) else {
                assert!(round > 0, "{} was not opened", path.display());
                continue;
            };
            assert_eq!(ours, theirs, "round {round} of {}", path.display());
            assert!(round > 0 || ours.0.is_clean(), "{}", path.display());
            compared += 1;
        }
    }
    assert!(compared > 90, "only {compared} images were compared");
}

/// The true refcounts of a sound image are the stored ones: what qemu-img repairs with them.
#[test]
fn computed_refcounts_do_not_depend_on_the_stored_ones() {
    if !qemu::installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for path in images(dir.path()) {
        let refcounts = |bytes: &Vec<u8>| {
            let image = Qcow2::open(bytes).unwrap();
            let mut list = Vec::new();
            Refcounts::compute(bytes, &image, &mut |range, counts| {
                for cluster in range {
                    list.push(counts.get(cluster)?);
                }
                Ok(())
            })
            .unwrap();
            list
        };
        let mut bytes = std::fs::read(&path).unwrap();
        let before = refcounts(&bytes);
        let cluster = 1usize << bytes[23];
        assert_eq!(before.len(), bytes.len().div_ceil(cluster));
        let table = usize::try_from(word(&bytes, 48)).unwrap();
        let block = usize::try_from(word(&bytes, table)).unwrap();
        bytes[block..block + cluster].fill(0);
        assert_eq!(refcounts(&bytes), before, "{}", path.display());
    }
}
