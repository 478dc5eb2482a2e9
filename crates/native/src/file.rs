//! An image file of the local file system as a source.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use backchain::ReadAt;
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

/// A regular file or block device, open for reading or for reading and writing.
///
/// Its length is the one it had when it was opened: a plan reads the initial state of a file
/// even while the file grows.
#[derive(Debug)]
pub struct NativeFile {
    file: File,
    len: u64,
    key: String,
    modified: Option<i128>,
    allocated: u64,
}

impl NativeFile {
    /// Opens an existing file for reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, OpenOptions::new().read(true))
    }

    /// Opens an existing file for reading and writing.
    pub fn open_writable(path: &Path) -> io::Result<Self> {
        Self::open_with(path, OpenOptions::new().read(true).write(true))
    }

    fn open_with(path: &Path, options: &mut OpenOptions) -> io::Result<Self> {
        // Looked at before it is opened: merely opening some devices has effects, and a FIFO
        // would wait for a writer.
        check_type(&std::fs::metadata(path)?)?;
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        Self::of(options.custom_flags(flags).open(path)?)
    }

    /// Takes an open file.
    pub fn of(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        check_type(&metadata)?;
        let len = if metadata.file_type().is_block_device() {
            rustix::fs::seek(&file, SeekFrom::End(0))?
        } else {
            metadata.len()
        };
        Ok(Self {
            file,
            len,
            key: key(&metadata),
            modified: Some(modified(&metadata)),
            allocated: metadata.blocks().saturating_mul(512),
        })
    }

    /// The open file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What tells files apart: device and inode number.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Nanoseconds since the epoch at which it had last been changed when it was opened.
    pub fn modified(&self) -> Option<i128> {
        self.modified
    }

    /// Bytes it took on the disk when it was opened.
    pub fn allocated(&self) -> u64 {
        self.allocated
    }
}

/// Device and inode number: the same for two paths exactly when they lead to the same file.
pub(crate) fn key(metadata: &Metadata) -> String {
    format!("{}:{}", metadata.dev(), metadata.ino())
}

fn modified(metadata: &Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

fn check_type(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "Is a directory",
        ));
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "it is neither a regular file nor a block device",
    ))
}

impl ReadAt for NativeFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        if offset >= self.len {
            return Ok(None);
        }
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start.max(offset),
            // Behind it there are only holes.
            Err(Errno::NXIO) => return Ok(None),
            // A file system that cannot tell, or a block device.
            Err(_) => return Ok(Some(offset..self.len)),
        };
        if start >= self.len {
            return Ok(None);
        }
        let end = match rustix::fs::seek(&self.file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(self.len),
            _ => self.len,
        };
        Ok(Some(start..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_told_from_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[1; 4096], 4 << 20).unwrap();
        let file = NativeFile::open(&path).unwrap();
        let data = file.data_at(0).unwrap().unwrap();
        assert!(data.contains(&(4 << 20)));
        // A file system without holes may call everything data; then there is nothing to test.
        if data.start > 0 {
            assert_eq!(file.data_at(data.end).unwrap(), None);
        }
        assert_eq!(file.data_at(8 << 20).unwrap(), None);
        let mut buf = [9; 2];
        file.read_exact_at((4 << 20) - 1, &mut buf).unwrap();
        assert_eq!(buf, [0, 1]);
        assert!(file.read_exact_at((8 << 20) - 1, &mut buf).is_err());
    }

    #[test]
    fn what_could_hang_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for (path, kind) in [
            (fifo.as_path(), io::ErrorKind::InvalidInput),
            (dir.path(), io::ErrorKind::IsADirectory),
            (Path::new("/dev/zero"), io::ErrorKind::InvalidInput),
        ] {
            assert_eq!(NativeFile::open(path).unwrap_err().kind(), kind);
        }
    }
}
