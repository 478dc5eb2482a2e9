//! The worker.

/// Starts listening to the page.
pub fn start() {
    crate::panic::install(|_| ());
}
