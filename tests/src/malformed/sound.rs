//! A small sound image to damage: every structure at a known place.

use flate2::{Compress, Compression, FlushCompress};

/// Cluster size of the sound image.
pub const CLUSTER: usize = 4096;
/// Clusters by number.
pub const REFCOUNT_TABLE: usize = CLUSTER;
/// The refcount block.
pub const REFCOUNT_BLOCK: usize = 2 * CLUSTER;
/// The L1 table: two entries, the second of them empty.
pub const L1: usize = 3 * CLUSTER;
/// The L2 table: guest clusters 0 to 2 are data, 3 and 4 compressed, 5 zero.
pub const L2: usize = 4 * CLUSTER;
/// Three clusters of data.
pub const DATA: usize = 5 * CLUSTER;
/// A cluster with two packed clusters in it.
pub const PACKED: usize = 8 * CLUSTER;
/// The snapshot table with one snapshot, if there is one.
pub const SNAPSHOTS: usize = 9 * CLUSTER;
/// The snapshot's L1 table.
pub const SNAPSHOT_L1: usize = 10 * CLUSTER;
/// The bitmap directory, if there is one.
pub const BITMAPS: usize = 11 * CLUSTER;
/// The bitmap's table.
pub const BITMAP_TABLE: usize = 12 * CLUSTER;
/// Size of the disk: a bit more than one L2 table maps.
pub const SIZE: u64 = (512 + 8) * 4096;
/// Where header extensions start.
pub const EXTENSIONS: usize = 112;

/// What the sound image has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sound {
    /// Version 2.
    pub v2: bool,
    /// One internal snapshot of an empty disk.
    pub snapshot: bool,
    /// One empty bitmap.
    pub bitmap: bool,
    /// Clusters are packed with zstd (and hold no valid frames).
    pub zstd: bool,
    /// A backing file with this name, labelled qcow2.
    pub backing: Option<&'static str>,
}

/// Bytes that are easy to damage by offset.
pub trait Patch {
    /// Stores a number.
    fn put16(&mut self, at: usize, value: u16);
    /// Stores a number.
    fn put32(&mut self, at: usize, value: u32);
    /// Stores a number.
    fn put64(&mut self, at: usize, value: u64);
    /// Stores bytes.
    fn put(&mut self, at: usize, bytes: &[u8]);
}

impl Patch for Vec<u8> {
    fn put16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_be_bytes());
    }
    fn put32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_be_bytes());
    }
    fn put64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_be_bytes());
    }
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The copied flag.
pub const COPIED: u64 = 1 << 63;
/// The flag of compressed clusters.
pub const COMPRESSED: u64 = 1 << 62;

/// A host offset as an entry that may be written in place.
pub fn copied(at: usize) -> u64 {
    entry(at) | COPIED
}

/// A host offset as an entry.
pub fn entry(at: usize) -> u64 {
    u64::try_from(at).unwrap_or(0)
}

/// The entry of a packed cluster at `at` that takes one sector.
pub fn packed(at: usize) -> u64 {
    COMPRESSED | entry(at)
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let mut state = Compress::new_with_window_bits(Compression::default(), false, 12);
    // What does not fit would be cut off, and the tests of the sound image would fail.
    let _ = state.compress_vec(data, &mut out, FlushCompress::Finish);
    out
}

/// The sound image.
pub fn sound(has: Sound) -> Vec<u8> {
    let mut b = vec![0; 13 * CLUSTER];
    b.put(0, b"QFI\xfb");
    b.put32(4, if has.v2 { 2 } else { 3 });
    b.put32(20, 12);
    b.put64(24, SIZE);
    b.put32(36, 2);
    b.put64(40, entry(L1));
    b.put64(48, entry(REFCOUNT_TABLE));
    b.put32(56, 1);
    let mut at = if has.v2 { 72 } else { EXTENSIONS };
    if !has.v2 {
        b.put32(96, 4);
        b.put32(100, 112);
    }
    if has.zstd {
        b.put64(72, 1 << 3);
        b[104] = 1;
    }
    b.put64(REFCOUNT_TABLE, entry(REFCOUNT_BLOCK));
    for cluster in 0..9 {
        b.put16(REFCOUNT_BLOCK + 2 * cluster, 1);
    }
    b.put16(REFCOUNT_BLOCK + 2 * 8, 2);
    b.put64(L1, copied(L2));
    for n in 0..3 {
        let data = DATA + n * CLUSTER;
        b.put64(L2 + 8 * n, copied(data));
        let fill = u8::try_from(n).unwrap_or(0) + 1;
        b[data..data + CLUSTER].fill(fill);
    }
    for n in 0..2 {
        let fill = u8::try_from(n).unwrap_or(0) + 0x40;
        b.put(PACKED + n * 512, &deflate(&vec![fill; CLUSTER]));
        b.put64(L2 + 8 * (3 + n), packed(PACKED + n * 512));
    }
    if !has.v2 {
        b.put64(L2 + 8 * 5, 1);
    }
    if has.snapshot {
        b.put32(60, 1);
        b.put64(64, entry(SNAPSHOTS));
        b.put64(SNAPSHOTS, entry(SNAPSHOT_L1));
        b.put32(SNAPSHOTS + 8, 2);
        b.put16(SNAPSHOTS + 12, 1);
        b.put16(SNAPSHOTS + 14, 4);
        b.put32(SNAPSHOTS + 36, 16);
        b.put64(SNAPSHOTS + 48, SIZE);
        b.put(SNAPSHOTS + 56, b"1name");
        b.put16(REFCOUNT_BLOCK + 2 * 9, 1);
        b.put16(REFCOUNT_BLOCK + 2 * 10, 1);
    }
    if has.bitmap {
        b.put64(88, 1);
        b.put32(at, 0x2385_2875);
        b.put32(at + 4, 24);
        b.put32(at + 8, 1);
        b.put64(at + 16, 32);
        b.put64(at + 24, entry(BITMAPS));
        at += 32;
        b.put64(BITMAPS, entry(BITMAP_TABLE));
        b.put32(BITMAPS + 8, 1);
        b[BITMAPS + 16] = 1;
        b[BITMAPS + 17] = 16;
        b.put16(BITMAPS + 18, 6);
        b.put(BITMAPS + 24, b"bitmap");
        b.put16(REFCOUNT_BLOCK + 2 * 11, 1);
        b.put16(REFCOUNT_BLOCK + 2 * 12, 1);
    }
    if let Some(name) = has.backing {
        b.put32(at, 0xe279_2aca);
        b.put32(at + 4, 5);
        b.put(at + 8, b"qcow2");
        b.put64(8, 1024);
        b.put32(16, u32::try_from(name.len()).unwrap_or(0));
        b.put(1024, name.as_bytes());
    }
    b
}
