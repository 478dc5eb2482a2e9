//! Looking into files for the page, a little at a time.

mod at;
mod bytes;
mod disk;
mod find;
pub(super) mod map;
mod runs;

use super::session::{Session, sentence};
use crate::protocol::LayerId;
use crate::protocol::look::{Look, Seen, Space};
use backchain::inspect::{Overview, OwnerSearch};
use backchain::{Chain, Node};
use std::sync::Arc;

/// Milliseconds of work before the page hears of it and others have their turn.
const TURN: f64 = 25.0;
/// Columns of a map, or cells of a file, at most.
const MAX_COLUMNS: u32 = 1 << 16;

/// What looking remembers, as long as the tree lasts.
#[derive(Default)]
pub struct Memory {
    disk: Option<disk::Known>,
    /// A map that was begun.
    map: Option<(Look, Chain, Overview)>,
    /// A search that was begun.
    seek: Option<(Look, find::Seek)>,
    /// A look for who refers to a place of a file.
    owner: Option<(Look, OwnerSearch)>,
    /// What each layer is good for.
    pub stats: Option<super::stats::Counted>,
}

/// Answers a look until it is done or others wait; then it gives back how to go on.
pub async fn look(
    session: &mut Session,
    look: &Look,
    others: &dyn Fn() -> bool,
    tell: &dyn Fn(Seen),
) -> Option<Look> {
    let stale = others;
    let answered = match look {
        Look::Map {
            layer,
            start,
            end,
            columns,
        } => map::map(session, look, (*layer, *start..*end, *columns), stale, tell).await,
        Look::Disk {
            layer,
            start,
            end,
            cells,
        } => disk::disk(session, *layer, *start..*end, *cells, stale, tell).await,
        Look::Bytes {
            layer,
            space,
            start,
            len,
            beside,
        } => bytes::bytes(session, (*layer, *space), *start, *len, *beside).map(|seen| {
            tell(Seen::Bytes(seen));
            None
        }),
        Look::At {
            layer,
            space,
            offset,
            lane,
        } => match space {
            Space::Guest => at::guest(session, *layer, *offset, *lane).map(|seen| {
                tell(Seen::At(seen));
                None
            }),
            Space::Host => at::host(session, look, (*layer, *offset), stale, tell).await,
        },
        Look::Find { .. } | Look::Differ { .. } => find::find(session, look, stale, tell).await,
        Look::Runs { layer, start, end } => runs::runs(session, *layer, *start..*end).map(|seen| {
            tell(Seen::Runs(seen));
            None
        }),
        Look::Owners { layer, start, end } => {
            runs::owners(session, *layer, *start..*end).map(|seen| {
                tell(Seen::Owners(seen));
                None
            })
        }
        Look::Check { layer } => disk::check_now(session, *layer, tell).map(|()| None),
        Look::StopFinding => {
            session.memory.seek = None;
            tell(Seen::FindingStopped);
            Ok(None)
        }
    };
    answered.unwrap_or_else(|why| {
        let look = look.clone();
        tell(Seen::Failed { look, why });
        None
    })
}

fn words(error: impl std::fmt::Display) -> String {
    sentence(&error.to_string())
}

fn node(session: &Session, layer: LayerId) -> Result<Arc<Node>, String> {
    Ok(Arc::clone(session.tree.node(session.node(layer)?)))
}

fn chain(session: &Session, layer: LayerId) -> Result<Chain, String> {
    session.tree.chain(session.node(layer)?).map_err(words)
}
