//! The files of a plan: opened, locked, and known not to have changed.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use backchain::chain::Fingerprint;
use backchain::format::bytes::to_u64;
use backchain::plan::{PlanFile, PlanInfo};
use backchain::{Error, ErrorKind, NodeId, ReadAt, Result};

use super::{Durability, Options};
use crate::file::NativeFile;
use crate::gate::in_use;
use crate::lock::{Conflict, Locks, Permissions};

/// Writes of this many bytes and more are sent on to the disk at once when they have to be
/// durable in the end: copying goes on meanwhile, and the sync has less to wait for.
const EARLY: usize = 64 << 10;

/// One open file of a plan.
pub(super) struct OpenFile {
    pub(super) name: String,
    pub(super) file: NativeFile,
    /// Its file system lets files share blocks: copies within it may cost nothing.
    pub(super) shares_blocks: bool,
    turns: Turns,
    locks: Option<Locks>,
    durability: Durability,
}

impl Drop for OpenFile {
    /// Closing the file is not enough: a child that another thread is just starting may still
    /// have it, and with it the locks.
    fn drop(&mut self) {
        if let Some(locks) = self.locks {
            locks.release(self.file.file());
        }
    }
}

impl OpenFile {
    fn new(name: &str, file: NativeFile, locks: Option<Locks>, durability: Durability) -> Self {
        Self {
            durability,
            locks,
            name: name.to_owned(),
            shares_blocks: shares_blocks(file.file()),
            turns: Turns::default(),
            file,
        }
    }

    /// Writes `bytes` at `offset`.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.turns.take();
        let written = self.file.file().write_all_at(bytes, offset);
        self.turns.give_back();
        if self.durability == Durability::Full && bytes.len() >= EARLY {
            start_writing(self.file.file(), offset, bytes.len());
        }
        written.map_err(|error| self.failed("writing", offset, to_u64(bytes.len()), error))
    }

    /// An error about this file: what failed, and where in it.
    pub(super) fn failed(&self, what: &str, offset: u64, len: u64, error: io::Error) -> Error {
        let message = format!("{what} {len} bytes at offset {offset} failed");
        Error::new(ErrorKind::Io, message)
            .caused_by(error)
            .about(&self.name)
    }

    fn failed_to(&self, what: &str, error: io::Error) -> Error {
        Error::new(ErrorKind::Io, format!("{what} failed"))
            .caused_by(error)
            .about(&self.name)
    }
}

/// Lets two threads at a time write to a file. Linux lets only one, and those who wait for it
/// burn their processor's time: one is enough, to go on without delay.
struct Turns {
    free: Mutex<u32>,
    given_back: Condvar,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            free: Mutex::new(2),
            given_back: Condvar::new(),
        }
    }
}

impl Turns {
    fn take(&self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self
                .given_back
                .wait(free)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
    }

    fn give_back(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.given_back.notify_one();
    }
}

/// The open files of a plan by their numbers.
pub(super) struct Files {
    open: HashMap<NodeId, Entry>,
    durability: Durability,
    overwrite: bool,
}

struct Entry {
    file: Arc<OpenFile>,
    /// Where the furthest step on it ended: zeros at the end need not have been written yet.
    reach: u64,
    /// Made by this plan and not finished: of no use when it stops here.
    unfinished: bool,
}

impl Files {
    /// Opens every existing file of the plan, locks it as QEMU would, and makes sure that it is
    /// what was planned with. Nothing is written.
    pub(super) fn open(info: &PlanInfo, options: &Options<'_>) -> Result<Self> {
        let mut files = Self {
            open: HashMap::new(),
            durability: options.durability,
            overwrite: options.overwrite,
        };
        for planned in &info.files {
            if let Some(before) = &planned.before {
                let file = open_existing(planned, before, options)
                    .map_err(|error| error.about(&planned.name))?;
                files.insert(planned.node, file, false);
            }
        }
        Ok(files)
    }

    fn insert(&mut self, node: NodeId, file: OpenFile, unfinished: bool) {
        let entry = Entry {
            file: Arc::new(file),
            reach: 0,
            unfinished,
        };
        self.open.insert(node, entry);
    }

    /// The file with this number.
    pub(super) fn get(&self, node: NodeId) -> Result<&Arc<OpenFile>> {
        match self.open.get(&node) {
            Some(entry) => Ok(&entry.file),
            None => Err(unknown(node)),
        }
    }

    /// Takes note that a step on `node` ends at `end`, and returns the file.
    pub(super) fn reach(&mut self, node: NodeId, end: u64) -> Result<Arc<OpenFile>> {
        let entry = self.open.get_mut(&node).ok_or_else(|| unknown(node))?;
        entry.reach = entry.reach.max(end);
        Ok(Arc::clone(&entry.file))
    }

    /// Makes the new file that `planned` describes.
    pub(super) fn create(&mut self, planned: &PlanFile) -> Result<()> {
        let (file, is_new) = create(Path::new(&planned.name), self.overwrite).map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::AlreadyExists => ErrorKind::Refused,
                _ => ErrorKind::Io,
            };
            Error::new(kind, "the file could not be created")
                .caused_by(error)
                .about(&planned.name)
        })?;
        let is_ours = |entry: &Entry| entry.file.file.key() == file.key();
        if self.open.values().any(is_ours) {
            let message = "the new file would overwrite one that is needed to make it";
            return Err(Error::new(ErrorKind::Refused, message).about(&planned.name));
        }
        let locks = lock(&file, &planned.name, Permissions::WRITE);
        let locks = locks.map_err(|error| error.about(&planned.name))?;
        let file = OpenFile::new(&planned.name, file, Some(locks), self.durability);
        if !is_new && file.file.file().metadata().is_ok_and(|m| m.is_file()) {
            let emptied = file.file.file().set_len(0);
            emptied.map_err(|error| file.failed_to("emptying the file", error))?;
        }
        self.insert(planned.node, file, is_new);
        Ok(())
    }

    /// Whether a file is not longer than `len` bytes, whatever of the steps so far is done.
    pub(super) fn is_growth(&self, node: NodeId, len: u64) -> Result<bool> {
        let entry = self.open.get(&node).ok_or_else(|| unknown(node))?;
        let metadata = entry.file.file.file().metadata();
        let now = metadata.map_err(|error| entry.file.failed_to("looking at the length", error))?;
        Ok(len >= entry.reach && len >= now.len())
    }

    /// Sets the length of a file. No job on it may be running.
    pub(super) fn set_len(&mut self, node: NodeId, len: u64) -> Result<()> {
        let entry = self.open.get_mut(&node).ok_or_else(|| unknown(node))?;
        entry.reach = 0;
        let result = entry.file.file.file().set_len(len);
        result.map_err(|error| {
            let what = format!("setting the length to {len} bytes");
            entry.file.failed_to(&what, error)
        })
    }

    /// Makes all files as long as the steps so far made them. No job may be running.
    pub(super) fn settle(&mut self) -> Result<()> {
        for entry in self.open.values_mut() {
            let reach = std::mem::take(&mut entry.reach);
            let file = entry.file.file.file();
            let stretch = |len: u64| match file.metadata()? {
                metadata if metadata.is_file() && metadata.len() < len => file.set_len(len),
                _ => Ok(()),
            };
            if reach > 0 {
                stretch(reach).map_err(|e| entry.file.failed_to("extending the file", e))?;
            }
        }
        Ok(())
    }

    /// Makes what was written to a file durable. For a new file the order of its steps is
    /// enough, which the caller keeps: it counts for nothing until it is sealed.
    pub(super) fn sync(&self, node: NodeId) -> Result<()> {
        let entry = self.open.get(&node).ok_or_else(|| unknown(node))?;
        let file = &entry.file;
        match self.durability {
            Durability::Full if !entry.unfinished => file.file.file().sync_data(),
            _ => Ok(()),
        }
        .map_err(|error| file.failed_to("making the file durable", error))
    }

    /// Makes a file and, if it is new, its name durable: it is finished.
    pub(super) fn seal(&mut self, node: NodeId) -> Result<()> {
        let entry = self.open.get_mut(&node).ok_or_else(|| unknown(node))?;
        let is_new = std::mem::take(&mut entry.unfinished);
        if self.durability == Durability::None {
            return Ok(());
        }
        let file = &entry.file;
        let sync = || {
            file.file.file().sync_all()?;
            if is_new {
                let parent = Path::new(&file.name).parent();
                let parent = parent.filter(|p| !p.as_os_str().is_empty());
                File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
            }
            Ok(())
        };
        sync().map_err(|error| file.failed_to("making the file durable", error))
    }

    /// Removes the new files that were not finished.
    pub(super) fn remove_unfinished(&self) {
        for entry in self.open.values().filter(|entry| entry.unfinished) {
            let path = Path::new(&entry.file.name);
            let is_ours = |m: fs::Metadata| crate::file::key(&m) == entry.file.file.key();
            if fs::metadata(path).is_ok_and(is_ours) {
                // A file left behind does no harm: nothing refers to it.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Asks the kernel to begin to bring a range to the disk, and does not wait for it.
fn start_writing(file: &File, offset: u64, len: usize) {
    let range = (i64::try_from(offset), i64::try_from(len));
    if let (Ok(offset), Ok(len)) = range {
        let flags = nix::libc::SYNC_FILE_RANGE_WRITE;
        // SAFETY: the call takes no pointers, and the file is open. Only a hint: the result
        // does not matter, what counts is the sync at the end.
        let _ = unsafe { nix::libc::sync_file_range(file.as_raw_fd(), offset, len, flags) };
    }
}

fn unknown(node: NodeId) -> Error {
    let message = format!("the plan uses file {node}, which it does not list");
    Error::new(ErrorKind::Invalid, message)
}

fn open_existing(
    planned: &PlanFile,
    before: &Fingerprint,
    options: &Options<'_>,
) -> Result<OpenFile> {
    let path = Path::new(&planned.name);
    let file = if planned.written {
        NativeFile::open_writable(path)
    } else {
        NativeFile::open(path)
    };
    let file = file.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        let how = if planned.written {
            "for writing"
        } else {
            "for reading"
        };
        Error::new(kind, format!("the file could not be opened {how}")).caused_by(error)
    })?;
    let locks = if planned.written {
        Some(lock(&file, &planned.name, Permissions::WRITE)?)
    } else if options.force_share {
        None
    } else {
        Some(lock(&file, &planned.name, Permissions::READ)?)
    };
    let file = OpenFile::new(&planned.name, file, locks, options.durability);
    check_unchanged(&file.file, before)?;
    Ok(file)
}

fn lock(file: &NativeFile, name: &str, permissions: Permissions) -> Result<Locks> {
    match Locks::take(file.file(), permissions) {
        Ok(locks) => Ok(locks),
        Err(Conflict::Io(error)) => {
            Err(Error::new(ErrorKind::Io, "the file could not be locked").caused_by(error))
        }
        Err(conflict) => Err(Error::new(ErrorKind::InUse, in_use(&conflict, name))),
    }
}

/// Compares a file with what it was when the plan was made.
fn check_unchanged(file: &NativeFile, before: &Fingerprint) -> Result<()> {
    let now = Fingerprint::of(file, file.modified())?;
    let what = if now.len != before.len {
        format!("it had {} bytes and now has {}", before.len, now.len)
    } else if now.head != before.head {
        "its first 64 KiB are different".to_owned()
    } else if before.modified.is_some() && now.modified != before.modified {
        "its modification time is different".to_owned()
    } else {
        return Ok(());
    };
    let message =
        format!("the file changed after it had been looked at ({what}); nothing was written");
    Err(Error::new(ErrorKind::Changed, message))
}

/// Makes a file, or opens the one that is there when that is allowed. Returns whether it is new.
fn create(path: &Path, overwrite: bool) -> io::Result<(NativeFile, bool)> {
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path);
    match made {
        Ok(file) => Ok((NativeFile::of(file)?, true)),
        Err(error) if overwrite && error.kind() == io::ErrorKind::AlreadyExists => {
            Ok((NativeFile::open_writable(path)?, false))
        }
        Err(error) => Err(error),
    }
}

/// File systems on which `copy_file_range` shares blocks instead of copying them, by the magic
/// number of `statfs(2)`: Btrfs, XFS, bcachefs, OCFS2; and NFS, where the server copies.
const SHARING: [u64; 5] = [0x9123_683e, 0x5846_5342, 0xca45_1a4e, 0x7461_636f, 0x6969];

fn shares_blocks(file: &File) -> bool {
    rustix::fs::fstatfs(file)
        .ok()
        .and_then(|stat| u64::try_from(stat.f_type).ok())
        .is_some_and(|magic| SHARING.contains(&magic))
}

/// Whether blocks of `from` may be shared with `to`.
pub(super) fn may_share(from: &OpenFile, to: &OpenFile) -> bool {
    let device = |file: &OpenFile| file.file.key().split(':').next().map(str::to_owned);
    from.shares_blocks && to.shares_blocks && device(from) == device(to)
}

/// Bytes of `from` at or behind `offset`.
pub(super) fn available(from: &OpenFile, offset: u64) -> u64 {
    from.file.len().saturating_sub(offset)
}
