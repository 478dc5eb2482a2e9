//! The page: it draws what the worker reports, and asks the worker for what the user wants.

pub mod ability;
pub mod bench;
pub mod chain;
pub mod details;
pub mod diagram;
pub mod dialog;
pub mod drop;
pub mod files;
pub mod focus;
pub mod keys;
pub mod launch;
pub mod look;
pub mod operation;
pub mod page;
pub mod proof;
pub mod recent;
pub mod report;
pub mod route;
pub mod settings;
pub mod shell;
pub mod staged;
pub mod text;
pub mod update;
pub mod window;

use crate::js;
use shell::App;

/// Draws the page into `#app`.
pub fn start() {
    crate::panic::install(crash_notice);
    if let Some(root) = gloo::utils::document().get_element_by_id("app") {
        root.set_inner_html("");
        yew::Renderer::<App>::with_root(root).render();
    }
}

/// Shows the notice that stands outside the app, through the script that is there before it.
fn crash_notice(message: &str) {
    let window = gloo::utils::window();
    let _ = js::start(
        &window,
        "backchainCrash",
        &js_sys::Array::of1(&message.into()),
    );
}
