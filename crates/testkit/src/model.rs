//! What an image says, in the plainest terms: the yardstick for the engine.

use backchain_format::bytes::{to_u64, to_usize};

/// What one layer says about one granule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Nothing: the layer below decides.
    Unallocated,
    /// Zeros.
    Zero,
    /// Its own bytes.
    Data,
}

/// One layer: every granule's cell, and the bytes of the data cells.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Bytes of a granule.
    pub granule: u64,
    /// One for each (begun) granule.
    pub cells: Vec<Cell>,
    /// As many as the disk has; zero wherever the cell is not data.
    pub bytes: Vec<u8>,
}

impl Layer {
    /// Virtual size in bytes.
    pub fn size(&self) -> u64 {
        to_u64(self.bytes.len())
    }

    /// What the layer says about the guest byte `at`, which is on the disk.
    pub fn cell(&self, at: u64) -> Cell {
        self.cells[to_usize(at / self.granule)]
    }
}

/// The guest view of a chain, given base first: semantics 1 and 2 in four lines. A layer longer
/// than what is below it reads zeros there; a shorter one hides the rest.
pub fn view<'a>(base_first: impl IntoIterator<Item = &'a Layer>) -> Vec<u8> {
    let mut view = Vec::new();
    for layer in base_first {
        view.resize(layer.bytes.len(), 0);
        let granule = to_usize(layer.granule);
        let chunks = view.chunks_mut(granule).zip(layer.bytes.chunks(granule));
        for ((below, own), cell) in chunks.zip(&layer.cells) {
            if *cell != Cell::Unallocated {
                below.copy_from_slice(own);
            }
        }
    }
    view
}

/// Where two views differ first, for an error message.
pub fn first_difference(left: &[u8], right: &[u8]) -> Option<String> {
    if left == right {
        return None;
    }
    if left.len() != right.len() {
        return Some(format!("{} bytes against {}", left.len(), right.len()));
    }
    let at = left.iter().zip(right).position(|(a, b)| a != b)?;
    let count = left.iter().zip(right).filter(|(a, b)| a != b).count();
    let near = |v: &[u8]| format!("{:02x?}", &v[at..v.len().min(at + 8)]);
    let (a, b) = (near(left), near(right));
    Some(format!("{count} bytes from {at:#x} on: {a} against {b}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(cells: &[Cell], fill: u8, size: usize) -> Layer {
        let mut bytes = vec![0; size];
        for (chunk, cell) in bytes.chunks_mut(4).zip(cells) {
            if *cell == Cell::Data {
                chunk.fill(fill);
            }
        }
        Layer {
            granule: 4,
            cells: cells.to_vec(),
            bytes,
        }
    }

    #[test]
    fn a_short_middle_layer_hides_the_base_behind_its_end() {
        use Cell::{Data, Unallocated, Zero};
        let base = layer(&[Data, Data, Data], 1, 12);
        let middle = layer(&[Unallocated, Zero], 2, 6);
        let top = layer(&[Unallocated, Unallocated, Unallocated, Data], 3, 14);
        let expected = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3];
        assert_eq!(view([&base, &middle, &top]), expected);
    }
}
