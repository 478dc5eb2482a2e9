//! The table of internal snapshots.

use crate::bytes::{align_up, be16, be32, be64, to_u64, to_usize};
use crate::{FormatError, HostOffset};
use serde::Serialize;

/// QEMU's limit of snapshots in one image.
pub const MAX_SNAPSHOTS: u32 = 65536;

/// One entry of the snapshot table (spec: "Snapshots").
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotEntry {
    /// The snapshot's own L1 table.
    pub l1_table: HostOffset,
    /// Entries in that table.
    pub l1_entries: u32,
    /// Unique ID string.
    pub id: String,
    /// Name given by the user.
    pub name: String,
    /// Seconds since the epoch.
    pub date_sec: u32,
    /// Nanoseconds on top.
    pub date_nsec: u32,
    /// Guest time in nanoseconds since it was started.
    pub vm_clock_nsec: u64,
    /// Bytes of VM state (0 for a disk snapshot).
    pub vm_state_size: u64,
    /// Virtual disk size at the time; `None` in old tables without the field.
    pub disk_size: Option<u64>,
    /// Instruction count; `None` when absent or unset.
    pub icount: Option<u64>,
    /// The entry as it was read, without the padding: what is not known here is kept. Empty for
    /// an entry that is new.
    #[serde(skip)]
    pub stored: Vec<u8>,
}

/// Bytes of extra data that QEMU writes: VM state size, disk size, instruction count.
const EXTRA: usize = 24;
/// An instruction count that is not set.
const NO_ICOUNT: u64 = u64::MAX;

impl SnapshotEntry {
    const FIXED: usize = 40;

    /// Reads the entry at the start of `bytes`, found at byte `at` of the file; returns it with
    /// its length including the padding to 8 bytes.
    pub fn from_bytes(bytes: &[u8], at: u64) -> Result<(Self, usize), FormatError> {
        let short = || FormatError::truncated(at, "snapshot table entry is cut off");
        let id_len = usize::from(be16(bytes, 12).ok_or_else(short)?);
        let name_len = usize::from(be16(bytes, 14).ok_or_else(short)?);
        let extra_len = be32(bytes, 36).ok_or_else(short)?;
        if extra_len > 1024 {
            let message = format!("snapshot has {extra_len} bytes of extra data, at most 1024");
            return Err(FormatError::unsupported(at + 36, message));
        }
        let extra_end = Self::FIXED
            .checked_add(to_usize(u64::from(extra_len)))
            .ok_or_else(short)?;
        let id_end = extra_end.checked_add(id_len).ok_or_else(short)?;
        let name_end = id_end.checked_add(name_len).ok_or_else(short)?;
        let extra = bytes.get(Self::FIXED..extra_end).ok_or_else(short)?;
        let id = bytes.get(extra_end..id_end).ok_or_else(short)?;
        let name = bytes.get(id_end..name_end).ok_or_else(short)?;
        let small_state = be32(bytes, 32).ok_or_else(short)?;
        let entry = Self {
            l1_table: HostOffset(be64(bytes, 0).ok_or_else(short)?),
            l1_entries: be32(bytes, 8).ok_or_else(short)?,
            id: String::from_utf8_lossy(id).into_owned(),
            name: String::from_utf8_lossy(name).into_owned(),
            date_sec: be32(bytes, 16).ok_or_else(short)?,
            date_nsec: be32(bytes, 20).ok_or_else(short)?,
            vm_clock_nsec: be64(bytes, 24).ok_or_else(short)?,
            vm_state_size: be64(extra, 0).unwrap_or_else(|| u64::from(small_state)),
            disk_size: be64(extra, 8),
            icount: be64(extra, 16).filter(|&n| n != NO_ICOUNT),
            stored: bytes.get(..name_end).ok_or_else(short)?.to_vec(),
        };
        let len = align_up(to_u64(name_end), 8).map_or(usize::MAX, to_usize);
        Ok((entry, len))
    }

    /// The same snapshot with its L1 table at another place.
    #[must_use]
    pub fn with_l1(mut self, table: HostOffset, entries: u32) -> Self {
        (self.l1_table, self.l1_entries) = (table, entries);
        if let Some(place) = self.stored.get_mut(..12) {
            let bytes = [&table.0.to_be_bytes()[..], &entries.to_be_bytes()].concat();
            place.copy_from_slice(&bytes);
        }
        self
    }

    /// The bytes of the entry, padded to 8: as it was read, or for a new one with the 24 bytes of
    /// extra data that QEMU writes in both versions. `None` when ID or name are longer than their
    /// length fields can say.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut out = if self.stored.is_empty() {
            self.encode()?
        } else {
            self.stored.clone()
        };
        out.resize(out.len().next_multiple_of(8), 0);
        Some(out)
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let len = |text: &str| u16::try_from(text.len()).ok();
        let mut out = self.l1_table.0.to_be_bytes().to_vec();
        out.extend(self.l1_entries.to_be_bytes());
        out.extend(len(&self.id)?.to_be_bytes());
        out.extend(len(&self.name)?.to_be_bytes());
        out.extend(self.date_sec.to_be_bytes());
        out.extend(self.date_nsec.to_be_bytes());
        out.extend(self.vm_clock_nsec.to_be_bytes());
        // The old field has 32 bits; the extra data says it again.
        let small = u32::try_from(self.vm_state_size).unwrap_or(0);
        out.extend(small.to_be_bytes());
        out.extend(u32::try_from(EXTRA).ok()?.to_be_bytes());
        out.extend(self.vm_state_size.to_be_bytes());
        out.extend(self.disk_size.unwrap_or(0).to_be_bytes());
        out.extend(self.icount.unwrap_or(NO_ICOUNT).to_be_bytes());
        out.extend(self.id.as_bytes());
        out.extend(self.name.as_bytes());
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_entries_round_trip_and_old_ones_keep_what_is_not_known() {
        let new = SnapshotEntry {
            l1_table: HostOffset(0x50000),
            l1_entries: 7,
            id: "12".to_owned(),
            name: "näme".to_owned(),
            date_sec: 1,
            date_nsec: 2,
            vm_clock_nsec: 3,
            vm_state_size: 1 << 33,
            disk_size: Some(1 << 30),
            icount: None,
            stored: Vec::new(),
        };
        let bytes = new.to_bytes().unwrap();
        let (read, len) = SnapshotEntry::from_bytes(&bytes, 0).unwrap();
        assert_eq!(len, bytes.len());
        let stored = read.stored.clone();
        assert_eq!(SnapshotEntry { stored, ..new }, read);

        // Extra data of 28 bytes, and a name that is no UTF-8.
        let mut bytes = vec![0u8; 40];
        bytes[13] = 1;
        bytes[15] = 1;
        bytes[39] = 28;
        bytes.extend(1..=28);
        bytes.extend([b'1', 0xff]);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let (read, _) = SnapshotEntry::from_bytes(&bytes, 0).unwrap();
        assert_eq!(read.to_bytes().unwrap(), bytes);
        let moved = read.with_l1(HostOffset(0x70000), 9).to_bytes().unwrap();
        assert_eq!(moved[12..], bytes[12..]);
        let (moved, _) = SnapshotEntry::from_bytes(&moved, 0).unwrap();
        assert_eq!((moved.l1_table, moved.l1_entries), (HostOffset(0x70000), 9));
    }

    #[test]
    fn an_entry_cut_off_anywhere_is_an_error() {
        let mut bytes = vec![0u8; 40];
        bytes[13] = 1; // ID of one byte
        bytes[15] = 2; // name of two bytes
        bytes[39] = 16; // extra data of 16 bytes
        bytes.extend([0; 16]);
        bytes.extend(b"1ab");
        let (entry, len) = SnapshotEntry::from_bytes(&bytes, 0).unwrap();
        assert_eq!(
            (entry.id.as_str(), entry.name.as_str(), len),
            ("1", "ab", 64)
        );
        for cut in 0..bytes.len() {
            assert!(SnapshotEntry::from_bytes(&bytes[..cut], 0).is_err());
        }
    }
}
