//! Changes of persistent bitmaps: what the bits are afterwards, and that a crash leaves the old
//! bitmap or the new one, all others as they were, and the disk untouched.

use backchain::NodeId;
use backchain::plan::{BitmapAction, Operation, Window};
use backchain_format::Format;
use backchain_format::qcow2::{BitmapDirectoryEntry, Head, autoclear};
use backchain_testkit::bitmaps::{Bitmap, trusted};
use backchain_testkit::build::TreeSpec;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, Files, engine_view, id, open};
use backchain_testkit::cases;
use backchain_testkit::judge::carry_out;
use backchain_testkit::qemu;
use backchain_testkit::rng::Rng;
use backchain_testkit::sim::crash_states;
use backchain_testkit::verify::verify;
use proptest::prelude::*;

/// A bitmap without regard to where it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Model {
    name: String,
    granularity_bits: u8,
    auto: bool,
    bits: Vec<bool>,
}

fn models(bytes: &[u8], size: u64) -> Result<Vec<Model>, String> {
    let plain = |map: Bitmap| Model {
        auto: map.entry.flags & BitmapDirectoryEntry::AUTO != 0,
        granularity_bits: map.entry.granularity_bits,
        bits: {
            let mut bits = map.bits;
            let all = size.div_ceil(1 << map.entry.granularity_bits);
            bits.truncate(usize::try_from(all).expect("a small disk"));
            bits
        },
        name: map.entry.name,
    };
    Ok(trusted(bytes)?.into_iter().map(plain).collect())
}

impl Model {
    fn merge(&mut self, other: &Model, size: u64) {
        let (fine, coarse) = (
            1u64 << other.granularity_bits,
            1u64 << self.granularity_bits,
        );
        for (number, _) in other.bits.iter().enumerate().filter(|(_, set)| **set) {
            let start = number as u64 * fine;
            let end = (start + fine).min(size);
            for bit in start / coarse..=(end - 1) / coarse {
                self.bits[usize::try_from(bit).expect("a small disk")] = true;
            }
        }
    }
}

/// The state after `actions`, worked out bit by bit; `None` when one of them must fail.
fn expected(
    before: &[Model],
    other: &[Model],
    name: &str,
    actions: &[BitmapAction],
    size: u64,
    cluster_bits: u32,
) -> Option<Vec<Model>> {
    let mut list = before.to_vec();
    for action in actions {
        let at = list.iter().position(|m| m.name == name);
        match action {
            BitmapAction::Add { granularity } => {
                if at.is_some() {
                    return None;
                }
                let default = 1 << cluster_bits.clamp(12, 16);
                let bytes: u64 = granularity.unwrap_or(default);
                let bits = vec![false; usize::try_from(size.div_ceil(bytes)).expect("small")];
                list.push(Model {
                    name: name.to_owned(),
                    granularity_bits: u8::try_from(bytes.trailing_zeros()).expect("small"),
                    auto: true,
                    bits,
                });
            }
            BitmapAction::Remove => {
                list.remove(at?);
            }
            BitmapAction::Clear => list[at?].bits.fill(false),
            BitmapAction::Enable => list[at?].auto = true,
            BitmapAction::Disable => list[at?].auto = false,
            BitmapAction::Merge { source, bitmap } => {
                let at = at?;
                // Only what is stored can be merged: the same bitmap again changes nothing.
                if source.is_none() && bitmap == name {
                    continue;
                }
                let from = if source.is_some() { other } else { before };
                let from = from.iter().find(|m| &m.name == bitmap)?.clone();
                list[at].merge(&from, size);
            }
        }
    }
    Some(list)
}

struct Try {
    case: Case,
    node: usize,
    name: String,
    actions: Vec<BitmapAction>,
    before: Vec<Model>,
    after: Vec<Model>,
    operation: Operation,
}

/// Random actions on a bitmap of a random image, which all must succeed.
fn attempt(spec: &TreeSpec, seed: u64) -> Result<Option<Try>, String> {
    let case = Case::build(spec);
    let mut rng = Rng::new(seed);
    let images: Vec<usize> = (0..case.nodes.len())
        .filter(|&n| case.nodes[n].format == Format::Qcow2)
        .collect();
    let Some(&node) =
        images.get(usize::try_from(rng.below(images.len().max(1) as u64)).unwrap_or(0))
    else {
        return Ok(None);
    };
    let tree = case.open();
    let image = tree.node(id(node)).image().map_err(|e| e.to_string())?;
    let Some(image) = image.as_qcow2() else {
        return Ok(None);
    };
    let header = &image.head.header;
    let (size, cluster_bits) = (header.size, header.cluster.bits());
    if !image.head.is_v3() || size == 0 {
        return Ok(None);
    }
    let bytes = |n: usize| case.files[&case.nodes[n].name].bytes();
    let before = models(bytes(node), size)?;
    // Another image of the same size to merge from.
    let other = images
        .iter()
        .copied()
        .find(|&n| n != node && tree.node(id(n)).virtual_size() == size);
    let others = other.map_or(Ok(Vec::new()), |n| models(bytes(n), size))?;
    let name = match before.first() {
        Some(first) if rng.chance(2, 3) => first.name.clone(),
        _ => format!(
            "new{}",
            "+".repeat(usize::try_from(rng.below(2) * 500).unwrap_or(0))
        ),
    };
    let mut actions = Vec::new();
    let mut after = before.clone();
    for _ in 0..1 + rng.below(5) {
        let action = match rng.below(8) {
            0 | 1 => BitmapAction::Add {
                granularity: rng.chance(1, 2).then(|| 512 << rng.below(8)),
            },
            2 => BitmapAction::Remove,
            3 => BitmapAction::Clear,
            4 => BitmapAction::Enable,
            5 => BitmapAction::Disable,
            n => {
                let (source, from) = if n == 6 && !others.is_empty() {
                    (other.map(id), &others)
                } else {
                    (None, &before)
                };
                let Some(from) =
                    from.get(usize::try_from(rng.below(from.len().max(1) as u64)).unwrap_or(0))
                else {
                    continue;
                };
                BitmapAction::Merge {
                    source,
                    bitmap: from.name.clone(),
                }
            }
        };
        let mut longer = actions.clone();
        longer.push(action);
        if let Some(list) = expected(&before, &others, &name, &longer, size, cluster_bits) {
            (actions, after) = (longer, list);
        }
    }
    if actions.is_empty() {
        return Ok(None);
    }
    let operation = Operation::Bitmap {
        node: id(node),
        name: name.clone(),
        actions: actions.clone(),
    };
    Ok(Some(Try {
        case,
        node,
        name,
        actions,
        before,
        after,
        operation,
    }))
}

fn sorted(mut list: Vec<Model>) -> Vec<Model> {
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

impl Try {
    fn size(&self) -> u64 {
        self.case.open().node(id(self.node)).virtual_size()
    }

    fn bytes<'a>(&self, files: &'a Files) -> &'a [u8] {
        files[&self.case.nodes[self.node].name].bytes()
    }

    /// Bitmaps that nobody trusts are given up: their clusters may have another owner already,
    /// so they are not freed.
    fn gives_up(&self) -> Result<bool, String> {
        let head = Head::from_bytes(self.bytes(&self.case.files)).map_err(|e| e.to_string())?;
        let trusted = head.header.autoclear & autoclear::BITMAPS != 0;
        Ok(head.extensions.bitmaps(0).is_some() && !trusted)
    }

    /// The disk reads as before, nothing is damaged; `leaks`: nor leaked beyond what was.
    fn sound(&self, files: &Files, leaks: bool) -> Result<(), String> {
        let report = verify(self.bytes(files));
        if !report.errors.is_empty() {
            return Err(format!("damaged: {:?}", report.errors));
        }
        let old = verify(self.bytes(&self.case.files)).leaks;
        for (cluster, count) in &report.leaks {
            if leaks && old.get(cluster).copied().unwrap_or(0) < *count {
                return Err(format!("leaks host cluster {cluster}"));
            }
        }
        let names = self.case.nodes.iter().map(|n| (n.name.as_str(), n.format));
        let tree = open(files, names);
        let view = engine_view(&tree, NodeId(id(self.node).0)).map_err(|e| e.to_string())?;
        if view != self.case.view(self.node) {
            return Err("the disk reads differently".to_owned());
        }
        Ok(())
    }
}

fn law(spec: &TreeSpec, seed: u64) -> Result<(), String> {
    let Some(one) = attempt(spec, seed)? else {
        return Ok(());
    };
    let tree = one.case.open();
    let done = carry_out(&tree, &one.case.files, &one.operation, Window::default())?;
    one.sound(&done.run.after, !one.gives_up()?)?;
    let now = models(one.bytes(&done.run.after), one.size())?;
    let same_names = sorted(now.clone());
    if same_names != sorted(one.after.clone()) {
        return Err(format!(
            "{:?} on {:?}: {now:?} instead of {:?}",
            one.actions, one.before, one.after
        ));
    }
    Ok(())
}

fn survives(spec: &TreeSpec, seed: u64) -> Result<(), String> {
    let Some(one) = attempt(spec, seed)? else {
        return Ok(());
    };
    let tree = one.case.open();
    let done = carry_out(&tree, &one.case.files, &one.operation, Window::default())?;
    let mut rng = Rng::new(seed);
    let find = |list: &[Model]| list.iter().find(|m| m.name == one.name).cloned();
    let (old, new) = (find(&one.before), find(&one.after));
    for state in crash_states(&done.run, 40, &mut rng) {
        let check = || -> Result<(), String> {
            one.sound(&state.files, false)?;
            let now = models(one.bytes(&state.files), one.size())?;
            if now.is_empty() {
                // Nobody trusts any of them: allowed while the extension changes.
                return Ok(());
            }
            let this = find(&now);
            let between = match (&this, &old, &new) {
                // New bits, old flag: the actions up to there.
                (Some(this), Some(old), Some(new)) => {
                    this.bits == new.bits && this.auto == old.auto
                }
                _ => false,
            };
            if this != old && this != new && !between {
                return Err(format!("{this:?} is neither {old:?} nor {new:?}"));
            }
            for other in one.before.iter().filter(|m| m.name != one.name) {
                if !now.contains(other) {
                    return Err(format!("{} was lost or changed", other.name));
                }
            }
            Ok(())
        };
        check().map_err(|why| format!("{:?}: {}: {why}", one.operation, state.story))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(300))]

    /// Bits, flags and granularities are what the actions say; nothing else changes or leaks.
    #[test]
    fn actions_do_what_they_say(spec in tree(Limits::TINY), seed: u64) {
        law(&spec, seed).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// On larger disks, and where the refcount table has to grow.
    #[test]
    fn actions_on_larger_images(
        spec in prop_oneof![tree(Limits::SMALL), tree(Limits::GROWTH)],
        seed: u64,
    ) {
        law(&spec, seed).map_err(TestCaseError::fail)?;
    }

    /// Whatever prefix and whatever torn subset of a change reaches the disk.
    #[test]
    fn changes_survive_crashes(spec in tree(Limits::TINY), seed: u64) {
        survives(&spec, seed).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(cases(20))]

    /// QEMU reads what was written: it checks, and merges every bitmap into one of its own.
    #[test]
    fn qemu_reads_the_result(spec in tree(Limits::TINY), seed: u64) {
        if !qemu::installed() {
            return Ok(());
        }
        let Some(one) = attempt(&spec, seed).map_err(TestCaseError::fail)? else {
            return Ok(());
        };
        let tree = one.case.open();
        let done = carry_out(&tree, &one.case.files, &one.operation, Window::default());
        let done = done.map_err(TestCaseError::fail)?;
        let dir = qemu::directory(&done.run.after);
        let name = &one.case.nodes[one.node].name;
        let asked = |result: Result<(), String>| result.map_err(TestCaseError::fail);
        asked(qemu::check(dir.path(), name, false))?;
        if !one.size().is_multiple_of(512) {
            return Ok(());
        }
        asked(qemu::run(dir.path(), &["bitmap", "--add", "-g", "512", name, "sum"]))?;
        let mut sum = Model {
            name: "sum".to_owned(),
            granularity_bits: 9,
            auto: true,
            bits: vec![false; usize::try_from(one.size().div_ceil(512)).expect("small")],
        };
        for map in &one.after {
            asked(qemu::run(dir.path(), &["bitmap", "--merge", &map.name, name, "sum"]))?;
            sum.merge(map, one.size());
        }
        let bytes = std::fs::read(dir.path().join(name)).expect("it is there");
        let now = models(&bytes, one.size()).map_err(TestCaseError::fail)?;
        prop_assert_eq!(now.into_iter().find(|m| m.name == "sum"), Some(sum));
    }
}

/// The case, the commit, its base, and what the bitmaps above it told.
type Taken = (Case, Operation, usize, Vec<Model>);

/// A commit of a random top with its bitmaps, and the models of all usable bitmaps of the layers
/// merged.
fn commit(spec: &TreeSpec, seed: u64) -> Result<Option<Taken>, String> {
    let case = Case::build(spec);
    let mut rng = Rng::new(seed);
    let tops: Vec<usize> = (0..case.nodes.len())
        .filter(|&n| case.nodes[n].parent.is_some())
        .collect();
    let top = tops[usize::try_from(rng.below(tops.len() as u64)).expect("small")];
    let chain = case.chain(top);
    let depth = usize::try_from(1 + rng.below(chain.len() as u64 - 1)).expect("small");
    let base = chain[depth];
    let tree = case.open();
    let v3 = |n: usize| {
        let image = tree.node(id(n)).image().ok().and_then(|i| i.as_qcow2());
        image.is_some_and(|i| i.head.is_v3())
    };
    let size = chain[..=depth]
        .iter()
        .map(|&n| tree.node(id(n)).virtual_size())
        .max();
    let longest = tree
        .node(id(top))
        .virtual_size()
        .max(tree.node(id(base)).virtual_size());
    // A layer between that is longer than both is cut off; that is not modelled here.
    if !v3(base) || size != Some(longest) {
        return Ok(None);
    }
    let mut merged = Vec::new();
    for &n in chain.iter().take(depth).filter(|&&n| v3(n)) {
        let size = tree.node(id(n)).virtual_size();
        merged.extend(models(case.files[&case.nodes[n].name].bytes(), size)?);
    }
    let operation = Operation::Commit {
        top: id(top),
        base: id(base),
        relink: Vec::new(),
        empty_top: false,
        bitmaps: true,
        allow_broken: true,
        allow_plaintext: false,
    };
    Ok(Some((case, operation, base, merged)))
}

/// Whether all that `part` tells is told by `whole`.
fn includes(whole: &Model, part: &Model, size: u64) -> bool {
    let mut sum = whole.clone();
    let mut part = part.clone();
    let room = size.div_ceil(1 << part.granularity_bits);
    part.bits.truncate(usize::try_from(room).expect("small"));
    sum.merge(&part, size);
    sum == *whole
}

proptest! {
    #![proptest_config(cases(100))]

    /// A commit with its bitmaps: base's tell what they told, and what those above told.
    #[test]
    fn a_commit_takes_the_bitmaps_along(spec in tree(Limits::TINY), seed: u64) {
        let fail = |why: String| TestCaseError::fail(why);
        let Some((case, operation, base, merged)) = commit(&spec, seed).map_err(fail)? else {
            return Ok(());
        };
        let name = &case.nodes[base].name;
        let size = case.open().node(id(base)).virtual_size();
        let before = models(case.files[name].bytes(), size).map_err(fail)?;
        let window = Window { bytes: 4096, tables: 512 };
        let done = carry_out(&case.open(), &case.files, &operation, window).map_err(fail)?;
        let report = verify(done.run.after[name].bytes());
        prop_assert!(report.errors.is_empty(), "{:?}", report.errors);
        let tree = open(&done.run.after, case.nodes.iter().map(|n| (n.name.as_str(), n.format)));
        let size = tree.node(id(base)).virtual_size();
        let after = models(done.run.after[name].bytes(), size).map_err(fail)?;
        for old in &before {
            let new = after.iter().find(|m| m.name == old.name);
            prop_assert!(new.is_some_and(|new| includes(new, old, size)), "{}", old.name);
        }
        for part in &merged {
            // Nothing is merged into one that nobody trusts.
            let Some(new) = after.iter().find(|m| m.name == part.name) else { continue };
            prop_assert!(includes(new, part, size), "{} misses bits", part.name);
        }
        let mut rng = Rng::new(seed);
        for state in crash_states(&done.run, 20, &mut rng) {
            let bytes = state.files[name].bytes();
            let report = verify(bytes);
            prop_assert!(report.errors.is_empty(), "{}: {:?}", state.story, report.errors);
            let tree = open(&state.files, case.nodes.iter().map(|n| (n.name.as_str(), n.format)));
            let size = tree.node(id(base)).virtual_size();
            for now in models(bytes, size).map_err(fail)? {
                let old = before.iter().find(|m| m.name == now.name);
                prop_assert!(old.is_none_or(|old| includes(&now, old, size)), "{}", state.story);
            }
            let again = carry_out(&tree, &state.files, &operation, window);
            prop_assert!(again.is_ok(), "{}: {:?}", state.story, again.err());
        }
    }
}
