//! Running one program, for a limited time and in a fixed environment.

use crate::Said;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any case takes; a tool that needs more hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A program in directory `dir`, in an environment that does not depend on the machine.
fn command(program: &Path, arguments: &[String], dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::null());
    command
}

/// Runs a program to its end. One that hangs is killed and has no exit code.
pub(super) fn run(program: &Path, arguments: &[String], dir: &Path) -> io::Result<Said> {
    let mut child = command(program, arguments, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let code = wait(&mut child)?;
    Ok(Said {
        code,
        out: out.join().unwrap_or_default(),
        err: err.join().unwrap_or_default(),
    })
}

/// Reads a pipe to its end on a thread of its own.
fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child) -> io::Result<Option<i32>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// A program that keeps an image open until this is dropped.
pub(super) struct Held(Child);

impl Held {
    /// Starts `qemu-io` and waits until it has opened its image.
    pub(super) fn start(arguments: &[String], dir: &Path) -> io::Result<Self> {
        let mut child = command(Path::new("qemu-io"), arguments, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut prompt = [0];
        let ready = match child.stdout.as_mut() {
            Some(pipe) => pipe.read_exact(&mut prompt),
            None => Ok(()),
        };
        let held = Self(child);
        ready.map(|()| held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
