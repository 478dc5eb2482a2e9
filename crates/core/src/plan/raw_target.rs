//! Writing a flow into a raw image: every changed piece has its place already.

use super::flow::Flow;
use super::sink::{Manner, Sink, whole_sectors};
use super::{Stage, Step, StepQueue};
use crate::chain::{Node, NodeId};
use crate::error::Result;
use backchain_format::{HostOffset, raw};
use std::sync::Arc;

/// Pieces looked at before steps are handed on.
const BATCH: u32 = 1024;

/// The stage that writes a flow into a raw file of `len` bytes.
pub(crate) struct RawStage {
    node: NodeId,
    sink: Sink,
    /// Where in the file the disk starts, in bytes.
    offset: u64,
    /// Length of the file behind `offset` when the plan starts; what lies behind it reads as zeros.
    len: u64,
    /// Virtual size the file is to have; it never shrinks.
    size: u64,
    flow: Flow,
    pos: u64,
    seal: Vec<Step>,
}

impl RawStage {
    pub(crate) fn new(node: NodeId, len: u64, size: u64, flow: Flow, seal: Vec<Step>) -> Self {
        Self {
            node,
            sink: Sink::plain(node),
            offset: 0,
            len,
            size,
            flow,
            pos: 0,
            seal,
        }
    }

    /// The same for an encrypted volume, whose disk starts at byte `payload` of the file.
    pub(crate) fn encrypted(mut self, node: &Arc<Node>, payload: u64) -> Result<Self> {
        self.sink = Sink::of(node)?;
        self.offset = payload;
        self.len = self.len.saturating_sub(payload);
        Ok(self)
    }

    /// Stores things in another manner.
    pub(crate) fn in_manner(mut self, manner: Manner) -> Self {
        self.sink.manner = manner;
        self
    }

    /// The same for a disk that starts at byte `offset` of the file: a window.
    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.offset = offset;
        self.len = self.len.saturating_sub(offset);
        self
    }
}

impl RawStage {
    fn host(&self, guest: u64) -> HostOffset {
        HostOffset(self.offset.saturating_add(guest))
    }
}

impl Stage for RawStage {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        // An odd length stays as it is unless the disk grows.
        if self.pos == 0 && self.size > raw::virtual_size(self.len) {
            out.push(Step::SetLen {
                to: self.node,
                len: self.offset.saturating_add(self.size),
            });
        }
        for _ in 0..BATCH {
            let piece = self.flow.at(self.pos)?;
            self.flow.report(out.crew.as_ref());
            let Some(mut piece) = piece else {
                self.seal.drain(..).for_each(|step| out.push(step));
                return Ok(false);
            };
            // Up to the old end zeros have to be written, behind it they are there.
            let fresh = piece.start >= self.len && !self.sink.is_encrypted();
            if self.sink.is_encrypted() {
                piece = if piece.changed {
                    whole_sectors(piece)?
                } else {
                    piece
                };
            } else if !fresh && piece.end() > self.len {
                piece = piece.slice(piece.start, self.len - piece.start);
            }
            self.pos = piece.end();
            if piece.changed
                && let Some(step) = self.sink.store(&piece, self.host(piece.start), fresh)?
            {
                out.push(step);
            }
        }
        Ok(true)
    }

    fn progress(&self) -> (u64, u64) {
        (self.pos.min(self.flow.size()), self.flow.size())
    }
}
