//! How fast passphrases are stretched on this machine, and random seeds: what the engine leaves
//! to its caller when a LUKS header is made.

use backchain::crypto::{Seed, pbkdf2};
use backchain::format::luks::{HashName, MAX_ITERATIONS};
use backchain::{Error, ErrorKind, Result};
use rustix::time::{ClockId, clock_gettime};

/// No header gets fewer iterations, however slow the machine: QEMU's least.
const LEAST: u64 = 1000;
/// Processor time that measuring takes at least, in nanoseconds.
const SAMPLE: u64 = 50_000_000;

/// Iterations of PBKDF2 in a second of processor time.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    slot: u64,
    digest: u64,
}

impl Pace {
    /// Iterations for a key slot that is to take `time` milliseconds to open.
    pub fn for_slot(self, time: u64) -> u32 {
        iterations(self.slot, time)
    }

    /// Iterations for the digest of the master key: an eighth of the time, as in QEMU.
    pub fn for_digest(self, time: u64) -> u32 {
        iterations(self.digest, time / 8)
    }
}

fn iterations(pace: u64, time: u64) -> u32 {
    let wanted = pace.saturating_mul(time) / 1000;
    let bounded = wanted.clamp(LEAST, u64::from(MAX_ITERATIONS));
    u32::try_from(bounded).unwrap_or(MAX_ITERATIONS)
}

/// Measures how fast a passphrase is stretched to a key of `key_len` bytes.
pub fn measure(hash: HashName, key_len: usize) -> Result<Pace> {
    Ok(Pace {
        slot: sample(hash, key_len)?,
        digest: sample(hash, 20)?,
    })
}

fn sample(hash: HashName, len: usize) -> Result<u64> {
    let mut iterations = 1 << 12;
    let mut out = vec![0; len];
    loop {
        let start = now();
        pbkdf2(hash, b"password", b"salt", iterations, &mut out)?;
        let spent = now().saturating_sub(start).max(1);
        if spent >= SAMPLE || iterations >= MAX_ITERATIONS {
            return Ok(u64::from(iterations).saturating_mul(1_000_000_000) / spent);
        }
        iterations *= 2;
    }
}

/// Processor time of this thread in nanoseconds: others that are busy do not make a passphrase
/// weaker.
fn now() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// A seed from the operating system's random numbers.
pub fn seed() -> Result<Seed> {
    let mut seed = Seed([0; 32]);
    getrandom::fill(&mut seed.0).map_err(|error| {
        Error::new(ErrorKind::Io, "the system gives no random numbers").caused_by(error.to_string())
    })?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterations_follow_the_time_and_stay_within_bounds() {
        let pace = measure(HashName::Sha256, 64).unwrap();
        assert!(pace.for_slot(2000) >= pace.for_slot(20));
        assert_eq!(pace.for_slot(0), 1000);
        assert_eq!(pace.for_slot(u64::MAX), MAX_ITERATIONS);
        // 64 bytes need two blocks of the hash, 20 bytes one, for an eighth of the time.
        assert!(pace.for_digest(20_000) < pace.for_slot(20_000));
    }
}
