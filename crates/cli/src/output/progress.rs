//! Progress: a bar on a terminal, qemu-img's percentage elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

/// Shows how far something is until it is dropped or finished.
pub(crate) enum Progress {
    /// Shows nothing.
    Nothing,
    /// A bar.
    Bar(ProgressBar),
    /// The last percentage shown, in hundredths.
    Percent(Mutex<u64>),
}

/// When progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Never.
    Never,
    /// On a terminal.
    Terminal,
    /// Always (`-p`).
    Always,
}

impl When {
    /// For a command with qemu-img's name: only when asked for.
    pub(crate) fn asked(progress: bool, quiet: bool) -> Self {
        if progress && !quiet {
            Self::Always
        } else {
            Self::Never
        }
    }

    /// For a command of our own: on a terminal, or when asked for.
    pub(crate) fn usual(progress: bool, quiet: bool) -> Self {
        match (progress, quiet) {
            (_, true) => Self::Never,
            (true, _) => Self::Always,
            (false, _) => Self::Terminal,
        }
    }
}

impl Progress {
    /// Starts at 0 % under `title`.
    pub(crate) fn start(title: &str, when: When) -> Self {
        let terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        match when {
            When::Terminal | When::Always if terminal => {
                let bar = ProgressBar::new(0);
                let style = ProgressStyle::with_template(
                    "{msg} [{bar:30}] {percent:>3} %  {bytes}/{total_bytes}  {eta}",
                );
                if let Ok(style) = style {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_message(title.to_owned());
                Self::Bar(bar)
            }
            When::Never | When::Terminal => Self::Nothing,
            When::Always => {
                percent(0);
                Self::Percent(Mutex::new(0))
            }
        }
    }

    /// Shows that `done` of `total` bytes are done.
    pub(crate) fn set(&self, done: u64, total: u64) {
        match self {
            Self::Nothing => {}
            Self::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done.min(total));
            }
            Self::Percent(last) => {
                let wide = u128::from(done.min(total)) * 10_000;
                let hundredths = wide.checked_div(u128::from(total)).unwrap_or(0);
                let hundredths = u64::try_from(hundredths).unwrap_or(10_000);
                // Held while printing: several threads may report.
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if *last < hundredths {
                    *last = hundredths;
                    percent(hundredths);
                }
            }
        }
    }

    /// Everything is done.
    pub(crate) fn finish(&self) {
        if let Self::Percent(_) = self {
            percent(10_000);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match self {
            Self::Nothing => {}
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Percent(_) => {
                let _ = writeln!(io::stdout());
            }
        }
    }
}

fn percent(hundredths: u64) {
    let mut out = io::stdout();
    let (whole, part) = (hundredths / 100, hundredths % 100);
    // A reader that has gone is noticed at the next real output.
    let _ = write!(out, "    ({whole}.{part:02}/100%)\r");
    let _ = out.flush();
}
