//! What is at one place.

use super::disk::{owner_at, owner_name};
use super::{chain, node, words};
use crate::protocol::LayerId;
use crate::protocol::look::{AtSeen, Space};
use crate::worker::session::Session;
use backchain::Place;
use backchain::inspect::{Owner, find_owner, refcount_of};

/// Who holds the byte at `offset`, and where else it is.
pub(super) fn at(
    session: &mut Session,
    layer: LayerId,
    space: Space,
    offset: u64,
) -> Result<AtSeen, String> {
    let mut seen = AtSeen {
        layer,
        space,
        offset,
        text: String::new(),
        host: None,
        guest: None,
    };
    match space {
        Space::Guest => {
            let chain = chain(session, layer)?;
            let Some(extent) = chain.extents(offset).map_err(words)?.next() else {
                return Ok(seen);
            };
            let extent = extent.map_err(words)?;
            let from = extent.depth.and_then(|depth| chain.layers().get(depth));
            let name = from.map_or_else(String::new, |node| session.name(node.id));
            let host = match extent.place {
                Place::Data { host } | Place::Compressed { host, .. } => Some(host.0),
                Place::Zero { host } => host.map(|host| host.0),
                Place::BeyondEnd | Place::Unallocated => None,
            };
            let what = match extent.place {
                Place::Data { .. } => format!("data of {name}"),
                Place::Compressed { .. } => format!("compressed data of {name}"),
                Place::Zero { .. } => format!("zeros, says {name}"),
                Place::BeyondEnd => format!("zeros: {name} ends before it"),
                Place::Unallocated => "zeros: no layer has it".to_owned(),
            };
            seen.text = what;
            seen.guest = Some(offset);
            if let (Some(node), Some(host)) = (from, host) {
                seen.host = session.layer(node.id).map(|layer| (layer, host));
                seen.text.push_str(&format!(", at {host:#x} of its file"));
                // An external data file has no refcounts.
                let counted = node.data.is_none();
                if counted && let Some(count) = refcount_of(node, host).map_err(words)? {
                    seen.text.push_str(&format!(", refcount {count}"));
                }
            }
        }
        Space::Host => {
            let node = node(session, layer)?;
            let owner = owner_at(session, &node, offset);
            seen.text = owner.map_or("not looked at yet", owner_name).to_owned();
            if let Some(count) = refcount_of(&node, offset).map_err(words)? {
                seen.text.push_str(&format!(", refcount {count}"));
            }
            let referred = matches!(
                owner,
                Some(
                    Owner::Data | Owner::Compressed | Owner::Reserved | Owner::Snapshot | Owner::L2
                )
            );
            if referred && let Some(found) = find_owner(&node, offset).map_err(words)? {
                if let Some(guest) = found.guest {
                    seen.text.push_str(&format!(", guest {guest:#x}"));
                    seen.guest = found.snapshot.is_none().then_some(guest);
                }
                if let Some(snapshot) = found.snapshot {
                    seen.text.push_str(&format!(" of snapshot {snapshot}"));
                }
            }
            seen.host = Some((layer, offset));
        }
    }
    Ok(seen)
}
