//! One layer: what does *this* file say about a guest range?

pub(crate) mod bitmap;
mod luks;
mod qcow2;
mod qcow2_cursor;
mod qcow2_snapshot;
mod raw_cursor;

pub use bitmap::{BitmapBits, Chunk};
pub use luks::Luks;
pub use qcow2::Qcow2;
pub use qcow2_snapshot::SnapshotQuery;

use crate::crypto::LuksArea;
use crate::error::Result;
use crate::extent::Extent;
use crate::source::{ReadAt, Source};
use backchain_format::qcow2::{Codec, CryptMethod};
use backchain_format::{Format, qcow2 as format, raw};
use qcow2_cursor::Qcow2Cursor;
use raw_cursor::RawCursor;

/// The two ways of encrypting guest data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// The old method of qcow2: read, never written anew.
    Aes,
    /// LUKS.
    Luks,
}

/// An image that was opened and whose header is valid.
#[derive(Debug, Clone)]
pub enum Image {
    /// Raw bytes.
    Raw {
        /// Virtual size in bytes: the file's length rounded up to sectors, or that of a window.
        size: u64,
        /// Where in the file the disk starts, in bytes: 0 but for a window (`raw` with `offset`).
        offset: u64,
    },
    /// qcow2.
    Qcow2(Box<Qcow2>),
    /// An encrypted volume.
    Luks(Box<Luks>),
}

impl Image {
    /// Opens `source` as an image of format `format`, reading no more than its first cluster.
    pub fn open(source: &dyn ReadAt, format: Format) -> Result<Self> {
        Ok(match format {
            Format::Qcow2 => Image::Qcow2(Box::new(Qcow2::open(source)?)),
            Format::Luks => Image::Luks(Box::new(Luks::open(source)?)),
            _ => Image::Raw {
                size: raw::virtual_size(source.len()),
                offset: 0,
            },
        })
    }

    /// The same for an image that is to be checked or repaired (see [`Qcow2::open_damaged`]).
    pub fn open_damaged(source: &dyn ReadAt, format: Format) -> Result<Self> {
        match format {
            Format::Qcow2 => Ok(Image::Qcow2(Box::new(Qcow2::open_damaged(source)?))),
            _ => Self::open(source, format),
        }
    }

    /// The image's format.
    pub fn format(&self) -> Format {
        match self {
            Image::Raw { .. } => Format::Raw,
            Image::Qcow2(_) => Format::Qcow2,
            Image::Luks(_) => Format::Luks,
        }
    }

    /// Size of the virtual disk in bytes.
    pub fn virtual_size(&self) -> u64 {
        match self {
            Image::Raw { size, .. } => *size,
            Image::Qcow2(image) => image.head.header.size,
            Image::Luks(volume) => volume.size,
        }
    }

    /// The link to its backing file.
    pub fn backing(&self) -> Option<&format::Backing> {
        self.as_qcow2()?.head.backing.as_ref()
    }

    /// The qcow2 image, if it is one.
    pub fn as_qcow2(&self) -> Option<&Qcow2> {
        match self {
            Image::Qcow2(image) => Some(image),
            Image::Raw { .. } | Image::Luks(_) => None,
        }
    }

    /// How the guest's data is encrypted.
    pub fn encryption(&self) -> Option<Encryption> {
        match self {
            Image::Raw { .. } => None,
            Image::Luks(_) => Some(Encryption::Luks),
            Image::Qcow2(image) => match image.head.header.crypt {
                CryptMethod::None => None,
                CryptMethod::Aes => Some(Encryption::Aes),
                CryptMethod::Luks => Some(Encryption::Luks),
            },
        }
    }

    /// The LUKS header, wherever the image keeps it; `None` for images without one.
    ///
    /// # Errors
    /// When it cannot be read or is not valid.
    pub fn luks(&self, source: &dyn ReadAt) -> Result<Option<LuksArea>> {
        match self {
            Image::Raw { .. } => Ok(None),
            Image::Luks(volume) => Ok(Some(volume.area.clone())),
            Image::Qcow2(image) => image.luks(source),
        }
    }

    /// What the initialisation vector of an encrypted sector is made from: the offset, in
    /// bytes, that counts for the sector at `guest` on the disk and `host` in the file.
    pub fn vector_offset(&self, guest: u64, host: u64) -> u64 {
        match self {
            Image::Luks(volume) => host.saturating_sub(volume.payload()),
            Image::Qcow2(image) if image.head.header.crypt == CryptMethod::Aes => guest,
            _ => host,
        }
    }

    /// The unit of allocation in bytes: what a partial write has to fill up. 1 for raw.
    pub fn granule(&self) -> u64 {
        self.as_qcow2().map_or(1, |image| image.layout().granule())
    }

    /// Bytes that one compressed cluster unpacks to, and how; `None` where there are none.
    pub fn packing(&self) -> Option<(u64, Codec)> {
        let header = &self.as_qcow2()?.head.header;
        Some((header.cluster.bytes(), header.codec))
    }

    /// The image's extents from guest byte `start` on, in guest order and coalesced, up to its
    /// virtual size.
    /// `data`: the file with the guest data; `source` itself but for an external data file.
    pub fn extents(&self, source: &Source, data: &Source, start: u64) -> Result<Extents> {
        let cursor = match self {
            Image::Raw { size, offset } => {
                Cursor::Raw(RawCursor::new(source.clone(), *offset, *size, start))
            }
            Image::Qcow2(image) => {
                let cursor = Qcow2Cursor::new(source.clone(), image, data.len(), start);
                Cursor::Qcow2(Box::new(cursor))
            }
            Image::Luks(volume) => Cursor::One(volume.extent(start)),
        };
        Ok(Extents {
            cursor,
            ahead: None,
            failed: false,
        })
    }
}

enum Cursor {
    Raw(RawCursor),
    Qcow2(Box<Qcow2Cursor>),
    /// The last extent.
    One(Option<Extent>),
}

/// Iterator over the extents of one image. After an error it ends.
pub struct Extents {
    cursor: Cursor,
    ahead: Option<Extent>,
    failed: bool,
}

impl Extents {
    fn pull(&mut self) -> Option<Result<Extent>> {
        if self.failed {
            return None;
        }
        let next = match &mut self.cursor {
            Cursor::Raw(cursor) => cursor.next(),
            Cursor::Qcow2(cursor) => cursor.next(),
            Cursor::One(extent) => Ok(extent.take()),
        };
        self.failed = next.is_err();
        next.transpose()
    }
}

impl Iterator for Extents {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut extent = match self.ahead.take() {
            Some(extent) => extent,
            None => match self.pull()? {
                Ok(extent) => extent,
                Err(error) => return Some(Err(error)),
            },
        };
        loop {
            match self.pull() {
                Some(Ok(next)) if extent.merge(&next) => {}
                Some(Ok(next)) => {
                    self.ahead = Some(next);
                    return Some(Ok(extent));
                }
                Some(Err(error)) => {
                    self.failed = true;
                    return Some(Err(error));
                }
                None => return Some(Ok(extent)),
            }
        }
    }
}
