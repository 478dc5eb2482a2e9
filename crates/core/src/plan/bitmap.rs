//! The persistent bitmaps of one image: add, remove, clear, enable, disable, merge.
//!
//! Several actions on one bitmap become one change: what it is in the end is known before the
//! first step. Bits and tables that change go to new places. A directory entry that stays is
//! changed in place, within a sector; one that comes or goes is in a new directory, and the
//! header extension switches over.

use super::bitmap_actions::{Actions, Wanted};
use super::bitmap_directory::{Directory, bits, clusters_of, extension, qcow2, table_clusters};
use super::bitmap_head;
use super::bitmap_merge::Shape;
use super::info::{InfoBuilder, word};
use super::operation::BitmapAction;
use super::transaction::Transaction;
use super::{MetadataKind, Plan, Stage, Step, StepQueue, guard, repair};
use crate::chain::{Node, NodeId, Tree};
use crate::error::Result;
use crate::image::bitmap::{ALL_ONES, HOST};
use crate::image::{BitmapBits, Chunk};
use backchain_format::HostOffset;
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{BitmapDirectoryEntry, BitmapsExtension};
use std::sync::Arc;

/// Bytes of bits written before steps are handed on.
const BATCH: u64 = 4 << 20;
/// Chunks looked at before steps are handed on.
const LOOKED_AT: u64 = 4096;

/// [`super::Operation::Bitmap`].
pub(super) fn plan_bitmap(
    tree: &Tree,
    node: NodeId,
    name: &str,
    actions: &[BitmapAction],
) -> Result<Plan> {
    let node = tree.node(node);
    guard::header_writable(tree, node)?;
    let directory = Directory::read(node)?;
    let index = directory.find(name);
    let state = index
        .and_then(|index| directory.list.get(index).map(|entry| (index, entry)))
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
        directory,
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
    let stage = BitmapStage::new(node, name, todo.directory, todo.index, todo.state)?;
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
                words.push(word(bitmap).into_owned());
                if let Some(id) = source {
                    words.push(format!("-b {}", word(&tree.node(*id).name)));
                }
            }
            _ => {}
        }
    }
    words.extend([&node.name, name].map(|text| word(text).into_owned()));
    words.join(" ")
}

/// Carries the change out.
struct BitmapStage {
    change: Transaction,
    name: String,
    directory: Directory,
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
        directory: Directory,
        index: Option<usize>,
        wanted: Option<Wanted>,
    ) -> Result<Self> {
        let header = &qcow2(node)?.head.header;
        let old = match (index.and_then(|i| directory.list.get(i)), &wanted) {
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
            directory,
            index,
            wanted,
            started: false,
        };
        // What cannot be written is refused now.
        let mut head = stage.change.head.lock().clone();
        if stage.moves_directory() {
            let place = HostOffset(header.cluster.bytes());
            let extension = stage.extension(place, 24)?;
            bitmap_head::switch(node.id, &mut head, extension).map_err(|e| node.blame(e))?;
        }
        Ok(stage)
    }

    /// What the extension must say of a new directory.
    fn extension(&self, place: HostOffset, len: usize) -> Result<Option<BitmapsExtension>> {
        let others = self.directory.list.len() - usize::from(self.index.is_some());
        let count = others + usize::from(self.wanted.is_some());
        if count == 0 {
            return Ok(None);
        }
        extension(place, count, len).map(Some)
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

    /// The entry that stays: in place, in one write where it lies in one sector.
    fn change_entry(&mut self, index: usize, out: &mut StepQueue) -> Result<()> {
        let Some(old) = self.directory.list.get(index).cloned() else {
            return Ok(());
        };
        let at = self.directory.place_of(index);
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
        for cluster in table_clusters(&old, self.shape.cluster) {
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
        let mut bytes = Vec::new();
        for index in 0..self.directory.list.len() {
            if Some(index) != self.index {
                bytes.extend(self.directory.raw(index));
            }
        }
        let mut dropped: Vec<u64> = self.directory.clusters(cluster).collect();
        if let Some(entry) = self.index.and_then(|n| self.directory.list.get(n)) {
            dropped.extend(clusters_of(&self.change.node, entry)?);
        }
        for number in dropped {
            self.change.refcounts.drop_reference(number);
        }
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
        let extension = self.extension(place, bytes.len())?;
        if !bytes.is_empty() {
            out.push(self.change.write(place, MetadataKind::Bitmap, bytes));
        }
        // Everything new is durable before the header, which may say now where the refcount
        // table went, leads there.
        self.change.publish(Vec::new(), out)?;
        let node = &self.change.node;
        let steps = bitmap_head::switch(node.id, &mut self.change.head.lock(), extension)
            .map_err(|e| node.blame(e))?;
        steps.into_iter().for_each(|step| out.push(step));
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
