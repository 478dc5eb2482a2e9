//! Compressed clusters and subclusters.

use super::Case;
use super::header::damaged;
use super::sound::{CLUSTER, COMPRESSED, COPIED, DATA, L2, PACKED, Patch, Sound, packed, sound};

pub(super) fn cases() -> Vec<Case> {
    let v3 = |name: &str, change: fn(&mut Vec<u8>)| damaged(name, Sound::default(), change);
    let mut list = vec![
        v3("compressed-zeros", |b| b[PACKED..][..CLUSTER].fill(0)),
        v3("compressed-ones", |b| b[PACKED..][..CLUSTER].fill(0xff)),
        v3("compressed-second-half-garbage", |b| {
            b[PACKED + 10..][..500].fill(0xa5)
        }),
        v3("compressed-points-at-data", |b| {
            b.put64(L2 + 24, packed(DATA))
        }),
        v3("compressed-points-at-l2", |b| b.put64(L2 + 24, packed(L2))),
        v3("compressed-at-0", |b| b.put64(L2 + 24, COMPRESSED)),
        v3("compressed-past-end", |b| {
            b.put64(L2 + 24, COMPRESSED | 1 << 50)
        }),
        v3("compressed-over-the-end", |b| {
            b.put64(L2 + 24, packed(13 * CLUSTER - 10) | 15 << 58);
        }),
        v3("compressed-copied", |b| {
            b.put64(L2 + 24, packed(PACKED) | COPIED)
        }),
        v3("compressed-all-ones", |b| b.put64(L2 + 24, u64::MAX)),
        v3("compressed-too-short", |b| {
            // A valid stream of one stored byte.
            b.put(PACKED, &[1, 1, 0, 0xfe, 0xff, 0x55]);
        }),
        v3("compressed-stored-length-wrong", |b| {
            b.put(PACKED, &[1, 0xff, 0x0f, 0, 0])
        }),
    ];
    let zstd = Sound {
        zstd: true,
        ..Sound::default()
    };
    list.push(damaged("zstd-garbage", zstd, |_| {}));
    list.push(damaged("zstd-bad-frame", zstd, |b| {
        // The magic, a window of the largest size, and a block that never ends.
        b.put(PACKED, &[0x28, 0xb5, 0x2f, 0xfd, 0, 0xff, 0xff, 0xff, 0xff]);
    }));
    list.push(damaged("zstd-frame-of-rle", zstd, |b| {
        // One block that repeats a byte 2 MiB times.
        b.put(
            PACKED,
            &[0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 0x03, 0, 0x10, 0x41],
        );
    }));
    let extended = |name: &str, at: usize, first: u64, bitmap: u64| {
        Case::new(name, with_subclusters(at, first, bitmap))
    };
    let data = COPIED | (5 << 14);
    list.push(extended("subclusters-both", 0, data, u64::MAX));
    list.push(extended("subclusters-some-both", 0, data, 3 << 32 | 6));
    list.push(extended("subclusters-without-cluster", 1, 0, 5));
    list.push(extended(
        "subclusters-on-compressed",
        2,
        COMPRESSED | (5 << 14),
        1,
    ));
    list.push(extended("subclusters-misaligned", 0, data + 512, 1));
    list
}

/// An image with extended L2 entries, clusters of 16 KiB, one cluster of data.
fn with_subclusters(index: usize, first: u64, bitmap: u64) -> Vec<u8> {
    const BIG: usize = 16 << 10;
    let mut b = vec![0; 6 * BIG];
    b.put(0, &sound(Sound::default())[..112]);
    b.put32(20, 14);
    b.put32(36, 1);
    b.put64(72, 1 << 4);
    let at = |cluster: usize| u64::try_from(cluster * BIG).unwrap_or(0);
    b.put64(40, at(3));
    b.put64(48, at(1));
    b.put64(BIG, at(2));
    (0..6).for_each(|n| b.put16(2 * BIG + 2 * n, 1));
    b.put64(3 * BIG, at(4) | COPIED);
    b.put64(4 * BIG, at(5) | COPIED);
    b.put64(4 * BIG + 8, u64::from(u32::MAX));
    b.put64(4 * BIG + 16 * index, first);
    b.put64(4 * BIG + 16 * index + 8, bitmap);
    b
}
