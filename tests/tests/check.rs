//! The check against `qemu-img check`: same image, same counts.

use backchain::check::{CheckReport, Fix, Refcounts, Told, diagnose};
use backchain::image::Qcow2;
use backchain_testkit::qemu;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(status.status.success(), "{program} {args:?}: {error}");
}

/// Images of every kind that matters to a check, each made by qemu-img.
fn images(dir: &Path) -> Vec<PathBuf> {
    let kinds: [(&str, &str, &str); 7] = [
        ("plain", "cluster_size=64k", "16M"),
        ("v2", "compat=0.10", "16M"),
        ("small", "cluster_size=512,refcount_bits=8", "4M"),
        ("wide", "cluster_size=4k,refcount_bits=64", "8M"),
        ("bit", "refcount_bits=1", "16M"),
        ("extended", "extended_l2=on,cluster_size=64k", "16M"),
        ("snapshots", "cluster_size=64k", "16M"),
    ];
    let mut list = Vec::new();
    for (name, options, size) in kinds {
        let path = dir.join(format!("{name}.qcow2"));
        let file = path.to_str().unwrap().to_owned();
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", options, &file, size],
        );
        let write = |commands: &[&str]| {
            let mut args = vec!["-f", "qcow2"];
            commands.iter().for_each(|c| args.extend(["-c", c]));
            args.push(&file);
            run("qemu-io", &args);
        };
        write(&["write -P 1 0 256k", "write -P 2 1M 70k", "write -P 3 3M 2k"]);
        if name != "v2" {
            write(&["write -z 2M 128k", "write -z 64k 64k"]);
        }
        if name == "snapshots" {
            run("qemu-img", &["snapshot", "-c", "one", &file]);
            write(&["write -P 4 0 64k"]);
            run("qemu-img", &["snapshot", "-c", "two", &file]);
            run("qemu-img", &["bitmap", "--add", &file, "bitmap"]);
            write(&["write -P 5 5M 64k"]);
        }
        list.push(path);
    }
    let raw = dir.join("data.raw");
    let text: Vec<u8> = (0..1_500_000u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect();
    std::fs::write(&raw, text).unwrap();
    let packed = dir.join("compressed.qcow2");
    let (raw, file) = (raw.to_str().unwrap(), packed.to_str().unwrap());
    run(
        "qemu-img",
        &["convert", "-c", "-f", "raw", "-O", "qcow2", raw, file],
    );
    list.push(packed);
    list
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Small, fast, the same every time.
struct Random(u64);
impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit
    }
}

/// Changes a few entries of tables, or cuts the end off.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let offset = |n: u64| usize::try_from(n & 0x00ff_ffff_ffff_fe00).unwrap();
    let bits = bytes[23];
    let (l1, table) = (offset(word(bytes, 40)), offset(word(bytes, 48)));
    let l2 = offset(word(bytes, l1));
    let areas = [
        (l1, 16),
        (table, 32),
        (l2, 64),
        (l2, 512),
        (l2, 64),
        (offset(word(bytes, table)), 64),
    ];
    for _ in 0..=random.below(4) {
        let (start, len) = areas[random.below(areas.len())];
        let at = start + random.below(len);
        if at + 8 > bytes.len() {
            continue;
        }
        let clusters = bytes.len() >> bits;
        let value = (random.below(clusters) as u64) << bits;
        let value = match random.below(8) {
            0 => {
                bytes[at] ^= 1 << random.below(8);
                continue;
            }
            1 => {
                bytes[at] = u8::try_from(random.below(256)).unwrap();
                continue;
            }
            2 => value + 512,
            3 => value | 1 << 63,
            4 => value | 1 << 62,
            5 => value | 3 << 62,
            6 => value | 1,
            _ => value,
        };
        bytes[at & !7..][..8].copy_from_slice(&value.to_be_bytes());
    }
    if random.below(10) == 0 {
        let len = bytes.len();
        bytes.truncate(len / 2 + random.below(len / 2));
    }
}

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
