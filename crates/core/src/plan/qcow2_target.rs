//! Writing a flow into a qcow2 image.
//!
//! The order that keeps every crash state sound, window by window: data, refcount blocks and
//! tables that nothing points at yet; a sync; entries of the refcount table, if any, and a
//! sync; then the L2 and L1 entries. The next window's data may be written along with these,
//! and refcounts go down one window later.

use super::bitmaps::{Bitmaps, usable};
use super::data_file::DataFile;
use super::flow::{Flow, Piece};
use super::granules::{State, Subs};
use super::link::{HeadCell, header_write};
use super::sink::Sink;
use super::tables::Tables;
use super::{MetadataKind, Refcounts, Stage, Step, StepQueue, repair};
use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::qcow2::{L2Entry, L2Layout, Version, incompatible};
use std::collections::HashSet;
use std::sync::Arc;

/// Clusters looked at before steps are handed on.
const BATCH: u32 = 1024;

/// The state of a qcow2 target while a plan changes it.
pub(crate) struct Qcow2Target {
    node: Arc<Node>,
    sink: Sink,
    head: HeadCell,
    v3: bool,
    layout: L2Layout,
    pub(super) tables: Tables,
    pub(super) refcounts: Refcounts,
    durable: bool,
    /// Where guest data is, when not in the image's own file.
    data: Option<DataFile>,
    /// Bitmaps that record what changes; none when the guest view stays the same.
    bitmaps: Option<Bitmaps>,
    /// Host clusters that guest data must not be written over, whatever an L2 entry says.
    metadata: HashSet<u64>,
    /// References removed by steps that are written but not synced.
    removed: Vec<u64>,
    moved: u64,
    file_end: u64,
}

impl Qcow2Target {
    /// `durable`: sync between windows; not needed for a file that the plan makes.
    pub(crate) fn new(node: &Arc<Node>, head: HeadCell, durable: bool) -> Result<Self> {
        let header = head.lock().header.clone();
        let tables = Tables::new(node, &header)?;
        let mut refcounts = Refcounts::new(node, &header)?;
        if header.has(incompatible::DIRTY) {
            repair::correct(node, &mut refcounts)?;
        }
        let mut metadata: HashSet<u64> = tables.own_clusters().collect();
        metadata.extend(refcounts.own_clusters());
        metadata.insert(0);
        if let Some(image) = node.image()?.as_qcow2() {
            metadata.extend(image.crypto_clusters()?);
        }
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
            removed: Vec::new(),
            moved: 0,
            file_end: node.source.len(),
            node: Arc::clone(node),
        })
    }

    /// Records in the image's bitmaps what changes.
    pub(crate) fn recording(mut self) -> Result<Self> {
        self.bitmaps = Some(Bitmaps::new(&self.node)?).filter(|b| !b.is_empty());
        Ok(self)
    }

    /// What comes before the first change.
    fn begin(&mut self, size: Option<u64>, out: &mut StepQueue) -> Result<()> {
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
        let bytes = self.tables.move_l1(at, needed);
        out.push(Step::Write {
            to: self.node.id,
            dst: at,
            kind: MetadataKind::L1,
            bytes,
        });
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
    fn store_bitmaps(&mut self, size: Option<u64>, out: &mut StepQueue) -> Result<bool> {
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
    fn flush(&mut self, out: &mut StepQueue, header: bool, more: Vec<Step>) -> Result<()> {
        self.moved = 0;
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

    /// Brings one cluster up to what its pieces say. They cover the cluster, up to the end of
    /// the disk.
    fn cluster(&mut self, number: u64, pieces: &[Piece], out: &mut StepQueue) -> Result<()> {
        if let Some(bitmaps) = &mut self.bitmaps {
            for piece in pieces.iter().filter(|p| p.changed) {
                bitmaps.mark(piece.start, piece.len)?;
            }
        }
        let entry = self.tables.get(number)?;
        let before = State::of(entry, self.layout);
        let mut state = before.clone();
        if self.data.is_none()
            && let Some(host) = state.host
            && !(entry.copied || self.refcounts.is_sole(host)?)
        {
            state.shared = true;
        }
        if self.data.is_none()
            && let Some(host) = state.host
            && self
                .metadata
                .contains(&(host.0 >> self.layout.cluster.bits()))
        {
            let message =
                format!("guest cluster {number} is mapped to the image's own metadata at {host}");
            return Err(Error::new(ErrorKind::Corrupt, message).about(&self.node.name));
        }
        let rewrite = state.shared || state.packed.is_some();
        let start = number << self.layout.cluster.bits();
        let subs = Subs::new(start, self.layout, pieces);
        if rewrite {
            // What is behind the end of the disk is not copied.
            state.allocated &= subs.mask();
        }

        // What each granule needs, before any host cluster is taken.
        let mut write = Vec::new();
        for (index, parts) in subs.iter() {
            let bit = 1u32 << index;
            let touched = parts.iter().any(|p| p.changed);
            let data = state.allocated & bit != 0;
            if !(touched || rewrite && data) {
                continue;
            }
            if parts.iter().all(Piece::is_zero) {
                let absent = !data && state.zero & bit == 0;
                if state.zero & bit != 0 || absent && parts.iter().all(|p| p.under_zero) {
                    continue;
                }
                if self.v3 {
                    if let Some(file) = self.data.as_mut().filter(|file| file.raw) {
                        file.zero(parts, out);
                    }
                    state.allocated &= !bit;
                    state.zero |= bit;
                    continue;
                }
                if parts.iter().all(|p| p.under_zero) {
                    state.allocated &= !bit;
                    continue;
                }
            }
            write.push((bit, data && !rewrite, parts));
        }

        let fresh = !write.is_empty() && (rewrite || state.host.is_none());
        if fresh {
            state.host = Some(match self.data {
                Some(_) => HostOffset(start),
                None => self.refcounts.allocate(1)?,
            });
        }
        for (bit, in_place, parts) in write {
            state.allocated |= bit;
            state.zero &= !bit;
            let Some(host) = state.host else { continue };
            let wanted = parts.iter().filter(|p| p.changed || !in_place);
            // The rest of an encrypted granule must read as zeros once the disk grows.
            let end = start + (u64::from(bit.trailing_zeros()) + 1) * self.layout.granule();
            let end = (!in_place && self.data.is_none()).then_some(end);
            for piece in self.sink.sectors(wanted.cloned().collect(), end)? {
                let dst = host.plus(piece.start - start);
                self.moved += piece.len;
                let zeros = match &mut self.data {
                    None => fresh,
                    Some(data) => {
                        data.touch();
                        data.is_fresh(dst)
                    }
                };
                if let Some(step) = self.sink.store(&piece, dst, zeros)? {
                    out.push(step);
                }
            }
        }
        self.replace(number, entry, &before, state, fresh)
    }

    /// Stores the new entry and drops what the old one referred to.
    fn replace(
        &mut self,
        number: u64,
        old: L2Entry,
        before: &State,
        mut state: State,
        fresh: bool,
    ) -> Result<()> {
        if state == *before && !fresh {
            return Ok(());
        }
        let bits = self.layout.cluster.bits();
        let counted = self.data.is_none();
        if state.allocated == 0 && !before.is_kept_by(&state) {
            state.host = None;
        }
        if counted && (fresh || state.host.is_none()) {
            if let Some(host) = before.host {
                self.refcounts.drop_reference(host.0 >> bits);
            }
            if let Some(packed) = before.packed {
                let (first, last) = packed.host_clusters(self.layout.cluster);
                for cluster in first.0 >> bits..=last.0 >> bits {
                    self.refcounts.drop_reference(cluster);
                }
            }
        }
        let copied = state.host.is_some() && (fresh || old.copied || !state.shared);
        let entry = state.entry(self.layout, copied);
        self.tables.set(number, entry, &mut self.refcounts)
    }
}

/// The stage that writes a flow into a qcow2 target.
pub(crate) struct Qcow2Stage {
    target: Qcow2Target,
    flow: Flow,
    pos: u64,
    /// The disk is to have this size afterwards.
    size: Option<u64>,
    started: bool,
    seal: Vec<Step>,
}

impl Qcow2Stage {
    /// `size`: what the target is to grow to; `seal`: steps at the end.
    pub(crate) fn new(target: Qcow2Target, flow: Flow, size: Option<u64>, seal: Vec<Step>) -> Self {
        Self {
            target,
            flow,
            pos: 0,
            size,
            started: false,
            seal,
        }
    }

    /// The pieces of the cluster at the current position; `None` at the end. Clusters without a
    /// changed piece are skipped.
    fn next_cluster(&mut self) -> Result<Option<(u64, Vec<Piece>)>> {
        let cluster = self.target.layout.cluster;
        loop {
            let first = cluster.align_down(self.pos);
            let end = first.saturating_add(cluster.bytes());
            let mut pieces = Vec::new();
            let mut pos = first;
            while pos < end
                && let Some(piece) = self.flow.at(pos)?
            {
                if pieces.is_empty() && !piece.changed && piece.end() >= end {
                    // A long unchanged piece: go on with the cluster it ends in.
                    pos = cluster.align_down(piece.end());
                    break;
                }
                let piece = piece.slice(pos, end - pos);
                pos = piece.end();
                pieces.push(piece);
            }
            if pos == first {
                return Ok(None);
            }
            self.pos = pos.max(if pieces.is_empty() { pos } else { end });
            if pieces.iter().any(|p| p.changed) {
                return Ok(Some((first >> cluster.bits(), pieces)));
            }
        }
    }
}

impl Stage for Qcow2Stage {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        if !std::mem::replace(&mut self.started, true) {
            self.target.begin(self.size, out)?;
        }
        for _ in 0..BATCH {
            let Some((number, pieces)) = self.next_cluster()? else {
                if self.target.store_bitmaps(self.size, out)? {
                    return Ok(true);
                }
                self.target.finish(self.size, out)?;
                if let Some(data) = &self.target.data {
                    out.push(Step::Seal { node: data.id });
                }
                self.seal.drain(..).for_each(|step| out.push(step));
                return Ok(false);
            };
            self.target.cluster(number, &pieces, out)?;
            let window = out.window;
            if self.target.moved >= window.bytes || self.target.tables.waiting() >= window.tables {
                self.target.flush(out, false, Vec::new())?;
            }
        }
        Ok(true)
    }

    fn progress(&self) -> (u64, u64) {
        (self.pos.min(self.flow.size()), self.flow.size())
    }
}
