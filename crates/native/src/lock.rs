//! Locks that QEMU understands.
//!
//! QEMU says what it does with an image file by shared OFD locks on single bytes of it: byte
//! 100 + n stands for "I use permission n", byte 200 + n for "I do not share permission n".
//! Each party first locks its own bytes and then looks for the counterparts of others. See
//! `block/file-posix.c` and "Image locking" in QEMU's `qemu-block-drivers` manual page.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// First byte of "this permission is in use".
const USED: u64 = 100;
/// First byte of "this permission is not shared".
const UNSHARED: u64 = 200;

/// QEMU's names of the permissions, in the order of their bits.
const NAMES: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];
const CONSISTENT_READ: u8 = 1;
const WRITE: u8 = 1 << 1;
const RESIZE: u8 = 1 << 3;

/// What a program does with a file, and what it lets others do meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    used: u8,
    unshared: u8,
}

impl Permissions {
    /// Reads a qcow2 image: nobody may write or resize it meanwhile.
    pub const READ: Self = Self {
        used: CONSISTENT_READ,
        unshared: WRITE | RESIZE,
    };
    /// Reads a raw image, which QEMU allows while somebody else writes it.
    pub const READ_RAW: Self = Self {
        used: CONSISTENT_READ,
        unshared: 0,
    };
    /// Writes an image of any format.
    pub const WRITE: Self = Self {
        used: CONSISTENT_READ | WRITE | RESIZE,
        unshared: WRITE | RESIZE,
    };

    /// The bytes to lock for it.
    fn bytes(self) -> impl Iterator<Item = u64> {
        bits(self.used)
            .map(|bit| USED + bit)
            .chain(bits(self.unshared).map(|bit| UNSHARED + bit))
    }
}

/// The numbers of the permissions in a set.
fn bits(set: u8) -> impl Iterator<Item = u64> {
    (0..4u8)
        .filter(move |bit| set & (1 << bit) != 0)
        .map(u64::from)
}

fn name(bit: u64) -> &'static str {
    usize::try_from(bit)
        .ok()
        .and_then(|bit| NAMES.get(bit).copied())
        .unwrap_or("unknown")
}

/// Why locks could not be had.
#[derive(Debug)]
pub enum Conflict {
    /// Another program does not share what this one needs.
    Unshared(&'static str),
    /// Another program does what this one does not share.
    Used(&'static str),
    /// The locks failed for another reason.
    Io(io::Error),
}

impl fmt::Display for Conflict {
    /// QEMU's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conflict::Unshared(what) => write!(f, "Failed to get \"{what}\" lock"),
            Conflict::Used(what) => write!(f, "Failed to get shared \"{what}\" lock"),
            Conflict::Io(error) => write!(f, "Failed to lock: {error}"),
        }
    }
}

impl std::error::Error for Conflict {}

/// Locks on one open file. They end with [`Locks::release`] or when the file is closed, not
/// when this is dropped.
#[derive(Debug, Clone, Copy)]
pub struct Locks(Permissions);

impl Locks {
    /// Takes the locks for `permissions` on an open file, or none of them.
    ///
    /// A file system without such locks counts as one where nobody else has any.
    pub fn take(file: impl AsFd, permissions: Permissions) -> Result<Self, Conflict> {
        let locks = Self(permissions);
        let result = locks.try_take(&file);
        if result.is_err() {
            locks.release(&file);
        }
        result.map(|()| locks)
    }

    fn try_take(self, file: &impl AsFd) -> Result<(), Conflict> {
        for byte in self.0.bytes() {
            match set(file, libc::F_RDLCK, byte) {
                Ok(()) => {}
                Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOLCK) => {
                    return Ok(());
                }
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    // Only somebody who locks whole ranges exclusively, which QEMU does not.
                    let what = if byte < UNSHARED {
                        Conflict::Unshared(name(byte - USED))
                    } else {
                        Conflict::Used(name(byte - UNSHARED))
                    };
                    return Err(what);
                }
                Err(error) => return Err(Conflict::Io(error.into())),
            }
        }
        for bit in bits(self.0.used) {
            if is_locked(file, UNSHARED + bit).map_err(Conflict::Io)? {
                return Err(Conflict::Unshared(name(bit)));
            }
        }
        for bit in bits(self.0.unshared) {
            if is_locked(file, USED + bit).map_err(Conflict::Io)? {
                return Err(Conflict::Used(name(bit)));
            }
        }
        Ok(())
    }

    /// Gives the locks up.
    pub fn release(self, file: impl AsFd) {
        for byte in self.0.bytes() {
            // There is nothing to be done about a failure; closing the file ends them too.
            let _ = set(&file, libc::F_UNLCK, byte);
        }
    }
}

/// A lock of one byte.
fn flock(kind: i32, byte: u64) -> libc::flock {
    libc::flock {
        // The constants are small; their type differs between platforms.
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: i64::try_from(byte).unwrap_or_default(),
        l_len: 1,
        l_pid: 0,
    }
}

fn set(file: &impl AsFd, kind: i32, byte: u64) -> Result<(), Errno> {
    let fd = file.as_fd();
    fcntl(fd, FcntlArg::F_OFD_SETLK(&flock(kind, byte))).map(|_| ())
}

/// Whether somebody else has locked the byte.
fn is_locked(file: &impl AsFd, byte: u64) -> io::Result<bool> {
    let mut asked = flock(libc::F_WRLCK, byte);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut asked))?;
    Ok(i32::from(asked.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NativeFile;
    use std::io::{BufRead, BufReader, Write};
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};

    fn image() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut create = Command::new("qemu-img");
        let create = create.args(["create", "-q", "-f", "qcow2"]);
        assert!(create.arg(&path).arg("1M").status().unwrap().success());
        (dir, path)
    }

    /// A qemu-io that has an image open until this is dropped.
    struct QemuIo(Child);

    impl QemuIo {
        fn open(path: &Path, read_only: bool) -> Self {
            let mut command = Command::new("qemu-io");
            command.args(["-f", "qcow2"]);
            if read_only {
                command.arg("-r");
            }
            let mut child = command
                .arg(path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // Its answer to a command means that it has opened the image.
            writeln!(child.stdin.as_mut().unwrap(), "length").unwrap();
            let mut answer = String::new();
            let out = child.stdout.as_mut().unwrap();
            BufReader::new(out).read_line(&mut answer).unwrap();
            assert!(!answer.is_empty());
            Self(child)
        }
    }

    impl Drop for QemuIo {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn take(path: &Path, permissions: Permissions) -> Result<NativeFile, String> {
        let file = NativeFile::open_writable(path).unwrap();
        Locks::take(file.file(), permissions).map_err(|conflict| conflict.to_string())?;
        Ok(file)
    }

    #[test]
    fn images_that_qemu_writes_are_not_ours() {
        let (_dir, path) = image();
        let qemu = QemuIo::open(&path, false);
        let read = take(&path, Permissions::READ).unwrap_err();
        assert_eq!(read, "Failed to get shared \"write\" lock");
        let write = take(&path, Permissions::WRITE).unwrap_err();
        assert_eq!(write, "Failed to get \"write\" lock");
        // A refusal must leave no locks behind that would keep QEMU out.
        drop(qemu);
        take(&path, Permissions::WRITE).unwrap();
    }

    #[test]
    fn images_that_qemu_reads_can_be_read_but_not_written() {
        let (_dir, path) = image();
        let _qemu = QemuIo::open(&path, true);
        take(&path, Permissions::READ).unwrap();
        let write = take(&path, Permissions::WRITE).unwrap_err();
        assert_eq!(write, "Failed to get \"write\" lock");
    }

    #[test]
    fn qemu_respects_our_locks_until_they_are_given_up() {
        let (_dir, path) = image();
        let qemu_img = |args: &[&str]| {
            let mut command = Command::new("qemu-img");
            let output = command.args(args).arg(&path).output().unwrap();
            let words = String::from_utf8(output.stderr).unwrap();
            (output.status.success(), words)
        };
        let reading = take(&path, Permissions::READ).unwrap();
        assert!(qemu_img(&["info"]).0);
        let (ok, words) = qemu_img(&["amend", "-o", "lazy_refcounts=on"]);
        assert!(
            !ok && words.contains("Failed to get \"write\" lock"),
            "{words}"
        );
        drop(reading);

        let writing = NativeFile::open_writable(&path).unwrap();
        let locks = Locks::take(writing.file(), Permissions::WRITE).unwrap();
        let (ok, words) = qemu_img(&["info"]);
        let expected = "Failed to get shared \"write\" lock";
        assert!(!ok && words.contains(expected), "{words}");
        assert!(qemu_img(&["info", "-U"]).0);
        locks.release(writing.file());
        assert!(qemu_img(&["info"]).0);
    }
}
