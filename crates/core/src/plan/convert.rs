//! Writing a guest view into a new image.

use super::create::{new_id, raw_steps};
use super::create_blank::{Blank, data_id};
use super::flow::{Flow, Take};
use super::info::InfoBuilder;
use super::link::HeadCell;
use super::qcow2_target::{Qcow2Stage, Qcow2Target};
use super::raw_target::RawStage;
use super::{CreateOptions, Fixed, Plan, Preallocation, Stage, Step, guard};
use crate::chain::{NodeId, Tree};
use crate::error::Result;
use backchain_format::Format;

/// [`super::Operation::Convert`].
pub(super) fn plan_convert(
    tree: &Tree,
    top: NodeId,
    name: &str,
    options: &CreateOptions,
) -> Result<Plan> {
    let chain = tree.chain(top)?;
    guard::unlocked(chain.layers())?;
    let size = chain.virtual_size();
    let mut info = InfoBuilder::new(tree);
    info.read(chain.layers());
    let id = new_id(tree);
    info.made(id, name);
    info.link(id, None);
    info.equivalent(format!(
        "qemu-img convert -O {} {} {name}",
        options.format,
        tree.node(top).name
    ));
    let seal = vec![Step::Seal { node: id }];
    let create = Fixed(vec![Step::Create { node: id }]);
    // What is written here is written again when it is filled: that must not overtake this.
    let sync = Fixed(vec![Step::Sync { node: id }]);
    let mut stages: Vec<Box<dyn Stage>> = vec![Box::new(create)];
    if options.format == Format::Raw {
        let flow = Flow::new(&chain, None, Take::All, 1)?;
        stages.push(Box::new(Fixed(raw_steps(id, size, options.preallocation)?)));
        stages.push(Box::new(sync));
        // Blocks that were taken must not be made holes again.
        let is_sparse = options.preallocation == Preallocation::Off;
        let len = if is_sparse { 0 } else { size };
        stages.push(Box::new(RawStage::new(id, len, size, flow, seal)));
    } else {
        let blank = Blank::new(options, size, None)?;
        if let Some(path) = blank.data_path(name)? {
            let data = data_id(id);
            info.made(data, &path);
            stages.insert(0, Box::new(Fixed(blank.data_steps(data))));
        }
        stages.push(Box::new(blank.stage(id)));
        stages.push(Box::new(sync));
        let node = blank.into_node(id, name)?;
        let flow = Flow::new(&chain, None, Take::All, node.image()?.granule())?;
        let target = Qcow2Target::new(&node, HeadCell::of(&node)?, true)?;
        stages.push(Box::new(Qcow2Stage::new(target, flow, None, seal)));
    }
    Ok(Plan::new(info.build(), stages))
}
