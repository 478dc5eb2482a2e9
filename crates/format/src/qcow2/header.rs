//! The qcow2 header.

use super::feature::{FeatureKind, FeatureNames, incompatible};
use super::{Codec, L1Entry, L2Layout, MAGIC, MAX_SNAPSHOTS, RefcountTableEntry, RefcountWidth};
use crate::bytes::{align_down, align_up, be32, to_usize};
use crate::{FormatError, HostOffset};
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a version 2 header.
pub const HEADER_V2_LEN: u64 = 72;
/// Least bytes of a version 3 header.
pub const HEADER_V3_LEN: u64 = 104;
/// QEMU's limit for an L1 table; the format has none, and longer ones are read.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// QEMU's limit for a refcount table.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// The header as stored up to byte 104; version 2 ends at byte 72.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Default)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: U32,
    backing_file_offset: U64,
    backing_file_size: U32,
    cluster_bits: U32,
    size: U64,
    crypt_method: U32,
    l1_size: U32,
    l1_table_offset: U64,
    refcount_table_offset: U64,
    refcount_table_clusters: U32,
    nb_snapshots: U32,
    snapshots_offset: U64,
    incompatible_features: U64,
    compatible_features: U64,
    autoclear_features: U64,
    refcount_order: U32,
    header_length: U32,
}

/// The two versions of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// QEMU's `compat=0.10`: no zero clusters, 16-bit refcounts, no feature bits.
    V2,
    /// QEMU's `compat=1.1`.
    V3,
}

/// How guest data is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CryptMethod {
    /// Not at all.
    None,
    /// The old AES-CBC method.
    Aes,
    /// LUKS, with its header in the image.
    Luks,
}

/// A cluster size: a power of two from 512 bytes to 2 MiB (QEMU's limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterSize {
    bits: u32,
}

impl ClusterSize {
    /// 512 bytes, the smallest.
    pub const MIN: Self = Self { bits: 9 };

    /// From `cluster_bits`, 9 to 21.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits >= 9 && bits <= 21 {
            Some(Self { bits })
        } else {
            None
        }
    }

    /// From a number of bytes.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() {
            Self::from_bits(bytes.trailing_zeros())
        } else {
            None
        }
    }

    /// log2 of the size.
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// Bytes of a cluster.
    pub const fn bytes(self) -> u64 {
        1 << self.bits
    }

    /// The offset within a cluster.
    pub const fn offset_in(self, offset: u64) -> u64 {
        offset & (self.bytes() - 1)
    }

    /// Start of the cluster that `offset` is in.
    pub fn align_down(self, offset: u64) -> u64 {
        align_down(offset, self.bytes())
    }

    /// Whether `offset` starts a cluster.
    pub const fn is_aligned(self, offset: u64) -> bool {
        self.offset_in(offset) == 0
    }

    /// Clusters needed for `bytes`.
    pub const fn clusters(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes())
    }
}

/// A validated header. Offsets are aligned and table sizes within QEMU's limits; whether the
/// tables lie within the file is for the reader of the file to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Format version.
    pub version: Version,
    /// Where the backing file name is, and its length in bytes (1 to 1023); `None` for none.
    pub backing_name: Option<(HostOffset, u32)>,
    /// Cluster size.
    pub cluster: ClusterSize,
    /// Virtual disk size in bytes.
    pub size: u64,
    /// Encryption of guest data.
    pub crypt: CryptMethod,
    /// The active L1 table.
    pub l1_table: HostOffset,
    /// Its 8-byte entries.
    pub l1_entries: u32,
    /// The refcount table.
    pub refcount_table: HostOffset,
    /// Its clusters.
    pub refcount_table_clusters: u32,
    /// Internal snapshots.
    pub snapshots: u32,
    /// The snapshot table.
    pub snapshot_table: HostOffset,
    /// Bits of [`super::incompatible`]; 0 in version 2.
    pub incompatible: u64,
    /// Bits of [`super::compatible`]; 0 in version 2.
    pub compatible: u64,
    /// Bits of [`super::autoclear`]; 0 in version 2.
    pub autoclear: u64,
    /// Width of refcounts; 16 bits in version 2.
    pub refcount_width: RefcountWidth,
    /// Packing of compressed clusters.
    pub codec: Codec,
    /// Bytes of the header: 72 in version 2, else at least 104 and a multiple of 8.
    pub header_length: u32,
    /// Bytes of the header from 105 on, kept as they are: padding and fields we do not know.
    pub unknown: Vec<u8>,
}

impl Header {
    /// Reads a header from the first bytes of a file. `bytes` should hold the whole first
    /// cluster or the whole file, whichever is shorter: the feature name table in it is used
    /// to name features that are not known.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let header = Self::from_damaged(bytes)?;
        header.check_complete()?;
        Ok(header)
    }

    /// The same for an image that is to be checked or repaired: the refcount table may be
    /// missing, and the snapshot table may be misplaced or too long.
    pub fn from_damaged(bytes: &[u8]) -> Result<Self, FormatError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(
                FormatError::corrupt(0, "not a qcow2 image: the magic is missing")
                    .as_qemu("Image is not in qcow2 format"),
            );
        }
        let version = match be32(bytes, 4) {
            Some(2) => Version::V2,
            Some(3) => Version::V3,
            Some(n) => {
                let message = format!("qcow2 version {n} is not supported, only 2 and 3 are");
                return Err(FormatError::unsupported(4, message)
                    .as_qemu(format!("Unsupported qcow2 version {n}")));
            }
            None => {
                return Err(FormatError::truncated(0, "the header is cut off")
                    .as_qemu("Unsupported qcow2 version 0"));
            }
        };
        let fixed = if version == Version::V2 {
            HEADER_V2_LEN
        } else {
            HEADER_V3_LEN
        };
        let mut padded = [0u8; 104];
        let Some(known) = bytes.get(..to_usize(fixed)) else {
            let message = format!("the header is cut off at byte {} of {fixed}", bytes.len());
            return Err(FormatError::truncated(0, message).as_qemu("qcow2 header too short"));
        };
        let (target, _) = padded.split_at_mut(known.len());
        target.copy_from_slice(known);
        let Ok(raw) = RawHeader::read_from_bytes(&padded) else {
            return Err(FormatError::truncated(0, "the header is cut off"));
        };
        Self::validate(&raw, version, bytes)
    }

    fn validate(raw: &RawHeader, version: Version, bytes: &[u8]) -> Result<Self, FormatError> {
        let cluster_bits = raw.cluster_bits.get();
        let Some(cluster) = ClusterSize::from_bits(cluster_bits) else {
            let message =
                format!("cluster size of 2^{cluster_bits} bytes, 2^9 to 2^21 are allowed");
            let qemu = format!("Unsupported cluster size: 2^{cluster_bits}");
            return Err(FormatError::unsupported(20, message).as_qemu(qemu));
        };
        let header_length = if version == Version::V2 {
            72
        } else {
            raw.header_length.get()
        };
        Self::check_length(version, header_length, cluster)?;

        let features = raw.incompatible_features.get();
        let unknown = features & !incompatible::KNOWN;
        if unknown != 0 {
            let table = feature_names(bytes, header_length);
            let names = table.describe(FeatureKind::Incompatible, unknown);
            let message = format!("unsupported qcow2 feature(s): {names}");
            let names = table.describe_as_qemu(FeatureKind::Incompatible, unknown);
            let qemu = format!("Unsupported qcow2 feature(s): {names}");
            return Err(FormatError::unsupported(72, message).as_qemu(qemu));
        }
        if features & incompatible::EXTENDED_L2 != 0 && cluster_bits < 14 {
            let message = format!(
                "extended L2 entries need clusters of 2^14 bytes or more, not 2^{cluster_bits}"
            );
            let qemu = 1u64.checked_shl(cluster_bits).unwrap_or(0) / 32;
            let qemu = format!("Unsupported subcluster size: {qemu}");
            return Err(FormatError::corrupt(20, message).as_qemu(qemu));
        }
        let order = if version == Version::V2 {
            4
        } else {
            raw.refcount_order.get()
        };
        let Some(refcount_width) = RefcountWidth::from_order(order) else {
            let message = format!("refcount width of 2^{order} bits, at most 2^6 are allowed");
            let qemu = "Reference count entry width too large; may not exceed 64 bits";
            return Err(FormatError::corrupt(96, message).as_qemu(qemu));
        };
        let crypt = match raw.crypt_method.get() {
            0 => CryptMethod::None,
            1 => CryptMethod::Aes,
            2 => CryptMethod::Luks,
            n => {
                return Err(FormatError::unsupported(
                    32,
                    format!("encryption method {n} is not known"),
                )
                .as_qemu(format!("Unsupported encryption method {n}")));
            }
        };
        let header_end = to_usize(u64::from(header_length));
        let type_byte = if header_length > 104 {
            bytes.get(104).copied().unwrap_or(0)
        } else {
            0
        };
        let codec = match (type_byte, features & incompatible::COMPRESSION != 0) {
            (0, false) => Codec::Zlib,
            (1, true) => Codec::Zstd,
            (0, true) => {
                let message = "compression type zlib with the compression type feature bit set";
                let qemu = "qcow2: Compression type incompatible feature bit must not be set";
                return Err(FormatError::corrupt(104, message).as_qemu(qemu));
            }
            (n, true) => {
                return Err(FormatError::unsupported(
                    104,
                    format!("compression type {n} is not known"),
                )
                .as_qemu(format!("qcow2: unknown compression type: {n}")));
            }
            (n, false) => {
                let message = format!("compression type {n} without its feature bit");
                let qemu = "qcow2: Compression type incompatible feature bit must be set";
                return Err(FormatError::corrupt(104, message).as_qemu(qemu));
            }
        };
        let header = Self {
            version,
            backing_name: Self::backing(raw, cluster)?,
            cluster,
            size: raw.size.get(),
            crypt,
            l1_table: HostOffset(raw.l1_table_offset.get()),
            l1_entries: raw.l1_size.get(),
            refcount_table: HostOffset(raw.refcount_table_offset.get()),
            refcount_table_clusters: raw.refcount_table_clusters.get(),
            snapshots: raw.nb_snapshots.get(),
            snapshot_table: HostOffset(raw.snapshots_offset.get()),
            incompatible: features,
            compatible: raw.compatible_features.get(),
            autoclear: raw.autoclear_features.get(),
            refcount_width,
            codec,
            header_length,
            unknown: bytes.get(105..header_end).unwrap_or_default().to_vec(),
        };
        header.check_tables()?;
        Ok(header)
    }

    fn check_length(version: Version, len: u32, cluster: ClusterSize) -> Result<(), FormatError> {
        if version == Version::V2 {
            return Ok(());
        }
        if u64::from(len) < HEADER_V3_LEN || !len.is_multiple_of(8) {
            let message =
                format!("header length of {len} bytes, a multiple of 8 from 104 on is needed");
            let qemu = if u64::from(len) < HEADER_V3_LEN {
                "qcow2 header too short"
            } else {
                "Header extension too large"
            };
            return Err(FormatError::corrupt(100, message).as_qemu(qemu));
        }
        if u64::from(len) > cluster.bytes() {
            let message = format!(
                "header length of {len} bytes exceeds the cluster of {}",
                cluster.bytes()
            );
            let qemu = "qcow2 header exceeds cluster size";
            return Err(FormatError::corrupt(100, message).as_qemu(qemu));
        }
        Ok(())
    }

    fn backing(
        raw: &RawHeader,
        cluster: ClusterSize,
    ) -> Result<Option<(HostOffset, u32)>, FormatError> {
        let (offset, len) = (raw.backing_file_offset.get(), raw.backing_file_size.get());
        if offset == 0 || len == 0 {
            return Ok(None);
        }
        let limit = super::MAX_BACKING_NAME;
        if u64::from(len) > limit {
            let message =
                format!("backing file name is {len} bytes long, at most {limit} are allowed");
            return Err(FormatError::corrupt(16, message).as_qemu("Backing file name too long"));
        }
        if offset
            .checked_add(u64::from(len))
            .is_none_or(|end| end > cluster.bytes())
        {
            let message =
                format!("backing file name at {offset:#x} is not within the first cluster");
            return Err(FormatError::corrupt(8, message).as_qemu("Invalid backing file offset"));
        }
        Ok(Some((HostOffset(offset), len)))
    }

    fn check_tables(&self) -> Result<(), FormatError> {
        let aligned = |at, what, qemu, table| check_aligned(self.cluster, at, what, qemu, table);
        let qemu = "Active L1 table offset invalid";
        aligned(40, "L1 table", qemu, self.l1_table)?;
        let needed = self.l1_entries_for(self.size);
        if u64::from(self.l1_entries) < needed {
            let message = format!(
                "L1 table has {} entries, but a disk of {} bytes needs {needed}",
                self.l1_entries, self.size
            );
            return Err(FormatError::corrupt(36, message).as_qemu("L1 table is too small"));
        }
        if self.l1_entries > 0 && self.l1_table.0 == 0 {
            return Err(FormatError::corrupt(40, "L1 table overlaps the header"));
        }
        let table_bytes = self.refcount_table_bytes();
        if table_bytes > MAX_REFCOUNT_TABLE_BYTES {
            let message = format!(
                "refcount table of {table_bytes} bytes, at most {MAX_REFCOUNT_TABLE_BYTES} are allowed"
            );
            let qemu = "Reference count table too large";
            return Err(FormatError::unsupported(56, message).as_qemu(qemu));
        }
        let qemu = "Reference count table offset invalid";
        aligned(48, "refcount table", qemu, self.refcount_table)
    }

    /// What only a repair can do without.
    pub(super) fn check_complete(&self) -> Result<(), FormatError> {
        if self.refcount_table.0 == 0 || self.refcount_table_clusters == 0 {
            return Err(FormatError::corrupt(48, "the image has no refcount table")
                .as_qemu("Image does not contain a reference count table"));
        }
        if self.snapshots > MAX_SNAPSHOTS {
            let message = format!(
                "{} snapshots, at most {MAX_SNAPSHOTS} are allowed",
                self.snapshots
            );
            return Err(FormatError::unsupported(60, message).as_qemu("Snapshot table too large"));
        }
        if self.snapshots > 0 {
            let (what, qemu) = ("snapshot table", "Snapshot table offset invalid");
            check_aligned(self.cluster, 64, what, qemu, self.snapshot_table)?;
        }
        Ok(())
    }

    /// Whether QEMU refuses to open the image because of its L1 table's length.
    pub fn is_beyond_qemu(&self) -> bool {
        u64::from(self.l1_entries) * L1Entry::LEN > MAX_L1_BYTES
    }

    /// Fails for a table longer than [`MAX_L1_BYTES`] that a file of `file_len` bytes does not
    /// hold.
    pub fn check_long_l1(&self, file_len: u64) -> Result<(), FormatError> {
        let len = u64::from(self.l1_entries) * L1Entry::LEN;
        if !self.is_beyond_qemu() || self.l1_table.0.saturating_add(len) <= file_len {
            return Ok(());
        }
        let message = format!(
            "L1 table of {len} bytes in a file of {file_len}; beyond {MAX_L1_BYTES} bytes, the \
             file has to hold all of it"
        );
        Err(FormatError::unsupported(36, message).as_qemu("Active L1 table too large"))
    }

    /// The header's bytes: 72 in version 2, else `header_length`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let v3 = self.version == Version::V3;
        let (name_at, name_len) = self.backing_name.unwrap_or_default();
        let raw = RawHeader {
            magic: MAGIC,
            version: if v3 { 3 } else { 2 }.into(),
            backing_file_offset: name_at.0.into(),
            backing_file_size: name_len.into(),
            cluster_bits: self.cluster.bits().into(),
            size: self.size.into(),
            crypt_method: match self.crypt {
                CryptMethod::None => 0,
                CryptMethod::Aes => 1,
                CryptMethod::Luks => 2,
            }
            .into(),
            l1_size: self.l1_entries.into(),
            l1_table_offset: self.l1_table.0.into(),
            refcount_table_offset: self.refcount_table.0.into(),
            refcount_table_clusters: self.refcount_table_clusters.into(),
            nb_snapshots: self.snapshots.into(),
            snapshots_offset: self.snapshot_table.0.into(),
            incompatible_features: self.incompatible.into(),
            compatible_features: self.compatible.into(),
            autoclear_features: self.autoclear.into(),
            refcount_order: self.refcount_width.order().into(),
            header_length: self.header_length.into(),
        };
        let mut out = raw.as_bytes().to_vec();
        if !v3 {
            out.truncate(to_usize(HEADER_V2_LEN));
            return out;
        }
        if u64::from(self.header_length) > HEADER_V3_LEN {
            out.push(match self.codec {
                Codec::Zlib => 0,
                Codec::Zstd => 1,
            });
            out.extend(&self.unknown);
        }
        out.resize(to_usize(u64::from(self.header_length)), 0);
        out
    }

    /// Whether an incompatible feature bit is set.
    pub const fn has(&self, bit: u64) -> bool {
        self.incompatible & bit != 0
    }

    /// How the image's L2 entries are laid out.
    pub const fn l2_layout(&self) -> L2Layout {
        L2Layout {
            cluster: self.cluster,
            extended: self.has(incompatible::EXTENDED_L2),
            zero_flag: matches!(self.version, Version::V3),
            data_file: self.has(incompatible::DATA_FILE),
        }
    }

    /// L1 entries needed for a disk of `size` bytes.
    pub const fn l1_entries_for(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_layout().table_span())
    }

    /// Bytes of the refcount table.
    pub fn refcount_table_bytes(&self) -> u64 {
        u64::from(self.refcount_table_clusters) << self.cluster.bits()
    }

    /// Entries of the refcount table.
    pub fn refcount_table_entries(&self) -> u64 {
        self.refcount_table_bytes() / RefcountTableEntry::LEN
    }

    /// The end of the L1 table in the file, for checks against its length.
    pub fn l1_end(&self) -> Option<u64> {
        align_up(
            self.l1_table
                .0
                .checked_add(u64::from(self.l1_entries) * L1Entry::LEN)?,
            1,
        )
    }
}

fn check_aligned(
    cluster: ClusterSize,
    at: u64,
    what: &str,
    qemu: &'static str,
    table: HostOffset,
) -> Result<(), FormatError> {
    if cluster.is_aligned(table.0) && table.0 < 1 << 56 {
        return Ok(());
    }
    let message = format!("{what} at {table} does not start at a cluster boundary below 2^56");
    Err(FormatError::corrupt(at, message).as_qemu(qemu))
}

/// The feature names, found without validating anything else: this is for an error message.
fn feature_names(bytes: &[u8], header_length: u32) -> FeatureNames {
    let area = bytes
        .get(to_usize(u64::from(header_length))..)
        .unwrap_or_default();
    let (list, _) = super::Extensions::scan(area, u64::from(header_length));
    list.feature_names().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Header {
        Header {
            version: Version::V3,
            backing_name: None,
            cluster: ClusterSize::from_bits(16).unwrap(),
            size: 1 << 30,
            crypt: CryptMethod::None,
            l1_table: HostOffset(0x30000),
            l1_entries: 2,
            refcount_table: HostOffset(0x10000),
            refcount_table_clusters: 1,
            snapshots: 0,
            snapshot_table: HostOffset(0),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_width: RefcountWidth::DEFAULT,
            codec: Codec::Zlib,
            header_length: 112,
            unknown: vec![0; 7],
        }
    }

    #[test]
    fn headers_round_trip() {
        let header = minimal();
        assert_eq!(Header::from_bytes(&header.to_bytes()).unwrap(), header);
        let v2 = Header {
            version: Version::V2,
            header_length: 72,
            unknown: vec![],
            ..minimal()
        };
        assert_eq!(v2.to_bytes().len(), 72);
        assert_eq!(Header::from_bytes(&v2.to_bytes()).unwrap(), v2);
    }

    #[test]
    fn every_truncation_is_an_error_and_none_panics() {
        let bytes = minimal().to_bytes();
        for len in 0..104 {
            assert!(Header::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn fields_out_of_range_are_refused_with_their_offset() {
        let cases: [(usize, &[u8], u64); 7] = [
            (20, &[0, 0, 0, 8], 20),
            (20, &[0, 0, 0, 22], 20),
            (36, &[0, 0, 0, 1], 36),
            (47, &[1], 40),
            (56, &[0; 4], 48),
            (72, &[0x80], 72),
            (96, &[0, 0, 0, 7], 96),
        ];
        for (at, patch, reported) in cases {
            let mut bytes = minimal().to_bytes();
            bytes[at..at + patch.len()].copy_from_slice(patch);
            let error = Header::from_bytes(&bytes).unwrap_err();
            assert_eq!(error.offset, reported, "{error}");
        }
    }
}
