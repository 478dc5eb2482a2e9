//! Positions in the file.

use super::super::Qcow2Spec;
use super::bitmaps::{self, Bitmap, Chunk};
use super::guest::Disk;
use super::{Guest, Shape, encrypt};
use crate::rng::Rng;
use backchain_format::HostOffset;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::CompressedCluster;
use std::collections::BTreeMap;

/// Something with a place of its own: so many host clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    L1,
    L2(u64),
    Host(u64),
    Run(usize),
    RefTable,
    RefBlock(u64),
    Crypto,
    BitmapDirectory,
    BitmapTable(usize),
    BitmapBits(usize, usize),
    Leak,
    Free,
}

/// A run of host clusters shared by packed guest clusters.
#[derive(Default)]
struct Run {
    /// Guest cluster, first byte within the run, bytes.
    packed: Vec<(usize, u64, u64)>,
    clusters: u64,
    counts: Vec<u64>,
}

/// Where everything is, as numbers of host clusters.
pub(super) struct Places {
    pub(super) l1: u64,
    /// By L2 table; 0 for none.
    pub(super) l2: Vec<u64>,
    /// By guest cluster; 0 for none.
    pub(super) host: Vec<u64>,
    /// By guest cluster: byte offset in the file of the packed bytes.
    pub(super) packed: Vec<Option<CompressedCluster>>,
    pub(super) ref_table: u64,
    pub(super) ref_table_clusters: u64,
    pub(super) ref_blocks: Vec<u64>,
    /// LUKS header; 0 for none.
    pub(super) crypto: u64,
    /// Bitmap directory; 0 for none.
    pub(super) bitmap_directory: u64,
    /// By bitmap.
    pub(super) bitmap_tables: Vec<u64>,
    /// By bitmap and chunk.
    pub(super) bitmap_bits: BTreeMap<(usize, usize), u64>,
    /// Refcount of every host cluster.
    pub(super) counts: Vec<u64>,
    /// Host clusters nothing refers to.
    pub(super) garbage: Vec<u64>,
    /// The guest cluster whose host cluster is the last of the file, if it is one.
    pub(super) last: Option<usize>,
    /// First byte behind the last packed bytes, when they are the last of the file.
    pub(super) packed_end: Option<u64>,
}

impl Places {
    pub(super) fn new(
        shape: &Shape,
        format: &Qcow2Spec,
        disk: &Disk,
        maps: &[Bitmap],
        rng: &mut Rng,
    ) -> Self {
        let runs = pack_runs(shape, disk, rng);
        let mut items = vec![Item::RefTable, Item::L1];
        if shape.tables() == 0 {
            items.pop();
        }
        let entries = to_usize(shape.layout.entries());
        for (table, guests) in disk.clusters.chunks(entries).enumerate() {
            let unused = guests.iter().all(|g| matches!(g, Guest::Unallocated));
            // An empty table is as good as none, and both occur.
            if !unused || rng.chance(1, 8) {
                items.push(Item::L2(to_u64(table)));
            }
        }
        for (index, guest) in disk.clusters.iter().enumerate() {
            if matches!(guest, Guest::Host(_) | Guest::ZeroHost) && !format.data_file {
                items.push(Item::Host(to_u64(index)));
            }
        }
        items.extend((0..runs.len()).map(Item::Run));
        items.extend(format.encrypted.then_some(Item::Crypto));
        items.extend((!maps.is_empty()).then_some(Item::BitmapDirectory));
        for (number, map) in maps.iter().enumerate() {
            items.push(Item::BitmapTable(number));
            for (index, chunk) in map.chunks.iter().enumerate() {
                let bits = matches!(chunk, Chunk::Bits(_));
                items.extend(bits.then_some(Item::BitmapBits(number, index)));
            }
        }
        let size = |item: &Item| match item {
            Item::L1 => shape.layout.cluster.clusters(shape.tables() * 8),
            Item::Run(run) => runs[*run].clusters,
            Item::Crypto => shape
                .layout
                .cluster
                .clusters(to_u64(encrypt::header().len())),
            Item::BitmapDirectory => shape.layout.cluster.clusters(bitmaps::directory_len(maps)),
            Item::BitmapTable(number) => shape.layout.cluster.clusters(maps[*number].table_len()),
            Item::RefTable => 0,
            _ => 1,
        };
        if format.leaky {
            for _ in 0..rng.below(4) {
                items.push(Item::Leak);
            }
            for _ in 0..rng.below(5) {
                items.push(Item::Free);
            }
        }
        let table_clusters = Self::add_refcounts(shape, &mut items, &size, rng);
        if format.shuffled {
            rng.shuffle(&mut items);
        }
        // A file that is to be cut ends with data.
        let wanted = |i: &Item| matches!(i, Item::Host(_) | Item::Run(_));
        if format.cut
            && let Some(data) = items.iter().rposition(wanted)
        {
            let item = items.remove(data);
            items.push(item);
        }
        let mut places = Self::place(shape, format, &items, &runs, &size, table_clusters, rng);
        if format.data_file {
            places.host = (0..shape.clusters).collect();
        }
        places
    }

    /// Adds refcount blocks for all items, themselves and the table included. Returns the
    /// clusters of the table.
    fn add_refcounts(
        shape: &Shape,
        items: &mut Vec<Item>,
        size: &dyn Fn(&Item) -> u64,
        rng: &mut Rng,
    ) -> u64 {
        let others: u64 = 1 + items.iter().map(size).sum::<u64>();
        let per_block = shape.width.per_block(shape.layout.cluster);
        let (mut blocks, mut table) = (0, 1 + rng.below(2));
        loop {
            let total = others + blocks + table;
            let (b, t) = (
                total.div_ceil(per_block),
                shape.layout.cluster.clusters(blocks * 8),
            );
            if b <= blocks && t <= table {
                break;
            }
            (blocks, table) = (b.max(blocks), t.max(table));
        }
        items.extend((0..blocks).map(Item::RefBlock));
        table
    }

    fn place(
        shape: &Shape,
        format: &Qcow2Spec,
        items: &[Item],
        runs: &[Run],
        size: &dyn Fn(&Item) -> u64,
        table_clusters: u64,
        rng: &mut Rng,
    ) -> Self {
        let guests = to_usize(shape.clusters);
        let mut places = Self {
            l1: 0,
            l2: vec![0; to_usize(shape.tables())],
            host: vec![0; guests],
            packed: vec![None; guests],
            ref_table: 0,
            ref_table_clusters: table_clusters,
            ref_blocks: Vec::new(),
            crypto: 0,
            bitmap_directory: 0,
            bitmap_tables: Vec::new(),
            bitmap_bits: BTreeMap::new(),
            counts: vec![1],
            garbage: Vec::new(),
            last: None,
            packed_end: None,
        };
        let (mut blocks, mut tables) = (Vec::new(), Vec::new());
        for item in items {
            let at = to_u64(places.counts.len());
            (places.last, places.packed_end) = (None, None);
            let mut count = 1;
            match item {
                Item::L1 | Item::Crypto | Item::BitmapDirectory | Item::BitmapTable(_) => {
                    match item {
                        Item::Crypto => places.crypto = at,
                        Item::L1 => places.l1 = at,
                        Item::BitmapDirectory => places.bitmap_directory = at,
                        Item::BitmapTable(number) => tables.push((*number, at)),
                        _ => {}
                    }
                    places.counts.resize(to_usize(at + size(item)), 1);
                    continue;
                }
                Item::RefTable => {
                    places.ref_table = at;
                    places.counts.resize(to_usize(at + table_clusters), 1);
                    continue;
                }
                Item::Run(run) => {
                    places.place_run(shape, &runs[*run], at);
                    continue;
                }
                Item::L2(table) => places.l2[to_usize(*table)] = at,
                Item::Host(guest) => {
                    places.host[to_usize(*guest)] = at;
                    places.last = Some(to_usize(*guest));
                    // Counted once too often: must be copied before it is written.
                    if format.leaky && shape.width.max() > 1 && rng.chance(1, 20) {
                        count = 2;
                    }
                }
                Item::RefBlock(index) => blocks.push((*index, at)),
                Item::BitmapBits(number, index) => {
                    places.bitmap_bits.insert((*number, *index), at);
                }
                Item::Leak => places.garbage.push(at),
                Item::Free => {
                    places.garbage.push(at);
                    count = 0;
                }
            }
            places.counts.push(count);
        }
        blocks.sort_unstable();
        places.ref_blocks = blocks.into_iter().map(|(_, at)| at).collect();
        tables.sort_unstable();
        places.bitmap_tables = tables.into_iter().map(|(_, at)| at).collect();
        places
    }

    fn place_run(&mut self, shape: &Shape, run: &Run, at: u64) {
        let start = at * shape.cluster();
        for &(guest, first, len) in &run.packed {
            let host = HostOffset(start + first);
            self.packed[guest] = Some(CompressedCluster { host, len });
            self.packed_end = Some(host.0 + len);
        }
        self.counts.extend(&run.counts);
    }
}

/// Puts the packed clusters one behind the other into runs of host clusters, several sharing
/// one where the refcounts are wide enough.
fn pack_runs(shape: &Shape, disk: &Disk, rng: &mut Rng) -> Vec<Run> {
    let cluster = shape.cluster();
    let mut runs = Vec::new();
    let mut run = Run::default();
    let mut at = 0;
    let mut order: Vec<usize> = (0..disk.clusters.len()).collect();
    if rng.chance(1, 4) {
        rng.shuffle(&mut order);
    }
    for guest in order {
        let Guest::Packed(bytes) = &disk.clusters[guest] else {
            continue;
        };
        let len = to_u64(bytes.len());
        if !run.packed.is_empty() && rng.chance(1, 16) {
            runs.push(std::mem::take(&mut run));
            at = 0;
        }
        // The reference goes to all host clusters up to the end of the last sector.
        let end = |at: u64| (at + len).next_multiple_of(512).div_ceil(cluster);
        let full = (at / cluster..end(at)).any(|c| {
            run.counts
                .get(to_usize(c))
                .is_some_and(|n| *n >= shape.width.max())
        });
        if full || rng.chance(1, 32) {
            at = at.next_multiple_of(cluster);
        }
        run.clusters = run.clusters.max(end(at));
        run.counts.resize(to_usize(run.clusters), 0);
        for host in at / cluster..end(at) {
            run.counts[to_usize(host)] += 1;
        }
        run.packed.push((guest, at, len));
        at += len + if rng.chance(1, 8) { rng.below(700) } else { 0 };
    }
    if !run.packed.is_empty() {
        runs.push(run);
    }
    runs
}
