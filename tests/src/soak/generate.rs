//! Random operations.

use super::model::{Data, Features, Layer, World};
use super::op::{BitmapOp, Op, SnapshotOp, Tool};
use backchain_testkit::rng::Rng;

/// The layers that a sequence starts with.
pub(super) fn chain(rng: &mut Rng) -> Vec<(Op, Tool)> {
    let mut world = World::default();
    let mut ops = Vec::new();
    for depth in 0..=rng.below(4) {
        let raw = depth == 0 && rng.chance(1, 4);
        let op = create(rng, &world, raw);
        step(&mut world, &mut ops, op, tool(rng));
        for _ in 0..rng.below(4) {
            let op = write(rng, &world);
            if op.applies(&world, Tool::Qemu) {
                step(&mut world, &mut ops, op, Tool::Qemu);
            }
        }
    }
    ops
}

fn step(world: &mut World, ops: &mut Vec<(Op, Tool)>, op: Op, tool: Tool) {
    op.apply(world);
    ops.push((op, tool));
}

/// The next operation for this world.
pub(super) fn next(rng: &mut Rng, world: &World) -> (Op, Tool) {
    loop {
        let tool = tool(rng);
        let op = any(rng, world);
        if op.exists(tool) && op.applies(world, tool) {
            return (op, tool);
        }
    }
}

fn tool(rng: &mut Rng) -> Tool {
    if rng.chance(1, 2) {
        Tool::Own
    } else {
        Tool::Qemu
    }
}

fn any(rng: &mut Rng, world: &World) -> Op {
    let name = |rng: &mut Rng| {
        let layer = &world.layers[index(rng, world.layers.len())];
        layer.name.clone()
    };
    let maybe = |rng: &mut Rng| rng.chance(2, 3).then(|| name(rng));
    match rng.weighted(&[3, 8, 6, 3, 5, 4, 3, 2, 5, 4, 3, 2]) {
        0 => create(rng, world, false),
        1 => write(rng, world),
        2 => Op::Commit {
            base: rng.chance(1, 3).then(|| name(rng)),
            drop: rng.chance(1, 2),
        },
        3 => Op::Blockcommit {
            top: name(rng),
            base: name(rng),
        },
        4 => Op::Rebase {
            layer: name(rng),
            base: maybe(rng),
        },
        5 => Op::Pull { base: maybe(rng) },
        6 => Op::Remove {
            layer: name(rng),
            method: 1 + u8::from(rng.chance(1, 2)),
        },
        7 => Op::Convert {
            name: format!("i{}", world.made),
            features: rng.chance(4, 5).then(|| features(rng)),
            packed: rng.chance(1, 3),
        },
        8 => Op::Snapshot {
            op: [SnapshotOp::Create, SnapshotOp::Apply, SnapshotOp::Delete][index(rng, 3)],
            tag: {
                let known = world.top().map_or(&[][..], |top| &top.snapshots);
                match known.len() {
                    n if n > 0 && rng.chance(2, 3) => known[index(rng, n)].tag.clone(),
                    _ => format!("s{}", rng.below(4)),
                }
            },
        },
        9 => Op::Resize {
            size: size(rng, world.top().map_or(1 << 20, Layer::size)),
        },
        10 => Op::Bitmap {
            op: [
                BitmapOp::Add,
                BitmapOp::Add,
                BitmapOp::Remove,
                BitmapOp::Clear,
                BitmapOp::Enable,
                BitmapOp::Disable,
            ][index(rng, 6)],
            name: format!("b{}", rng.below(3)),
        },
        _ => amend(rng, world),
    }
}

fn create(rng: &mut Rng, world: &World, raw: bool) -> Op {
    let features = (!raw).then(|| features(rng));
    let near = world.top().map_or(2 << 20, Layer::size);
    Op::Create {
        name: format!("i{}", world.made),
        features,
        size: size(rng, near),
    }
}

/// Sizes near `near`, of whole sectors, at most 8 MiB.
fn size(rng: &mut Rng, near: u64) -> u64 {
    let limit = 8 << 20;
    match rng.below(6) {
        0 | 1 => near,
        2 => near + 512 * (1 + rng.below(300)),
        3 => near.saturating_sub(512 * rng.below(300)),
        4 => 512 * (1 + rng.below(4096)),
        _ => near + (64 << 10) * (1 + rng.below(30)),
    }
    .clamp(512, limit)
}

fn features(rng: &mut Rng) -> Features {
    let bits = [9, 10, 12, 12, 13, 14, 15, 16, 16, 16, 18, 21][index(rng, 12)];
    let v3 = rng.chance(4, 5);
    Features {
        v3,
        cluster: 1 << bits,
        extended: v3 && bits >= 14 && rng.chance(2, 5),
        refcount_bits: if v3 && rng.chance(1, 2) {
            1 << rng.below(7)
        } else {
            16
        },
        lazy: v3 && rng.chance(1, 4),
        zstd: v3 && rng.chance(1, 3),
    }
}

fn amend(rng: &mut Rng, world: &World) -> Op {
    let now = world.top().and_then(|top| top.features.clone());
    let mut features = now.unwrap_or_else(|| features(rng));
    match rng.below(3) {
        0 => {
            features.v3 = !features.v3;
            if !features.v3 {
                features.lazy = false;
                features.refcount_bits = 16;
            }
        }
        1 => features.lazy = !features.lazy,
        _ => features.refcount_bits = 1 << rng.below(7),
    }
    Op::Amend { features }
}

/// A write to the top.
fn write(rng: &mut Rng, world: &World) -> Op {
    let size = world.top().map_or(0, Layer::size).max(512);
    let cluster = world
        .top()
        .and_then(|t| t.features.as_ref())
        .map_or(4096, |f| f.cluster);
    let data = match rng.below(10) {
        0 | 1 => Data::Byte(u8::try_from(1 + rng.below(255)).expect("a byte")),
        2..=4 => Data::Noise(index(rng, 3)),
        5 | 6 => Data::Packed(index(rng, 3)),
        7 => Data::Zeros(rng.chance(1, 2)),
        _ => Data::Discard,
    };
    let unit = match data {
        Data::Packed(_) => cluster,
        Data::Byte(_) if rng.chance(1, 2) => 1,
        _ if rng.chance(1, 2) => cluster,
        _ => 512,
    };
    let offset = rng.below(size) / unit * unit;
    let longest = match rng.below(4) {
        0 => size,
        1 => 4 * cluster,
        _ => 128 << 10,
    };
    let len = ((1 + rng.below(longest)).div_ceil(unit) * unit).min(size - offset);
    let crash = !matches!(data, Data::Discard) && rng.chance(1, 12);
    Op::Write {
        data,
        offset,
        len: len.max(1),
        crash,
    }
}

fn index(rng: &mut Rng, limit: usize) -> usize {
    usize::try_from(rng.below(u64::try_from(limit).expect("few"))).expect("few")
}
