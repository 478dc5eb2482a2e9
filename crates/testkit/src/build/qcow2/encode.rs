//! Bytes of the file.

use super::super::Qcow2Spec;
use super::bitmaps::{self, Bitmap, Chunk};
use super::guest::Disk;
use super::layout::Places;
use super::{Guest, Shape, encrypt};
use crate::rng::Rng;
use crate::sim::SimFile;
use backchain_format::HostOffset;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::luks::HeaderPointer;
use backchain_format::qcow2::{
    Backing, Codec, CryptMethod, Extension, Extensions, FeatureNames, Head, Header, L1Entry,
    L2Entry, L2Kind, RefcountBlock, Subclusters, Version, autoclear, compatible, incompatible,
};

pub(super) fn encode(
    shape: &Shape,
    format: &Qcow2Spec,
    disk: &mut Disk,
    places: &Places,
    maps: &[Bitmap],
    mut head: Head,
    rng: &mut Rng,
) -> SimFile {
    let cluster = shape.cluster();
    let mut file = vec![0; to_usize(to_u64(places.counts.len()) * cluster)];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = to_usize(at);
        file[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let old = !head.is_v3() && head.extensions.0.is_empty();
    if old
        && format.odd_head
        && let Some((_, len)) = head.header.backing_name
    {
        // As the first versions did: no extensions, not even their end, before the name.
        head.header.backing_name = Some((HostOffset(72), len));
        put(0, &head.header.to_bytes());
    } else {
        put(0, &head.to_bytes());
    }
    if let Some((at, name)) = head.name_bytes() {
        put(at.0, name);
    }
    put(places.l1 * cluster, &l1(shape, places));
    for (table, at) in places.l2.iter().enumerate().filter(|(_, at)| **at != 0) {
        put(at * cluster, &l2(shape, format, disk, places, table));
    }
    let mut garbage = vec![0; to_usize(cluster)];
    for at in &places.garbage {
        rng.fill(&mut garbage);
        put(at * cluster, &garbage);
    }
    for (guest, index) in disk.clusters.iter().zip(0..) {
        let bytes = &disk.bytes[index * to_usize(cluster)..][..to_usize(cluster)];
        match (guest, places.packed[index]) {
            // They are in a file of their own.
            (Guest::Host(_) | Guest::ZeroHost, _) if format.data_file => {}
            (Guest::Host(_), _) => {
                let at = places.host[index] * cluster;
                let mut bytes = bytes.to_vec();
                if format.encrypted {
                    encrypt::encrypt(at, &mut bytes);
                }
                put(at, &bytes);
            }
            (Guest::ZeroHost, _) => {
                rng.fill(&mut garbage);
                put(places.host[index] * cluster, &garbage);
            }
            (Guest::Packed(packed), Some(place)) => put(place.host.0, packed),
            _ => {}
        }
    }
    if format.encrypted {
        put(places.crypto * cluster, &encrypt::header());
    }
    put_bitmaps(shape, places, maps, &mut put);
    refcounts(shape, places, &mut put);
    if format.cut {
        cut(shape, disk, places, &mut file, rng);
    }
    SimFile::new(file, false)
}

pub(super) fn head(
    shape: &Shape,
    format: &Qcow2Spec,
    places: &Places,
    maps: &[Bitmap],
    backing: Option<Backing>,
    data_name: &str,
    rng: &mut Rng,
) -> Head {
    let cluster = shape.cluster();
    let mut features = 0;
    if format.extended {
        features |= incompatible::EXTENDED_L2;
    }
    if format.codec == Codec::Zstd {
        features |= incompatible::COMPRESSION;
    }
    if format.data_file {
        features |= incompatible::DATA_FILE;
    }
    let short = format.odd_head && format.codec == Codec::Zlib && rng.chance(1, 2);
    let header_length = match format.v3 {
        false => 72,
        true if short => 104,
        true => 112,
    };
    let odd = format.odd_head && format.v3;
    let mut header = Header {
        version: if format.v3 { Version::V3 } else { Version::V2 },
        backing_name: None,
        cluster: shape.layout.cluster,
        size: shape.size,
        crypt: if format.encrypted {
            CryptMethod::Luks
        } else {
            CryptMethod::None
        },
        l1_table: HostOffset(places.l1 * cluster),
        l1_entries: u32::try_from(shape.tables()).expect("a small disk"),
        refcount_table: HostOffset(places.ref_table * cluster),
        refcount_table_clusters: u32::try_from(places.ref_table_clusters).expect("a small file"),
        snapshots: 0,
        snapshot_table: HostOffset(0),
        incompatible: features,
        compatible: if odd {
            1 << 37 | compatible::LAZY_REFCOUNTS
        } else {
            0
        },
        autoclear: if odd && rng.chance(1, 2) { 1 << 41 } else { 0 },
        refcount_width: shape.width,
        codec: format.codec,
        header_length,
        unknown: vec![0; to_usize(u64::from(header_length.saturating_sub(105)))],
    };
    let mut extensions = Extensions::default();
    if let Some(format) = backing.as_ref().and_then(|b| b.format.clone()) {
        extensions.set(Extensions::BACKING_FORMAT, Some(format.into_bytes()));
    }
    if format.data_file {
        let (kind, data) = (Extensions::DATA_FILE, data_name.as_bytes().to_vec());
        extensions.0.push(Extension { kind, data });
        if format.data_raw {
            header.autoclear |= autoclear::RAW_DATA_FILE;
        }
    }
    if format.encrypted {
        let pointer = HeaderPointer {
            offset: places.crypto * cluster,
            len: to_u64(encrypt::header().len()),
        };
        let (kind, data) = (Extensions::CRYPTO, pointer.to_bytes());
        extensions.0.push(Extension { kind, data });
    }
    if format.v3 && cluster >= 1024 {
        extensions.0.push(Extension {
            kind: Extensions::FEATURE_NAMES,
            data: FeatureNames::standard_bytes(),
        });
    }
    let bare = !format.v3 && backing.as_ref().is_some_and(|b| b.format.is_none());
    if format.odd_head && !bare {
        extensions.0.push(Extension {
            kind: 0x7465_7374,
            data: b"not to be lost".to_vec(),
        });
    }
    if !maps.is_empty() {
        let mut data = u32::try_from(maps.len())
            .expect("a few")
            .to_be_bytes()
            .to_vec();
        data.extend([0; 4]);
        data.extend(bitmaps::directory_len(maps).to_be_bytes());
        data.extend((places.bitmap_directory * cluster).to_be_bytes());
        let kind = Extensions::BITMAPS;
        extensions.0.push(Extension { kind, data });
        if rng.chance(4, 5) {
            header.autoclear |= autoclear::BITMAPS;
        }
    }
    let mut head = Head {
        header,
        extensions,
        backing,
    };
    head.pack().expect("a short name fits the first cluster");
    head
}

fn l1(shape: &Shape, places: &Places) -> Vec<u8> {
    let entry = |at: &u64| L1Entry {
        table: (*at != 0).then(|| HostOffset(at * shape.cluster())),
        copied: true,
    };
    let words = places.l2.iter().map(|at| entry(at).to_bits());
    words.flat_map(u64::to_be_bytes).collect()
}

fn l2(shape: &Shape, format: &Qcow2Spec, disk: &Disk, places: &Places, table: usize) -> Vec<u8> {
    let per_table = to_usize(shape.layout.entries());
    let first = table * per_table;
    let guests = disk.clusters.iter().enumerate().skip(first).take(per_table);
    let mut out = Vec::with_capacity(to_usize(shape.cluster()));
    for (index, guest) in guests {
        let at = places.host[index];
        let host = HostOffset(at * shape.cluster());
        // Clusters of a data file are not counted.
        let count = if format.data_file {
            1
        } else {
            places.counts[to_usize(at)]
        };
        let mut entry = L2Entry {
            kind: L2Kind::Standard { host },
            copied: count == 1,
            subclusters: Subclusters::default(),
        };
        match guest {
            Guest::Unallocated => entry = L2Entry::UNALLOCATED,
            Guest::Host(sub) => entry.subclusters = *sub,
            Guest::ZeroHost => entry.kind = L2Kind::Zero { host: Some(host) },
            Guest::Zero(sub) => {
                entry = L2Entry {
                    kind: L2Kind::Zero { host: None },
                    copied: false,
                    subclusters: *sub,
                };
                if shape.layout.extended {
                    entry.kind = L2Kind::Unallocated;
                }
            }
            Guest::Packed(_) => {
                let place = places.packed[index].expect("packed clusters have a place");
                entry.kind = L2Kind::Compressed(place);
                entry.copied = false;
            }
        }
        let (bits, bitmap) = entry.to_bits(shape.layout).expect("a small file");
        out.extend(bits.to_be_bytes());
        if shape.layout.extended {
            out.extend(bitmap.to_be_bytes());
        }
    }
    out
}

fn put_bitmaps(shape: &Shape, places: &Places, maps: &[Bitmap], put: &mut impl FnMut(u64, &[u8])) {
    let mut directory = Vec::new();
    for (number, map) in maps.iter().enumerate() {
        let at = places.bitmap_tables[number] * shape.cluster();
        directory.extend(map.entry(at));
        let mut table = Vec::new();
        for (index, chunk) in map.chunks.iter().enumerate() {
            let entry = match chunk {
                Chunk::Zeros => 0,
                Chunk::Ones => 1,
                Chunk::Bits(bits) => {
                    let at = places.bitmap_bits[&(number, index)] * shape.cluster();
                    put(at, bits);
                    at
                }
            };
            table.extend(entry.to_be_bytes());
        }
        put(at, &table);
    }
    put(places.bitmap_directory * shape.cluster(), &directory);
}

fn refcounts(shape: &Shape, places: &Places, put: &mut impl FnMut(u64, &[u8])) {
    let per_block = to_usize(shape.width.per_block(shape.layout.cluster));
    let mut table = Vec::new();
    for (number, at) in places.ref_blocks.iter().enumerate() {
        let mut block = RefcountBlock::new(shape.layout.cluster, shape.width);
        let counts = places.counts.iter().skip(number * per_block);
        for (count, index) in counts.take(per_block).zip(0..) {
            assert!(block.set(index, *count), "count {count} fits");
        }
        put(at * shape.cluster(), block.as_bytes());
        table.extend((at * shape.cluster()).to_be_bytes());
    }
    put(places.ref_table * shape.cluster(), &table);
}

/// Ends the file early: within the last data cluster, whose rest is zeros then, or right behind
/// the last packed bytes.
fn cut(shape: &Shape, disk: &mut Disk, places: &Places, file: &mut Vec<u8>, rng: &mut Rng) {
    if let Some(end) = places.packed_end {
        file.truncate(to_usize(end));
    } else if let Some(guest) = places.last {
        let cluster = to_usize(shape.cluster());
        let keep = 512 * to_usize(rng.below(shape.cluster() / 512));
        // A host cluster wholly behind the end of the file would be damage.
        let keep = keep.max(1);
        disk.bytes[guest * cluster..][keep..cluster].fill(0);
        file.truncate(file.len() - cluster + keep);
    }
}
