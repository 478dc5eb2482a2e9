//! Reading guest bytes through a whole chain.

use super::layers::Chain;
use super::node::Node;
use super::sweep::{ChainExtent, ChainExtents};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, Place};
use crate::inflate::{CodecState, inflate};
use crate::source::read_padded;
use backchain_format::bytes::{to_u64, to_usize};

/// Reads extents of a chain; keeps the last unpacked cluster and the codecs' state.
pub struct Reader {
    chain: Chain,
    cluster: Unpacked,
    sequence: Option<Sequence>,
}

/// The sweep of the last read, kept for the next one behind it.
struct Sequence {
    extents: ChainExtents,
    now: Option<ChainExtent>,
}

/// The last compressed cluster that was unpacked.
#[derive(Default)]
pub(crate) struct Unpacked {
    state: CodecState,
    key: Option<(crate::NodeId, u64)>,
    bytes: Vec<u8>,
}

impl Unpacked {
    /// Fills `buf` with the bytes of `extent` of layer `node`, from its start on.
    pub(crate) fn read(&mut self, node: &Node, extent: &Extent, buf: &mut [u8]) -> Result<()> {
        match extent.place {
            Place::Data { host } => node.read_data(extent.start, host.0, buf),
            Place::Compressed { host, len, skip } => {
                self.unpack(node, host.0, len).map_err(|e| node.blame(e))?;
                let start = to_usize(skip);
                let from = self.bytes.get(start..start.saturating_add(buf.len()));
                let from = from.ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, "read across a compressed cluster")
                })?;
                buf.copy_from_slice(from);
                Ok(())
            }
            Place::Zero { .. } | Place::BeyondEnd | Place::Unallocated => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    fn unpack(&mut self, node: &Node, host: u64, len: u64) -> Result<()> {
        if self.key == Some((node.id, host)) {
            return Ok(());
        }
        self.key = None;
        let Some((cluster, codec)) = node.image()?.packing() else {
            return Ok(());
        };
        if host >= node.source.len() {
            let message = format!("compressed cluster at {host:#x} is past the end of the file");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let mut packed = vec![0; to_usize(len)];
        read_padded(node.source.as_ref(), host, &mut packed)?;
        self.bytes.resize(to_usize(cluster), 0);
        inflate(&mut self.state, codec, &packed, &mut self.bytes)
            .map_err(|e| Error::new(e.kind(), format!("{} (byte {host})", e.message())))?;
        self.key = Some((node.id, host));
        Ok(())
    }
}

impl Reader {
    /// A reader of `chain`.
    pub fn new(chain: Chain) -> Self {
        Self {
            chain,
            cluster: Unpacked::default(),
            sequence: None,
        }
    }

    /// The chain it reads.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Fills `buf` with what the guest sees from byte `start` on; zeros behind the end of the
    /// disk. Reading on where the last read ended costs no new look-up.
    pub fn read_at(&mut self, start: u64, buf: &mut [u8]) -> Result<()> {
        let size = self.chain.virtual_size();
        let mut sequence = match self.sequence.take() {
            Some(s) if s.now.is_some_and(|e| e.start <= start && start < e.end()) => s,
            _ => Sequence {
                extents: self.chain.extents(start)?,
                now: None,
            },
        };
        let mut pos = start;
        let mut rest = buf;
        while !rest.is_empty() {
            if pos >= size {
                rest.fill(0);
                return Ok(());
            }
            let extent = match sequence.now {
                Some(extent) if pos < extent.end() => extent,
                _ => match sequence.extents.next().transpose()? {
                    Some(extent) => extent,
                    None => break,
                },
            };
            sequence.now = Some(extent);
            let n = (extent.end() - pos).min(to_u64(rest.len()));
            let (now, later) = rest.split_at_mut(to_usize(n));
            self.read_extent(&extent.slice(pos, n), now)?;
            pos += n;
            rest = later;
        }
        self.sequence = Some(sequence);
        Ok(())
    }

    /// Fills `buf` with the first bytes of `extent`, one of this chain's.
    pub fn read_extent(&mut self, extent: &ChainExtent, buf: &mut [u8]) -> Result<()> {
        match extent.depth.and_then(|d| self.chain.layers().get(d)) {
            Some(node) => self.cluster.read(node, &extent.extent(), buf),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}
