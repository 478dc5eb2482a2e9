//! qcow2 images: first the guest's side, then positions in the file, then bytes.

mod bitmaps;
mod data_file;
mod encode;
mod encrypt;
mod guest;
mod layout;

pub use encrypt::passphrase;

use super::{Built, LayerSpec, Qcow2Spec};
use crate::rng::Rng;
use backchain_format::qcow2::{Backing, ClusterSize, L2Layout, RefcountWidth, Subclusters};

/// What a guest cluster is in this image.
#[derive(Debug, Clone)]
enum Guest {
    Unallocated,
    /// A host cluster; the bitmap counts with extended L2 entries only.
    Host(Subclusters),
    /// Zero without a host cluster (all the subclusters in the bitmap when extended).
    Zero(Subclusters),
    /// Zero with a host cluster full of garbage; not with extended entries.
    ZeroHost,
    /// Packed bytes.
    Packed(Vec<u8>),
}

/// Numbers that all stages need.
struct Shape {
    layout: L2Layout,
    width: RefcountWidth,
    size: u64,
    clusters: u64,
}

impl Shape {
    fn new(spec: &LayerSpec, format: &Qcow2Spec) -> Self {
        let cluster = ClusterSize::from_bits(format.cluster_bits).expect("bits from 9 to 21");
        Self {
            layout: L2Layout {
                cluster,
                extended: format.extended,
                zero_flag: format.v3,
                data_file: format.data_file,
            },
            width: RefcountWidth::from_order(format.refcount_order).expect("order up to 6"),
            size: spec.size,
            clusters: cluster.clusters(spec.size),
        }
    }

    fn cluster(&self) -> u64 {
        self.layout.cluster.bytes()
    }

    fn tables(&self) -> u64 {
        self.size.div_ceil(self.layout.table_span())
    }
}

pub(super) fn build(
    spec: &LayerSpec,
    format: &Qcow2Spec,
    backing: Option<Backing>,
    data_name: &str,
) -> Built {
    let format = &Qcow2Spec {
        data_raw: format.data_raw && backing.is_none(),
        ..format.clone()
    };
    let mut rng = Rng::new(spec.seed);
    let shape = Shape::new(spec, format);
    let mut mix = spec.mix;
    if format.data_file {
        // Nothing is packed in a data file.
        mix[1] += std::mem::take(&mut mix[3]);
    }
    let mut disk = guest::Disk::random(&shape, format, mix, &mut rng);
    let bitmaps = bitmaps::Bitmap::random(&shape, format, &mut rng);
    let places = layout::Places::new(&shape, format, &disk, &bitmaps, &mut rng);
    let head = encode::head(
        &shape, format, &places, &bitmaps, backing, data_name, &mut rng,
    );
    let file = encode::encode(&shape, format, &mut disk, &places, &bitmaps, head, &mut rng);
    let data = format
        .data_file
        .then(|| data_file::encode(&shape, format, &mut disk, &mut rng));
    Built {
        file,
        data,
        layer: disk.layer(&shape),
    }
}
