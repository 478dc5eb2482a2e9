//! The web app: a page that draws, and a worker in which the engine runs.
//!
//! The page (`app`) knows no disk image format; it renders what the worker reports. The worker
//! (`worker`) holds the granted files, reads them through the engine, and carries plans out.
//! Between the two stands one typed protocol (`protocol`).

pub mod app;
pub mod js;
pub mod panic;
pub mod protocol;
pub mod size;
pub mod units;
// The engine's sources can be shared between threads everywhere else; a `File` cannot.
#[cfg(target_arch = "wasm32")]
pub mod worker;
