//! The engine's one error type.

use backchain_format::FormatError;
use std::fmt;

/// What sort of problem it is: the part of an [`Error`] that callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Reading or writing failed.
    Io,
    /// An image breaks its own format.
    Corrupt,
    /// A valid image or request that this program does not handle.
    Unsupported,
    /// A file is not there.
    NotFound,
    /// A file is there but was not granted by the caller's gate.
    NotGranted,
    /// The backing links run in a circle.
    Loop,
    /// The format recorded for a backing file is not what the file holds.
    WrongLabel,
    /// The change would break images that depend on a file; an override exists.
    Dependents,
    /// Data of an encrypted image would be written unencrypted; an override exists.
    Plaintext,
    /// The change is refused for a reason that has no override.
    Refused,
    /// Another program has the image open.
    InUse,
    /// A file changed since it was looked at.
    Changed,
    /// The request itself makes no sense (unknown layer, top below base, ...).
    Invalid,
    /// The image is encrypted and no passphrase, or not the right one, was given.
    Locked,
    /// The user stopped it.
    Cancelled,
}

/// An error: what, about which file, and why.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    file: Option<String>,
    qemu: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What the engine's fallible functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a message in one sentence, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            file: None,
            qemu: None,
            source: None,
        }
    }

    /// Names the file the error is about, unless one is named already.
    #[must_use]
    pub fn about(mut self, file: impl Into<String>) -> Self {
        self.file.get_or_insert_with(|| file.into());
        self
    }

    /// Adds the underlying cause.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// Adds what qemu-img says of the same problem.
    #[must_use]
    pub fn with_qemu(mut self, words: impl Into<String>) -> Self {
        self.qemu = Some(words.into());
        self
    }

    /// The matchable kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message alone, without file and cause.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What qemu-img says of the same problem, where that is known to be something else.
    pub fn as_qemu(&self) -> Option<&str> {
        self.qemu.as_deref()
    }

    /// The file it is about, as it was opened.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// A copy for a second report of the same problem (the cause becomes text).
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let message = match &self.source {
            Some(cause) => format!("{}: {cause}", self.message),
            None => self.message.clone(),
        };
        Self {
            kind: self.kind,
            message,
            file: self.file.clone(),
            qemu: self.qemu.clone(),
            source: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(cause) = &self.source {
            write!(f, ": {cause}")?;
        }
        if let Some(file) = &self.file {
            write!(f, " ({file})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        use backchain_format::ErrorKind as Format;
        let kind = match error.kind {
            Format::Unsupported => ErrorKind::Unsupported,
            Format::NoRoom => ErrorKind::Refused,
            _ => ErrorKind::Corrupt,
        };
        Self {
            qemu: error.qemu.as_deref().map(str::to_owned),
            ..Self::new(kind, error.to_string())
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, error.to_string())
    }
}
