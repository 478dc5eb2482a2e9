//! Rebuilding the refcounts of a target that was not closed properly (dirty bit).
//!
//! QEMU may leave refcounts behind when a guest runs with lazy refcounts. They are corrected in
//! memory when the change is planned, so that the allocator starts from the truth; the first
//! steps of the plan write the corrected blocks, make them durable, and clear the bit.

use super::Refcounts;
use crate::chain::Node;
use crate::check;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::qcow2::incompatible;
use std::sync::Arc;

/// Bytes of corrected refcount blocks held in memory at most: those of a terabyte with QEMU's
/// default sizes.
const MAX_BYTES: u64 = 32 << 20;

/// Corrects `refcounts` of `node`. Fails when its metadata is damaged beyond that.
pub(super) fn correct(node: &Arc<Node>, refcounts: &mut Refcounts) -> Result<()> {
    let Some(image) = node.image()?.as_qcow2() else {
        return Ok(());
    };
    let per = refcounts.clusters_per_block();
    let corrected = check::Refcounts::compute(node.source.as_ref(), image, &mut |range, counts| {
        let mut at = range.start;
        while at < range.end {
            let end = ((at / per + 1) * per).min(range.end);
            if !(counts.is_unused(at..end) && refcounts.is_zero_around(at)?) {
                for cluster in at..end {
                    correct_one(refcounts, counts, cluster)?;
                }
            }
            if refcounts.forget_unchanged() > MAX_BYTES {
                return Err(refused("too many refcounts are wrong"));
            }
            at = end;
        }
        Ok(())
    });
    corrected.map_err(|error| {
        let kind = error.kind();
        let message = format!(
            "the image was not closed properly and cannot be repaired on the way: {}; \
             repair it with check -r all first",
            error.message()
        );
        Error::new(kind, message).about(&node.name)
    })
}

/// What to say about a target whose refcounts are going to be corrected.
pub(super) fn warning(node: &Node) -> Option<String> {
    let header = &node.image.as_ref().ok()?.as_qcow2()?.head.header;
    header.has(incompatible::DIRTY).then(|| {
        format!(
            "{} was not closed properly: its refcounts are corrected first",
            node.file_name()
        )
    })
}

fn correct_one(refcounts: &mut Refcounts, counts: &check::Refcounts, cluster: u64) -> Result<()> {
    let references = counts.get(cluster)?;
    let stored = refcounts.get(cluster)?;
    let (copied, not_copied) = counts.copied_flags(cluster);
    if copied && references != 1 {
        // Writing in place would change what somebody else reads.
        return Err(refused("a cluster in use twice is marked as used once"));
    }
    if stored == references {
        return Ok(());
    }
    if not_copied && references == 1 {
        // The entry says that the refcount is not one. A count that is too high only wastes
        // the cluster; one that contradicts the entry is an error.
        if stored > 1 {
            return Ok(());
        }
        return Err(refused("a cluster used once is not marked as such"));
    }
    refcounts.correct(cluster, references)
}

fn refused(message: &str) -> Error {
    Error::new(ErrorKind::Refused, message)
}
