//! Images made by qemu-img, and random damage to their metadata.

use std::path::{Path, PathBuf};
use std::process::Command;

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(status.status.success(), "{program} {args:?}: {error}");
}

/// Images of every kind that matters to a check, each made by qemu-img.
///
/// # Panics
/// When qemu-img fails.
pub fn images(dir: &Path) -> Vec<PathBuf> {
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

/// The big-endian word at `at`.
///
/// # Panics
/// When there is none.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Small, fast, the same every time.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    ///
    /// # Panics
    /// On machines of 16 bits.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit
    }
}

/// Changes a few entries of tables, or cuts the end off.
///
/// # Panics
/// When the image is not one of [`images`].
pub fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
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
