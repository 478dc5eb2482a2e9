//! Header extensions.

use super::{BitmapsExtension, FeatureNames};
use crate::FormatError;
use crate::bytes::{be32, to_u64, to_usize};

/// One header extension, known or not, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// The type field.
    pub kind: u32,
    /// The data without padding.
    pub data: Vec<u8>,
}

impl Extension {
    /// Bytes of the type, the length, the data and its padding.
    pub fn stored_len(&self) -> u64 {
        8 + to_u64(self.data.len().next_multiple_of(8))
    }
}

/// The extensions of one header, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions(pub Vec<Extension>);

impl Extensions {
    /// End of the header extension area.
    pub const END: u32 = 0;
    /// Format name of the backing file.
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    /// Feature name table.
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    /// Bitmaps extension.
    pub const BITMAPS: u32 = 0x2385_2875;
    /// Full disk encryption header pointer.
    pub const CRYPTO: u32 = 0x0537_be77;
    /// Space that once held another extension and that nobody knows, so that all keep it: what
    /// follows cannot always move into it safely.
    pub const UNUSED: u32 = 0x756e_7573;
    /// External data file name.
    pub const DATA_FILE: u32 = 0x4441_5441;

    /// Reads extensions from `area`, which starts at byte `at` of the file, as far as they are
    /// well-formed. The second value is the first problem met.
    pub fn scan(area: &[u8], at: u64) -> (Self, Option<FormatError>) {
        let mut list = Vec::new();
        let mut pos = 0usize;
        loop {
            // An area that is full to its end needs no end marker.
            let (Some(kind), Some(len)) = (be32(area, pos), be32(area, pos + 4)) else {
                return (Self(list), None);
            };
            if kind == Self::END {
                return (Self(list), None);
            }
            let start = pos + 8;
            let data = start
                .checked_add(to_usize(u64::from(len)))
                .and_then(|end| area.get(start..end));
            let Some(data) = data else {
                let message =
                    format!("header extension {kind:#010x} of {len} bytes runs over its area");
                return (
                    Self(list),
                    Some(
                        FormatError::corrupt(at + to_u64(pos), message)
                            .as_qemu("Header extension too large"),
                    ),
                );
            };
            list.push(Extension {
                kind,
                data: data.to_vec(),
            });
            pos = (start + data.len()).next_multiple_of(8);
        }
    }

    /// The extensions and the end marker as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for extension in &self.0 {
            out.extend(extension.kind.to_be_bytes());
            // Data came from one cluster or a name of at most 1023 bytes.
            let len = u32::try_from(extension.data.len()).unwrap_or(u32::MAX);
            out.extend(len.to_be_bytes());
            out.extend(&extension.data);
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out.extend([0; 8]);
        out
    }

    /// The data of the first extension of type `kind`.
    pub fn get(&self, kind: u32) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|e| e.kind == kind)
            .map(|e| e.data.as_slice())
    }

    /// Replaces, adds (in front, so that it stays in the first sector) or removes an extension.
    pub fn set(&mut self, kind: u32, data: Option<Vec<u8>>) {
        match (self.0.iter().position(|e| e.kind == kind), data) {
            (Some(index), Some(data)) => {
                if let Some(extension) = self.0.get_mut(index) {
                    extension.data = data;
                }
            }
            (Some(index), None) => {
                self.0.remove(index);
            }
            (None, Some(data)) => self.0.insert(0, Extension { kind, data }),
            (None, None) => {}
        }
    }

    /// Where the first extension of type `kind` starts, in bytes from the start of the area.
    pub fn position(&self, kind: u32) -> Option<u64> {
        let index = self.0.iter().position(|e| e.kind == kind)?;
        Some(self.0.iter().take(index).map(Extension::stored_len).sum())
    }

    /// Bytes of the area up to the end marker.
    pub fn len(&self) -> u64 {
        self.0.iter().map(Extension::stored_len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A string extension, with invalid UTF-8 replaced.
    pub fn string(&self, kind: u32) -> Option<String> {
        self.get(kind)
            .map(|data| String::from_utf8_lossy(data).into_owned())
    }

    /// The feature name table.
    pub fn feature_names(&self) -> Option<FeatureNames> {
        self.get(Self::FEATURE_NAMES).map(FeatureNames::from_bytes)
    }

    /// The bitmaps extension; `at` is named in errors.
    pub fn bitmaps(&self, at: u64) -> Option<Result<BitmapsExtension, FormatError>> {
        self.get(Self::BITMAPS)
            .map(|data| BitmapsExtension::from_bytes(data, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_extensions_survive_byte_for_byte() {
        let list = Extensions(vec![
            Extension {
                kind: 0x1234_5678,
                data: vec![1, 2, 3],
            },
            Extension {
                kind: Extensions::BACKING_FORMAT,
                data: b"raw".to_vec(),
            },
        ]);
        let (back, problem) = Extensions::scan(&list.to_bytes(), 104);
        assert_eq!((back, problem), (list, None));
    }

    #[test]
    fn an_extension_over_the_end_is_reported_and_the_ones_before_it_kept() {
        let mut list = Extensions(vec![Extension {
            kind: 7,
            data: vec![0; 8],
        }]);
        let mut bytes = list.to_bytes();
        bytes.truncate(16);
        bytes.extend([0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff]);
        let (back, problem) = Extensions::scan(&bytes, 104);
        assert_eq!(back, list);
        assert_eq!(problem.unwrap().offset, 120);
        list.set(7, None);
        assert!(list.0.is_empty());
    }
}
