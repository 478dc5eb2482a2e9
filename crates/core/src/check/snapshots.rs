//! The snapshot table as a check reads it: as far as it goes, whatever is wrong with it.

use super::finding::Finding;
use super::report::Recorder;
use super::{CheckFailure, Fix};
use crate::image::Qcow2;
use crate::source::{ReadAt, read_padded};
use backchain_format::bytes::{align_up, be16, be32, be64, to_u64, to_usize};
use backchain_format::qcow2::MAX_SNAPSHOTS;

/// QEMU's limit for the bytes of a snapshot table.
const MAX_TABLE: u64 = 64 << 20;
/// Bytes of an entry before its extra data.
const FIXED: u64 = 40;
/// Most bytes of extra data.
const MAX_EXTRA: u32 = 1024;
/// Extra data that version 3 requires: size of the VM state and size of the disk.
const REQUIRED_EXTRA: u32 = 16;
/// Extra data whose meaning is known.
const KNOWN_EXTRA: usize = 24;

/// One entry of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed {
    /// Offset of the snapshot's L1 table.
    pub(super) l1: u64,
    /// Its entries.
    pub(super) l1_entries: u32,
    /// Where the entry is.
    at: u64,
    extra: u32,
    id: u16,
    name: u16,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct SnapshotTable {
    pub(super) entries: Vec<Listed>,
    /// Where it is.
    pub(super) start: u64,
    /// Its bytes in the file.
    pub(super) len: u64,
    /// It has to be written anew, and can be.
    pub(super) rewrite: bool,
}

/// Reads the table, telling what is wrong with it. Fails where `qemu-img check` gives up.
pub(super) fn read(
    source: &dyn ReadAt,
    image: &Qcow2,
    fix: Fix,
    recorder: &mut Recorder<'_>,
) -> Result<SnapshotTable, CheckFailure> {
    let header = &image.head.header;
    let mut table = SnapshotTable {
        start: header.snapshot_table.0,
        ..SnapshotTable::default()
    };
    let mut count = header.snapshots;
    if count == 0 {
        return Ok(table);
    }
    if !header.cluster.is_aligned(table.start) || table.start >= 1 << 56 {
        let message = "snapshot table offset invalid".to_owned();
        return Err(CheckFailure::told(message, None, "Invalid argument"));
    }
    let all = fix == Fix::All;
    if count > MAX_SNAPSHOTS {
        let excess = count - MAX_SNAPSHOTS;
        if !all {
            let hint = format!(
                "You can force-remove all {excess} overhanging snapshots with qemu-img check -r all"
            );
            let message = "snapshot table too large".to_owned();
            return Err(CheckFailure::told(message, Some(hint), "File too large"));
        }
        let finding = Finding::SnapshotsOverhanging {
            count: excess,
            too_big: false,
        };
        recorder.mended(&finding, u64::from(excess));
        table.rewrite = true;
        count = MAX_SNAPSHOTS;
    }
    let mut at = table.start;
    for index in 0..count {
        let mut fixed = [0; 40];
        read_padded(source, at, &mut fixed).map_err(|error| {
            let message = format!("failed to read the snapshot table: {error}");
            CheckFailure::told(message, None, "Input/output error")
        })?;
        // The array is 40 bytes long, so nothing is missing.
        let word = |at| be32(&fixed, at).unwrap_or(0);
        let short = |at| be16(&fixed, at).unwrap_or(0);
        let entry = Listed {
            l1: be64(&fixed, 0).unwrap_or(0),
            l1_entries: word(8),
            at,
            extra: word(36),
            id: short(12),
            name: short(14),
        };
        if entry.extra > MAX_EXTRA {
            let len = entry.extra;
            if !all {
                let message = format!(
                    "failed to read the snapshot table: Too much extra metadata in snapshot table \
                     entry {index}"
                );
                let hint = "You can force-remove this extra metadata with qemu-img check -r all";
                let hint = Some(hint.to_owned());
                return Err(CheckFailure::told(message, hint, "File too large"));
            }
            recorder.mended(&Finding::SnapshotExtra { index, len }, 1);
            table.rewrite = true;
        }
        let end = align_up(entry.end(), 8).filter(|end| end - table.start <= MAX_TABLE);
        let Some(end) = end else {
            if !all {
                let message =
                    "failed to read the snapshot table: Snapshot table is too big".to_owned();
                return Err(CheckFailure::told(message, None, "File too large"));
            }
            let count = count - index;
            let too_big = true;
            let finding = Finding::SnapshotsOverhanging { count, too_big };
            recorder.mended(&finding, u64::from(count));
            table.rewrite = true;
            break;
        };
        table.entries.push(entry);
        at = end;
    }
    table.len = at - table.start;
    for (index, entry) in (0..).zip(&table.entries) {
        if image.head.is_v3() && entry.extra < REQUIRED_EXTRA {
            let finding = Finding::SnapshotIncomplete { index };
            if all {
                recorder.mended(&finding, 1);
                table.rewrite = true;
            } else {
                recorder.add(&finding);
            }
        }
    }
    Ok(table)
}

impl Listed {
    fn names(&self) -> u64 {
        self.at
            .saturating_add(FIXED)
            .saturating_add(u64::from(self.extra))
    }

    fn end(&self) -> u64 {
        let names = u64::from(self.id) + u64::from(self.name);
        self.names().saturating_add(names)
    }

    /// ID and name, for a message.
    pub(super) fn names_of(&self, source: &dyn ReadAt) -> (String, String) {
        let id = text(source, self.names(), self.id);
        let name_at = self.names().saturating_add(u64::from(self.id));
        (id, text(source, name_at, self.name))
    }

    /// The entry as it should be: with all the fields of version 3, without extra data that is
    /// too long to be any.
    fn complete(&self, source: &dyn ReadAt, disk: u64, out: &mut Vec<u8>) -> std::io::Result<()> {
        let mut fixed = vec![0; to_usize(FIXED)];
        read_padded(source, self.at, &mut fixed)?;
        let kept = if self.extra > MAX_EXTRA {
            KNOWN_EXTRA
        } else {
            to_usize(u64::from(self.extra))
        };
        let mut extra = vec![0; kept];
        read_padded(source, self.at + FIXED, &mut extra)?;
        let small_state = u64::from(be32(&fixed, 32).unwrap_or(0));
        // State size, disk size, instruction count (none).
        let defaults = [small_state, disk, u64::MAX];
        for (index, value) in defaults.into_iter().enumerate() {
            if extra.len() < (index + 1) * 8 {
                extra.truncate(index * 8);
                extra.extend(value.to_be_bytes());
            }
        }
        let len = u32::try_from(extra.len()).unwrap_or(0);
        if let Some(field) = fixed.get_mut(36..40) {
            field.copy_from_slice(&len.to_be_bytes());
        }
        let mut names = vec![0; usize::from(self.id) + usize::from(self.name)];
        read_padded(source, self.names(), &mut names)?;
        for part in [fixed, extra, names] {
            out.extend(part);
        }
        out.resize(out.len().next_multiple_of(8), 0);
        Ok(())
    }
}

impl SnapshotTable {
    /// The table as it should be.
    pub(super) fn complete(&self, source: &dyn ReadAt, disk: u64) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for entry in &self.entries {
            let before = bytes.len();
            entry.complete(source, disk, &mut bytes)?;
            if to_u64(bytes.len()) > MAX_TABLE {
                bytes.truncate(before);
                break;
            }
        }
        Ok(bytes)
    }
}

/// At most 256 bytes of a name up to its first NUL.
fn text(source: &dyn ReadAt, offset: u64, len: u16) -> String {
    let mut bytes = vec![0; usize::from(len.min(256))];
    match read_padded(source, offset, &mut bytes) {
        Ok(()) => {
            let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        }
        Err(_) => String::new(),
    }
}
