//! The first cluster as a whole: header, extensions, backing file name.

use super::{CryptMethod, Extensions, Header, Version};
use crate::bytes::{to_u64, to_usize};
use crate::{FormatError, HostOffset};
use serde::{Deserialize, Serialize};

/// The longest backing file name in bytes.
pub const MAX_BACKING_NAME: u64 = 1023;

/// The link to a backing file as stored in an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backing {
    /// The name, relative to the overlay unless absolute; may be a locator such as `json:{}`.
    pub name: String,
    /// The format label; `None` asks every reader to guess, which is a security matter.
    pub format: Option<String>,
}

/// Header, extensions and backing file name of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The header.
    pub header: Header,
    /// Its extensions.
    pub extensions: Extensions,
    /// The backing file.
    pub backing: Option<Backing>,
}

impl Head {
    /// Reads the head from the first cluster of a file (or the whole file when it is shorter).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let head = Self::from_damaged(bytes)?;
        head.header.check_complete()?;
        Ok(head)
    }

    /// The same with [`Header::from_damaged`].
    pub fn from_damaged(bytes: &[u8]) -> Result<Self, FormatError> {
        let header = Header::from_damaged(bytes)?;
        let start = to_usize(u64::from(header.header_length));
        // Extensions end where the backing file name starts, or with the cluster.
        let limit = header
            .backing_name
            .map_or(header.cluster.bytes(), |(at, _)| at.0);
        let end = to_usize(limit).min(bytes.len());
        let area = bytes.get(start..end).unwrap_or_default();
        let (extensions, problem) = Extensions::scan(area, u64::from(header.header_length));
        if let Some(problem) = problem {
            return Err(problem);
        }
        Self::check_extensions(&header, &extensions)?;
        let backing = match header.backing_name {
            Some((at, len)) => Some(Backing {
                name: Self::name(bytes, at, len)?,
                format: extensions.string(Extensions::BACKING_FORMAT),
            }),
            None => None,
        };
        Ok(Self {
            header,
            extensions,
            backing,
        })
    }

    /// What QEMU refuses: a format name longer than any, encryption half there.
    fn check_extensions(header: &Header, extensions: &Extensions) -> Result<(), FormatError> {
        let at = u64::from(header.header_length);
        let name = extensions.get(Extensions::BACKING_FORMAT);
        if let Some(name) = name.filter(|name| name.len() >= 16) {
            let message = format!(
                "the backing format name is {} bytes long, at most 15 are allowed",
                name.len()
            );
            return Err(FormatError::corrupt(at, message).as_qemu(format!(
                "ERROR: ext_backing_format: len={} too large (>=16)",
                name.len()
            )));
        }
        let luks = header.crypt == CryptMethod::Luks;
        if luks != extensions.get(Extensions::CRYPTO).is_some() {
            let message = "the pointer to the encryption header is there without LUKS encryption, \
                           or the other way round";
            return Err(FormatError::corrupt(at, message));
        }
        Ok(())
    }

    fn name(bytes: &[u8], at: HostOffset, len: u32) -> Result<String, FormatError> {
        let start = to_usize(at.0);
        let Some(name) = bytes.get(start..start.saturating_add(to_usize(u64::from(len)))) else {
            return Err(FormatError::truncated(
                at.0,
                "the backing file name is cut off",
            ));
        };
        if name.contains(&0) {
            return Err(FormatError::corrupt(
                at.0,
                "the backing file name contains a NUL byte",
            ));
        }
        match std::str::from_utf8(name) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(FormatError::unsupported(
                at.0,
                "the backing file name is not valid UTF-8",
            )),
        }
    }

    /// Puts another backing file (or none) in place, with its format label.
    ///
    /// The new name is laid out right behind the extensions, or behind the old name when the
    /// two would overlap and there is room: then the old head stays intact until the header
    /// itself is written.
    pub fn set_backing(&mut self, backing: Option<Backing>) -> Result<(), FormatError> {
        let old = self.header.backing_name.take();
        let format = backing.as_ref().and_then(|b| b.format.clone());
        self.extensions
            .set(Extensions::BACKING_FORMAT, format.map(String::into_bytes));
        self.backing = backing;
        let Some(backing) = &self.backing else {
            return self.check_room();
        };

        let len = to_u64(backing.name.len());
        if len > MAX_BACKING_NAME {
            let message = format!(
                "backing file name is {len} bytes long, at most {MAX_BACKING_NAME} are allowed"
            );
            return Err(FormatError::no_room(16, message).as_qemu("Invalid argument"));
        }
        if backing.name.is_empty() || backing.name.contains('\0') {
            return Err(FormatError::no_room(
                16,
                "a backing file name is not empty and has no NUL byte",
            ));
        }
        let first = self.extensions_end();
        let cluster = self.header.cluster.bytes();
        let (old_at, old_end) = old.map_or((0, 0), |(at, n)| (at.0, at.0 + u64::from(n)));
        let clear_of_old = first + len <= old_at || first >= old_end;
        let at = if !clear_of_old && old_end + len <= cluster {
            old_end
        } else {
            first
        };
        let short = u32::try_from(len).unwrap_or(u32::MAX);
        self.header.backing_name = Some((HostOffset(at), short));
        self.check_room()
    }

    /// Lays the name out as close to the extensions as it goes: for new images.
    pub fn pack(&mut self) -> Result<(), FormatError> {
        self.header.backing_name = None;
        let backing = self.backing.take();
        self.set_backing(backing)
    }

    fn check_room(&self) -> Result<(), FormatError> {
        let cluster = self.header.cluster.bytes();
        let end = match self.header.backing_name {
            Some((at, len)) => at.0 + u64::from(len),
            None => self.extensions_end(),
        };
        if end > cluster {
            let message = format!(
                "header, extensions and backing file name need {end} bytes, the first cluster has {cluster}"
            );
            return Err(
                FormatError::no_room(8, message).as_qemu("No space left in the file header")
            );
        }
        Ok(())
    }

    /// First byte behind the end marker of the extensions.
    fn extensions_end(&self) -> u64 {
        u64::from(self.header.header_length) + to_u64(self.extensions.to_bytes().len())
    }

    /// Header and extensions as bytes, from byte 0 on.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.header.to_bytes();
        out.extend(self.extensions.to_bytes());
        out
    }

    /// Where the backing file name goes and its bytes.
    pub fn name_bytes(&self) -> Option<(HostOffset, &[u8])> {
        let (at, _) = self.header.backing_name?;
        Some((at, self.backing.as_ref()?.name.as_bytes()))
    }

    /// Whether the image is of version 3, the first with feature bits and zero clusters.
    pub fn is_v3(&self) -> bool {
        self.header.version == Version::V3
    }
}
