//! A strict check of one qcow2 file, independent of the engine's own.
//!
//! References are counted from the tables; every host cluster's refcount must be at least that
//! (more is a leak), and a copied flag must be set exactly where the refcount is 1.

use crate::bitmaps;
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::luks::HeaderPointer;
use backchain_format::qcow2::{
    Extensions, Head, L1Entry, L2Entry, L2Kind, RefcountBlock, RefcountTableEntry, SnapshotEntry,
};
use std::collections::BTreeMap;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Damage: something dangles, is owned twice, or lies.
    pub errors: Vec<String>,
    /// Copied flags that disagree with the refcount, but not with the references.
    pub flags: Vec<String>,
    /// Host clusters counted more often than referred to, and how much more often.
    pub leaks: BTreeMap<u64, u64>,
    /// Guest clusters mapped behind the end of the disk: legal while a disk is being made
    /// longer, but nothing that a finished plan leaves.
    pub strays: Vec<u64>,
    /// Guest clusters with a host cluster or packed bytes.
    pub allocated: u64,
}

/// Checks the bytes of a qcow2 file.
pub fn verify(bytes: &[u8]) -> Report {
    let mut report = verify_mid_change(bytes);
    report.errors.append(&mut report.flags);
    report
}

/// The same for what a crash left of a change of snapshots: copied flags may disagree with
/// refcounts as long as no cluster with the flag has a second reference.
pub fn verify_mid_change(bytes: &[u8]) -> Report {
    let mut check = Check {
        bytes,
        report: Report::default(),
        references: BTreeMap::new(),
        copied: Vec::new(),
    };
    match Head::from_bytes(bytes) {
        Ok(head) => check.all(&head),
        Err(error) => check.error(format!("head: {error}")),
    }
    check.report
}

struct Check<'a> {
    bytes: &'a [u8],
    report: Report,
    /// References by number of the host cluster.
    references: BTreeMap<u64, u64>,
    /// Host cluster, its copied flag, and who says so.
    copied: Vec<(u64, bool, String)>,
}

impl Check<'_> {
    fn error(&mut self, what: String) {
        self.report.errors.push(what);
    }

    fn all(&mut self, head: &Head) {
        let header = &head.header;
        let cluster = header.cluster;
        self.refer("header", 0, cluster.bytes(), cluster.bytes());
        self.tables(head, header.l1_table, header.l1_entries, true);
        self.snapshots(head);
        if let Some(data) = head.extensions.get(Extensions::CRYPTO) {
            match HeaderPointer::from_bytes(data) {
                Ok(at) => self.refer("encryption header", at.offset, at.len, cluster.bytes()),
                Err(error) => self.error(format!("encryption header: {error}")),
            }
        }
        let table = header.refcount_table.0;
        let table_len = header.refcount_table_bytes();
        self.refer("refcount table", table, table_len, cluster.bytes());
        let mut blocks = Vec::new();
        for index in 0..header.refcount_table_entries() {
            let at = table + index * RefcountTableEntry::LEN;
            match RefcountTableEntry::from_bits(self.word(at), at) {
                Ok(RefcountTableEntry(Some(block))) => {
                    let who = format!("refcount block {index}");
                    self.refer(&who, block.0, cluster.bytes(), cluster.bytes());
                    blocks.push((index, block));
                }
                Ok(_) => {}
                Err(error) => self.error(error.to_string()),
            }
        }
        self.bitmaps(head);
        let counts = self.counts(head, &blocks);
        self.compare(&counts);
    }

    /// An L1 table and all it leads to. Copied flags count in the active one only.
    fn tables(&mut self, head: &Head, table: HostOffset, entries: u32, active: bool) {
        let cluster = head.header.cluster.bytes();
        let l1_len = u64::from(entries) * L1Entry::LEN;
        if l1_len > 0 {
            self.refer("L1 table", table.0, l1_len, cluster);
        }
        let known = self.copied.len();
        let strays = self.report.strays.len();
        for index in 0..u64::from(entries) {
            let at = table.0 + index * L1Entry::LEN;
            match L1Entry::from_bits(self.word(at), at) {
                Ok(entry) => self.l1(head, index, entry),
                Err(error) => self.error(error.to_string()),
            }
        }
        if !active {
            self.copied.truncate(known);
            self.report.strays.truncate(strays);
        }
    }

    /// The table of snapshots, and what each of them refers to.
    fn snapshots(&mut self, head: &Head) {
        let header = &head.header;
        let start = to_usize(header.snapshot_table.0);
        let mut at = start;
        for _ in 0..header.snapshots {
            let mut bytes = self.bytes.get(at..).unwrap_or_default().to_vec();
            bytes.resize(bytes.len() + 4096, 0);
            match SnapshotEntry::from_bytes(&bytes, to_u64(at)) {
                Ok((entry, len)) => {
                    at += len;
                    self.tables(head, entry.l1_table, entry.l1_entries, false);
                }
                Err(error) => return self.error(error.to_string()),
            }
        }
        if at > start {
            let len = to_u64(at - start);
            self.refer("snapshot table", to_u64(start), len, header.cluster.bytes());
        }
    }

    /// Counts a reference to all host clusters of a range and checks that they are in the file.
    fn refer(&mut self, who: &str, at: u64, len: u64, cluster: u64) {
        if !at.is_multiple_of(cluster) {
            self.error(format!("{who} at {at:#x} is not aligned"));
        }
        if at >= to_u64(self.bytes.len()) {
            self.error(format!("{who} at {at:#x} is past the end of the file"));
        }
        for number in at / cluster..(at + len).div_ceil(cluster) {
            *self.references.entry(number).or_default() += 1;
        }
    }

    /// Eight bytes, zeros past the end of the file.
    fn word(&self, at: u64) -> u64 {
        be64(self.bytes, to_usize(at)).unwrap_or(0)
    }

    fn l1(&mut self, head: &Head, index: u64, entry: L1Entry) {
        let layout = head.header.l2_layout();
        let Some(table) = entry.table else { return };
        let who = format!("L2 table {index}");
        self.refer(
            &who,
            table.0,
            layout.cluster.bytes(),
            layout.cluster.bytes(),
        );
        let number = table.0 >> layout.cluster.bits();
        self.copied.push((number, entry.copied, who));
        for slot in 0..layout.entries() {
            let at = table.0 + slot * layout.entry_len();
            let bitmap = if layout.extended {
                self.word(at + 8)
            } else {
                0
            };
            let guest = index * layout.table_span() + (slot << layout.cluster.bits());
            self.l2(head, guest, self.word(at), bitmap);
        }
    }

    fn l2(&mut self, head: &Head, guest: u64, bits: u64, bitmap: u64) {
        let layout = head.header.l2_layout();
        let cluster = layout.cluster;
        let who = format!("guest cluster {guest:#x}");
        if let Some(defect) = L2Entry::defect(bits, bitmap, layout) {
            self.error(format!("{who}: {defect}"));
        }
        // Reserved bits: 1 to 8 (and 0 where there is no zero flag) and 56 to 61.
        let zero = u64::from(layout.zero_flag && !layout.extended);
        let reserved = (0x1ff & !zero) | 0x3f << 56;
        if bits >> 62 & 1 == 0 && bits & reserved != 0 {
            self.error(format!("{who}: reserved bits in {bits:#x}"));
        }
        let entry = L2Entry::from_bits(bits, bitmap, layout);
        if guest >= head.header.size && entry.kind != L2Kind::Unallocated {
            self.report.strays.push(guest);
        }
        if let Some(defect) = entry.misplaced(guest, layout) {
            self.error(format!("{who}: {defect}"));
        }
        match entry.kind {
            L2Kind::Standard { .. } | L2Kind::Zero { host: Some(_) } if layout.data_file => {
                self.report.allocated += 1;
                if !entry.copied {
                    self.error(format!(
                        "{who}: no copied flag in an image with a data file"
                    ));
                }
            }
            L2Kind::Zero { host: None } if layout.data_file && guest == 0 => {}
            L2Kind::Unallocated => {}
            L2Kind::Zero { host: None } => {
                if entry.copied {
                    self.error(format!("{who}: copied flag without a host cluster"));
                }
            }
            L2Kind::Standard { host } | L2Kind::Zero { host: Some(host) } => {
                self.report.allocated += 1;
                self.refer(&who, host.0, cluster.bytes(), cluster.bytes());
                let number = host.0 >> cluster.bits();
                self.copied.push((number, entry.copied, who));
            }
            L2Kind::Compressed(packed) => {
                self.report.allocated += 1;
                let (HostOffset(first), HostOffset(last)) = packed.host_clusters(cluster);
                self.refer(&who, first, last - first + 1, cluster.bytes());
                if entry.copied {
                    self.error(format!("{who}: copied flag on a compressed cluster"));
                }
            }
        }
    }

    /// Counts the references of the bitmaps.
    fn bitmaps(&mut self, head: &Head) {
        let cluster = head.header.cluster.bytes();
        let list = match bitmaps::directory(self.bytes, head) {
            Ok(list) => list,
            Err(error) => return self.error(error),
        };
        if let Some(Ok(extension)) = head.extensions.bitmaps(0) {
            let (at, len) = (extension.directory.0, extension.directory_len);
            self.refer("bitmap directory", at, len, cluster);
        }
        for entry in list {
            let len = u64::from(entry.table_entries) * 8;
            self.refer("bitmap table", entry.table.0, len, cluster);
            for index in 0..u64::from(entry.table_entries) {
                let host = self.word(entry.table.0 + index * 8) & bitmaps::HOST;
                if host != 0 {
                    self.refer("bitmap bits", host, cluster, cluster);
                }
            }
        }
    }

    /// The refcount of every host cluster that has one.
    fn counts(&mut self, head: &Head, blocks: &[(u64, HostOffset)]) -> BTreeMap<u64, u64> {
        let header = &head.header;
        let len = to_usize(header.cluster.bytes());
        let per_block = header.refcount_width.per_block(header.cluster);
        let mut counts = BTreeMap::new();
        for (index, at) in blocks {
            let start = to_usize(at.0).min(self.bytes.len());
            let end = (start + len).min(self.bytes.len());
            let mut bytes = self.bytes[start..end].to_vec();
            bytes.resize(len, 0);
            let block = RefcountBlock::from_bytes(bytes, header.refcount_width);
            for slot in (0..per_block).filter(|_| !block.is_zero()) {
                let count = block.get(slot);
                if count > 0 {
                    counts.insert(index * per_block + slot, count);
                }
            }
        }
        counts
    }

    fn compare(&mut self, counts: &BTreeMap<u64, u64>) {
        for (number, references) in std::mem::take(&mut self.references) {
            let count = counts.get(&number).copied().unwrap_or(0);
            if count < references {
                let message =
                    format!("host cluster {number}: refcount {count}, {references} references");
                self.error(message);
            } else if count > references {
                self.report.leaks.insert(number, count - references);
            }
            self.references.insert(number, references);
        }
        for (number, count) in counts {
            if !self.references.contains_key(number) {
                self.report.leaks.insert(*number, *count);
            }
        }
        for (number, copied, who) in std::mem::take(&mut self.copied) {
            let count = counts.get(&number).copied().unwrap_or(0);
            let references = self.references.get(&number).copied().unwrap_or(0);
            let flag = if copied { "set" } else { "clear" };
            let message = format!(
                "{who}: copied flag {flag} with a refcount of {count} and {references} references"
            );
            if copied && references > 1 {
                self.error(message);
            } else if copied != (count == 1) {
                self.report.flags.push(message);
            }
        }
    }
}
