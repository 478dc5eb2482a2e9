//! Feature bits and the feature name table.

use crate::bytes::to_u64;
use serde::Serialize;

/// Bits of `incompatible_features`: an unknown one forbids opening the image.
pub mod incompatible {
    /// Refcounts may be wrong; they must be rebuilt before the first write.
    pub const DIRTY: u64 = 1 << 0;
    /// Any structure may be damaged; the image must not be written.
    pub const CORRUPT: u64 = 1 << 1;
    /// Guest clusters live in an external data file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// `compression_type` is present and not zlib.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries are 16 bytes long and carry subcluster bitmaps.
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// All the bits above.
    pub const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Bits of `compatible_features`: unknown ones are kept and ignored.
pub mod compatible {
    /// Refcount updates may be postponed with the dirty bit set.
    pub const LAZY_REFCOUNTS: u64 = 1 << 0;
}

/// Bits of `autoclear_features`: unknown ones are cleared before the first write.
pub mod autoclear {
    /// The bitmaps extension is consistent with the image.
    pub const BITMAPS: u64 = 1 << 0;
    /// The external data file can be read as a raw image.
    pub const RAW_DATA_FILE: u64 = 1 << 1;
    /// All the bits above.
    pub const KNOWN: u64 = BITMAPS | RAW_DATA_FILE;
}

/// Which of the three feature fields a bit belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureKind {
    /// `incompatible_features`
    Incompatible,
    /// `compatible_features`
    Compatible,
    /// `autoclear_features`
    Autoclear,
}

impl FeatureKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Incompatible),
            1 => Some(Self::Compatible),
            2 => Some(Self::Autoclear),
            _ => None,
        }
    }
}

/// One row of the feature name table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// The field the bit is in.
    pub kind: FeatureKind,
    /// Bit number, 0 to 63.
    pub bit: u8,
    /// At most 46 bytes in the file; shown with invalid UTF-8 replaced.
    pub name: String,
}

/// The feature name table extension (0x6803f857): names for bits, for error messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FeatureNames(pub Vec<Feature>);

impl FeatureNames {
    /// Bytes of one row.
    pub const ROW: usize = 48;

    /// Reads the table; rows of unknown kind or with a bit over 63 are left out.
    pub fn from_bytes(data: &[u8]) -> Self {
        let rows = data.chunks_exact(Self::ROW).filter_map(|row| {
            let (&kind, rest) = row.split_first()?;
            let (&bit, name) = rest.split_first()?;
            let name = name.split(|&b| b == 0).next().unwrap_or_default();
            (bit < 64).then_some(Feature {
                kind: FeatureKind::from_byte(kind)?,
                bit,
                name: String::from_utf8_lossy(name).into_owned(),
            })
        });
        Self(rows.collect())
    }

    /// The table QEMU 10 writes into every version 3 image.
    pub fn standard_bytes() -> Vec<u8> {
        const ROWS: [(u8, u8, &str); 8] = [
            (0, 0, "dirty bit"),
            (0, 1, "corrupt bit"),
            (0, 2, "external data file"),
            (0, 3, "compression type"),
            (0, 4, "extended L2 entries"),
            (1, 0, "lazy refcounts"),
            (2, 0, "bitmaps"),
            (2, 1, "raw external data"),
        ];
        let mut out = Vec::with_capacity(ROWS.len() * Self::ROW);
        for (kind, bit, name) in ROWS {
            out.extend([kind, bit]);
            out.extend(name.as_bytes());
            out.resize(out.len().next_multiple_of(Self::ROW), 0);
        }
        out
    }

    /// The names of all bits set in `bits`, for an error message.
    pub fn describe(&self, kind: FeatureKind, bits: u64) -> String {
        let mut names = Vec::new();
        for bit in 0..64u8 {
            if bits >> bit & 1 == 0 {
                continue;
            }
            let known = self.0.iter().find(|f| f.kind == kind && f.bit == bit);
            names.push(match known {
                Some(feature) => feature.name.clone(),
                None => format!("bit {bit}"),
            });
        }
        debug_assert_eq!(to_u64(names.len()), u64::from(bits.count_ones()));
        names.join(", ")
    }
}

impl FeatureNames {
    /// The same in QEMU's form: names first, and one mask of the bits without a name.
    pub fn describe_as_qemu(&self, kind: FeatureKind, bits: u64) -> String {
        let mut names = Vec::new();
        let mut rest = bits;
        for feature in self.0.iter().filter(|f| f.kind == kind && f.bit < 64) {
            if rest >> feature.bit & 1 != 0 {
                names.push(feature.name.clone());
                rest &= !(1 << feature.bit);
            }
        }
        if rest != 0 {
            names.push(format!("Unknown incompatible feature: {rest:x}"));
        }
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_table_reads_back() {
        let table = FeatureNames::from_bytes(&FeatureNames::standard_bytes());
        assert_eq!(table.0.len(), 8);
        assert_eq!(
            table.describe(FeatureKind::Incompatible, 0b10010),
            "corrupt bit, extended L2 entries"
        );
    }

    #[test]
    fn an_unnamed_bit_is_named_by_its_number() {
        assert_eq!(
            FeatureNames::default().describe(FeatureKind::Incompatible, 1 << 63),
            "bit 63"
        );
        assert_eq!(
            FeatureNames::default().describe_as_qemu(FeatureKind::Incompatible, 1 << 63 | 64),
            "Unknown incompatible feature: 8000000000000040"
        );
    }
}
