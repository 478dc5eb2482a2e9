//! The bitmaps extension and the bitmap directory.

use crate::bytes::{be16, be32, be64, to_u64, to_usize};
use crate::{FormatError, HostOffset};
use serde::Serialize;

/// The bitmaps header extension (0x23852875): where the directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BitmapsExtension {
    /// Bitmaps in the directory, 1 to 65535.
    pub count: u32,
    /// Bytes of the directory.
    pub directory_len: u64,
    /// Start of the directory, aligned to a cluster.
    pub directory: HostOffset,
}

impl BitmapsExtension {
    /// The most bitmaps an image can have.
    pub const MAX_COUNT: u32 = 65535;
    /// QEMU's limit for the bytes of the directory.
    pub const MAX_DIRECTORY: u64 = 1024 * 65535;
    /// Bytes of the extension's data.
    pub const LEN: u64 = 24;

    /// The extension's data.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.count.to_be_bytes().to_vec();
        out.extend([0; 4]);
        out.extend(self.directory_len.to_be_bytes());
        out.extend(self.directory.0.to_be_bytes());
        out
    }

    /// Reads the 24 bytes of the extension found at byte `at`.
    pub fn from_bytes(data: &[u8], at: u64) -> Result<Self, FormatError> {
        let fields = (be32(data, 0), be64(data, 8), be64(data, 16));
        let (Some(count), Some(directory_len), Some(directory)) = fields else {
            let message = format!(
                "bitmaps extension is {} bytes long instead of 24",
                data.len()
            );
            return Err(FormatError::corrupt(at, message));
        };
        if count == 0 || count > Self::MAX_COUNT {
            let message =
                format!("bitmaps extension names {count} bitmaps, 1 to 65535 are allowed");
            return Err(FormatError::corrupt(at, message));
        }
        // An entry has 24 bytes and a name of at most 1023; extra data is not defined yet.
        if directory_len > u64::from(count) * 2048 {
            let message = format!("bitmap directory of {directory_len} bytes is too long");
            return Err(FormatError::corrupt(at + 8, message));
        }
        Ok(Self {
            count,
            directory_len,
            directory: HostOffset(directory),
        })
    }
}

/// One entry of the bitmap directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BitmapDirectoryEntry {
    /// Where the bitmap's table is.
    pub table: HostOffset,
    /// 8-byte entries in the table.
    pub table_entries: u32,
    /// Bit 0: in use (not saved properly); bit 1: auto (enabled, records writes).
    pub flags: u32,
    /// Each bit stands for 1 << granularity_bits bytes of the disk.
    pub granularity_bits: u8,
    /// Unique within the image, 1 to 1023 bytes.
    pub name: String,
    /// Bytes of the entry in the file, padding included.
    #[serde(skip)]
    pub stored_len: u64,
}

impl BitmapDirectoryEntry {
    /// The bitmap was not saved properly and must not be trusted.
    pub const IN_USE: u32 = 1;
    /// The bitmap records writes.
    pub const AUTO: u32 = 2;
    /// QEMU's limit for the entries of a bitmap's table.
    pub const MAX_TABLE_ENTRIES: u32 = 0x800_0000;
    /// QEMU's limit for the bytes of the clusters that hold the bits of a bitmap.
    pub const MAX_BYTES: u64 = 0x2000_0000;
    /// The longest name in bytes.
    pub const MAX_NAME: usize = 1023;
    /// log2 of the finest granularity.
    pub const MIN_GRANULARITY_BITS: u8 = 9;
    /// log2 of the coarsest granularity.
    pub const MAX_GRANULARITY_BITS: u8 = 31;

    /// Bytes that an entry with a name of `name` bytes takes in the directory.
    pub const fn len_for(name: usize) -> usize {
        (24 + name).next_multiple_of(8)
    }

    /// A new entry with all its padding.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.table.0.to_be_bytes().to_vec();
        out.extend(self.table_entries.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend([1, self.granularity_bits]);
        // Names are checked against their limit before there is an entry.
        let len = u16::try_from(self.name.len()).unwrap_or(u16::MAX);
        out.extend(len.to_be_bytes());
        out.extend([0; 4]);
        out.extend(self.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    /// Whether the bitmap must not be trusted: it was not saved properly.
    pub const fn in_use(&self) -> bool {
        self.flags & Self::IN_USE != 0
    }

    /// Reads the entry at the start of `bytes`, found at byte `at` of the file. Returns it with
    /// its length including the padding.
    pub fn from_bytes(bytes: &[u8], at: u64) -> Result<(Self, usize), FormatError> {
        let short = || FormatError::truncated(at, "bitmap directory entry is cut off");
        let kind = *bytes.get(16).ok_or_else(short)?;
        let granularity_bits = *bytes.get(17).ok_or_else(short)?;
        let name_len = usize::from(be16(bytes, 18).ok_or_else(short)?);
        let extra = to_usize(u64::from(be32(bytes, 20).ok_or_else(short)?));
        if kind != 1 {
            return Err(FormatError::unsupported(
                at + 16,
                format!("bitmap type {kind} is not known"),
            ));
        }
        let allowed = Self::MIN_GRANULARITY_BITS..=Self::MAX_GRANULARITY_BITS;
        if !allowed.contains(&granularity_bits) {
            let message = format!(
                "bitmap granularity of 2^{granularity_bits} bytes, 2^9 to 2^31 are allowed"
            );
            return Err(FormatError::corrupt(at + 17, message));
        }
        if name_len == 0 || name_len > Self::MAX_NAME {
            let message = format!("bitmap name of {name_len} bytes, 1 to 1023 are allowed");
            return Err(FormatError::corrupt(at + 18, message));
        }
        let start = 24usize.checked_add(extra).ok_or_else(short)?;
        let end = start.checked_add(name_len).ok_or_else(short)?;
        let name = bytes.get(start..end).ok_or_else(short)?;
        let table = HostOffset(be64(bytes, 0).ok_or_else(short)?);
        let table_entries = be32(bytes, 8).ok_or_else(short)?;
        let flags = be32(bytes, 12).ok_or_else(short)?;
        if !table.0.is_multiple_of(512)
            || table_entries == 0
            || table_entries > Self::MAX_TABLE_ENTRIES
        {
            let message = format!("bitmap table of {table_entries} entries at {table}");
            return Err(FormatError::corrupt(at, message));
        }
        if flags & !(Self::IN_USE | Self::AUTO) != 0 {
            let message = format!("bitmap flags {flags:#x} are not all known");
            return Err(FormatError::unsupported(at + 12, message));
        }
        let entry = Self {
            table,
            table_entries,
            flags,
            granularity_bits,
            name: String::from_utf8_lossy(name).into_owned(),
            stored_len: to_u64(end.next_multiple_of(8)),
        };
        Ok((entry, end.next_multiple_of(8)))
    }

    /// Reads a whole directory of `count` entries found at byte `at`.
    pub fn directory(bytes: &[u8], count: u32, at: u64) -> Result<Vec<Self>, FormatError> {
        let mut entries = Vec::new();
        let mut pos = 0usize;
        for _ in 0..count {
            let offset = at.saturating_add(to_u64(pos));
            let rest = bytes.get(pos..).unwrap_or_default();
            let (entry, len) = Self::from_bytes(rest, offset)?;
            entries.push(entry);
            pos = pos.saturating_add(len);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_with_its_padding() {
        for len in [1, 7, 8, 1023] {
            let entry = BitmapDirectoryEntry {
                table: HostOffset(0x10000),
                table_entries: 3,
                flags: BitmapDirectoryEntry::AUTO,
                granularity_bits: 31,
                name: "n".repeat(len),
                stored_len: to_u64(BitmapDirectoryEntry::len_for(len)),
            };
            let bytes = entry.to_bytes();
            assert_eq!(bytes.len(), BitmapDirectoryEntry::len_for(len));
            let back = BitmapDirectoryEntry::from_bytes(&bytes, 0).unwrap();
            assert_eq!(back, (entry, bytes.len()));
        }
        let extension = BitmapsExtension {
            count: 65535,
            directory_len: 4096,
            directory: HostOffset(512),
        };
        let back = BitmapsExtension::from_bytes(&extension.to_bytes(), 0).unwrap();
        assert_eq!(back, extension);
    }
}
