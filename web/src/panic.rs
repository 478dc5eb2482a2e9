//! What a panic does: its message goes to the console, and to whoever shows it to the user.

use std::panic;

/// Logs every panic with its message and place to the console, then calls `notify` with it.
///
/// The state of a module that has panicked cannot be trusted, so `notify` must do as little as
/// it can.
pub fn install(notify: impl Fn(&str) + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |info| {
        console_error_panic_hook::hook(info);
        notify(&info.to_string());
    }));
}
