//! The bars of the tree: what each layer holds, a few columns each.

use super::look::map::{classes, portion};
use super::session::{LARGEST_SEARCHED, Session};
use crate::js;
use crate::protocol::look::CLASSES;
use crate::protocol::strips::{Answer, Ask, COLUMNS, Strip};
use backchain::format::bytes::to_u64;
use backchain::inspect::{Cell, Overview};
use backchain::{Format, Node};
use serde_bytes::ByteBuf;
use std::sync::Arc;

/// Milliseconds of work before others have their turn.
const TURN: f64 = 25.0;
/// Milliseconds after which the page hears how far it is.
const NEWS: f64 = 400.0;

/// A bar that was begun, as long as the tree lasts.
#[derive(Default)]
pub struct Memory(Option<Begun>);

struct Begun {
    ask: Ask,
    layers: Vec<Arc<Node>>,
    /// `None` when no layer needs looking into.
    overview: Option<Overview>,
}

/// Answers until it is done or others wait; then it gives back how to go on.
pub async fn strips(
    session: &mut Session,
    ask: Ask,
    others: &dyn Fn() -> bool,
    tell: &dyn Fn(Answer),
) -> Option<Ask> {
    let known = session.strips.0.take().filter(|begun| begun.ask == ask);
    let Some(mut begun) = known.or_else(|| begin(session, ask)) else {
        // A layer that cannot be read has no bar; its box says why.
        tell(Answer {
            ask,
            strips: Vec::new(),
            finished: true,
        });
        return None;
    };
    let mut news = js::now() + NEWS;
    loop {
        let until = js::now() + TURN;
        let mut more = begun.overview.is_some();
        while let Some(overview) = begun
            .overview
            .as_mut()
            .filter(|_| more && js::now() < until)
        {
            more = overview.advance(256);
        }
        if !more || js::now() > news {
            tell(Answer {
                ask,
                strips: found(session, &begun),
                finished: !more,
            });
            news = js::now() + NEWS;
        }
        if !more {
            return None;
        }
        js::pause().await;
        if others() {
            session.strips.0 = Some(begun);
            return Some(ask);
        }
    }
}

fn begin(session: &Session, ask: Ask) -> Option<Begun> {
    let (top, bottom) = (session.node(ask.top).ok()?, session.node(ask.bottom).ok()?);
    let chain = session.tree.stretch(top, bottom)?;
    let layers = chain.layers().to_vec();
    // To tell what a raw file holds it must be read as a whole: a large one counts as full.
    let looked = if counts_as_full(chain.base()) {
        let above = layers.len().checked_sub(2).and_then(|nth| layers.get(nth));
        above.and_then(|above| session.tree.stretch(top, above.id))
    } else {
        Some(chain)
    };
    Some(Begun {
        ask,
        layers,
        overview: looked.map(|chain| Overview::new(&chain, 0..ask.end.max(1), COLUMNS)),
    })
}

fn counts_as_full(node: &Node) -> bool {
    node.image()
        .is_ok_and(|image| image.format() == Format::Raw)
        && node.source.len() > LARGEST_SEARCHED
}

fn found(session: &Session, begun: &Begun) -> Vec<Strip> {
    let column = |nth: usize| {
        let (nth, all) = (to_u64(nth), to_u64(COLUMNS));
        let at = |nth: u64| {
            let at = u128::from(begun.ask.end) * u128::from(nth) / u128::from(all);
            u64::try_from(at).unwrap_or(u64::MAX)
        };
        at(nth)..at(nth + 1)
    };
    // Bytes of each column that the layers so far show the guest.
    let mut shown = vec![0_u64; COLUMNS];
    let mut strips = Vec::with_capacity(begun.layers.len());
    for (depth, node) in begun.layers.iter().enumerate() {
        let looked = begun
            .overview
            .as_ref()
            .map(|overview| overview.cells(depth));
        let mut bytes = Vec::with_capacity(COLUMNS * CLASSES);
        for (nth, shown) in shown.iter_mut().enumerate() {
            let bounds = column(nth);
            let cell = match looked.and_then(|cells| cells.get(nth)) {
                Some(cell) => *cell,
                None => full(node, &bounds, *shown),
            };
            *shown = shown
                .saturating_add(cell.data)
                .saturating_add(cell.compressed)
                .saturating_add(cell.zero);
            let width = (bounds.end - bounds.start).max(1);
            bytes.extend(classes(&cell).map(|part| portion(part, width)));
        }
        if let Some(layer) = session.layer(node.id) {
            strips.push(Strip {
                layer,
                cells: ByteBuf::from(bytes),
            });
        }
    }
    strips
}

/// What a layer that is full of data has in a column of which `hidden` bytes are hidden.
fn full(node: &Node, bounds: &std::ops::Range<u64>, hidden: u64) -> Cell {
    let end = bounds.end.min(node.virtual_size());
    let len = end.saturating_sub(bounds.start);
    let shadowed = hidden.min(len);
    Cell {
        data: len - shadowed,
        shadowed,
        ..Cell::default()
    }
}
