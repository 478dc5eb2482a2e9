//! Raw images.

use super::{Built, LayerSpec, content};
use crate::model::{Cell, Layer};
use crate::rng::Rng;
use crate::sim::SimFile;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::raw;

const BLOCK: usize = 4096;

pub(super) fn build(spec: &LayerSpec, holes: bool) -> Built {
    let mut rng = Rng::new(spec.seed);
    let mut file = vec![0; to_usize(spec.size)];
    let mut at = 0;
    for run in file.chunks_mut(BLOCK) {
        let [nothing, data, zero, packed] = spec.mix;
        if rng.below(nothing + data + zero + packed) < data + packed {
            content::fill(run, to_u64(at), &mut rng);
        }
        at += BLOCK;
    }
    let mut bytes = file.clone();
    bytes.resize(to_usize(raw::virtual_size(spec.size)), 0);
    // A raw file decides everywhere.
    let cells = vec![Cell::Data; bytes.len().div_ceil(512)];
    Built {
        file: SimFile::new(file, holes),
        data: None,
        layer: Layer {
            granule: 512,
            cells,
            bytes,
        },
    }
}
