//! Extents of a qcow2 image: a walk over L1 and L2 tables in guest order.
//!
//! Tables are read in slices of at most 64 KiB, each once; memory is a few slices whatever the
//! size of the disk. Runs of empty L1 entries cost their own eight bytes each and no read.

use super::Qcow2;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, Place};
use crate::source::{Source, read_padded};
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{L1Entry, L2Entry, L2Kind, L2Layout, Subclusters};
use std::ops::ControlFlow;

/// Bytes of a table read at once.
const SLICE: u64 = 64 << 10;

pub(super) struct Qcow2Cursor {
    source: Source,
    layout: L2Layout,
    size: u64,
    file_len: u64,
    /// Length of the file with the guest data.
    data_len: u64,
    pos: u64,
    l1: TableSlice,
    l1_table: HostOffset,
    l1_entries: u64,
    l2: TableSlice,
    /// The number of L2 tables was looked at.
    checked: bool,
}

/// A window of a table in memory.
#[derive(Default)]
struct TableSlice {
    /// Byte offset in the file of `bytes`; meaningful when there are any.
    at: u64,
    bytes: Vec<u8>,
}

impl TableSlice {
    /// The words from file offset `at` on, reading the aligned slice of `table` around them
    /// when they are not here yet.
    fn load(&mut self, source: &Source, table: u64, len: u64, at: u64) -> Result<&[u8]> {
        let here = at
            .checked_sub(self.at)
            .is_some_and(|by| by < to_u64(self.bytes.len()));
        if !here {
            let start = table + (at - table) / SLICE * SLICE;
            let want = SLICE.min(table + len - start);
            self.bytes.resize(to_usize(want), 0);
            self.at = start;
            if let Err(error) = read_padded(source.as_ref(), start, &mut self.bytes) {
                self.bytes.clear();
                return Err(error.into());
            }
        }
        Ok(self.bytes.get(to_usize(at - self.at)..).unwrap_or_default())
    }
}

impl Qcow2Cursor {
    pub(super) fn new(source: Source, image: &Qcow2, data_len: u64, pos: u64) -> Self {
        let header = &image.head.header;
        Self {
            file_len: source.len(),
            data_len,
            source,
            layout: image.layout(),
            size: header.size,
            pos,
            l1: TableSlice::default(),
            l1_table: header.l1_table,
            l1_entries: u64::from(header.l1_entries),
            l2: TableSlice::default(),
            checked: false,
        }
    }

    /// L2 tables are never shared within one L1 table, so a file cannot have more of them than
    /// clusters. Walking a table of millions of entries that all name the same L2 table would
    /// take for ever.
    fn check_tables(&mut self) -> Result<()> {
        let clusters = self.layout.cluster.clusters(self.file_len);
        if self.l1_entries <= clusters {
            return Ok(());
        }
        let (mut index, mut tables) = (0, 0);
        while index < self.l1_entries {
            let at = self.l1_table.0 + index * L1Entry::LEN;
            let len = self.l1_entries * L1Entry::LEN;
            let words = self.l1.load(&self.source, self.l1_table.0, len, at)?;
            let words = words.chunks_exact(8);
            let (len, used) = (words.len(), words.filter(|word| **word != [0; 8]).count());
            index += to_u64(len).max(1);
            tables += to_u64(used);
            if used == 0 {
                index = self.behind_hole(index)?;
            }
            if tables > clusters {
                let message = format!(
                    "the L1 table names more L2 tables than the file has clusters ({clusters})"
                );
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
        Ok(())
    }

    /// The first L1 entry from `index` on that is not in a hole of the file: a table of gigabytes
    /// may be nothing else.
    fn behind_hole(&self, index: u64) -> Result<u64> {
        let at = self.l1_table.0 + index * L1Entry::LEN;
        if index >= self.l1_entries || at >= self.source.len() {
            return Ok(index);
        }
        let data = self.source.data_at(at)?;
        let skipped = data.map_or(u64::MAX, |data| data.start.saturating_sub(at));
        Ok(index
            .saturating_add(skipped / L1Entry::LEN)
            .min(self.l1_entries))
    }

    /// The next piece; neighbours may still continue each other.
    pub(super) fn next(&mut self) -> Result<Option<Extent>> {
        if self.pos >= self.size {
            return Ok(None);
        }
        if !self.checked {
            self.check_tables()?;
            self.checked = true;
        }
        let extent = match self.l2_table()? {
            Ok(table) => self.in_table(table)?,
            Err(hole_end) => Extent {
                start: self.pos,
                len: hole_end.min(self.size) - self.pos,
                place: Place::Unallocated,
            },
        };
        self.pos = extent.end();
        Ok(Some(extent))
    }

    /// The L2 table for the current position, or where the run of absent tables ends.
    fn l2_table(&mut self) -> Result<Result<HostOffset, u64>> {
        let span = self.layout.table_span();
        let mut index = self.pos / span;
        while index < self.l1_entries {
            let at = self.l1_table.0 + index * L1Entry::LEN;
            let words = self
                .l1
                .load(&self.source, self.l1_table.0, self.l1_entries * 8, at)?;
            let empty = words.chunks_exact(8).take_while(|w| *w == [0; 8]).count();
            if empty > 0 {
                let whole = empty * 8 >= words.len();
                index += to_u64(empty);
                if whole {
                    index = self.behind_hole(index)?;
                }
                continue;
            }
            if index > self.pos / span {
                break;
            }
            let entry = L1Entry::from_bits(be64(words, 0).unwrap_or(0), at)?;
            let Some(table) = entry.table else { break };
            let aligned = self.layout.cluster.is_aligned(table.0);
            if !aligned || table.0 >= self.file_len {
                let what = if aligned {
                    "past the end of the file"
                } else {
                    "not at a cluster boundary"
                };
                let message = format!("L2 table {index} at {table} is {what} (byte {at})");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            return Ok(Ok(table));
        }
        Ok(Err(index.saturating_mul(span).max(self.pos + 1)))
    }

    /// The longest piece from the current position on within one slice of the L2 `table`.
    fn in_table(&mut self, table: HostOffset) -> Result<Extent> {
        let (layout, size, data_len, pos) = (self.layout, self.size, self.data_len, self.pos);
        let cluster = layout.cluster.bytes();
        let first = layout.cluster.align_down(pos);
        let index = pos % layout.table_span() / cluster;
        let at = table.0 + index * layout.entry_len();
        let words = self.l2.load(&self.source, table.0, cluster, at)?;
        // Most entries of a large disk say nothing; they are not worth taking apart.
        let absent = to_u64(leading_zeros(words)) / layout.entry_len();
        if absent > 0 {
            let end = first.saturating_add(absent * cluster).min(size);
            return Ok(Extent {
                start: pos,
                len: end - pos,
                place: Place::Unallocated,
            });
        }

        let mut found: Option<Extent> = None;
        let mut start = first;
        for entry in words.chunks_exact(to_usize(layout.entry_len())) {
            let bits = be64(entry, 0).unwrap_or(0);
            let bitmap = be64(entry, 8).unwrap_or(0);
            let defect = L2Entry::defect(bits, bitmap, layout)
                .or_else(|| L2Entry::from_bits(bits, bitmap, layout).misplaced(start, layout));
            if let Some(defect) = defect {
                if found.is_some() {
                    break;
                }
                let at = at + (start - first) / cluster * layout.entry_len();
                let message =
                    format!("L2 entry {bits:#x} for guest offset {start:#x}: {defect} (byte {at})");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            let entry = L2Entry::from_bits(bits, bitmap, layout);
            let flow = pieces(entry, layout, start, &mut |piece| {
                // Cut to what is asked for: from `pos` on, up to the size.
                let from = piece.start.max(pos);
                let to = piece.end().min(size);
                if from >= to {
                    return ControlFlow::Continue(());
                }
                let (piece, whole) = within_file(piece.slice(from, to - from), data_len);
                let joined = match &mut found {
                    Some(found) => found.merge(&piece),
                    none => {
                        *none = Some(piece);
                        true
                    }
                };
                if joined && whole {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            start += cluster;
            if flow.is_break() || start >= size {
                break;
            }
        }
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format!("L2 table at {table} is cut off"),
            )
        })
    }
}

/// How many bytes at the start of `bytes` are zero, rounded down to whole words.
fn leading_zeros(bytes: &[u8]) -> usize {
    static ZEROS: [u8; 1024] = [0; 1024];
    // Comparing whole blocks is several times faster than looking at words.
    let blocks = bytes.chunks_exact(ZEROS.len());
    let skipped = blocks.take_while(|block| *block == ZEROS).count() * ZEROS.len();
    let rest = bytes.get(skipped..).unwrap_or_default();
    let words = rest.chunks_exact(8).take_while(|word| *word == [0; 8]);
    skipped + words.count() * 8
}

/// Host clusters past the end of the file read as zeros, as QEMU has it. Returns the leading
/// part with one answer and whether that is the whole piece.
fn within_file(mut piece: Extent, file_len: u64) -> (Extent, bool) {
    let Place::Data { host } = piece.place else {
        return (piece, true);
    };
    let available = file_len.saturating_sub(host.0);
    if available == 0 {
        piece.place = Place::Zero { host: Some(host) };
        return (piece, true);
    }
    let whole = available >= piece.len;
    piece.len = piece.len.min(available);
    (piece, whole)
}

/// Calls `emit` for each piece of the cluster at guest offset `start`.
fn pieces(
    entry: L2Entry,
    layout: L2Layout,
    start: u64,
    emit: &mut dyn FnMut(Extent) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let cluster = layout.cluster.bytes();
    let host = match entry.kind {
        L2Kind::Compressed(packed) => {
            let place = Place::Compressed {
                host: packed.host,
                len: packed.len,
                skip: 0,
            };
            return emit(Extent {
                start,
                len: cluster,
                place,
            });
        }
        L2Kind::Zero { host } => {
            return emit(Extent {
                start,
                len: cluster,
                place: Place::Zero { host },
            });
        }
        L2Kind::Standard { host } if !layout.extended => {
            return emit(Extent {
                start,
                len: cluster,
                place: Place::Data { host },
            });
        }
        L2Kind::Unallocated if entry.subclusters == Subclusters::default() => {
            return emit(Extent {
                start,
                len: cluster,
                place: Place::Unallocated,
            });
        }
        L2Kind::Standard { host } => Some(host),
        L2Kind::Unallocated => None,
    };
    let granule = layout.granule();
    for n in 0..Subclusters::COUNT {
        let offset = u64::from(n) * granule;
        let bit = 1u32 << n;
        let place = match host {
            Some(host) if entry.subclusters.allocated & bit != 0 => Place::Data {
                host: host.plus(offset),
            },
            host if entry.subclusters.zero & bit != 0 => Place::Zero {
                host: host.map(|h| h.plus(offset)),
            },
            _ => Place::Unallocated,
        };
        emit(Extent {
            start: start + offset,
            len: granule,
            place,
        })?;
    }
    ControlFlow::Continue(())
}
