//! The stage that writes a flow into a qcow2 target, cluster by cluster.

use super::flow::{Flow, Piece};
use super::pack::{Candidate, Packed, Packer};
use super::qcow2_target::Qcow2Target;
use super::{Stage, Step, StepQueue};
use crate::error::Result;
use std::sync::Arc;

/// Clusters looked at before steps are handed on.
const BATCH: u32 = 1024;

/// The stage that writes a flow into a qcow2 target.
pub(crate) struct Qcow2Stage {
    target: Qcow2Target,
    flow: Flow,
    pos: u64,
    /// The disk is to have this size afterwards.
    size: Option<u64>,
    started: bool,
    seal: Vec<Step>,
    packer: Option<Packer>,
}

impl Qcow2Stage {
    /// `size`: what the target is to grow to; `seal`: steps at the end.
    pub(crate) fn new(target: Qcow2Target, flow: Flow, size: Option<u64>, seal: Vec<Step>) -> Self {
        Self {
            target,
            flow,
            pos: 0,
            size,
            started: false,
            seal,
            packer: None,
        }
    }

    /// Compresses what is written.
    pub(crate) fn packed(mut self) -> Self {
        let (cluster, codec) = {
            let header = &self.target.head.lock().header;
            (header.cluster, header.codec)
        };
        self.packer = Some(Packer::new(cluster, codec, self.target.sink.manner.solid));
        self
    }

    /// Begins with the cluster that `start` is in.
    pub(crate) fn starting_at(mut self, start: u64) -> Self {
        self.pos = start;
        self
    }

    /// The pieces of the cluster at the current position; `None` at the end. Clusters without a
    /// changed piece are skipped.
    fn next_cluster(&mut self) -> Result<Option<(u64, Vec<Piece>)>> {
        let cluster = self.target.layout.cluster;
        loop {
            let first = cluster.align_down(self.pos);
            let end = first.saturating_add(cluster.bytes());
            let mut pieces = Vec::new();
            let mut pos = first;
            while pos < end
                && let Some(piece) = self.flow.at(pos)?
            {
                if pieces.is_empty() && !piece.changed && piece.end() >= end {
                    // A long unchanged piece: go on with the cluster it ends in.
                    pos = cluster.align_down(piece.end());
                    break;
                }
                let piece = piece.slice(pos, end - pos);
                pos = piece.end();
                pieces.push(piece);
            }
            if pos == first {
                return Ok(None);
            }
            self.pos = pos.max(if pieces.is_empty() { pos } else { end });
            if pieces.iter().any(|p| p.changed) {
                return Ok(Some((first >> cluster.bits(), pieces)));
            }
        }
    }
}

impl Stage for Qcow2Stage {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        if !std::mem::replace(&mut self.started, true) {
            self.target.begin(self.size, out)?;
        }
        let more = match self.packer.take() {
            Some(packer) => {
                let more = self.advance_packed(&packer, out);
                self.packer = Some(packer);
                more
            }
            None => self.advance_plain(out),
        };
        self.flow.report(out.crew.as_ref());
        more
    }

    fn progress(&self) -> (u64, u64) {
        (self.pos.min(self.flow.size()), self.flow.size())
    }
}

impl Qcow2Stage {
    fn advance_plain(&mut self, out: &mut StepQueue) -> Result<bool> {
        for _ in 0..BATCH {
            let Some((number, pieces)) = self.next_cluster()? else {
                return self.end(out);
            };
            self.target.cluster(number, &pieces, out)?;
            self.end_window(out)?;
        }
        Ok(true)
    }

    /// Reads and packs a batch of clusters, then stores them in order.
    fn advance_packed(&mut self, packer: &Packer, out: &mut StepQueue) -> Result<bool> {
        let mut batch = Vec::new();
        let mut more = true;
        while more && batch.len() < packer.batch() {
            match self.next_cluster()? {
                Some((number, pieces)) => batch.push(Candidate {
                    pack: self.target.may_pack(number, &pieces)?,
                    number,
                    pieces,
                }),
                None => more = false,
            }
        }
        let crew = Arc::clone(&out.crew);
        let packed = packer.pack(crew.as_ref(), &batch)?;
        for (candidate, packed) in batch.into_iter().zip(packed) {
            let Candidate { number, pieces, .. } = candidate;
            match packed {
                Packed::Bytes(bytes) => self.target.store_packed(number, &pieces, &bytes, out)?,
                Packed::Plain => self.target.cluster(number, &pieces, out)?,
                Packed::Zero => {
                    let zeros: Vec<Piece> = pieces.into_iter().map(Piece::zeroed).collect();
                    self.target.cluster(number, &zeros, out)?;
                }
            }
            self.end_window(out)?;
        }
        if more { Ok(true) } else { self.end(out) }
    }

    fn end_window(&mut self, out: &mut StepQueue) -> Result<()> {
        let window = out.window;
        if self.target.moved >= window.bytes || self.target.tables.waiting() >= window.tables {
            self.target.flush(out, false, Vec::new())?;
        }
        Ok(())
    }

    fn end(&mut self, out: &mut StepQueue) -> Result<bool> {
        if self.target.store_bitmaps(self.size, out)? {
            return Ok(true);
        }
        self.target.finish(self.size, out)?;
        if let Some(data) = &self.target.data {
            out.push(Step::Seal { node: data.id });
        }
        self.seal.drain(..).for_each(|step| out.push(step));
        Ok(false)
    }
}
