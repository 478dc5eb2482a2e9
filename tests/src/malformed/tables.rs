//! L1, L2 and refcount tables, and those of bitmaps.

use super::header::damaged;
use super::sound::{
    BITMAP_TABLE, BITMAPS, CLUSTER, COPIED, DATA, EXTENSIONS, L1, L2, Patch, REFCOUNT_BLOCK,
    REFCOUNT_TABLE, Sound, copied, entry, sound,
};
use super::{Case, Content};

pub(super) fn cases() -> Vec<Case> {
    let v3 = |name: &str, change: fn(&mut Vec<u8>)| damaged(name, Sound::default(), change);
    let bitmap = |name: &str, change: fn(&mut Vec<u8>)| {
        let has = Sound {
            bitmap: true,
            ..Sound::default()
        };
        damaged(name, has, change)
    };
    let mut list = vec![
        v3("l1-reserved-bits", |b| {
            b.put64(L1, copied(L2) | 1 << 60 | 2)
        }),
        v3("l1-entry-max", |b| b.put64(L1, u64::MAX)),
        v3("l1-entry-misaligned", |b| b.put64(L1, copied(L2 + 512))),
        v3("l1-entry-past-end", |b| b.put64(L1, COPIED | 1 << 45)),
        v3("l1-names-header", |b| b.put64(L1, 1)),
        v3("l1-names-itself", |b| b.put64(L1, copied(L1))),
        v3("l1-not-copied", |b| b.put64(L1, entry(L2))),
        v3("l1-twice-the-same-table", |b| b.put64(L1 + 8, copied(L2))),
        v3("l2-names-itself", |b| b.put64(L2, copied(L2))),
        v3("l2-names-l1", |b| b.put64(L2, copied(L1))),
        v3("l2-names-refcounts", |b| {
            b.put64(L2, copied(REFCOUNT_BLOCK))
        }),
        v3("l2-misaligned", |b| b.put64(L2, copied(DATA + 512))),
        v3("l2-misaligned-zero", |b| {
            b.put64(L2, copied(DATA + 512) | 1)
        }),
        v3("l2-reserved-bits", |b| {
            b.put64(L2, copied(DATA) | 1 << 58 | 4)
        }),
        v3("l2-past-end", |b| b.put64(L2, COPIED | 1 << 45)),
        v3("l2-just-past-end", |b| b.put64(L2, copied(13 * CLUSTER))),
        v3("l2-all-ones", |b| b[L2..L2 + CLUSTER].fill(0xff)),
        v3("l2-garbage", |b| {
            let mut state = 1u32;
            for byte in &mut b[L2..L2 + CLUSTER] {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = state.to_be_bytes()[0];
            }
        }),
        v3("l2-same-cluster-everywhere", |b| {
            (0..512).for_each(|n| b.put64(L2 + 8 * n, copied(DATA)));
        }),
        v3("refcount-entry-reserved", |b| {
            b.put64(REFCOUNT_TABLE, entry(REFCOUNT_BLOCK) | 1)
        }),
        v3("refcount-entry-misaligned", |b| {
            b.put64(REFCOUNT_TABLE, entry(REFCOUNT_BLOCK) + 512)
        }),
        v3("refcount-entry-past-end", |b| {
            b.put64(REFCOUNT_TABLE, 1 << 50)
        }),
        v3("refcount-entry-max", |b| b.put64(REFCOUNT_TABLE, u64::MAX)),
        v3("refcount-entry-none", |b| b.put64(REFCOUNT_TABLE, 0)),
        v3("refcount-block-is-table", |b| {
            b.put64(REFCOUNT_TABLE, entry(REFCOUNT_TABLE))
        }),
        v3("refcount-blocks-all-the-same", |b| {
            (0..512).for_each(|n| b.put64(REFCOUNT_TABLE + 8 * n, entry(REFCOUNT_BLOCK)));
        }),
        v3("refcounts-all-zero", |b| {
            b[REFCOUNT_BLOCK..][..CLUSTER].fill(0)
        }),
        v3("refcounts-all-max", |b| {
            b[REFCOUNT_BLOCK..][..CLUSTER].fill(0xff)
        }),
        bitmap("bitmap-count-0", |b| b.put32(EXTENSIONS + 8, 0)),
        bitmap("bitmap-count-max", |b| b.put32(EXTENSIONS + 8, u32::MAX)),
        bitmap("bitmap-count-2", |b| b.put32(EXTENSIONS + 8, 2)),
        bitmap("bitmap-extension-short", |b| b.put32(EXTENSIONS + 4, 8)),
        bitmap("bitmap-directory-past-end", |b| {
            b.put64(EXTENSIONS + 24, 1 << 40)
        }),
        bitmap("bitmap-directory-misaligned", |b| {
            b.put64(EXTENSIONS + 24, 11 * 4096 + 8)
        }),
        bitmap("bitmap-directory-huge", |b| {
            b.put64(EXTENSIONS + 16, 1 << 60)
        }),
        bitmap("bitmap-directory-garbage", |b| {
            b[BITMAPS..][..CLUSTER].fill(0xff)
        }),
        bitmap("bitmap-table-past-end", |b| b.put64(BITMAPS, 1 << 40)),
        bitmap("bitmap-table-misaligned", |b| b.put64(BITMAPS, 12345)),
        bitmap("bitmap-table-huge", |b| b.put32(BITMAPS + 8, u32::MAX)),
        bitmap("bitmap-type-unknown", |b| b[BITMAPS + 16] = 9),
        bitmap("bitmap-granularity-255", |b| b[BITMAPS + 17] = 255),
        bitmap("bitmap-name-not-utf8", |b| {
            b.put(BITMAPS + 24, b"\xff\xff\xff\xff\xff\xff")
        }),
        bitmap("bitmap-entry-garbage", |b| b.put64(BITMAP_TABLE, u64::MAX)),
        bitmap("bitmap-entry-past-end", |b| b.put64(BITMAP_TABLE, 1 << 40)),
        bitmap("bitmap-not-autoclear", |b| b.put64(88, 0)),
    ];
    list.push(one_table_for_all());
    list.push(many_misaligned_tables());
    list.push(snapshots_that_share());
    list
}

/// A disk of 8 EiB whose 4 Mi L1 entries, as many as there may be, all name one L2 table of
/// 2 MiB full of the same cluster.
fn one_table_for_all() -> Case {
    const BIG: usize = 2 << 20;
    let mut b = vec![0; 6 * BIG];
    b.put(0, &sound(Sound::default())[..112]);
    b.put32(20, 21);
    b.put64(24, 1 << 61);
    b.put32(36, 1 << 22);
    b.put64(40, 1 << 30);
    b.put64(48, entry(BIG));
    b.put64(BIG, entry(2 * BIG));
    (0..BIG / 8).for_each(|n| b.put64(3 * BIG + 8 * n, copied(4 * BIG)));
    let l1 = (0..1usize << 22)
        .flat_map(|_| entry(3 * BIG).to_be_bytes())
        .collect();
    Case::new(
        "l1-limit-all-one-table",
        Content {
            bytes: b,
            islands: vec![(1 << 30, l1)],
            len: None,
        },
    )
}

/// L2 tables of 2 MiB that start at every sector: each byte is in 4096 of them.
fn many_misaligned_tables() -> Case {
    const BIG: usize = 2 << 20;
    let mut b = vec![0; 8 * BIG];
    b.put(0, &sound(Sound::default())[..112]);
    b.put32(20, 21);
    b.put64(24, 1 << 50);
    b.put32(36, 4096);
    b.put64(40, entry(3 * BIG));
    b.put64(48, entry(BIG));
    b.put64(BIG, entry(2 * BIG));
    (0..4096).for_each(|n| b.put64(3 * BIG + 8 * n, entry(4 * BIG + 512 * n)));
    (0..2 * BIG / 8).for_each(|n| b.put64(4 * BIG + 8 * n, entry(DATA)));
    Case::new("l2-tables-at-every-sector", b)
}

/// 1000 snapshots whose L1 tables are the same 32 MiB, most of it a hole.
fn snapshots_that_share() -> Case {
    let mut b = sound(Sound {
        snapshot: true,
        ..Sound::default()
    });
    let one = b[9 * CLUSTER..][..64].to_vec();
    b.truncate(9 * CLUSTER);
    b.put32(60, 1000);
    b.put64(64, 1 << 20);
    let mut table = one.repeat(1000);
    for n in 0..1000 {
        table.put64(64 * n, entry(L1));
        table.put32(64 * n + 8, 1 << 22);
    }
    Case::new(
        "snapshots-share-huge-l1",
        Content {
            bytes: b,
            islands: vec![(1 << 20, table)],
            len: Some(64 << 20),
        },
    )
}
