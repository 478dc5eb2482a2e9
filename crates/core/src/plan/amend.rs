//! Amend: changes to what kind of qcow2 image an image is. What its guest sees stays the same.

use super::amend_refcounts::Rewidth;
use super::amend_version::{VersionStage, downgrade, lost, upgrade};
use super::info::{InfoBuilder, word};
use super::operation::Amendment;
use super::transaction::Transaction;
use super::{Plan, Stage, StepQueue, amend_slots, guard, rehead, repair};
use crate::chain::{Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::qcow2::{
    Extension, Extensions, Head, RefcountWidth, autoclear, compatible, incompatible,
};
use std::sync::Arc;

/// [`super::Operation::Amend`].
pub(super) fn plan_amend(tree: &Tree, node: NodeId, change: &Amendment) -> Result<Plan> {
    let node = tree.node(node);
    guard::header_writable(tree, node)?;
    let image = match (change, node.image()?.as_qcow2()) {
        (Amendment::KeySlots(slots), _) => return amend_slots::plan(tree, node, slots),
        (_, Some(image)) => image,
        (_, None) => {
            let format = node.image()?.format();
            let message = format!("Format driver '{format}' does not support option amendment");
            return Err(invalid(message));
        }
    };
    let head = image.head.clone();
    let mut info = InfoBuilder::new(tree);
    info.written(node.id);
    repair::warning(node).into_iter().for_each(|w| info.warn(w));
    info.equivalent(format!(
        "qemu-img amend -o {} {}",
        word(&change.to_string()),
        word(&node.name)
    ));
    let stages = match change {
        Amendment::Version { v3: true } => boxed(upgrade(node, image)?),
        Amendment::Version { v3: false } => {
            lost(node)?.into_iter().for_each(|w| info.warn(w));
            boxed(downgrade(node, image)?)
        }
        Amendment::RefcountBits(bits) => refcount_bits(node, &head, *bits)?,
        Amendment::LazyRefcounts(on) => lazy_refcounts(node, &head, *on)?,
        Amendment::DataFile { name, raw } => data_file(node, &head, name.as_deref(), *raw)?,
        Amendment::KeySlots(slots) => return amend_slots::plan(tree, node, slots),
    };
    Ok(Plan::new(info.build(), stages))
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

type Stages = Vec<Box<dyn Stage>>;

fn boxed(stage: Option<VersionStage>) -> Stages {
    stage
        .into_iter()
        .map(|stage| -> Box<dyn Stage> { Box::new(stage) })
        .collect()
}

fn refcount_bits(node: &Arc<Node>, head: &Head, bits: u64) -> Result<Stages> {
    let Some(width) = RefcountWidth::from_bits(bits) else {
        return Err(invalid(
            "Refcount width must be a power of two and may not exceed 64 bits",
        ));
    };
    if width == head.header.refcount_width {
        return Ok(Vec::new());
    }
    if !head.is_v3() {
        return Err(invalid(
            "Refcount widths other than 16 bits require compatibility level 1.1 or above \
             (use compat=1.1 or greater)",
        ));
    }
    Ok(vec![Box::new(Rewidth::new(node, width)?)])
}

fn lazy_refcounts(node: &Arc<Node>, head: &Head, on: bool) -> Result<Stages> {
    let bit = compatible::LAZY_REFCOUNTS;
    if on && !head.is_v3() {
        return Err(invalid(
            "Lazy refcounts only supported with compatibility level 1.1 and above \
             (use compat=1.1 or greater)",
        ));
    }
    if on == (head.header.compatible & bit != 0) {
        return Ok(Vec::new());
    }
    let stage = ChangeHead::new(node, move |head| {
        if on {
            head.header.compatible |= bit;
        } else {
            head.header.compatible &= !bit;
        }
    })?;
    Ok(vec![Box::new(stage)])
}

fn data_file(
    node: &Arc<Node>,
    head: &Head,
    name: Option<&str>,
    raw: Option<bool>,
) -> Result<Stages> {
    let external = head.header.has(incompatible::DATA_FILE);
    let is_raw = head.header.autoclear & autoclear::RAW_DATA_FILE != 0;
    if raw == Some(true) && !is_raw {
        return Err(invalid("data-file-raw cannot be set on existing images"));
    }
    if name.is_some() && !external {
        return Err(invalid(
            "data-file can only be set for images that use an external data file",
        ));
    }
    let recorded = head.extensions.string(Extensions::DATA_FILE);
    let renamed = name.filter(|name| recorded.as_deref() != Some(*name));
    let turned_off = raw == Some(false) && is_raw;
    if renamed.is_none() && !turned_off {
        return Ok(Vec::new());
    }
    let renamed = renamed.map(str::to_owned);
    let stage = ChangeHead::new(node, move |head| {
        if turned_off {
            head.header.autoclear &= !autoclear::RAW_DATA_FILE;
        }
        let kind = Extensions::DATA_FILE;
        match &renamed {
            Some(name) if name.is_empty() => head.extensions.set(kind, None),
            Some(name) => {
                let data = name.clone().into_bytes();
                if head.extensions.get(kind).is_some() {
                    head.extensions.set(kind, Some(data));
                } else {
                    head.extensions.0.insert(0, Extension { kind, data });
                }
            }
            None => {}
        }
    })?;
    Ok(vec![Box::new(stage)])
}

/// A stage that changes the head alone.
pub(super) struct ChangeHead<F> {
    change: Transaction,
    edit: F,
}

impl<F: Fn(&mut Head) + crate::source::Shareable> ChangeHead<F> {
    /// Fails now when the new head does not fit.
    pub(super) fn new(node: &Arc<Node>, edit: F) -> Result<Self> {
        let change = Transaction::new(node)?;
        let old = change.head.lock().clone();
        let mut new = old.clone();
        edit(&mut new);
        rehead::steps(node.id, &old, &mut new).map_err(|e| node.blame(e))?;
        Ok(Self { change, edit })
    }
}

impl<F: Fn(&mut Head) + crate::source::Shareable> Stage for ChangeHead<F> {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        self.change.begin(out)?;
        let old = self.change.head.lock().clone();
        let mut new = old.clone();
        (self.edit)(&mut new);
        let node = &self.change.node;
        let steps = rehead::steps(node.id, &old, &mut new).map_err(|e| node.blame(e))?;
        steps.into_iter().for_each(|step| out.push(step));
        *self.change.head.lock() = new;
        self.change.finish(out)?;
        Ok(false)
    }
}
