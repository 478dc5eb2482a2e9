//! The gate: nothing is opened but through the caller.

use super::node::Node;
use crate::source::Source;
use std::collections::BTreeMap;
use std::fmt;
use std::io;

/// What the engine asks the gate for.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The name as written by the user or in the referring image's header.
    pub name: &'a str,
    /// The image whose header names it; `None` for files the user named.
    pub referrer: Option<&'a Node>,
}

/// A file handed out by the gate.
#[derive(Clone)]
pub struct Granted {
    /// The name under which it was opened: what messages and further relative names use.
    pub name: String,
    /// What makes two grants the same file: a canonical path, device and inode, a handle's number.
    pub key: String,
    /// Its bytes.
    pub source: Source,
    /// Time of its last change in nanoseconds since the epoch, where known.
    pub modified: Option<i128>,
    /// Bytes it takes on the disk, where known.
    pub allocated: Option<u64>,
}

/// Why the gate did not open a file.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// There is no such file.
    #[error("file not found")]
    NotFound,
    /// There may be one, but the user did not grant it; the text says why.
    #[error("{0}")]
    NotGranted(String),
    /// The name is a locator for something that is not a local file.
    #[error("{0}")]
    Unsupported(String),
    /// Another program has it open in a way that does not go together with this use.
    #[error("{0}")]
    InUse(String),
    /// Opening failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Decides which files the engine may see.
pub trait Gate {
    /// Opens the file that `request` names, or says why not. A relative name is relative to the
    /// directory of the referrer's name as it was opened (see [`super::Locator::resolve`]).
    fn open(&self, request: Request<'_>) -> Result<Granted, Denied>;

    /// The passphrase that the user calls `id`, for images that are encrypted. None by default.
    fn secret(&self, id: &str) -> Option<Secret> {
        let _ = id;
        None
    }
}

/// A passphrase. Its text appears in no message.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes of a passphrase.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes as they are; whoever needs text checks that they are UTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A gate over a fixed set of files, found by their resolved names: for tests, and wherever
/// the files are known beforehand.
#[derive(Default)]
pub struct MapGate(pub BTreeMap<String, Source>);

impl Gate for MapGate {
    fn open(&self, request: Request<'_>) -> Result<Granted, Denied> {
        let name = super::Locator::resolve(request.name, request.referrer.map(|n| n.name.as_str()))
            .map_err(|e| Denied::Unsupported(e.to_string()))?;
        let source = self.0.get(&name).ok_or(Denied::NotFound)?;
        let (key, source) = (name.clone(), source.clone());
        Ok(Granted {
            name,
            key,
            source,
            modified: None,
            allocated: None,
        })
    }
}
