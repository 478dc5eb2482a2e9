//! A limit on the bytes written in a second (`-r`).

use backchain::{HostOffset, Plan, Result, Step};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The largest piece of a copy under a limit.
const PIECE: u64 = 1 << 20;

/// The steps of a plan, handed out no faster than a rate allows.
pub(crate) struct Throttle<'a> {
    plan: Plan,
    rate: Option<u64>,
    cancel: &'a AtomicBool,
    start: Instant,
    bytes: u64,
    /// What is left of a copy that is handed out in pieces.
    rest: Option<Step>,
}

impl<'a> Throttle<'a> {
    /// `rate` is in bytes a second; without one nothing is held back.
    pub(crate) fn new(plan: Plan, rate: Option<u64>, cancel: &'a AtomicBool) -> Self {
        Self {
            plan,
            rate: rate.filter(|&rate| rate > 0),
            cancel,
            start: Instant::now(),
            bytes: 0,
            rest: None,
        }
    }

    fn wait(&self, rate: u64) {
        #[allow(clippy::cast_precision_loss)]
        let due = Duration::from_secs_f64(self.bytes as f64 / rate as f64);
        loop {
            let left = due.saturating_sub(self.start.elapsed());
            if left.is_zero() || self.cancel.load(Ordering::Relaxed) {
                return;
            }
            sleep(left.min(Duration::from_millis(50)));
        }
    }
}

impl Iterator for Throttle<'_> {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(rate) = self.rate else {
            return self.plan.next();
        };
        let step = match self.rest.take() {
            Some(step) => step,
            None => match self.plan.next()? {
                Ok(step) => step,
                Err(error) => return Some(Err(error)),
            },
        };
        let (step, rest) = split(step);
        self.rest = rest;
        self.wait(rate);
        self.bytes = self.bytes.saturating_add(step.bytes());
        Some(Ok(step))
    }
}

/// The first piece of a long copy, and what is left of it.
fn split(step: Step) -> (Step, Option<Step>) {
    let further = |at: HostOffset| at.plus(PIECE);
    match step {
        Step::Copy {
            from,
            src,
            to,
            dst,
            len,
            sparse,
        } if len > PIECE => {
            let piece = |src, dst, len| Step::Copy {
                from,
                src,
                to,
                dst,
                len,
                sparse,
            };
            (
                piece(src, dst, PIECE),
                Some(piece(further(src), further(dst), len - PIECE)),
            )
        }
        other => (other, None),
    }
}
