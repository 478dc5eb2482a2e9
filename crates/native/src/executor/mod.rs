//! Carrying out a plan on local files.
//!
//! The calling thread runs through the plan and hands jobs to a few worker threads; the order
//! of steps matters only at a `Sync`, a `Seal` and a `SetLen`, before which all jobs are waited
//! for.

mod files;
mod queue;
#[cfg(test)]
mod tests;
mod work;

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use backchain::format::bytes::to_u64;
use backchain::plan::{Origin, PlanInfo};
use backchain::{Error, ErrorKind, NodeId, Plan, ReadAt, Result, Step};

use crate::gate::FsGate;
use files::{Files, OpenFile};
use queue::Queue;
use work::{Counters, Gather, Job, PIECE, Part, Worker};

/// How a plan is carried out.
#[derive(Default)]
pub struct Options<'a> {
    /// Worker threads; as many as there are processors, but no more than four, when `None`.
    pub threads: Option<NonZeroUsize>,
    /// What `Sync` and `Seal` promise.
    pub durability: Durability,
    /// A file that the plan makes may be there already; it is emptied.
    pub overwrite: bool,
    /// Files that are only read may be in use by others (`-U`).
    pub force_share: bool,
    /// Set to true by somebody else, it stops the run.
    pub cancel: Option<&'a AtomicBool>,
    /// Bytes that the whole plan writes (see [`backchain::Preview::written`]), for
    /// [`Progress::total`].
    pub total: Option<u64>,
    /// Called now and then, in the calling thread.
    pub progress: Option<&'a dyn Fn(Progress)>,
}

/// What a run promises about a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// `Sync` and `Seal` wait for stable storage: whenever the power fails, the images are valid.
    #[default]
    Full,
    /// The order of steps is kept, but nothing is waited for (QEMU's `cache=unsafe`): safe when
    /// the program is killed, not when the power fails.
    None,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes to do, where known.
    pub total: Option<u64>,
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Steps.
    pub steps: u64,
    /// Bytes of all steps, zeros and holes included.
    pub bytes: u64,
    /// Bytes that were written.
    pub written: u64,
    /// Bytes that files share now instead of having been copied.
    pub shared: u64,
    /// Time it took.
    pub elapsed: Duration,
}

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Carries out a plan.
///
/// `gate` is where the tree was opened: its locks are given up for the plan's own. Every file
/// is then locked as QEMU locks it, and must be what it was when the plan was made: that, like
/// a lock that another program holds, is found out before anything is written.
///
/// A run that stops early, by an error or because the user wants it, leaves every image valid;
/// files that the plan was making are removed.
///
/// # Errors
/// [`ErrorKind::Changed`], [`ErrorKind::InUse`], [`ErrorKind::Cancelled`], and whatever planning
/// and the operating system report.
pub fn execute(plan: Plan, gate: &FsGate, options: &Options<'_>) -> Result<Report> {
    gate.release();
    let info = plan.info.clone();
    execute_steps(&info, plan, options)
}

/// Carries out steps that work on the files of `info`. See [`execute`].
pub fn execute_steps(
    info: &PlanInfo,
    steps: impl IntoIterator<Item = Result<Step>>,
    options: &Options<'_>,
) -> Result<Report> {
    let start = Instant::now();
    let counters = Counters::default();
    let queue = Queue::new();
    let threads = options
        .threads
        .map_or_else(default_threads, NonZeroUsize::get);
    let mut run = Run {
        info,
        options,
        queue: &queue,
        counters: &counters,
        files: Files::open(info, options)?,
        pending: None,
        steps: 0,
        reported: Cell::new(start),
    };
    let result = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut worker = Worker::new(&counters, &info.ciphers);
                queue.serve(|job| worker.run(job));
            });
        }
        // However this ends, the workers must end too.
        let _end = End(&queue);
        run.all(steps)
    });
    if let Err(error) = result {
        run.files.remove_unfinished();
        return Err(error);
    }
    Ok(Report {
        steps: run.steps,
        bytes: counters.done.load(Ordering::Relaxed),
        written: counters.written.load(Ordering::Relaxed),
        shared: counters.shared.load(Ordering::Relaxed),
        elapsed: start.elapsed(),
    })
}

fn default_threads() -> usize {
    thread::available_parallelism().map_or(2, |n| n.get().clamp(1, 4))
}

/// Ends the work of a queue when dropped.
struct End<'a>(&'a Queue<Job>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A plan being carried out.
struct Run<'a> {
    info: &'a PlanInfo,
    options: &'a Options<'a>,
    queue: &'a Queue<Job>,
    counters: &'a Counters,
    files: Files,
    /// Copies that are still being put together.
    pending: Option<Gather>,
    steps: u64,
    reported: Cell<Instant>,
}

impl Run<'_> {
    fn all(&mut self, steps: impl IntoIterator<Item = Result<Step>>) -> Result<()> {
        for step in steps {
            self.tick()?;
            self.step(step?)?;
            self.steps += 1;
        }
        self.barrier()?;
        self.report();
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Create { node } => {
                let planned = self.info.files.iter().find(|file| file.node == node);
                let planned = planned.ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, format!("the plan does not name {node}"))
                })?;
                self.files.create(planned)
            }
            Step::Copy {
                from,
                src,
                to,
                dst,
                len,
                sparse,
            } => self.copy(from, src.0, to, dst.0, len, sparse),
            Step::Inflate {
                from,
                src,
                len,
                codec,
                cluster,
                skip,
                take,
                to,
                dst,
            } => {
                let from = Arc::clone(self.files.get(from)?);
                let to = self.files.reach(to, dst.plus(take).0)?;
                let job = Job::Inflate {
                    from,
                    src: src.0,
                    packed: len,
                    codec,
                    cluster,
                    skip,
                    take,
                    to,
                    dst: dst.0,
                };
                self.push(job, 0)
            }
            Step::Recode {
                origin,
                to,
                dst,
                encrypt,
                len,
                sparse,
            } => {
                let from = origin
                    .source()
                    .map(|node| self.files.get(node).map(Arc::clone));
                let from = from.transpose()?;
                let file = self.files.reach(to, dst.plus(len).0)?;
                let mut pos = 0;
                while pos < len {
                    // A cluster is unpacked once.
                    let piece = match origin {
                        Origin::Packed { .. } => len,
                        _ => (len - pos).min(PIECE),
                    };
                    let job = Job::Recode {
                        from: from.clone(),
                        origin: origin.advanced(pos),
                        to: Arc::clone(&file),
                        node: to,
                        dst: dst.plus(pos).0,
                        encrypt: encrypt.map(|at| at.saturating_add(pos)),
                        len: piece,
                        sparse,
                    };
                    self.push(job, 0)?;
                    pos += piece;
                }
                Ok(())
            }
            Step::Zero { to, dst, len } => self.zero(to, dst.0, len),
            Step::Allocate {
                to,
                dst,
                len,
                write,
            } => self.allocate(to, dst.0, len, write),
            Step::Discard { to, dst, len } => {
                let to = Arc::clone(self.files.get(to)?);
                self.push(
                    Job::Discard {
                        to,
                        dst: dst.0,
                        len,
                    },
                    0,
                )
            }
            Step::Write { to, dst, bytes, .. } => {
                let held = bytes.len();
                let end = dst.plus(to_u64(held)).0;
                let to = self.files.reach(to, end)?;
                let job = Job::Write {
                    to,
                    dst: dst.0,
                    bytes,
                };
                self.push(job, held)
            }
            // Making a file longer can wait for the next barrier, without being one.
            Step::SetLen { to, len } if self.files.is_growth(to, len)? => {
                self.files.reach(to, len).map(|_| ())
            }
            Step::SetLen { to, len } => {
                self.barrier()?;
                self.files.set_len(to, len)
            }
            Step::Sync { node } => {
                self.barrier()?;
                self.files.sync(node)
            }
            Step::Seal { node } => {
                self.barrier()?;
                self.files.seal(node)
            }
            other => Err(Error::new(
                ErrorKind::Unsupported,
                format!("the step on {} is not known here", other.target()),
            )),
        }
    }

    fn zero(&mut self, to: NodeId, dst: u64, len: u64) -> Result<()> {
        let to = self.files.reach(to, dst.saturating_add(len))?;
        self.push(Job::Zero { to, dst, len }, 0)
    }

    fn allocate(&mut self, to: NodeId, dst: u64, len: u64, write: bool) -> Result<()> {
        let to = self.files.reach(to, dst.saturating_add(len))?;
        let (mut dst, mut len) = (dst, len);
        while len > 0 {
            // Small enough to be stopped between two of them.
            let piece = len.min(64 * PIECE);
            let job = Job::Allocate {
                to: Arc::clone(&to),
                dst,
                len: piece,
                write,
            };
            self.push(job, 0)?;
            (dst, len) = (dst + piece, len - piece);
        }
        Ok(())
    }

    fn copy(
        &mut self,
        from: NodeId,
        src: u64,
        to_node: NodeId,
        dst: u64,
        len: u64,
        sparse: bool,
    ) -> Result<()> {
        let from = Arc::clone(self.files.get(from)?);
        let to = self.files.reach(to_node, dst.saturating_add(len))?;
        // Behind the end of the file there are only zeros.
        let present = len.min(files::available(&from, src));
        if present < len {
            if sparse {
                self.skip(len - present);
            } else {
                self.zero(to_node, dst + present, len - present)?;
            }
        }
        if !sparse || present < PIECE {
            return self.copy_data(&from, src, &to, dst, present, sparse);
        }
        // Long enough to be worth a look for holes.
        let mut pos = src;
        let end = src + present;
        while pos < end {
            let data = from.file.data_at(pos);
            let data = data.map_err(|e| from.failed("reading", pos, end - pos, e))?;
            let data = data.unwrap_or(end..end);
            let (start, stop) = (data.start.clamp(pos, end), data.end.clamp(pos, end));
            self.skip(start - pos);
            self.copy_data(&from, start, &to, dst + (start - src), stop - start, sparse)?;
            pos = stop;
        }
        Ok(())
    }

    /// Cuts a copy into jobs, or adds it to the last one when it goes on where that ended.
    fn copy_data(
        &mut self,
        from: &Arc<OpenFile>,
        mut src: u64,
        to: &Arc<OpenFile>,
        mut dst: u64,
        mut len: u64,
        sparse: bool,
    ) -> Result<()> {
        // Blocks can be shared only where they begin at the same place in both files.
        let may_share = (src | dst).trailing_zeros() >= 12 && files::may_share(from, to);
        while len > 0 {
            if may_share {
                // Nearly free, but must not keep a stop waiting when it turns out not to be.
                let piece = len.min(64 * PIECE);
                let job = Job::Share {
                    from: Arc::clone(from),
                    src,
                    to: Arc::clone(to),
                    dst,
                    len: piece,
                    sparse,
                };
                self.push(job, 0)?;
                (src, dst, len) = (src + piece, dst + piece, len - piece);
                continue;
            }
            let mut gather = match self.pending.take() {
                Some(gather)
                    if Arc::ptr_eq(&gather.to, to)
                        && gather.sparse == sparse
                        && gather.dst + gather.len == dst =>
                {
                    gather
                }
                other => {
                    if let Some(other) = other {
                        self.push(Job::Copy(other), 0)?;
                    }
                    Gather {
                        to: Arc::clone(to),
                        dst,
                        len: 0,
                        sparse,
                        parts: Vec::new(),
                    }
                }
            };
            let piece = len.min(PIECE - gather.len);
            gather.parts.push(Part {
                from: Arc::clone(from),
                src,
                len: piece,
            });
            gather.len += piece;
            if gather.len < PIECE {
                self.pending = Some(gather);
            } else {
                self.push(Job::Copy(gather), 0)?;
            }
            (src, dst, len) = (src + piece, dst + piece, len - piece);
        }
        Ok(())
    }

    /// Counts bytes that need no work.
    fn skip(&self, len: u64) {
        self.counters.done.fetch_add(len, Ordering::Relaxed);
    }

    fn push(&self, job: Job, held: usize) -> Result<()> {
        self.queue.push(job, held, &mut || self.tick())
    }

    /// Waits until everything so far is done, though not durable.
    fn barrier(&mut self) -> Result<()> {
        if let Some(gather) = self.pending.take() {
            self.push(Job::Copy(gather), 0)?;
        }
        self.queue.drain(&mut || self.tick())?;
        self.files.settle()
    }

    /// Looks whether to stop, and reports progress when it is time.
    fn tick(&self) -> Result<()> {
        if let Some(cancel) = self.options.cancel
            && cancel.load(Ordering::Relaxed)
        {
            return Err(Error::new(ErrorKind::Cancelled, "stopped by the user"));
        }
        if self.options.progress.is_some() && self.reported.get().elapsed() >= REPORT_EVERY {
            self.report();
        }
        Ok(())
    }

    fn report(&self) {
        self.reported.set(Instant::now());
        if let Some(progress) = self.options.progress {
            progress(Progress {
                done: self.counters.done.load(Ordering::Relaxed),
                total: self.options.total,
            });
        }
    }
}
