//! The byte work of [`Step::Recode`](super::Step::Recode), the same for every executor.

use super::Origin;
use crate::NodeId;
use crate::crypto::Cipher;
use crate::error::{Error, ErrorKind, Result};
use crate::inflate::{CodecState, inflate};
use crate::source::{ReadAt, read_padded};
use backchain_format::bytes::{to_u64, to_usize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The ciphers of a plan's files.
#[derive(Debug, Clone, Default)]
pub struct Ciphers(BTreeMap<NodeId, Arc<Cipher>>);

impl Ciphers {
    /// The cipher of the guest data in `node`.
    ///
    /// # Errors
    /// *Invalid* when the plan has none for it.
    pub fn of(&self, node: NodeId) -> Result<&Cipher> {
        self.0.get(&node).map(Arc::as_ref).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("the plan has no key for file {node}"),
            )
        })
    }

    pub(super) fn insert(&mut self, node: NodeId, cipher: &Arc<Cipher>) {
        self.0.insert(node, Arc::clone(cipher));
    }

    pub(super) fn extend(&mut self, other: Ciphers) {
        self.0.extend(other.0);
    }
}

/// Largest cluster of any format, and the most that one packed may take, in bytes.
const MAX_CLUSTER: u64 = 2 << 20;

/// Makes the bytes of recode steps. Keeps the last unpacked cluster and codec state: one for
/// each thread.
#[derive(Default)]
pub struct Recoder {
    codec: CodecState,
    packed: Vec<u8>,
    cluster: Vec<u8>,
    unpacked: Option<(NodeId, u64)>,
}

impl Recoder {
    /// Forgets the last unpacked cluster: files are other ones from now on.
    pub(crate) fn forget(&mut self) {
        self.unpacked = None;
    }

    /// Fills `buf` with the bytes that a step, or the part of one that begins at `origin`,
    /// writes to `to`. `source` is the file that `origin` names.
    ///
    /// # Errors
    /// When the file cannot be read, a cluster not be unpacked, or a key is missing.
    pub fn fill(
        &mut self,
        ciphers: &Ciphers,
        origin: &Origin,
        source: Option<&dyn ReadAt>,
        to: NodeId,
        encrypt: Option<u64>,
        buf: &mut [u8],
    ) -> Result<()> {
        let missing = || Error::new(ErrorKind::Invalid, "a step lacks the file it reads");
        match *origin {
            Origin::Zeros => buf.fill(0),
            Origin::Stored { from, src, decrypt } => {
                let source = source.ok_or_else(missing)?;
                match decrypt {
                    None => read_padded(source, src.0, buf)?,
                    Some(offset) => ciphers.of(from)?.read(source, src.0, offset, buf)?,
                }
            }
            Origin::Packed {
                from,
                src,
                packed,
                codec,
                cluster,
                skip,
            } => {
                let source = source.ok_or_else(missing)?;
                if self.unpacked != Some((from, src.0)) {
                    self.unpacked = None;
                    let len = packed.min(2 * MAX_CLUSTER);
                    self.packed.resize(to_usize(len), 0);
                    read_padded(source, src.0, &mut self.packed)?;
                    self.cluster.resize(to_usize(cluster.min(MAX_CLUSTER)), 0);
                    inflate(&mut self.codec, codec, &self.packed, &mut self.cluster)?;
                    self.unpacked = Some((from, src.0));
                }
                let start = to_usize(skip);
                let part = self.cluster.get(start..start.saturating_add(buf.len()));
                buf.copy_from_slice(part.ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, "a step reads across a packed cluster")
                })?);
            }
        }
        if let Some(offset) = encrypt {
            let len = to_u64(buf.len());
            if !(offset | len).is_multiple_of(crate::crypto::SECTOR) {
                let message = format!("a step encrypts {len} bytes at {offset}: not whole sectors");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            ciphers.of(to)?.encrypt(offset, buf);
        }
        Ok(())
    }
}
