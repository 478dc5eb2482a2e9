//! Writing a flow into a qcow2 image.
//!
//! The order that keeps every crash state sound, window by window: data, refcount blocks and
//! tables that nothing points at yet; a sync; entries of the refcount table, if any, and a
//! sync; then the L2 and L1 entries. The next window's data may be written along with these,
//! and refcounts go down one window later.

use super::bitmaps::{Bitmaps, usable};
use super::data_file::DataFile;
use super::flow::Piece;
use super::granules::{State, Subs};
use super::l1_window::MetadataClusters;
use super::link::{HeadCell, header_write};
use super::sink::{Manner, Sink};
use super::tables::Tables;
use super::{MetadataKind, Preallocation, Refcounts, Step, StepQueue, repair};
use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{
    CompressedCluster, L2Entry, L2Kind, L2Layout, Subclusters, Version, incompatible,
};
use std::sync::Arc;

/// Packed bytes that lie one behind the other are written together, so many at most.
const MAX_PACKED: u64 = 1 << 20;

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

    /// Brings one cluster up to what its pieces say. They cover the cluster, up to the end of
    /// the disk.
    pub(super) fn cluster(
        &mut self,
        number: u64,
        pieces: &[Piece],
        out: &mut StepQueue,
    ) -> Result<()> {
        self.mark(pieces)?;
        let entry = self.tables.get(number)?;
        let added = |p: &Piece| p.changed && p.is_zero();
        if self.preallocation != Preallocation::Off
            && (self.v3 || !self.sink.is_encrypted())
            && entry == L2Entry::UNALLOCATED
            && pieces.iter().all(added)
        {
            return self.preallocate(number, pieces, out);
        }
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
            && self.metadata.contains(host.0 >> self.layout.cluster.bits())
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
            if parts.iter().all(Piece::is_zero) && !self.sink.manner.solid {
                let absent = !data && state.zero & bit == 0;
                let implied = absent && !(self.v3 && self.sink.manner.explicit_zeros);
                if state.zero & bit != 0 || implied && parts.iter().all(|p| p.under_zero) {
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
                None => self.refcounts.allocate_data(&self.metadata)?,
            });
        }
        let blank = fresh && state.host.is_some_and(|host| self.refcounts.is_blank(host));
        for (bit, in_place, parts) in write {
            state.allocated |= bit;
            state.zero &= !bit;
            if fresh && !blank && self.data.is_none() && !self.sink.is_encrypted() {
                let rest = self.old_rest(state.host, start, parts);
                rest.into_iter().for_each(|step| out.push(step));
            }
            let Some(host) = state.host else { continue };
            let wanted = parts.iter().filter(|p| p.changed || !in_place);
            // The rest of an encrypted granule must read as zeros once the disk grows.
            let end = start + (u64::from(bit.trailing_zeros()) + 1) * self.layout.granule();
            let end = (!in_place && self.data.is_none()).then_some(end);
            for piece in self.sink.sectors(wanted.cloned().collect(), end)? {
                let dst = host.plus(piece.start - start);
                self.moved += piece.len;
                let zeros = match &mut self.data {
                    None => blank,
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

    /// What was in a granule before it was free must not show when the disk grows: zeros behind
    /// the last of its `parts`. `start`: of the cluster, which lies at `host` now.
    fn old_rest(&self, host: Option<HostOffset>, start: u64, parts: &[Piece]) -> Option<Step> {
        let (host, end) = (host?, parts.last()?.end());
        let granule = self.layout.granule();
        let len = (granule - end % granule) % granule;
        (len > 0).then(|| Step::Zero {
            to: self.node.id,
            dst: host.plus(end - start),
            len,
        })
    }

    /// Gives a cluster of zeros its place in the file. Where a backing file would show, the entry
    /// says zero as well, unless zeros are written or version 2 has no such entries. Subclusters
    /// are not allocated.
    fn preallocate(&mut self, number: u64, pieces: &[Piece], out: &mut StepQueue) -> Result<()> {
        let start = number << self.layout.cluster.bits();
        // The table first, so that the clusters it maps lie in a row.
        self.tables
            .set(number, L2Entry::UNALLOCATED, &mut self.refcounts)?;
        let (to, host) = match &mut self.data {
            Some(data) => {
                data.touch();
                (data.id, HostOffset(start))
            }
            // Behind the end of the file, where there are only zeros.
            None => (self.node.id, self.refcounts.allocate(1)?),
        };
        let all = if self.layout.extended { u32::MAX } else { 1 };
        // Zeros are not zeros when they are decrypted.
        let shows = self.sink.is_encrypted() || !pieces.iter().all(|p| p.under_zero);
        let write = self.preallocation == Preallocation::Full && !self.sink.is_encrypted();
        let zero = self.v3 && shows && !write;
        let state = State {
            host: Some(host),
            packed: None,
            allocated: if zero || self.layout.extended && !shows {
                0
            } else {
                all
            },
            zero: if zero { all } else { 0 },
            shared: false,
        };
        if write || self.preallocation == Preallocation::Falloc {
            let len = pieces.iter().map(|p| p.len).sum();
            self.moved += len;
            out.push(Step::Allocate {
                to,
                dst: host,
                len,
                write,
            });
        }
        let entry = state.entry(self.layout, true);
        self.tables.set(number, entry, &mut self.refcounts)
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
        if state.allocated == 0 && !before.is_kept_by(&state) {
            state.host = None;
        }
        if let Some(data) = &mut self.data
            && before.host.is_some()
            && state.host.is_none()
            && !data.raw
        {
            let bits = self.layout.cluster.bits();
            data.free(number << bits, 1 << bits);
        }
        if fresh || state.host.is_none() {
            self.drop_old(before);
        }
        let copied = state.host.is_some() && (fresh || old.copied || !state.shared);
        let entry = state.entry(self.layout, copied);
        self.tables.set(number, entry, &mut self.refcounts)
    }

    /// Drops the references of an entry that is replaced.
    fn drop_old(&mut self, before: &State) {
        if self.data.is_some() {
            // The clusters of a data file are not counted.
            return;
        }
        let bits = self.layout.cluster.bits();
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

    fn mark(&mut self, pieces: &[Piece]) -> Result<()> {
        let Some(bitmaps) = self.bitmaps.as_mut().filter(|_| self.marking) else {
            return Ok(());
        };
        for piece in pieces.iter().filter(|p| p.changed) {
            bitmaps.mark(piece.start, piece.len)?;
        }
        Ok(())
    }

    /// Whether a cluster may be packed: it is where all of it has to be written, and not where
    /// parts of it are here already.
    pub(super) fn may_pack(&mut self, number: u64, pieces: &[Piece]) -> Result<bool> {
        let before = State::of(self.tables.get(number)?, self.layout);
        let is_whole = before.host.is_none() || pieces.iter().all(|piece| piece.changed);
        let has_data = pieces.iter().any(|piece| !piece.is_zero());
        let may = self.data.is_none() && !self.sink.is_encrypted();
        Ok(may && is_whole && (has_data || self.sink.manner.solid))
    }

    /// Puts a packed cluster into the image.
    pub(super) fn store_packed(
        &mut self,
        number: u64,
        pieces: &[Piece],
        bytes: &[u8],
        out: &mut StepQueue,
    ) -> Result<()> {
        self.mark(pieces)?;
        let before = State::of(self.tables.get(number)?, self.layout);
        let len = to_u64(bytes.len());
        let host = self.refcounts.allocate_bytes(len)?;
        self.moved += len;
        let joins = self.packed.as_ref().is_some_and(|(at, waiting)| {
            let held = to_u64(waiting.len());
            at.plus(held) == host && held + len <= MAX_PACKED
        });
        if !joins {
            self.flush_packed(out);
        }
        let (_, waiting) = self.packed.get_or_insert_with(|| (host, Vec::new()));
        waiting.extend_from_slice(bytes);
        self.drop_old(&before);
        let entry = L2Entry {
            kind: L2Kind::Compressed(CompressedCluster { host, len }),
            copied: false,
            subclusters: Subclusters::default(),
        };
        self.tables.set(number, entry, &mut self.refcounts)
    }

    fn flush_packed(&mut self, out: &mut StepQueue) {
        if let Some((dst, bytes)) = self.packed.take() {
            out.push(Step::Write {
                to: self.node.id,
                dst,
                kind: MetadataKind::Packed,
                bytes,
            });
        }
    }
}
