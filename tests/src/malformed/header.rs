//! Headers and header extensions.

use super::sound::{CLUSTER, EXTENSIONS, L1, Patch, SNAPSHOTS, Sound, sound};
use super::{Case, Content};

pub(super) fn cases() -> Vec<Case> {
    let v3 = |name: &str, change: fn(&mut Vec<u8>)| damaged(name, Sound::default(), change);
    let v2 = |name: &str, change: fn(&mut Vec<u8>)| {
        let has = Sound {
            v2: true,
            ..Sound::default()
        };
        damaged(name, has, change)
    };
    let snapshot = |name: &str, change: fn(&mut Vec<u8>)| {
        let has = Sound {
            snapshot: true,
            ..Sound::default()
        };
        damaged(name, has, change)
    };
    let backed = |name: &str, change: fn(&mut Vec<u8>)| {
        let has = Sound {
            backing: Some("base.qcow2"),
            ..Sound::default()
        };
        damaged(name, has, change).with("base.qcow2", sound(Sound::default()))
    };
    let mut list = vec![
        v3("version-0", |b| b.put32(4, 0)),
        v3("version-1", |b| b.put32(4, 1)),
        v3("version-4", |b| b.put32(4, 4)),
        v3("version-max", |b| b.put32(4, u32::MAX)),
        v3("cluster-bits-0", |b| b.put32(20, 0)),
        v3("cluster-bits-8", |b| b.put32(20, 8)),
        v3("cluster-bits-22", |b| b.put32(20, 22)),
        v3("cluster-bits-64", |b| b.put32(20, 64)),
        v3("cluster-bits-max", |b| b.put32(20, u32::MAX)),
        v3("cluster-bits-wrong", |b| b.put32(20, 9)),
        v3("size-max", |b| b.put64(24, u64::MAX)),
        v3("size-2-63", |b| b.put64(24, 1 << 63)),
        v3("size-0", |b| b.put64(24, 0)),
        v3("crypt-unknown", |b| b.put32(32, 77)),
        v3("crypt-aes", |b| b.put32(32, 1)),
        v3("crypt-luks-without-header", |b| b.put32(32, 2)),
        v3("l1-entries-0", |b| b.put32(36, 0)),
        v3("l1-entries-1", |b| b.put32(36, 1)),
        v3("l1-entries-past-end", |b| b.put32(36, 1 << 20)),
        v3("l1-entries-limit", |b| b.put32(36, 1 << 22)),
        v3("l1-entries-max", |b| b.put32(36, u32::MAX)),
        v3("l1-at-0", |b| b.put64(40, 0)),
        v3("l1-misaligned", |b| b.put64(40, 3 * 4096 + 8)),
        v3("l1-past-end", |b| b.put64(40, 1 << 40)),
        v3("l1-offset-max", |b| b.put64(40, !0xfff)),
        v3("refcount-table-at-0", |b| b.put64(48, 0)),
        v3("refcount-table-misaligned", |b| b.put64(48, 4097)),
        v3("refcount-table-past-end", |b| b.put64(48, 1 << 50)),
        v3("refcount-table-is-l1", |b| b.put64(48, 3 * 4096)),
        v3("refcount-table-0-clusters", |b| b.put32(56, 0)),
        v3("refcount-table-limit", |b| b.put32(56, 2048)),
        v3("refcount-table-max", |b| b.put32(56, u32::MAX)),
        v3("refcount-order-7", |b| b.put32(96, 7)),
        v3("refcount-order-max", |b| b.put32(96, u32::MAX)),
        v3("refcount-order-0", |b| b.put32(96, 0)),
        v3("header-length-0", |b| b.put32(100, 0)),
        v3("header-length-odd", |b| b.put32(100, 105)),
        v3("header-length-past-cluster", |b| b.put32(100, 8192)),
        v3("header-length-max", |b| b.put32(100, u32::MAX)),
        v3("feature-unknown", |b| b.put64(72, 1 << 41)),
        v3("feature-all", |b| b.put64(72, u64::MAX)),
        v3("feature-corrupt", |b| b.put64(72, 2)),
        v3("feature-dirty", |b| b.put64(72, 1)),
        v3("feature-data-file", |b| b.put64(72, 4)),
        v3("feature-extended-l2-small-clusters", |b| {
            b.put64(72, 1 << 4)
        }),
        v3("compression-unknown", |b| {
            b.put64(72, 1 << 3);
            b[104] = 9;
        }),
        v3("compression-without-bit", |b| b[104] = 1),
        v3("extension-past-cluster", |b| {
            b.put32(EXTENSIONS, 0x1234_5678);
            b.put32(EXTENSIONS + 4, 1 << 20);
        }),
        v3("extension-length-max", |b| {
            b.put32(EXTENSIONS, 0x1234_5678);
            b.put32(EXTENSIONS + 4, u32::MAX);
        }),
        v3("extensions-without-end", |b| {
            for at in (EXTENSIONS..CLUSTER - 8).step_by(8) {
                b.put32(at, 0x1234_5678);
            }
        }),
        v3("backing-format-too-long", |b| {
            b.put32(EXTENSIONS, 0xe279_2aca);
            b.put32(EXTENSIONS + 4, 1000);
        }),
        v3("data-file-extension-only", |b| {
            b.put32(EXTENSIONS, 0x4441_5441);
            b.put32(EXTENSIONS + 4, 4);
            b.put(EXTENSIONS + 8, b"file");
        }),
        v3("crypto-extension-garbage", |b| {
            b.put32(EXTENSIONS, 0x0537_be77);
            b.put32(EXTENSIONS + 4, 16);
            b.put64(EXTENSIONS + 8, u64::MAX);
            b.put64(EXTENSIONS + 16, u64::MAX);
        }),
        v2("v2-with-v3-fields", |b| b.put64(72, u64::MAX)),
        v2("v2-zero-flag", |b| b.put64(super::sound::L2, 1)),
        v2("v2-with-snapshots-past-end", |b| {
            b.put32(60, 3);
            b.put64(64, 1 << 30);
        }),
        v2("v2-l1-garbage", |b| b.put64(L1, u64::MAX)),
        snapshot("snapshots-max", |b| b.put32(60, u32::MAX)),
        snapshot("snapshots-65536", |b| b.put32(60, 65536)),
        snapshot("snapshot-table-misaligned", |b| b.put64(64, 9 * 4096 + 1)),
        snapshot("snapshot-table-past-end", |b| b.put64(64, 1 << 45)),
        snapshot("snapshot-table-at-0", |b| b.put64(64, 0)),
        snapshot("snapshot-garbage", |b| {
            b[SNAPSHOTS..SNAPSHOTS + CLUSTER].fill(0xff);
        }),
        snapshot("snapshot-extra-max", |b| b.put32(SNAPSHOTS + 36, u32::MAX)),
        snapshot("snapshot-names-past-end", |b| {
            b.put32(SNAPSHOTS + 12, u32::MAX)
        }),
        snapshot("snapshot-l1-max", |b| b.put32(SNAPSHOTS + 8, u32::MAX)),
        snapshot("snapshot-l1-misaligned", |b| b.put64(SNAPSHOTS, 12345)),
        snapshot("snapshot-l1-past-end", |b| b.put64(SNAPSHOTS, 1 << 44)),
        snapshot("snapshot-l1-is-active", |b| b.put64(SNAPSHOTS, 3 * 4096)),
        snapshot("snapshot-name-not-utf8", |b| {
            b.put(SNAPSHOTS + 56, b"\xff\xfe\n\x1b\0")
        }),
        backed("backing-name-past-cluster", |b| b.put64(8, 4090)),
        backed("backing-name-too-long", |b| b.put32(16, 2000)),
        backed("backing-name-length-max", |b| b.put32(16, u32::MAX)),
        backed("backing-name-offset-max", |b| b.put64(8, u64::MAX)),
        backed("backing-name-over-header", |b| b.put64(8, 4)),
        backed("backing-name-with-nul", |b| b.put(1026, b"\0")),
        backed("backing-name-not-utf8", |b| b.put(1024, b"\xff\xfe\xfd")),
        backed("backing-name-with-newline", |b| {
            b.put(1024, b"a\n\x1b[31mb")
        }),
        backed("backing-format-unknown", |b| {
            b.put(EXTENSIONS + 8, b"vmdk!")
        }),
        backed("backing-format-not-utf8", |b| {
            b.put(EXTENSIONS + 8, b"\xff\xff\xff\xff\xff")
        }),
        backed("backing-is-protocol", |b| b.put(1024, b"nbd://1.2.")),
        backed("backing-is-json", |b| b.put(1024, b"json:{\"a\":")),
    ];
    // Many entries that really are there: a table as large as its limit, in a hole.
    let mut bytes = sound(Sound::default());
    bytes.put64(40, 1 << 30);
    bytes.put32(36, 1 << 22);
    let sparse = Content {
        len: Some((1 << 30) + (32 << 20)),
        ..bytes.into()
    };
    list.push(Case::new("l1-limit-in-a-hole", sparse));
    let mut bytes = sound(Sound::default());
    bytes.put64(48, 1 << 30);
    bytes.put32(56, 2048);
    let sparse = Content {
        len: Some((1 << 30) + (8 << 20)),
        ..bytes.into()
    };
    list.push(Case::new("refcount-table-limit-in-a-hole", sparse));
    list
}

pub(super) fn damaged(name: &str, has: Sound, change: fn(&mut Vec<u8>)) -> Case {
    let mut bytes = sound(has);
    change(&mut bytes);
    Case::new(name, bytes)
}
