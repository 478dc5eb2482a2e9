//! `check -r`: mending an image.
//!
//! What is written, and in which order:
//!
//! 1. entries that name misplaced clusters without data are emptied, and bitmaps that nobody
//!    trusts are forgotten: from then on nothing refers to what is freed;
//! 2. refcounts in place; or, when they have to be made anew, new blocks, a new table, and a new
//!    snapshot table, where nothing is referred to;
//! 3. the header, which makes the new structures the ones in use, at once;
//! 4. refcounts of an old snapshot table;
//! 5. copied flags: the refcounts they rely on are there;
//! 6. what is free goes back to the file system; and the dirty and the corrupt bit, when nothing is wrong any more.
//!
//! Between two of these everything becomes durable. Whatever of it reached the disk, what is
//! referred to is still referred to, so that the same repair, planned again, completes it.

use super::info::{InfoBuilder, word};
use super::link::{HeadCell, header_write};
use super::{MetadataKind, Plan, Stage, Step, StepQueue};
use crate::chain::{NodeId, Tree};
use crate::check::{CountCursor, Counting, Fix, Piece, Remedy, TableCursor, Word};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::HostOffset;
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{Extensions, Head, autoclear, incompatible};

/// Plans the repair of one image. A plan without steps means that there is nothing to mend.
pub(super) fn plan_repair(tree: &Tree, id: NodeId, fix: Fix) -> Result<Plan> {
    let node = tree.node(id);
    if let Some((label, content)) = tree.wrong_label(id) {
        let message = format!("the overlay says it is {label}, but it holds {content}");
        return Err(Error::new(ErrorKind::WrongLabel, message).about(&node.name));
    }
    let remedy = Remedy::new(node, fix)?;
    let mut info = InfoBuilder::new(tree);
    info.read(std::slice::from_ref(node));
    if !remedy.diagnosis.mends() {
        return Ok(Plan::new(info.build(), Vec::new()));
    }
    info.written(id);
    let what = if fix == Fix::All { "all" } else { "leaks" };
    info.equivalent(format!("qemu-img check -r {what} {}", word(&node.name)));
    let stage = Mending {
        node: id,
        head: HeadCell::of(node)?,
        unknown: node
            .image()?
            .as_qcow2()
            .is_some_and(|image| image.head.header.autoclear & !autoclear::KNOWN != 0),
        remedy,
        phase: Phase::Entries(TableCursor::default()),
        written: false,
        freed: Vec::new(),
    };
    Ok(Plan::new(info.build(), vec![Box::new(stage)]))
}

enum Phase {
    Entries(TableCursor),
    Forget,
    Refcounts(CountCursor),
    Header,
    OldSnapshots(CountCursor),
    Flags(TableCursor),
    Last,
}

/// The stage that mends an image.
struct Mending {
    node: NodeId,
    remedy: Remedy,
    head: HeadCell,
    /// The header has autoclear bits that nobody knows.
    unknown: bool,
    phase: Phase,
    /// Something was written since the last sync.
    written: bool,
    /// What can be given back to the file system: offset and length.
    freed: Vec<(u64, u64)>,
}

/// More ranges than these are not given back.
const MAX_FREED: usize = 256 << 10;

impl Stage for Mending {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        let diagnosis = &self.remedy.diagnosis;
        let mut writer = Writer {
            node: self.node,
            out,
            run: None,
            written: &mut self.written,
            freed: &mut self.freed,
        };
        let more = match &mut self.phase {
            Phase::Entries(_) if !diagnosis.entries => false,
            Phase::Entries(cursor) => self.remedy.entries(cursor, &mut |word| writer.word(word))?,
            Phase::Forget => {
                forget_bitmaps(&mut self.head.lock(), self.unknown, &mut writer);
                false
            }
            Phase::Refcounts(_) if !diagnosis.refcounts && !diagnosis.rebuild => false,
            Phase::Refcounts(cursor) => {
                let write = &mut |piece| writer.refcounts(piece);
                self.remedy.refcounts(Counting::Before, cursor, write)?
            }
            Phase::Header => {
                // Still part of what the header is going to name.
                if let Some((at, _, bytes)) = self.remedy.table() {
                    writer.write(at.0, MetadataKind::RefcountTable, bytes);
                }
                if let Some((at, _, bytes)) = self.remedy.snapshots()
                    && !bytes.is_empty()
                {
                    writer.write(at.0, MetadataKind::SnapshotTable, bytes);
                }
                writer.sync();
                switch(&self.remedy, &mut self.head.lock(), &mut writer);
                false
            }
            Phase::OldSnapshots(_) if !diagnosis.snapshots || diagnosis.rebuild => false,
            Phase::OldSnapshots(cursor) => {
                let write = &mut |piece| writer.refcounts(piece);
                self.remedy.refcounts(Counting::After, cursor, write)?
            }
            Phase::Flags(_) if !diagnosis.flags => false,
            Phase::Flags(cursor) => self.remedy.flags(cursor, &mut |word| writer.word(word))?,
            Phase::Last => {
                writer.discard();
                let mut head = self.head.lock();
                let marks = incompatible::DIRTY | incompatible::CORRUPT;
                if diagnosis.clean && head.header.incompatible & marks != 0 {
                    head.header.incompatible &= !marks;
                    writer.step(header_write(self.node, &head));
                }
                writer.flush();
                out.push(Step::Seal { node: self.node });
                return Ok(false);
            }
        };
        writer.flush();
        if !more {
            // Refcounts and what the header names next are one interval.
            if !matches!(self.phase, Phase::Refcounts(_)) {
                writer.sync();
            }
            self.phase = match self.phase {
                Phase::Entries(_) => Phase::Forget,
                Phase::Forget => Phase::Refcounts(CountCursor::default()),
                Phase::Refcounts(_) => Phase::Header,
                Phase::Header => Phase::OldSnapshots(CountCursor::default()),
                Phase::OldSnapshots(_) => Phase::Flags(TableCursor::default()),
                Phase::Flags(_) | Phase::Last => Phase::Last,
            };
        }
        Ok(true)
    }
}

/// Makes the header name the new structures.
fn switch(remedy: &Remedy, head: &mut Head, writer: &mut Writer<'_>) {
    let (table, snapshots) = (remedy.table(), remedy.snapshots());
    if table.is_none() && snapshots.is_none() {
        return;
    }
    if let Some((at, clusters, _)) = table {
        head.header.refcount_table = at;
        head.header.refcount_table_clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
    }
    if let Some((at, count, _)) = snapshots {
        head.header.snapshot_table = if count > 0 { at } else { HostOffset(0) };
        head.header.snapshots = count;
    }
    writer.step(header_write(writer.node, head));
}

/// Takes bitmaps that nobody trusts out of the head, and clears autoclear bits nobody knows.
///
/// What goes in one write of a sector is there or it is not. Where more would have to move, the
/// extension stays: nobody looks at it while its bit is clear.
fn forget_bitmaps(head: &mut Head, unknown: bool, writer: &mut Writer<'_>) {
    const SECTOR: usize = 512;
    let kind = Extensions::BITMAPS;
    let place = head.extensions.0.iter().position(|e| e.kind == kind);
    let untrusted = head.header.autoclear & autoclear::BITMAPS == 0;
    if let Some(place) = place.filter(|_| untrusted) {
        let mut kept = head.clone();
        kept.extensions.set(kind, None);
        let (new, old) = (kept.to_bytes(), head.to_bytes());
        if place + 1 == head.extensions.0.len() {
            // The end marker moves up.
            let at = to_u64(new.len().saturating_sub(8));
            writer.write(at, MetadataKind::Header, vec![0; 8]);
            writer.sync();
            head.extensions = kept.extensions;
        } else if old.len() <= SECTOR {
            writer.write(0, MetadataKind::Header, new);
            head.extensions = kept.extensions;
            return;
        }
    }
    if unknown {
        // They are clear in the head as it was taken over.
        writer.step(header_write(writer.node, head));
    }
}

/// Turns what is to be written into steps; words in a row become one.
struct Writer<'w> {
    node: NodeId,
    out: &'w mut StepQueue,
    run: Option<(u64, bool, Vec<u8>)>,
    written: &'w mut bool,
    freed: &'w mut Vec<(u64, u64)>,
}

impl Writer<'_> {
    fn step(&mut self, step: Step) {
        *self.written = true;
        self.out.push(step);
    }

    fn write(&mut self, at: u64, kind: MetadataKind, bytes: Vec<u8>) {
        self.step(Step::Write {
            to: self.node,
            dst: HostOffset(at),
            kind,
            bytes,
        });
    }

    fn refcounts(&mut self, piece: Piece) {
        match piece {
            Piece::Bytes(at, bytes) => self.write(at, MetadataKind::RefcountBlock, bytes),
            Piece::Zeros(at, len) => self.step(Step::Zero {
                to: self.node,
                dst: HostOffset(at),
                len,
            }),
            Piece::Freed(at, len) => {
                let last = self.freed.last_mut();
                if let Some((_, known)) = last.filter(|(start, known)| *start + *known == at) {
                    *known += len;
                } else if self.freed.len() < MAX_FREED {
                    self.freed.push((at, len));
                }
            }
        }
    }

    /// Gives back what is free now.
    fn discard(&mut self) {
        for (at, len) in std::mem::take(self.freed) {
            self.out.push(Step::Discard {
                to: self.node,
                dst: HostOffset(at),
                len,
            });
        }
    }

    fn word(&mut self, word: Word) {
        let follows = self
            .run
            .as_ref()
            .is_some_and(|(at, l1, bytes)| at + to_u64(bytes.len()) == word.at && *l1 == word.l1);
        if !follows {
            self.flush();
        }
        let (_, _, bytes) = self
            .run
            .get_or_insert_with(|| (word.at, word.l1, Vec::new()));
        bytes.extend(word.value.to_be_bytes());
    }

    fn flush(&mut self) {
        if let Some((at, l1, bytes)) = self.run.take() {
            let kind = if l1 {
                MetadataKind::L1
            } else {
                MetadataKind::L2
            };
            self.write(at, kind, bytes);
        }
    }

    /// Everything so far becomes durable, if there is anything.
    fn sync(&mut self) {
        self.flush();
        if std::mem::take(self.written) {
            self.out.push(Step::Sync { node: self.node });
        }
    }
}
