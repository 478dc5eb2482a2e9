//! What a step does to its file, once what it reads has been read.

use super::SimFile;
use crate::rng::Rng;
use backchain::ReadAt;
use backchain_format::bytes::{to_u64, to_usize};

/// Disks write sectors of this many bytes at once; anything longer can be torn.
const SECTOR: u64 = 512;

/// A change of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The file comes into being, empty.
    Create,
    /// Bytes at an offset.
    Write(u64, Vec<u8>),
    /// Zeros from an offset on, for so many bytes; the file gets as long as that.
    Zero(u64, u64),
    /// Nobody needs these bytes any more: they may become zeros.
    Discard(u64, u64),
    /// A new length.
    SetLen(u64),
    /// A point where everything before must be durable.
    Barrier,
}

impl Effect {
    /// Carries it out.
    pub fn apply(&self, file: &mut SimFile) {
        match self {
            Effect::Create | Effect::Barrier => {}
            Effect::Write(at, bytes) => file.write(*at, bytes),
            Effect::Zero(at, len) => file.write(*at, &vec![0; to_usize(*len)]),
            Effect::Discard(at, len) => {
                let end = (at + len).min(ReadAt::len(file));
                if *at < end {
                    file.write(*at, &vec![0; to_usize(end - at)]);
                }
            }
            Effect::SetLen(len) => file.set_len(*len),
        }
    }

    /// Carries out what a crash leaves of it: some of its sectors.
    pub fn tear(&self, file: &mut SimFile, rng: &mut Rng) {
        match self {
            Effect::Write(at, bytes) => {
                let mut pos = 0;
                while pos < bytes.len() {
                    let here = at + to_u64(pos);
                    let n = to_usize(SECTOR - here % SECTOR).min(bytes.len() - pos);
                    if rng.chance(1, 2) {
                        file.write(here, &bytes[pos..pos + n]);
                    }
                    pos += n;
                }
            }
            Effect::Zero(at, len) | Effect::Discard(at, len) => {
                let mut pos = *at;
                while pos < at + len {
                    let n = (SECTOR - pos % SECTOR).min(at + len - pos);
                    if rng.chance(1, 2) {
                        Effect::Zero(pos, n).apply(file);
                    }
                    pos += n;
                }
            }
            // A length changes or does not.
            whole => {
                if rng.chance(1, 2) {
                    whole.apply(file);
                }
            }
        }
    }
}
