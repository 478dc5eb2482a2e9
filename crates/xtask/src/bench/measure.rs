//! Running one program and counting what it costs.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cmd;

/// What one run cost.
#[derive(Clone, Copy, Default)]
pub(super) struct Cost {
    /// Seconds on the clock.
    pub(super) wall: f64,
    /// Seconds of processors, in the program and in the system for it.
    pub(super) cpu: f64,
    /// The most memory it had at any time, in MiB.
    pub(super) memory: f64,
}

impl Cost {
    /// The cost of one run after another.
    pub(super) fn then(self, next: Self) -> Self {
        Self {
            wall: self.wall + next.wall,
            cpu: self.cpu + next.cpu,
            memory: self.memory.max(next.memory),
        }
    }

    /// The middle of several runs, for each number on its own.
    pub(super) fn median(runs: &[Self]) -> Self {
        let middle = |number: fn(&Self) -> f64| {
            let mut numbers: Vec<f64> = runs.iter().map(number).collect();
            numbers.sort_by(f64::total_cmp);
            numbers.get(numbers.len() / 2).copied().unwrap_or_default()
        };
        Self {
            wall: middle(|cost| cost.wall),
            cpu: middle(|cost| cost.cpu),
            memory: middle(|cost| cost.memory),
        }
    }
}

/// Runs a command to its end. Its output goes nowhere; its failure is an error with its words.
pub(super) fn run(command: &mut Command, dir: &Path) -> Result<Cost> {
    let words = dir.join("stderr");
    command
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(File::create(&words)?);
    let start = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {}", cmd::shown(command)))?;
    let (status, usage) = wait(child.id())?;
    let wall = start.elapsed().as_secs_f64();
    if status != 0 {
        let words = std::fs::read_to_string(words).unwrap_or_default();
        bail!("{} failed: {}", cmd::shown(command), words.trim());
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Cost {
        wall,
        cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        memory: usage.ru_maxrss as f64 / 1024.0,
    })
}

/// Waits for a child that nobody else waits for.
fn wait(pid: u32) -> Result<(i32, libc::rusage)> {
    let pid = libc::pid_t::try_from(pid)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to memory of ours of the right type.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        if waited == pid {
            // SAFETY: all bits zero are a valid value, and the call filled it in.
            return Ok((status, unsafe { usage.assume_init() }));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error.into());
        }
    }
}
