//! Emptying an overlay whose content is in its backing file: what a plain commit ends with.
//!
//! The L1 table is zeroed first; every prefix of that reads the same, because the backing file
//! holds the data already. Then refcounts are rebuilt for what is left (the head, the refcount
//! structures and the L1 table) and the file is cut behind it.

use super::bitmap_directory::{Directory, clusters_of};
use super::bitmap_head;
use super::link::{HeadCell, clear_unknown_bits, header_write};
use super::{MetadataKind, Stage, Step, StepQueue};
use crate::chain::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::source::read_padded;
use backchain_format::HostOffset;
use backchain_format::bytes::{be64, to_u64, to_usize};
use backchain_format::qcow2::{RefcountBlock, RefcountTableEntry, incompatible};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) struct Empty {
    node: Arc<Node>,
    table: Vec<u64>,
    /// Host clusters of the bitmaps, which stay as they are.
    bitmaps: Vec<u64>,
}

impl Empty {
    pub(super) fn new(node: &Arc<Node>) -> Result<Self> {
        let Some(image) = node.image()?.as_qcow2() else {
            return Err(
                Error::new(ErrorKind::Invalid, "a raw image cannot be emptied").about(&node.name),
            );
        };
        let header = &image.head.header;
        let mut bytes = vec![0; to_usize(header.refcount_table_bytes())];
        read_padded(node.source.as_ref(), header.refcount_table.0, &mut bytes)
            .map_err(|e| node.blame(e))?;
        let mut table = Vec::new();
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let at = header.refcount_table.0 + to_u64(index) * RefcountTableEntry::LEN;
            let entry = RefcountTableEntry::from_bits(be64(word, 0).unwrap_or(0), at)
                .map_err(|e| node.blame(e))?;
            if entry.0.is_some_and(|host| {
                !header.cluster.is_aligned(host.0) || host.0 >= node.source.len()
            }) {
                let message = format!("refcount block {index} is misplaced (byte {at})");
                return Err(Error::new(ErrorKind::Corrupt, message).about(&node.name));
            }
            table.push(entry.to_bits());
        }
        let directory = Directory::read(node)?;
        let mut bitmaps: Vec<u64> = directory.clusters(header.cluster).collect();
        for entry in &directory.list {
            bitmaps.extend(clusters_of(node, entry)?);
        }
        Ok(Self {
            node: Arc::clone(node),
            table,
            bitmaps,
        })
    }
}

impl Stage for Empty {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        let to = self.node.id;
        let cell = HeadCell::of(&self.node)?;
        let head = cell.lock().clone();
        let header = &head.header;
        let (cluster, bits) = (header.cluster, header.cluster.bits());
        let sync = |out: &mut StepQueue| out.push(Step::Sync { node: to });

        clear_unknown_bits(&self.node)?
            .into_iter()
            .for_each(|step| out.push(step));
        if self.bitmaps.is_empty() {
            // An extension that nobody trusts: what it leads to goes.
            let steps =
                bitmap_head::switch(to, &mut cell.lock(), None).map_err(|e| self.node.blame(e))?;
            if !steps.is_empty() {
                steps.into_iter().for_each(|step| out.push(step));
                sync(out);
            }
        }
        let l1_bytes = u64::from(header.l1_entries) * 8;
        if l1_bytes > 0 {
            out.push(Step::Zero {
                to,
                dst: header.l1_table,
                len: l1_bytes,
            });
            sync(out);
        }

        // What stays: head, refcount table, L1 table, bitmaps.
        let mut kept: BTreeSet<u64> = self.bitmaps.iter().copied().collect();
        let keep = |kept: &mut BTreeSet<u64>, at: HostOffset, len: u64| {
            let first = at.0 >> bits;
            kept.extend(first..first + cluster.clusters(len));
        };
        keep(&mut kept, HostOffset(0), 1);
        keep(
            &mut kept,
            header.refcount_table,
            header.refcount_table_bytes(),
        );
        keep(&mut kept, header.l1_table, l1_bytes);
        if let Some(image) = self.node.image()?.as_qcow2() {
            kept.extend(image.crypto_clusters()?);
        }

        // The blocks that cover what stays, blocks included: keeping one may need another.
        let per = header.refcount_width.per_block(cluster);
        let mut blocks: BTreeMap<u64, RefcountBlock> = BTreeMap::new();
        loop {
            let wanted: BTreeSet<u64> = kept.iter().map(|c| c / per).collect();
            let Some(&missing) = wanted.iter().find(|index| !blocks.contains_key(index)) else {
                break;
            };
            let host = self.table.get(to_usize(missing)).copied().unwrap_or(0);
            if host == 0 {
                let message = format!("the image's own tables have no refcounts (block {missing})");
                return Err(Error::new(ErrorKind::Corrupt, message).about(&self.node.name));
            }
            kept.insert(host >> bits);
            blocks.insert(missing, RefcountBlock::new(cluster, header.refcount_width));
        }
        for &number in &kept {
            if let Some(block) = blocks.get_mut(&(number / per)) {
                // 1 fits every width and the index is within the block.
                let _ = block.set(number % per, 1);
            }
        }

        // Entries of blocks that cover nothing any more go before their clusters are freed.
        let mut table_writes = Vec::new();
        for (index, entry) in self.table.iter().enumerate() {
            let index = to_u64(index);
            if *entry != 0 && !blocks.contains_key(&index) {
                let dst = header.refcount_table.plus(index * RefcountTableEntry::LEN);
                table_writes.push(Step::Write {
                    to,
                    dst,
                    kind: MetadataKind::RefcountTable,
                    bytes: vec![0; 8],
                });
            }
        }
        if !table_writes.is_empty() {
            table_writes.into_iter().for_each(|step| out.push(step));
            sync(out);
        }
        for (index, block) in &blocks {
            let dst = HostOffset(self.table.get(to_usize(*index)).copied().unwrap_or(0));
            let bytes = block.as_bytes().to_vec();
            out.push(Step::Write {
                to,
                dst,
                kind: MetadataKind::RefcountBlock,
                bytes,
            });
        }
        sync(out);
        if header.has(incompatible::DIRTY) {
            // All refcounts were just made anew.
            cell.lock().header.incompatible &= !incompatible::DIRTY;
            out.push(header_write(to, &cell.lock()));
            sync(out);
        }
        let mut free = 0;
        for &number in &kept {
            if free < number {
                out.push(Step::Discard {
                    to,
                    dst: HostOffset(free << bits),
                    len: (number - free) << bits,
                });
            }
            free = number + 1;
        }
        let end = kept.last().map_or(1, |last| last + 1) << bits;
        if end < self.node.source.len() {
            out.push(Step::SetLen { to, len: end });
        }
        if let Some(data) = &self.node.data {
            // Nothing refers to what is in it any more; that is durable.
            let len = data.source.len();
            let (to, dst) = (data.id, HostOffset(0));
            if len > 0 {
                out.push(Step::Discard { to, dst, len });
            }
            out.push(Step::Seal { node: data.id });
        }
        out.push(Step::Seal { node: to });
        Ok(false)
    }
}
