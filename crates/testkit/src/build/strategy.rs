//! Random trees for property tests; smaller and plainer ones when a failure is shrunk.

use super::{FormatSpec, LayerSpec, Qcow2Spec, TreeSpec};
use backchain_format::qcow2::Codec;
use proptest::prelude::*;

/// Bounds of random trees.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most layers of the main chain (at least 2).
    pub depth: usize,
    /// Most images beside it.
    pub branches: usize,
    /// Most bytes of a disk.
    pub size: u64,
    /// Largest cluster size as a power of two.
    pub cluster_bits: u32,
    /// Disk sizes that are no multiple of a sector.
    pub odd_sizes: bool,
    /// Small clusters and wide refcounts: tables that have to grow.
    pub growth: bool,
    /// External data files: QEMU looks for them in the working directory.
    pub data_files: bool,
    /// Encrypted images; they are whole sectors long.
    pub encrypted: bool,
}

impl Limits {
    /// For one test among thousands.
    pub const SMALL: Self = Self {
        depth: 6,
        branches: 2,
        size: 1 << 20,
        cluster_bits: 17,
        odd_sizes: true,
        growth: false,
        data_files: true,
        encrypted: false,
    };
    /// Everything the format has.
    pub const ALL: Self = Self {
        depth: 6,
        branches: 2,
        size: 5 << 20,
        cluster_bits: 21,
        odd_sizes: true,
        growth: false,
        data_files: true,
        encrypted: false,
    };
    /// For tests that look at every step of a plan.
    pub const TINY: Self = Self {
        depth: 4,
        branches: 1,
        size: 96 << 10,
        cluster_bits: 16,
        odd_sizes: false,
        growth: false,
        data_files: true,
        encrypted: false,
    };
    /// Encrypted images among others.
    pub const ENCRYPTED: Self = Self {
        odd_sizes: false,
        data_files: false,
        encrypted: true,
        ..Self::SMALL
    };
    /// The same for tests that look at every step of a plan.
    pub const ENCRYPTED_TINY: Self = Self {
        data_files: false,
        encrypted: true,
        ..Self::TINY
    };
    /// Refcount and L1 tables outgrow their clusters.
    pub const GROWTH: Self = Self {
        depth: 3,
        branches: 1,
        size: 5 << 20,
        cluster_bits: 9,
        odd_sizes: false,
        growth: true,
        data_files: true,
        encrypted: false,
    };
}

/// A tree: a chain of 2 or more images, some with siblings.
pub fn tree(limits: Limits) -> impl Strategy<Value = TreeSpec> {
    let size = if limits.growth {
        (limits.size / 2..=limits.size).boxed()
    } else {
        prop_oneof![
            3 => 1..=(limits.size / 8).max(1),
            1 => 1..=limits.size,
        ]
        .boxed()
    };
    size.prop_flat_map(move |size| {
        // Something small for the rest to be merged into.
        let base = layer(limits, if limits.growth { size / 8 } else { size }, true);
        let uppers = prop::collection::vec(layer(limits, size, false), 1..limits.depth);
        let branches = prop::collection::vec(
            (layer(limits, size, false), any::<prop::sample::Index>()),
            0..=limits.branches,
        );
        (base, uppers, branches)
    })
    .prop_map(|(base, uppers, branches)| {
        let mut nodes = vec![(base, None)];
        for (below, upper) in uppers.into_iter().enumerate() {
            nodes.push((upper, Some(below)));
        }
        for (branch, on) in branches {
            let on = on.index(nodes.len());
            nodes.push((branch, Some(on)));
        }
        TreeSpec { nodes }
    })
}

/// One image of about `size` bytes.
pub fn layer(limits: Limits, size: u64, base: bool) -> impl Strategy<Value = LayerSpec> {
    let raw = any::<bool>().prop_map(|holes| FormatSpec::Raw { holes });
    let format = if base {
        prop_oneof![3 => qcow2(limits).boxed(), 1 => raw.boxed()].boxed()
    } else {
        qcow2(limits).boxed()
    };
    let own = prop_oneof![
        3 => Just(size),
        1 => 1..=size,
        1 => size..=(size + size / 2).min(limits.size).max(size),
    ];
    let mix = prop_oneof![
        4 => Just([4, 4, 1, 1]),
        1 => Just([1, 0, 0, 0]),
        1 => Just([1, 0, 1, 0]),
        1 => Just([1, 0, 0, 2]),
        2 => Just([1, 3, 1, 3]),
        1 => Just([3, 1, 0, 0]),
        u32::from(limits.growth) * 6 => Just([1, 12, 0, 0]),
    ];
    let odd = if limits.odd_sizes { 8u8 } else { 1 };
    (format, own, mix, any::<u64>(), 0..odd).prop_map(|(format, size, mix, seed, odd)| {
        let exact = match &format {
            FormatSpec::Raw { .. } => odd != 0,
            FormatSpec::Qcow2(_) => odd == 7,
        };
        LayerSpec {
            size: if exact {
                size
            } else {
                size.next_multiple_of(512)
            },
            format,
            mix,
            seed,
        }
    })
}

fn qcow2(limits: Limits) -> impl Strategy<Value = FormatSpec> {
    let most = limits.cluster_bits;
    let bits = if limits.growth {
        Just(9).boxed()
    } else {
        prop_oneof![
            3 => Just(9u32),
            2 => 10..=13u32,
            3 => 14..=most.min(16),
            1 => most.min(16)..=most,
        ]
        .boxed()
    };
    let order = if limits.growth {
        Just(6u32).boxed()
    } else {
        prop_oneof![3 => Just(4u32), 2 => 0..=6u32].boxed()
    };
    let codec = prop_oneof![Just(Codec::Zlib), Just(Codec::Zstd)];
    let flag = |of: u32| prop::bool::weighted(1.0 / f64::from(of));
    (
        prop::bool::weighted(0.75),
        bits,
        flag(2),
        order,
        codec,
        flag(2),
        flag(3),
        flag(4),
        (flag(4), flag(5), flag(5), flag(2), flag(2)),
    )
        .prop_map(
            move |(
                v3,
                cluster_bits,
                extended,
                refcount_order,
                codec,
                shuffled,
                leaky,
                cut,
                (odd_head, bitmaps, data_file, data_raw, encrypted),
            )| {
                let spec = Qcow2Spec {
                    v3,
                    cluster_bits,
                    extended,
                    refcount_order,
                    codec,
                    shuffled,
                    leaky,
                    cut,
                    odd_head,
                    bitmaps,
                    data_file: data_file && limits.data_files,
                    data_raw,
                    encrypted: encrypted && limits.encrypted,
                };
                FormatSpec::Qcow2(spec.valid())
            },
        )
}
