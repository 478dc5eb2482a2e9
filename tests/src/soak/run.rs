//! One sequence: carried out, held against the model, and made shorter when it fails.

use super::generate;
use super::model::{Data, NOISE, World, noise};
use super::op::{Op, Tool};
use super::verify::Seen;
use super::{Programs, Statistics};
use crate::Said;
use backchain_testkit::rng::Rng;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A directory for one sequence, and the programs.
pub(super) struct Place<'a> {
    dir: TempDir,
    programs: &'a Programs,
}

impl<'a> Place<'a> {
    fn new(programs: &'a Programs) -> Result<Self, String> {
        let memory = Path::new("/dev/shm");
        let dir = match std::env::var_os("SOAK_DIR") {
            Some(dir) => tempfile::tempdir_in(dir),
            None if memory.is_dir() => tempfile::tempdir_in(memory),
            None => tempfile::tempdir(),
        }
        .map_err(|e| e.to_string())?;
        for (index, (name, ..)) in NOISE.iter().enumerate() {
            fs::write(dir.path().join(name), noise(index)).map_err(|e| e.to_string())?;
        }
        Ok(Self { dir, programs })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Whether the dirty bit of a version 3 image is set.
    pub(super) fn is_dirty(&self, name: &str) -> Result<bool, String> {
        let mut head = Vec::new();
        let file = fs::File::open(self.path(name)).map_err(|e| e.to_string())?;
        file.take(512)
            .read_to_end(&mut head)
            .map_err(|e| e.to_string())?;
        Ok(head.get(79).is_some_and(|byte| byte & DIRTY != 0))
    }

    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<Said, String> {
        let file = match program {
            "backchain" => &self.programs.own,
            other => Path::new(other),
        };
        // A program that hangs is a failure too.
        let output = Command::new("timeout")
            .current_dir(self.dir.path())
            .args(["-s", "KILL", "20"])
            .arg(file)
            .args(arguments)
            .output()
            .map_err(|e| format!("{program}: {e}"))?;
        Ok(Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// The incompatible feature bit that says: refcounts may be behind.
const DIRTY: u8 = 1;

/// Exit code of a refusal where qemu-img would go on.
const REFUSED: i32 = 4;

/// Carries operations out one after the other.
struct Session<'a> {
    place: Place<'a>,
    world: World,
    seen: Seen,
    done: Vec<(Op, Tool)>,
    lines: Vec<String>,
}

impl<'a> Session<'a> {
    fn new(programs: &'a Programs) -> Result<Self, String> {
        Ok(Self {
            place: Place::new(programs)?,
            world: World::default(),
            seen: Seen::default(),
            done: Vec::new(),
            lines: Vec::new(),
        })
    }

    /// One operation. It is done, or refused with nothing changed.
    fn step(&mut self, op: &Op, tool: Tool, statistics: &mut Statistics) -> Result<(), String> {
        self.done.push((op.clone(), tool));
        let mut refused = None;
        let mut parts = Vec::new();
        for (program, line) in op.commands(&self.world, tool) {
            self.lines.push(shell(program, &line));
            let words: Vec<&str> = line.iter().map(String::as_str).collect();
            let said = self.place.run(program, &words)?;
            let packed = matches!(
                op,
                Op::Write {
                    data: Data::Packed(_),
                    ..
                }
            );
            let crashed = matches!(op, Op::Write { crash: true, .. });
            let failed = program == "qemu-io" && said.out.contains("failed");
            match said.code {
                Some(0 | 1) if packed => {
                    let lines = said.out.lines();
                    let results = lines.filter(|l| l.starts_with("wrote") || l.contains("failed"));
                    parts = op.done_in_part(
                        &self.world,
                        &results.map(|l| l.starts_with("wrote")).collect::<Vec<_>>(),
                    );
                    if parts.is_empty() {
                        refused = Some(said.out);
                    }
                }
                Some(0) if program == "qemu-io" && failed => refused = Some(said.out),
                Some(0) => parts.push(op.clone()),
                None | Some(134) if crashed && !failed => parts.push(op.clone()),
                Some(1) if tool == Tool::Qemu => refused = Some(said.err),
                // Compressed clusters may share a host cluster, which the model does not know.
                Some(1) if said.err.contains("Cannot decrease refcount entry width") => {
                    refused = Some(said.err);
                }
                Some(REFUSED) if tool == Tool::Own => refused = Some(said.err),
                code => {
                    return Err(format!(
                        "{} ended with {code:?}: {}{}",
                        shell(program, &line),
                        said.out,
                        said.err
                    ));
                }
            }
        }
        statistics.count(op, tool, refused.as_deref());
        if refused.is_none() {
            let parts = parts.iter();
            let gone: Vec<String> = parts.flat_map(|op| op.apply(&mut self.world)).collect();
            for name in gone {
                self.lines.push(format!("rm -f {name}"));
                fs::remove_file(self.place.path(&name)).map_err(|e| format!("{name}: {e}"))?;
            }
        } else if let Op::Convert { name, .. } | Op::Create { name, .. } = op {
            let _ = fs::remove_file(self.place.path(name));
        }
        self.seen.verify(&self.place, &self.world, tool)?;
        for layer in &mut self.world.layers {
            layer.dirty = match &layer.features {
                Some(features) if features.v3 => self.place.is_dirty(&layer.name)?,
                _ => false,
            };
        }
        Ok(())
    }

    fn script(&self) -> String {
        let mut script = String::new();
        for (name, first, len) in NOISE {
            script += &format!("seq {first} 999999 | head -c {len} > {name}\n");
        }
        script + &self.lines.join("\n") + "\n"
    }
}

/// A command as a shell takes it.
fn shell(program: &str, line: &[String]) -> String {
    let mut text = program.to_owned();
    for word in line {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,/".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            text += &format!(" {word}");
        } else {
            text += &format!(" '{word}'");
        }
    }
    text
}

/// What went wrong, and how to see it again.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The sequence's own seed.
    pub seed: u64,
    /// What went wrong, in words.
    pub message: String,
    /// The shortest sequence that was found to fail, as a shell script.
    pub script: String,
}

/// Runs the sequence of this seed.
pub(super) fn sequence(
    programs: &Programs,
    seed: u64,
    statistics: &mut Statistics,
) -> Option<Failure> {
    let (done, message, script) = match first_run(programs, seed, statistics) {
        Ok(()) => return None,
        Err(failed) => failed,
    };
    let (message, script) = shrink(programs, done, message, script);
    Some(Failure {
        seed,
        message,
        script,
    })
}

type Failed = (Vec<(Op, Tool)>, String, String);

fn first_run(programs: &Programs, seed: u64, statistics: &mut Statistics) -> Result<(), Failed> {
    let mut rng = Rng::new(seed);
    let mut session = Session::new(programs).map_err(|e| (Vec::new(), e, String::new()))?;
    let mut ops = generate::chain(&mut rng);
    let left = 1 + rng.below(12);
    ops.reverse();
    let mut random = 0;
    loop {
        let (op, tool) = match ops.pop() {
            Some(next) => next,
            None if random < left => {
                random += 1;
                generate::next(&mut rng, &session.world)
            }
            None => return Ok(()),
        };
        if !op.applies(&session.world, tool) {
            continue;
        }
        if let Err(message) = session.step(&op, tool, statistics) {
            let script = session.script();
            return Err((session.done, message, script));
        }
    }
}

/// Takes out what is not needed for the failure.
fn shrink(
    programs: &Programs,
    mut ops: Vec<(Op, Tool)>,
    mut message: String,
    mut script: String,
) -> (String, String) {
    let mut at = ops.len();
    let mut tries = 0;
    while at > 0 && tries < 200 {
        at -= 1;
        tries += 1;
        let mut fewer = ops.clone();
        fewer.remove(at);
        if let Some((done, why, text)) = again(programs, &fewer) {
            (ops, message, script) = (done, why, text);
            at = at.min(ops.len());
        }
    }
    (message, script)
}

fn again(programs: &Programs, ops: &[(Op, Tool)]) -> Option<Failed> {
    let mut session = Session::new(programs).ok()?;
    for (op, tool) in ops {
        if !op.applies(&session.world, *tool) {
            continue;
        }
        if let Err(message) = session.step(op, *tool, &mut Statistics::default()) {
            let script = session.script();
            return Some((session.done, message, script));
        }
    }
    None
}
