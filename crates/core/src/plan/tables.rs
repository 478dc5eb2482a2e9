//! L1 and L2 tables of a target, as the plan changes them.
//!
//! Changes come in guest order, so one slice of one L2 table is open at a time; finished ones
//! wait for the end of the window.

use super::l1_window::{L1Window, MetadataClusters};
use super::{MetadataKind, Refcounts, Step, StepQueue};
use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::source::read_padded;
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{Header, L1Entry, L2Entry, L2Layout};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of an L2 table handled at once.
const SLICE: u64 = 64 << 10;

pub(crate) struct Tables {
    node: Arc<Node>,
    layout: L2Layout,
    l1: L1Window,
    /// L1 indices of the tables that are not linked durably yet.
    new_tables: BTreeSet<u64>,
    /// The last table that was made: changes come in guest order, so only this one is met again.
    last_made: Option<u64>,
    open: Option<Slice>,
    done: Vec<Slice>,
}

/// A part of an L2 table in memory; all of it for a table that is copied.
struct Slice {
    /// Which part of the disk's entries: entry index of the first one.
    first: u64,
    l1_index: u64,
    at: HostOffset,
    bytes: Vec<u8>,
    /// Changed bytes.
    dirty: Range<usize>,
}

impl Tables {
    pub(crate) fn new(node: &Arc<Node>, header: &Header) -> Self {
        Self {
            node: Arc::clone(node),
            layout: header.l2_layout(),
            l1: L1Window::new(node, header.l1_table, u64::from(header.l1_entries)),
            new_tables: BTreeSet::new(),
            last_made: None,
            open: None,
            done: Vec::new(),
        }
    }

    /// Makes room for `entries` L1 entries at a new place, which reads as zeros when `zeroed`;
    /// before anything is changed, and before the header points there.
    pub(crate) fn move_l1(
        &mut self,
        to: HostOffset,
        entries: u64,
        zeroed: bool,
        out: &mut StepQueue,
    ) {
        let (src, len) = self.l1.origin();
        let node = self.node.id;
        if len > 0 {
            out.push(Step::Copy {
                from: node,
                src,
                to: node,
                dst: to,
                len,
                sparse: zeroed,
            });
        }
        let rest = (entries * L1Entry::LEN).saturating_sub(len);
        if rest > 0 && !zeroed {
            out.push(Step::Zero {
                to: node,
                dst: to.plus(len),
                len: rest,
            });
        }
        self.l1.move_to(to, entries);
    }

    /// Adds the host clusters that hold the L1 table and the L2 tables.
    pub(crate) fn own_clusters(&self, clusters: &mut MetadataClusters) -> Result<()> {
        let (cluster, (at, len)) = (self.layout.cluster, self.l1.origin());
        let first = at.0 >> cluster.bits();
        clusters.add_range(first..first + cluster.clusters(len));
        self.l1
            .each_table(&mut |table| clusters.add(table.0 >> cluster.bits()))
    }

    /// Bytes of changed tables waiting to be written.
    pub(crate) fn waiting(&self) -> u64 {
        let done: u64 = self.done.iter().map(|s| to_u64(s.bytes.len())).sum();
        done + self.l1.waiting()
    }

    fn entries_per_slice(&self) -> u64 {
        SLICE.min(self.layout.cluster.bytes()) / self.layout.entry_len()
    }

    fn l1_entry(&mut self, index: u64) -> Result<L1Entry> {
        let at = self.l1.at().0 + index * L1Entry::LEN;
        let Some(bits) = self.l1.get(index)? else {
            return Err(self.corrupt(format!("the L1 table has no entry {index}")));
        };
        let entry = L1Entry::from_bits(bits, at).map_err(|e| self.node.blame(e))?;
        if let Some(table) = entry.table
            && self.last_made != Some(index)
            && (!self.layout.cluster.is_aligned(table.0) || table.0 >= self.node.source.len())
        {
            return Err(self.corrupt(format!(
                "L2 table {index} at {table} is misplaced (byte {at})"
            )));
        }
        Ok(entry)
    }

    fn corrupt(&self, message: String) -> Error {
        Error::new(ErrorKind::Corrupt, message).about(&self.node.name)
    }

    /// Opens the slice with guest cluster `cluster`. False when its table does not exist.
    fn open(&mut self, cluster: u64) -> Result<bool> {
        let per = self.entries_per_slice();
        let first = cluster / per * per;
        let here = |s: &Slice| {
            let len = to_u64(s.bytes.len()) / self.layout.entry_len();
            (s.first..s.first + len).contains(&cluster)
        };
        if self.open.as_ref().is_some_and(here) {
            return Ok(true);
        }
        self.close();
        let l1_index = cluster / self.layout.entries();
        let Some(table) = self.l1_entry(l1_index)?.table else {
            return Ok(false);
        };
        let at = table.plus(first % self.layout.entries() * self.layout.entry_len());
        let mut bytes = vec![0; to_usize(per * self.layout.entry_len())];
        // A table made by this plan lies behind the end of the file: zeros.
        read_padded(self.node.source.as_ref(), at.0, &mut bytes).map_err(|e| self.node.blame(e))?;
        self.open = Some(Slice {
            first,
            l1_index,
            at,
            bytes,
            dirty: 0..0,
        });
        Ok(true)
    }

    fn close(&mut self) {
        if let Some(slice) = self.open.take()
            && slice.dirty.start != slice.dirty.end
        {
            self.done.push(slice);
        }
    }

    /// The entry of guest cluster number `cluster`.
    pub(crate) fn get(&mut self, cluster: u64) -> Result<L2Entry> {
        if !self.open(cluster)? {
            return Ok(L2Entry::UNALLOCATED);
        }
        let layout = self.layout;
        let Some(slice) = &self.open else {
            return Ok(L2Entry::UNALLOCATED);
        };
        let at = to_usize((cluster - slice.first) * layout.entry_len());
        let bits = be64(&slice.bytes, at).unwrap_or(0);
        let bitmap = if layout.extended {
            be64(&slice.bytes, at + 8).unwrap_or(0)
        } else {
            0
        };
        let guest = cluster << layout.cluster.bits();
        let entry = L2Entry::from_bits(bits, bitmap, layout);
        let defect = L2Entry::defect(bits, bitmap, layout);
        match defect.or_else(|| entry.misplaced(guest, layout)) {
            Some(defect) => Err(self.corrupt(format!(
                "L2 entry {bits:#x} for guest offset {guest:#x}: {defect}"
            ))),
            None => Ok(entry),
        }
    }

    /// Changes the entry of guest cluster number `cluster`, making its table when there is none.
    pub(crate) fn set(
        &mut self,
        cluster: u64,
        entry: L2Entry,
        refcounts: &mut Refcounts,
    ) -> Result<()> {
        let l1_index = cluster / self.layout.entries();
        let old = self.l1_entry(l1_index)?;
        match old.table {
            None => {
                self.make(l1_index, refcounts)?;
            }
            // An internal snapshot has the table too: it keeps the old one.
            Some(table) if !old.copied && refcounts.get(self.number(table))? > 1 => {
                self.close();
                let at = self.make(l1_index, refcounts)?;
                refcounts.drop_reference(self.number(table));
                let mut bytes = vec![0; to_usize(self.layout.cluster.bytes())];
                read_padded(self.node.source.as_ref(), table.0, &mut bytes)
                    .map_err(|e| self.node.blame(e))?;
                let first = l1_index * self.layout.entries();
                let dirty = 0..bytes.len();
                self.open = Some(Slice {
                    first,
                    l1_index,
                    at,
                    bytes,
                    dirty,
                });
            }
            Some(_) => {}
        }
        self.open(cluster)?;
        let layout = self.layout;
        let Some((bits, bitmap)) = entry.to_bits(layout) else {
            return Err(self.corrupt("a compressed cluster does not fit its L2 entry".to_owned()));
        };
        if let Some(slice) = &mut self.open {
            let at = to_usize((cluster - slice.first) * layout.entry_len());
            let end = at + to_usize(layout.entry_len());
            let mut words = bits.to_be_bytes().to_vec();
            if layout.extended {
                words.extend(bitmap.to_be_bytes());
            }
            if let Some(target) = slice.bytes.get_mut(at..end) {
                target.copy_from_slice(&words);
            }
            let dirty = &mut slice.dirty;
            *dirty = if dirty.start == dirty.end {
                at..end
            } else {
                dirty.start.min(at)..dirty.end.max(end)
            };
        }
        Ok(())
    }

    /// Takes a cluster for a new table and links it in memory.
    fn make(&mut self, l1_index: u64, refcounts: &mut Refcounts) -> Result<HostOffset> {
        let table = refcounts.allocate(1)?;
        let entry = L1Entry {
            table: Some(table),
            copied: true,
        };
        self.l1.set(l1_index, entry.to_bits())?;
        self.new_tables.insert(l1_index);
        self.last_made = Some(l1_index);
        Ok(table)
    }

    fn number(&self, host: HostOffset) -> u64 {
        host.0 >> self.layout.cluster.bits()
    }

    /// Ends the window: writes the tables that nothing points at yet, and keeps the writes that
    /// make references for [`Self::flush_references`].
    pub(crate) fn flush_new(&mut self, out: &mut StepQueue) -> Vec<Step> {
        if let Some(open) = &mut self.open
            && open.dirty.start != open.dirty.end
        {
            let dirty = std::mem::replace(&mut open.dirty, 0..0);
            let slice = Slice {
                bytes: open.bytes.clone(),
                dirty,
                ..*open
            };
            self.done.push(slice);
        }
        let mut later = Vec::new();
        for slice in std::mem::take(&mut self.done) {
            let bytes = slice
                .bytes
                .get(slice.dirty.clone())
                .unwrap_or_default()
                .to_vec();
            let dst = slice.at.plus(to_u64(slice.dirty.start));
            let step = Step::Write {
                to: self.node.id,
                dst,
                kind: MetadataKind::L2,
                bytes,
            };
            if self.new_tables.contains(&slice.l1_index) {
                out.push(step)
            } else {
                later.push(step)
            }
        }
        self.new_tables.clear();
        for (dst, bytes) in self.l1.take_changes() {
            later.push(Step::Write {
                to: self.node.id,
                dst,
                kind: MetadataKind::L1,
                bytes,
            });
        }
        later
    }
}
