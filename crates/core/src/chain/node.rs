//! A node: one image file that was opened.

use super::gate::Secret;
use super::name::Opening;
use crate::crypto::{Cipher, LuksArea, MasterKey};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Encryption, Extents, Image};
use crate::source::{Source, read_padded};
use backchain_format::Format;
use backchain_format::qcow2::{Backing, incompatible};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// A node's number within its [`super::Tree`]; plans use it to name files.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// How the format of a node is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FormatOrigin {
    /// The user said so.
    Given,
    /// The overlay's header says so.
    Label,
    /// Nobody says; it looks like this.
    Probed,
}

/// What a file looked like when it was opened: compared under the locks before the first write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Length in bytes.
    pub len: u64,
    /// Nanoseconds since the epoch, where known.
    pub modified: Option<i128>,
    /// CRC-32C of the first 64 KiB.
    pub head: u32,
}

impl Fingerprint {
    /// Bytes at the start of a file that go into [`Fingerprint::head`].
    pub const HEAD: u64 = 64 << 10;

    /// Takes the fingerprint of an open file.
    pub fn of(source: &dyn crate::ReadAt, modified: Option<i128>) -> std::io::Result<Self> {
        let len = source.len();
        let mut head = vec![0; backchain_format::bytes::to_usize(len.min(Self::HEAD))];
        source.read_exact_at(0, &mut head)?;
        Ok(Self {
            len,
            modified,
            head: crc32c::crc32c(&head),
        })
    }
}

/// One image file: opened, its header read.
pub struct Node {
    /// Its number in the tree.
    pub id: NodeId,
    /// The name under which it was opened.
    pub name: String,
    /// What identifies the file (see [`super::Granted::key`]).
    pub key: String,
    /// Its bytes.
    pub source: Source,
    /// What was asked for: its name taken apart.
    pub opened: Opening,
    /// How its format is known.
    pub origin: FormatOrigin,
    /// What the first bytes say it is, whatever it was opened as.
    pub probed: Format,
    /// The parsed image, or why there is none.
    pub image: Result<Image>,
    /// What it looked like when opened.
    pub fingerprint: Fingerprint,
    /// Bytes it takes on the disk, where known.
    pub allocated: Option<u64>,
    /// The external data file, which holds the guest data: a raw node of its own in the tree.
    /// `None` where the image keeps its data itself, and where [`Node::data_error`] says why the
    /// file is not there.
    pub data: Option<Arc<Node>>,
    /// Why the external data file that the image needs is not open.
    pub data_error: Option<Error>,
    /// The cipher, once the image was unlocked (see [`super::Tree::unlock`]).
    pub unlocked: CipherCell,
}

/// The cipher of an encrypted image, derived when it is first asked for. Clones are the same
/// cell.
#[derive(Clone, Default)]
pub struct CipherCell(Arc<Lock>);

#[derive(Default)]
struct Lock {
    /// The passphrase, or why there is none.
    secret: OnceLock<Result<Secret>>,
    /// What was made of it.
    cipher: OnceLock<Arc<Cipher>>,
    /// Why nothing could be made of it.
    failure: OnceLock<Error>,
}

impl CipherCell {
    /// The cipher of an image that is just being made.
    pub fn of(cipher: Option<Arc<Cipher>>) -> Self {
        let cell = Self::default();
        if let Some(cipher) = cipher {
            let _ = cell.0.cipher.set(cipher);
        }
        cell
    }

    /// Takes the passphrase for later, or the reason why there is none.
    pub(super) fn give(&self, secret: Result<Secret>) {
        // Only the first one counts.
        let _ = self.0.secret.set(secret);
    }
}

impl Node {
    /// Whether there is a file at all (`null-co` has none).
    pub fn has_file(&self) -> bool {
        matches!(self.opened.file, super::OpeningFile::Named(_))
    }

    /// Its name as QEMU shows it: the path, or `json:{...}` when there is more to say.
    pub fn title(&self) -> &str {
        self.opened.shown.as_deref().unwrap_or(&self.name)
    }

    /// The node whose file holds this image's guest data: the external data file, else itself.
    pub fn data_node(&self) -> &Node {
        self.data.as_deref().unwrap_or(self)
    }

    /// The cipher of the guest's data; `None` where it is not encrypted.
    ///
    /// # Errors
    /// *Locked* when no passphrase was given or it was not the right one.
    pub fn cipher(&self) -> Result<Option<&Arc<Cipher>>> {
        let Some(encryption) = self.image()?.encryption() else {
            return Ok(None);
        };
        let lock = &self.unlocked.0;
        if let Some(cipher) = lock.cipher.get() {
            return Ok(Some(cipher));
        }
        let blame = |error: &Error| error.duplicate().about(&self.name);
        if let Some(failure) = lock.failure.get() {
            return Err(blame(failure));
        }
        let secret = self.secret()?;
        match self.derive(encryption, secret) {
            Ok(cipher) => Ok(Some(lock.cipher.get_or_init(|| Arc::new(cipher)))),
            Err(error) => Err(blame(lock.failure.get_or_init(|| error))),
        }
    }

    /// The passphrase that was given for it.
    fn secret(&self) -> Result<&Secret> {
        match self.unlocked.0.secret.get() {
            Some(Ok(secret)) => Ok(secret),
            Some(Err(error)) => Err(error.duplicate().about(&self.name)),
            None => {
                let message = "the image is encrypted and no passphrase was given";
                let error = Error::new(ErrorKind::Locked, message).with_qemu(
                    match self.image()?.format() {
                        Format::Luks => "Parameter 'key-secret' is required for cipher",
                        _ => "Parameter 'encrypt.key-secret' is required for cipher",
                    },
                );
                Err(error.about(&self.name))
            }
        }
    }

    /// The LUKS header of an encrypted image, and its master key for a change of key slots. The
    /// key is looked for when it is asked for, which takes as long as the passphrase is
    /// stretched.
    ///
    /// # Errors
    /// *Unsupported* where there is no such header.
    pub fn luks(&self) -> Result<(LuksArea, impl FnOnce() -> Result<MasterKey>)> {
        let source = self.source.as_ref();
        let Some(area) = self.image()?.luks(source).map_err(|e| self.blame(e))? else {
            let message = "the image is not encrypted with LUKS";
            return Err(Error::new(ErrorKind::Unsupported, message).about(&self.name));
        };
        let header = area.clone();
        let key = move || {
            let unlocked = header.unlock(source, self.secret()?.as_bytes());
            Ok(unlocked.map_err(|e| self.blame(e))?.1)
        };
        Ok((area, key))
    }

    /// Makes the cipher of a passphrase, which takes as long as that is stretched.
    fn derive(&self, encryption: Encryption, secret: &Secret) -> Result<Cipher> {
        match encryption {
            Encryption::Aes => Cipher::legacy_aes(secret.as_bytes()),
            Encryption::Luks => {
                let source = self.source.as_ref();
                let area = self.image()?.luks(source)?;
                let area = area.ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, "the encryption header is missing")
                })?;
                let (_, key) = area.unlock(source, secret.as_bytes())?;
                key.cipher(area.header.cipher)
            }
        }
    }

    /// Unlocks the image with a passphrase, now; unless it is unlocked already.
    pub(super) fn unlock(&self, secret: &Secret) -> Result<()> {
        let lock = &self.unlocked.0;
        let Some(encryption) = self.image()?.encryption() else {
            return Ok(());
        };
        if lock.cipher.get().is_none() {
            let cipher = self.derive(encryption, secret).map_err(|e| self.blame(e))?;
            let _ = lock.cipher.set(Arc::new(cipher));
        }
        Ok(())
    }

    /// Fills `buf` with the guest bytes from `guest` on, which are at `host` of the file that
    /// holds them. Past the end of the file there are zeros, encrypted ones where it is.
    pub fn read_data(&self, guest: u64, host: u64, buf: &mut [u8]) -> Result<()> {
        let cipher = self.cipher()?;
        let data = self.data_node();
        let source = data.source.as_ref();
        match cipher {
            None => read_padded(source, host, buf),
            Some(cipher) => {
                let offset = self.image()?.vector_offset(guest, host);
                cipher.read(source, host, offset, buf)
            }
        }
        .map_err(|e| data.blame(e))
    }

    /// The image, or an error that names this file.
    pub fn image(&self) -> Result<&Image> {
        self.image
            .as_ref()
            .map_err(|e| e.duplicate().about(&self.name))
    }

    /// The same node with its data file, or why that is not open.
    pub(super) fn with_data(&self, data: Result<Arc<Node>>) -> Self {
        let (data, data_error) = match data {
            Ok(data) => (Some(data), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            data,
            data_error,
            ..self.duplicate()
        }
    }

    /// The same node again, for another view of the same file.
    pub(super) fn duplicate(&self) -> Self {
        Self {
            id: self.id,
            name: self.name.clone(),
            key: self.key.clone(),
            source: Arc::clone(&self.source),
            opened: self.opened.clone(),
            origin: self.origin,
            probed: self.probed,
            image: self
                .image
                .as_ref()
                .map(Image::clone)
                .map_err(Error::duplicate),
            fingerprint: self.fingerprint,
            allocated: self.allocated,
            data: self.data.clone(),
            data_error: self.data_error.as_ref().map(Error::duplicate),
            unlocked: self.unlocked.clone(),
        }
    }

    /// Whether its header says that guest data is in an external data file.
    pub fn wants_data_file(&self) -> bool {
        let image = self.image.as_ref().ok().and_then(Image::as_qcow2);
        image.is_some_and(|image| image.head.header.has(incompatible::DATA_FILE))
    }

    /// The link in its header.
    pub fn backing(&self) -> Option<&Backing> {
        self.image.as_ref().ok()?.backing()
    }

    /// The virtual size in bytes; 0 for an image that could not be opened.
    pub fn virtual_size(&self) -> u64 {
        self.image.as_ref().map_or(0, Image::virtual_size)
    }

    /// Its extents from guest byte `start` on.
    pub fn extents(&self, start: u64) -> Result<Extents> {
        self.image()?
            .extents(&self.source, self.data_source()?, start)
            .map_err(|e| self.blame(e))
    }

    /// The bytes that places of guest data are in.
    fn data_source(&self) -> Result<&Source> {
        match (&self.data, &self.data_error) {
            (Some(data), _) => Ok(&data.source),
            (None, Some(error)) => Err(error.duplicate()),
            (None, None) => Ok(&self.source),
        }
    }

    /// The last component of its name.
    pub fn file_name(&self) -> &str {
        super::file_name(&self.name)
    }

    /// Puts this file's name on an error.
    pub fn blame(&self, error: impl Into<Error>) -> Error {
        error.into().about(&self.name)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Where the backing link of a node leads.
#[derive(Debug)]
pub enum Link {
    /// No backing file: the node is a base.
    None,
    /// To another node.
    To(NodeId),
    /// To a file that could not be opened; the error says why.
    Broken(Error),
}
