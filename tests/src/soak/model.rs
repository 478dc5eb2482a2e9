//! What every image has to show, as plain bytes.

use std::cmp::min;

/// How a qcow2 image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Features {
    /// Version 3.
    pub(super) v3: bool,
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    /// Extended L2 entries.
    pub(super) extended: bool,
    /// Width of refcounts.
    pub(super) refcount_bits: u64,
    /// Lazy refcounts.
    pub(super) lazy: bool,
    /// Compressed clusters are packed with zstd.
    pub(super) zstd: bool,
}

impl Features {
    /// As `-o` has it.
    pub(super) fn options(&self) -> String {
        let mut options = format!(
            "compat={},cluster_size={}",
            if self.v3 { "1.1" } else { "0.10" },
            self.cluster
        );
        if self.v3 {
            let on = |flag: bool| if flag { "on" } else { "off" };
            options += &format!(
                ",extended_l2={},refcount_bits={},lazy_refcounts={},compression_type={}",
                on(self.extended),
                self.refcount_bits,
                on(self.lazy),
                if self.zstd { "zstd" } else { "zlib" }
            );
        }
        options
    }
}

/// An internal snapshot.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// Its name.
    pub(super) tag: String,
    /// What it shows; its length is the size of its disk.
    pub(super) view: Vec<u8>,
}

/// A persistent bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmap {
    /// Its name.
    pub(super) name: String,
    /// It records what is written.
    pub(super) enabled: bool,
}

/// One image.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Its file.
    pub(super) name: String,
    /// `None`: raw.
    pub(super) features: Option<Features>,
    /// What the guest sees through it.
    pub(super) view: Vec<u8>,
    /// Its internal snapshots, oldest first.
    pub(super) snapshots: Vec<Snapshot>,
    /// Its bitmaps.
    pub(super) bitmaps: Vec<Bitmap>,
    /// QEMU died while it wrote: refcounts may be behind.
    pub(super) dirty: bool,
}

impl Layer {
    /// Virtual size in bytes.
    pub(super) fn size(&self) -> u64 {
        u64::try_from(self.view.len()).expect("a small image")
    }

    /// Its format's name.
    pub(super) fn format(&self) -> &'static str {
        if self.features.is_some() {
            "qcow2"
        } else {
            "raw"
        }
    }

    /// qcow2 of version 2.
    pub(super) fn is_v2(&self) -> bool {
        self.features.as_ref().is_some_and(|f| !f.v3)
    }

    /// With extended L2 entries.
    pub(super) fn is_extended(&self) -> bool {
        self.features.as_ref().is_some_and(|f| f.extended)
    }
}

/// The chain, base first. Each layer is backed by the one before.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    /// The layers.
    pub(super) layers: Vec<Layer>,
    /// Numbers for new names.
    pub(super) made: u64,
}

impl World {
    /// The uppermost layer.
    pub(super) fn top(&self) -> Option<&Layer> {
        self.layers.last()
    }

    /// Where the layer with this name is.
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.name == name)
    }

    /// Another layer on top, as `create` makes it.
    pub(super) fn push(&mut self, name: &str, features: Option<Features>, size: u64) {
        let mut view = self.top().map(|top| top.view.clone()).unwrap_or_default();
        view.resize(len(size), 0);
        self.layers.push(Layer {
            name: name.to_owned(),
            features,
            view,
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
            dirty: false,
        });
        self.made += 1;
    }

    /// `base` takes in what `top` shows. It grows, and never shrinks.
    pub(super) fn merge(&mut self, top: usize, base: usize) {
        let view = self.layers[top].view.clone();
        let target = &mut self.layers[base].view;
        if target.len() < view.len() {
            target.resize(view.len(), 0);
        }
        target[..view.len()].copy_from_slice(&view);
    }
}

/// Files whose bytes the guest writes; none of them repeats itself.
pub(super) const NOISE: [(&str, u64, usize); 3] = [
    ("noise0", 100_000, 65_521),
    ("noise1", 300_000, 20_011),
    ("noise2", 500_000, 3_001),
];

/// The bytes of a file of [`NOISE`]: numbers in lines, cut off, as `seq` writes them.
pub(super) fn noise(index: usize) -> Vec<u8> {
    let (_, first, len) = NOISE[index % NOISE.len()];
    let mut bytes = Vec::with_capacity(len + 8);
    for number in first.. {
        if bytes.len() >= len {
            break;
        }
        bytes.extend(format!("{number}\n").bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What the guest writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    /// This byte.
    Byte(u8),
    /// A file of [`NOISE`], again and again.
    Noise(usize),
    /// The same, in compressed clusters.
    Packed(usize),
    /// Zeros as such; with `true`, the clusters may be given back.
    Zeros(bool),
    /// Nothing any more.
    Discard,
}

impl Data {
    /// Changes the top layer's view. `below`: it has a backing file.
    pub(super) fn write(&self, layer: &mut Layer, offset: u64, len: u64, below: bool) {
        let (mut start, mut end) = (offset, min(offset + len, layer.size()));
        if *self == Data::Discard {
            let Some(features) = &layer.features else {
                return;
            };
            // Version 2 has no way to say "zero" over a backing file.
            if !features.v3 && below {
                return;
            }
            // Whole clusters only; the last one of the disk may be short.
            start = start.next_multiple_of(features.cluster);
            if end != layer.size() {
                end -= end % features.cluster;
            }
            if start >= end {
                return;
            }
        }
        let target = &mut layer.view[self::len(start)..self::len(end)];
        match self {
            Data::Byte(byte) => target.fill(*byte),
            Data::Noise(index) | Data::Packed(index) => {
                let noise = noise(*index);
                for (to, from) in target.iter_mut().zip(noise.iter().cycle()) {
                    *to = *from;
                }
            }
            Data::Zeros(_) | Data::Discard => target.fill(0),
        }
    }

    /// The command of qemu-io.
    pub(super) fn command(&self, offset: u64, len: u64) -> String {
        let file = |index: usize| NOISE[index % NOISE.len()].0;
        match self {
            Data::Byte(byte) => format!("write -P {byte} {offset} {len}"),
            Data::Noise(index) => format!("write -s {} {offset} {len}", file(*index)),
            Data::Packed(index) => format!("write -c -s {} {offset} {len}", file(*index)),
            Data::Zeros(true) => format!("write -z -u {offset} {len}"),
            Data::Zeros(false) => format!("write -z {offset} {len}"),
            Data::Discard => format!("discard {offset} {len}"),
        }
    }
}

/// A small number as an index.
pub(super) fn len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a small image")
}
