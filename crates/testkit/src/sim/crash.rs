//! What a crash can leave behind.
//!
//! A sync makes durable what was written to *its* file. Everything since may be there or not,
//! whole or in part, in any combination.

use super::run::Run;
use super::{Effect, SimFile};
use crate::case::Files;
use crate::rng::Rng;

/// The files after a crash.
#[derive(Debug)]
pub struct CrashState {
    /// How it came about, for messages.
    pub story: String,
    /// The files.
    pub files: Files,
}

/// How much of what is not durable reaches the disk.
#[derive(Debug, Clone, Copy)]
enum Luck {
    Nothing,
    Everything,
    Some,
    Torn,
}

/// States in which a crash can leave the disk: every prefix of the log (or `prefixes` of them
/// evenly spread, when there are more), each with nothing, everything, a random subset and a
/// random torn subset of what was not durable at its end.
pub fn crash_states(run: &Run, prefixes: usize, rng: &mut Rng) -> impl Iterator<Item = CrashState> {
    let len = run.log.len();
    let step = len.div_ceil(prefixes.max(1)).max(1);
    let first = if step > 1 {
        usize::try_from(rng.below(step as u64)).unwrap_or(0)
    } else {
        0
    };
    let seed = rng.word();
    (first..=len).step_by(step).flat_map(move |prefix| {
        [
            Luck::Nothing,
            Luck::Everything,
            Luck::Some,
            Luck::Some,
            Luck::Torn,
        ]
        .into_iter()
        .zip(0..)
        .map(move |(luck, draw)| {
            let seed = seed ^ (prefix as u64 * 8 + draw);
            state(run, prefix, luck, &mut Rng::new(seed))
        })
    })
}

fn state(run: &Run, prefix: usize, luck: Luck, rng: &mut Rng) -> CrashState {
    let mut files = run.before.clone();
    let log = &run.log[..prefix];
    for (index, entry) in log.iter().enumerate() {
        if entry.effect == Effect::Create {
            files.insert(entry.file.clone(), SimFile::new(Vec::new(), false));
            continue;
        }
        let Some(file) = files.get_mut(&entry.file) else {
            continue;
        };
        let later = &log[index + 1..];
        let durable = later
            .iter()
            .any(|e| e.file == entry.file && e.effect == Effect::Barrier);
        match luck {
            _ if durable => entry.effect.apply(file),
            Luck::Nothing => {}
            Luck::Everything => entry.effect.apply(file),
            Luck::Some if rng.chance(1, 2) => entry.effect.apply(file),
            Luck::Torn if rng.chance(2, 3) => entry.effect.tear(file, rng),
            Luck::Some | Luck::Torn => {}
        }
    }
    let story = format!("crash after {prefix} of {} steps, {luck:?}", run.log.len());
    CrashState { story, files }
}

/// The files when the steps between two barriers are carried out in another order.
pub fn reordered(run: &Run, rng: &mut Rng) -> Files {
    let mut files = run.before.clone();
    for interval in run.log.split(|e| e.effect == Effect::Barrier) {
        let mut steps: Vec<_> = interval.iter().collect();
        rng.shuffle(&mut steps);
        // A file must be there before it is written.
        steps.sort_by_key(|e| e.effect != Effect::Create);
        for step in steps {
            let empty = || SimFile::new(Vec::new(), false);
            step.effect
                .apply(files.entry(step.file.clone()).or_insert_with(empty));
        }
    }
    files
}
