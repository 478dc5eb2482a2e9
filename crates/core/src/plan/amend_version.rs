//! Amend between the two versions of the format.
//!
//! Version 2 has no zero clusters: they become data, table by table, before the header says
//! version 2. Tables that internal snapshots share stay shared. Version 3 wants every snapshot
//! to say how large its disk is.

use super::amend::invalid;
use super::bitmap_directory::{Directory, clusters_of};
use super::transaction::Transaction;
use super::unzero::{Unzero, has_packed};
use super::{MetadataKind, Stage, StepQueue, bitmap_head, rehead};
use crate::chain::Node;
use crate::error::Result;
use crate::image::Qcow2;
use backchain_format::bytes::to_u64;
use backchain_format::qcow2::{
    Codec, Extension, Extensions, FeatureNames, Head, RefcountWidth, SnapshotEntry, Version,
    incompatible,
};
use std::sync::Arc;

/// Version 2 to 3; nothing to do when it is that already.
pub(super) fn upgrade(node: &Arc<Node>, image: &Qcow2) -> Result<Option<VersionStage>> {
    if image.head.is_v3() {
        return Ok(None);
    }
    let size = image.head.header.size;
    let mut list = image
        .snapshots(node.source.as_ref())
        .map_err(|e| node.blame(e))?;
    let incomplete = list.iter().any(|snapshot| snapshot.disk_size.is_none());
    let old: u64 = list
        .iter()
        .filter_map(SnapshotEntry::to_bytes)
        .map(|b| to_u64(b.len()))
        .sum();
    for snapshot in list.iter_mut().filter(|s| s.disk_size.is_none()) {
        snapshot.disk_size = Some(size);
        // Encoded anew, with all the fields.
        snapshot.stored.clear();
    }
    let mut stage = VersionStage::new(node, to_v3)?;
    if incomplete {
        let cluster = image.head.header.cluster;
        let first = image.head.header.snapshot_table.0 >> cluster.bits();
        stage.dropped.extend(first..first + cluster.clusters(old));
        let table = Qcow2::snapshot_table(&list);
        stage.snapshots =
            Some(table.ok_or_else(|| invalid("the table of snapshots is too large"))?);
    }
    Ok(Some(stage))
}

fn to_v3(head: &mut Head) {
    let header = &mut head.header;
    header.version = Version::V3;
    header.header_length = 112;
    header.unknown = vec![0; 7];
    header.codec = Codec::Zlib;
    header.refcount_width = RefcountWidth::DEFAULT;
    if header.cluster.bytes() > 512 && head.extensions.feature_names().is_none() {
        head.extensions.0.push(Extension {
            kind: Extensions::FEATURE_NAMES,
            data: FeatureNames::standard_bytes(),
        });
    }
}

/// Version 3 to 2; nothing to do when it is that already.
pub(super) fn downgrade(node: &Arc<Node>, image: &Qcow2) -> Result<Option<VersionStage>> {
    let header = &image.head.header;
    if !image.head.is_v3() {
        return Ok(None);
    }
    if header.refcount_width != RefcountWidth::DEFAULT {
        return Err(invalid("compat=0.10 requires refcount_bits=16"));
    }
    if header.has(incompatible::DATA_FILE) {
        return Err(invalid("Cannot downgrade an image with a data file"));
    }
    let list = image
        .snapshots(node.source.as_ref())
        .map_err(|e| node.blame(e))?;
    let other = |s: &SnapshotEntry| {
        s.vm_state_size > u64::from(u32::MAX) || s.disk_size.is_some_and(|n| n != header.size)
    };
    if list.iter().any(other) {
        return Err(invalid("Internal snapshots prevent downgrade of image"));
    }
    let more = header.incompatible & !(incompatible::DIRTY | incompatible::COMPRESSION);
    if more == 0 && header.codec != Codec::Zlib && has_packed(node, image, &list)? {
        return Err(invalid(
            "Cannot downgrade an image with zstd compression type and existing compressed clusters",
        ));
    }
    if more != 0 {
        return Err(invalid(format!(
            "Cannot downgrade an image with incompatible features {more:#x} set"
        )));
    }
    let directory = Directory::read(node)?;
    let mut stage = VersionStage::new(node, to_v2)?;
    stage.dropped.extend(directory.clusters(header.cluster));
    for entry in &directory.list {
        stage.dropped.extend(clusters_of(node, entry)?);
    }
    stage.unzero = Some(Unzero::new(node, image, &list)?);
    Ok(Some(stage))
}

fn to_v2(head: &mut Head) {
    let header = &mut head.header;
    header.version = Version::V2;
    header.header_length = 72;
    header.unknown.clear();
    (header.incompatible, header.compatible, header.autoclear) = (0, 0, 0);
    header.codec = Codec::Zlib;
    head.extensions.set(Extensions::FEATURE_NAMES, None);
}

/// What gets lost with version 3, in sentences.
pub(super) fn lost(node: &Node) -> Result<Option<String>> {
    let count = Directory::read(node)?.list.len();
    Ok((count > 0).then(|| {
        format!(
            "{} loses its {count} bitmap(s): version 2 has none",
            node.file_name()
        )
    }))
}

/// Carries the change out.
pub(super) struct VersionStage {
    change: Transaction,
    edit: fn(&mut Head),
    unzero: Option<Unzero>,
    /// A new table of snapshots.
    snapshots: Option<Vec<u8>>,
    /// Host clusters that nothing needs afterwards.
    dropped: Vec<u64>,
    started: bool,
}

impl VersionStage {
    /// Fails now when the new head does not fit.
    fn new(node: &Arc<Node>, edit: fn(&mut Head)) -> Result<Self> {
        let change = Transaction::new(node)?;
        let mut old = change.head.lock().clone();
        bitmap_head::switch(node.id, &mut old, None).map_err(|e| node.blame(e))?;
        let mut new = old.clone();
        edit(&mut new);
        rehead::steps(node.id, &old, &mut new).map_err(|e| node.blame(e))?;
        Ok(Self {
            change,
            edit,
            unzero: None,
            snapshots: None,
            dropped: Vec::new(),
            started: false,
        })
    }

    fn last(&mut self, out: &mut StepQueue) -> Result<()> {
        let node = Arc::clone(&self.change.node);
        let mut place = None;
        if let Some(table) = self.snapshots.take() {
            let cluster = self.change.head.lock().header.cluster;
            let at = self
                .change
                .refcounts
                .allocate(cluster.clusters(to_u64(table.len())))?;
            out.push(self.change.write(at, MetadataKind::SnapshotTable, table));
            place = Some(at);
        }
        for cluster in std::mem::take(&mut self.dropped) {
            self.change.refcounts.drop_reference(cluster);
        }
        // Everything that the new version needs is durable before the header says so.
        self.change.publish(Vec::new(), out)?;
        let steps = bitmap_head::switch(node.id, &mut self.change.head.lock(), None)
            .map_err(|e| node.blame(e))?;
        if !steps.is_empty() {
            steps.into_iter().for_each(|step| out.push(step));
            self.change.sync(out);
        }
        let old = self.change.head.lock().clone();
        let mut new = old.clone();
        (self.edit)(&mut new);
        if let Some(at) = place {
            new.header.snapshot_table = at;
        }
        let steps = rehead::steps(node.id, &old, &mut new).map_err(|e| node.blame(e))?;
        steps.into_iter().for_each(|step| out.push(step));
        *self.change.head.lock() = new;
        self.change.finish(out)
    }
}

impl Stage for VersionStage {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        if !std::mem::replace(&mut self.started, true) {
            self.change.begin(out)?;
        }
        if let Some(unzero) = &mut self.unzero
            && unzero.advance(&mut self.change, out)?
        {
            return Ok(true);
        }
        self.last(out)?;
        Ok(false)
    }

    fn progress(&self) -> (u64, u64) {
        self.unzero.as_ref().map_or((0, 0), Unzero::progress)
    }
}
