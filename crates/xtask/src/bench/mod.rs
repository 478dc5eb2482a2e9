//! Measuring against qemu-img: both programs in turn, on the same bytes, in one run.

mod family;
mod image;
mod measure;
mod operation;
mod report;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::{build, cmd};
use family::{FLAT, Family, Fixture};
use measure::Cost;
use operation::Operation;
use report::Row;

const USAGE: &str = "\
Measures backchain against qemu-img.

Usage: cargo xtask bench [--quick] [--family NAME]... [--only OPERATION]... [--rounds N]

  --quick           an eighth of the size
  --family NAME     M, deep32, deep100 or D1; all by default
  --only OPERATION  only operations whose name begins so
  --rounds N        how often each is run; medians are shown (3)

The images are kept in target/bench/; the result is also written to target/bench/results.json.";

/// What to measure.
struct Options {
    quick: bool,
    families: Vec<Family>,
    only: Vec<String>,
    rounds: usize,
}

/// Runs the benchmark with the arguments that follow `cargo xtask bench`.
pub(crate) fn run(args: Vec<OsString>) -> Result<()> {
    let mut options = Options {
        quick: false,
        families: Vec::new(),
        only: Vec::new(),
        rounds: 3,
    };
    let mut to_build = None;
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("quick") => options.quick = true,
            Long("family") => options.families.push(parser.value()?.string()?.parse()?),
            Long("only") => options.only.push(parser.value()?.string()?),
            Long("rounds") => options.rounds = parser.value()?.parse::<usize>()?.max(1),
            Long("build") => to_build = Some(parser.value()?.string()?.parse()?),
            Short('h') | Long("help") => {
                println!("{USAGE}");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(family) = to_build {
        return Fixture::build(family, options.quick);
    }
    if options.families.is_empty() {
        options.families = Family::ALL.to_vec();
    }
    measure_all(&options)
}

fn measure_all(options: &Options) -> Result<()> {
    if cmd::which("qemu-img").is_none() {
        bail!("qemu-img is not installed (Debian package qemu-utils)");
    }
    build::cli()?;
    let mut rows = Vec::new();
    let path = cmd::root().join("target/bench/results.json");
    for &family in &options.families {
        let fixture = Fixture::ready(family, options.quick)?;
        for operation in operation::all(&fixture) {
            let wanted = |only: &String| operation.name.starts_with(only.as_str());
            if !options.only.is_empty() && !options.only.iter().any(wanted) {
                continue;
            }
            let row = measure(&fixture, &operation, options.rounds)
                .map(|(ours, theirs)| Row {
                    family: family.name(),
                    operation: operation.name,
                    ours,
                    theirs,
                })
                .with_context(|| format!("{}, {}", family.name(), operation.name));
            match row {
                Ok(row) => {
                    println!("{}", row.line());
                    rows.push(row);
                    // Each time, so that a run cut short is not lost.
                    fs::write(&path, report::json(&rows, options.quick, options.rounds))?;
                }
                // The others are still worth measuring.
                Err(error) => println!("xtask: not measured: {error:#}"),
            }
        }
    }
    println!("\n{}", report::table(&rows));
    Ok(())
}

/// The two programs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Ours,
    Theirs,
}

impl Program {
    fn command(self) -> Command {
        match self {
            Program::Ours => cmd::command(cmd::root().join("target/release/backchain")),
            Program::Theirs => cmd::command("qemu-img"),
        }
    }
}

/// What a program's command lines for an operation cost together.
fn run_once(program: Program, operation: &Operation, dir: &Workplace) -> Result<Cost> {
    let lines = match program {
        Program::Ours => &operation.ours,
        Program::Theirs => &operation.theirs,
    };
    let mut cost = Cost::default();
    for line in lines {
        cost = cost.then(measure::run(program.command().args(line), &dir.0)?);
    }
    Ok(cost)
}

/// Medians of both programs.
fn measure(fixture: &Fixture, operation: &Operation, rounds: usize) -> Result<(Cost, Cost)> {
    // One run that does not count: it is checked, and after it the files, the free memory and
    // the disk are as warm for the one program as for the other.
    let dir = Workplace::new(fixture, operation)?;
    run_once(Program::Ours, operation, &dir)?;
    verify(&dir.0, operation).context("backchain's result is wrong")?;
    drop(dir);

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Who goes first changes, so that neither always finds the cache warm.
        let mut programs = [Program::Theirs, Program::Ours];
        if round % 2 == 1 {
            programs.reverse();
        }
        for program in programs {
            let dir = Workplace::new(fixture, operation)?;
            let cost = run_once(program, operation, &dir)?;
            match program {
                Program::Ours => ours.push(cost),
                Program::Theirs => theirs.push(cost),
            }
        }
    }
    Ok((Cost::median(&ours), Cost::median(&theirs)))
}

/// A directory with files to work on, gone when dropped.
struct Workplace(PathBuf);

impl Workplace {
    fn new(fixture: &Fixture, operation: &Operation) -> Result<Self> {
        let dir = Self(cmd::root().join("target/bench/work"));
        let changes: Vec<&str> = operation.changes.iter().map(String::as_str).collect();
        fixture.copy(&dir.0, &changes)?;
        // Or the next program to write would pay for what was written before it.
        cmd::run(cmd::command("sync").arg("-f").arg(&dir.0))?;
        Ok(dir)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A fast wrong answer counts for nothing.
fn verify(dir: &Path, operation: &Operation) -> Result<()> {
    let Some(result) = &operation.result else {
        return Ok(());
    };
    let raw = operation.name == "convert raw";
    let format = if raw { "raw" } else { "qcow2" };
    let compare = ["compare", "-q", "-f", format, "-F", "qcow2", result, FLAT];
    cmd::run(cmd::command("qemu-img").current_dir(dir).args(compare))?;
    if !raw {
        let check = ["check", "-q", result];
        cmd::run(cmd::command("qemu-img").current_dir(dir).args(check))?;
    }
    Ok(())
}
