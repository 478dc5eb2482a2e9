//! The refcount of one cluster.

use crate::chain::Node;
use crate::error::Result;
use crate::source::read_padded;
use backchain_format::bytes::{be64, to_usize};
use backchain_format::qcow2::{RefcountBlock, RefcountTableEntry};

/// The refcount of the host cluster that byte `host` of a qcow2 node's file is in; `None` for
/// other formats, 0 where there is no refcount block.
pub fn refcount_of(node: &Node, host: u64) -> Result<Option<u64>> {
    let Some(image) = node.image()?.as_qcow2() else {
        return Ok(None);
    };
    let header = &image.head.header;
    let number = host >> header.cluster.bits();
    let per = header.refcount_width.per_block(header.cluster);
    let index = number / per;
    if index >= header.refcount_table_bytes() / RefcountTableEntry::LEN {
        return Ok(Some(0));
    }
    let at = header.refcount_table.0 + index * RefcountTableEntry::LEN;
    let mut word = [0; 8];
    read_padded(node.source.as_ref(), at, &mut word).map_err(|e| node.blame(e))?;
    let entry = RefcountTableEntry::from_bits(be64(&word, 0).unwrap_or(0), at)
        .map_err(|e| node.blame(e))?;
    let Some(block) = entry.0 else {
        return Ok(Some(0));
    };
    let mut bytes = vec![0; to_usize(header.cluster.bytes())];
    read_padded(node.source.as_ref(), block.0, &mut bytes).map_err(|e| node.blame(e))?;
    let block = RefcountBlock::from_bytes(bytes, header.refcount_width);
    Ok(Some(block.get(number % per)))
}
