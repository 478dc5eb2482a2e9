//! The law for internal snapshots: each of them reads as the disk was when it was taken, after
//! every change, whatever the change is about and wherever it was cut off by a crash.

use backchain::chain::{MapGate, Reader};
use backchain::image::SnapshotQuery;
use backchain::plan::{Operation, Preallocation, Window};
use backchain::{ErrorKind, Format, ReadAt, Source, Step, Tree};
use backchain_format::bytes::{to_u64, to_usize};
use backchain_testkit::build::TreeSpec;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, Files, engine_view, id, open};
use backchain_testkit::judge::carry_out;
use backchain_testkit::model::first_difference;
use backchain_testkit::rng::Rng;
use backchain_testkit::sim::{Effect, Run, SimFile, crash_states};
use backchain_testkit::verify::{verify, verify_mid_change};
use backchain_testkit::{cases, qemu};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// One change; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Act {
    Create(u8),
    Apply(u8, u8),
    Delete(u8, u8),
    Commit(u8),
    Resize(u8, u16),
    Rebase(u8, u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => any::<u8>().prop_map(Act::Create),
        2 => any::<(u8, u8)>().prop_map(|(n, s)| Act::Apply(n, s)),
        2 => any::<(u8, u8)>().prop_map(|(n, s)| Act::Delete(n, s)),
        3 => any::<u8>().prop_map(Act::Commit),
        3 => any::<(u8, u16)>().prop_map(|(n, s)| Act::Resize(n, s)),
        2 => any::<(u8, u8)>().prop_map(|(n, b)| Act::Rebase(n, b)),
    ]
}

/// A snapshot as it must be: ID and view.
type Taken = (String, Vec<u8>);

/// Images with all that must be read from them.
struct World {
    case: Case,
    active: Vec<Vec<u8>>,
    taken: Vec<Vec<Taken>>,
    steps: usize,
}

/// A file that is read as it is now.
#[derive(Clone)]
struct Live(Arc<Mutex<SimFile>>);

impl ReadAt for Live {
    fn len(&self) -> u64 {
        self.0.lock().expect("one thread").len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0
            .lock()
            .expect("one thread")
            .read_exact_at(offset, buf)
    }
}

/// What an operation comes to.
struct Change {
    operation: Operation,
    image: usize,
    active: Vec<u8>,
    taken: Vec<Taken>,
}

impl World {
    fn new(spec: &TreeSpec) -> Self {
        let case = Case::build(spec);
        let nodes = 0..case.nodes.len();
        Self {
            active: nodes.clone().map(|n| case.view(n)).collect(),
            taken: nodes.map(|_| Vec::new()).collect(),
            steps: case.nodes.len(),
            case,
        }
    }

    fn tree(&self, files: &Files) -> Tree {
        open(
            files,
            self.case.nodes.iter().map(|n| (n.name.as_str(), n.format)),
        )
    }

    fn fit(&self, act: &Act) -> Option<Change> {
        let qcow2 = |n: &usize| self.case.nodes[*n].format == Format::Qcow2;
        let images: Vec<usize> = (0..self.case.nodes.len()).filter(qcow2).collect();
        let choose =
            |n: u8, list: &[usize]| list.get(usize::from(n).checked_rem(list.len())?).copied();
        let snapshot = |image: usize, s: u8| {
            let index = usize::from(s).checked_rem(self.taken[image].len())?;
            Some((index, self.taken[image][index].clone()))
        };
        let (operation, image, active, taken);
        match act {
            Act::Create(n) => {
                image = choose(*n, &images)?;
                operation = Operation::SnapshotCreate {
                    image: id(image),
                    name: format!("s{n}"),
                    date_sec: 1,
                    date_nsec: 2,
                };
                active = self.active[image].clone();
                let numbers = self.taken[image].iter().map(|(id, _)| id.parse::<u32>());
                let next = numbers.map(|n| n.expect("a number")).max().unwrap_or(0) + 1;
                let mut list = self.taken[image].clone();
                list.push((next.to_string(), active.clone()));
                taken = list;
            }
            Act::Apply(n, s) => {
                image = choose(*n, &images)?;
                let (_, (id_of, view)) = snapshot(image, *s)?;
                operation = Operation::SnapshotApply {
                    image: id(image),
                    snapshot: SnapshotQuery::Id(id_of),
                    allow_broken: true,
                };
                (active, taken) = (view, self.taken[image].clone());
            }
            Act::Delete(n, s) => {
                image = choose(*n, &images)?;
                let (index, (id_of, _)) = snapshot(image, *s)?;
                operation = Operation::SnapshotDelete {
                    image: id(image),
                    snapshot: SnapshotQuery::Id(id_of),
                };
                let mut list = self.taken[image].clone();
                list.remove(index);
                (active, taken) = (self.active[image].clone(), list);
            }
            Act::Commit(n) => {
                let overlay = |n: &usize| self.case.nodes[*n].parent.is_some();
                let overlays: Vec<usize> = images.into_iter().filter(overlay).collect();
                let top = choose(*n, &overlays)?;
                image = self.case.nodes[top].parent?;
                operation = Operation::Commit {
                    top: id(top),
                    base: id(image),
                    relink: Vec::new(),
                    empty_top: false,
                    bitmaps: false,
                    allow_broken: true,
                    allow_plaintext: true,
                };
                let (upper, mut view) = (&self.active[top], self.active[image].clone());
                view.resize(view.len().max(upper.len()), 0);
                view[..upper.len()].copy_from_slice(upper);
                if self.case.nodes[image].format == Format::Raw {
                    view.resize(view.len().next_multiple_of(512), 0);
                }
                (active, taken) = (view, self.taken[image].clone());
            }
            Act::Rebase(n, b) => {
                image = choose(*n, &images)?;
                let mut bases: Vec<Option<usize>> = (0..self.case.nodes.len())
                    .filter(|base| !self.case.reaches(*base, image))
                    .map(Some)
                    .collect();
                bases.push(None);
                let base = bases[usize::from(*b) % bases.len()];
                operation = Operation::Rebase {
                    overlay: id(image),
                    base: base.map(id),
                    name: None,
                    format: None,
                    compress: false,
                };
                active = self.active[image].clone();
                taken = self.taken[image].clone();
            }
            Act::Resize(n, s) => {
                let all: Vec<usize> = (0..self.case.nodes.len()).collect();
                image = choose(*n, &all)?;
                let old = to_u64(self.active[image].len());
                // From next to nothing to about twice as much, in sectors or not.
                let size = (old * 2 * u64::from(*s) / u64::from(u16::MAX)).max(1);
                let size = if s % 3 == 0 {
                    size
                } else {
                    size.next_multiple_of(512)
                };
                let preallocation = match s % 7 {
                    _ if size < old => Preallocation::Off,
                    0 if self.case.nodes[image].format == Format::Qcow2 => Preallocation::Metadata,
                    1 => Preallocation::Full,
                    2 => Preallocation::Falloc,
                    _ => Preallocation::Off,
                };
                operation = Operation::Resize {
                    image: id(image),
                    size,
                    preallocation,
                    allow_broken: true,
                };
                let mut view = self.active[image].clone();
                view.resize(to_usize(size), 0);
                if self.case.nodes[image].format == Format::Raw {
                    view.resize(view.len().next_multiple_of(512), 0);
                }
                (active, taken) = (view, self.taken[image].clone());
            }
        }
        Some(Change {
            operation,
            image,
            active,
            taken,
        })
    }

    /// Every image but the changed one and those above it reads as before, and so do all its
    /// snapshots.
    fn others(&self, change: &Change, tree: &Tree) -> Result<(), String> {
        for n in 0..self.case.nodes.len() {
            if !self.case.reaches(n, change.image) {
                same(tree, n, &self.active[n], &self.taken[n])?;
            }
        }
        Ok(())
    }

    /// What a crash may leave: nothing damaged, the disk before or after, all the snapshots.
    fn crashed(&self, change: &Change, run: &Run, seed: u64) -> Result<(), String> {
        let name = &self.case.nodes[change.image].name;
        let commit = matches!(change.operation, Operation::Commit { .. });
        for state in crash_states(run, 16, &mut Rng::new(seed)) {
            let judge = || {
                if self.case.nodes[change.image].format == Format::Qcow2 {
                    let report = verify_mid_change(state.files[name].bytes());
                    if !report.errors.is_empty() {
                        return Err(format!("damaged: {:?}", report.errors));
                    }
                }
                let tree = self.tree(&state.files);
                self.others(change, &tree)?;
                let node = tree.node(id(change.image));
                let view = engine_view(&tree, id(change.image)).map_err(|e| e.to_string())?;
                if !commit && view != self.active[change.image] && view != change.active {
                    return Err("the disk is neither old nor new".to_owned());
                }
                for snapshot in node.snapshots().map_err(|e| e.to_string())? {
                    let known = self.taken[change.image].iter().chain(&change.taken);
                    let (_, wanted) = known
                        .into_iter()
                        .find(|(id, _)| *id == snapshot.id)
                        .ok_or("a snapshot nobody took")?;
                    read(&tree, change.image, &snapshot.id, wanted)?;
                }
                // Whoever tries again gets what was asked for, unless it is there already.
                match tree.plan(&change.operation) {
                    Ok(_) => {
                        let done =
                            carry_out(&tree, &state.files, &change.operation, Window::default())?;
                        let tree = self.tree(&done.run.after);
                        let again = engine_view(&tree, id(change.image));
                        let again = again.map_err(|e| e.to_string())?;
                        difference("again", &again, &change.active)?;
                        strict(&self.case, &done.run.after)
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    // A count that leaked took what room there was.
                    Err(error) if error.kind() == ErrorKind::Refused => Ok(()),
                    Err(error) => Err(format!("again: {error}")),
                }
            };
            judge().map_err(|why| format!("{}: {why}", state.story))?;
        }
        Ok(())
    }

    /// Carries a change out and judges it.
    fn step(&mut self, act: &Act, crash: Option<u64>) -> Result<(), String> {
        let Some(change) = self.fit(act) else {
            return Ok(());
        };
        let tree = self.case.open();
        let why = |why: String| format!("{:?}: {why}", change.operation);
        if let Err(error) = tree.plan(&change.operation) {
            return self.refused(&change, &error).map_err(why);
        }
        // Small windows, so that there are many.
        let tables = [8 << 20, 1, 2048][self.steps % 3];
        self.steps += 1;
        let window = Window {
            bytes: 4096,
            tables,
        };
        let done = carry_out(&tree, &self.case.files, &change.operation, window);
        let done = done.map_err(why)?;
        self.alive(&change, window, &done.run).map_err(why)?;
        if let Some(seed) = crash {
            self.crashed(&change, &done.run, seed).map_err(why)?;
        }
        let after = self.tree(&done.run.after);
        strict(&self.case, &done.run.after).map_err(why)?;
        self.others(&change, &after).map_err(why)?;
        same(&after, change.image, &change.active, &change.taken).map_err(why)?;
        // All that reads what the change keeps.
        let kept = match &change.operation {
            Operation::Commit { top, .. } => Some(to_usize(u64::from(top.0))),
            Operation::Rebase { overlay, base, .. } => {
                let overlay = to_usize(u64::from(overlay.0));
                self.case.nodes[overlay].parent = base.map(|b| to_usize(u64::from(b.0)));
                Some(overlay)
            }
            _ => None,
        };
        for n in 0..self.case.nodes.len() {
            if kept.is_some_and(|kept| self.case.reaches(n, kept)) {
                same(&after, n, &self.active[n], &self.taken[n]).map_err(why)?;
            }
        }
        for (name, file) in &done.run.after {
            // What was leaked before may stay; the plan itself leaks nothing.
            let old = verify(self.case.files[name].bytes()).leaks;
            let report = verify(file.bytes());
            if !report.strays.is_empty() {
                return Err(why(format!(
                    "{name} maps {:?} behind its end",
                    report.strays
                )));
            }
            for (cluster, count) in report.leaks {
                if old.get(&cluster).copied().unwrap_or(0) < count {
                    return Err(why(format!("{name} leaks {cluster}, {count} times")));
                }
            }
        }
        self.case.files = done.run.after;
        (self.active[change.image], self.taken[change.image]) = (change.active, change.taken);
        for n in 0..self.case.nodes.len() {
            if n != change.image && self.case.reaches(n, change.image) {
                self.active[n] = engine_view(&after, id(n)).map_err(|e| e.to_string())?;
                for (id_of, view) in &mut self.taken[n] {
                    *view = view_of(&after, n, id_of)?;
                }
            }
            self.case.nodes[n].view = Some(self.active[n].clone());
        }
        Ok(())
    }

    /// A native program plans on while the first steps are carried out: whether the planner reads
    /// a file before or after that makes no difference.
    fn alive(&self, change: &Change, window: Window, run: &Run) -> Result<(), String> {
        let files = self.case.files.iter();
        let live: BTreeMap<String, Live> = files
            .map(|(name, file)| (name.clone(), Live(Arc::new(Mutex::new(file.clone())))))
            .collect();
        let source = |live: &Live| Arc::new(live.clone()) as Source;
        let gate = MapGate(live.iter().map(|(n, l)| (n.clone(), source(l))).collect());
        let mut tree = Tree::new();
        for node in &self.case.nodes {
            tree.add_one(&gate, &node.name, Some(node.format))
                .map_err(|e| e.to_string())?;
        }
        for node in &self.case.nodes {
            tree.add(&gate, &node.name, Some(node.format))
                .map_err(|e| e.to_string())?;
        }
        let plan = tree.plan(&change.operation).map_err(|e| e.to_string())?;
        let plan = plan.with_window(window);
        let names: BTreeMap<_, _> = plan
            .info
            .files
            .iter()
            .map(|f| (f.node, f.name.clone()))
            .collect();
        for step in plan {
            let step = step.map_err(|e| e.to_string())?;
            let effect = match &step {
                Step::Write { dst, bytes, .. } => Effect::Write(dst.0, bytes.clone()),
                Step::Zero { dst, len, .. } => Effect::Zero(dst.0, *len),
                Step::Discard { dst, len, .. } => Effect::Discard(dst.0, *len),
                Step::SetLen { len, .. } => Effect::SetLen(*len),
                // Data is moved by the other tests.
                Step::Copy { .. } | Step::Inflate { .. } | Step::Recode { .. } => return Ok(()),
                _ => continue,
            };
            let file = &live[&names[&step.target()]];
            effect.apply(&mut file.0.lock().expect("one thread"));
        }
        for (name, file) in &live {
            let file = file.0.lock().expect("one thread");
            if file.bytes() != run.after[name].bytes() {
                return Err(format!("{name} depends on when it is read"));
            }
        }
        Ok(())
    }

    fn refused(&self, change: &Change, error: &backchain::Error) -> Result<(), String> {
        let said = error.to_string();
        let expected = match &change.operation {
            // Narrow refcounts.
            Operation::SnapshotCreate { .. } => {
                said.contains("fit into the refcounts") || said.contains("external data file")
            }
            Operation::SnapshotApply { .. } => {
                has_bitmaps(&self.case, change.image) || said.contains("fit into the refcounts")
            }
            Operation::Commit { top, .. } => {
                let top = to_usize(u64::from(top.0));
                let shows = said.contains("would read differently");
                shows && !self.taken[top].is_empty() || said.contains("version 2")
            }
            Operation::Rebase { .. } => {
                let shows = said.contains("would read differently");
                let raw = said.contains("data_file_raw") || said.contains("first cluster");
                shows && !self.taken[change.image].is_empty() || raw
            }
            Operation::Resize { .. } => {
                said.contains("version 2") || has_bitmaps(&self.case, change.image)
            }
            _ => false,
        };
        if expected {
            Ok(())
        } else {
            Err(format!("refused: {error}"))
        }
    }
}

fn view_of(tree: &Tree, node: usize, snapshot: &str) -> Result<Vec<u8>, String> {
    let query = SnapshotQuery::Id(snapshot.to_owned());
    let chain = tree.chain_at(id(node), &query).map_err(|e| e.to_string())?;
    let mut view = vec![0xaa; to_usize(chain.virtual_size())];
    Reader::new(chain)
        .read_at(0, &mut view)
        .map_err(|e| e.to_string())?;
    Ok(view)
}

fn difference(what: &str, view: &[u8], wanted: &[u8]) -> Result<(), String> {
    match first_difference(view, wanted) {
        Some(difference) => Err(format!("{what}: {difference}")),
        None => Ok(()),
    }
}

fn read(tree: &Tree, node: usize, snapshot: &str, wanted: &[u8]) -> Result<(), String> {
    let what = format!("image {node}, snapshot {snapshot}");
    difference(&what, &view_of(tree, node, snapshot)?, wanted)
}

/// An image and exactly these snapshots.
fn same(tree: &Tree, node: usize, active: &[u8], taken: &[Taken]) -> Result<(), String> {
    let view = engine_view(tree, id(node)).map_err(|e| e.to_string())?;
    difference(&format!("image {node}"), &view, active)?;
    let list = tree.node(id(node)).snapshots().map_err(|e| e.to_string())?;
    let ids: Vec<_> = list.iter().map(|s| s.id.as_str()).collect();
    let wanted: Vec<_> = taken.iter().map(|(id, _)| id.as_str()).collect();
    if ids != wanted {
        return Err(format!(
            "image {node} has snapshots {ids:?}, not {wanted:?}"
        ));
    }
    taken
        .iter()
        .try_for_each(|(id, view)| read(tree, node, id, view))
}

fn strict(case: &Case, files: &Files) -> Result<(), String> {
    for node in case.nodes.iter().filter(|n| n.format == Format::Qcow2) {
        let report = verify(files[&node.name].bytes());
        if !report.errors.is_empty() {
            return Err(format!("{} is damaged: {:?}", node.name, report.errors));
        }
    }
    Ok(())
}

fn acts(most: usize) -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(act(), 2..most)
}

fn run(spec: &TreeSpec, acts: &[Act], crash: Option<u64>) -> Result<World, TestCaseError> {
    let mut world = World::new(spec);
    for act in acts {
        world.step(act, crash).map_err(TestCaseError::fail)?;
    }
    Ok(world)
}

const MIDDLE: Limits = Limits {
    depth: 4,
    size: 300 << 10,
    ..Limits::SMALL
};

proptest! {
    #![proptest_config(cases(150))]

    /// Taking, going back, deleting and committing in any order.
    #[test]
    fn snapshots_read_as_they_were_taken(spec in tree(MIDDLE), acts in acts(8)) {
        run(&spec, &acts, None)?;
    }
}

proptest! {
    #![proptest_config(cases(20))]

    /// Refcount tables that grow under snapshots.
    #[test]
    fn snapshots_of_growing_images(
        spec in tree(Limits { size: 1 << 20, ..Limits::GROWTH }),
        acts in acts(7),
    ) {
        run(&spec, &acts, None)?;
    }

    /// A crash at any point of any of the changes.
    #[test]
    fn snapshots_survive_crashes(spec in tree(Limits::TINY), acts in acts(6), seed: u64) {
        run(&spec, &acts, Some(seed))?;
    }

    /// qemu-img finds nothing wrong.
    #[test]
    fn qemu_finds_nothing_wrong(
        spec in tree(Limits { odd_sizes: false, ..MIDDLE }),
        acts in acts(8),
    ) {
        if !qemu::installed() {
            return Ok(());
        }
        let world = run(&spec, &acts, None)?;
        let dir = qemu::directory(&world.case.files);
        for (number, node) in world.case.nodes.iter().enumerate() {
            if node.format != Format::Qcow2 || world.taken[number].is_empty() {
                continue;
            }
            qemu::check(dir.path(), &node.name, false).map_err(TestCaseError::fail)?;
            qemu::write(dir.path(), &node.name).map_err(TestCaseError::fail)?;
            qemu::check(dir.path(), &node.name, false).map_err(TestCaseError::fail)?;
        }
    }
}

/// Bitmaps stand in the way of some changes.
fn has_bitmaps(case: &Case, node: usize) -> bool {
    let file = &case.files[&case.nodes[node].name];
    let head = backchain_format::qcow2::Head::from_bytes(file.bytes());
    head.is_ok_and(|h| h.extensions.bitmaps(0).is_some())
}
