//! Large disks with few clusters, for what small disks never reach: tables longer than what is
//! read of them at once, and long runs of nothing.

use crate::rng::{Rng, mix};
use crate::sim::SimFile;
use backchain_format::HostOffset;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::{
    Backing, ClusterSize, Codec, CryptMethod, Extensions, Head, Header, L1Entry, L2Entry, L2Kind,
    L2Layout, RefcountBlock, RefcountWidth, Subclusters, Version, incompatible,
};
use std::collections::BTreeMap;

/// What a cluster of a [`Sparse`] image is; all others are unallocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// Data; the bitmap counts with extended L2 entries only.
    Data(u32),
    /// Zero throughout.
    Zero,
}

/// A large image with few clusters, and its own model.
#[derive(Debug, Clone)]
pub struct Sparse {
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// Extended L2 entries.
    pub extended: bool,
    /// Virtual size in bytes.
    pub size: u64,
    /// By guest cluster.
    pub clusters: BTreeMap<u64, Cluster>,
    /// Decides on the contents.
    pub seed: u64,
}

impl Sparse {
    fn layout(&self) -> L2Layout {
        L2Layout {
            cluster: ClusterSize::from_bits(self.cluster_bits).expect("9 to 21"),
            extended: self.extended,
            zero_flag: true,
            data_file: false,
        }
    }

    /// The sector at guest offset `at`: its bytes, or `None` where the image says nothing.
    fn sector(&self, at: u64) -> Option<[u8; 512]> {
        let zeros = [0; 512];
        if at >= self.size {
            return Some(zeros);
        }
        let layout = self.layout();
        let bit = 1u32 << (layout.cluster.offset_in(at) / layout.granule() % 32);
        match self.clusters.get(&(at >> self.cluster_bits))? {
            Cluster::Zero => Some(zeros),
            Cluster::Data(mask) if self.extended && mask & bit == 0 => None,
            Cluster::Data(_) => {
                let mut bytes = zeros;
                let word = mix(self.seed ^ at).to_le_bytes();
                bytes
                    .chunks_mut(8)
                    .for_each(|chunk| chunk.copy_from_slice(&word));
                Some(bytes)
            }
        }
    }

    /// The file.
    pub fn build(&self, backing: Option<Backing>) -> SimFile {
        let layout = self.layout();
        let cluster = layout.cluster.bytes();
        let tables: Vec<u64> = {
            let per = layout.entries();
            let mut list: Vec<u64> = self.clusters.keys().map(|c| c / per).collect();
            list.dedup();
            list
        };
        let l1_entries = self.size.div_ceil(layout.table_span());
        let l1 = layout.cluster.clusters(l1_entries * 8);
        let data: Vec<(u64, Cluster)> = self.clusters.iter().map(|(n, c)| (*n, *c)).collect();
        let hosts = to_u64(data.iter().filter(|(_, c)| *c != Cluster::Zero).count());
        let (width, others) = (
            RefcountWidth::DEFAULT,
            2 + l1 + to_u64(tables.len()) + hosts,
        );
        let blocks = (others + 64)
            .div_ceil(width.per_block(layout.cluster))
            .max(1);
        // Head, refcount table, blocks, L1, L2 tables, data.
        let l1_at = 2 + blocks;
        let l2_at = l1_at + l1;
        let data_at = l2_at + to_u64(tables.len());
        let total = data_at + hosts;
        let mut file = vec![0; to_usize(total * cluster)];
        let mut put = |at: u64, bytes: &[u8]| {
            file[to_usize(at)..to_usize(at) + bytes.len()].copy_from_slice(bytes);
        };
        let head = self.head(backing, l1_at * cluster, l1_entries);
        put(0, &head.to_bytes());
        if let Some((at, name)) = head.name_bytes() {
            put(at.0, name);
        }
        for number in 0..blocks {
            put(
                cluster + number * 8,
                &((2 + number) * cluster).to_be_bytes(),
            );
            let mut block = RefcountBlock::new(layout.cluster, width);
            let per = width.per_block(layout.cluster);
            for host in number * per..total.min((number + 1) * per) {
                assert!(block.set(host % per, 1), "1 fits");
            }
            put((2 + number) * cluster, block.as_bytes());
        }
        for (index, table) in (0..).zip(&tables) {
            let entry = L1Entry {
                table: Some(HostOffset((l2_at + index) * cluster)),
                copied: true,
            };
            put(l1_at * cluster + table * 8, &entry.to_bits().to_be_bytes());
        }
        let mut host = data_at;
        for (number, kind) in data {
            let mut entry = L2Entry::UNALLOCATED;
            match kind {
                Cluster::Zero if self.extended => entry.subclusters.zero = u32::MAX,
                Cluster::Zero => entry.kind = L2Kind::Zero { host: None },
                Cluster::Data(mask) => {
                    let at = HostOffset(host * cluster);
                    entry.kind = L2Kind::Standard { host: at };
                    entry.copied = true;
                    entry.subclusters = Subclusters {
                        allocated: mask,
                        zero: 0,
                    };
                    let start = number * cluster;
                    for sector in (0..cluster).step_by(512) {
                        if let Some(bytes) = self.sector(start + sector) {
                            put(at.0 + sector, &bytes);
                        }
                    }
                    host += 1;
                }
            }
            let table = number / layout.entries();
            let index = (0..)
                .zip(&tables)
                .find(|(_, t)| **t == table)
                .map(|(i, _)| i);
            let at = (l2_at + index.expect("its table is there")) * cluster;
            let at = at + number % layout.entries() * layout.entry_len();
            let (bits, bitmap) = entry.to_bits(layout).expect("a small file");
            put(at, &bits.to_be_bytes());
            if self.extended {
                put(at + 8, &bitmap.to_be_bytes());
            }
        }
        SimFile::new(file, false)
    }

    fn head(&self, backing: Option<Backing>, l1_at: u64, l1_entries: u64) -> Head {
        let layout = self.layout();
        let mut extensions = Extensions::default();
        let format = backing.as_ref().and_then(|b| b.format.clone());
        extensions.set(Extensions::BACKING_FORMAT, format.map(String::into_bytes));
        let mut head = Head {
            header: Header {
                version: Version::V3,
                backing_name: None,
                cluster: layout.cluster,
                size: self.size,
                crypt: CryptMethod::None,
                l1_table: HostOffset(l1_at),
                l1_entries: u32::try_from(l1_entries).expect("below 2^22"),
                refcount_table: HostOffset(layout.cluster.bytes()),
                refcount_table_clusters: 1,
                snapshots: 0,
                snapshot_table: HostOffset(0),
                incompatible: if self.extended {
                    incompatible::EXTENDED_L2
                } else {
                    0
                },
                compatible: 0,
                autoclear: 0,
                refcount_width: RefcountWidth::DEFAULT,
                codec: Codec::Zlib,
                header_length: 104,
                unknown: Vec::new(),
            },
            extensions,
            backing,
        };
        head.pack().expect("a short name");
        head
    }
}

/// The guest bytes from `start` on (a multiple of the sector) of a chain, top first.
pub fn read(chain: &[&Sparse], start: u64, len: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for at in (start..start + len).step_by(512) {
        let sector = chain.iter().find_map(|layer| layer.sector(at));
        out.extend(sector.unwrap_or([0; 512]));
    }
    out
}

/// Guest clusters near the ends of what is read of a table at once, of whole tables, and of the
/// disk; some neighbours together, so that extents run across those ends.
pub fn interesting(layout_entries: u64, clusters: u64, rng: &mut Rng) -> Vec<u64> {
    let mut list = Vec::new();
    for unit in [4096, 8192, layout_entries, 8192 * layout_entries] {
        for near in [unit, 2 * unit, clusters] {
            for at in near.saturating_sub(2)..near + 2 {
                if at < clusters && rng.chance(1, 3) {
                    list.push(at);
                }
            }
        }
    }
    for _ in 0..3 {
        list.push(rng.below(clusters));
    }
    list.sort_unstable();
    list.dedup();
    list
}
