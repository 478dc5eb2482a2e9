//! Writing a flow into a qcow2 image.
//!
//! The order that keeps every crash state sound, window by window: data, refcount blocks and
//! tables that nothing points at yet; a sync; entries of the refcount table, if any, and a
//! sync; then the L2 and L1 entries. The next window's data may be written along with these,
//! and refcounts go down one window later.

mod cluster;

use super::bitmaps::{Bitmaps, usable};
use super::data_file::DataFile;
use super::l1_window::MetadataClusters;
use super::link::{HeadCell, header_write};
use super::sink::{Manner, Sink};
use super::tables::Tables;
use super::{Preallocation, Refcounts, Step, StepQueue, repair};
use crate::chain::Node;
use crate::error::Result;
use backchain_format::HostOffset;
use backchain_format::qcow2::{L2Layout, Version, incompatible};
use std::sync::Arc;

/// The state of a qcow2 target while a plan changes it.
pub(crate) struct Qcow2Target {
    node: Arc<Node>,
    pub(super) sink: Sink,
    pub(super) head: HeadCell,
    v3: bool,
    pub(super) layout: L2Layout,
    pub(super) tables: Tables,
    pub(super) refcounts: Refcounts,
    durable: bool,
    /// Where guest data is, when not in the image's own file.
    pub(super) data: Option<DataFile>,
    /// Bitmaps that record what changes; none when the guest view stays the same.
    bitmaps: Option<Bitmaps>,
    /// Host clusters that guest data must not be written over, whatever an L2 entry says.
    metadata: MetadataClusters,
    /// What is written is marked in the bitmaps.
    marking: bool,
    /// How new clusters of zeros get a place of their own.
    preallocation: Preallocation,
    /// References removed by steps that are written but not synced.
    removed: Vec<u64>,
    pub(super) moved: u64,
    file_end: u64,
    /// Packed bytes to be written, and where to.
    packed: Option<(HostOffset, Vec<u8>)>,
}

impl Qcow2Target {
    /// `durable`: sync between windows; not needed for a file that the plan makes.
    pub(crate) fn new(node: &Arc<Node>, head: HeadCell, durable: bool) -> Result<Self> {
        let header = head.lock().header.clone();
        let tables = Tables::new(node, &header);
        let mut refcounts = Refcounts::new(node, &header)?;
        if header.has(incompatible::DIRTY) {
            repair::correct(node, &mut refcounts)?;
        }
        let mut metadata = MetadataClusters::default();
        tables.own_clusters(&mut metadata)?;
        refcounts.own_clusters().for_each(|n| metadata.add(n));
        metadata.add(0);
        if let Some(image) = node.image()?.as_qcow2() {
            metadata.add_range(image.crypto_clusters()?);
        }
        metadata.sort();
        Ok(Self {
            sink: Sink::of(node)?,
            tables,
            refcounts,
            metadata,
            layout: header.l2_layout(),
            v3: header.version == Version::V3,
            head,
            durable,
            data: DataFile::of(node),
            bitmaps: None,
            marking: true,
            preallocation: Preallocation::Off,
            removed: Vec::new(),
            moved: 0,
            file_end: node.source.len(),
            node: Arc::clone(node),
            packed: None,
        })
    }

    /// What is written now is what the bitmaps count from: they do not record it.
    pub(crate) fn unrecorded(mut self) -> Self {
        self.marking = false;
        self
    }

    /// Stores things in another manner.
    pub(crate) fn in_manner(mut self, manner: Manner) -> Self {
        self.sink.manner = manner;
        self
    }

    /// Records in the image's bitmaps what changes.
    pub(crate) fn recording(mut self) -> Result<Self> {
        self.bitmaps = Some(Bitmaps::new(&self.node)?).filter(|b| !b.is_empty());
        Ok(self)
    }

    /// For a disk that grows: its bitmaps grow with it, and nothing counts as written. Every
    /// cluster that the flow adds gets a place, and blocks of the disk, if so asked.
    pub(crate) fn growing(mut self, preallocation: Preallocation) -> Result<Self> {
        self.preallocation = preallocation;
        self.marking = false;
        self.recording()
    }

    /// What comes before the first change.
    pub(super) fn begin(&mut self, size: Option<u64>, out: &mut StepQueue) -> Result<()> {
        if self.head.lock().header.has(incompatible::DIRTY) {
            // The corrected refcounts are written with this window, the header without the bit
            // behind them.
            self.head.lock().header.incompatible &= !incompatible::DIRTY;
            self.flush(out, true, Vec::new())?;
            self.sync(out);
        }
        if let Some(bitmaps) = &self.bitmaps {
            bitmaps.begin(out);
        }
        match size {
            Some(size) => {
                if let Some(data) = &mut self.data {
                    data.grow(size, out);
                }
                self.grow_l1(size, out)
            }
            None => Ok(()),
        }
    }

    /// Makes the L1 table long enough for a disk of `size` bytes; the size itself is changed
    /// last, by [`Self::finish`].
    fn grow_l1(&mut self, size: u64, out: &mut StepQueue) -> Result<()> {
        let (needed, old_at, old_entries) = {
            let header = &self.head.lock().header;
            (
                header.l1_entries_for(size),
                header.l1_table,
                u64::from(header.l1_entries),
            )
        };
        if needed <= old_entries {
            return Ok(());
        }
        let clusters = self.layout.cluster.clusters(needed * 8);
        let at = self.refcounts.allocate(clusters)?;
        let blank = self.refcounts.is_blank(at);
        self.tables.move_l1(at, needed, blank, out);
        {
            let header = &mut self.head.lock().header;
            header.l1_table = at;
            header.l1_entries = u32::try_from(needed).unwrap_or(u32::MAX);
        }
        let first = old_at.0 >> self.layout.cluster.bits();
        for cluster in 0..self.layout.cluster.clusters(old_entries * 8) {
            self.refcounts.drop_reference(first + cluster);
        }
        self.flush(out, true, Vec::new())
    }

    /// Merges all bitmaps of `from` into those of the same name, which are made where there are
    /// none. `size`: the disk's bytes afterwards. A bitmap that was not saved properly is an
    /// error; or, with `skip`, it is left out and its name goes to `skipped`.
    pub(crate) fn with_bitmaps_of(
        mut self,
        from: &Node,
        size: u64,
        skip: bool,
        skipped: &mut Vec<String>,
    ) -> Result<Self> {
        let list = usable(from, skip, skipped)?;
        if list.is_empty() {
            return Ok(self);
        }
        let mut bitmaps = match self.bitmaps.take() {
            Some(bitmaps) => bitmaps,
            None => Bitmaps::new(&self.node)?,
        };
        for entry in list {
            if !bitmaps.merge(from, &entry, size)? {
                skipped.push(entry.name);
            }
        }
        self.bitmaps = Some(bitmaps);
        Ok(self)
    }

    /// Writes some of the bitmaps' bits; false when there are no more.
    pub(super) fn store_bitmaps(&mut self, size: Option<u64>, out: &mut StepQueue) -> Result<bool> {
        let size = size.unwrap_or(0).max(self.head.lock().header.size);
        match &mut self.bitmaps {
            Some(bitmaps) => bitmaps.store(size, &mut self.refcounts, out),
            None => Ok(false),
        }
    }

    /// Writes the header with a new virtual size when it grew.
    pub(crate) fn finish(&mut self, size: Option<u64>, out: &mut StepQueue) -> Result<()> {
        let old_size = self.head.lock().header.size;
        let mut tables = Vec::new();
        while self.store_bitmaps(size, out)? {}
        if let Some(bitmaps) = &mut self.bitmaps {
            tables = bitmaps.stored(&mut self.refcounts, out)?;
        }
        self.flush(out, false, tables)?;
        if let Some(data) = &mut self.data {
            data.sync(out);
        }
        if let Some(size) = size.filter(|&size| size > old_size) {
            self.sync(out);
            self.head.lock().header.size = size;
            out.push(self.header_write());
        }
        if self.bitmaps.is_some() {
            self.sync(out);
        }
        if let Some(bitmaps) = &self.bitmaps {
            bitmaps.finish(&self.head, out)?;
        }
        while !self.removed.is_empty() || self.refcounts.has_droppable() {
            self.sync(out);
            self.refcounts
                .references_removed(std::mem::take(&mut self.removed));
            self.refcounts.flush_blocks(out)?;
        }
        while self.data.as_ref().is_some_and(DataFile::has_freed) {
            self.sync(out);
            if let Some(data) = &mut self.data {
                data.window_done(out);
            }
        }
        Ok(())
    }

    fn header_write(&self) -> Step {
        header_write(self.node.id, &self.head.lock())
    }

    fn sync(&mut self, out: &mut StepQueue) {
        if self.durable {
            if let Some(data) = &mut self.data {
                data.sync(out);
            }
            out.push(Step::Sync { node: self.node.id });
        }
    }

    /// Ends a window. `more` and, with `header`, the header are written along with the tables
    /// that make new data reachable.
    pub(super) fn flush(
        &mut self,
        out: &mut StepQueue,
        header: bool,
        more: Vec<Step>,
    ) -> Result<()> {
        self.moved = 0;
        self.flush_packed(out);
        let mut later = self.tables.flush_new(out);
        later.extend(more);
        let dropped = self.refcounts.take_dropped();
        let counted = self.refcounts.flush_blocks(out)?;
        let linked = header || !later.is_empty() || !dropped.is_empty();
        if !counted && !linked && !self.refcounts.table_dirty() {
            return Ok(());
        }
        let end = self.refcounts.end();
        if end > self.file_end {
            self.file_end = end;
            out.push(Step::SetLen {
                to: self.node.id,
                len: end,
            });
        }
        self.sync(out);
        // Whatever was removed by the window before is durable now.
        let durable = std::mem::replace(&mut self.removed, dropped);
        self.refcounts.references_removed(durable);
        if let Some(data) = &mut self.data {
            data.window_done(out);
        }
        if self.refcounts.table_dirty() {
            if self.refcounts.flush_table(out) {
                let (at, clusters) = self.refcounts.table();
                {
                    let header = &mut self.head.lock().header;
                    header.refcount_table = at;
                    header.refcount_table_clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
                }
                out.push(self.header_write());
            }
            self.sync(out);
        }
        later.into_iter().for_each(|step| out.push(step));
        if header {
            out.push(self.header_write());
        }
        Ok(())
    }
}
