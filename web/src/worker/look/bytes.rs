//! Bytes, and the fields they belong to.

use super::disk::{owner_at, owner_name};
use super::{at, chain, node, words};
use crate::protocol::LayerId;
use crate::protocol::look::{BytesSeen, FieldSeen, Space};
use crate::worker::session::Session;
use backchain::chain::Reader;
use backchain::format::bytes::to_usize;
use backchain::inspect::{Owner, Structure, fields};
use backchain::source::read_padded;
use serde_bytes::ByteBuf;

/// Bytes shown at once, at most.
const MAX_BYTES: u32 = 1 << 16;

/// The bytes from `start` on, of another layer, too, if asked for.
pub(super) fn bytes(
    session: &mut Session,
    (layer, space): (LayerId, Space),
    start: u64,
    len: u32,
    beside: Option<LayerId>,
) -> Result<BytesSeen, String> {
    let node = node(session, layer)?;
    let len = u64::from(len.min(MAX_BYTES));
    let size = size_of(session, layer, space)?;
    let take = len.min(size.saturating_sub(start));
    let shown = read(session, layer, space, start, take)?;
    let beside = match beside {
        Some(other) => Some((
            other,
            ByteBuf::from(read(session, other, space, start, take)?),
        )),
        None => None,
    };
    let mut owner = String::new();
    let mut kind = None;
    let mut host = None;
    let mut named = Vec::new();
    match space {
        Space::Host => {
            if let Some(found) = owner_at(session, &node, start) {
                owner = owner_name(found).to_owned();
                kind = Some(found);
                named = fields(&node, found, start..start.saturating_add(take)).map_err(words)?;
            }
        }
        Space::Guest if start < size => {
            let at = at::guest(session, layer, start, None)?;
            owner = at.text;
            host = at.host;
        }
        Space::Guest => {}
    }
    Ok(BytesSeen {
        layer,
        space,
        start,
        size,
        bytes: ByteBuf::from(shown),
        beside,
        fields: named
            .into_iter()
            .map(|f| FieldSeen {
                offset: f.offset,
                len: f.len,
                kind: owner_of(f.structure) as u8,
                name: f.name,
                value: f.value,
                meaning: f.meaning,
                target: f.target,
            })
            .collect(),
        owner,
        kind: kind.map_or(u8::MAX, |owner| owner as u8),
        host,
    })
}

/// Whose colour the fields of a structure have.
fn owner_of(structure: Structure) -> Owner {
    match structure {
        Structure::Header => Owner::Header,
        // They share the header's cluster, and are told apart from it.
        Structure::Extension => Owner::Encryption,
        Structure::BackingName => Owner::Bitmap,
        Structure::L1 => Owner::L1,
        Structure::L2 => Owner::L2,
        Structure::RefcountTable => Owner::RefcountTable,
        Structure::RefcountBlock => Owner::RefcountBlock,
    }
}

fn size_of(session: &Session, layer: LayerId, space: Space) -> Result<u64, String> {
    Ok(match space {
        Space::Guest => chain(session, layer)?.virtual_size(),
        Space::Host => node(session, layer)?.source.len(),
    })
}

fn read(
    session: &Session,
    layer: LayerId,
    space: Space,
    start: u64,
    len: u64,
) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; to_usize(len)];
    match space {
        Space::Guest => Reader::new(chain(session, layer)?)
            .read_at(start, &mut bytes)
            .map_err(words)?,
        Space::Host => {
            let node = node(session, layer)?;
            read_padded(node.source.as_ref(), start, &mut bytes).map_err(words)?;
        }
    }
    Ok(bytes)
}
