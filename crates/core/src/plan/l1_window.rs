//! The L1 table of a target, a few pages at a time: it may be as long as its file allows.

use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{ReadAt, read_padded};
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::L1Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Entries of a page.
const PAGE: u64 = 512;

/// Bytes read at once by [`L1Window::each_table`].
const PIECE: u64 = 1 << 20;

pub(super) struct L1Window {
    node: Arc<Node>,
    /// Where the table is in the file as it was opened, and its entries there.
    origin: (HostOffset, u64),
    /// Where it is by now, and its entries.
    at: HostOffset,
    entries: u64,
    /// Pages by number: those with changes and the last one looked at.
    pages: BTreeMap<u64, Vec<u64>>,
    dirty: BTreeSet<u64>,
    /// Pages whose changes are in the plan but not in memory any more. Changes come in guest
    /// order, so none is met again.
    written: BTreeSet<u64>,
}

impl L1Window {
    pub(super) fn new(node: &Arc<Node>, at: HostOffset, entries: u64) -> Self {
        Self {
            node: Arc::clone(node),
            origin: (at, entries),
            at,
            entries,
            pages: BTreeMap::new(),
            dirty: BTreeSet::new(),
            written: BTreeSet::new(),
        }
    }

    /// Where the table is by now.
    pub(super) fn at(&self) -> HostOffset {
        self.at
    }

    /// The table as it is in the file: where, and its bytes.
    pub(super) fn origin(&self) -> (HostOffset, u64) {
        (self.origin.0, self.origin.1 * L1Entry::LEN)
    }

    /// The table has `entries` entries at `at` from now on.
    pub(super) fn move_to(&mut self, at: HostOffset, entries: u64) {
        (self.at, self.entries) = (at, entries);
    }

    /// Bytes of the pages with changes.
    pub(super) fn waiting(&self) -> u64 {
        let pages = to_u64(self.pages.len());
        if self.dirty.is_empty() {
            0
        } else {
            pages * PAGE * L1Entry::LEN
        }
    }

    fn page(&mut self, number: u64) -> Result<&mut Vec<u64>> {
        if !self.pages.contains_key(&number) {
            if self.written.contains(&number) {
                let message = "L1 entries are not changed in guest order";
                return Err(Error::new(ErrorKind::Invalid, message).about(&self.node.name));
            }
            let dirty = &self.dirty;
            self.pages.retain(|page, _| {
                let entries = page * PAGE..(page + 1) * PAGE;
                dirty.range(entries).next().is_some()
            });
            let first = number * PAGE;
            let inside = self.origin.1.saturating_sub(first).min(PAGE);
            let mut bytes = vec![0; to_usize(inside * L1Entry::LEN)];
            let at = self.origin.0.0 + first * L1Entry::LEN;
            if inside > 0 {
                read_padded(self.node.source.as_ref(), at, &mut bytes)
                    .map_err(|e| self.node.blame(e))?;
            }
            let words = bytes.chunks_exact(8).map(|w| be64(w, 0).unwrap_or(0));
            let mut page: Vec<u64> = words.collect();
            page.resize(to_usize(PAGE), 0);
            self.pages.insert(number, page);
        }
        Ok(self.pages.entry(number).or_default())
    }

    /// The entry with this index; `None` behind the end.
    pub(super) fn get(&mut self, index: u64) -> Result<Option<u64>> {
        if index >= self.entries {
            return Ok(None);
        }
        let page = self.page(index / PAGE)?;
        Ok(page.get(to_usize(index % PAGE)).copied())
    }

    /// Changes the entry with this index.
    pub(super) fn set(&mut self, index: u64, bits: u64) -> Result<()> {
        if let Some(slot) = self.page(index / PAGE)?.get_mut(to_usize(index % PAGE)) {
            *slot = bits;
            self.dirty.insert(index);
        }
        Ok(())
    }

    /// What changed since the last call: byte offsets in the file, and bytes.
    pub(super) fn take_changes(&mut self) -> Vec<(HostOffset, Vec<u8>)> {
        let mut changes = Vec::new();
        for run in runs(&std::mem::take(&mut self.dirty)) {
            let mut bytes = Vec::new();
            for index in run.clone() {
                let page = self.pages.get(&(index / PAGE));
                let word = page.and_then(|page| page.get(to_usize(index % PAGE)));
                bytes.extend(word.copied().unwrap_or(0).to_be_bytes());
                self.written.insert(index / PAGE);
            }
            changes.push((self.at.plus(run.start * L1Entry::LEN), bytes));
        }
        // The last page is gone on with.
        while self.pages.len() > 1 {
            self.pages.pop_first();
        }
        changes
    }

    /// Calls `each` with the host offset of every L2 table that the file's L1 table names.
    pub(super) fn each_table(&self, each: &mut dyn FnMut(HostOffset)) -> Result<()> {
        let source = self.node.source.as_ref();
        let (start, end) = (self.origin.0.0, self.origin.0.0 + self.origin().1);
        let mut buffer = Vec::new();
        let mut at = start;
        while at < end {
            at = next_word(source, start, at).map_err(|e| self.node.blame(e))?;
            if at >= end {
                break;
            }
            buffer.resize(to_usize(PIECE.min(end - at)), 0);
            read_padded(source, at, &mut buffer).map_err(|e| self.node.blame(e))?;
            for word in buffer.chunks_exact(8) {
                let entry = L1Entry::from_bits(be64(word, 0).unwrap_or(0), 0).ok();
                entry
                    .and_then(|entry| entry.table)
                    .into_iter()
                    .for_each(&mut *each);
            }
            at += to_u64(buffer.len());
        }
        Ok(())
    }
}

/// The first word from `at` on that may be other than zero; words start at `start`.
fn next_word(source: &dyn ReadAt, start: u64, at: u64) -> std::io::Result<u64> {
    if at >= source.len() {
        return Ok(u64::MAX);
    }
    let data = source
        .data_at(at)?
        .map_or(u64::MAX, |data| data.start.max(at));
    Ok(data - data.saturating_sub(start) % L1Entry::LEN)
}

/// Consecutive numbers as ranges.
fn runs(numbers: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &n in numbers {
        match runs.last_mut() {
            Some(run) if run.end == n => run.end += 1,
            _ => runs.push(n..n + 1),
        }
    }
    runs
}

/// Host clusters that hold metadata, in little memory: a terabyte of clusters of 512 bytes has
/// 32 million tables.
#[derive(Default)]
pub(super) struct MetadataClusters {
    ranges: Vec<Range<u64>>,
    /// Sorted once all are in.
    near: Vec<u32>,
    far: Vec<u64>,
}

impl MetadataClusters {
    /// Takes in consecutive clusters.
    pub(super) fn add_range(&mut self, range: Range<u64>) {
        self.ranges.push(range);
    }

    /// Takes in one cluster.
    pub(super) fn add(&mut self, cluster: u64) {
        match u32::try_from(cluster) {
            Ok(cluster) => self.near.push(cluster),
            Err(_) => self.far.push(cluster),
        }
    }

    /// To be called when all are in.
    pub(super) fn sort(&mut self) {
        self.near.sort_unstable();
        self.near.dedup();
        self.far.sort_unstable();
        self.far.dedup();
    }

    /// Whether the cluster with this number is one of them.
    pub(super) fn contains(&self, cluster: u64) -> bool {
        let listed = match u32::try_from(cluster) {
            Ok(cluster) => self.near.binary_search(&cluster).is_ok(),
            Err(_) => self.far.binary_search(&cluster).is_ok(),
        };
        listed || self.ranges.iter().any(|range| range.contains(&cluster))
    }
}
