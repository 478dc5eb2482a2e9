//! Changes as data: an [`Operation`] on a tree becomes a [`Plan`], a stream of [`Step`]s.
//!
//! A dry run is a plan that nobody executed; a preview is the sum of its steps.

mod amend;
mod amend_refcounts;
mod amend_slots;
mod amend_version;
mod bitmap;
mod bitmap_actions;
mod bitmap_directory;
mod bitmap_head;
mod bitmap_merge;
mod bitmaps;
mod commit;
mod convert;
mod convert_zeros;
mod create;
mod create_blank;
mod create_header;
mod crew;
mod data_file;
mod empty;
mod flow;
mod free_space;
mod granules;
mod guard;
mod info;
mod l1_window;
mod link;
mod operation;
mod pack;
mod preview;
mod qcow2_stage;
mod qcow2_target;
mod raw_target;
mod rebase;
mod recode;
mod refcounts;
mod rehead;
mod remove;
mod repair;
mod repair_image;
mod resize;
mod resize_shrink;
mod same;
mod sink;
mod snapshot;
mod snapshot_guard;
mod snapshot_reach;
mod snapshot_shift;
mod snapshot_stage;
mod snapshot_target;
mod step;
mod tables;
mod transaction;
mod unzero;

pub use convert_zeros::Zeros;
pub use create::round_size;
pub use crew::{Crew, Task};
pub use info::word as shell_word;
pub use operation::{
    Amendment, BitmapAction, Broken, ConvertOptions, CreateOptions, Operation, Preallocation,
    RemoveMethod, Target,
};
pub use preview::{FileChange, Preview};
pub use recode::{Ciphers, Recoder};
use refcounts::Refcounts;
pub use step::{MetadataKind, Origin, Step};

use crate::chain::{Fingerprint, NodeId};
use crate::error::Result;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file that a plan writes or makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanFile {
    /// Its number in steps.
    pub node: NodeId,
    /// Its name as opened, or as it is to be made.
    pub name: String,
    /// What it looked like when it was planned; `None` for a file the plan makes.
    pub before: Option<Fingerprint>,
    /// The plan writes to it.
    pub written: bool,
}

/// What is known about a plan before its first step.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PlanInfo {
    /// Every file the plan touches, those it only reads included.
    pub files: Vec<PlanFile>,
    /// Images whose guest view is not what it was once the plan is done: delete them.
    pub invalid: Vec<NodeId>,
    /// Images whose content is merged elsewhere: they still read as they did, but nothing needs
    /// them any more.
    pub superseded: Vec<NodeId>,
    /// Images that are not part of the operation but read differently afterwards.
    pub broken_dependents: Vec<NodeId>,
    /// Things worth knowing before it runs, in sentences.
    pub warnings: Vec<String>,
    /// The same with other tools: command lines of qemu-img or virsh.
    pub equivalent: Vec<String>,
    /// Links as they will be: (overlay, its backing file).
    pub links: Vec<(NodeId, Option<NodeId>)>,
    /// How a layer is removed.
    pub method: Option<RemoveMethod>,
    /// The ciphers of those files that hold encrypted guest data.
    #[serde(skip)]
    pub ciphers: Ciphers,
}

/// A change, ready to be carried out: an iterator of steps.
///
/// The same operation on the same tree gives the same steps again.
pub struct Plan {
    /// What is known beforehand.
    pub info: PlanInfo,
    stages: VecDeque<Box<dyn Stage>>,
    queue: StepQueue,
    failed: bool,
    meter: Arc<Meter>,
    /// Guest bytes of the stages that are done.
    passed: u64,
}

/// How far a plan is, in guest bytes looked at: costs nothing to know, unlike the bytes it will
/// have moved in the end (that is what a [`Preview`] tells).
#[derive(Debug, Default)]
pub struct Meter {
    done: AtomicU64,
    total: AtomicU64,
}

impl Meter {
    /// Guest bytes looked at, all targets together.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Guest bytes to look at.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// A part of a plan that makes steps a few at a time.
pub(crate) trait Stage: crate::source::Shareable {
    /// Pushes some steps; false when there are no more to come.
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool>;

    /// Guest bytes looked at, and guest bytes to look at in all.
    fn progress(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// How much a plan does between two syncs: smaller windows need less memory, larger ones sync
/// less often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Guest bytes moved after which a window ends.
    pub bytes: u64,
    /// Bytes of changed tables after which a window ends.
    pub tables: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            tables: 8 << 20,
        }
    }
}

/// Steps on their way out; neighbours that continue each other become one.
pub(crate) struct StepQueue {
    steps: VecDeque<Step>,
    pub(crate) window: Window,
    pub(crate) crew: Arc<dyn Crew>,
}

impl Default for StepQueue {
    fn default() -> Self {
        Self {
            steps: VecDeque::new(),
            window: Window::default(),
            crew: Arc::new(crew::Alone),
        }
    }
}

impl StepQueue {
    pub(crate) fn push(&mut self, step: Step) {
        let last = self.steps.back_mut();
        if !last.is_some_and(|last| last.merge(&step)) {
            self.steps.push_back(step);
        }
    }
}

/// A stage that is a fixed list of steps.
pub(crate) struct Fixed(pub Vec<Step>);

impl Stage for Fixed {
    fn advance(&mut self, out: &mut StepQueue) -> Result<bool> {
        self.0.drain(..).for_each(|step| out.push(step));
        Ok(false)
    }
}

impl Plan {
    pub(crate) fn new(info: PlanInfo, stages: Vec<Box<dyn Stage>>) -> Self {
        let meter = Arc::new(Meter::default());
        let total = stages.iter().map(|s| s.progress().1).sum();
        meter.total.store(total, Ordering::Relaxed);
        Self {
            info,
            stages: stages.into(),
            queue: StepQueue::default(),
            failed: false,
            meter,
            passed: 0,
        }
    }

    /// The same plan in windows of another size. For a plan not begun yet.
    #[must_use]
    pub fn with_window(mut self, window: Window) -> Self {
        self.queue.window = window;
        self
    }

    /// The same plan with others to do its work. For a plan not begun yet.
    #[must_use]
    pub fn with_crew(mut self, crew: Arc<dyn Crew>) -> Self {
        self.queue.crew = crew;
        self
    }

    /// Another plan on the same tree behind this one.
    pub(crate) fn append(&mut self, other: Plan) {
        for file in other.info.files {
            match self.info.files.iter_mut().find(|f| f.node == file.node) {
                Some(known) => known.written |= file.written,
                None => self.info.files.push(file),
            }
        }
        self.info.warnings.extend(other.info.warnings);
        self.info.equivalent.extend(other.info.equivalent);
        self.info.links.extend(other.info.links);
        self.info.ciphers.extend(other.info.ciphers);
        self.stages.extend(other.stages);
        self.meter
            .total
            .fetch_add(other.meter.total(), Ordering::Relaxed);
    }

    /// Tells, while the plan runs, how far it is.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// The file with this number.
    pub fn file(&self, node: NodeId) -> Option<&PlanFile> {
        self.info.files.iter().find(|f| f.node == node)
    }
}

impl Iterator for Plan {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        // The last step stays in the queue while more may come: it may still grow.
        while self.queue.steps.len() < 2 && !self.failed {
            let Some(stage) = self.stages.front_mut() else {
                break;
            };
            let more = stage.advance(&mut self.queue);
            let (done, total) = stage.progress();
            match more {
                Ok(true) => self.meter.done.store(self.passed + done, Ordering::Relaxed),
                Ok(false) => {
                    self.passed += total;
                    self.meter.done.store(self.passed, Ordering::Relaxed);
                    self.stages.pop_front();
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        if self.failed {
            None
        } else {
            self.queue.steps.pop_front().map(Ok)
        }
    }
}

impl crate::Tree {
    /// Plans `operation` on this tree. Everything that can be refused is refused here, before
    /// there is a step.
    pub fn plan(&self, operation: &Operation) -> Result<Plan> {
        if let Some(id) = operation.holds_tables_of() {
            guard::within_qemu_limits(self.node(id))?;
        }
        self.plan_any(operation)
    }

    fn plan_any(&self, operation: &Operation) -> Result<Plan> {
        match operation {
            Operation::Commit {
                top,
                base,
                relink,
                empty_top,
                bitmaps,
                allow_broken,
                allow_plaintext,
            } => commit::Commit {
                tree: self,
                top: *top,
                base: *base,
                relink,
                empty_top: *empty_top,
                bitmaps: *bitmaps,
                allow_broken: *allow_broken,
                allow_plaintext: *allow_plaintext,
            }
            .plan(),
            Operation::Pull { overlay, base } => rebase::plan_pull(self, *overlay, *base),
            Operation::Rebase {
                overlay,
                base,
                name,
                format,
                compress,
            } => {
                let link = (name.as_deref(), *format);
                rebase::plan_rebase(self, *overlay, *base, link, *compress)
            }
            Operation::Relink {
                overlay,
                name,
                format,
                base,
            } => rebase::plan_relink(self, *overlay, name.as_deref(), *format, *base),
            Operation::Remove {
                layer,
                active,
                method,
                allow_broken,
                allow_plaintext,
            } => {
                let allow = remove::Allow {
                    broken: *allow_broken,
                    plaintext: *allow_plaintext,
                };
                remove::plan_remove(self, *layer, *active, *method, allow)
            }
            Operation::Create {
                name,
                options,
                backing,
            } => create::plan_create(self, name, options, *backing),
            Operation::Amend { node, change } => amend::plan_amend(self, *node, change),
            Operation::Bitmap {
                node,
                name,
                actions,
            } => bitmap::plan_bitmap(self, *node, name, actions),
            Operation::Resize {
                image,
                size,
                preallocation,
                allow_broken,
            } => resize::plan_resize(self, *image, *size, *preallocation, *allow_broken),
            Operation::SnapshotCreate {
                image,
                name,
                date_sec,
                date_nsec,
            } => snapshot::plan_create(self, *image, name, (*date_sec, *date_nsec)),
            Operation::SnapshotApply {
                image,
                snapshot,
                allow_broken,
            } => snapshot::plan_apply(self, *image, snapshot, *allow_broken),
            Operation::SnapshotDelete { image, snapshot } => {
                snapshot::plan_delete(self, *image, snapshot)
            }
            Operation::Repair { image, fix } => repair_image::plan_repair(self, *image, *fix),
            Operation::Convert {
                sources,
                target,
                options,
            } => convert::plan_convert(self, sources, target, options),
        }
    }
}
