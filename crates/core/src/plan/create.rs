//! Making new images: empty ones, overlays, and copies of a guest view.

use super::flow::{Flow, Take};
use super::info::InfoBuilder;
use super::link::{HeadCell, backing_for};
use super::qcow2_target::{Qcow2Stage, Qcow2Target};
use super::raw_target::RawStage;
use super::{CreateOptions, Fixed, MetadataKind, Plan, Stage, Step, guard};
use crate::chain::{Fingerprint, FormatOrigin, Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::source::{ReadAt, Source};
use backchain_format::bytes::{align_up, to_u64, to_usize};
use backchain_format::qcow2::{
    Backing, ClusterSize, Codec, CryptMethod, Extension, Extensions, FeatureNames, Head, Header,
    MAX_L1_BYTES, RefcountBlock, RefcountWidth, Version, compatible, incompatible,
};
use backchain_format::{Format, HostOffset};
use std::io;
use std::sync::Arc;

/// [`super::Operation::Create`].
pub(super) fn plan_create(
    tree: &Tree,
    name: &str,
    options: &CreateOptions,
    backing: Option<NodeId>,
) -> Result<Plan> {
    let mut info = InfoBuilder::new(tree);
    let id = new_id(tree);
    info.made(id, name);
    let below = backing.map(|id| tree.node(id));
    if let Some(below) = below {
        info.read(std::slice::from_ref(below));
        if let Some(format) = options.backing_format {
            guard::check_label(below, format)?;
        }
    }
    let size = match (options.size, below) {
        (Some(size), _) => size,
        (None, Some(below)) => {
            below.image()?;
            below.virtual_size()
        }
        (None, None) => {
            return Err(Error::new(
                ErrorKind::Invalid,
                "an image without a backing file needs a size",
            ));
        }
    };
    let link = link(tree, name, options, below.map(Arc::as_ref))?;
    info.link(id, backing);
    let mut steps = vec![Step::Create { node: id }];
    if options.format == Format::Raw {
        if link.is_some() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a raw image cannot have a backing file",
            ));
        }
        steps.extend((size > 0).then_some(Step::SetLen { to: id, len: size }));
    } else {
        steps.extend(Blank::new(options, size, link)?.steps(id));
    }
    steps.push(Step::Seal { node: id });
    Ok(Plan::new(info.build(), vec![Box::new(Fixed(steps))]))
}

/// [`super::Operation::Convert`].
pub(super) fn plan_convert(
    tree: &Tree,
    top: NodeId,
    name: &str,
    options: &CreateOptions,
) -> Result<Plan> {
    let chain = tree.chain(top)?;
    let size = chain.virtual_size();
    let mut info = InfoBuilder::new(tree);
    info.read(chain.layers());
    let id = new_id(tree);
    info.made(id, name);
    info.link(id, None);
    info.equivalent(format!(
        "qemu-img convert -O {} {} {name}",
        options.format,
        tree.node(top).name
    ));
    let seal = vec![Step::Seal { node: id }];
    let mut stages: Vec<Box<dyn Stage>> = Vec::new();
    if options.format == Format::Raw {
        let flow = Flow::new(&chain, None, Take::All, 1)?;
        stages.push(Box::new(Fixed(vec![Step::Create { node: id }])));
        stages.push(Box::new(RawStage::new(id, 0, size, flow, seal)));
    } else {
        let blank = Blank::new(options, size, None)?;
        let mut steps = vec![Step::Create { node: id }];
        steps.extend(blank.steps(id));
        // The tables are written again when they are filled: that must not overtake this.
        steps.push(Step::Sync { node: id });
        let node = blank.into_node(id, name)?;
        let flow = Flow::new(&chain, None, Take::All, node.image()?.granule())?;
        let target = Qcow2Target::new(&node, HeadCell::of(&node)?, true)?;
        stages.push(Box::new(Fixed(steps)));
        stages.push(Box::new(Qcow2Stage::new(target, flow, None, seal)));
    }
    Ok(Plan::new(info.build(), stages))
}

fn new_id(tree: &Tree) -> NodeId {
    NodeId(u32::try_from(tree.nodes().len()).unwrap_or(u32::MAX))
}

/// The link that a new overlay `name` gets.
fn link(
    tree: &Tree,
    name: &str,
    options: &CreateOptions,
    below: Option<&Node>,
) -> Result<Option<Backing>> {
    let format = options.backing_format.map(|f| f.name().to_owned());
    let Some(below) = below else {
        return Ok(options
            .backing_name
            .clone()
            .map(|name| Backing { name, format }));
    };
    let mut link = match &options.backing_name {
        Some(name) => Backing {
            name: name.clone(),
            format: Some(below.image()?.format().name().to_owned()),
        },
        None => backing_for(tree, name, below)?,
    };
    if format.is_some() {
        link.format = format;
    }
    Ok(Some(link))
}

/// A new, empty qcow2 image: head, refcount table, refcount blocks, L1 table, in this order.
struct Blank {
    head: Head,
    table_clusters: u64,
    blocks: u64,
    /// Clusters of the whole file.
    clusters: u64,
}

impl Blank {
    fn new(options: &CreateOptions, size: u64, backing: Option<Backing>) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        let Some(cluster) = ClusterSize::from_bytes(options.cluster_size) else {
            return Err(invalid(
                "Cluster size must be a power of two between 512 and 2048k".to_owned(),
            ));
        };
        let width = RefcountWidth::from_bits(options.refcount_bits).ok_or_else(|| {
            invalid("Refcount width must be a power of two and may not exceed 64 bits".to_owned())
        })?;
        if !options.v3 && width != RefcountWidth::DEFAULT {
            let message = "Different refcount widths than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)";
            return Err(invalid(message.to_owned()));
        }
        if !options.v3
            && (options.extended_l2 || options.lazy_refcounts || options.codec != Codec::Zlib)
        {
            let what = if options.extended_l2 {
                "Extended L2 entries are"
            } else if options.lazy_refcounts {
                "Lazy refcounts are"
            } else {
                "Non-zlib compression type is"
            };
            return Err(invalid(format!(
                "{what} only supported with compatibility level 1.1 and above (use compat=1.1 or greater)"
            )));
        }
        if options.extended_l2 && cluster.bits() < 14 {
            return Err(invalid(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"
                    .to_owned(),
            ));
        }
        let mut incompatible = 0;
        if options.extended_l2 {
            incompatible |= incompatible::EXTENDED_L2;
        }
        if options.codec != Codec::Zlib {
            incompatible |= incompatible::COMPRESSION;
        }
        let header = Header {
            version: if options.v3 { Version::V3 } else { Version::V2 },
            backing_name: None,
            cluster,
            size,
            crypt: CryptMethod::None,
            l1_table: HostOffset(0),
            l1_entries: 0,
            refcount_table: HostOffset(cluster.bytes()),
            refcount_table_clusters: 1,
            snapshots: 0,
            snapshot_table: HostOffset(0),
            incompatible,
            compatible: if options.lazy_refcounts {
                compatible::LAZY_REFCOUNTS
            } else {
                0
            },
            autoclear: 0,
            refcount_width: width,
            codec: options.codec,
            header_length: if options.v3 { 112 } else { 72 },
            unknown: if options.v3 { vec![0; 7] } else { Vec::new() },
        };
        Self::lay_out(header, backing)
    }

    fn lay_out(mut header: Header, backing: Option<Backing>) -> Result<Self> {
        let cluster = header.cluster;
        let entries = header.l1_entries_for(header.size);
        if entries * 8 > MAX_L1_BYTES {
            let message = "The image size is too large (try using a larger cluster size)";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let l1 = cluster.clusters(entries * 8);
        let per = header.refcount_width.per_block(cluster);
        let (mut table_clusters, mut blocks) = (1, 1);
        let clusters = loop {
            let all = 1 + table_clusters + blocks + l1;
            let need = all.div_ceil(per);
            let need_table = cluster.clusters(need * 8);
            if need <= blocks && need_table <= table_clusters {
                break all;
            }
            blocks = blocks.max(need);
            table_clusters = table_clusters.max(need_table);
        };
        header.refcount_table_clusters = u32::try_from(table_clusters).unwrap_or(u32::MAX);
        header.l1_entries = u32::try_from(entries).unwrap_or(u32::MAX);
        header.l1_table = HostOffset((1 + table_clusters + blocks) << cluster.bits());

        let mut extensions = Extensions::default();
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
            table_clusters,
            blocks,
            clusters,
        })
    }

    /// The parts of the file that are not zeros.
    fn parts(&self) -> Vec<(HostOffset, MetadataKind, Vec<u8>)> {
        let header = &self.head.header;
        let (cluster, width) = (header.cluster, header.refcount_width);
        let mut parts = vec![(HostOffset(0), MetadataKind::Header, self.head.to_bytes())];
        if let Some((at, name)) = self.head.name_bytes() {
            parts.push((at, MetadataKind::BackingName, name.to_vec()));
        }
        let first = 1 + self.table_clusters;
        let table = (first..first + self.blocks)
            .flat_map(|c| (c << cluster.bits()).to_be_bytes())
            .collect();
        parts.push((header.refcount_table, MetadataKind::RefcountTable, table));
        let per = width.per_block(cluster);
        for index in 0..self.blocks {
            let mut block = RefcountBlock::new(cluster, width);
            for number in index * per..((index + 1) * per).min(self.clusters) {
                let _ = block.set(number % per, 1);
            }
            let at = HostOffset((first + index) << cluster.bits());
            parts.push((at, MetadataKind::RefcountBlock, block.as_bytes().to_vec()));
        }
        parts
    }

    fn len(&self) -> u64 {
        self.clusters << self.head.header.cluster.bits()
    }

    fn steps(&self, to: NodeId) -> Vec<Step> {
        let mut steps = vec![Step::SetLen {
            to,
            len: self.len(),
        }];
        steps.extend(
            self.parts()
                .into_iter()
                .map(|(dst, kind, bytes)| Step::Write {
                    to,
                    dst,
                    kind,
                    bytes,
                }),
        );
        steps
    }

    /// The blank image as a node, so that a target can be built on it before it exists.
    fn into_node(self, id: NodeId, name: &str) -> Result<Arc<Node>> {
        let parts = self
            .parts()
            .into_iter()
            .map(|(at, _, bytes)| (at.0, bytes))
            .collect();
        let source: Source = Arc::new(Sparse {
            len: self.len(),
            parts,
        });
        let fingerprint = Fingerprint::of(source.as_ref(), None)?;
        Ok(Arc::new(Node {
            id,
            name: name.to_owned(),
            key: String::new(),
            origin: FormatOrigin::Given,
            probed: Format::Qcow2,
            image: Image::open(source.as_ref(), Format::Qcow2),
            fingerprint,
            allocated: None,
            data: None,
            data_error: None,
            source,
        }))
    }
}

/// A few parts with zeros between them.
struct Sparse {
    len: u64,
    parts: Vec<(u64, Vec<u8>)>,
}

impl ReadAt for Sparse {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        let end = offset.saturating_add(to_u64(buf.len()));
        if end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (at, bytes) in &self.parts {
            let (from, to) = (offset.max(*at), end.min(at + to_u64(bytes.len())));
            if from < to {
                let source = bytes
                    .get(to_usize(from - at)..to_usize(to - at))
                    .unwrap_or_default();
                if let Some(target) = buf.get_mut(to_usize(from - offset)..to_usize(to - offset)) {
                    target.copy_from_slice(source);
                }
            }
        }
        Ok(())
    }
}

/// A size as QEMU makes it: whole sectors.
pub fn round_size(bytes: u64) -> Option<u64> {
    align_up(bytes, backchain_format::raw::SECTOR)
}
