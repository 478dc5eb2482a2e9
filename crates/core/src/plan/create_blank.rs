//! The layout of a new qcow2 image: head, refcount table, refcount blocks, L1 table, and, when
//! it is preallocated, L2 tables and the place of the guest's data, in this order.
//!
//! Everything but the head follows from a few numbers, so nothing is kept as a list: tables
//! are made where they are read, a piece at a time.

use super::create_header::{header, too_large};
use super::{CreateOptions, MetadataKind, Preallocation, Stage, Step, StepQueue};
use crate::chain::{CipherCell, Fingerprint, FormatOrigin, Locator, Node, NodeId, Opening};
use crate::crypto::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::source::{ReadAt, Source, Zeros};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::luks::HeaderPointer;
use backchain_format::qcow2::{
    Backing, ClusterSize, Extension, Extensions, FeatureNames, Head, Header, L1Entry, L2Entry,
    L2Kind, L2Layout, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, RefcountBlock, Subclusters, Version,
};
use backchain_format::{Format, HostOffset};
use std::io;
use std::sync::Arc;

/// Bytes of tables written by one step.
const PIECE: u64 = 1 << 20;

/// A new qcow2 image that holds nothing yet.
#[derive(Clone)]
pub(super) struct Blank {
    head: Head,
    layout: Layout,
    preallocation: Preallocation,
    data_file: Option<String>,
    encryption: Option<Arc<Volume>>,
}

/// Where everything is, in clusters.
#[derive(Clone, Copy)]
struct Layout {
    refcount_table: u64,
    blocks: u64,
    l1: u64,
    /// The LUKS header and its key material.
    crypto: u64,
    /// L2 tables; none unless the image is preallocated.
    tables: u64,
    /// Clusters for the guest's data.
    data: u64,
}

impl Layout {
    fn first_block(&self) -> u64 {
        1 + self.refcount_table
    }

    fn first_l1(&self) -> u64 {
        self.first_block() + self.blocks
    }

    fn first_crypto(&self) -> u64 {
        self.first_l1() + self.l1
    }

    fn first_table(&self) -> u64 {
        self.first_crypto() + self.crypto
    }

    fn first_data(&self) -> u64 {
        self.first_table() + self.tables
    }

    fn end(&self) -> u64 {
        self.first_data() + self.data
    }
}

impl Blank {
    /// Lays out an image with these options, or says in qemu-img's words what is wrong with
    /// them.
    pub(super) fn new(
        options: &CreateOptions,
        size: u64,
        backing: Option<Backing>,
    ) -> Result<Self> {
        let header = header(options, size, backing.is_some())?;
        let data_file = options.data_file.clone();
        // In a raw image every cluster has its place, so a raw data file has it too.
        let preallocation = match options.preallocation {
            Preallocation::Off if options.data_file_raw => Preallocation::Metadata,
            other => other,
        };
        let limit = if options.beyond_qemu {
            u64::from(u32::MAX) * L1Entry::LEN
        } else {
            MAX_L1_BYTES
        };
        if header.l1_entries_for(size) * L1Entry::LEN > limit {
            return Err(too_large());
        }
        let encryption = options.encryption.clone();
        Self::lay_out(header, backing, preallocation, data_file, encryption)
    }

    fn lay_out(
        mut header: Header,
        backing: Option<Backing>,
        preallocation: Preallocation,
        data_file: Option<String>,
        encryption: Option<Arc<Volume>>,
    ) -> Result<Self> {
        let cluster = header.cluster;
        let entries = header.l1_entries_for(header.size);
        let mut layout = Layout {
            refcount_table: 1,
            blocks: 1,
            l1: cluster.clusters(entries * L1Entry::LEN),
            crypto: encryption
                .as_ref()
                .map_or(0, |volume| cluster.clusters(to_u64(volume.bytes.len()))),
            tables: 0,
            data: 0,
        };
        if preallocation != Preallocation::Off {
            layout.tables = entries;
            if data_file.is_none() {
                layout.data = cluster.clusters(header.size);
            }
        }
        let per = header.refcount_width.per_block(cluster);
        loop {
            let blocks = layout.end().div_ceil(per);
            let table = cluster.clusters(blocks * 8);
            if table << cluster.bits() > MAX_REFCOUNT_TABLE_BYTES {
                return Err(too_large());
            }
            if blocks <= layout.blocks && table <= layout.refcount_table {
                break;
            }
            layout.blocks = layout.blocks.max(blocks);
            layout.refcount_table = layout.refcount_table.max(table);
        }
        header.refcount_table_clusters = u32::try_from(layout.refcount_table).unwrap_or(u32::MAX);
        header.l1_entries = u32::try_from(entries).unwrap_or(u32::MAX);
        header.l1_table = HostOffset(layout.first_l1() << cluster.bits());

        let mut extensions = Extensions::default();
        if let Some(name) = &data_file {
            let (kind, data) = (Extensions::DATA_FILE, name.as_bytes().to_vec());
            extensions.0.push(Extension { kind, data });
        }
        if let Some(volume) = &encryption {
            let pointer = HeaderPointer {
                offset: layout.first_crypto() << cluster.bits(),
                len: to_u64(volume.bytes.len()),
            };
            let (kind, data) = (Extensions::CRYPTO, pointer.to_bytes());
            extensions.0.push(Extension { kind, data });
        }
        // Clusters of 512 bytes have no room for names of features beside that of a backing
        // file, which may come later.
        if header.version == Version::V3 && cluster.bytes() > 512 {
            let (kind, data) = (Extensions::FEATURE_NAMES, FeatureNames::standard_bytes());
            extensions.0.push(Extension { kind, data });
        }
        let mut head = Head {
            header,
            extensions,
            backing,
        };
        if head.pack().is_err() {
            head.extensions.set(Extensions::FEATURE_NAMES, None);
            head.pack()?;
        }
        Ok(Self {
            head,
            layout,
            preallocation,
            data_file,
            encryption,
        })
    }

    fn cluster(&self) -> ClusterSize {
        self.head.header.cluster
    }

    fn l2_layout(&self) -> L2Layout {
        self.head.header.l2_layout()
    }

    /// Length of the file.
    fn len(&self) -> u64 {
        self.layout.end() << self.cluster().bits()
    }

    /// The stage that writes the image into the new file `to`, up to its guest's data.
    pub(super) fn stage(&self, to: NodeId) -> BlankStage {
        BlankStage {
            to,
            blank: self.clone(),
            cluster: None,
        }
    }

    /// The external data file that goes with it, the file `image`: the path to make it at.
    ///
    /// # Errors
    /// When the name is not one of another local file.
    pub(super) fn data_path(&self, image: &str) -> Result<Option<String>> {
        let resolve = |name: &String| match Locator::parse(name) {
            Locator::Path(path) if path == image => {
                let message = "the image cannot be its own external data file";
                Err(Error::new(ErrorKind::Invalid, message))
            }
            Locator::Path(path) => Ok(path),
            _ => {
                let protocol = name.split(':').next().unwrap_or_default();
                let message = format!("Unknown protocol '{protocol}'");
                Err(Error::new(ErrorKind::Invalid, message))
            }
        };
        self.data_file.as_ref().map(resolve).transpose()
    }

    /// The steps that make the data file `to`: as long as the disk, with what is preallocated.
    pub(super) fn data_steps(&self, to: NodeId) -> Vec<Step> {
        let mut steps = vec![Step::Create { node: to }];
        let len = self.head.header.size;
        if len == 0 {
            return steps;
        }
        steps.push(Step::SetLen { to, len });
        let write = match self.preallocation {
            Preallocation::Falloc => false,
            Preallocation::Full => true,
            Preallocation::Off | Preallocation::Metadata => return steps,
        };
        let dst = HostOffset(0);
        steps.push(Step::Allocate {
            to,
            dst,
            len,
            write,
        });
        steps
    }

    /// The image as a node, so that a target can be built on it before it exists.
    pub(super) fn into_node(self, id: NodeId, name: &str) -> Result<Arc<Node>> {
        let data = match self.data_path(name)? {
            // It reads as zeros, however long it is.
            Some(path) => {
                let source = Arc::new(Zeros(0));
                let data = new_node(data_id(id), &path, Format::Raw, source)?;
                Some(Arc::new(data))
            }
            None => None,
        };
        let cipher = self.encryption.as_ref().map(|v| Arc::clone(&v.cipher));
        let node = new_node(id, name, Format::Qcow2, Arc::new(self))?;
        let unlocked = CipherCell::of(cipher);
        Ok(Arc::new(Node {
            data,
            unlocked,
            ..node
        }))
    }

    /// What kind of metadata the host cluster `number` holds, and the number of the first
    /// cluster behind those of its kind.
    fn kind(&self, number: u64) -> Option<(MetadataKind, u64)> {
        let layout = &self.layout;
        [
            (MetadataKind::Header, 1),
            (MetadataKind::RefcountTable, layout.first_block()),
            (MetadataKind::RefcountBlock, layout.first_l1()),
            (MetadataKind::L1, layout.first_crypto()),
            (MetadataKind::CryptoHeader, layout.first_table()),
            (MetadataKind::L2, layout.first_data()),
        ]
        .into_iter()
        .find(|(_, end)| number < *end)
    }

    /// Makes the bytes of the host cluster `number`.
    fn fill(&self, number: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let Some((kind, _)) = self.kind(number) else {
            return;
        };
        let (cluster, layout) = (self.cluster(), &self.layout);
        let words = to_u64(bytes.len()) / 8;
        match kind {
            MetadataKind::Header => {
                let mut put = |at: usize, part: &[u8]| {
                    if let Some(place) = bytes.get_mut(at..at + part.len()) {
                        place.copy_from_slice(part);
                    }
                };
                put(0, &self.head.to_bytes());
                if let Some((at, name)) = self.head.name_bytes() {
                    put(to_usize(at.0), name);
                }
            }
            MetadataKind::RefcountTable => {
                let first = (number - 1) * words;
                put_words(bytes, |word| {
                    let block = first + word;
                    (block < layout.blocks)
                        .then_some((layout.first_block() + block) << cluster.bits())
                });
            }
            MetadataKind::RefcountBlock => {
                let width = self.head.header.refcount_width;
                let per = width.per_block(cluster);
                let first = (number - layout.first_block()) * per;
                let mut block = RefcountBlock::new(cluster, width);
                for index in 0..layout.end().saturating_sub(first).min(per) {
                    // 1 fits every width and the index is within the block.
                    let _ = block.set(index, 1);
                }
                bytes.copy_from_slice(block.as_bytes());
            }
            MetadataKind::L1 => {
                let first = (number - layout.first_l1()) * words;
                put_words(bytes, |word| {
                    let table = first + word;
                    let at = HostOffset((layout.first_table() + table) << cluster.bits());
                    let entry = L1Entry {
                        table: Some(at),
                        copied: true,
                    };
                    (table < layout.tables).then(|| entry.to_bits())
                });
            }
            MetadataKind::CryptoHeader => {
                let at = to_usize((number - layout.first_crypto()) << cluster.bits());
                let volume = self.encryption.as_ref();
                let rest = volume.and_then(|volume| volume.bytes.get(at..));
                for (byte, value) in bytes.iter_mut().zip(rest.unwrap_or_default()) {
                    *byte = *value;
                }
            }
            _ => {
                let entries = self.l2_layout();
                let clusters = cluster.clusters(self.head.header.size);
                let first = (number - layout.first_table()) * entries.entries();
                let per = entries.entry_len() / 8;
                put_words(bytes, |word| {
                    let guest = first + word / per;
                    let place = match self.data_file {
                        Some(_) => guest,
                        None => layout.first_data() + guest,
                    };
                    let host = HostOffset(place << cluster.bits());
                    let entry = L2Entry {
                        kind: L2Kind::Standard { host },
                        copied: true,
                        // With subclusters there is a place for data, but none yet.
                        subclusters: Subclusters::default(),
                    };
                    let (bits, _) = entry.to_bits(entries)?;
                    (guest < clusters && word % per == 0).then_some(bits)
                });
            }
        }
    }
}

/// The number of the data file of the new image `id`.
pub(super) fn data_id(id: NodeId) -> NodeId {
    NodeId(id.0.saturating_add(1))
}

/// The node of a file that is not there yet.
pub(super) fn new_node(id: NodeId, name: &str, format: Format, source: Source) -> Result<Node> {
    Ok(Node {
        id,
        name: name.to_owned(),
        opened: Opening::plain(name.to_owned()),
        key: String::new(),
        origin: FormatOrigin::Given,
        probed: format,
        image: Image::open(source.as_ref(), format),
        fingerprint: Fingerprint::of(source.as_ref(), None)?,
        allocated: None,
        data: None,
        data_error: None,
        unlocked: CipherCell::default(),
        source,
    })
}

fn put_words(bytes: &mut [u8], word: impl Fn(u64) -> Option<u64>) {
    for (index, place) in bytes.chunks_exact_mut(8).enumerate() {
        if let Some(word) = word(to_u64(index)) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }
}

/// What the file will be, up to the guest's data, which is zeros.
impl ReadAt for Blank {
    fn len(&self) -> u64 {
        Self::len(self)
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(to_u64(buf.len()));
        if end > Self::len(self) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let cluster = self.cluster();
        let mut whole = vec![0; to_usize(cluster.bytes())];
        let (mut pos, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let start = cluster.align_down(pos);
            let n = (start + cluster.bytes() - pos).min(to_u64(rest.len()));
            let (now, later) = rest.split_at_mut(to_usize(n));
            self.fill(start >> cluster.bits(), &mut whole);
            let from = to_usize(pos - start);
            now.copy_from_slice(whole.get(from..from + now.len()).unwrap_or_default());
            pos += n;
            rest = later;
        }
        Ok(())
    }
}

/// Writes a new image, a few tables at a time.
pub(super) struct BlankStage {
    to: NodeId,
    blank: Blank,
    /// The next cluster; `None` before the first.
    cluster: Option<u64>,
}

impl Stage for BlankStage {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        let (to, blank) = (self.to, &self.blank);
        let bits = blank.cluster().bits();
        let Some(number) = self.cluster else {
            let len = blank.len();
            out.push(Step::SetLen { to, len });
            self.cluster = Some(0);
            return Ok(true);
        };
        let Some((kind, end)) = blank.kind(number) else {
            self.blank.allocate(to, out);
            return Ok(false);
        };
        let count = (end - number).min((PIECE >> bits).max(1));
        let mut bytes = vec![0; to_usize(count << bits)];
        blank.read_exact_at(number << bits, &mut bytes)?;
        // What is not written is zeros; but where blocks are wanted, tables get theirs too.
        let whole = matches!(
            blank.preallocation,
            Preallocation::Falloc | Preallocation::Full
        );
        // A file with holes among its tables looks preallocated to QEMU, which then asks the
        // file system what the data file holds.
        let whole = whole || blank.data_file.is_some();
        if !whole || kind == MetadataKind::Header {
            let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
            bytes.truncate(used.next_multiple_of(8));
        }
        if !bytes.is_empty() {
            let dst = HostOffset(number << bits);
            out.push(Step::Write {
                to,
                dst,
                kind,
                bytes,
            });
        }
        self.cluster = Some(number + count);
        Ok(true)
    }
}

impl Blank {
    /// Takes blocks of the disk for the guest's data, where that is asked for.
    fn allocate(&self, to: NodeId, out: &mut StepQueue) {
        let bits = self.cluster().bits();
        let start = self.layout.first_data() << bits;
        let len = self.layout.data << bits;
        if len == 0 {
            return;
        }
        let size = self.head.header.size;
        let (from, write) = match self.preallocation {
            Preallocation::Falloc => (0, false),
            Preallocation::Full => (0, true),
            // As QEMU does, the rest of a cluster behind the end of the disk is written.
            Preallocation::Metadata if !self.l2_layout().extended => (size.min(len), true),
            Preallocation::Metadata | Preallocation::Off => return,
        };
        if from < len {
            out.push(Step::Allocate {
                to,
                dst: HostOffset(start + from),
                len: len - from,
                write,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::Place;

    /// Every cluster of a preallocated image is counted and mapped to a place of its own.
    #[test]
    fn a_preallocated_image_is_whole() {
        for (cluster_size, extended_l2, bits, size) in [
            (512, false, 1, 3 << 20),
            (4096, false, 64, (9 << 20) + 512),
            (16384, true, 16, 5 << 20),
            (65536, false, 16, 0),
        ] {
            let options = CreateOptions {
                cluster_size,
                extended_l2,
                refcount_bits: bits,
                preallocation: Preallocation::Metadata,
                ..CreateOptions::default()
            };
            let blank = Blank::new(&options, size, None).unwrap();
            let end = Blank::len(&blank);
            let node = blank.into_node(NodeId(0), "new").unwrap();
            let mut next = None;
            for extent in node.extents(0).unwrap() {
                let extent = extent.unwrap();
                if extended_l2 {
                    assert_eq!(extent.place, Place::Unallocated);
                    continue;
                }
                let Place::Data { host } = extent.place else {
                    panic!("{extent:?}");
                };
                assert_eq!(*next.get_or_insert(host.0), host.0);
                next = Some(host.0 + extent.len);
            }
            if let Some(next) = next {
                assert_eq!(next.next_multiple_of(cluster_size), end);
            }
        }
    }
}
