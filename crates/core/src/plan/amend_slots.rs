//! Amending key slots: writes in a LUKS header and in the key material behind it.

use super::info::{InfoBuilder, word};
use super::operation::Amendment;
use super::transaction::Transaction;
use super::{MetadataKind, Plan, Stage, Step, StepQueue, repair};
use crate::chain::{Node, Tree};
use crate::crypto::SlotChange;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::bytes::to_u64;
use backchain_format::{Format, HostOffset};
use std::sync::Arc;

/// [`Amendment::KeySlots`].
pub(super) fn plan(tree: &Tree, node: &Arc<Node>, change: &Arc<SlotChange>) -> Result<Plan> {
    let Some(area) = node.image()?.luks(node.source.as_ref())? else {
        let message = "the image is not encrypted with LUKS";
        return Err(Error::new(ErrorKind::Unsupported, message).about(&node.name));
    };
    // Only a header without a payload can have key material behind its end.
    if let Some(image) = node.image()?.as_qcow2()
        && let Some(pointer) = image.crypto_header()?
    {
        let writes = change.groups.iter().flatten();
        let end = writes.map(|(at, bytes)| at.saturating_add(to_u64(bytes.len())));
        if end.max().is_some_and(|end| end > pointer.len) {
            let message = "Request for data outside of extension header";
            let error = Error::new(ErrorKind::Corrupt, message).with_qemu(message);
            return Err(error.about(&node.name));
        }
    }
    let mut info = InfoBuilder::new(tree);
    info.written(node.id);
    repair::warning(node).into_iter().for_each(|w| info.warn(w));
    let amendment = Amendment::KeySlots(Arc::clone(change));
    info.equivalent(format!(
        "qemu-img amend -o {amendment} {}",
        word(&node.name)
    ));
    let transaction = match node.image()?.format() {
        Format::Qcow2 => Some(Transaction::new(node)?),
        _ => None,
    };
    let stage = KeySlots {
        node: Arc::clone(node),
        at: area.at,
        change: Arc::clone(change),
        transaction,
    };
    Ok(Plan::new(info.build(), vec![Box::new(stage)]))
}

struct KeySlots {
    node: Arc<Node>,
    /// Where the header is in the file, in bytes.
    at: u64,
    change: Arc<SlotChange>,
    /// For what comes before the first change of a qcow2 image, whichever it is.
    transaction: Option<Transaction>,
}

impl Stage for KeySlots {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        let to = self.node.id;
        if let Some(transaction) = &mut self.transaction {
            transaction.begin(out)?;
        }
        for group in &self.change.groups {
            for (at, bytes) in group {
                out.push(Step::Write {
                    to,
                    dst: HostOffset(self.at.saturating_add(*at)),
                    kind: MetadataKind::CryptoHeader,
                    bytes: bytes.clone(),
                });
            }
            out.push(Step::Sync { node: to });
        }
        match &mut self.transaction {
            Some(transaction) => transaction.finish(out)?,
            None => out.push(Step::Seal { node: to }),
        }
        Ok(false)
    }
}
