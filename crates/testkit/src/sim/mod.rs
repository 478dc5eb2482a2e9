//! A disk in memory.

mod file;

pub use file::SimFile;
