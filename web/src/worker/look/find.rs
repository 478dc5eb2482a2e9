//! Searching for bytes.

use super::{TURN, chain, node, words};
use crate::js;
use crate::protocol::LayerId;
use crate::protocol::look::{FindSeen, Look, Seen, Space};
use crate::worker::session::Session;
use backchain::inspect::Search;
use serde_bytes::ByteBuf;

/// Goes on with a search until there is a hit, the end, or others wait.
pub(super) async fn find(
    session: &Session,
    (layer, space): (LayerId, Space),
    start: u64,
    needle: &[u8],
    stale: &dyn Fn() -> bool,
    tell: &dyn Fn(Seen),
) -> Result<Option<Look>, String> {
    let len = u32::try_from(needle.len()).unwrap_or(u32::MAX);
    let mut search = match space {
        Space::Guest => Search::guest(chain(session, layer)?, needle.to_vec(), start),
        Space::Host => Search::host(node(session, layer)?.source.clone(), needle.to_vec(), start),
    }
    .map_err(words)?;
    loop {
        let until = js::now() + TURN;
        let mut hit = None;
        let mut finished = false;
        while hit.is_none() && !finished && js::now() < until {
            match search.advance().map_err(words)? {
                Some(found) => hit = found,
                None => finished = true,
            }
        }
        finished |= hit.is_some();
        tell(Seen::Find(FindSeen {
            layer,
            space,
            len,
            pos: search.pos(),
            end: search.end(),
            hit,
            finished,
        }));
        js::pause().await;
        if finished {
            return Ok(None);
        }
        if stale() {
            let (start, needle) = (search.pos(), ByteBuf::from(needle));
            return Ok(Some(Look::Find {
                layer,
                space,
                start,
                needle,
            }));
        }
    }
}
