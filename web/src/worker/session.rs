//! What the worker remembers: the granted files, their tree, and what became invalid.

use super::files::{Entry, Files, modified};
use super::operation::ways::Wanted;
use crate::protocol::{
    Details, Extents, Layer, LayerId, Operation, Remark, Role, Snapshot, State, Tree as View, Way,
};
use backchain::chain::Link;
use backchain::{ErrorKind, Format, Node, NodeId, Place, Preview as Sum, ReadAt, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A tree, and which node each file became.
pub type Grown = (Tree, BTreeMap<usize, NodeId>);

#[derive(Default)]
pub struct Session {
    pub files: Files,
    pub tree: Tree,
    /// Which node each file became.
    nodes: BTreeMap<usize, NodeId>,
    /// The files the tree was grown from, in this order.
    roots: Vec<usize>,
    /// Files that an operation made invalid.
    pub invalid: BTreeSet<usize>,
    /// Files that an operation merged into the layer below: nothing should go on using them.
    pub merged: BTreeSet<usize>,
    /// Files that are valid and that nothing needs any more.
    pub spare: BTreeSet<usize>,
    /// Files that were here when the last operation ran. What came later and stands on an
    /// invalid file is invalid, too.
    pub known: BTreeSet<usize>,
    /// The last plan that was summed up, while the tree it was made for lasts.
    pub sum: Option<(Operation, Sum)>,
    /// The ways that were counted last, while that tree lasts.
    pub ways: Option<(Wanted, Vec<Way>)>,
    /// What looking into files remembers.
    pub memory: super::look::Memory,
    /// What is tried without writing.
    pub staged: super::staged::Memory,
    /// The bars of the tree that are being worked on.
    pub strips: super::strips::Memory,
    /// Files that this page changed, and when: their overlays read what they did, or are known
    /// to be invalid.
    written: BTreeMap<usize, i128>,
    /// What was looked up about a file as it is now.
    measured: BTreeMap<usize, Result<Extents, String>>,
    ignored: Vec<String>,
}

/// What is known of files beyond what stands in them, as it was at some time.
#[derive(Clone)]
pub struct Marks {
    invalid: BTreeSet<usize>,
    merged: BTreeSet<usize>,
    spare: BTreeSet<usize>,
    known: BTreeSet<usize>,
}

/// What becomes of files that an operation does not need any more.
pub struct Fates {
    pub invalid: Vec<usize>,
    /// Merged into the layer below: nothing should go on using them.
    pub merged: Vec<usize>,
    pub spare: Vec<usize>,
}

impl Marks {
    #[must_use]
    pub fn of(session: &Session) -> Self {
        Self {
            invalid: session.invalid.clone(),
            merged: session.merged.clone(),
            spare: session.spare.clone(),
            known: session.known.clone(),
        }
    }

    /// The same after an operation on all files there are.
    #[must_use]
    pub fn after(mut self, session: &Session, fates: &Fates) -> Self {
        self.invalid.extend(&fates.invalid);
        self.merged.extend(&fates.merged);
        self.spare.extend(&fates.spare);
        self.known.extend(0..session.files.0.len());
        self
    }

    /// Makes the session know this and nothing else.
    pub fn put(self, session: &mut Session) {
        session.invalid = self.invalid;
        session.merged = self.merged;
        session.spare = self.spare;
        session.known = self.known;
    }
}

/// Name endings that disk images have; other files in a folder count only when they are qcow2,
/// or somebody's backing file.
const ENDINGS: [&str; 6] = [".qcow2", ".qcow", ".img", ".raw", ".snap", ".overlay"];

impl Session {
    /// Opens the tree anew after changes to these files: what was looked up about the others
    /// stays.
    pub fn open_after(&mut self, changed: &BTreeSet<usize>) {
        let mut measured = std::mem::take(&mut self.measured);
        self.open();
        measured.retain(|nth, _| {
            let node = self.nodes.get(nth).map(|&id| self.tree.node(id));
            // What an image holds may be in another file.
            let own = node.is_some_and(|node| node.data.is_none());
            own && !changed.contains(nth)
        });
        self.measured = measured;
    }

    /// Opens the tree of all files anew.
    pub fn open(&mut self) {
        // Overlays come before their backing files: those then carry the names by which they
        // are referred to, which is what a changed link has to record.
        let entries = self.files.0.iter().enumerate();
        let there = entries.filter(|(_, entry)| !entry.gone());
        let all: Vec<usize> = there.map(|(nth, _)| nth).collect();
        let (first, ids) = self.grow(&all);
        let referred = |nth: &usize| {
            ids.get(nth).is_some_and(|&id| {
                let backs = !first.children(id).is_empty() && first.backing(id) != Some(id);
                backs || !first.data_owners(id).is_empty()
            })
        };
        self.ignored.clear();
        let mut roots = Vec::new();
        for nth in all.iter().filter(|nth| !referred(nth)) {
            let Some(entry) = self.files.0.get(*nth) else {
                continue;
            };
            let image = ids
                .get(nth)
                .is_some_and(|&id| first.node(id).probed == Format::Qcow2)
                || ENDINGS
                    .iter()
                    .any(|ending| entry.path.to_lowercase().ends_with(ending))
                || !entry.name().contains('.');
            if image || entry.named {
                roots.push(*nth);
            } else {
                self.ignored
                    .push(format!("{}: not a disk image", entry.path));
            }
        }
        let more = self.ignored.len().saturating_sub(5);
        if more > 0 {
            self.ignored.truncate(5);
            self.ignored.push(format!("and {more} more"));
        }
        for path in self.files.half_written() {
            let of = path.strip_suffix(".crswap").unwrap_or(path);
            self.ignored.push(format!(
                "{path}: what a browser wrote of {of} before it was stopped. Unless another tab is writing just now, it can be deleted; {of} itself is whole"
            ));
        }
        // Loops have no end to start from.
        roots.extend(all.iter().copied().filter(referred));
        (self.tree, self.nodes) = self.grow(&roots);
        self.roots = roots;
        for nth in self.invalid.union(&self.merged) {
            if let Some(&id) = self.nodes.get(nth) {
                self.tree.give_up(id);
            }
        }
        self.measured.clear();
        self.sum = None;
        self.ways = None;
        self.memory = Default::default();
        self.strips = Default::default();
    }

    /// The same files in a tree as a check has it: images are in it that are too damaged for
    /// anything else.
    #[must_use]
    pub fn with_damaged(&self) -> Grown {
        self.grow_into(Tree::for_check(), &self.roots)
    }

    /// Puts another tree in the place of this one, which comes back.
    pub fn swap_tree(&mut self, other: &mut Grown) {
        std::mem::swap(&mut self.tree, &mut other.0);
        std::mem::swap(&mut self.nodes, &mut other.1);
    }

    fn grow(&self, order: &[usize]) -> Grown {
        self.grow_into(Tree::new(), order)
    }

    fn grow_into(&self, mut tree: Tree, order: &[usize]) -> Grown {
        for nth in order {
            // A file that cannot be read at all has no node: it is drawn from its entry alone.
            let _ = tree.add(&self.files, &nth.to_string(), None);
        }
        let nodes = tree
            .nodes()
            .iter()
            .filter_map(|n| Some((self.files.by_key(&n.key)?, n.id)))
            .collect();
        (tree, nodes)
    }

    /// The engine's number for a layer of the page.
    ///
    /// # Errors
    /// When the file could not be opened.
    pub fn node(&self, layer: LayerId) -> Result<NodeId, String> {
        let nth = usize::try_from(layer).unwrap_or(usize::MAX);
        self.nodes.get(&nth).copied().ok_or_else(|| {
            let name = self
                .files
                .0
                .get(nth)
                .map_or("this file", |entry| entry.name());
            format!("{name} could not be opened")
        })
    }

    /// The page's number for a node.
    #[must_use]
    pub fn layer(&self, id: NodeId) -> Option<LayerId> {
        let nth = self.files.by_key(&self.tree.nodes().get(index(id))?.key)?;
        u32::try_from(nth).ok()
    }

    /// The file behind a node.
    #[must_use]
    pub fn file(&self, id: NodeId) -> Option<usize> {
        self.files.by_key(&self.tree.nodes().get(index(id))?.key)
    }

    /// File name of a node, as the page shows it.
    #[must_use]
    pub fn name(&self, id: NodeId) -> String {
        let entry = self.file(id).and_then(|nth| self.files.0.get(nth));
        entry
            .map(|entry| entry.name().to_owned())
            .unwrap_or_default()
    }

    /// What the page draws.
    #[must_use]
    pub fn view(&self) -> View {
        let layers = (0..self.files.0.len())
            .filter_map(|nth| match self.nodes.get(&nth) {
                Some(&id) => self.draw(nth, id),
                None => self.draw_unreadable(nth),
            })
            .collect();
        View {
            layers,
            ignored: self.ignored.clone(),
        }
    }

    /// A file that was given by name and cannot even be read.
    fn draw_unreadable(&self, nth: usize) -> Option<Layer> {
        let entry = self
            .files
            .0
            .get(nth)
            .filter(|entry| entry.named && !entry.gone())?;
        let why = entry.source.read_exact_at(0, &mut [0]).err();
        let why = why.map_or_else(|| "it cannot be opened".to_owned(), |e| e.to_string());
        Some(Layer {
            id: u32::try_from(nth).ok()?,
            gift: entry.gift,
            name: entry.name().to_owned(),
            path: entry.path.clone(),
            format: "unknown".to_owned(),
            virtual_size: None,
            allocated: None,
            file_size: entry.source.len(),
            backing: None,
            backing_name: String::new(),
            backing_path: String::new(),
            modified: milliseconds(entry),
            remarks: Vec::new(),
            located: false,
            role: Role::Single,
            extents: None,
            state: State::Damaged,
            reason: Some(sentence(&why)),
            in_place: false,
            folder: entry.folder_name(),
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
            staged: false,
        })
    }

    fn draw(&self, nth: usize, id: NodeId) -> Option<Layer> {
        let entry = self.files.0.get(nth)?;
        if !self.tree.data_owners(id).is_empty() {
            // An external data file is a part of its image.
            return None;
        }
        let node = self.tree.node(id);
        let backing = self.tree.backing(id);
        let has_overlays = self.tree.children(id).iter().any(|&child| child != id);
        let role = match (node.backing().is_some(), has_overlays) {
            (false, true) => Role::Base,
            (true, true) => Role::Middle,
            (true, false) if self.spare.contains(&nth) || self.merged.contains(&nth) => Role::Spare,
            (true, false) => Role::Active,
            (false, false) => Role::Single,
        };
        let (state, reason) = self.state(nth, id);
        let mut layer = Layer {
            id: u32::try_from(nth).ok()?,
            gift: entry.gift,
            name: entry.name().to_owned(),
            path: entry.path.clone(),
            format: format_name(node),
            virtual_size: node
                .image
                .as_ref()
                .ok()
                .map(backchain::image::Image::virtual_size),
            allocated: None,
            file_size: node.source.len(),
            backing: backing.and_then(|id| self.layer(id)),
            backing_name: node
                .backing()
                .map(|backing| backchain::chain::file_name(&backing.name).to_owned())
                .unwrap_or_default(),
            backing_path: node
                .backing()
                .map(|backing| backing.name.clone())
                .unwrap_or_default(),
            modified: milliseconds(entry),
            remarks: self.remarks(nth, id),
            located: self.files.linked(node).is_some(),
            role,
            extents: None,
            state,
            reason,
            in_place: entry.handle.is_some() || entry.planned,
            folder: entry.folder_name(),
            snapshots: snapshots(node),
            bitmaps: bitmaps(node),
            staged: entry.staged.is_some(),
        };
        if let Some(found) = self.measured.get(&nth) {
            layer.measured(found.clone());
        }
        Some(layer)
    }

    fn state(&self, nth: usize, id: NodeId) -> (State, Option<String>) {
        let node = self.tree.node(id);
        if let Some(nodes) = self.tree.find_loop(id) {
            let names: Vec<String> = nodes.iter().map(|&id| self.name(id)).collect();
            let why = format!(
                "The backing files lead in a circle: {}. Rebase one of them with \"only change the link\" to break it.",
                names.join(" → ")
            );
            return (State::Loop, Some(why));
        }
        if self.invalid.contains(&nth) || self.stands_on_invalid(nth, id) {
            let why = "What lies below it was changed by an operation, so it no longer reads what it did. It can be deleted.";
            return (State::Invalid, Some(why.to_owned()));
        }
        if self.merged.contains(&nth) {
            let why = "It was merged into the layer below, and nothing should go on using it. It can be deleted.";
            return (State::Invalid, Some(why.to_owned()));
        }
        // A name that says qcow2 over something else is rather damage than a raw image.
        if self.misnamed(id) {
            let why = "By its name it is qcow2, but it does not begin like one.";
            return (State::Damaged, Some(why.to_owned()));
        }
        // A label that does not fit is a fault of the overlay, not of the file it names.
        if let Err(error) = &node.image
            && self.tree.wrong_label(id).is_none()
        {
            return (State::Damaged, Some(sentence(&error.to_string())));
        }
        match self.tree.link(id) {
            Link::Broken(error) if error.kind() == ErrorKind::WrongLabel => {
                (State::WrongLabel, Some(sentence(&error.to_string())))
            }
            Link::Broken(error) => {
                let why = match error.kind() {
                    ErrorKind::NotGranted | ErrorKind::NotFound => {
                        let name = node.backing().map_or("", |backing| backing.name.as_str());
                        format!(
                            "Its backing file {name} is not among the files given to this page. Drop it here, too."
                        )
                    }
                    _ => sentence(&error.to_string()),
                };
                (State::Missing, Some(why))
            }
            // A damaged file has no label to disagree with.
            Link::To(below) if self.misnamed(*below) => (State::Ok, None),
            Link::To(below) => match self.tree.wrong_label(*below) {
                Some((label, content)) => {
                    let why = format!(
                        "It says that its backing file {} is {label}, but that file looks like {content}. \
                         Writing by this label would destroy it. Rebase with \"only change the link\" to correct it.",
                        self.name(*below)
                    );
                    (State::WrongLabel, Some(why))
                }
                None => (State::Ok, None),
            },
            Link::None => (State::Ok, None),
        }
    }

    /// What is worth knowing about a layer's link.
    fn remarks(&self, nth: usize, id: NodeId) -> Vec<Remark> {
        let node = self.tree.node(id);
        let Some(backing) = node.backing() else {
            return Vec::new();
        };
        let mut remarks = Vec::new();
        let name = backing.name.strip_prefix("file:").unwrap_or(&backing.name);
        if name.starts_with('/') {
            remarks.push(Remark::AbsoluteLink);
        }
        if self.changed_below(nth, id) {
            remarks.push(Remark::ChangedBelow);
        }
        if backing.format.is_none() {
            remarks.push(Remark::NoFormat);
        }
        remarks
    }

    /// Whether the backing file was changed after the overlay, by somebody else than this page.
    fn changed_below(&self, nth: usize, id: NodeId) -> bool {
        let below = self.tree.backing(id).and_then(|id| self.file(id));
        // What is only staged has no time yet.
        let entry = |nth: usize| self.files.0.get(nth).filter(|e| e.staged.is_none());
        let time = |nth: usize| modified(&entry(nth)?.file);
        let (Some(below), Some(own)) = (below, time(nth)) else {
            return false;
        };
        time(below).is_some_and(|changed| {
            changed - own > COARSEST_CLOCK && self.written.get(&below) != Some(&changed)
        })
    }

    /// Looks at every file again after an operation, and remembers which ones it changed.
    pub async fn refresh_own(&mut self) {
        let times = |files: &Files| -> Vec<Option<i128>> {
            files.0.iter().map(|entry| modified(&entry.file)).collect()
        };
        let before = times(&self.files);
        self.files.refresh().await;
        let after = times(&self.files);
        for (nth, (before, after)) in before.into_iter().zip(after).enumerate() {
            if let Some(after) = after.filter(|_| after != before) {
                self.written.insert(nth, after);
            }
        }
    }

    /// Whether a file has qcow2's ending but not its beginning.
    fn misnamed(&self, id: NodeId) -> bool {
        self.tree.node(id).probed == Format::Raw && self.name(id).to_lowercase().ends_with(".qcow2")
    }

    fn stands_on_invalid(&self, nth: usize, id: NodeId) -> bool {
        if self.invalid.is_empty() || self.known.contains(&nth) {
            return false;
        }
        // The chain has no loop: that was looked for first.
        std::iter::successors(self.tree.backing(id), |&id| self.tree.backing(id))
            .filter_map(|id| self.file(id))
            .any(|nth| self.invalid.contains(&nth))
    }

    /// The next file that was not looked into yet.
    #[must_use]
    pub fn unmeasured(&self) -> Option<usize> {
        self.nodes
            .keys()
            .copied()
            .find(|nth| !self.measured.contains_key(nth))
    }

    /// Looks how a layer's virtual size divides up.
    pub fn measure(&mut self, nth: usize) -> Option<(LayerId, Result<Extents, String>)> {
        let id = *self.nodes.get(&nth)?;
        let found = measure(self.tree.node(id)).map_err(|error| sentence(&error.to_string()));
        self.measured.insert(nth, found.clone());
        Some((u32::try_from(nth).ok()?, found))
    }

    /// # Errors
    /// In words, when there is no such layer.
    pub fn details(&self, layer: LayerId) -> Result<Details, String> {
        let id = self.node(layer)?;
        let mut sections = super::details::sections(self.tree.node(id));
        sections.extend(super::stats::section(self, layer));
        Ok(Details { layer, sections })
    }
}

/// Nanoseconds: some file systems keep times to two seconds.
const COARSEST_CLOCK: i128 = 2_000_000_000;

fn milliseconds(entry: &Entry) -> Option<u64> {
    u64::try_from(modified(&entry.file)? / 1_000_000).ok()
}

/// More internal snapshots, or bitmaps, than this are not listed.
const LISTED: usize = 1000;

fn snapshots(node: &Node) -> Vec<Snapshot> {
    // What is wrong with the list is told where the layer is looked at.
    let list = node.snapshots().unwrap_or_default();
    list.into_iter()
        .take(LISTED)
        .map(|entry| Snapshot {
            id: entry.id,
            name: entry.name,
        })
        .collect()
}

fn bitmaps(node: &Node) -> Vec<String> {
    let image = node.image.as_ref().ok().and_then(|image| image.as_qcow2());
    let list = image.and_then(|image| image.bitmaps(node.source.as_ref()).ok());
    list.unwrap_or_default()
        .into_iter()
        .take(LISTED)
        .map(|entry| entry.name)
        .collect()
}

/// Raw files are searched for zeros to tell what they hold: larger ones count as full.
pub const LARGEST_SEARCHED: u64 = 1 << 30;

fn measure(node: &Arc<Node>) -> backchain::Result<Extents> {
    let mut found = Extents::default();
    if node.image()?.format() == Format::Raw && node.source.len() > LARGEST_SEARCHED {
        found.data = node.source.len();
        found.runs = 1;
        return Ok(found);
    }
    for extent in node.extents(0)? {
        let extent = extent?;
        let sum = match extent.place {
            Place::Data { .. } => &mut found.data,
            Place::Compressed { .. } => &mut found.compressed,
            Place::Zero { .. } | Place::BeyondEnd => &mut found.zero,
            Place::Unallocated => &mut found.unallocated,
        };
        *sum = sum.saturating_add(extent.len);
        found.runs += 1;
    }
    Ok(found)
}

fn format_name(node: &Node) -> String {
    match &node.image {
        Ok(image) if image.format() == node.probed => image.format().to_string(),
        _ => node.probed.to_string(),
    }
}

fn index(id: NodeId) -> usize {
    usize::try_from(id.0).unwrap_or(usize::MAX)
}

/// A message of the engine as a sentence of its own.
#[must_use]
pub fn sentence(message: &str) -> String {
    let message = message.trim_end_matches('.');
    let first = message.split(' ').next().unwrap_or_default();
    // A file name at the start stays as it is.
    if !first.chars().all(char::is_alphabetic) {
        return format!("{message}.");
    }
    let mut letters = message.chars();
    let initial = letters.next().map(char::to_uppercase).into_iter().flatten();
    initial.chain(letters).chain(['.']).collect()
}
