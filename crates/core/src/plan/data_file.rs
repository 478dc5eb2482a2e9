//! The external data file of a target: guest data at its guest offset, in a file of its own.
//!
//! Nothing is allocated there and nothing is counted. But a place that the image says nothing
//! about may hold anything, so zeros have to be written; and in a file that is to be readable
//! as a raw image (`data_file_raw`), whatever reads as zeros must be zeros.

use super::flow::Piece;
use super::{Step, StepQueue};
use crate::chain::{Node, NodeId};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::qcow2::autoclear;

/// The data file of an image that a plan writes to.
pub(super) struct DataFile {
    pub(super) id: NodeId,
    /// It is to be readable as a raw image.
    pub(super) raw: bool,
    /// Its length when the plan starts: what lies behind it reads as zeros.
    len: u64,
    /// Something was written since the last sync.
    dirty: bool,
    /// Ranges that nothing refers to any more, as soon as this window is written; then those
    /// of the window before, which becomes durable with the next sync.
    freed: Vec<(u64, u64)>,
    removed: Vec<(u64, u64)>,
}

impl DataFile {
    /// The data file of `node`, if it has one.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let data = node.data.as_ref()?;
        Some(Self {
            id: data.id,
            raw: is_raw(node),
            len: data.source.len(),
            dirty: false,
            freed: Vec::new(),
            removed: Vec::new(),
        })
    }

    /// Whether `len` bytes from `at` on read as zeros before the plan writes there.
    pub(super) fn is_fresh(&self, at: HostOffset) -> bool {
        at.0 >= self.len
    }

    /// Something is written to it.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    /// Makes zeros of what `pieces` cover, for those who read the file itself.
    pub(super) fn zero(&mut self, pieces: &[Piece], out: &mut StepQueue) {
        for piece in pieces {
            let dst = HostOffset(piece.start);
            if !self.is_fresh(dst) {
                self.dirty = true;
                out.push(Step::Zero {
                    to: self.id,
                    dst,
                    len: piece.len,
                });
            }
        }
    }

    /// Nothing is going to refer to `len` bytes from `at` on.
    pub(super) fn free(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len).min(self.len);
        if at < end {
            self.freed.push((at, end - at));
        }
    }

    /// Everything up to the last window is durable: what it freed can go.
    pub(super) fn window_done(&mut self, out: &mut StepQueue) {
        let ready = std::mem::replace(&mut self.removed, std::mem::take(&mut self.freed));
        for (at, len) in ready {
            self.dirty = true;
            out.push(Step::Discard {
                to: self.id,
                dst: HostOffset(at),
                len,
            });
        }
    }

    /// Whether something waits for the end of a window.
    pub(super) fn has_freed(&self) -> bool {
        !(self.freed.is_empty() && self.removed.is_empty())
    }

    /// Makes it as long as a disk of `size` bytes.
    pub(super) fn grow(&mut self, size: u64, out: &mut StepQueue) {
        if size > self.len {
            self.dirty = true;
            out.push(Step::SetLen {
                to: self.id,
                len: size,
            });
        }
    }

    /// Makes what was written durable, before anything that refers to it.
    pub(super) fn sync(&mut self, out: &mut StepQueue) {
        if std::mem::take(&mut self.dirty) {
            out.push(Step::Sync { node: self.id });
        }
    }
}

/// Whether the external data file of `node` is to be readable as a raw image.
pub(super) fn is_raw(node: &Node) -> bool {
    let image = node.image.as_ref().ok().and_then(|image| image.as_qcow2());
    node.wants_data_file()
        && image.is_some_and(|i| i.head.header.autoclear & autoclear::RAW_DATA_FILE != 0)
}

/// Fails when `node` must not have a backing file: its data file is a whole raw image.
pub(super) fn allows_backing(node: &Node) -> Result<()> {
    if !is_raw(node) {
        return Ok(());
    }
    let message = "the external data file is to be readable as a raw image (data_file_raw), so \
                   the image cannot have a backing file";
    let error = Error::new(ErrorKind::Invalid, message).with_qemu("Invalid argument");
    Err(error.about(&node.name))
}
