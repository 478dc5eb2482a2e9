//! The fields of qcow2's structures, by name: what a hex view shows beside the bytes.

use super::host::Owner;
use super::walk::TableWalk;
use crate::chain::Node;
use crate::error::Result;
use crate::image::Qcow2;
use crate::source::read_padded;
use backchain_format::bytes::{be32, be64, to_u64, to_usize};
use backchain_format::qcow2::{
    Extensions, L1Entry, L2Entry, L2Kind, OFFSET_MASK, RefcountBlock, RefcountTableEntry, Version,
    autoclear, compatible, incompatible,
};
use serde::Serialize;
use std::ops::Range;

/// What a field is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Structure {
    /// The header.
    Header,
    /// A header extension.
    Extension,
    /// The name of the backing file.
    BackingName,
    /// The active L1 table.
    L1,
    /// An L2 table.
    L2,
    /// The refcount table.
    RefcountTable,
    /// A refcount block.
    RefcountBlock,
}

/// A named range of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What it is a part of.
    pub structure: Structure,
    /// Its name, as in QEMU's `docs/interop/qcow2.rst`.
    pub name: String,
    /// Its value as a number or text.
    pub value: String,
    /// What that means; may be empty.
    pub meaning: String,
    /// The file offset that the field points at, if it does.
    pub target: Option<u64>,
}

/// Fields given back at most.
const MAX_FIELDS: usize = 4096;

/// The fields in the bytes `range` of a qcow2 node's file, where they belong to `owner` (see
/// [`super::HostMap::owner`]). At most 4096; none for guest data.
pub fn fields(node: &Node, owner: Owner, range: Range<u64>) -> Result<Vec<Field>> {
    let Some(image) = node.image()?.as_qcow2() else {
        return Ok(Vec::new());
    };
    let mut out = match owner {
        Owner::Header => head(node, image)?,
        Owner::L1 => l1(node, image, &range)?,
        Owner::L2 => l2(node, image, &range)?,
        Owner::RefcountTable => refcount_table(node, image, &range)?,
        Owner::RefcountBlock => refcount_block(node, image, &range)?,
        _ => Vec::new(),
    };
    out.retain(|f| f.offset < range.end && f.offset + f.len > range.start);
    out.truncate(MAX_FIELDS);
    Ok(out)
}

/// Offset, bytes, name.
type Spec = (u64, u64, &'static str);

const V2: [Spec; 13] = [
    (0, 4, "magic"),
    (4, 4, "version"),
    (8, 8, "backing_file_offset"),
    (16, 4, "backing_file_size"),
    (20, 4, "cluster_bits"),
    (24, 8, "size"),
    (32, 4, "crypt_method"),
    (36, 4, "l1_size"),
    (40, 8, "l1_table_offset"),
    (48, 8, "refcount_table_offset"),
    (56, 4, "refcount_table_clusters"),
    (60, 4, "nb_snapshots"),
    (64, 8, "snapshots_offset"),
];
const V3: [Spec; 6] = [
    (72, 8, "incompatible_features"),
    (80, 8, "compatible_features"),
    (88, 8, "autoclear_features"),
    (96, 4, "refcount_order"),
    (100, 4, "header_length"),
    (104, 1, "compression_type"),
];

fn head(node: &Node, image: &Qcow2) -> Result<Vec<Field>> {
    let header = &image.head.header;
    let len = header.cluster.bytes().min(node.source.len());
    let mut bytes = vec![0; to_usize(len)];
    read_padded(node.source.as_ref(), 0, &mut bytes)?;
    let v3 = if header.version == Version::V3 {
        V3.as_slice()
    } else {
        &[]
    };
    let mut out: Vec<Field> = V2
        .iter()
        .chain(v3)
        .filter(|(at, len, _)| at + len <= u64::from(header.header_length))
        .map(|&(offset, len, name)| header_field(&bytes, offset, len, name))
        .collect();
    extensions(&bytes, image, &mut out);
    if let Some((at, len)) = header.backing_name {
        let name = image.head.backing.as_ref().map_or("", |b| b.name.as_str());
        out.push(Field {
            offset: at.0,
            len: u64::from(len),
            structure: Structure::BackingName,
            name: "backing file name".to_owned(),
            value: name.to_owned(),
            meaning: String::new(),
            target: None,
        });
    }
    Ok(out)
}

fn header_field(bytes: &[u8], offset: u64, len: u64, name: &str) -> Field {
    let at = to_usize(offset);
    let number = match len {
        8 => be64(bytes, at),
        4 => be32(bytes, at).map(u64::from),
        _ => bytes.get(at).map(|&b| u64::from(b)),
    }
    .unwrap_or(0);
    let pointer = name.ends_with("_offset");
    let (value, meaning) = match name {
        "magic" => ("QFI\\xfb".to_owned(), "a qcow2 image".to_owned()),
        "version" => (
            number.to_string(),
            if number == 2 {
                "compat=0.10"
            } else {
                "compat=1.1"
            }
            .to_owned(),
        ),
        "cluster_bits" => (
            number.to_string(),
            1u64.checked_shl(u32::try_from(number).unwrap_or(64))
                .map_or(String::new(), |n| format!("clusters of {n} bytes")),
        ),
        "size" => (number.to_string(), "bytes of the virtual disk".to_owned()),
        "crypt_method" => {
            let meaning = ["not encrypted", "AES", "LUKS"];
            (
                number.to_string(),
                meaning.get(to_usize(number)).unwrap_or(&"").to_string(),
            )
        }
        "l1_size" => (number.to_string(), "entries of the L1 table".to_owned()),
        "refcount_order" => (
            number.to_string(),
            1u64.checked_shl(u32::try_from(number).unwrap_or(64))
                .map_or(String::new(), |n| format!("refcounts of {n} bits")),
        ),
        "incompatible_features" => (format!("{number:#x}"), bits(number, &INCOMPATIBLE)),
        "compatible_features" => (format!("{number:#x}"), bits(number, &COMPATIBLE)),
        "autoclear_features" => (format!("{number:#x}"), bits(number, &AUTOCLEAR)),
        "compression_type" => {
            let meaning = ["zlib", "zstd"];
            (
                number.to_string(),
                meaning.get(to_usize(number)).unwrap_or(&"").to_string(),
            )
        }
        _ if pointer && number == 0 => ("0".to_owned(), "none".to_owned()),
        _ if pointer => (format!("{number:#x}"), String::new()),
        _ => (number.to_string(), String::new()),
    };
    Field {
        offset,
        len,
        structure: Structure::Header,
        name: name.to_owned(),
        value,
        meaning,
        target: (pointer && number != 0).then_some(number),
    }
}

const INCOMPATIBLE: [(u64, &str); 5] = [
    (incompatible::DIRTY, "dirty"),
    (incompatible::CORRUPT, "corrupt"),
    (incompatible::DATA_FILE, "external data file"),
    (incompatible::COMPRESSION, "compression type"),
    (incompatible::EXTENDED_L2, "extended L2 entries"),
];
const COMPATIBLE: [(u64, &str); 1] = [(compatible::LAZY_REFCOUNTS, "lazy refcounts")];
const AUTOCLEAR: [(u64, &str); 2] = [
    (autoclear::BITMAPS, "bitmaps"),
    (1 << 1, "raw external data"),
];

fn bits(number: u64, names: &[(u64, &str)]) -> String {
    let mut rest = number;
    let mut words = Vec::new();
    for (bit, name) in names {
        if number & bit != 0 {
            words.push((*name).to_owned());
            rest &= !bit;
        }
    }
    if rest != 0 {
        words.push(format!("unknown: {rest:#x}"));
    }
    words.join(", ")
}

fn extensions(bytes: &[u8], image: &Qcow2, out: &mut Vec<Field>) {
    let mut at = to_usize(u64::from(image.head.header.header_length));
    for extension in &image.head.extensions.0 {
        let data = &extension.data;
        let name = match extension.kind {
            Extensions::BACKING_FORMAT => "backing file format",
            Extensions::FEATURE_NAMES => "feature name table",
            Extensions::BITMAPS => "bitmaps",
            Extensions::CRYPTO => "full disk encryption header",
            Extensions::DATA_FILE => "external data file name",
            _ => "unknown extension",
        };
        let text = matches!(
            extension.kind,
            Extensions::BACKING_FORMAT | Extensions::DATA_FILE
        );
        let target = match extension.kind {
            Extensions::CRYPTO => be64(data, 0),
            Extensions::BITMAPS => be64(data, 16),
            _ => None,
        };
        let field = |offset, len, name: String, value, meaning, target| Field {
            offset: to_u64(offset),
            len: to_u64(len),
            structure: Structure::Extension,
            name,
            value,
            meaning,
            target,
        };
        let kind = be32(bytes, at).unwrap_or(0);
        let (kind, of) = (format!("{kind:#010x}"), format!("{} bytes", data.len()));
        out.push(field(at, 8, format!("extension: {name}"), kind, of, None));
        if !data.is_empty() {
            let value = if text {
                String::from_utf8_lossy(data).into_owned()
            } else {
                String::new()
            };
            out.push(field(
                at + 8,
                data.len(),
                name.to_owned(),
                value,
                String::new(),
                target,
            ));
        }
        at = (at + 8 + data.len()).next_multiple_of(8);
    }
}

/// The words of `table` (its bytes in the file) that `range` touches: offset, index, value.
fn words(
    node: &Node,
    table: Range<u64>,
    len: u64,
    range: &Range<u64>,
) -> Result<Vec<(u64, u64, Vec<u8>)>> {
    let first = range.start.saturating_sub(table.start) / len;
    let end = range
        .end
        .min(table.end)
        .saturating_sub(table.start)
        .div_ceil(len);
    let count = end.saturating_sub(first).min(to_u64(MAX_FIELDS));
    let start = table.start + first * len;
    let mut bytes = vec![0; to_usize(count * len)];
    read_padded(node.source.as_ref(), start, &mut bytes)?;
    let words = bytes.chunks_exact(to_usize(len)).enumerate();
    Ok(words
        .map(|(n, word)| (start + to_u64(n) * len, first + to_u64(n), word.to_vec()))
        .collect())
}

fn l1(node: &Node, image: &Qcow2, range: &Range<u64>) -> Result<Vec<Field>> {
    let header = &image.head.header;
    let start = header.l1_table.0;
    let table = start..start.saturating_add(u64::from(header.l1_entries) * L1Entry::LEN);
    let span = image.layout().table_span();
    Ok(words(node, table, L1Entry::LEN, range)?
        .into_iter()
        .map(|(offset, index, word)| {
            let value = be64(&word, 0).unwrap_or(0);
            let at = value & OFFSET_MASK;
            let guest = index.saturating_mul(span);
            let meaning = if at == 0 {
                format!("guest {guest:#x}: no L2 table")
            } else {
                format!("guest {guest:#x}: L2 table at {at:#x}{}", copied(value))
            };
            Field {
                offset,
                len: L1Entry::LEN,
                structure: Structure::L1,
                name: format!("L1 entry {index}"),
                value: format!("{value:#018x}"),
                meaning,
                target: (at != 0).then_some(at),
            }
        })
        .collect())
}

fn copied(value: u64) -> &'static str {
    if value >> 63 == 1 {
        ", refcount 1"
    } else {
        ", shared"
    }
}

fn l2(node: &Node, image: &Qcow2, range: &Range<u64>) -> Result<Vec<Field>> {
    let layout = image.layout();
    let cluster = layout.cluster;
    let start = cluster.align_down(range.start);
    let mut walk = TableWalk::active(&node.source, image);
    let guest = loop {
        match walk.next_place()? {
            Some((guest, at)) if at.0 == start => break guest,
            Some(_) => {}
            None => return Ok(Vec::new()),
        }
    };
    let table = start..start.saturating_add(cluster.bytes());
    Ok(words(node, table, layout.entry_len(), range)?
        .into_iter()
        .map(|(offset, index, word)| {
            let (value, bitmap) = (be64(&word, 0).unwrap_or(0), be64(&word, 8).unwrap_or(0));
            let guest = guest.saturating_add(index << cluster.bits());
            let (what, target) = match L2Entry::defect(value, bitmap, layout) {
                Some(defect) => (defect.to_owned(), None),
                None => l2_meaning(value, L2Entry::from_bits(value, bitmap, layout)),
            };
            let subclusters = if layout.extended {
                format!(" {bitmap:#018x}")
            } else {
                String::new()
            };
            Field {
                offset,
                len: layout.entry_len(),
                structure: Structure::L2,
                name: format!("L2 entry {index}"),
                value: format!("{value:#018x}{subclusters}"),
                meaning: format!("guest {guest:#x}: {what}"),
                target,
            }
        })
        .collect())
}

fn l2_meaning(value: u64, entry: L2Entry) -> (String, Option<u64>) {
    match entry.kind {
        L2Kind::Standard { host } => (
            format!("data at {:#x}{}", host.0, copied(value)),
            Some(host.0),
        ),
        L2Kind::Zero { host: Some(host) } => (
            format!(
                "reads as zeros, {:#x} is kept for it{}",
                host.0,
                copied(value)
            ),
            Some(host.0),
        ),
        L2Kind::Zero { host: None } => ("reads as zeros".to_owned(), None),
        L2Kind::Compressed(packed) => (
            format!(
                "compressed, at most {} bytes at {:#x}",
                packed.len, packed.host.0
            ),
            Some(packed.host.0),
        ),
        L2Kind::Unallocated if entry.subclusters.zero != 0 => {
            ("some subclusters read as zeros".to_owned(), None)
        }
        L2Kind::Unallocated => ("not allocated: the backing file decides".to_owned(), None),
    }
}

fn refcount_table(node: &Node, image: &Qcow2, range: &Range<u64>) -> Result<Vec<Field>> {
    let header = &image.head.header;
    let start = header.refcount_table.0;
    let table = start..start.saturating_add(header.refcount_table_bytes());
    let per = header.refcount_width.per_block(header.cluster);
    Ok(words(node, table, RefcountTableEntry::LEN, range)?
        .into_iter()
        .map(|(offset, index, word)| {
            let value = be64(&word, 0).unwrap_or(0);
            let first = index.saturating_mul(per);
            let last = first.saturating_add(per - 1);
            let meaning = if value == 0 {
                format!("clusters {first} to {last}: no refcount block")
            } else {
                format!("clusters {first} to {last}: refcount block at {value:#x}")
            };
            Field {
                offset,
                len: RefcountTableEntry::LEN,
                structure: Structure::RefcountTable,
                name: format!("refcount table entry {index}"),
                value: format!("{value:#018x}"),
                meaning,
                target: (value != 0).then_some(value),
            }
        })
        .collect())
}

fn refcount_block(node: &Node, image: &Qcow2, range: &Range<u64>) -> Result<Vec<Field>> {
    let header = &image.head.header;
    let cluster = header.cluster;
    let start = cluster.align_down(range.start);
    let entries = to_usize(header.refcount_table_bytes());
    let mut table = vec![0; entries];
    read_padded(node.source.as_ref(), header.refcount_table.0, &mut table)?;
    let index = table
        .chunks_exact(8)
        .position(|word| be64(word, 0).is_some_and(|at| at == start));
    let Some(index) = index else {
        return Ok(Vec::new());
    };
    let per = header.refcount_width.per_block(cluster);
    let mut bytes = vec![0; to_usize(cluster.bytes())];
    read_padded(node.source.as_ref(), start, &mut bytes)?;
    let block = RefcountBlock::from_bytes(bytes, header.refcount_width);
    let width = header.refcount_width.bits();
    let (from, to) = (
        range.start.saturating_sub(start) * 8 / width,
        (range.end.min(start + cluster.bytes()) - start) * 8 / width,
    );
    let field = |entry: u64| {
        let number = to_u64(index) * per + entry;
        let at = number << cluster.bits();
        let count = block.get(entry);
        Field {
            offset: start + entry * width / 8,
            len: (width / 8).max(1),
            structure: Structure::RefcountBlock,
            name: format!("refcount of cluster {number}"),
            value: count.to_string(),
            meaning: match count {
                0 => "free".to_owned(),
                1 => "used once".to_owned(),
                n => format!("used {n} times"),
            },
            target: (at < node.source.len()).then_some(at),
        }
    };
    Ok((from..to.min(per)).take(MAX_FIELDS).map(field).collect())
}
