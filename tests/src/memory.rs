//! What a run of a program takes of memory.

use crate::{Dir, Said};
use std::io;
use std::mem::MaybeUninit;
use std::process::{Command, Stdio};

impl Dir {
    /// Runs the program under test. Returns what it said and the most memory it had, in bytes
    /// (resident set).
    ///
    /// # Panics
    /// When it cannot be started or waited for.
    // Waited for by number, which tells the memory too.
    #[allow(clippy::zombie_processes)]
    pub fn own_measured(&self, arguments: &[&str]) -> (Said, u64) {
        let (out, err) = (self.path().join(".out"), self.path().join(".err"));
        let file = |path| std::fs::File::create(path).expect("a file for what it says");
        let child = Command::new(crate::backchain())
            .current_dir(self.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&err))
            .spawn()
            .expect("the program can be started");
        let (code, peak) = wait(child.id()).expect("the program can be waited for");
        let text = |path| {
            let text = std::fs::read_to_string(path).expect("what it said");
            let _ = std::fs::remove_file(path);
            text
        };
        let said = Said {
            code,
            out: text(&out),
            err: text(&err),
        };
        (said, peak)
    }
}

/// Waits for a child. Returns its exit code and the peak of its resident set.
fn wait(child: u32) -> io::Result<(Option<i32>, u64)> {
    let pid = libc::pid_t::try_from(child).map_err(io::Error::other)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to this function's own variables.
        let ended = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        if ended == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: zeroed to begin with, and a structure of integers.
    let usage = unsafe { usage.assume_init() };
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    // Kibibytes on Linux.
    let peak = u64::try_from(usage.ru_maxrss).map_err(io::Error::other)? << 10;
    Ok((code, peak))
}
