//! The engine's worker.

fn main() {
    #[cfg(target_arch = "wasm32")]
    backchain_web::worker::start();
}
