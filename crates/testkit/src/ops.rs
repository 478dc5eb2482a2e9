//! Random operations on a case, and what each of them must come to.

use crate::case::{Case, id};
use backchain::plan::{
    ConvertOptions, CreateOptions, Operation, Preallocation, RemoveMethod, Target, Window, Zeros,
};
use backchain::{Format, NodeId};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_format::qcow2::Codec;
use proptest::prelude::*;

/// Name of the file that `create` and `convert` make.
pub fn new_name(case: &Case) -> String {
    format!("new{}.img", case.nodes.len())
}

/// Name of the data file of a new image.
pub fn data_name(image: &str) -> String {
    format!("{image}.data")
}

/// Which operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Merge down.
    Commit,
    /// Merge up.
    Pull,
    /// Another backing file, same content.
    Rebase,
    /// Only the link.
    Relink,
    /// A middle layer out.
    Remove,
    /// A new overlay or image.
    Create,
    /// Flatten into a new image.
    Convert,
    /// Write over an image.
    Overwrite,
}

/// An operation still to be fitted to a case.
#[derive(Debug, Clone)]
pub struct Pick {
    /// Which operation.
    pub kind: Kind,
    /// Chooses the layer: the top, the overlay.
    pub layer: u64,
    /// Chooses the base.
    pub base: u64,
    /// Relinks the layers above the top; or no base.
    pub relink: bool,
    /// Empties the top.
    pub empty: bool,
    /// Decides on the rest.
    pub options: u64,
}

/// An operation of one kind.
pub fn pick(kind: Kind) -> impl Strategy<Value = Pick> {
    (any::<(u8, u8)>(), any::<(bool, bool)>(), any::<u16>()).prop_map(
        move |((layer, base), (relink, empty), options)| Pick {
            kind,
            layer: layer.into(),
            base: base.into(),
            relink,
            empty,
            options: options.into(),
        },
    )
}

/// An operation fitted to a case, in the numbers of the case.
#[derive(Debug, Clone)]
pub struct Op {
    /// The same for the engine.
    pub operation: Operation,
    /// Images that must be listed as invalid or broken afterwards: no more, no less.
    pub listed: Vec<usize>,
    /// The image that takes the data of a commit, with its view afterwards.
    pub target: Option<(usize, Vec<u8>)>,
    /// Images with another backing file afterwards.
    pub links: Vec<(usize, Option<usize>)>,
    /// The image that is emptied.
    pub emptied: Option<usize>,
    /// Images that read differently because that was asked for.
    pub asked: Vec<(usize, Vec<u8>)>,
    /// How much of the plan goes between two syncs: tiny windows make many of them.
    pub window: Window,
    /// View and backing file of a new image.
    pub made: Option<(Vec<u8>, Option<usize>)>,
}

impl Op {
    fn new(operation: Operation) -> Self {
        Self {
            operation,
            listed: Vec::new(),
            target: None,
            links: Vec::new(),
            emptied: None,
            asked: Vec::new(),
            window: Window::default(),
            made: None,
        }
    }
}

impl Pick {
    /// Fits the operation to the images there are; `None` when the case has none for it.
    pub fn fit(&self, case: &Case) -> Option<Op> {
        let mut op = self.operation(case)?;
        op.window = match self.options % 5 {
            0 => Window::default(),
            1 | 2 => Window {
                bytes: 1,
                tables: 1,
            },
            3 => Window {
                bytes: 4096,
                tables: 512,
            },
            _ => Window {
                bytes: 50_000,
                tables: 3000,
            },
        };
        Some(op)
    }

    fn operation(&self, case: &Case) -> Option<Op> {
        match self.kind {
            Kind::Commit => self.commit(case),
            Kind::Pull => self.pull(case),
            Kind::Rebase => self.rebase(case),
            Kind::Relink => self.relink(case),
            Kind::Remove => self.remove(case),
            Kind::Create => self.create(case),
            Kind::Convert => self.convert(case),
            Kind::Overwrite => self.overwrite(case),
        }
    }

    fn commit(&self, case: &Case) -> Option<Op> {
        let top = choose(self.layer, &overlays(case))?;
        let base = choose(self.base, &case.chain(top)[1..])?;
        let children = children(case, top);
        let relink = if self.relink { children } else { Vec::new() };
        let above = case.nodes[top].parent == Some(base);
        let empty_top = self.empty && relink.is_empty() && above;
        let mut op = Op::new(Operation::Commit {
            top: id(top),
            base: id(base),
            relink: relink.iter().map(|n| id(*n)).collect(),
            empty_top,
            bitmaps: false,
            allow_broken: true,
            allow_plaintext: true,
        });
        op.commit(case, top, base);
        op.links = relink.into_iter().map(|n| (n, Some(base))).collect();
        op.emptied = empty_top.then_some(top);
        Some(op)
    }

    fn pull(&self, case: &Case) -> Option<Op> {
        let overlay = choose(self.layer, &overlays(case))?;
        let base = self.base_in(&case.chain(overlay)[1..]);
        let mut op = Op::new(Operation::Pull {
            overlay: id(overlay),
            base: base.map(id),
        });
        op.links = vec![(overlay, base)];
        Some(op)
    }

    fn rebase(&self, case: &Case) -> Option<Op> {
        let overlay = choose(self.layer, &qcow2(case))?;
        let base = self.base_in(&others(case, overlay));
        let base = base.filter(|_| case.raw_data(overlay, &case.files).is_none());
        let mut op = Op::new(Operation::Rebase {
            overlay: id(overlay),
            base: base.map(id),
            name: None,
            format: None,
            compress: self.options.is_multiple_of(3),
        });
        op.links = vec![(overlay, base)];
        Some(op)
    }

    fn relink(&self, case: &Case) -> Option<Op> {
        let overlay = choose(self.layer, &qcow2(case))?;
        let base = self.base_in(&others(case, overlay));
        let base = base.filter(|_| case.raw_data(overlay, &case.files).is_none());
        let mut op = Op::new(Operation::Relink {
            overlay: id(overlay),
            name: base.map(|b| case.nodes[b].name.clone()),
            format: base.map(|b| case.nodes[b].format),
            base: base.map(id),
        });
        op.links = vec![(overlay, base)];
        let mut relinked = case.clone();
        relinked.nodes[overlay].parent = base;
        let above = (0..case.nodes.len()).filter(|n| case.reaches(*n, overlay));
        op.asked = above.map(|n| (n, relinked.view(n))).collect();
        Some(op)
    }

    fn remove(&self, case: &Case) -> Option<Op> {
        let middle = |n: &usize| !children(case, *n).is_empty();
        let middles: Vec<usize> = overlays(case).into_iter().filter(middle).collect();
        let layer = choose(self.layer, &middles)?;
        let above = |n: &usize| *n != layer && case.reaches(*n, layer);
        let above: Vec<usize> = (0..case.nodes.len()).filter(above).collect();
        let active = choose(self.base, &above)?;
        let method = if self.empty {
            RemoveMethod::Commit
        } else {
            RemoveMethod::Rebase
        };
        let mut op = Op::new(Operation::Remove {
            layer: id(layer),
            active: id(active),
            method: Some(method),
            allow_broken: true,
            allow_plaintext: true,
        });
        let parent = case.nodes[layer].parent?;
        if method == RemoveMethod::Commit {
            op.commit(case, layer, parent);
        }
        let above = children(case, layer);
        op.links = above.into_iter().map(|n| (n, Some(parent))).collect();
        Some(op)
    }

    fn create(&self, case: &Case) -> Option<Op> {
        let all: Vec<usize> = (0..case.nodes.len()).collect();
        let backing = self.base_in(&all);
        let mut options = self.create_options();
        options.format = Format::Qcow2;
        let mut view = backing.map(|b| case.view(b)).unwrap_or_default();
        if self.empty || backing.is_none() {
            // Any size, longer or shorter than the backing file.
            let size = 512 * (1 + self.layer * 7);
            options.size = Some(size);
            view.resize(to_usize(size), 0);
        }
        self.add_data_file(case, backing.is_none(), &mut options);
        if backing.is_some() && !options.extended_l2 {
            // Without subclusters nothing of the backing file would be seen.
            options.preallocation = Preallocation::Off;
        }
        let mut op = Op::new(Operation::Create {
            name: new_name(case),
            options,
            backing: backing.map(id),
        });
        op.made = Some((view, backing));
        Some(op)
    }

    fn convert(&self, case: &Case) -> Option<Op> {
        let all: Vec<usize> = (0..case.nodes.len()).collect();
        let top = choose(self.layer, &all)?;
        let mut sources = vec![top];
        if self.empty {
            sources.extend(choose(self.base, &all));
        }
        let mut create = self.create_options();
        let several = sources.len() > 1;
        let backing = (self.relink && !several && create.format == Format::Qcow2)
            .then(|| choose(self.base, &all))
            .flatten();
        self.add_data_file(case, backing.is_none(), &mut create);
        let compress = create.format == Format::Qcow2 && self.base.is_multiple_of(3);
        if compress || backing.is_some() && !create.extended_l2 {
            create.preallocation = Preallocation::Off;
        }
        let mut view = case.view(top);
        if several {
            view = sources
                .iter()
                .flat_map(|n| sectors(case.view(*n)))
                .collect();
        } else if create.format == Format::Raw {
            view = sectors(view);
        }
        let mut convert = self.convert_options(compress);
        if !several && backing.is_none() && self.options % 3 == 1 {
            // Any part, odd or not, up to the end or behind it.
            let start = (self.base * 700).min(to_u64(view.len()));
            let len = (self.layer * 900).min(to_u64(view.len()) - start);
            convert.window = Some((start, self.layer * 900));
            view = sectors(view[to_usize(start)..to_usize(start + len)].to_vec());
            let size = (self.layer * 900).next_multiple_of(512);
            view.resize(to_usize(size), 0);
        }
        let mut op = Op::new(Operation::Convert {
            sources: sources.into_iter().map(id).collect(),
            target: Target::New {
                name: new_name(case),
                options: create,
                backing: backing.map(id),
            },
            options: convert,
        });
        op.made = Some((view, backing));
        Some(op)
    }

    /// Gives some new images a data file: a raw one only where there is no backing file.
    fn add_data_file(&self, case: &Case, alone: bool, options: &mut CreateOptions) {
        if options.v3 && options.format == Format::Qcow2 && self.options >= 0xc000 {
            options.data_file = Some(data_name(&new_name(case)));
            options.data_file_raw = alone && self.empty;
        }
    }

    /// Writes over an image: all that reaches it otherwise than through itself changes.
    fn overwrite(&self, case: &Case) -> Option<Op> {
        let all: Vec<usize> = (0..case.nodes.len()).collect();
        let source = choose(self.layer, &all)?;
        let fits = |n: &usize| {
            !case.reaches(source, *n) && case.view(*n).len() >= sectors(case.view(source)).len()
        };
        let targets: Vec<usize> = all.into_iter().filter(fits).collect();
        let target = choose(self.base, &targets)?;
        let compress = case.nodes[target].format == Format::Qcow2 && self.options.is_multiple_of(3);
        let mut op = Op::new(Operation::Convert {
            sources: vec![id(source)],
            target: Target::Existing {
                node: id(target),
                is_zero: false,
                over_backing: self.relink,
            },
            options: self.convert_options(compress),
        });
        let mut view = case.view(target);
        let upper = case.view(source);
        view[..upper.len()].copy_from_slice(&upper);
        let breaks = |n: &usize| *n != target && case.reaches(*n, target);
        op.listed = (0..case.nodes.len()).filter(breaks).collect();
        op.target = Some((target, view));
        Some(op)
    }

    fn convert_options(&self, compress: bool) -> ConvertOptions {
        ConvertOptions {
            zeros: match self.options % 7 {
                0 => Zeros::Written,
                1 | 2 => Zeros::Known,
                3 => Zeros::Found(512),
                4 => Zeros::Found(1536),
                5 => Zeros::Found(65536),
                _ => Zeros::USUAL,
            },
            compress,
            salvage: self.options.is_multiple_of(11),
            snapshot: None,
            window: None,
            bitmaps: None,
        }
    }

    fn base_in(&self, list: &[usize]) -> Option<usize> {
        if self.options.is_multiple_of(4) {
            None
        } else {
            choose(self.base, list)
        }
    }

    fn create_options(&self) -> CreateOptions {
        let n = self.options;
        let v3 = !n.is_multiple_of(4);
        let bits = [9, 12, 14, 16][to_usize(n / 4 % 4)];
        let raw = (n / 16).is_multiple_of(4);
        let preallocation = match n / 4096 % 8 {
            1 if !raw => Preallocation::Metadata,
            1 | 2 => Preallocation::Falloc,
            3 => Preallocation::Full,
            _ => Preallocation::Off,
        };
        CreateOptions {
            preallocation,
            format: if raw { Format::Raw } else { Format::Qcow2 },
            size: None,
            cluster_size: 1 << bits,
            v3,
            refcount_bits: if v3 { 1 << (n / 64 % 7) } else { 16 },
            extended_l2: v3 && bits >= 14 && (n / 512).is_multiple_of(2),
            lazy_refcounts: v3 && (n / 1024).is_multiple_of(2),
            codec: if v3 && (n / 2048).is_multiple_of(2) {
                Codec::Zstd
            } else {
                Codec::Zlib
            },
            ..CreateOptions::default()
        }
    }
}

impl Op {
    /// What committing `top` into `base` comes to.
    fn commit(&mut self, case: &Case, top: usize, base: usize) {
        let breaks = |n: &usize| *n != base && case.reaches(*n, base) && !case.reaches(*n, top);
        self.listed = (0..case.nodes.len()).filter(breaks).collect();
        // Top's view, and behind its end what base has there itself.
        let (upper, mut view) = (case.view(top), case.view(base));
        view.resize(view.len().max(upper.len()), 0);
        view[..upper.len()].copy_from_slice(&upper);
        if case.nodes[base].format == Format::Raw {
            view = sectors(view);
        }
        self.target = Some((base, view));
    }

    /// The number of the new image in the engine's tree.
    pub fn new_id(case: &Case) -> NodeId {
        id(case.nodes.len())
    }
}

/// The view of a raw file: whole sectors.
fn sectors(mut view: Vec<u8>) -> Vec<u8> {
    let len = backchain_format::raw::virtual_size(to_u64(view.len()));
    view.resize(to_usize(len), 0);
    view
}

fn choose(number: u64, list: &[usize]) -> Option<usize> {
    let index = number.checked_rem(to_u64(list.len()))?;
    list.get(to_usize(index)).copied()
}

fn overlays(case: &Case) -> Vec<usize> {
    (0..case.nodes.len())
        .filter(|n| case.nodes[*n].parent.is_some())
        .collect()
}

fn qcow2(case: &Case) -> Vec<usize> {
    (0..case.nodes.len())
        .filter(|n| case.nodes[*n].format == Format::Qcow2)
        .collect()
}

fn children(case: &Case, of: usize) -> Vec<usize> {
    (0..case.nodes.len())
        .filter(|n| case.nodes[*n].parent == Some(of))
        .collect()
}

/// Images that `overlay` can be put on without a loop.
fn others(case: &Case, overlay: usize) -> Vec<usize> {
    (0..case.nodes.len())
        .filter(|n| !case.reaches(*n, overlay))
        .collect()
}
