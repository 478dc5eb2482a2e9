//! A disk in memory that carries out plans, watches over what steps may do, and crashes.

mod crash;
mod effect;
mod file;
mod run;

pub use crash::{CrashState, crash_states, reordered};
pub use effect::Effect;
pub use file::SimFile;
pub use run::{Entry, Run, Violation, run};
