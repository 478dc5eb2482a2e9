//! What can be wrong with an image's bytes.

use std::borrow::Cow;

/// The matchable part of a [`FormatError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes break the specification of their own format.
    Corrupt,
    /// A valid image that uses something this program does not know or does not do.
    Unsupported,
    /// The bytes end before the structure does.
    Truncated,
    /// A value to be written does not fit the structure it belongs to.
    NoRoom,
}

/// An error in the bytes of an image: what, at which byte of the file, against which limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (byte {offset})")]
pub struct FormatError {
    /// What sort of problem this is.
    pub kind: ErrorKind,
    /// What is wrong and which limit applies, in one sentence without a full stop.
    pub message: Cow<'static, str>,
    /// Byte offset in the file at which the offending field or structure starts.
    pub offset: u64,
    /// What qemu-img says of the same problem, where that is something else.
    pub qemu: Option<Cow<'static, str>>,
}

impl FormatError {
    /// An image that breaks its specification at byte `offset`.
    pub fn corrupt(offset: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Corrupt, offset, message)
    }

    /// Something valid that is not handled, found at byte `offset`.
    pub fn unsupported(offset: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, offset, message)
    }

    /// A structure that needs bytes beyond the end of what there is.
    pub fn truncated(offset: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Truncated, offset, message)
    }

    /// A value that cannot be encoded.
    pub fn no_room(offset: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NoRoom, offset, message)
    }

    fn new(kind: ErrorKind, offset: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            offset,
            qemu: None,
        }
    }

    /// The same, with what qemu-img says of it.
    #[must_use]
    pub fn as_qemu(mut self, words: impl Into<Cow<'static, str>>) -> Self {
        self.qemu = Some(words.into());
        self
    }
}
