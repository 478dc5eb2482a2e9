//! The cluster map of a chain.

use super::{MAX_COLUMNS, TURN, chain, words};
use crate::js;
use crate::protocol::LayerId;
use crate::protocol::look::{CLASSES, Lane, Look, MapSeen, Seen};
use crate::worker::session::Session;
use backchain::format::bytes::{to_u64, to_usize};
use backchain::inspect::{Cell, Overview};
use backchain::{Chain, Node};
use serde_bytes::ByteBuf;
use std::sync::Arc;

/// Goes on with a map until it is done or others wait.
pub(super) async fn map(
    session: &mut Session,
    look: &Look,
    (layer, range, columns): (LayerId, std::ops::Range<u64>, u32),
    stale: &dyn Fn() -> bool,
    tell: &dyn Fn(Seen),
) -> Result<Option<Look>, String> {
    let begun = session
        .memory
        .map
        .take()
        .filter(|(known, ..)| known == look);
    let (chain, mut overview) = match begun {
        Some((_, chain, overview)) => (chain, overview),
        None => {
            let chain = chain(session, layer)?;
            let columns = to_usize(u64::from(columns.clamp(1, MAX_COLUMNS)));
            let overview = Overview::new(&chain, clip(&chain, &range), columns);
            (chain, overview)
        }
    };
    let range = clip(&chain, &range);
    loop {
        let until = js::now() + TURN;
        let mut more = true;
        while more && js::now() < until {
            more = overview.advance(512);
        }
        tell(Seen::Map(map_seen(
            session,
            &chain,
            layer,
            &overview,
            range.clone(),
        )));
        js::pause().await;
        if more && stale() {
            session.memory.map = Some((look.clone(), chain, overview));
            return Ok(Some(look.clone()));
        }
        if !more {
            return Ok(None);
        }
    }
}

/// The part of a range that some layer of the chain has: a layer may be longer than the top.
fn clip(chain: &Chain, range: &std::ops::Range<u64>) -> std::ops::Range<u64> {
    let longest = chain
        .layers()
        .iter()
        .map(|n| n.virtual_size())
        .max()
        .unwrap_or(0);
    let end = range.end.min(longest);
    range.start.min(end)..end
}

fn map_seen(
    session: &Session,
    chain: &Chain,
    layer: LayerId,
    overview: &Overview,
    range: std::ops::Range<u64>,
) -> MapSeen {
    let columns = overview.cells(0).len();
    let lane = |(depth, node): (usize, &Arc<Node>)| {
        let mut cells = Vec::with_capacity(columns * CLASSES);
        for (column, cell) in overview.cells(depth).iter().enumerate() {
            let bounds = overview.column(to_u64(column));
            let width = (bounds.end - bounds.start).max(1);
            cells.extend(classes(cell).map(|bytes| portion(bytes, width)));
        }
        Lane {
            layer: session.layer(node.id),
            name: session.name(node.id),
            cells: ByteBuf::from(cells),
            totals: classes(&overview.total(depth)),
            error: overview.error(depth).map(|error| words(error.message())),
        }
    };
    MapSeen {
        layer,
        start: range.start,
        end: range.end,
        columns: u32::try_from(columns).unwrap_or(u32::MAX),
        done: overview.pos(),
        lanes: chain.layers().iter().enumerate().map(lane).collect(),
    }
}

/// The bytes of a cell in the protocol's order.
pub(in crate::worker) fn classes(cell: &Cell) -> [u64; CLASSES] {
    [
        cell.data,
        cell.compressed,
        cell.zero,
        cell.shadowed,
        cell.shadowed_zero,
        cell.shared,
    ]
}

/// `part` of `whole` from 0 to 255; what is there at all is at least 1.
pub(in crate::worker) fn portion(part: u64, whole: u64) -> u8 {
    let scaled = u128::from(part) * 255 / u128::from(whole);
    let scaled = u8::try_from(scaled).unwrap_or(u8::MAX);
    if part > 0 { scaled.max(1) } else { 0 }
}
