//! Operations: their command lines, when they make sense, and what they do to the model.

use super::model::{Bitmap, Data, Features, Snapshot, World, len};

/// Who carries an operation out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tool {
    /// backchain.
    Own,
    /// qemu-img or qemu-io.
    Qemu,
}

/// A change of one internal snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SnapshotOp {
    /// `-c`.
    Create,
    /// `-a`.
    Apply,
    /// `-d`.
    Delete,
}

/// A change of one bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BitmapOp {
    /// `--add`.
    Add,
    /// `--remove`.
    Remove,
    /// `--clear`.
    Clear,
    /// `--enable`.
    Enable,
    /// `--disable`.
    Disable,
}

/// One operation. Layers go by name; all but the named ones concern the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    /// A new image, on the top if there is one.
    Create {
        name: String,
        features: Option<Features>,
        size: u64,
    },
    /// The guest writes; `crash`: and QEMU dies.
    Write {
        data: Data,
        offset: u64,
        len: u64,
        crash: bool,
    },
    /// `commit`, with `-b` where a base is named and `-d` where `drop` says so.
    Commit { base: Option<String>, drop: bool },
    /// `blockcommit --top TOP --base BASE ACTIVE`.
    Blockcommit { top: String, base: String },
    /// Safe rebase of `layer` onto one below it, or onto nothing.
    Rebase { layer: String, base: Option<String> },
    /// `blockpull`.
    Pull { base: Option<String> },
    /// `remove --active TOP`.
    Remove { layer: String, method: u8 },
    /// `convert`: the new image takes the place of the chain.
    Convert {
        name: String,
        features: Option<Features>,
        packed: bool,
    },
    /// `snapshot`.
    Snapshot { op: SnapshotOp, tag: String },
    /// `resize`.
    Resize { size: u64 },
    /// `bitmap`.
    Bitmap { op: BitmapOp, name: String },
    /// `amend -o`.
    Amend { features: Features },
}

impl Op {
    /// What the operation is called in statistics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Op::Create { .. } => "create",
            Op::Write {
                data: Data::Discard,
                ..
            } => "discard",
            Op::Write { crash: true, .. } => "write, then crash",
            Op::Write { .. } => "write",
            Op::Commit { .. } => "commit",
            Op::Blockcommit { .. } => "blockcommit",
            Op::Rebase { .. } => "rebase",
            Op::Pull { .. } => "pull",
            Op::Remove { .. } => "remove",
            Op::Convert { packed: true, .. } => "convert -c",
            Op::Convert { .. } => "convert",
            Op::Snapshot {
                op: SnapshotOp::Create,
                ..
            } => "snapshot -c",
            Op::Snapshot {
                op: SnapshotOp::Apply,
                ..
            } => "snapshot -a",
            Op::Snapshot {
                op: SnapshotOp::Delete,
                ..
            } => "snapshot -d",
            Op::Resize { .. } => "resize",
            Op::Bitmap { .. } => "bitmap",
            Op::Amend { .. } => "amend",
        }
    }

    /// Whether `tool` has the operation at all.
    pub(super) fn exists(&self, tool: Tool) -> bool {
        match (self, tool) {
            (Op::Write { .. }, Tool::Own) => false,
            (Op::Blockcommit { .. } | Op::Pull { .. } | Op::Remove { .. }, Tool::Qemu) => false,
            (Op::Snapshot { .. }, Tool::Own) => super::OWN_SNAPSHOTS,
            (Op::Resize { .. }, Tool::Own) => super::OWN_RESIZES,
            (Op::Bitmap { .. }, Tool::Own) => super::OWN_BITMAPS,
            (Op::Amend { .. }, Tool::Own) => super::OWN_AMENDS,
            (Op::Convert { packed: true, .. }, Tool::Own) => super::OWN_PACKS,
            _ => true,
        }
    }

    /// Whether it makes sense here; where one of the programs is known to do the wrong thing,
    /// it does not.
    pub(super) fn applies(&self, world: &World, tool: Tool) -> bool {
        let qemu = tool == Tool::Qemu;
        let Some(top) = world.top() else {
            return matches!(self, Op::Create { .. });
        };
        let depth = world.layers.len();
        let below = depth > 1;
        let index = |name: &String| world.index(name);
        let extended = |range: &[super::model::Layer]| range.iter().any(|l| l.is_extended());
        match self {
            Op::Create { features, .. } => features.is_some() && depth < 5,
            Op::Write {
                data,
                offset,
                len,
                crash,
            } => {
                let aligned = |unit: u64| offset % unit == 0 && len % unit == 0;
                let fits = offset + len <= top.size();
                let Some(features) = &top.features else {
                    return fits && !crash && matches!(data, Data::Byte(_) | Data::Noise(_));
                };
                // QEMU takes whole clusters only, or what ends with the disk.
                let cluster = features.cluster;
                let packable =
                    offset % cluster == 0 && (len % cluster == 0 || offset + len == top.size());
                fits && (!crash
                    || features.lazy && top.bitmaps.is_empty() && !matches!(data, Data::Packed(_)))
                    && (!matches!(data, Data::Packed(_)) || packable)
                    && (matches!(data, Data::Byte(_)) || aligned(512))
            }
            Op::Commit { base, drop } => {
                let base = match base {
                    Some(base) => index(base),
                    None => depth.checked_sub(2),
                };
                let Some(base) = base.filter(|&base| base + 1 < depth) else {
                    return false;
                };
                let goes = *drop || base + 2 < depth;
                let bottom = &world.layers[base];
                // qemu-img changes what the snapshots of an emptied overlay show, cannot put
                // zeros into a version 2 image over a backing file, and writes into a base
                // whose refcounts are behind without putting them right.
                let wrong = bottom.dirty
                    || !goes && !top.snapshots.is_empty()
                    || bottom.is_v2() && base > 0
                    || extended(&world.layers[base..]) && base + 2 < depth;
                !(qemu && wrong)
            }
            Op::Blockcommit { top, base } => match (index(top), index(base)) {
                (Some(top), Some(base)) => base < top,
                _ => false,
            },
            Op::Rebase { layer, base } => {
                let Some(layer) = index(layer).filter(|&at| at > 0) else {
                    return false;
                };
                let base = match base {
                    Some(base) => match index(base) {
                        Some(base) if base < layer => Some(base),
                        _ => return false,
                    },
                    None => None,
                };
                let wrong = !world.layers[layer].snapshots.is_empty()
                    || world.layers[layer].is_v2()
                    || extended(&world.layers[base.unwrap_or(0)..=layer]);
                !(qemu && wrong)
            }
            Op::Pull { base } => match base {
                Some(base) => index(base).is_some_and(|base| base + 2 < depth),
                None => below,
            },
            Op::Remove { layer, .. } => index(layer).is_some_and(|at| at > 0 && at + 1 < depth),
            Op::Convert {
                packed, features, ..
            } => features.is_some() || !packed,
            Op::Snapshot { op, tag } => {
                let here = top.snapshots.iter().any(|s| s.tag == *tag);
                let Some(features) = &top.features else {
                    return false;
                };
                match op {
                    SnapshotOp::Create => {
                        !here && features.refcount_bits >= 8 && top.snapshots.len() < 4
                    }
                    // Neither program goes back in an image with bitmaps.
                    SnapshotOp::Apply => here && top.bitmaps.is_empty(),
                    SnapshotOp::Delete => here,
                }
            }
            Op::Resize { size } => {
                // Neither program resizes a version 2 image with snapshots.
                let fits = *size > 0 && (!top.is_v2() || top.snapshots.is_empty());
                // QEMU leaves the rest of a last cluster as it was, on a rebase too, and growing
                // shows it.
                let cluster = top.features.as_ref().map_or(512, |f| f.cluster);
                let grows = *size > top.size() && !(qemu && top.size() % cluster != 0);
                fits && (grows || *size < top.size() && size % cluster == 0)
            }
            Op::Bitmap { op, name } => {
                let bitmap = top.bitmaps.iter().find(|b| b.name == *name);
                let v3 = top.features.as_ref().is_some_and(|f| f.v3);
                v3 && match op {
                    BitmapOp::Add => bitmap.is_none() && top.bitmaps.len() < 3,
                    BitmapOp::Enable => bitmap.is_some_and(|b| !b.enabled),
                    BitmapOp::Disable => bitmap.is_some_and(|b| b.enabled),
                    _ => bitmap.is_some(),
                }
            }
            Op::Amend { features } => top.features.as_ref().is_some_and(|now| {
                // Only these can be changed, and version 2 has no room for the rest.
                let same = Features {
                    v3: now.v3,
                    lazy: now.lazy,
                    refcount_bits: now.refcount_bits,
                    ..features.clone()
                } == *now;
                let fits = features.v3
                    || features.refcount_bits == 16
                        && !features.lazy
                        && !features.extended
                        && !features.zstd
                        && top.bitmaps.is_empty()
                        && top.snapshots.iter().all(|s| s.view.len() == top.view.len());
                let counts = features.refcount_bits >= 8 || top.snapshots.is_empty();
                // qemu-img 10.0.2 never ends when it changes the width beside large clusters.
                let hangs = features.refcount_bits != now.refcount_bits && now.cluster > 1 << 14;
                same && fits && counts && !(qemu && hangs) && *features != *now
            }),
        }
    }

    /// The parts that a write consists of: QEMU packs a cluster only where there is none yet, so
    /// each may fail by itself.
    fn parts(&self, world: &World, offset: u64, len: u64) -> Vec<(u64, u64)> {
        let cluster = world
            .top()
            .and_then(|t| t.features.as_ref())
            .map(|f| f.cluster);
        match (self, cluster) {
            (
                Op::Write {
                    data: Data::Packed(_),
                    ..
                },
                Some(cluster),
            ) => {
                let end = offset + len;
                let starts = (offset..end).step_by(super::model::len(cluster));
                starts.map(|at| (at, cluster.min(end - at))).collect()
            }
            _ => vec![(offset, len)],
        }
    }

    /// What a write becomes that was done only in part: `done` tells it of each part.
    pub(super) fn done_in_part(&self, world: &World, done: &[bool]) -> Vec<Op> {
        let Op::Write {
            data,
            offset,
            len,
            crash,
        } = self
        else {
            return Vec::new();
        };
        let parts = self.parts(world, *offset, *len).into_iter().zip(done);
        let done = parts.filter(|(_, done)| **done);
        let one = |((offset, len), _)| Op::Write {
            data: data.clone(),
            offset,
            len,
            crash: *crash,
        };
        done.map(one).collect()
    }

    /// The command lines, without the program.
    pub(super) fn commands(&self, world: &World, tool: Tool) -> Vec<(&'static str, Vec<String>)> {
        let main = match tool {
            Tool::Own => "backchain",
            Tool::Qemu => "qemu-img",
        };
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let top = world.top().map(|t| t.name.clone()).unwrap_or_default();
        let top_format = world.top().map_or("qcow2", |t| t.format());
        let named = |name: &String| world.index(name).map(|at| &world.layers[at]);
        let line = match self {
            Op::Create {
                name,
                features,
                size,
            } => {
                let mut line = match features {
                    Some(f) => words(&format!("create -q -f qcow2 -o {}", f.options())),
                    None => words("create -q -f raw"),
                };
                if let Some(below) = world.top() {
                    line.extend(words(&format!("-b {} -F {}", below.name, below.format())));
                }
                line.extend([name.clone(), size.to_string()]);
                line
            }
            Op::Write {
                data,
                offset,
                len,
                crash,
            } => {
                let mut line = words(&format!("-f {top_format}"));
                for (offset, len) in self.parts(world, *offset, *len) {
                    line.extend(["-c".to_owned(), data.command(offset, len)]);
                }
                if *crash {
                    line.extend(["-c", "flush", "-c", "abort"].map(str::to_owned));
                }
                line.push(top);
                return vec![("qemu-io", line)];
            }
            Op::Commit { base, drop } => {
                let mut line = words("commit -q");
                if let Some(base) = base {
                    line.extend(["-b".to_owned(), base.clone()]);
                }
                if *drop {
                    line.push("-d".to_owned());
                }
                line.push(top);
                line
            }
            Op::Blockcommit { top: upper, base } => {
                words(&format!("blockcommit -q --top {upper} --base {base} {top}"))
            }
            Op::Rebase { layer, base } => {
                let mut line = words("rebase -q -f qcow2 -b");
                match base.as_ref().and_then(named) {
                    Some(base) => {
                        line.extend([base.name.clone(), "-F".to_owned(), base.format().to_owned()])
                    }
                    None => line.push(String::new()),
                }
                line.push(layer.clone());
                line
            }
            Op::Pull { base } => {
                let mut line = words("blockpull -q");
                if let Some(base) = base {
                    line.extend(["--base".to_owned(), base.clone()]);
                }
                line.push(top);
                line
            }
            Op::Remove { layer, method } => words(&format!(
                "remove -q --method {method} --active {top} {layer}"
            )),
            Op::Convert {
                name,
                features,
                packed,
            } => {
                let mut line = words(&format!("convert -q -f {top_format}"));
                if *packed {
                    line.push("-c".to_owned());
                }
                match features {
                    Some(f) => line.extend(words(&format!("-O qcow2 -o {}", f.options()))),
                    None => line.extend(words("-O raw")),
                }
                line.extend([top, name.clone()]);
                line
            }
            Op::Snapshot { op, tag } => {
                let option = match op {
                    SnapshotOp::Create => "-c",
                    SnapshotOp::Apply => "-a",
                    SnapshotOp::Delete => "-d",
                };
                words(&format!("snapshot -q {option} {tag} {top}"))
            }
            Op::Resize { size } => {
                let mut line = words(&format!("resize -q -f {top_format}"));
                if world.top().is_some_and(|t| *size < t.size()) {
                    line.push("--shrink".to_owned());
                }
                line.extend([top, size.to_string()]);
                line
            }
            Op::Bitmap { op, name } => {
                let option = match op {
                    BitmapOp::Add => "--add",
                    BitmapOp::Remove => "--remove",
                    BitmapOp::Clear => "--clear",
                    BitmapOp::Enable => "--enable",
                    BitmapOp::Disable => "--disable",
                };
                words(&format!("bitmap {option} -f qcow2 {top} {name}"))
            }
            Op::Amend { features } => {
                let compat = if features.v3 { "1.1" } else { "0.10" };
                let mut options = format!("compat={compat}");
                if !features.v3 {
                    options += ",refcount_bits=16,lazy_refcounts=off";
                } else {
                    let lazy = if features.lazy { "on" } else { "off" };
                    options += &format!(
                        ",lazy_refcounts={lazy},refcount_bits={}",
                        features.refcount_bits
                    );
                }
                words(&format!("amend -q -f qcow2 -o {options} {top}"))
            }
        };
        vec![(main, line)]
    }

    /// Does it to the model. Returns the files that are of no use any more.
    pub(super) fn apply(&self, world: &mut World) -> Vec<String> {
        let last = world.layers.len().saturating_sub(1);
        let gone = |world: &mut World, range: std::ops::Range<usize>| {
            world.layers.drain(range).map(|layer| layer.name).collect()
        };
        match self {
            Op::Create {
                name,
                features,
                size,
            } => world.push(name, features.clone(), *size),
            Op::Write {
                data, offset, len, ..
            } => {
                let top = world.layers.last_mut().expect("a top");
                data.write(top, *offset, *len, last > 0);
            }
            Op::Commit { base, drop } => {
                let base = match base {
                    Some(base) => world.index(base).expect("a layer"),
                    None => last - 1,
                };
                world.merge(last, base);
                if *drop || base + 1 < last {
                    return gone(world, base + 1..last + 1);
                }
            }
            Op::Blockcommit { top, base } => {
                let (top, base) = (world.index(top), world.index(base));
                let (top, base) = (top.expect("a layer"), base.expect("a layer"));
                world.merge(top, base);
                return gone(world, base + 1..top + 1);
            }
            Op::Rebase { layer, base } => {
                let layer = world.index(layer).expect("a layer");
                let first = base
                    .as_ref()
                    .and_then(|b| world.index(b))
                    .map_or(0, |b| b + 1);
                return gone(world, first..layer);
            }
            Op::Pull { base } => {
                let first = base
                    .as_ref()
                    .and_then(|b| world.index(b))
                    .map_or(0, |b| b + 1);
                return gone(world, first..last);
            }
            Op::Remove { layer, method } => {
                let layer = world.index(layer).expect("a layer");
                if *method == 1 {
                    world.merge(layer, layer - 1);
                }
                return gone(world, layer..layer + 1);
            }
            Op::Convert { name, features, .. } => {
                let view = world.layers[last].view.clone();
                let old = gone(world, 0..last + 1);
                world.push(name, features.clone(), 0);
                world.layers[0].view = view;
                return old;
            }
            Op::Snapshot { op, tag } => {
                let top = &mut world.layers[last];
                let at = top.snapshots.iter().position(|s| s.tag == *tag);
                match (op, at) {
                    (SnapshotOp::Create, _) => {
                        let (tag, view) = (tag.clone(), top.view.clone());
                        top.snapshots.push(Snapshot { tag, view });
                    }
                    (SnapshotOp::Apply, Some(at)) => top.view = top.snapshots[at].view.clone(),
                    (SnapshotOp::Delete, Some(at)) => {
                        top.snapshots.remove(at);
                    }
                    _ => {}
                }
            }
            Op::Resize { size } => world.layers[last].view.resize(len(*size), 0),
            Op::Bitmap { op, name } => {
                let bitmaps = &mut world.layers[last].bitmaps;
                let at = bitmaps.iter().position(|b| b.name == *name);
                match (op, at) {
                    (BitmapOp::Add, _) => {
                        let name = name.clone();
                        bitmaps.push(Bitmap {
                            name,
                            enabled: true,
                        });
                    }
                    (BitmapOp::Remove, Some(at)) => {
                        bitmaps.remove(at);
                    }
                    (BitmapOp::Enable, Some(at)) => bitmaps[at].enabled = true,
                    (BitmapOp::Disable, Some(at)) => bitmaps[at].enabled = false,
                    _ => {}
                }
            }
            Op::Amend { features } => world.layers[last].features = Some(features.clone()),
        }
        Vec::new()
    }
}
