//! What the engine leaves to the operating system: files, locks, and carrying out plans.
//!
//! - [`FsGate`] opens the local files that a chain names, as QEMU would, and no others.
//! - [`NativeFile`] reads one of them at any offset, from any thread.
//! - [`Locks`] are QEMU's own: a running virtual machine's images are not touched.
//! - [`compare()`] compares two chains with several threads.
//! - [`execute`] carries out a plan with several threads.
//! - [`share_out`] lends a plan several threads for work of its own.
//! - [`stretch`] measures what a passphrase costs, for new LUKS headers.
//! - [`interrupt`] turns Ctrl-C into a stop between two steps.

mod compare;
mod crew;
mod executor;
mod file;
mod gate;
pub mod interrupt;
mod lock;
pub mod stretch;

pub use compare::{CompareOptions, compare};
pub use crew::share_out;
pub use executor::{Durability, Options, Progress, Report, execute, execute_steps};
pub use file::NativeFile;
pub use gate::{Beside, FsGate, GateOptions, find_beside};
pub use lock::{Conflict, Locks, Permissions};
pub use stretch::seed;
