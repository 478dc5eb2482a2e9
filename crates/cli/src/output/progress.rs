//! Progress: a bar on a terminal, qemu-img's percentage elsewhere.

use backchain::plan::Meter;
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

/// Shows how far a plan is until it is dropped or finished.
pub(crate) struct Progress {
    meter: Arc<Meter>,
    shown: Shown,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    /// The last percentage shown, in hundredths.
    Percent(Cell<u64>),
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
    /// Starts showing the progress of the plan that `meter` belongs to, under `title`.
    pub(crate) fn start(meter: Arc<Meter>, title: &str, when: When) -> Self {
        let terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        let shown = match when {
            When::Never => Shown::Nothing,
            When::Terminal | When::Always if terminal => {
                let bar = ProgressBar::new(meter.total());
                let style = ProgressStyle::with_template(
                    "{msg} [{bar:30}] {percent:>3} %  {bytes}/{total_bytes}  {eta}",
                );
                if let Ok(style) = style {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_message(title.to_owned());
                Shown::Bar(bar)
            }
            When::Terminal => Shown::Nothing,
            When::Always => Shown::Percent(Cell::new(u64::MAX)),
        };
        let progress = Self { meter, shown };
        progress.update();
        progress
    }

    /// Shows the current state.
    pub(crate) fn update(&self) {
        let (done, total) = (self.meter.done(), self.meter.total());
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done.min(total));
            }
            Shown::Percent(last) => {
                let wide = u128::from(done.min(total)) * 10_000;
                let hundredths = wide.checked_div(u128::from(total)).unwrap_or(0);
                let hundredths = u64::try_from(hundredths).unwrap_or(10_000);
                if last.replace(hundredths) != hundredths {
                    percent(hundredths);
                }
            }
        }
    }

    /// Everything is done.
    pub(crate) fn finish(self) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_position(self.meter.total());
                bar.finish_and_clear();
            }
            Shown::Percent(_) => percent(10_000),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Percent(_) => {
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
