//! Looking into files for the page, a little at a time.

use super::session::{Session, sentence};
use crate::js;
use crate::protocol::LayerId;
use crate::protocol::look::{
    AtSeen, BytesSeen, CLASSES, Defect, DiskSeen, FieldSeen, FindSeen, Lane, Look, MapSeen, Seen,
    Space,
};
use backchain::chain::Reader;
use backchain::check::{Finding, Severity, check};
use backchain::format::bytes::{to_u64, to_usize};
use backchain::image::Image;
use backchain::inspect::{Cell, HostMap, Overview, Owner, Search, fields, find_owner, refcount_of};
use backchain::source::read_padded;
use backchain::{Chain, Node, NodeId, Place};
use serde_bytes::ByteBuf;
use std::sync::Arc;

/// Milliseconds of work before the page hears of it and others have their turn.
const TURN: f64 = 25.0;
/// Columns of a map, or cells of a file, at most.
const MAX_COLUMNS: u32 = 1 << 16;
/// Bytes shown at once, at most.
const MAX_BYTES: u32 = 1 << 16;
/// Findings listed.
const MAX_FINDINGS: u64 = 1000;

/// The file whose owners are known, as long as the tree lasts.
pub struct Known {
    node: NodeId,
    map: HostMap,
    findings: Option<Vec<Defect>>,
}

/// What looking remembers, as long as the tree lasts.
#[derive(Default)]
pub struct Memory {
    disk: Option<Known>,
    /// A map that was begun.
    map: Option<(Look, Chain, Overview)>,
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
        } => map(session, look, (*layer, *start..*end, *columns), stale, tell).await,
        Look::Disk {
            layer,
            start,
            end,
            cells,
        } => disk(session, *layer, *start..*end, *cells, stale, tell).await,
        Look::Bytes {
            layer,
            space,
            start,
            len,
            beside,
        } => bytes(session, (*layer, *space), *start, *len, *beside).map(|seen| {
            tell(Seen::Bytes(seen));
            None
        }),
        Look::At {
            layer,
            space,
            offset,
        } => at(session, *layer, *space, *offset).map(|seen| {
            tell(Seen::At(seen));
            None
        }),
        Look::Find {
            layer,
            space,
            start,
            needle,
        } => find(session, (*layer, *space), *start, needle, stale, tell).await,
        Look::StopFinding => Ok(None),
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

async fn map(
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

fn classes(cell: &Cell) -> [u64; CLASSES] {
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
fn portion(part: u64, whole: u64) -> u8 {
    let scaled = u128::from(part) * 255 / u128::from(whole);
    let scaled = u8::try_from(scaled).unwrap_or(u8::MAX);
    if part > 0 { scaled.max(1) } else { 0 }
}

async fn disk(
    session: &mut Session,
    layer: LayerId,
    range: std::ops::Range<u64>,
    cells: u32,
    stale: &dyn Fn() -> bool,
    tell: &dyn Fn(Seen),
) -> Result<Option<Look>, String> {
    let node = node(session, layer)?;
    node.image().map_err(words)?;
    if session
        .memory
        .disk
        .as_ref()
        .is_none_or(|known| known.node != node.id)
    {
        let Some(map) = HostMap::new(&node) else {
            return Err("A raw file is the disk itself: all of it is data.".to_owned());
        };
        session.memory.disk = Some(Known {
            node: node.id,
            map,
            findings: None,
        });
    }
    let Some(known) = &mut session.memory.disk else {
        return Ok(None);
    };
    let cells = cells.clamp(1, MAX_COLUMNS);
    let range = range.start..range.end.min(node.source.len());
    let mut more = true;
    while more {
        let until = js::now() + TURN;
        while more && js::now() < until {
            more = known.map.advance(4);
        }
        tell(Seen::Disk(disk_seen(known, layer, &node, &range, cells)));
        js::pause().await;
        if more && stale() {
            let (start, end) = (range.start, range.end);
            return Ok(Some(Look::Disk {
                layer,
                start,
                end,
                cells,
            }));
        }
    }
    if known.findings.is_none() && node.source.len() <= LARGEST_CHECKED {
        known.findings = Some(defects(&node));
        tell(Seen::Disk(disk_seen(known, layer, &node, &range, cells)));
    }
    Ok(None)
}

/// The check runs in one go: for larger files it would keep the engine busy for too long.
const LARGEST_CHECKED: u64 = 64 << 30;

fn defects(node: &Node) -> Vec<Defect> {
    let mut found = Vec::new();
    if let Ok(Image::Qcow2(image)) = &node.image {
        let bits = image.head.header.cluster.bits();
        check(node.source.as_ref(), image, MAX_FINDINGS, &mut |finding| {
            found.push(Defect {
                text: finding.to_string(),
                offset: place(finding, bits),
                leak: finding.severity() == Severity::Leak,
            });
        });
    }
    found
}

/// Where in the file a finding is about.
fn place(finding: &Finding, cluster_bits: u32) -> Option<u64> {
    match finding {
        Finding::Leak { cluster, .. }
        | Finding::RefcountTooLow { cluster, .. }
        | Finding::RefcountUnreadable { cluster } => cluster.checked_shl(cluster_bits),
        Finding::RefcountOverflow { offset }
        | Finding::PastEnd { offset, .. }
        | Finding::L2TableMisaligned { offset }
        | Finding::ClusterMisaligned { offset, .. }
        | Finding::Subclusters { offset }
        | Finding::CompressedCopied { offset }
        | Finding::SnapshotL1Misaligned { offset, .. } => Some(*offset),
        _ => None,
    }
}

fn disk_seen(
    known: &Known,
    layer: LayerId,
    node: &Node,
    range: &std::ops::Range<u64>,
    cells: u32,
) -> DiskSeen {
    let columns = known.map.columns(range.clone(), to_usize(u64::from(cells)));
    let cells: Vec<u8> = columns
        .iter()
        .map(|counts| {
            // Owners further down the list are rarer and tell more.
            let last = counts.iter().rposition(|&count| count > 0);
            last.and_then(|owner| u8::try_from(owner).ok())
                .unwrap_or(u8::MAX)
        })
        .collect();
    let totals = known.map.totals();
    let totals = Owner::ALL
        .iter()
        .zip(totals)
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(owner, bytes)| (owner_name(*owner).to_owned(), *owner as u8, bytes))
        .collect();
    DiskSeen {
        layer,
        size: node.source.len(),
        unit: known.map.unit(),
        start: range.start,
        end: range.end,
        cells: ByteBuf::from(cells),
        totals,
        done: known.map.done(),
        total: known.map.total(),
        findings: known.findings.clone(),
    }
}

fn owner_name(owner: Owner) -> &'static str {
    match owner {
        Owner::Free => "free",
        Owner::Leaked => "leaked",
        Owner::Data => "data",
        Owner::Compressed => "compressed data",
        Owner::Reserved => "kept for zeros",
        Owner::Snapshot => "only in snapshots",
        Owner::Bitmap => "bitmaps",
        Owner::L2 => "L2 tables",
        Owner::L1 => "L1 table",
        Owner::RefcountBlock => "refcount blocks",
        Owner::RefcountTable => "refcount table",
        Owner::Encryption => "encryption header",
        Owner::Header => "header",
        Owner::Corrupt => "in conflict",
    }
}

/// Who owns byte `offset` of the file, as far as it is known without walking all of it.
fn owner_at(session: &mut Session, node: &Arc<Node>, offset: u64) -> Option<Owner> {
    if session
        .memory
        .disk
        .as_ref()
        .is_none_or(|known| known.node != node.id)
    {
        session.memory.disk = HostMap::new(node).map(|map| Known {
            node: node.id,
            map,
            findings: None,
        });
    }
    let map = &mut session.memory.disk.as_mut()?.map;
    let until = js::now() + 4.0 * TURN;
    while map.advance(16) && js::now() < until {}
    map.owner(offset)
}

fn bytes(
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
    let mut named = Vec::new();
    if space == Space::Host
        && let Some(found) = owner_at(session, &node, start)
    {
        owner = owner_name(found).to_owned();
        named = fields(&node, found, start..start + take).map_err(words)?;
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
                name: f.name,
                value: f.value,
                meaning: f.meaning,
                target: f.target,
            })
            .collect(),
        owner,
    })
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

fn at(session: &mut Session, layer: LayerId, space: Space, offset: u64) -> Result<AtSeen, String> {
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
                if let Some(count) = refcount_of(node, host).map_err(words)? {
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

async fn find(
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
