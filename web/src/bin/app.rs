//! The page.

fn main() {
    backchain_web::app::start();
}
