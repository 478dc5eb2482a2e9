//! Pull, rebase and relink: changes to one overlay and its link.

use super::flow::{Flow, Take};
use super::info::{InfoBuilder, word};
use super::link::{HeadCell, Relink, backing_for, clear_unknown_bits};
use super::qcow2_stage::Qcow2Stage;
use super::qcow2_target::Qcow2Target;
use super::{Fixed, Plan, Stage, data_file, guard, repair, snapshot_guard};
use crate::chain::{Chain, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use backchain_format::Format;
use backchain_format::qcow2::Backing;

/// [`super::Operation::Pull`]: everything between `overlay` and `base` moves into the overlay.
pub(super) fn plan_pull(tree: &Tree, overlay: NodeId, base: Option<NodeId>) -> Result<Plan> {
    let chain = tree.chain(overlay)?;
    let node = tree.node(overlay);
    if let Some(base) = base
        && chain.depth_of(base).is_none_or(|depth| depth == 0)
    {
        let message = format!(
            "'{}' is not below '{}' in its chain",
            tree.node(base).name,
            node.name
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let mut info = InfoBuilder::new(tree);
    info.equivalent(match base {
        Some(base) => format!(
            "qemu-img rebase -b {} -F {} {}",
            word(&backing_for(tree, &node.name, tree.node(base))?.name),
            tree.node(base).image()?.format(),
            word(&node.name)
        ),
        None => format!("qemu-img rebase -b \"\" {}", word(&node.name)),
    });
    info.equivalent(match base {
        Some(base) => format!(
            "virsh blockpull DOMAIN {} --base {} --wait --verbose",
            word(&node.name),
            word(&tree.node(base).name)
        ),
        None => format!(
            "virsh blockpull DOMAIN {} --wait --verbose",
            word(&node.name)
        ),
    });
    let backing = base
        .map(|base| backing_for(tree, &node.name, tree.node(base)))
        .transpose()?;
    let under = base.map(|base| tree.chain(base)).transpose()?;
    let copying = Copying {
        compare: false,
        compress: false,
    };
    build(info, tree, &chain, under, backing, copying)
}

/// How what moves into the overlay is found and stored.
struct Copying {
    /// Only what reads differently below moves.
    compare: bool,
    /// Whole clusters are compressed.
    compress: bool,
}

/// [`super::Operation::Rebase`]: only what reads differently moves into the overlay. `link` is
/// the name and the format to record.
pub(super) fn plan_rebase(
    tree: &Tree,
    overlay: NodeId,
    base: Option<NodeId>,
    (name, format): (Option<&str>, Option<Format>),
    compress: bool,
) -> Result<Plan> {
    let chain = tree.chain(overlay)?;
    let node = tree.node(overlay);
    let mut info = InfoBuilder::new(tree);
    let mut backing = None;
    let mut under = None;
    if let Some(base) = base {
        let below = tree.chain(base)?;
        refuse_loop(tree, overlay, &below)?;
        let target = tree.node(base);
        let mut link = backing_for(tree, &node.name, target)?;
        if let Some(name) = name {
            name.clone_into(&mut link.name);
        }
        if let Some(format) = format {
            guard::check_label(target, format)?;
            link.format = Some(format.name().to_owned());
        }
        info.equivalent(format!(
            "qemu-img rebase -b {} -F {} {}",
            word(&link.name),
            target.image()?.format(),
            word(&node.name)
        ));
        backing = Some(link);
        under = Some(below);
    } else {
        info.equivalent(format!("qemu-img rebase -b \"\" {}", word(&node.name)));
    }
    let copying = Copying {
        compare: under.is_some(),
        compress,
    };
    build(info, tree, &chain, under, backing, copying)
}

fn refuse_loop(tree: &Tree, overlay: NodeId, below: &Chain) -> Result<()> {
    if below.depth_of(overlay).is_none() {
        return Ok(());
    }
    let names: Vec<&str> = below.layers().iter().map(|n| n.name.as_str()).collect();
    let message = format!(
        "that would make a loop: {} -> {}",
        tree.node(overlay).name,
        names.join(" -> ")
    );
    Err(Error::new(ErrorKind::Loop, message))
}

fn build(
    mut info: InfoBuilder<'_>,
    tree: &Tree,
    chain: &Chain,
    under: Option<Chain>,
    backing: Option<Backing>,
    copying: Copying,
) -> Result<Plan> {
    let node = chain.top();
    guard::data_writable_beside_snapshots(tree, node)?;
    snapshot_guard::survive_rebase(tree, chain, under.as_ref())?;
    if backing.is_some() {
        data_file::allows_backing(node)?;
    }
    guard::unlocked(chain.layers())?;
    if let Some(under) = &under {
        guard::unlocked(under.layers())?;
    }
    info.read(chain.layers());
    let new_base = under.as_ref().map(|c| c.top().id);
    if let Some(under) = &under {
        info.read(under.layers());
    }
    info.written(node.id);
    info.link(node.id, new_base);
    repair::warning(node).into_iter().for_each(|w| info.warn(w));

    let head = HeadCell::of(node)?;
    let take = Take::Below {
        compare: copying.compare,
        from: 0,
    };
    let flow = Flow::new(chain, under, take, node.image()?.granule())?;
    let target = Qcow2Target::new(node, head.clone(), true)?;
    let sync = vec![super::Step::Sync { node: node.id }];
    let mut copy = Qcow2Stage::new(target, flow, None, sync);
    if copying.compress {
        copy = copy.packed();
    }
    let stages: Vec<Box<dyn Stage>> = vec![
        Box::new(Fixed(clear_unknown_bits(node)?)),
        Box::new(copy),
        Box::new(Relink::new(node.id, head, backing).map_err(|e| node.blame(e))?),
    ];
    Ok(Plan::new(info.build(), stages))
}

/// [`super::Operation::Relink`]: the link alone.
pub(super) fn plan_relink(
    tree: &Tree,
    overlay: NodeId,
    name: Option<&str>,
    format: Option<Format>,
    base: Option<NodeId>,
) -> Result<Plan> {
    let node = tree.node(overlay);
    guard::header_writable(tree, node)?;
    if name.is_some() {
        data_file::allows_backing(node)?;
    }
    let mut info = InfoBuilder::new(tree);
    info.relinked(overlay);
    info.link(overlay, base);
    if let Some(base) = base {
        // The chain below may be broken on purpose (relinking from the top down), but a loop
        // can be seen without opening anything more.
        let mut at = Some(base);
        let mut seen = vec![];
        while let Some(id) = at.filter(|id| !seen.contains(id)) {
            if id == overlay {
                let message = format!(
                    "'{}' would be its own backing file: that is a loop",
                    node.name
                );
                return Err(Error::new(ErrorKind::Loop, message));
            }
            seen.push(id);
            at = tree.backing(id);
        }
        let target = tree.node(base);
        if let Some(format) = format {
            guard::check_label(target, format)?;
        }
        warn_sizes(&mut info, tree, overlay, base);
    } else if let Some(name) = name {
        info.warn(format!(
            "the backing file '{name}' was not found: {} cannot be read until it is there",
            node.file_name()
        ));
    }
    let backing = name.map(|name| Backing {
        name: name.to_owned(),
        format: format.map(|f| f.name().to_owned()),
    });
    info.equivalent(match &backing {
        Some(b) => format!(
            "qemu-img rebase -u -b {} -F {} {}",
            word(&b.name),
            b.format.as_deref().unwrap_or("FMT"),
            word(&node.name)
        ),
        None => format!("qemu-img rebase -u -b \"\" {}", word(&node.name)),
    });
    let head = HeadCell::of(node)?;
    Ok(Plan::new(
        info.build(),
        vec![Box::new(
            Relink::new(overlay, head, backing).map_err(|e| node.blame(e))?,
        )],
    ))
}

fn warn_sizes(info: &mut InfoBuilder<'_>, tree: &Tree, overlay: NodeId, base: NodeId) {
    let (node, target) = (tree.node(overlay), tree.node(base));
    let old = tree.backing(overlay).map(|id| tree.node(id));
    if let Some(old) = old
        && old.virtual_size() < target.virtual_size().min(node.virtual_size())
    {
        info.warn(format!(
            "{} is longer than the old backing file {}: from byte {} on its content will show through; \
             a safe rebase keeps the zeros that were read there",
            target.file_name(),
            old.file_name(),
            old.virtual_size()
        ));
    }
    if target.virtual_size() < node.virtual_size()
        && old.is_none_or(|o| o.virtual_size() > target.virtual_size())
    {
        info.warn(format!(
            "{} is shorter than {}: zeros will be read behind its end",
            target.file_name(),
            node.file_name()
        ));
    }
}
