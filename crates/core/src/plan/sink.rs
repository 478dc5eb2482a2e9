//! Where the pieces of a flow go, and the steps that bring them there: as they are, unpacked,
//! decrypted, encrypted.

use super::flow::Piece;
use super::{Origin, Step};
use crate::chain::{Node, NodeId};
use crate::crypto::SECTOR;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Place;
use backchain_format::HostOffset;
use std::sync::Arc;

/// How a target stores what it is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Blocks of zeros within data may be holes of the file.
    pub(crate) sparse: bool,
    /// Clusters that hold data have all their blocks on the disk.
    pub(crate) whole: bool,
    /// Zeros are stored like data, in blocks of their own.
    pub(crate) solid: bool,
    /// That a cluster is zero is recorded even where it would read as zeros anyway.
    pub(crate) explicit_zeros: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            sparse: true,
            whole: false,
            solid: false,
            explicit_zeros: false,
        }
    }
}

/// The file that takes guest data.
pub(super) struct Sink {
    to: NodeId,
    /// The image whose data is encrypted on the way.
    encrypted: Option<Arc<Node>>,
    /// How it is stored there.
    pub(super) manner: Manner,
}

impl Sink {
    /// The place of `node`'s guest data.
    ///
    /// # Errors
    /// When it is encrypted and locked.
    pub(super) fn of(node: &Arc<Node>) -> Result<Self> {
        let encrypted = node.cipher()?.is_some();
        Ok(Self {
            to: node.data_node().id,
            encrypted: encrypted.then(|| Arc::clone(node)),
            manner: Manner::default(),
        })
    }

    /// A file that is not encrypted.
    pub(super) fn plain(to: NodeId) -> Self {
        Self {
            to,
            encrypted: None,
            manner: Manner::default(),
        }
    }

    /// Whether what is written is encrypted: only whole sectors can be, and where nothing was
    /// written there is noise, not zeros.
    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted.is_some()
    }

    /// The step that puts a piece at `dst`; none where zeros are there already. `fresh`: the
    /// place in the file reads as zeros.
    pub(super) fn store(
        &self,
        piece: &Piece,
        dst: HostOffset,
        fresh: bool,
    ) -> Result<Option<Step>> {
        let (to, len, manner) = (self.to, piece.len, self.manner);
        let encrypt = match &self.encrypted {
            Some(node) => Some(node.image()?.vector_offset(piece.start, dst.0)),
            None => None,
        };
        let recode = |origin| Step::Recode {
            origin,
            to,
            dst,
            encrypt,
            len,
            sparse: fresh && manner.sparse && encrypt.is_none(),
        };
        let Some(node) = &piece.from else {
            return Ok(match encrypt {
                Some(_) => Some(recode(Origin::Zeros)),
                None if !fresh => Some(Step::Zero { to, dst, len }),
                None => (manner.solid || manner.whole).then_some(Step::Allocate {
                    to,
                    dst,
                    len,
                    write: manner.solid,
                }),
            });
        };
        Ok(match piece.place {
            Place::Data { host: src } => {
                let from = node.data_node().id;
                let decrypt = match node.cipher()? {
                    Some(_) => Some(node.image()?.vector_offset(piece.source_start(), src.0)),
                    None => None,
                };
                Some(if decrypt.is_none() && encrypt.is_none() {
                    Step::Copy {
                        from,
                        src,
                        to,
                        dst,
                        len,
                        sparse: fresh && manner.sparse,
                    }
                } else {
                    recode(Origin::Stored { from, src, decrypt })
                })
            }
            Place::Compressed {
                host: src,
                len: packed,
                skip,
            } => {
                let from = node.id;
                let Some((cluster, codec)) = node.image()?.packing() else {
                    return Ok(None);
                };
                Some(if encrypt.is_none() {
                    Step::Inflate {
                        from,
                        src,
                        len: packed,
                        codec,
                        cluster,
                        skip,
                        take: len,
                        to,
                        dst,
                    }
                } else {
                    recode(Origin::Packed {
                        from,
                        src,
                        packed,
                        codec,
                        cluster,
                        skip,
                    })
                })
            }
            Place::Zero { .. } | Place::BeyondEnd | Place::Unallocated => None,
        })
    }

    /// Cuts pieces that follow each other so that they can be encrypted: each begins and ends
    /// with a sector. With `end`, zeros fill up what is left before that guest offset.
    ///
    /// # Errors
    /// *Unsupported* where two layers share a sector: one of them is not whole sectors long,
    /// which no image that QEMU makes is.
    pub(super) fn sectors(&self, pieces: Vec<Piece>, end: Option<u64>) -> Result<Vec<Piece>> {
        if !self.is_encrypted() {
            return Ok(pieces);
        }
        let mut whole: Vec<Piece> = Vec::with_capacity(pieces.len() + 1);
        for piece in pieces {
            let known = whole.last().map_or(0, Piece::end);
            if piece.end() <= known {
                continue;
            }
            let start = piece.start.max(known);
            if start > piece.start && !piece.is_zero() {
                return Err(odd(&piece));
            }
            whole.push(whole_sectors(piece.slice(start, u64::MAX))?);
        }
        if let (Some(end), Some(last)) = (end, whole.last().map(Piece::end))
            && last < end
        {
            whole.push(Piece {
                start: last,
                len: end - last,
                from: None,
                place: Place::Unallocated,
                changed: true,
                under_zero: true,
                shift: 0,
            });
        }
        Ok(whole)
    }
}

/// The piece made longer where its sector ends in zeros behind the end of a file.
pub(super) fn whole_sectors(mut piece: Piece) -> Result<Piece> {
    let over = piece.end() % SECTOR;
    if over > 0 && piece.start.is_multiple_of(SECTOR) {
        let at_end = match (&piece.from, piece.place) {
            (None, _) => true,
            (Some(node), Place::Data { host }) => {
                let is_plain = node.cipher()?.is_none();
                is_plain && node.data_node().source.len() <= host.plus(piece.len).0
            }
            _ => false,
        };
        if at_end {
            piece.len += SECTOR - over;
        }
    }
    if piece.start.is_multiple_of(SECTOR) && piece.len.is_multiple_of(SECTOR) {
        return Ok(piece);
    }
    Err(odd(&piece))
}

fn odd(piece: &Piece) -> Error {
    let message = format!(
        "guest bytes {} to {} cannot be encrypted: a layer's length is not a multiple of {SECTOR}",
        piece.start,
        piece.end()
    );
    Error::new(ErrorKind::Unsupported, message)
}
