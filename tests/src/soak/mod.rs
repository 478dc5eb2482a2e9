//! The soak: random sequences of operations by both programs on random chains, with a plain
//! byte-array model of what every image has to show.

mod generate;
mod model;
mod op;
mod run;
mod verify;

pub use run::Failure;

use backchain_testkit::rng::mix;
use op::{Op, Tool};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// backchain has `snapshot`.
const OWN_SNAPSHOTS: bool = true;
/// backchain has `resize`.
const OWN_RESIZES: bool = true;
/// backchain has `bitmap`.
const OWN_BITMAPS: bool = true;
/// backchain has `amend`.
const OWN_AMENDS: bool = true;
/// backchain has `convert -c`.
const OWN_PACKS: bool = true;

/// The programs to run; qemu-img and qemu-io are those of the system.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The command `backchain`.
    pub own: PathBuf,
}

/// How much to run.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// The first sequence's number and how many follow it.
    pub seed: u64,
    /// Sequences.
    pub sequences: u64,
    /// Threads.
    pub threads: usize,
}

/// Failures after which a run ends.
const MAX_FAILURES: usize = 5;

/// What was run.
#[derive(Debug, Default)]
pub struct Report {
    /// Sequences that were run.
    pub sequences: u64,
    /// Operations by name and program.
    pub statistics: Statistics,
    /// What went wrong.
    pub failures: Vec<Failure>,
}

/// How often each operation was done and refused.
#[derive(Debug, Default, Clone)]
pub struct Statistics {
    counts: BTreeMap<(&'static str, Tool), (u64, u64)>,
    reasons: BTreeMap<String, u64>,
}

impl Statistics {
    fn count(&mut self, op: &Op, tool: Tool, refused: Option<&str>) {
        let count = self.counts.entry((op.name(), tool)).or_default();
        match refused {
            None => count.0 += 1,
            Some(reason) => {
                count.1 += 1;
                let words = reason.lines().next().unwrap_or_default();
                // Numbers and file names differ from case to case.
                let words: Vec<&str> = words
                    .split(' ')
                    .filter(|word| !word.contains(|c: char| c.is_ascii_digit()))
                    .collect();
                let reason = format!("{} {tool:?}: {}", op.name(), words.join(" "));
                *self.reasons.entry(reason).or_default() += 1;
            }
        }
    }

    fn add(&mut self, other: &Self) {
        for (key, (done, refused)) in &other.counts {
            let count = self.counts.entry(*key).or_default();
            count.0 += done;
            count.1 += refused;
        }
        for (reason, n) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += n;
        }
    }

    /// Operations done by backchain, and by QEMU's programs.
    pub fn done(&self) -> (u64, u64) {
        let sum = |tool: Tool| {
            let of = self.counts.iter().filter(|((_, t), _)| *t == tool);
            of.map(|(_, (done, _))| done).sum()
        };
        (sum(Tool::Own), sum(Tool::Qemu))
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = format!("{:20}{:>22}{:>22}\n", "operation", "backchain", "QEMU");
        let names: std::collections::BTreeSet<_> = self.counts.keys().map(|(n, _)| *n).collect();
        for name in names {
            text += &format!("{name:20}");
            for tool in [Tool::Own, Tool::Qemu] {
                let cell = match self.counts.get(&(name, tool)) {
                    None => "-".to_owned(),
                    Some((done, 0)) => done.to_string(),
                    Some((done, refused)) => format!("{done} ({refused} refused)"),
                };
                text += &format!("{cell:>22}");
            }
            text.push('\n');
        }
        for (reason, n) in &self.reasons {
            text += &format!("  {n:6} refused: {reason}\n");
        }
        text
    }
}

/// Runs sequences on several threads. The same seed gives the same sequences.
pub fn run(programs: &Programs, amount: Amount, say: &(dyn Fn(u64) + Sync)) -> Report {
    let next = AtomicU64::new(0);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..amount.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= amount.sequences {
                        return;
                    }
                    let seed = mix(amount.seed.wrapping_add(number));
                    let mut statistics = Statistics::default();
                    let failure = run::sequence(programs, seed, &mut statistics);
                    let mut report = report.lock().expect("no thread panics");
                    report.sequences += 1;
                    report.statistics.add(&statistics);
                    report.failures.extend(failure);
                    if report.failures.len() >= MAX_FAILURES {
                        next.store(amount.sequences, Ordering::Relaxed);
                    }
                    say(report.sequences);
                }
            });
        }
    });
    report.into_inner().expect("no thread panics")
}

/// Runs the one sequence whose failure was reported with this seed.
pub fn run_one(programs: &Programs, seed: u64) -> Report {
    let mut report = Report {
        sequences: 1,
        ..Report::default()
    };
    let failure = run::sequence(programs, seed, &mut report.statistics);
    report.failures.extend(failure);
    report
}
