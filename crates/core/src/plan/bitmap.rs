//! The persistent bitmaps of one image: add, remove, clear, enable, disable, merge.
//!
//! Several actions on one bitmap become one change: what it is in the end is known before the
//! first step. Bits and tables that change go to new places. A directory entry that stays is
//! changed in place, within a sector; one that comes or goes is in a new directory, and the
//! header extension switches over.

use super::bitmap_head;
use super::bitmap_merge::Shape;
use super::info::InfoBuilder;
use super::operation::BitmapAction;
use super::transaction::Transaction;
use super::{MetadataKind, Plan, Stage, Step, StepQueue, guard, repair};
use crate::chain::{Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::image::bitmap::{ALL_ONES, HOST, words};
use crate::image::{BitmapBits, Chunk, Qcow2};
use crate::source::read_padded;
use backchain_format::HostOffset;
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::{BitmapDirectoryEntry, BitmapsExtension};
use std::sync::Arc;

/// Bytes of bits written before steps are handed on.
const BATCH: u64 = 4 << 20;
/// Chunks looked at before steps are handed on.
const LOOKED_AT: u64 = 4096;

/// The directory of the bitmaps that count; none where the header says that the extension is
/// not to be trusted.
pub(super) fn directory(node: &Node) -> Result<Vec<BitmapDirectoryEntry>> {
    match node.image()?.as_qcow2() {
        Some(image) if image.bitmaps_consistent() && image.head.is_v3() => image
            .bitmaps(node.source.as_ref())
            .map_err(|e| node.blame(e)),
        _ => Ok(Vec::new()),
    }
}

/// The table and bits of a bitmap of `node`.
pub(super) fn bits(node: &Node, entry: &BitmapDirectoryEntry) -> Result<BitmapBits> {
    let image = qcow2(node)?;
    BitmapBits::open(&node.source, image, entry).map_err(|e| node.blame(e))
}

fn qcow2(node: &Node) -> Result<&Qcow2> {
    node.image()?.as_qcow2().ok_or_else(|| {
        let message = "the image has no persistent bitmaps: it is not qcow2";
        Error::new(ErrorKind::Invalid, message).about(&node.name)
    })
}

/// The granularity that QEMU gives a bitmap by default: a cluster, from 4 to 64 KiB.
fn default_granularity(cluster_bits: u32) -> u8 {
    u8::try_from(cluster_bits.clamp(12, 16)).unwrap_or(16)
}

/// A bitmap as the actions so far leave it.
struct Wanted {
    /// Its entry in the directory as it is.
    stored: Option<usize>,
    granularity_bits: u8,
    auto: bool,
    in_use: bool,
    /// Its bits stay; else it was cleared or is new.
    keeps_bits: bool,
    merged: Vec<BitmapBits>,
}

/// The actions in words that do not go on to the next one.
struct Actions<'a> {
    tree: &'a Tree,
    node: &'a Arc<Node>,
    name: &'a str,
    list: Vec<BitmapDirectoryEntry>,
    /// Index of the bitmap in the directory.
    index: Option<usize>,
    state: Option<Wanted>,
}

impl Actions<'_> {
    fn apply(&mut self, action: &BitmapAction) -> Result<()> {
        let result = match action {
            BitmapAction::Add { granularity } => self.add(*granularity),
            BitmapAction::Remove => self.known().map(|_| ()).map(|()| self.state = None),
            BitmapAction::Clear => self.usable().map(|bitmap| {
                bitmap.keeps_bits = false;
                bitmap.merged.clear();
            }),
            BitmapAction::Enable => self.usable().map(|bitmap| bitmap.auto = true),
            BitmapAction::Disable => self.usable().map(|bitmap| bitmap.auto = false),
            BitmapAction::Merge { source, bitmap } => self.merge(*source, bitmap),
        };
        result.map_err(|why| {
            let (what, name) = (action.name(), self.name);
            let kind = why.kind();
            let why = why.message();
            Error::new(
                kind,
                format!("Operation {what} on bitmap {name} failed: {why}"),
            )
        })
    }

    fn known(&mut self) -> Result<&mut Wanted> {
        let name = self.name;
        self.state.as_mut().ok_or_else(|| not_found(name))
    }

    fn usable(&mut self) -> Result<&mut Wanted> {
        let name = self.name;
        let bitmap = self.known()?;
        if bitmap.in_use {
            return Err(inconsistent(name));
        }
        Ok(bitmap)
    }

    fn add(&mut self, granularity: Option<u64>) -> Result<()> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        if self.name.is_empty() {
            return Err(invalid("Bitmap name cannot be empty".to_owned()));
        }
        let limits = 1 << BitmapDirectoryEntry::MIN_GRANULARITY_BITS
            ..=1 << BitmapDirectoryEntry::MAX_GRANULARITY_BITS;
        let given = match granularity.filter(|&bytes| bytes != 0) {
            Some(bytes) if !bytes.is_power_of_two() || !limits.contains(&bytes) => {
                let message = "Granularity must be power of 2 and at least 512";
                return Err(invalid(message.to_owned()));
            }
            other => other.and_then(|bytes| u8::try_from(bytes.trailing_zeros()).ok()),
        };
        let Some(image) = self.node.image()?.as_qcow2() else {
            return Err(invalid(format!(
                "Can't store persistent bitmaps to {NODE}: Operation not supported"
            )));
        };
        let cluster = image.head.header.cluster;
        let granularity_bits = given.unwrap_or(default_granularity(cluster.bits()));
        let fits = fits(image, self.name, granularity_bits, &self.others());
        if let Err(why) = fits {
            return Err(invalid(format!(
                "Can't make bitmap '{}' persistent in '{NODE}': {why}",
                self.name
            )));
        }
        if self.state.is_some() {
            return Err(invalid(format!("Bitmap already exists: {}", self.name)));
        }
        self.state = Some(Wanted {
            stored: None,
            granularity_bits,
            auto: true,
            in_use: false,
            keeps_bits: false,
            merged: Vec::new(),
        });
        Ok(())
    }

    /// The other bitmaps.
    fn others(&self) -> Vec<&BitmapDirectoryEntry> {
        let others = self.list.iter().enumerate();
        others
            .filter(|(index, _)| Some(*index) != self.index)
            .map(|(_, entry)| entry)
            .collect()
    }

    fn merge(&mut self, source: Option<NodeId>, name: &str) -> Result<()> {
        self.known()?;
        if source.is_none_or(|id| id == self.node.id) && name == self.name {
            return self.usable().map(|_| ());
        }
        let node = source.map_or(self.node, |id| self.tree.node(id));
        let list = if node.id == self.node.id {
            self.list.clone()
        } else {
            directory(node)?
        };
        let Some(entry) = list.into_iter().find(|entry| entry.name == name) else {
            return Err(not_found(name));
        };
        self.usable()?;
        if entry.in_use() {
            return Err(inconsistent(name));
        }
        let (size, other) = (self.node.virtual_size(), node.virtual_size());
        if size != other {
            let message = format!(
                "Bitmaps are of different sizes (destination size is {size}, source size is \
                 {other}) and can't be merged"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let bits = bits(node, &entry)?;
        self.usable()?.merged.push(bits);
        Ok(())
    }
}

/// QEMU makes up a name for a node that has none.
const NODE: &str = "#block000";

fn not_found(name: &str) -> Error {
    let message = format!("Dirty bitmap '{name}' not found");
    Error::new(ErrorKind::Invalid, message)
}

fn inconsistent(name: &str) -> Error {
    let message = format!(
        "Bitmap '{name}' is inconsistent and cannot be used\n\
         Try block-dirty-bitmap-remove to delete this bitmap from disk"
    );
    Error::new(ErrorKind::Invalid, message)
}

/// Whether the image can have another bitmap beside `others`; else why not, in QEMU's words.
pub(super) fn fits(
    image: &Qcow2,
    name: &str,
    granularity_bits: u8,
    others: &[&BitmapDirectoryEntry],
) -> Result<(), String> {
    let header = &image.head.header;
    if !image.head.is_v3() {
        return Err("Cannot store dirty bitmaps in qcow2 v2 files".to_owned());
    }
    if name.len() > BitmapDirectoryEntry::MAX_NAME {
        return Err(format!(
            "Name length exceeds maximum ({} characters)",
            BitmapDirectoryEntry::MAX_NAME
        ));
    }
    let shape = Shape {
        cluster: header.cluster,
        granularity_bits,
        size: header.size,
    };
    let bits = header.size.div_ceil(1 << granularity_bits);
    let most = BitmapDirectoryEntry::MAX_BYTES;
    if bits > most * 8 || shape.chunks() > u64::from(BitmapDirectoryEntry::MAX_TABLE_ENTRIES) {
        let message = "Too much space will be occupied by the bitmap. Use larger granularity";
        return Err(message.to_owned());
    }
    if shape.chunks() == 0 {
        return Err("The disk has no bytes".to_owned());
    }
    if to_u64(others.len()) >= u64::from(BitmapsExtension::MAX_COUNT) {
        return Err("Maximum number of persistent bitmaps is already reached".to_owned());
    }
    let taken: u64 = others.iter().map(|entry| entry.stored_len).sum();
    let len = to_u64(BitmapDirectoryEntry::len_for(name.len()));
    if taken + len > BitmapsExtension::MAX_DIRECTORY {
        return Err("Not enough space in the bitmap directory".to_owned());
    }
    Ok(())
}

/// [`super::Operation::Bitmap`].
pub(super) fn plan_bitmap(
    tree: &Tree,
    node: NodeId,
    name: &str,
    actions: &[BitmapAction],
) -> Result<Plan> {
    let node = tree.node(node);
    guard::header_writable(tree, node)?;
    let list = directory(node)?;
    let index = list.iter().position(|entry| entry.name == name);
    let state = index
        .and_then(|index| list.get(index).map(|entry| (index, entry)))
        .map(|(index, entry)| Wanted {
            stored: Some(index),
            granularity_bits: entry.granularity_bits,
            auto: entry.flags & BitmapDirectoryEntry::AUTO != 0,
            in_use: entry.in_use(),
            keeps_bits: true,
            merged: Vec::new(),
        });
    let mut todo = Actions {
        tree,
        node,
        name,
        list,
        index,
        state,
    };
    for action in actions {
        todo.apply(action)?;
    }
    let mut info = InfoBuilder::new(tree);
    info.written(node.id);
    repair::warning(node).into_iter().for_each(|w| info.warn(w));
    for action in actions {
        if let BitmapAction::Merge {
            source: Some(id), ..
        } = action
        {
            info.read(std::slice::from_ref(tree.node(*id)));
        }
    }
    info.equivalent(command(tree, node, name, actions));
    let stage = BitmapStage::new(node, name, todo.list, todo.index, todo.state)?;
    Ok(Plan::new(info.build(), vec![Box::new(stage)]))
}

fn command(tree: &Tree, node: &Node, name: &str, actions: &[BitmapAction]) -> String {
    let mut words = vec!["qemu-img bitmap".to_owned()];
    for action in actions {
        words.push(format!("--{}", action.name()));
        match action {
            BitmapAction::Add {
                granularity: Some(bytes),
            } => words.push(format!("-g {bytes}")),
            BitmapAction::Merge { source, bitmap } => {
                words.push(bitmap.clone());
                if let Some(id) = source {
                    words.push(format!("-b {}", tree.node(*id).name));
                }
            }
            _ => {}
        }
    }
    words.extend([node.name.clone(), name.to_owned()]);
    words.join(" ")
}

/// Carries the change out.
struct BitmapStage {
    change: Transaction,
    name: String,
    list: Vec<BitmapDirectoryEntry>,
    index: Option<usize>,
    wanted: Option<Wanted>,
    /// The bitmap as it is stored, where its bits stay.
    old: Option<BitmapBits>,
    shape: Shape,
    table: Vec<u64>,
    /// Host clusters of the old bits that nothing needs any more.
    unused: Vec<u64>,
    started: bool,
}

impl BitmapStage {
    fn new(
        node: &Arc<Node>,
        name: &str,
        list: Vec<BitmapDirectoryEntry>,
        index: Option<usize>,
        wanted: Option<Wanted>,
    ) -> Result<Self> {
        let header = &qcow2(node)?.head.header;
        let old = match (index.and_then(|i| list.get(i)), &wanted) {
            (Some(entry), Some(wanted)) if !wanted.in_use && wanted.stored.is_some() => {
                Some(bits(node, entry)?)
            }
            _ => None,
        };
        let granularity_bits = wanted.as_ref().map_or(16, |w| w.granularity_bits);
        let stage = Self {
            change: Transaction::new(node)?,
            name: name.to_owned(),
            old,
            shape: Shape {
                cluster: header.cluster,
                granularity_bits,
                size: header.size,
            },
            table: Vec::new(),
            unused: Vec::new(),
            list,
            index,
            wanted,
            started: false,
        };
        // What cannot be written is refused now.
        let mut head = stage.change.head.lock().clone();
        let place = HostOffset(header.cluster.bytes());
        if let Some(extension) = stage.extension(place, stage.count(), 24)? {
            bitmap_head::switch(node.id, &mut head, extension).map_err(|e| node.blame(e))?;
        }
        Ok(stage)
    }

    /// Bitmaps afterwards.
    fn count(&self) -> usize {
        let others = self.list.len() - usize::from(self.index.is_some());
        others + usize::from(self.wanted.is_some())
    }

    /// What the extension must say; outer `None`: what it says already.
    #[allow(clippy::option_option)]
    fn extension(
        &self,
        directory: HostOffset,
        count: usize,
        len: usize,
    ) -> Result<Option<Option<BitmapsExtension>>> {
        if !self.moves_directory() {
            return Ok(None);
        }
        if count == 0 {
            return Ok(Some(None));
        }
        let Ok(count) = u32::try_from(count) else {
            return Err(Error::new(ErrorKind::Invalid, "too many bitmaps"));
        };
        Ok(Some(Some(BitmapsExtension {
            count,
            directory_len: to_u64(len),
            directory,
        })))
    }

    /// An entry comes or goes.
    fn moves_directory(&self) -> bool {
        let stored = self.wanted.as_ref().and_then(|w| w.stored);
        stored != self.index || self.index.is_none() && self.wanted.is_some()
    }

    /// Whether bits change.
    fn changes_bits(&self) -> bool {
        self.wanted
            .as_ref()
            .is_some_and(|w| w.stored.is_none() || !w.keeps_bits || !w.merged.is_empty())
    }

    /// Puts together the next chunks of the new table. False when it is complete.
    fn chunks(&mut self, out: &mut StepQueue) -> Result<bool> {
        let Some(wanted) = &self.wanted else {
            return Ok(false);
        };
        let mut written = 0;
        for _ in 0..LOOKED_AT {
            let index = to_u64(self.table.len());
            if index >= self.shape.chunks() {
                return Ok(false);
            }
            if written >= BATCH {
                break;
            }
            let stored = self.old.as_ref();
            let was = stored.map_or(0, |old| old.entry(index));
            let own = match stored.filter(|_| wanted.keeps_bits) {
                Some(old) if wanted.merged.is_empty() && old.host(index).is_some() => {
                    self.table.push(was);
                    continue;
                }
                Some(old) => old.chunk(index)?,
                None => Chunk::Zeros,
            };
            let new = self
                .shape
                .merge(index, own.clone(), &wanted.merged)
                .map_err(|e| self.change.node.blame(e))?;
            let keep = wanted.keeps_bits && new == own;
            let entry = match new {
                _ if keep => was,
                Chunk::Zeros => 0,
                Chunk::Ones => ALL_ONES,
                Chunk::Bits(bytes) => {
                    let at = self.change.refcounts.allocate(1)?;
                    written += to_u64(bytes.len());
                    out.push(self.change.write(at, MetadataKind::Bitmap, bytes));
                    at.0
                }
            };
            if let Some(host) = stored.and_then(|old| old.host(index))
                && entry & HOST != host
            {
                self.unused.push(host >> self.shape.cluster.bits());
            }
            self.table.push(entry);
        }
        Ok(true)
    }

    /// Clusters of the old bits, table included, when the bitmap goes as a whole.
    fn drop_stored(&mut self) -> Result<()> {
        let Some(entry) = self.index.and_then(|index| self.list.get(index)) else {
            return Ok(());
        };
        let node = &self.change.node;
        let bits = self.shape.cluster.bits();
        let len = u64::from(entry.table_entries) * 8;
        let end = entry.table.0.checked_add(len);
        if end.is_none_or(|end| end > node.source.len()) {
            let message = format!(
                "the table of bitmap '{}' is past the end of the file",
                entry.name
            );
            return Err(Error::new(ErrorKind::Corrupt, message).about(&node.name));
        }
        let first = entry.table.0 >> bits;
        let mut dropped: Vec<u64> = (first..first + self.shape.cluster.clusters(len)).collect();
        let mut pos = 0;
        let mut window = vec![0; to_usize(len.min(1 << 20))];
        while pos < len {
            let n = to_usize((len - pos).min(1 << 20));
            let part = window.get_mut(..n).unwrap_or_default();
            read_padded(node.source.as_ref(), entry.table.0 + pos, part)
                .map_err(|e| node.blame(e))?;
            let hosts = words(part).into_iter().map(|word| word & HOST);
            dropped.extend(hosts.filter(|&host| host != 0).map(|host| host >> bits));
            pos += to_u64(n);
        }
        for cluster in dropped {
            self.change.refcounts.drop_reference(cluster);
        }
        Ok(())
    }

    /// Writes the new table. Returns where it is.
    fn write_table(&mut self, out: &mut StepQueue) -> Result<HostOffset> {
        let len = to_u64(self.table.len()) * 8;
        let clusters = self.shape.cluster.clusters(len);
        let at = self.change.refcounts.allocate(clusters)?;
        let table = std::mem::take(&mut self.table);
        let bytes = table.iter().flat_map(|e| e.to_be_bytes()).collect();
        out.push(self.change.write(at, MetadataKind::Bitmap, bytes));
        Ok(at)
    }

    fn flags(&self) -> u32 {
        match &self.wanted {
            Some(wanted) if wanted.auto => BitmapDirectoryEntry::AUTO,
            _ => 0,
        }
    }

    /// Where the directory is and its bytes, when there is one that counts.
    fn old_directory(&self) -> Result<Option<(HostOffset, Vec<u8>)>> {
        if self.list.is_empty() {
            return Ok(None);
        }
        let node = &self.change.node;
        let Some(extension) = qcow2(node)?.head.extensions.bitmaps(0).transpose()? else {
            return Ok(None);
        };
        let mut bytes = vec![0; to_usize(extension.directory_len)];
        read_padded(node.source.as_ref(), extension.directory.0, &mut bytes)
            .map_err(|e| node.blame(e))?;
        Ok(Some((extension.directory, bytes)))
    }

    /// The entry that stays: in place, in one write where it lies in one sector.
    fn change_entry(&mut self, index: usize, out: &mut StepQueue) -> Result<()> {
        let (Some((directory, _)), Some(old)) = (self.old_directory()?, self.list.get(index))
        else {
            return Ok(());
        };
        let old = old.clone();
        let before: u64 = self.list.iter().take(index).map(|e| e.stored_len).sum();
        let at = directory.plus(before);
        let flags = self.flags();
        let kind = MetadataKind::Bitmap;
        let mut tail = old.table_entries.to_be_bytes().to_vec();
        tail.extend(flags.to_be_bytes());
        if !self.changes_bits() {
            if flags != old.flags {
                let step = self.change.write(at.plus(8), kind, tail);
                self.change.publish(vec![step], out)?;
            }
            return Ok(());
        }
        let table = self.write_table(out)?;
        let first = old.table.0 >> self.shape.cluster.bits();
        let len = u64::from(old.table_entries) * 8;
        for cluster in first..first + self.shape.cluster.clusters(len) {
            self.change.refcounts.drop_reference(cluster);
        }
        for cluster in std::mem::take(&mut self.unused) {
            self.change.refcounts.drop_reference(cluster);
        }
        let mut bytes = table.0.to_be_bytes().to_vec();
        let steps = if at.0 % 512 <= 496 {
            bytes.extend(tail);
            vec![self.change.write(at, kind, bytes)]
        } else {
            // Cleared or merged, then enabled or disabled: what is between the two is sound.
            let mut steps = vec![self.change.write(at, kind, bytes)];
            if flags != old.flags {
                steps.push(Step::Sync {
                    node: self.change.node.id,
                });
                steps.push(self.change.write(at.plus(8), kind, tail));
            }
            steps
        };
        self.change.publish(steps, out)
    }

    /// A directory with an entry more or less, and the extension that leads to it.
    fn change_directory(&mut self, out: &mut StepQueue) -> Result<()> {
        let cluster = self.shape.cluster;
        let old = self.old_directory()?;
        let mut bytes = Vec::new();
        if let Some((at, old)) = &old {
            let mut pos = 0;
            for (index, entry) in self.list.iter().enumerate() {
                let end = pos + to_usize(entry.stored_len);
                if Some(index) != self.index {
                    bytes.extend(old.get(pos..end.min(old.len())).unwrap_or_default());
                    bytes.resize(bytes.len().next_multiple_of(8), 0);
                }
                pos = end;
            }
            let first = at.0 >> cluster.bits();
            for number in first..first + cluster.clusters(to_u64(old.len())) {
                self.change.refcounts.drop_reference(number);
            }
        }
        self.drop_stored()?;
        if self.wanted.is_some() {
            let table_entries = u32::try_from(self.table.len()).unwrap_or(u32::MAX);
            let table = self.write_table(out)?;
            let entry = BitmapDirectoryEntry {
                table,
                table_entries,
                flags: self.flags(),
                granularity_bits: self.shape.granularity_bits,
                name: self.name.clone(),
                stored_len: 0,
            };
            bytes.extend(entry.to_bytes());
        }
        let mut place = HostOffset(0);
        if !bytes.is_empty() {
            place = self
                .change
                .refcounts
                .allocate(cluster.clusters(to_u64(bytes.len())))?;
        }
        let extension = self.extension(place, self.count(), bytes.len())?;
        if !bytes.is_empty() {
            out.push(self.change.write(place, MetadataKind::Bitmap, bytes));
        }
        // Everything new is durable before the header, which may say now where the refcount
        // table went, leads there.
        self.change.publish(Vec::new(), out)?;
        if let Some(extension) = extension {
            let node = self.change.node.id;
            let steps = bitmap_head::switch(node, &mut self.change.head.lock(), extension)
                .map_err(|e| self.change.node.blame(e))?;
            steps.into_iter().for_each(|step| out.push(step));
        }
        Ok(())
    }
}

impl Stage for BitmapStage {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        if !std::mem::replace(&mut self.started, true) {
            self.change.begin(out)?;
        }
        if self.changes_bits() && self.chunks(out)? {
            return Ok(true);
        }
        match self.index {
            Some(index) if !self.moves_directory() => self.change_entry(index, out)?,
            _ if self.moves_directory() => self.change_directory(out)?,
            _ => {}
        }
        self.change.finish(out)?;
        Ok(false)
    }

    fn progress(&self) -> (u64, u64) {
        (to_u64(self.table.len()), self.shape.chunks())
    }
}
