//! What an image is to be like. Small numbers, so that a failing case can be read.

use backchain_format::qcow2::Codec;

/// A set of images: number n may only be backed by a smaller number.
#[derive(Debug, Clone)]
pub struct TreeSpec {
    /// The images and the number of each one's backing file.
    pub nodes: Vec<(LayerSpec, Option<usize>)>,
}

/// One image. The seed decides on everything that is not named here.
#[derive(Debug, Clone)]
pub struct LayerSpec {
    /// Format and its parameters.
    pub format: FormatSpec,
    /// Virtual size in bytes; for raw, the length of the file.
    pub size: u64,
    /// How much is unallocated, data, zero and compressed (weights; not all 0).
    pub mix: [u64; 4],
    /// Decides on contents and positions.
    pub seed: u64,
}

/// Format of an image.
#[derive(Debug, Clone)]
pub enum FormatSpec {
    /// Plain bytes; zero blocks are holes if so asked.
    Raw {
        /// The file system tells where holes are.
        holes: bool,
    },
    /// qcow2.
    Qcow2(Qcow2Spec),
}

/// A qcow2 image. Combinations that do not exist (version 2 with zero clusters, ...) are made
/// valid by [`Qcow2Spec::valid`].
#[derive(Debug, Clone)]
pub struct Qcow2Spec {
    /// Version 3.
    pub v3: bool,
    /// 9 to 21.
    pub cluster_bits: u32,
    /// Extended L2 entries.
    pub extended: bool,
    /// Refcounts of 1 << order bits.
    pub refcount_order: u32,
    /// Packing of compressed clusters.
    pub codec: Codec,
    /// Tables and clusters at random positions rather than in guest order.
    pub shuffled: bool,
    /// Free clusters full of garbage, leaked clusters and clusters counted too high.
    pub leaky: bool,
    /// The file ends within its last cluster.
    pub cut: bool,
    /// Persistent dirty bitmaps.
    pub bitmaps: bool,
    /// Unknown header extensions, unknown compatible and autoclear bits, a short header.
    pub odd_head: bool,
    /// Guest data in an external data file.
    pub data_file: bool,
    /// The data file is a raw image of the disk; only without a backing file.
    pub data_raw: bool,
    /// Guest data encrypted with LUKS.
    pub encrypted: bool,
}

impl Qcow2Spec {
    /// A plain image as `qemu-img create` makes it.
    pub fn plain(cluster_bits: u32) -> Self {
        Self {
            v3: true,
            cluster_bits,
            extended: false,
            refcount_order: 4,
            codec: Codec::Zlib,
            shuffled: false,
            leaky: false,
            cut: false,
            bitmaps: false,
            odd_head: false,
            data_file: false,
            data_raw: false,
            encrypted: false,
        }
    }

    /// The same with impossible combinations taken out.
    #[must_use]
    pub fn valid(mut self) -> Self {
        if !self.v3 {
            self.extended = false;
            self.bitmaps = false;
            self.refcount_order = 4;
            self.codec = Codec::Zlib;
            self.data_file = false;
        }
        self.data_raw &= self.data_file;
        self.extended &= self.cluster_bits >= 14;
        // The head of an encrypted image needs room, and noise is not cut off.
        self.encrypted &= self.cluster_bits >= 11;
        self.data_file &= !self.encrypted;
        self.data_raw &= self.data_file;
        self.cut &= !self.encrypted;
        self
    }
}
