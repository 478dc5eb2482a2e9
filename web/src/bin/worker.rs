//! The engine's worker.

fn main() {
    backchain_web::worker::start();
}
