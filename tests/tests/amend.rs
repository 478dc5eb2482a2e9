//! Amended images: another version, another width of refcounts, lazy refcounts. Their guests see
//! what they saw, nothing leaks, and a crash leaves an image that is sound.

use backchain::plan::{Amendment, Operation, Window};
use backchain_format::Format;
use backchain_format::qcow2::{Codec, Head, autoclear, compatible, incompatible};
use backchain_testkit::build::TreeSpec;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, Files, engine_view, id, open};
use backchain_testkit::cases;
use backchain_testkit::judge::{Done, carry_out};
use backchain_testkit::qemu;
use backchain_testkit::rng::Rng;
use backchain_testkit::sim::crash_states;
use backchain_testkit::verify::verify;
use proptest::prelude::*;

fn head(bytes: &[u8]) -> Head {
    Head::from_bytes(bytes).expect("a valid head")
}

/// Which image, and the change; `None` when there is no qcow2 image.
fn pick(case: &Case, seed: u64) -> Option<(usize, Amendment)> {
    let mut rng = Rng::new(seed);
    let images: Vec<usize> = (0..case.nodes.len())
        .filter(|&n| case.nodes[n].format == Format::Qcow2)
        .collect();
    let index = rng.below(images.len().max(1) as u64);
    let node = *images.get(usize::try_from(index).ok()?)?;
    let change = match rng.below(5) {
        0 => Amendment::Version { v3: true },
        1 | 2 => Amendment::Version { v3: false },
        3 => Amendment::RefcountBits(1 << rng.below(7)),
        _ => Amendment::LazyRefcounts(rng.chance(1, 2)),
    };
    Some((node, change))
}

/// Changes that must be refused, by what the head says.
fn refused(head: &Head, change: &Amendment) -> bool {
    let header = &head.header;
    match change {
        Amendment::Version { v3: false } => {
            let layout = header.l2_layout();
            let other = layout.extended || header.has(incompatible::DATA_FILE);
            head.is_v3() && (other || header.refcount_width.bits() != 16)
        }
        Amendment::RefcountBits(bits) => !head.is_v3() && *bits != 16,
        Amendment::LazyRefcounts(on) => !head.is_v3() && *on,
        _ => false,
    }
}

struct Amended {
    case: Case,
    node: usize,
    change: Amendment,
    done: Done,
}

fn amend(spec: &TreeSpec, seed: u64) -> Result<Option<Amended>, String> {
    let case = Case::build(spec);
    let Some((node, change)) = pick(&case, seed) else {
        return Ok(None);
    };
    let before = head(case.files[&case.nodes[node].name].bytes());
    let operation = Operation::Amend {
        node: id(node),
        change: change.clone(),
    };
    let tree = case.open();
    let window = Window {
        bytes: 4096,
        tables: 512,
    };
    match carry_out(&tree, &case.files, &operation, window) {
        Ok(_) if refused(&before, &change) => Err(format!("{change} was not refused")),
        Ok(done) => Ok(Some(Amended {
            case,
            node,
            change,
            done,
        })),
        Err(_) if refused(&before, &change) => Ok(None),
        // Packed with zstd, or counted higher than the width allows.
        Err(why) if why.contains("zstd") && before.header.codec == Codec::Zstd => Ok(None),
        Err(why) if why.contains("has a refcount of") => Ok(None),
        Err(why) if why.contains("first cluster has") => Ok(None),
        Err(why) => Err(format!("{change}: {why}")),
    }
}

impl Amended {
    fn bytes<'a>(&self, files: &'a Files) -> &'a [u8] {
        files[&self.case.nodes[self.node].name].bytes()
    }

    fn sound(&self, files: &Files) -> Result<(), String> {
        let report = verify(self.bytes(files));
        if !report.errors.is_empty() {
            return Err(format!("damaged: {:?}", report.errors));
        }
        let names = self.case.nodes.iter().map(|n| (n.name.as_str(), n.format));
        let tree = open(files, names);
        for (number, node) in self.case.nodes.iter().enumerate() {
            let view = engine_view(&tree, id(number)).map_err(|e| e.to_string())?;
            if view != self.case.view(number) {
                return Err(format!("{} reads differently", node.name));
            }
        }
        Ok(())
    }

    /// The head says what was asked for, and everything else as before.
    fn head(&self) -> Result<(), String> {
        let old = head(self.bytes(&self.case.files));
        let new = head(self.bytes(&self.done.run.after));
        let right = match &self.change {
            Amendment::Version { v3 } => new.is_v3() == *v3,
            Amendment::RefcountBits(bits) => new.header.refcount_width.bits() == *bits,
            Amendment::LazyRefcounts(on) => {
                (new.header.compatible & compatible::LAZY_REFCOUNTS != 0) == *on
            }
            _ => true,
        };
        if !right {
            return Err(format!("{}: the head is {new:?}", self.change));
        }
        let kept = |kind| old.extensions.get(kind) == new.extensions.get(kind);
        if old.backing != new.backing || old.header.size != new.header.size || !kept(0x7465_7374) {
            return Err(format!("{}: {old:?} became {new:?}", self.change));
        }
        Ok(())
    }

    fn leaks(&self) -> Result<(), String> {
        let before = head(self.bytes(&self.case.files));
        let trusted = before.header.autoclear & autoclear::BITMAPS != 0;
        if before.extensions.bitmaps(0).is_some() && !trusted {
            // Clusters of bitmaps that nobody trusts may have another owner already.
            return Ok(());
        }
        let old = verify(self.bytes(&self.case.files)).leaks;
        for (cluster, count) in verify(self.bytes(&self.done.run.after)).leaks {
            if old.get(&cluster).copied().unwrap_or(0) < count {
                return Err(format!("{}: leaks host cluster {cluster}", self.change));
            }
        }
        Ok(())
    }
}

fn law(spec: &TreeSpec, seed: u64) -> Result<(), String> {
    let Some(amended) = amend(spec, seed)? else {
        return Ok(());
    };
    let told = |why| format!("{}: {why}", amended.change);
    amended.sound(&amended.done.run.after).map_err(told)?;
    amended.head()?;
    amended.leaks()
}

proptest! {
    #![proptest_config(cases(300))]

    /// The guests see the same, the head says what was asked for, nothing leaks.
    #[test]
    fn amended_images_read_the_same(spec in tree(Limits::TINY), seed: u64) {
        law(&spec, seed).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// On larger disks, and where the refcount table has to grow.
    #[test]
    fn larger_images_too(
        spec in prop_oneof![tree(Limits::SMALL), tree(Limits::GROWTH)],
        seed: u64,
    ) {
        law(&spec, seed).map_err(TestCaseError::fail)?;
    }

    /// Whatever prefix and whatever torn subset of a change reaches the disk.
    #[test]
    fn amending_survives_crashes(spec in tree(Limits::TINY), seed: u64) {
        let Some(amended) = amend(&spec, seed).map_err(TestCaseError::fail)? else {
            return Ok(());
        };
        let mut rng = Rng::new(seed);
        for state in crash_states(&amended.done.run, 40, &mut rng) {
            let sound = amended.sound(&state.files);
            sound.map_err(|why| {
                TestCaseError::fail(format!("{}: {}: {why}", amended.change, state.story))
            })?;
        }
    }
}

proptest! {
    #![proptest_config(cases(20))]

    /// QEMU finds nothing wrong and reads the same.
    #[test]
    fn qemu_reads_the_result(spec in tree(Limits::TINY), seed: u64) {
        if !qemu::installed() {
            return Ok(());
        }
        let Some(amended) = amend(&spec, seed).map_err(TestCaseError::fail)? else {
            return Ok(());
        };
        let dir = qemu::directory(&amended.done.run.after);
        let name = &amended.case.nodes[amended.node].name;
        qemu::check(dir.path(), name, false).map_err(TestCaseError::fail)?;
        let view = qemu::view(dir.path(), name, "qcow2").map_err(TestCaseError::fail)?;
        let expected = amended.case.view(amended.node);
        prop_assert!(view.starts_with(&expected), "{} reads differently", name);
    }
}
