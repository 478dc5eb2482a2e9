//! What a plan may ask of the program it runs in: hands for packing, and an ear for bad news.

use crate::error::Error;
use crate::source::Shareable;

/// Work that comes in independent parts.
pub trait Task: Shareable {
    /// Does the part with this number.
    fn part(&self, number: usize);
}

/// Those who do a plan's work beside reading: by default the caller alone.
pub trait Crew: Shareable {
    /// Does all `parts` of a task, in any order and as many at a time as there are hands.
    fn each(&self, parts: usize, task: &dyn Task) {
        (0..parts).for_each(|number| task.part(number));
    }

    /// Hears that `len` of the guest's bytes at `offset` could not be read and become zeros.
    fn lost(&self, offset: u64, len: u64, why: &Error) {
        let _ = (offset, len, why);
    }
}

/// The caller alone.
pub(crate) struct Alone;

impl Crew for Alone {}
