//! Opening a qcow2 image.

use crate::crypto::LuksArea;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{ReadAt, read_padded};
use backchain_format::FormatError;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::luks::HeaderPointer;
use backchain_format::qcow2::{
    BitmapDirectoryEntry, CryptMethod, Extensions, Head, L1Entry, L2Layout, SnapshotEntry,
    autoclear,
};

/// The most that a LUKS header with its key material may take; those that QEMU makes take 2 MiB.
const MAX_CRYPTO_HEADER: u64 = 64 << 20;
/// QEMU's limit for the bytes of a snapshot table.
pub(super) const MAX_SNAPSHOT_TABLE: u64 = 64 << 20;
/// Bytes of it read at once: room for two entries of 40 bytes, 1024 extra bytes and two names
/// of 65535 bytes at most.
const SNAPSHOT_WINDOW: usize = 2 * (40 + 1024 + 2 * 65536);

/// A qcow2 image whose header was read and whose tables are known to lie within the file.
#[derive(Debug, Clone)]
pub struct Qcow2 {
    /// Header, extensions, backing file name.
    pub head: Head,
    /// Length of the file in bytes when it was opened.
    pub file_len: u64,
}

impl Qcow2 {
    /// Reads the head and, where there are any, the lists of snapshots and bitmaps, and checks
    /// where the tables are. Tables are not read.
    pub fn open(source: &dyn ReadAt) -> Result<Self> {
        let image = Self::read(source, Head::from_bytes)?;
        image.check_inside("refcount table", image.head.header.refcount_table.0, 1)?;
        // QEMU opens nothing with a damaged list of snapshots or bitmaps, and neither must a
        // program that is going to write.
        if image.head.header.snapshots > 0 {
            image.check_inside("snapshot table", image.head.header.snapshot_table.0, 1)?;
        }
        image.snapshots(source)?;
        Ok(image)
    }

    /// Opens an image that is to be checked or repaired: its refcount table and its list of
    /// snapshots may be damaged or missing, as they may for `qemu-img check`.
    pub fn open_damaged(source: &dyn ReadAt) -> Result<Self> {
        Self::read(source, Head::from_damaged)
    }

    fn read(
        source: &dyn ReadAt,
        parse: fn(&[u8]) -> std::result::Result<Head, FormatError>,
    ) -> Result<Self> {
        let file_len = source.len();
        // The largest cluster is 2 MiB; most heads end within the first 4 KiB.
        let mut bytes = vec![0; to_usize(file_len.min(4096))];
        source.read_exact_at(0, &mut bytes)?;
        let cluster_bits = backchain_format::bytes::be32(&bytes, 20).unwrap_or(0);
        let cluster = 1u64 << cluster_bits.clamp(9, 21);
        if cluster > 4096 && file_len > 4096 {
            bytes.resize(to_usize(file_len.min(cluster)), 0);
            source.read_exact_at(0, &mut bytes)?;
        }
        let head = parse(&bytes)?;
        let image = Self { head, file_len };
        let header = &image.head.header;
        header.check_long_l1(file_len)?;
        let l1 = u64::from(header.l1_entries) * L1Entry::LEN;
        image.check_inside("L1 table", header.l1_table.0, l1)?;
        if image.bitmaps_consistent() {
            image.bitmaps(source)?;
        }
        Ok(image)
    }

    pub(super) fn check_inside(&self, what: &str, at: u64, len: u64) -> Result<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.file_len => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{what} at {at:#x} ({len} bytes) is past the end of the file at {:#x}",
                    self.file_len
                ),
            )),
        }
    }

    /// How L2 entries are laid out.
    pub fn layout(&self) -> L2Layout {
        self.head.header.l2_layout()
    }

    /// Where the encryption header is; `None` without one.
    pub(crate) fn crypto_header(&self) -> Result<Option<HeaderPointer>> {
        let data = self.head.extensions.get(Extensions::CRYPTO);
        let Some(pointer) = data.map(HeaderPointer::from_bytes).transpose()? else {
            return Ok(None);
        };
        if pointer.len > MAX_CRYPTO_HEADER {
            let message = format!(
                "the encryption header is {} bytes long, at most {MAX_CRYPTO_HEADER} are allowed",
                pointer.len
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(Some(pointer))
    }

    /// The numbers of the host clusters that hold the encryption header.
    pub fn crypto_clusters(&self) -> Result<std::ops::Range<u64>> {
        let cluster = self.head.header.cluster;
        Ok(match self.crypto_header()? {
            Some(at) => {
                let end = at.offset.saturating_add(at.len).min(self.file_len);
                at.offset >> cluster.bits()..cluster.clusters(end)
            }
            None => 0..0,
        })
    }

    /// Reads the LUKS header of an image that is encrypted this way.
    pub fn luks(&self, source: &dyn ReadAt) -> Result<Option<LuksArea>> {
        let header = &self.head.header;
        if header.crypt != CryptMethod::Luks {
            return Ok(None);
        }
        let Some(pointer) = self.crypto_header()? else {
            return Ok(None);
        };
        if !header.cluster.is_aligned(pointer.offset) {
            let message = format!(
                "Encryption header offset '{}' is not a multiple of cluster size '{}'",
                pointer.offset,
                header.cluster.bytes()
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        self.check_inside("encryption header", pointer.offset, pointer.len)?;
        let area = LuksArea::read(source, pointer.offset)?;
        if area.header.payload_offset > pointer.len {
            let message = format!(
                "the key material of the encryption header ends at byte {}, behind the {} bytes it has",
                area.header.payload_offset, pointer.len
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(Some(area))
    }

    /// Reads the table of internal snapshots. Bytes past the end of the file are zeros.
    pub fn snapshots(&self, source: &dyn ReadAt) -> Result<Vec<SnapshotEntry>> {
        let header = &self.head.header;
        let start = header.snapshot_table.0;
        let mut list = Vec::new();
        let mut window = vec![
            0;
            if header.snapshots > 0 {
                SNAPSHOT_WINDOW
            } else {
                0
            }
        ];
        let (mut window_at, mut at) = (start, start);
        read_padded(source, window_at, &mut window)?;
        for _ in 0..header.snapshots {
            if at - window_at > to_u64(SNAPSHOT_WINDOW / 2) {
                window_at = at;
                read_padded(source, window_at, &mut window)?;
            }
            // Half a window is behind it, and no entry is longer.
            let bytes = window.get(to_usize(at - window_at)..).unwrap_or_default();
            let (entry, len) = SnapshotEntry::from_bytes(bytes, at)?;
            list.push(entry);
            at = at.saturating_add(to_u64(len));
            if at.saturating_sub(start) > MAX_SNAPSHOT_TABLE {
                let message = format!(
                    "the snapshot table is longer than the {MAX_SNAPSHOT_TABLE} bytes that are allowed"
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        Ok(list)
    }

    /// Reads the bitmap directory. Bitmaps are only to be trusted when
    /// [`Qcow2::bitmaps_consistent`].
    pub fn bitmaps(&self, source: &dyn ReadAt) -> Result<Vec<BitmapDirectoryEntry>> {
        let Some(extension) = self.head.extensions.bitmaps(0) else {
            return Ok(Vec::new());
        };
        let extension = extension?;
        let (at, len) = (extension.directory.0, extension.directory_len);
        self.check_inside("bitmap directory", at, len)?;
        let mut bytes = vec![0; to_usize(len)];
        read_padded(source, at, &mut bytes)?;
        Ok(BitmapDirectoryEntry::directory(
            &bytes,
            extension.count,
            at,
        )?)
    }

    /// Whether there are bitmaps that are not marked consistent: nobody may trust them, and
    /// their clusters count as lost.
    pub fn forgets_bitmaps(&self) -> bool {
        let present = self.head.extensions.get(Extensions::BITMAPS).is_some();
        present && self.head.header.autoclear & autoclear::BITMAPS == 0
    }

    /// Whether the bitmaps extension is there and marked consistent.
    pub fn bitmaps_consistent(&self) -> bool {
        let present = self.head.extensions.bitmaps(0).is_some();
        present && self.head.header.autoclear & autoclear::BITMAPS != 0
    }
}
