//! Commit: merging layers down.

use super::flow::{Flow, Take};
use super::info::{InfoBuilder, word};
use super::link::{HeadCell, Relink, backing_for, clear_unknown_bits};
use super::qcow2_stage::Qcow2Stage;
use super::qcow2_target::Qcow2Target;
use super::raw_target::RawStage;
use super::{Fixed, Plan, Stage, Step, empty, guard, repair, snapshot_guard};
use crate::chain::{Chain, Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use std::sync::Arc;

/// What [`super::Operation::Commit`] asks for.
pub(super) struct Commit<'a> {
    pub(super) tree: &'a Tree,
    pub(super) top: NodeId,
    pub(super) base: NodeId,
    pub(super) relink: &'a [NodeId],
    pub(super) empty_top: bool,
    pub(super) bitmaps: bool,
    pub(super) allow_broken: bool,
    pub(super) allow_plaintext: bool,
}

impl Commit<'_> {
    pub(super) fn plan(&self) -> Result<Plan> {
        let tree = self.tree;
        let chain = tree.chain(self.top)?;
        let depth = chain
            .depth_of(self.base)
            .filter(|&depth| depth > 0)
            .ok_or_else(|| {
                let base = &tree.node(self.base).name;
                let message = format!(
                    "'{base}' is not below '{}' in its chain",
                    tree.node(self.top).name
                );
                Error::new(ErrorKind::Invalid, message)
            })?;
        let (top, base) = (tree.node(self.top), tree.node(self.base));
        guard::data_writable_beside_snapshots(tree, base)?;
        guard::unlocked(chain.layers())?;
        let merged = chain.layers().get(..depth).unwrap_or_default();
        guard::no_plaintext(merged, base, self.allow_plaintext)?;
        if top.virtual_size() > base.virtual_size() {
            guard::can_grow(base)?;
            guard::may_grow_to(base, top.virtual_size())?;
        }
        snapshot_guard::survive_commit(tree, &chain, depth)?;
        if self.empty_top {
            if depth > 1 {
                let message = "top can only be emptied when base is its own backing file: \
                               the layers between would show through";
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            guard::can_be_emptied(tree, top)?;
        }
        self.check_relinked()?;

        let between: Vec<NodeId> = chain
            .layers()
            .iter()
            .take(depth)
            .skip(1)
            .map(|n| n.id)
            .collect();
        let broken = self.broken(&between);
        guard::no_dependents(tree, base, &broken, self.allow_broken)?;

        let mut info = InfoBuilder::new(tree);
        info.read(chain.layers());
        info.written(self.base);
        info.invalid(&between);
        info.broken(&broken);
        repair::warning(base).into_iter().for_each(|w| info.warn(w));
        self.warn(&mut info, &between)?;

        let mut stages: Vec<Box<dyn Stage>> = Vec::new();
        // Zeros that the short top showed are put into the layers above it first: reading base
        // is over before base is written, and nothing changes for a reader.
        let mut relinks = Vec::new();
        for &child in self.relink {
            let node = tree.node(child);
            let head = HeadCell::of(node)?;
            if self.needs_tail(node) {
                stages.push(Box::new(Fixed(clear_unknown_bits(node)?)));
                stages.push(self.zero_tail(node, head.clone())?);
            }
            let backing = Some(backing_for(tree, &node.name, base)?);
            relinks.push(Relink::new(child, head, backing).map_err(|e| node.blame(e))?);
            info.written(child);
            info.link(child, Some(self.base));
        }
        stages.push(Box::new(Fixed(clear_unknown_bits(base)?)));
        let mut skipped = Vec::new();
        stages.push(self.merge(&chain, depth, &mut skipped)?);
        for name in skipped {
            info.warn(format!(
                "bitmap '{name}' was not saved properly in one of the images and is not merged"
            ));
        }
        for relink in relinks {
            stages.push(Box::new(relink));
        }
        if self.empty_top {
            info.written(self.top);
            stages.push(Box::new(empty::Empty::new(top)?));
        }
        Ok(Plan::new(info.build(), stages))
    }

    fn check_relinked(&self) -> Result<()> {
        let tree = self.tree;
        for &child in self.relink {
            if tree.backing(child) != Some(self.top) {
                let message = format!(
                    "'{}' is not an overlay of '{}'",
                    tree.node(child).name,
                    tree.node(self.top).name
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            guard::header_writable(tree, tree.node(child))?;
            let (top, base) = (tree.node(self.top), tree.node(self.base));
            snapshot_guard::survive_relink(tree.node(child), top, base)?;
        }
        if self.empty_top && !self.relink.is_empty() {
            let message = "top cannot be emptied when the layer above it is relinked to base";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }

    /// Images outside of the operation that read differently afterwards: everything that reaches
    /// base otherwise than through top.
    fn broken(&self, between: &[NodeId]) -> Vec<NodeId> {
        let through_top = self.tree.dependents(self.top);
        let mut broken = self.tree.dependents(self.base);
        broken.retain(|id| {
            let inside = *id == self.top || between.contains(id) || through_top.contains(id);
            !inside && !self.tree.is_given_up(*id)
        });
        broken
    }

    fn warn(&self, info: &mut InfoBuilder<'_>, between: &[NodeId]) -> Result<()> {
        let (tree, top, base) = (
            self.tree,
            self.tree.node(self.top),
            self.tree.node(self.base),
        );
        if !self.relink.is_empty() {
            info.superseded(self.top);
        }
        for id in std::iter::once(&self.top).chain(between) {
            let node = tree.node(*id);
            let has_some = node
                .image()?
                .as_qcow2()
                .is_some_and(|i| i.bitmaps_consistent());
            if has_some && !self.bitmaps {
                info.warn(format!(
                    "the bitmaps of {} stay behind: they are not merged into {}",
                    node.file_name(),
                    base.file_name()
                ));
            }
        }
        if base.virtual_size() > top.virtual_size()
            && self.relink.is_empty()
            && !tree.children(self.top).is_empty()
        {
            info.warn(format!(
                "{} is longer than {}: relink the layers above with a safe rebase, not with rebase -u",
                base.file_name(),
                top.file_name()
            ));
        }
        let shallow = between.is_empty();
        let d = if self.empty_top { "" } else { "-d " };
        if shallow {
            info.equivalent(format!("qemu-img commit {d}{}", word(&top.name)));
        } else {
            let (base, top) = (word(&base.name), word(&top.name));
            info.equivalent(format!("qemu-img commit -b {base} {top}"));
        }
        for &child in self.relink {
            let child = &tree.node(child).name;
            let (link, format) = (backing_for(tree, child, base)?, base.image()?.format());
            info.equivalent(format!(
                "qemu-img rebase -u -b {} -F {format} {}",
                word(&link.name),
                word(child)
            ));
        }
        info.equivalent(format!(
            "virsh blockcommit DOMAIN DISK --base {} --top {} --wait --verbose",
            word(&base.name),
            word(&top.name)
        ));
        Ok(())
    }

    /// Whether `child` read zeros behind top's end where base has something to show.
    fn needs_tail(&self, child: &Node) -> bool {
        let (top, base) = (self.tree.node(self.top), self.tree.node(self.base));
        let end = child.virtual_size().min(base.virtual_size());
        end > top.virtual_size()
    }

    fn zero_tail(&self, child: &Arc<Node>, head: HeadCell) -> Result<Box<dyn Stage>> {
        let tree = self.tree;
        guard::data_writable_beside_snapshots(tree, child)?;
        let take = Take::Below {
            compare: false,
            from: tree.node(self.top).virtual_size(),
        };
        let under = Some(tree.chain(self.base)?);
        let flow = Flow::new(
            &tree.chain(child.id)?,
            under,
            take,
            child.image()?.granule(),
        )?;
        let target = Qcow2Target::new(child, head, true)?;
        Ok(Box::new(Qcow2Stage::new(
            target,
            flow,
            None,
            vec![Step::Sync { node: child.id }],
        )))
    }

    fn merge(
        &self,
        chain: &Chain,
        depth: usize,
        skipped: &mut Vec<String>,
    ) -> Result<Box<dyn Stage>> {
        let base = self.tree.node(self.base);
        let flow = Flow::new(
            chain,
            chain.below(depth + 1),
            Take::Above(depth),
            base.image()?.granule(),
        )?;
        let below = self.tree.chain(self.base)?;
        let size = chain.virtual_size().max(base.virtual_size());
        let flow = flow.followed_by(below);
        let seal = vec![Step::Seal { node: base.id }];
        if !self.bitmaps {
            return target_stage(base, flow, size, seal);
        }
        if base.image()?.as_qcow2().is_none_or(|i| !i.head.is_v3()) {
            let message = "the image cannot have bitmaps: it is not of qcow2 version 3";
            return Err(Error::new(ErrorKind::Invalid, message).about(&base.name));
        }
        let mut target = Qcow2Target::new(base, HeadCell::of(base)?, true)?.recording()?;
        for layer in chain.layers().iter().take(depth) {
            target = target.with_bitmaps_of(layer, size, true, skipped)?;
        }
        Ok(Box::new(Qcow2Stage::new(target, flow, Some(size), seal)))
    }
}

/// The stage that writes `flow` into `node`, an image of either format.
pub(super) fn target_stage(
    node: &Arc<Node>,
    flow: Flow,
    size: u64,
    seal: Vec<Step>,
) -> Result<Box<dyn Stage>> {
    Ok(match node.image()? {
        Image::Raw { offset, .. } => {
            let stage = RawStage::new(node.id, node.source.len(), size, flow, seal);
            Box::new(stage.at(*offset))
        }
        Image::Luks(volume) => {
            let stage = RawStage::new(node.id, node.source.len(), size, flow, seal);
            Box::new(stage.encrypted(node, volume.payload())?)
        }
        Image::Qcow2(_) => {
            let target = Qcow2Target::new(node, HeadCell::of(node)?, true)?.recording()?;
            Box::new(Qcow2Stage::new(target, flow, Some(size), seal))
        }
    })
}
