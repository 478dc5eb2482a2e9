//! A bounded queue of jobs between the thread that plans and those that work.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backchain::{Error, ErrorKind, Result};

/// Jobs waiting at most.
const MAX_JOBS: usize = 128;
/// Bytes that waiting jobs hold in memory at most, but for a single larger one.
const MAX_BYTES: usize = 8 << 20;
/// How long to wait before looking again whether to go on.
const TICK: Duration = Duration::from_millis(50);

/// The queue. The first error stops it: waiting jobs are dropped, running ones end.
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    /// There is something to do, or nothing will ever be.
    work: Condvar,
    /// There is room, or all is done.
    room: Condvar,
}

struct State<J> {
    jobs: VecDeque<(J, usize)>,
    bytes: usize,
    running: usize,
    closed: bool,
    /// The queue takes no more jobs; the error is there until somebody fetched it.
    stopped: bool,
    error: Option<Error>,
}

impl<J> Queue<J> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                bytes: 0,
                running: 0,
                closed: false,
                stopped: false,
                error: None,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job that holds `bytes` bytes, waiting for room. Calls `tick` while it waits; an
    /// error of its stops the queue. Fails with the queue's first error.
    pub(super) fn push(
        &self,
        job: J,
        bytes: usize,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.wait(tick, |state| {
            state.jobs.len() < MAX_JOBS && (state.jobs.is_empty() || state.bytes < MAX_BYTES)
        })?;
        let mut state = self.state();
        state.jobs.push_back((job, bytes));
        state.bytes = state.bytes.saturating_add(bytes);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Waits until every job is done.
    pub(super) fn drain(&self, tick: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.wait(tick, |state| state.jobs.is_empty() && state.running == 0)
    }

    fn wait(
        &self,
        tick: &mut dyn FnMut() -> Result<()>,
        is_ready: impl Fn(&State<J>) -> bool,
    ) -> Result<()> {
        let mut state = self.state();
        loop {
            if state.stopped {
                let error = state.error.take();
                return Err(error.unwrap_or_else(already_stopped));
            }
            if is_ready(&state) {
                return Ok(());
            }
            state = self
                .room
                .wait_timeout(state, TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            drop(state);
            tick()?;
            state = self.state();
        }
    }

    /// Drops the waiting jobs, waits for the running ones, and sends the workers home.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.stop(None);
        while state.running > 0 {
            state = self
                .room
                .wait_timeout(state, TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.closed = true;
        drop(state);
        self.work.notify_all();
    }

    /// Does jobs with `run` until there are no more.
    pub(super) fn serve(&self, mut run: impl FnMut(J) -> Result<()>) {
        while let Some(job) = self.next() {
            let mut ticket = Ticket {
                queue: self,
                result: Err(Error::new(ErrorKind::Io, "a worker thread panicked")),
            };
            ticket.result = run(job);
        }
    }

    fn next(&self) -> Option<J> {
        let mut state = self.state();
        loop {
            if let Some((job, bytes)) = state.jobs.pop_front() {
                state.bytes = state.bytes.saturating_sub(bytes);
                state.running += 1;
                drop(state);
                self.room.notify_one();
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<J> State<J> {
    fn stop(&mut self, error: Option<Error>) {
        if !self.stopped {
            self.stopped = true;
            self.error = error;
        }
        self.jobs.clear();
        self.bytes = 0;
    }
}

/// A running job; counted off even when it panics.
struct Ticket<'a, J> {
    queue: &'a Queue<J>,
    result: Result<()>,
}

impl<J> Drop for Ticket<'_, J> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.running -= 1;
        if let Err(error) = std::mem::replace(&mut self.result, Ok(())) {
            state.stop(Some(error));
        }
        drop(state);
        self.queue.room.notify_one();
    }
}

/// For those who ask again after the first error was fetched.
fn already_stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "stopped")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Waiting for all jobs must mean that they are done, not that they were fetched; and an
    /// error must come out exactly once and end everything.
    #[test]
    fn drain_waits_for_running_jobs_and_the_first_error_comes_out() {
        let queue = Queue::new();
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    queue.serve(|job: usize| {
                        std::thread::sleep(Duration::from_millis(1));
                        done.fetch_add(1, Ordering::Relaxed);
                        if job == 1000 {
                            return Err(Error::new(ErrorKind::Io, "job 1000"));
                        }
                        Ok(())
                    });
                });
            }
            for round in 1..=2 {
                for job in 0..300 {
                    queue.push(job, 1, &mut || Ok(())).unwrap();
                }
                queue.drain(&mut || Ok(())).unwrap();
                assert_eq!(done.load(Ordering::Relaxed), 300 * round);
            }
            queue.push(1000, MAX_BYTES * 2, &mut || Ok(())).unwrap();
            let error = queue.drain(&mut || Ok(())).unwrap_err();
            assert_eq!(error.message(), "job 1000");
            let error = queue.push(1, 1, &mut || Ok(())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            queue.abandon();
        });
    }
}
