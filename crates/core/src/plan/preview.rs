//! What a plan would do, summed up.

use super::{MetadataKind, Origin, Plan, PlanInfo, Step};
use crate::chain::NodeId;
use crate::error::Result;
use serde::Serialize;

/// The sum of a plan's steps, with what was known beforehand.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Preview {
    /// The plan's own words.
    #[serde(flatten)]
    pub info: PlanInfo,
    /// Steps.
    pub steps: u64,
    /// Bytes copied as they are.
    pub copied: u64,
    /// Bytes that come out of compressed clusters.
    pub inflated: u64,
    /// Bytes made zero explicitly.
    pub zeroed: u64,
    /// Bytes of compressed clusters written.
    pub packed: u64,
    /// Bytes of metadata written.
    pub metadata: u64,
    /// Points at which everything before must be durable.
    pub syncs: u64,
    /// Bytes read from images to be moved: with what is written, the input of an estimate of
    /// how long it takes.
    pub read: u64,
    /// Bytes needed on the way and given back at the end. Plans need none; an executor that
    /// writes a file anew (the browser's) adds its own.
    pub temporary: u64,
    /// Each file written.
    pub changes: Vec<FileChange>,
}

/// What happens to one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// The file.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Bytes written to it.
    pub written: u64,
    /// Length in bytes before; 0 for a new file.
    pub len_before: u64,
    /// Length in bytes afterwards.
    pub len_after: u64,
}

impl Preview {
    /// Runs through a plan without carrying it out.
    pub fn of(plan: Plan) -> Result<Self> {
        let mut preview = Self::begin(&plan);
        for step in plan {
            preview.count(&step?);
        }
        Ok(preview)
    }

    /// What is known before the first step: for callers that count the steps a few at a time.
    pub fn begin(plan: &Plan) -> Self {
        let info = plan.info.clone();
        let mut changes: Vec<FileChange> = info
            .files
            .iter()
            .filter(|file| file.written)
            .map(|file| {
                let len = file.before.map_or(0, |f| f.len);
                FileChange {
                    node: file.node,
                    name: file.name.clone(),
                    written: 0,
                    len_before: len,
                    len_after: len,
                }
            })
            .collect();
        changes.sort_by_key(|change| change.node);
        Self {
            info,
            changes,
            ..Self::default()
        }
    }

    /// Adds one step of the plan.
    pub fn count(&mut self, step: &Step) {
        self.steps += 1;
        let bytes = step.bytes();
        let end = match step {
            Step::Copy { dst, .. } => {
                self.read += bytes;
                self.copied += bytes;
                dst.0 + bytes
            }
            Step::Inflate { dst, len, .. } => {
                self.read += len;
                self.inflated += bytes;
                dst.0 + bytes
            }
            Step::Recode { origin, dst, .. } => {
                match origin {
                    Origin::Zeros => self.zeroed += bytes,
                    Origin::Packed { packed, .. } => {
                        self.read += packed;
                        self.inflated += bytes;
                    }
                    Origin::Stored { .. } => {
                        self.read += bytes;
                        self.copied += bytes;
                    }
                }
                dst.0 + bytes
            }
            Step::Zero { dst, .. } => {
                self.zeroed += bytes;
                dst.0 + bytes
            }
            Step::Allocate { dst, len, .. } => {
                self.zeroed += bytes;
                dst.0 + len
            }
            Step::Write { dst, kind, .. } => {
                match kind {
                    MetadataKind::Packed => self.packed += bytes,
                    _ => self.metadata += bytes,
                }
                dst.0 + bytes
            }
            Step::Sync { .. } => {
                self.syncs += 1;
                0
            }
            _ => 0,
        };
        let target = step.target();
        if let Some(change) = self.changes.iter_mut().find(|c| c.node == target) {
            change.written += bytes;
            change.len_after = change.len_after.max(end);
            if let Step::SetLen { len, .. } = step {
                change.len_after = *len;
            }
        }
    }

    /// Bytes of guest data and metadata written, all files together.
    pub fn written(&self) -> u64 {
        self.copied + self.inflated + self.zeroed + self.packed + self.metadata
    }

    /// Bytes by which all files together grow.
    pub fn growth(&self) -> u64 {
        self.changes
            .iter()
            .map(|c| c.len_after.saturating_sub(c.len_before))
            .sum()
    }
}
