//! Maps as lists: for who reads rather than sees them.

use super::disk::{known, owner_name};
use super::{chain, node, words};
use crate::protocol::LayerId;
use crate::protocol::look::{OwnersSeen, Run, RunsSeen};
use crate::worker::session::Session;
use backchain::Map;
use std::ops::Range;

/// Runs listed at once.
const LISTED: usize = 200;
/// Units of a file looked at for one list: some milliseconds' worth.
const UNITS: u64 = 1 << 20;

/// The guest bytes `range`, in the words of `qemu-img map`.
pub(super) fn runs(
    session: &Session,
    layer: LayerId,
    range: Range<u64>,
) -> Result<RunsSeen, String> {
    let chain = chain(session, layer)?;
    let len = range.end.saturating_sub(range.start);
    let mut map = Map::new(&chain, range.start, len).map_err(words)?;
    let mut runs = Vec::new();
    for entry in map.by_ref().take(LISTED) {
        let entry = entry.map_err(words)?;
        let node = chain.layers().get(entry.depth);
        let what = match (entry.present, entry.data, entry.zero) {
            (false, ..) => "no layer has it: zeros",
            (_, true, _) if entry.compressed => "compressed data",
            (_, true, true) => "data: a hole, zeros",
            (_, true, false) => "data",
            (_, false, _) => "zeros",
        };
        runs.push(Run {
            start: entry.start,
            len: entry.length,
            layer: node.and_then(|node| session.layer(node.id)),
            name: node.map_or_else(String::new, |node| session.name(node.id)),
            what: what.to_owned(),
            // An external data file is no layer.
            host: entry
                .offset
                .filter(|_| node.is_some_and(|node| node.data.is_none())),
        });
    }
    Ok(RunsSeen {
        layer,
        start: range.start,
        end: range.end,
        more: runs.len() == LISTED && map.next().is_some(),
        runs,
    })
}

/// The bytes `range` of a file, as far as their owners are known by now.
pub(super) fn owners(
    session: &mut Session,
    layer: LayerId,
    range: Range<u64>,
) -> Result<OwnersSeen, String> {
    let node = node(session, layer)?;
    let Some(map) = known(session, &node) else {
        return Err(
            "Only qcow2 files have parts to tell apart: all of this one is data.".to_owned(),
        );
    };
    let unit = map.unit();
    let end = range.end.min(node.source.len());
    let mut runs: Vec<(u64, u64, u8, String)> = Vec::new();
    let mut at = range.start / unit * unit;
    let mut left = UNITS;
    while at < end && left > 0 {
        left -= 1;
        let owner = map.owner(at);
        let number = owner.map_or(u8::MAX, |owner| owner as u8);
        let next = at.saturating_add(unit).min(end);
        let full = runs.len() == LISTED;
        match runs.last_mut() {
            Some(run) if run.2 == number => run.1 += next - at,
            _ if full => break,
            _ => {
                let name = owner.map_or("not looked at yet", owner_name);
                runs.push((at, next - at, number, name.to_owned()));
            }
        }
        at = next;
    }
    Ok(OwnersSeen {
        layer,
        start: range.start,
        end: range.end,
        more: at < end,
        runs,
    })
}
