//! Every test of the project, whatever runs it.
//!
//! A kind that fails does not keep the others from running. The very last line of the output
//! is `N passed, N failed`, summed up over all test runners.

mod browser;
mod lint;
mod native;
mod totals;
mod wasm;

use std::io::Write;
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Error, Result, bail};

use crate::cmd;
use totals::Totals;

/// One kind of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Formatting and warnings.
    Lint,
    /// `cargo test` on this machine.
    Native,
    /// Tests of the web app's Rust code, in a browser.
    Wasm,
    /// The finished site in a browser, on files of the local disk.
    Browser,
}

impl Kind {
    /// Cheapest first.
    pub(crate) const ALL: [Self; 4] = [Self::Lint, Self::Native, Self::Wasm, Self::Browser];

    fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Native => "native",
            Self::Wasm => "wasm",
            Self::Browser => "browser",
        }
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|kind| kind.name() == word) {
            Some(kind) => Ok(kind),
            None => bail!("no tests are called {word}; there are lint, native, wasm and browser"),
        }
    }
}

/// Runs some kinds of tests and adds up their results.
pub(crate) fn run(kinds: &[Kind]) -> Result<ExitCode> {
    let mut session = Session::default();
    let start = Instant::now();
    for kind in kinds {
        let elapsed = start.elapsed().as_secs();
        cmd::say(&format!("{} tests (after {elapsed} s)", kind.name()));
        let outcome = match kind {
            Kind::Lint => lint::run(&mut session),
            Kind::Native => native::run(&mut session),
            Kind::Wasm => wasm::run(&mut session),
            Kind::Browser => browser::run(&mut session),
        };
        if let Err(error) = outcome {
            session.fail(&format!("{} tests could not run: {error:#}", kind.name()));
        }
    }
    if !session.figures.is_empty() {
        cmd::say("figures, as web/README.md keeps them:");
        session.figures.iter().for_each(|figure| cmd::say(figure));
    }
    let failures = &session.failures;
    if !failures.is_empty() {
        for failure in failures {
            cmd::say(failure);
        }
    }
    // What fails without a failed test, such as a warning of clippy, counts as one failure.
    let failed = session.totals.failed.max(u64::try_from(failures.len())?);
    println!("{} passed, {failed} failed", session.totals.passed);
    std::io::stdout().flush()?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What happened so far.
#[derive(Default)]
pub(crate) struct Session {
    totals: Totals,
    failures: Vec<String>,
    /// What was measured on the way: sizes, times, counts.
    figures: Vec<String>,
}

impl Session {
    /// Runs a check that counts no tests of its own.
    fn check(&mut self, what: &str, command: &mut Command) -> Result<()> {
        if let Err(error) = cmd::step(what, || cmd::run(command)) {
            self.fail(&format!("{error:#}"));
        }
        Ok(())
    }

    /// Runs a test runner and adds what it counted.
    fn runner(&mut self, what: &str, command: &mut Command) -> Result<()> {
        cmd::say(&format!("{what}: {}", cmd::shown(command)));
        let (totals, figures) = (&mut self.totals, &mut self.figures);
        let passed = cmd::stream(command, |line| {
            totals.read(line);
            // Tests print `figure: what: value`, perhaps behind a reporter's mark.
            if let Some((_, figure)) = line.split_once("figure: ") {
                figures.push(figure.trim_end().to_owned());
            }
        })?;
        if !passed {
            self.fail(&format!("{what} failed"));
        }
        Ok(())
    }

    fn fail(&mut self, line: &str) {
        self.failures.push(line.to_owned());
    }
}
