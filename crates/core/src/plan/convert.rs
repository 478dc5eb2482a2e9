//! Writing guest views into a new image or over an existing one.

use super::bitmaps::usable;
use super::convert_zeros::Zeros;
use super::create::{link, luks_steps, luks_volume, new_id, raw_steps, round_size};
use super::create_blank::{Blank, data_id, new_node};
use super::flow::{Flow, Take};
use super::info::{InfoBuilder, word};
use super::link::{HeadCell, clear_unknown_bits};
use super::qcow2_stage::Qcow2Stage;
use super::qcow2_target::Qcow2Target;
use super::raw_target::RawStage;
use super::sink::Manner;
use super::{
    Broken, ConvertOptions, CreateOptions, Fixed, Plan, Preallocation, Stage, Step, Target, guard,
    repair,
};
use crate::chain::{Chain, CipherCell, Node, NodeId, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use backchain_format::{Format, raw};
use std::sync::Arc;

/// [`super::Operation::Convert`].
pub(super) fn plan_convert(
    tree: &Tree,
    sources: &[NodeId],
    target: &Target,
    options: &ConvertOptions,
) -> Result<Plan> {
    let chain = |&id| match &options.snapshot {
        Some(query) => tree.chain_at(id, query),
        None => tree.chain(id),
    };
    let chains: Vec<Chain> = sources.iter().map(chain).collect::<Result<_>>()?;
    let mut info = InfoBuilder::new(tree);
    for chain in &chains {
        guard::unlocked(chain.layers())?;
        info.read(chain.layers());
    }
    let work = Convert {
        tree,
        chains,
        options,
    };
    if options.compress && work.preallocates(target) {
        return Err(invalid(
            "Compression and preallocation not supported at the same time",
        ));
    }
    let above = match target {
        Target::New { backing, .. } => backing.is_some(),
        Target::Existing { over_backing, .. } => *over_backing,
    };
    if options.window.is_some() && (above || work.chains.len() > 1) {
        return Err(invalid(
            "a part can only be taken of one source, and not onto a backing file",
        ));
    }
    match target {
        Target::New {
            name,
            options,
            backing,
        } => work.to_new(info, name, options, *backing),
        Target::Existing {
            node,
            is_zero,
            over_backing,
        } => work.over(info, *node, *is_zero, *over_backing),
    }
}

struct Convert<'a> {
    tree: &'a Tree,
    chains: Vec<Chain>,
    options: &'a ConvertOptions,
}

impl Convert<'_> {
    fn preallocates(&self, target: &Target) -> bool {
        matches!(target, Target::New { options, .. } if options.preallocation != Preallocation::Off)
    }

    /// Bytes of all sources together: several of them in whole sectors each.
    fn size(&self) -> Result<u64> {
        let size = |chain: &Chain| chain.virtual_size();
        if let Some((_, len)) = self.options.window {
            return round_size(len).ok_or_else(|| invalid("the part to convert is too large"));
        }
        if let [only] = self.chains.as_slice() {
            return Ok(size(only));
        }
        let whole = |chain| Some(raw::virtual_size(size(chain))).filter(|_| size(chain) < 1 << 63);
        let sum = self
            .chains
            .iter()
            .try_fold(0u64, |sum, chain| sum.checked_add(whole(chain)?));
        sum.filter(|_| !self.chains.is_empty())
            .ok_or_else(|| invalid("the sources are too large together, or there are none"))
    }

    /// The flow of all sources, for a target with this granule.
    fn flow(&self, under: Option<Chain>, take: Take, granule: u64, shape: Shape) -> Result<Flow> {
        let mut flows = self.chains.iter().map(|chain| {
            let mut flow = Flow::new(chain, under.clone(), take, granule)?;
            if let Some((least, only_packed)) = shape.find {
                flow = flow.finding_zeros(least, only_packed);
            }
            if self.options.salvage {
                flow = flow.salvaging();
            }
            if shape.opaque {
                flow = flow.over_something();
            }
            if let Some((start, len)) = self.options.window {
                flow = flow.window(start, len)?;
            }
            Ok(flow)
        });
        let mut flow = flows
            .next()
            .unwrap_or_else(|| Err(invalid("there is nothing to convert")))?;
        for next in flows {
            flow.then(next?);
        }
        Ok(flow)
    }

    /// Which runs of zeros to look for. `sparse`: the executor leaves out blocks of zeros of
    /// plain data itself.
    fn find(&self, sparse: bool) -> Option<(u64, bool)> {
        match self.options.zeros {
            Zeros::Found(least) => Some((least, sparse && least <= BLOCK)),
            Zeros::Written | Zeros::Known if self.options.salvage => Some((u64::MAX, true)),
            Zeros::Written | Zeros::Known => None,
        }
    }

    fn manner(&self, raw: bool, explicit_zeros: bool) -> Manner {
        let zeros = self.options.zeros;
        Manner {
            sparse: raw && matches!(zeros, Zeros::Found(least) if least <= BLOCK),
            whole: !raw,
            solid: zeros == Zeros::Written,
            explicit_zeros,
        }
    }

    fn to_new(
        &self,
        mut info: InfoBuilder<'_>,
        name: &str,
        options: &CreateOptions,
        backing: Option<NodeId>,
    ) -> Result<Plan> {
        let size = self.size()?;
        let id = new_id(self.tree);
        info.made(id, name);
        info.link(id, backing);
        let first = self.chains.first().map_or("", |chain| &chain.top().name);
        info.equivalent(format!(
            "qemu-img convert -O {} {} {}",
            options.format,
            word(first),
            word(name)
        ));
        let below = backing.map(|id| self.tree.node(id));
        let under = backing.map(|id| self.tree.chain(id)).transpose()?;
        if let Some(under) = &under {
            info.read(under.layers());
        }
        let link = link(self.tree, name, options, below.map(Arc::as_ref))?;
        if self.chains.len() > 1 && link.is_some() {
            return Err(invalid(
                "Having a backing file for the target makes no sense when concatenating multiple input images",
            ));
        }
        let seal = vec![Step::Seal { node: id }];
        let solid = self.options.zeros == Zeros::Written;
        // What nobody wrote to reads as noise there, not as zeros.
        let noisy = options.format == Format::Luks
            || options.encryption.is_some() && options.preallocation != Preallocation::Off;
        let take = match (&under, solid || noisy) {
            (Some(_), _) => Take::Onto,
            (None, true) => Take::Every,
            (None, false) => Take::All,
        };
        let shape = |raw| Shape {
            find: self.find(raw),
            opaque: false,
        };
        // What is written first is written again when it is filled: that must not overtake it.
        let sync = Fixed(vec![Step::Sync { node: id }]);
        let mut stages: Vec<Box<dyn Stage>> =
            vec![Box::new(Fixed(vec![Step::Create { node: id }]))];
        if options.format == Format::Raw {
            if self.options.compress {
                return Err(no_compression());
            }
            if link.is_some() {
                return Err(invalid("Backing file not supported for file format 'raw'"));
            }
            let is_sparse = options.preallocation == Preallocation::Off;
            let flow = self.flow(None, take, 1, shape(is_sparse))?;
            stages.push(Box::new(Fixed(raw_steps(id, size, options.preallocation)?)));
            stages.push(Box::new(sync));
            // Blocks that were taken must not be made holes again.
            let len = if is_sparse { 0 } else { size };
            let stage =
                RawStage::new(id, len, size, flow, seal).in_manner(self.manner(true, false));
            stages.push(Box::new(stage));
        } else if options.format == Format::Luks {
            if self.options.compress {
                return Err(no_compression());
            }
            let volume = luks_volume(options)?;
            info.encrypted(id, volume);
            let payload = volume.area.header.payload_offset;
            let header = new_node(id, name, Format::Luks, Arc::new(volume.bytes.clone()))?;
            let node = Arc::new(Node {
                unlocked: CipherCell::of(Some(Arc::clone(&volume.cipher))),
                ..header
            });
            let flow = self.flow(None, take, 1, shape(false))?;
            stages.push(Box::new(Fixed(luks_steps(id, size, options)?)));
            stages.push(Box::new(sync));
            let len = payload.saturating_add(size);
            let stage = RawStage::new(id, len, size, flow, seal).encrypted(&node, payload)?;
            stages.push(Box::new(stage.in_manner(self.manner(true, false))));
        } else {
            let explicit = link.is_some();
            let blank = Blank::new(options, size, link)?;
            if let Some(path) = blank.data_path(name)? {
                let data = data_id(id);
                info.made(data, &path);
                stages.insert(0, Box::new(Fixed(blank.data_steps(data))));
            }
            if let Some(volume) = &options.encryption {
                if self.options.compress {
                    let message = "Compression and encryption not supported at the same time";
                    return Err(invalid(message));
                }
                info.encrypted(id, volume);
                info.encrypted(data_id(id), volume);
            }
            stages.push(Box::new(blank.stage(id)));
            stages.push(Box::new(sync));
            let node = blank.into_node(id, name)?;
            // Where every cluster has its place already, less than a cluster can be left out.
            let granule = match options.preallocation {
                Preallocation::Off => node.image()?.granule(),
                _ => 1,
            };
            let flow = self.flow(under, take, granule, shape(false))?;
            let target = Qcow2Target::new(&node, HeadCell::of(&node)?, true)?
                .in_manner(self.manner(false, explicit))
                .unrecorded();
            let target = self.with_bitmaps(target, size, &mut info)?;
            let stage = Qcow2Stage::new(target, flow, None, seal);
            stages.push(Box::new(self.packed(stage)));
        }
        Ok(Plan::new(info.build(), stages))
    }

    /// The target with the source's bitmaps, where they are wanted.
    fn with_bitmaps(
        &self,
        target: Qcow2Target,
        size: u64,
        info: &mut InfoBuilder<'_>,
    ) -> Result<Qcow2Target> {
        let (Some(broken), [source]) = (self.options.bitmaps, self.chains.as_slice()) else {
            return Ok(target);
        };
        // They belong to the disk as it is now, whatever snapshot is read.
        let source = self.tree.node(source.top().id);
        let mut skipped = Vec::new();
        let target = target.with_bitmaps_of(source, size, broken == Broken::Skip, &mut skipped)?;
        for name in skipped {
            info.warn(format!("Skipping inconsistent bitmap '{name}'"));
        }
        Ok(target)
    }

    /// Fails when the bitmaps of the source cannot become bitmaps of `target`, in QEMU's words.
    fn check_bitmaps(&self, target: &Node) -> Result<()> {
        let (Some(broken), [source]) = (self.options.bitmaps, self.chains.as_slice()) else {
            return Ok(());
        };
        let source = self.tree.node(source.top().id);
        let wanted = usable(source, broken == Broken::Skip, &mut Vec::new())?;
        let there = usable(target, true, &mut Vec::new())?;
        for entry in wanted.iter().rev() {
            let name = &entry.name;
            if there.iter().any(|known| known.name == *name) {
                let message =
                    format!("Failed to create bitmap {name}: Bitmap already exists: {name}");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            let sizes = (target.virtual_size(), source.virtual_size());
            if sizes.0 != sizes.1 {
                let message = format!(
                    "Failed to populate bitmap {name}: Bitmaps are of different sizes \
                     (destination size is {}, source size is {}) and can't be merged",
                    sizes.0, sizes.1
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        Ok(())
    }

    fn packed(&self, stage: Qcow2Stage) -> Qcow2Stage {
        if self.options.compress {
            stage.packed()
        } else {
            stage
        }
    }

    /// Writes over an image that is there.
    fn over(
        &self,
        mut info: InfoBuilder<'_>,
        id: NodeId,
        is_zero: bool,
        over_backing: bool,
    ) -> Result<Plan> {
        let tree = self.tree;
        let node = tree.node(id);
        guard::data_writable_beside_snapshots(tree, node)?;
        if self.chains.iter().any(|chain| chain.depth_of(id).is_some()) {
            let message = "the target is one of the images that are read";
            return Err(Error::new(ErrorKind::InUse, message).about(&node.name));
        }
        if self.size()? > node.virtual_size() {
            return Err(invalid("output file is smaller than input file"));
        }
        let chain = tree.chain(id)?;
        info.read(chain.layers());
        info.written(id);
        let mut broken = tree.dependents(id);
        broken.retain(|id| !tree.is_given_up(*id));
        info.broken(&broken);
        repair::warning(node).into_iter().for_each(|w| info.warn(w));
        let under = chain.below(1);
        let solid = self.options.zeros == Zeros::Written;
        let take = match (over_backing, is_zero) {
            (true, _) => Take::Onto,
            (false, true) if !solid => Take::All,
            (false, _) => Take::Every,
        };
        let raw = node.image()?.as_qcow2().is_none();
        let shape = Shape {
            // Blocks that hold something now have to be made zero: they are looked for here.
            find: self.find(false),
            opaque: under.is_some() && !over_backing,
        };
        // What the target reads the same already may be its own or its backing file's.
        let under = over_backing.then(|| chain.clone());
        let flow = self.flow(under, take, node.image()?.granule(), shape)?;
        let flow = flow.followed_by(chain);
        let manner = self.manner(raw, !is_zero);
        let seal = vec![Step::Seal { node: id }];
        let stage: Box<dyn Stage> = match node.image()? {
            Image::Raw { .. } | Image::Luks(_) if self.options.compress => {
                return Err(no_compression());
            }
            Image::Luks(volume) => {
                let stage = RawStage::new(id, node.source.len(), 0, flow, seal);
                let stage = stage.encrypted(node, volume.payload())?;
                Box::new(stage.in_manner(manner))
            }
            Image::Raw { offset, .. } => {
                let stage = RawStage::new(id, node.source.len(), 0, flow, seal);
                Box::new(stage.at(*offset).in_manner(manner))
            }
            Image::Qcow2(_) => {
                let target = Qcow2Target::new(node, HeadCell::of(node)?, true)?.recording()?;
                self.check_bitmaps(node)?;
                let target = self.with_bitmaps(target, node.virtual_size(), &mut info)?;
                let stage = Qcow2Stage::new(target.in_manner(manner), flow, None, seal);
                Box::new(self.packed(stage))
            }
        };
        let stages: Vec<Box<dyn Stage>> = vec![Box::new(Fixed(clear_unknown_bits(node)?)), stage];
        Ok(Plan::new(info.build(), stages))
    }
}

/// How the sources look to a target.
#[derive(Clone, Copy)]
struct Shape {
    /// Runs of zeros of so many bytes are looked for; in compressed clusters alone.
    find: Option<(u64, bool)>,
    /// Below the target there is something.
    opaque: bool,
}

/// Blocks in which the executors leave out zeros, in bytes.
const BLOCK: u64 = 4096;

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn no_compression() -> Error {
    invalid("Compression not supported for this file format")
}
