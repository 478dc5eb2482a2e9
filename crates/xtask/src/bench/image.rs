//! Writes qcow2 images for measuring: the same ones every time, faster than any tool could.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a cluster.
pub(super) const CLUSTER: u64 = 64 << 10;
/// Entries of an L2 table.
pub(super) const TABLE: u64 = CLUSTER / 8;
/// Clusters whose 16-bit counts one refcount block holds.
const COUNTED: u64 = CLUSTER / 2;

/// What a cluster of the disk is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes that do not compress.
    Data,
    /// A zero cluster without a place in the file.
    Zero,
}

/// Numbers that look random and are the same in every run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A qcow2 image, version 3, with clusters of 64 KiB.
pub(super) struct Image<'a> {
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Clusters by their number on the disk, in the order in which they were written: that is
    /// their order in the file.
    pub(super) clusters: &'a [(u64, Kind)],
    pub(super) backing: Option<&'a str>,
    pub(super) seed: u64,
}

impl Image<'_> {
    /// Writes the image to a new file.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        let tables = self.size.div_ceil(CLUSTER * TABLE);
        let l1_clusters = (tables * 8).div_ceil(CLUSTER);
        let (blocks, block_clusters) = self.refcount_blocks(tables, l1_clusters);
        let l1_at = (1 + block_clusters + blocks) * CLUSTER;

        // As a guest's writes do it: a table where it is first needed, then the data.
        let mut next = l1_at + l1_clusters * CLUSTER;
        let mut l1 = vec![0u64; as_index(tables)];
        let mut l2: Vec<Vec<u64>> = vec![Vec::new(); as_index(tables)];
        let mut random = Random::new(self.seed);
        let pool: Vec<u8> = (0..CLUSTER / 4)
            .flat_map(|_| random.next().to_be_bytes())
            .collect();
        let mut data = vec![0; as_index(CLUSTER)];
        for &(cluster, kind) in self.clusters {
            let (table, entry) = (as_index(cluster / TABLE), as_index(cluster % TABLE));
            if l2[table].is_empty() {
                l2[table] = vec![0; as_index(TABLE)];
                l1[table] = next;
                next += CLUSTER;
            }
            l2[table][entry] = match kind {
                Kind::Zero => 1,
                Kind::Data => {
                    let start = as_index(random.below(CLUSTER / 8) * 8);
                    data.copy_from_slice(&pool[start..][..as_index(CLUSTER)]);
                    data[..8].copy_from_slice(&cluster.to_be_bytes());
                    file.write_all_at(&data, next)?;
                    next += CLUSTER;
                    (next - CLUSTER) | COPIED
                }
            };
        }

        for (table, &at) in l2.iter().zip(&l1) {
            if at > 0 {
                file.write_all_at(&big_endian(table.iter().copied()), at)?;
            }
        }
        let l1_entries = l1.iter().map(|&at| if at > 0 { at | COPIED } else { 0 });
        file.write_all_at(&big_endian(l1_entries), l1_at)?;
        let blocks_at = (1 + block_clusters) * CLUSTER;
        let pointers = (0..blocks).map(|block| blocks_at + block * CLUSTER);
        file.write_all_at(&big_endian(pointers), CLUSTER)?;
        let ones: Vec<u8> = (0..next / CLUSTER).flat_map(|_| [0, 1]).collect();
        file.write_all_at(&ones, blocks_at)?;
        file.write_all_at(&self.header(tables, l1_at, block_clusters), 0)?;
        file.set_len(next)
    }

    /// How many refcount blocks it takes, and how many clusters their table takes.
    fn refcount_blocks(&self, tables: u64, l1_clusters: u64) -> (u64, u64) {
        let mut touched = vec![false; as_index(tables)];
        let mut used = 1 + l1_clusters;
        for &(cluster, kind) in self.clusters {
            let table = &mut touched[as_index(cluster / TABLE)];
            used += u64::from(!*table) + u64::from(kind == Kind::Data);
            *table = true;
        }
        let mut blocks = 1u64;
        loop {
            let table = (blocks * 8).div_ceil(CLUSTER);
            if used + blocks + table <= blocks * COUNTED {
                return (blocks, table);
            }
            blocks += 1;
        }
    }

    fn header(&self, tables: u64, l1_at: u64, refcount_clusters: u64) -> Vec<u8> {
        let name = self.backing.unwrap_or_default();
        let mut extensions = Vec::new();
        if self.backing.is_some() {
            extensions.extend([0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 5]);
            extensions.extend(b"qcow2\0\0\0");
        }
        extensions.extend([0; 8]);
        let name_at = match self.backing {
            Some(_) => 104 + extensions.len(),
            None => 0,
        };
        let mut header = b"QFI\xfb\0\0\0\x03".to_vec();
        header.extend((name_at as u64).to_be_bytes());
        header.extend(as_u32(name.len() as u64).to_be_bytes());
        header.extend(16u32.to_be_bytes());
        header.extend(self.size.to_be_bytes());
        header.extend(0u32.to_be_bytes());
        header.extend(as_u32(tables).to_be_bytes());
        header.extend(l1_at.to_be_bytes());
        header.extend(CLUSTER.to_be_bytes());
        header.extend(as_u32(refcount_clusters).to_be_bytes());
        // No snapshots, no features, 16-bit refcounts.
        header.extend([0; 12 + 24]);
        header.extend(4u32.to_be_bytes());
        header.extend(104u32.to_be_bytes());
        header.extend(extensions);
        header.extend(name.as_bytes());
        header
    }
}

/// "The refcount is exactly one" in L1 and L2 entries.
const COPIED: u64 = 1 << 63;

fn big_endian(words: impl Iterator<Item = u64>) -> Vec<u8> {
    words.flat_map(u64::to_be_bytes).collect()
}

fn as_index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn as_u32(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
