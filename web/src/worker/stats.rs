//! What each layer is good for: what is read of it, and what it could give back.

use super::session::{LARGEST_SEARCHED, Session};
use crate::js;
use crate::protocol::{LayerId, Section};
use crate::units::bytes;
use backchain::inspect::{LayerStats, Stats};
use backchain::{Format, Node};

/// Milliseconds of work before others have their turn.
const TURN: f64 = 25.0;

/// Statistics of all layers, as long as the tree lasts.
pub struct Counted {
    stats: Stats,
    finished: bool,
}

/// Counts until all is counted or others wait; whether there is more to count.
pub async fn count(session: &mut Session, others: &dyn Fn() -> bool) -> bool {
    let tree = &session.tree;
    let counted = session.memory.stats.get_or_insert_with(|| Counted {
        stats: Stats::new(tree, &counts_as_full),
        finished: false,
    });
    while !counted.finished {
        let until = js::now() + TURN;
        while !counted.finished && js::now() < until {
            counted.finished = !counted.stats.advance(256);
        }
        js::pause().await;
        if others() {
            break;
        }
    }
    !counted.finished
}

/// To tell what a raw file holds it must be read as a whole: a large one counts as full.
fn counts_as_full(node: &Node) -> bool {
    node.image()
        .is_ok_and(|image| image.format() == Format::Raw)
        && node.source.len() > LARGEST_SEARCHED
}

/// Guest bytes that are counted, of so many.
#[must_use]
pub fn counted(session: &Session) -> (u64, u64) {
    let counted = session.memory.stats.as_ref();
    counted.map_or((0, 0), |all| (all.stats.pos(), all.stats.size()))
}

/// The statistics of a layer, once all are counted.
#[must_use]
pub fn of(session: &Session, layer: LayerId) -> Option<LayerStats> {
    let counted = session.memory.stats.as_ref()?;
    let id = session.node(layer).ok()?;
    counted.stats.layer(id).filter(|_| counted.finished)
}

/// What was counted of a layer, once all was.
#[must_use]
pub fn section(session: &Session, layer: LayerId) -> Option<Section> {
    let counted = session.memory.stats.as_ref()?;
    let id = session.node(layer).ok()?;
    let found = of(session, layer)?;
    let mut rows = vec![
        ("Data".to_owned(), bytes(found.data)),
        ("Compressed data".to_owned(), bytes(found.compressed)),
        ("Zeros of its own".to_owned(), bytes(found.zero)),
        (
            "Left to the layer below".to_owned(),
            bytes(found.unallocated),
        ),
        ("Data that a guest reads".to_owned(), bytes(found.unique)),
        (
            "Data hidden by all overlays".to_owned(),
            bytes(found.shadowed),
        ),
    ];
    if found.kept > 0 {
        rows.push(("Of it kept for snapshots".to_owned(), bytes(found.kept)));
    }
    let back = match found.could_give_back() {
        0 => "nothing".to_owned(),
        count => bytes(count),
    };
    rows.push(("This layer could give back".to_owned(), back));
    if let Some(error) = counted.stats.error(id) {
        rows.push(("Not counted to the end".to_owned(), error.to_string()));
    }
    Some(Section {
        title: "Statistics".to_owned(),
        rows,
    })
}
