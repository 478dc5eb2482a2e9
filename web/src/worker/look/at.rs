//! What is at one place.

use super::disk::{owner_at, owner_name};
use super::{TURN, chain, node, words};
use crate::js;
use crate::protocol::LayerId;
use crate::protocol::look::{AtSeen, Look, Seen, Space};
use crate::worker::session::Session;
use backchain::inspect::{Owner, OwnerSearch, refcount_of};
use backchain::{Node, Place};

/// Who holds guest byte `offset`, where it is in the file, and what `lane` has there.
pub(super) fn guest(
    session: &Session,
    layer: LayerId,
    offset: u64,
    lane: Option<LayerId>,
) -> Result<AtSeen, String> {
    let mut seen = AtSeen {
        layer,
        space: Space::Guest,
        offset,
        text: String::new(),
        host: None,
        guest: Some(offset),
        lane: None,
    };
    let chain = chain(session, layer)?;
    if let Some(extent) = chain.extents(offset).map_err(words)?.next() {
        let extent = extent.map_err(words)?;
        let from = extent.depth.and_then(|depth| chain.layers().get(depth));
        let name = from.map_or_else(String::new, |node| session.name(node.id));
        let (text, host) = place(&name, extent.place, from.map(AsRef::as_ref))?;
        seen.text = text;
        if let (Some(node), Some(host)) = (from, host) {
            seen.host = session
                .layer(node.data_node().id)
                .map(|layer| (layer, host));
        }
    }
    if let Some(lane) = lane {
        let node = node(session, lane)?;
        let name = session.name(node.id);
        let own = node.extents(offset).map_err(words)?.next().transpose();
        let (text, host) = match own.map_err(words)? {
            Some(extent) if extent.place.is_allocated() => place(&name, extent.place, Some(&node))?,
            Some(_) => (format!("{name} leaves it to the layers below"), None),
            None => (format!("{name} ends before it"), None),
        };
        seen.lane = Some((lane, text, host.filter(|_| node.data.is_none())));
    }
    Ok(seen)
}

/// In words, and where in the file.
fn place(name: &str, place: Place, node: Option<&Node>) -> Result<(String, Option<u64>), String> {
    let host = match place {
        Place::Data { host } | Place::Compressed { host, .. } => Some(host.0),
        Place::Zero { host } => host.map(|host| host.0),
        Place::BeyondEnd | Place::Unallocated => None,
    };
    let mut text = match place {
        Place::Data { .. } => format!("data of {name}"),
        Place::Compressed { .. } => format!("compressed data of {name}"),
        Place::Zero { .. } => format!("zeros, says {name}"),
        Place::BeyondEnd => format!("zeros: {name} ends before it"),
        Place::Unallocated => "zeros: no layer has it".to_owned(),
    };
    if let (Some(node), Some(host)) = (node, host) {
        // An external data file has no refcounts.
        let counted = node.data.is_none();
        text.push_str(if counted {
            ", at "
        } else {
            ", in its data file at "
        });
        text.push_str(&format!("{host:#x}"));
        if counted {
            text.push_str(" of its file");
            if let Some(count) = refcount_of(node, host).map_err(words)? {
                text.push_str(&format!(", refcount {count}"));
            }
        }
    }
    Ok((text, host))
}

/// Whose byte `offset` of a file is, and which guest byte it is, if any: that takes a search,
/// which goes on until others wait.
pub(super) async fn host(
    session: &mut Session,
    look: &Look,
    (layer, offset): (LayerId, u64),
    stale: &dyn Fn() -> bool,
    tell: &dyn Fn(Seen),
) -> Result<Option<Look>, String> {
    let node = node(session, layer)?;
    let owner = owner_at(session, &node, offset);
    let mut seen = AtSeen {
        layer,
        space: Space::Host,
        offset,
        text: owner.map_or("not looked at yet", owner_name).to_owned(),
        host: Some((layer, offset)),
        guest: None,
        lane: None,
    };
    if node.image().map_err(words)?.as_qcow2().is_none() {
        seen.text = "data".to_owned();
        seen.guest = Some(offset);
    }
    if let Some(count) = refcount_of(&node, offset).map_err(words)? {
        seen.text.push_str(&format!(", refcount {count}"));
    }
    let referred = matches!(
        owner,
        Some(Owner::Data | Owner::Compressed | Owner::Reserved | Owner::Snapshot | Owner::L2)
    );
    let begun = session.memory.owner.take();
    let search = match begun.filter(|(known, _)| known == look) {
        Some((_, search)) => Some(search),
        None if referred => OwnerSearch::new(&node, offset).map_err(words)?,
        None => None,
    };
    if let Some(mut search) = search {
        let mut more = true;
        while more {
            let until = js::now() + TURN;
            while more && js::now() < until {
                more = search.advance().map_err(words)?;
            }
            if more {
                tell(Seen::At(seen.clone()));
                js::pause().await;
                if stale() {
                    session.memory.owner = Some((look.clone(), search));
                    return Ok(Some(look.clone()));
                }
            }
        }
        if let Some(found) = search.found() {
            if let Some(guest) = found.guest {
                seen.text.push_str(&format!(", guest {guest:#x}"));
                seen.guest = found.snapshot.is_none().then_some(guest);
            }
            if let Some(snapshot) = &found.snapshot {
                seen.text.push_str(&format!(" of snapshot {snapshot}"));
            }
        }
    }
    tell(Seen::At(seen));
    Ok(None)
}
