//! Searching: for bytes, and for where two layers differ, both ways.

use super::{TURN, chain, node, words};
use crate::js;
use crate::protocol::LayerId;
use crate::protocol::look::{FindSeen, Look, Seen, Space};
use crate::worker::session::Session;
use backchain::inspect::{Differences, Search, SearchBack};

/// A search that was begun.
// There is one at a time: a box would save nothing.
#[allow(clippy::large_enum_variant)]
pub(super) enum Seek {
    Next(Search),
    Last(SearchBack),
    Differ(Differences),
}

impl Seek {
    fn new(session: &Session, look: &Look) -> Result<Option<Self>, String> {
        let source = |layer: LayerId| Ok::<_, String>(node(session, layer)?.source.clone());
        Ok(Some(match look {
            Look::Find {
                layer,
                space,
                start,
                needle,
                back,
            } => {
                let needle = needle.to_vec();
                match (space, back) {
                    (Space::Guest, false) => {
                        Search::guest(chain(session, *layer)?, needle, *start).map(Self::Next)
                    }
                    (Space::Host, false) => {
                        Search::host(source(*layer)?, needle, *start).map(Self::Next)
                    }
                    (Space::Guest, true) => {
                        SearchBack::guest(chain(session, *layer)?, needle, *start).map(Self::Last)
                    }
                    (Space::Host, true) => {
                        SearchBack::host(source(*layer)?, needle, *start).map(Self::Last)
                    }
                }
                .map_err(words)?
            }
            Look::Differ {
                layer,
                other,
                space,
                start,
                back,
            } => match space {
                Space::Guest => {
                    let (a, b) = (chain(session, *layer)?, chain(session, *other)?);
                    Differences::guest(a, b, *start, *back)
                }
                Space::Host => Differences::host(source(*layer)?, source(*other)?, *start, *back),
            }
            .map(Self::Differ)
            .map_err(words)?,
            _ => return Ok(None),
        }))
    }

    fn advance(&mut self) -> Result<Option<Option<u64>>, String> {
        match self {
            Self::Next(search) => search.advance(),
            Self::Last(search) => search.advance(),
            Self::Differ(search) => search.advance(),
        }
        .map_err(words)
    }

    /// Where it is, and where it would end, going up.
    fn place(&self) -> (u64, u64) {
        match self {
            Self::Next(search) => (search.pos(), search.end()),
            Self::Last(search) => (search.pos(), search.total()),
            Self::Differ(search) => (search.pos(), search.end()),
        }
    }
}

/// Goes on with a search until there is a hit, the end, or others wait.
pub(super) async fn find(
    session: &mut Session,
    look: &Look,
    stale: &dyn Fn() -> bool,
    tell: &dyn Fn(Seen),
) -> Result<Option<Look>, String> {
    let (layer, space, start, len, differ, back) = match look {
        Look::Find {
            layer,
            space,
            start,
            needle,
            back,
        } => (*layer, *space, *start, needle.len(), false, *back),
        Look::Differ {
            layer,
            space,
            start,
            back,
            ..
        } => (*layer, *space, *start, 1, true, *back),
        _ => return Ok(None),
    };
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let begun = session.memory.seek.take();
    let seek = match begun.filter(|(known, _)| known == look) {
        Some((_, seek)) => Some(seek),
        None => Seek::new(session, look)?,
    };
    let Some(mut seek) = seek else {
        return Ok(None);
    };
    loop {
        let until = js::now() + TURN;
        let mut hit = None;
        let mut finished = false;
        while hit.is_none() && !finished && js::now() < until {
            match seek.advance()? {
                Some(found) => hit = found,
                None => finished = true,
            }
        }
        finished |= hit.is_some();
        let (pos, end) = seek.place();
        let (done, total) = if back {
            (start.saturating_sub(pos), start)
        } else {
            (pos.saturating_sub(start), end.saturating_sub(start))
        };
        tell(Seen::Find(FindSeen {
            layer,
            space,
            len,
            differ,
            back,
            done,
            total,
            hit,
            finished,
            stopped: false,
        }));
        js::pause().await;
        if finished {
            return Ok(None);
        }
        if stale() {
            session.memory.seek = Some((look.clone(), seek));
            return Ok(Some(look.clone()));
        }
    }
}
