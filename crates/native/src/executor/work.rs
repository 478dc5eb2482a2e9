//! What worker threads do.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backchain::format::bytes::{to_u64, to_usize};
use backchain::format::qcow2::Codec;
use backchain::plan::{Ciphers, Origin, Recoder};
use backchain::{CodecState, Error, ErrorKind, NodeId, ReadAt, Result, inflate};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::files::{OpenFile, available};

/// Bytes of a copy that are read and written at once.
pub(super) const PIECE: u64 = 512 << 10;
/// The unit in which zeros are looked for, in bytes.
const BLOCK: u64 = 4096;
/// The largest cluster of any format, and the most that one packed may take, in bytes.
const MAX_CLUSTER: u64 = 2 << 20;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// One thing to do.
pub(super) enum Job {
    Copy(Gather),
    /// A copy that the file system may do by sharing blocks.
    Share {
        from: Arc<OpenFile>,
        src: u64,
        to: Arc<OpenFile>,
        dst: u64,
        len: u64,
        sparse: bool,
    },
    Inflate {
        from: Arc<OpenFile>,
        src: u64,
        packed: u64,
        codec: Codec,
        cluster: u64,
        skip: u64,
        take: u64,
        to: Arc<OpenFile>,
        dst: u64,
    },
    Recode {
        from: Option<Arc<OpenFile>>,
        origin: Origin,
        to: Arc<OpenFile>,
        /// `to`, as the plan calls it.
        node: NodeId,
        dst: u64,
        encrypt: Option<u64>,
        len: u64,
        sparse: bool,
    },
    Zero {
        to: Arc<OpenFile>,
        dst: u64,
        len: u64,
    },
    Allocate {
        to: Arc<OpenFile>,
        dst: u64,
        len: u64,
        write: bool,
    },
    Discard {
        to: Arc<OpenFile>,
        dst: u64,
        len: u64,
    },
    Write {
        to: Arc<OpenFile>,
        dst: u64,
        bytes: Vec<u8>,
    },
}

/// Pieces of files that are read one after the other and written in one go, of at most
/// [`PIECE`] bytes together.
pub(super) struct Gather {
    pub(super) to: Arc<OpenFile>,
    pub(super) dst: u64,
    pub(super) len: u64,
    pub(super) sparse: bool,
    pub(super) parts: Vec<Part>,
}

/// A piece of a file.
pub(super) struct Part {
    pub(super) from: Arc<OpenFile>,
    pub(super) src: u64,
    pub(super) len: u64,
}

/// Counts what was done; shared by all threads.
#[derive(Default)]
pub(super) struct Counters {
    /// Bytes of steps done, whether they had to be moved or not.
    pub(super) done: AtomicU64,
    /// Bytes that were written.
    pub(super) written: AtomicU64,
    /// Bytes that files share now instead of having been copied.
    pub(super) shared: AtomicU64,
}

/// A worker's own memory, used again for each job.
pub(super) struct Worker<'a> {
    counters: &'a Counters,
    ciphers: &'a Ciphers,
    buffer: Vec<u8>,
    packed: Vec<u8>,
    codec: CodecState,
    recoder: Recoder,
}

impl<'a> Worker<'a> {
    pub(super) fn new(counters: &'a Counters, ciphers: &'a Ciphers) -> Self {
        Self {
            counters,
            ciphers,
            recoder: Recoder::default(),
            buffer: Vec::new(),
            packed: Vec::new(),
            codec: CodecState::default(),
        }
    }

    pub(super) fn run(&mut self, job: Job) -> Result<()> {
        let done = match job {
            Job::Copy(gather) => {
                self.copy(&gather)?;
                gather.len
            }
            Job::Share {
                from,
                src,
                to,
                dst,
                len,
                sparse,
            } => {
                self.share(&from, src, &to, dst, len, sparse)?;
                len
            }
            Job::Inflate {
                from,
                src,
                packed,
                codec,
                cluster,
                skip,
                take,
                to,
                dst,
            } => {
                self.unpack(&from, src, packed, codec, cluster)?;
                let start = to_usize(skip);
                let part = self.buffer.get(start..start.saturating_add(to_usize(take)));
                let part = part.ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, "a step reads across a packed cluster")
                })?;
                self.write(&to, dst, part)?;
                take
            }
            Job::Recode {
                from,
                origin,
                to,
                node,
                dst,
                encrypt,
                len,
                sparse,
            } => {
                let mut buffer = std::mem::take(&mut self.buffer);
                buffer.resize(buffer.len().max(to_usize(len)), 0);
                let bytes = buffer.get_mut(..to_usize(len)).unwrap_or_default();
                let source = from.as_deref().map(|file| &file.file as &dyn ReadAt);
                let filled = self
                    .recoder
                    .fill(self.ciphers, &origin, source, node, encrypt, bytes);
                let done = filled
                    .map_err(|error| error.about(&from.as_ref().unwrap_or(&to).name))
                    .and_then(|()| match sparse {
                        true => self.write_sparse(&to, dst, bytes),
                        false => self.write(&to, dst, bytes),
                    });
                self.buffer = buffer;
                done?;
                len
            }
            Job::Zero { to, dst, len } => {
                zero(&to, dst, len)
                    .map_err(|error| to.failed("writing zeros to", dst, len, error))?;
                len
            }
            Job::Allocate {
                to,
                dst,
                len,
                write,
            } => {
                self.allocate(&to, dst, len, write)?;
                if write { len } else { 0 }
            }
            Job::Discard { to, dst, len } => {
                // Only a hint.
                let _ = punch_hole(&to, dst, len);
                0
            }
            Job::Write { to, dst, bytes } => {
                self.write(&to, dst, &bytes)?;
                to_u64(bytes.len())
            }
        };
        self.counters.done.fetch_add(done, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, to: &OpenFile, dst: u64, bytes: &[u8]) -> Result<()> {
        let len = to_u64(bytes.len());
        to.write(dst, bytes)?;
        self.counters.written.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// Takes blocks for a range that reads as zeros; where the file system cannot, zeros are
    /// written.
    fn allocate(&self, to: &OpenFile, dst: u64, len: u64, write: bool) -> Result<()> {
        if !write {
            match rustix::fs::fallocate(to.file.file(), FallocateFlags::empty(), dst, len) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {}
                Err(error) => return Err(to.failed("allocating", dst, len, error.into())),
            }
        }
        let mut at = dst;
        let end = dst.saturating_add(len);
        while at < end {
            let piece = (end - at).min(to_u64(ZEROS.len()));
            self.write(to, at, ZEROS.get(..to_usize(piece)).unwrap_or_default())?;
            at += piece;
        }
        Ok(())
    }

    fn copy(&mut self, gather: &Gather) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.copy_through(gather, &mut buffer);
        self.buffer = buffer;
        result
    }

    fn copy_through(&self, gather: &Gather, buffer: &mut Vec<u8>) -> Result<()> {
        let len = to_usize(gather.len.min(PIECE));
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let mut rest = buffer.get_mut(..len).unwrap_or_default();
        for part in &gather.parts {
            let (now, later) = rest.split_at_mut(to_usize(part.len).min(rest.len()));
            let read = backchain::source::read_padded(&part.from.file, part.src, now);
            read.map_err(|e| part.from.failed("reading", part.src, part.len, e))?;
            rest = later;
        }
        let bytes = buffer.get(..len).unwrap_or_default();
        if gather.sparse {
            self.write_sparse(&gather.to, gather.dst, bytes)
        } else {
            self.write(&gather.to, gather.dst, bytes)
        }
    }

    /// Writes what is not zero.
    fn write_sparse(&self, to: &OpenFile, dst: u64, bytes: &[u8]) -> Result<()> {
        let mut at = dst;
        let mut rest = bytes;
        while !rest.is_empty() {
            let zeros = leading(rest, at, true);
            let (_, behind) = rest.split_at(zeros);
            at += to_u64(zeros);
            let (data, behind) = behind.split_at(leading(behind, at, false));
            if !data.is_empty() {
                self.write(to, at, data)?;
            }
            at += to_u64(data.len());
            rest = behind;
        }
        Ok(())
    }

    /// Lets the file system share blocks; copies what it would not.
    fn share(
        &mut self,
        from: &Arc<OpenFile>,
        src: u64,
        to: &Arc<OpenFile>,
        dst: u64,
        len: u64,
        sparse: bool,
    ) -> Result<()> {
        let mut pos = 0;
        while pos < len {
            let (mut read_at, mut write_at) = (src + pos, dst + pos);
            let shared = rustix::fs::copy_file_range(
                from.file.file(),
                Some(&mut read_at),
                to.file.file(),
                Some(&mut write_at),
                to_usize(len - pos),
            );
            match shared {
                Ok(0) | Err(_) => break,
                Ok(n) => pos += to_u64(n),
            }
        }
        self.counters.shared.fetch_add(pos, Ordering::Relaxed);
        while pos < len {
            let piece = (len - pos).min(PIECE);
            self.copy(&Gather {
                to: Arc::clone(to),
                dst: dst + pos,
                len: piece,
                sparse,
                parts: vec![Part {
                    from: Arc::clone(from),
                    src: src + pos,
                    len: piece,
                }],
            })?;
            pos += piece;
        }
        Ok(())
    }

    /// Unpacks a cluster into the buffer.
    fn unpack(
        &mut self,
        from: &OpenFile,
        src: u64,
        packed: u64,
        codec: Codec,
        cluster: u64,
    ) -> Result<()> {
        let corrupt = |message: &str| {
            let message = format!("{message} (byte {src})");
            Error::new(ErrorKind::Corrupt, message).about(&from.name)
        };
        let packed = packed.min(available(from, src)).min(2 * MAX_CLUSTER);
        if packed == 0 {
            return Err(corrupt(
                "a compressed cluster lies past the end of the file",
            ));
        }
        self.packed.resize(to_usize(packed), 0);
        let read = from.file.read_exact_at(src, &mut self.packed);
        read.map_err(|error| from.failed("reading", src, packed, error))?;
        let cluster = to_usize(cluster.min(MAX_CLUSTER));
        if self.buffer.len() < cluster {
            self.buffer.resize(cluster, 0);
        }
        let unpacked = self.buffer.get_mut(..cluster).unwrap_or_default();
        inflate(&mut self.codec, codec, &self.packed, unpacked)
            .map_err(|error| corrupt(error.message()))
    }
}

/// How many bytes at the start of `bytes`, whose first one lies at offset `at`, are in blocks
/// of zeros (or in blocks with something else).
fn leading(bytes: &[u8], at: u64, zero: bool) -> usize {
    let mut len = 0;
    let mut block = to_usize(BLOCK - at % BLOCK);
    while let Some(rest) = bytes.get(len..)
        && !rest.is_empty()
    {
        let now = rest.get(..block).unwrap_or(rest);
        // Comparing with zeros is the fastest way to look at all bytes.
        let is_zero = ZEROS.get(..now.len()).is_some_and(|zeros| zeros == now);
        if is_zero != zero {
            break;
        }
        len += now.len();
        block = to_usize(BLOCK);
    }
    len
}

fn punch_hole(to: &OpenFile, dst: u64, len: u64) -> rustix::io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(to.file.file(), flags, dst, len)
}

/// Makes a range read as zeros. The file does not become longer by it.
fn zero(to: &OpenFile, dst: u64, len: u64) -> io::Result<()> {
    match punch_hole(to, dst, len) {
        Ok(()) => return Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {}
        Err(error) => return Err(error.into()),
    }
    let file = to.file.file();
    let metadata = file.metadata()?;
    // What lies behind the end reads as zeros once the file has grown.
    let end = if metadata.is_file() {
        dst.saturating_add(len).min(metadata.len())
    } else {
        dst.saturating_add(len)
    };
    let mut at = dst;
    while at < end {
        let piece = (end - at).min(to_u64(ZEROS.len()));
        file.write_all_at(ZEROS.get(..to_usize(piece)).unwrap_or_default(), at)?;
        at += piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks are aligned in the file written to, not in the buffer.
    #[test]
    fn zeros_are_found_in_blocks_of_the_target() {
        let mut bytes = vec![0; 10_000];
        bytes[5000] = 1;
        assert_eq!(leading(&bytes, 0, true), 4096);
        assert_eq!(leading(&bytes, 96, true), 4000);
        assert_eq!(leading(&bytes[4096..], 4096, false), 4096);
        assert_eq!(leading(&bytes[8192..], 8192, true), 10_000 - 8192);
        assert_eq!(leading(&[], 5, true), 0);
    }
}
