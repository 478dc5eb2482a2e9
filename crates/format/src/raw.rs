//! Raw images: byte n of the file is byte n of the disk.

use crate::bytes::align_up;

/// Raw disks are made of sectors of this many bytes.
pub const SECTOR: u64 = 512;

/// The virtual size in bytes of a raw file of `len` bytes: QEMU rounds up to whole sectors, and
/// the bytes past the end of the file read as zeros.
pub fn virtual_size(len: u64) -> u64 {
    align_up(len, SECTOR).unwrap_or(len)
}
