//! All that is known about the files, as one file to keep.

mod html;
mod json;

use super::session::{LARGEST_SEARCHED, Session, sentence};
use super::{details, stats};
use crate::js;
use crate::protocol::report::{Answer, Ask, Format};
use crate::protocol::{Layer, Progress, Role, Saved, Section};
use backchain::format::bytes::{to_u64, to_usize};
use backchain::format::qcow2::{BitmapDirectoryEntry, SnapshotEntry};
use backchain::image::{Image, Qcow2};
use backchain::inspect::LayerStats;
use backchain::{Extent, Format as ImageFormat, HostOffset, Node, Place};
use js_sys::{Array, Date};
use std::cell::Cell;
use std::sync::Arc;
use web_sys::File;

/// Runs told of each layer at most.
const RUNS: u64 = 10_000;
/// Runs told of all layers together, as long as each has its [`FEWEST`].
const ALL_RUNS: u64 = 200_000;
const FEWEST: u64 = 100;
/// Milliseconds of work before messages are let in.
const TURN: f64 = 25.0;
/// Milliseconds after which the page hears how far it is.
const NEWS: f64 = 300.0;

/// What a report says.
struct Report {
    /// When it was made, as ISO 8601 has it.
    created: String,
    entries: Vec<Entry>,
}

/// One file.
struct Entry {
    layer: Layer,
    /// `None` when the file cannot be read at all.
    node: Option<Arc<Node>>,
    /// Where its backing file lies, when that is among the files.
    backing: Option<String>,
    sections: Vec<Section>,
    snapshots: Result<Vec<SnapshotEntry>, String>,
    bitmaps: Result<Vec<BitmapDirectoryEntry>, String>,
    stats: Option<LayerStats>,
    map: Runs,
}

/// What the layer itself says of the guest's disk.
#[derive(Default)]
struct Runs {
    runs: Vec<Extent>,
    /// There are more.
    truncated: bool,
    /// Why it could not be read to its end.
    error: Option<String>,
}

impl Entry {
    fn qcow2(&self) -> Option<&Qcow2> {
        match &self.node.as_ref()?.image {
            Ok(Image::Qcow2(qcow2)) => Some(qcow2),
            _ => None,
        }
    }

    /// The format that the header says the backing file has.
    fn label(&self) -> Option<&str> {
        self.node.as_ref()?.backing()?.format.as_deref()
    }
}

/// Writes a report. While others wait it gives back how to go on, until all layers are counted.
pub async fn report(
    session: &mut Session,
    ask: Ask,
    stop: &Cell<bool>,
    others: &dyn Fn() -> bool,
    tell: &dyn Fn(Answer),
) -> Option<Ask> {
    loop {
        if stop.get() || session.files.0.is_empty() {
            tell(Answer::Cancelled);
            return None;
        }
        let news = js::now() + NEWS;
        let pause = || stop.get() || others() || js::now() > news;
        if !stats::count(session, &pause).await {
            break;
        }
        let (done, total) = stats::counted(session);
        tell(progress("Counting what each layer holds", done, total));
        if others() && !stop.get() {
            return Some(ask);
        }
    }
    let Some(report) = gather(session, stop, tell).await else {
        tell(Answer::Cancelled);
        return None;
    };
    let (text, ending) = match ask.format {
        Format::Json => (json::write(&report), "json"),
        Format::Html => (html::write(&report), "html"),
    };
    let day = report.created.get(..10).unwrap_or_default();
    let name = format!("backchain-report-{day}.{ending}");
    let size = to_u64(text.len());
    tell(
        match File::new_with_str_sequence(&Array::of1(&text.into()), &name) {
            Ok(file) => Answer::Ready(Saved {
                name,
                size,
                file: file.into(),
            }),
            Err(error) => Answer::Failed(format!(
                "The report could not be made: {}.",
                js::message(&error)
            )),
        },
    );
    None
}

/// Looks at every layer; nothing when it was stopped.
async fn gather(session: &Session, stop: &Cell<bool>, tell: &dyn Fn(Answer)) -> Option<Report> {
    let view = session.view();
    let size = |layer: &Layer| layer.virtual_size.unwrap_or(0);
    let total = view.layers.iter().map(size).fold(0, u64::saturating_add);
    let limit = RUNS.min((ALL_RUNS / to_u64(view.layers.len()).max(1)).max(FEWEST));
    let mut done = 0_u64;
    let mut entries = Vec::with_capacity(view.layers.len());
    let mut news = js::now() + NEWS;
    for layer in &view.layers {
        let node = session.node(layer.id).ok();
        let node = node.map(|id| Arc::clone(session.tree.node(id)));
        let map = match &node {
            Some(node) => runs(node, limit, stop).await?,
            None => Runs::default(),
        };
        entries.push(entry(session, layer, node, map, |id| {
            view.layer(id).map(|layer| layer.path.clone())
        }));
        done = done.saturating_add(size(layer));
        if js::now() > news {
            tell(progress("Reading the maps", done, total));
            news = js::now() + NEWS;
        }
        js::pause().await;
        if stop.get() {
            return None;
        }
    }
    Some(Report {
        created: String::from(Date::new_0().to_iso_string()),
        entries,
    })
}

fn entry(
    session: &Session,
    layer: &Layer,
    node: Option<Arc<Node>>,
    map: Runs,
    path: impl Fn(u32) -> Option<String>,
) -> Entry {
    let words = |error: backchain::Error| sentence(&error.to_string());
    let found = node.as_deref();
    let image = found.and_then(|node| Some((node, node.image.as_ref().ok()?.as_qcow2()?)));
    let mut sections = found.map(details::sections).unwrap_or_default();
    sections.extend(stats::section(session, layer.id));
    Entry {
        layer: layer.clone(),
        backing: layer.backing.and_then(path),
        sections,
        snapshots: found
            .filter(|node| node.image.is_ok())
            .map_or_else(|| Ok(Vec::new()), |node| node.snapshots().map_err(words)),
        bitmaps: image.map_or_else(
            || Ok(Vec::new()),
            |(node, image)| image.bitmaps(node.source.as_ref()).map_err(words),
        ),
        stats: stats::of(session, layer.id),
        map,
        node,
    }
}

/// The first runs of a layer; nothing when it was stopped.
async fn runs(node: &Arc<Node>, limit: u64, stop: &Cell<bool>) -> Option<Runs> {
    let mut found = Runs::default();
    let whole = node
        .image
        .as_ref()
        .is_ok_and(|image| image.format() == ImageFormat::Raw)
        && node.source.len() > LARGEST_SEARCHED;
    if whole {
        // To tell what a raw file holds it must be read as a whole: a large one counts as full.
        found.runs.push(Extent {
            start: 0,
            len: node.virtual_size(),
            place: Place::Data {
                host: HostOffset(0),
            },
        });
        return Some(found);
    }
    let mut extents = match node.image().and_then(|_| node.extents(0)) {
        Ok(extents) => extents,
        Err(error) => {
            found.error = Some(sentence(&error.to_string()));
            return Some(found);
        }
    };
    let limit = to_usize(limit);
    let mut until = js::now() + TURN;
    for extent in extents.by_ref() {
        match extent {
            Ok(_) if found.runs.len() == limit => {
                found.truncated = true;
                break;
            }
            Ok(extent) => found.runs.push(extent),
            Err(error) => {
                found.error = Some(sentence(&error.to_string()));
                break;
            }
        }
        if js::now() > until {
            js::pause().await;
            until = js::now() + TURN;
        }
        if stop.get() {
            return None;
        }
    }
    Some(found)
}

fn progress(phase: &str, done: u64, total: u64) -> Answer {
    Answer::Progress(Progress {
        done,
        total,
        phase: phase.to_owned(),
        can_cancel: true,
    })
}

/// Where the bytes of a run begin in the file; a compressed one has no such place.
fn host(place: Place) -> Option<u64> {
    match place {
        Place::Data { host } | Place::Zero { host: Some(host) } => Some(host.0),
        _ => None,
    }
}

/// What qemu-img's map calls `data` and `zero`.
fn data_and_zero(place: Place) -> (bool, bool) {
    match place {
        Place::Data { .. } | Place::Compressed { .. } => (true, false),
        Place::Zero { .. } | Place::BeyondEnd => (false, true),
        Place::Unallocated => (false, false),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Base => "base",
        Role::Middle => "middle",
        Role::Active => "active",
        Role::Single => "single",
        Role::Spare => "spare",
    }
}
