//! What `chain` and `check --backing-chain` show of images, their links, and what is wrong with
//! them.

use backchain_tests::Dir;
use insta::assert_snapshot;
use serde_json::Value;

/// A base with two overlays, and all that can be odd about the way they hang together.
fn odd() -> Dir {
    let dir = Dir::new();
    dir.qemu_ok(&["create", "-q", "-f", "raw", "base", "1M"]);
    let overlay = |backing: &str, label: &str, name: &str, size: &str| {
        let options = [
            "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", label, name, size,
        ];
        dir.qemu_ok(&options);
    };
    overlay("base", "raw", "mid", "2M");
    overlay("mid", "qcow2", "short", "1M");
    overlay("mid", "qcow2", "marked", "2M");
    overlay("gone", "qcow2", "orphan", "1M");
    dir.qemu_ok(&["snapshot", "-c", "one", "mid"]);
    dir.qemu_ok(&["snapshot", "-c", "two", "mid"]);
    dir.qemu_ok(&["bitmap", "--add", "short", "b0"]);
    // Dirty and corrupt, and an autoclear bit of the future.
    let mut bytes = dir.bytes()["marked"].clone();
    bytes[79] |= 3;
    bytes[88] |= 0x40;
    std::fs::write(dir.path().join("marked"), bytes).unwrap();
    dir
}

/// The drawing without the bytes on disk, which depend on the file system.
fn shape(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let parts = line.split(", ").filter(|part| !part.contains(" on disk"));
        let kept: Vec<_> = parts.collect();
        let tail = line.split(" on disk").nth(1).unwrap_or_default();
        let tail = tail.split_once("  [").map_or("", |(_, notes)| notes);
        let head = kept.join(", ");
        match (head.contains("  ["), tail) {
            (false, tail) if !tail.is_empty() => format!("{head}  [{tail}"),
            _ => head,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_tree_tells_what_is_odd() {
    let dir = odd();
    let drawn = dir.own_ok(&["chain", "."]);
    assert_snapshot!(shape(&drawn));
}

#[test]
fn json_has_the_same() {
    let dir = odd();
    let json: Value = serde_json::from_str(&dir.own_ok(&["chain", "--output=json", "."])).unwrap();
    let images = json["images"].as_array().unwrap();
    let lines: Vec<String> = images
        .iter()
        .map(|image| {
            format!(
                "{} {} {} snapshots={} bitmaps={} problems={} warnings={}",
                image["filename"].as_str().unwrap(),
                image["state"].as_str().unwrap(),
                image["virtual-size"],
                image["snapshots"],
                image["bitmaps"],
                image["problems"],
                image["warnings"],
            )
        })
        .collect();
    assert_snapshot!(lines.join("\n"));
}

/// Every layer is checked and every link looked at; the exit code is the worst of it.
#[test]
fn a_whole_chain_is_checked() {
    let dir = odd();
    let said = dir.own(&["check", "--backing-chain", "short"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_snapshot!(said.out);
    // A lost cluster in a middle layer.
    let mut bytes = dir.bytes()["mid"].clone();
    bytes[0x2_0000 + 2 * 50 + 1] = 1;
    bytes.resize(51 << 16, 0);
    std::fs::write(dir.path().join("mid"), bytes).unwrap();
    let said = dir.own(&["check", "--backing-chain", "short"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert_eq!(said.err, "Leaked cluster 50 refcount=1 reference=0\n");
    // A missing file is worse.
    std::fs::remove_file(dir.path().join("base")).unwrap();
    let said = dir.own(&["check", "--backing-chain", "--output=json", "short"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let json: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["images"][0]["leaks"], Value::Null);
    assert_eq!(json["images"][1]["leaks"], 1);
    assert_eq!(
        json["images"][1]["problems"][0],
        "file 'base' was not found"
    );
    // And a loop ends.
    dir.qemu_ok(&["rebase", "-u", "-b", "short", "-F", "qcow2", "mid"]);
    let said = dir.own(&["check", "--backing-chain", "-q", "short"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("loop"), "{said:?}");
}

/// Two users of one cluster are named.
#[test]
fn details_name_the_owners() {
    let dir = Dir::new();
    dir.qemu_ok(&["create", "-q", "-f", "qcow2", "i", "4M"]);
    let image = dir.path().join("i");
    let io = std::process::Command::new("qemu-io")
        .args(["-c", "write -q 0 128k"])
        .arg(&image)
        .status();
    assert!(io.unwrap().success());
    let mut bytes = std::fs::read(&image).unwrap();
    let entries = [(1, 0x8000_0000_0005_0000_u64), (5, 0x8000_0000_0003_0000)];
    for (index, entry) in entries {
        bytes[0x4_0000 + index * 8..][..8].copy_from_slice(&entry.to_be_bytes());
    }
    std::fs::write(&image, bytes).unwrap();
    let said = dir.own(&["check", "--details", "i"]);
    assert_eq!(said.code, Some(2));
    assert_snapshot!(said.err);
}
