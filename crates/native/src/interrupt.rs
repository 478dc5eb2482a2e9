//! Ctrl-C: the first one asks for a stop, the second one ends the program.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on the first SIGINT or SIGTERM sets the returned flag (what
/// [`crate::Options::cancel`] takes); a second one of the same kind ends the program as usual.
pub fn watch() -> io::Result<&'static AtomicBool> {
    let action = SigAction::new(
        SigHandler::Handler(remember),
        SaFlags::SA_RESETHAND | SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler does nothing but store to an atomic.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(&INTERRUPTED)
}

/// Whether a stop was asked for.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_sets_the_flag_and_nothing_else() {
        let flag = watch().unwrap();
        assert!(!flag.load(Ordering::Relaxed));
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
        assert!(flag.load(Ordering::Relaxed) && is_interrupted());
    }
}
