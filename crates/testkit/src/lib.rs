//! For tests only: images and trees made without the engine's planner, the model that says what
//! they must read as, a disk in memory that carries out plans and crashes in the middle, and a
//! strict check of qcow2 files.

pub mod bitmaps;
pub mod build;
pub mod case;
pub mod judge;
pub mod model;
pub mod ops;
pub mod qemu;
pub mod recovery;
pub mod rng;
pub mod sim;
pub mod sparse;
pub mod verify;

pub use case::Case;

/// The configuration of a property test with `cases` cases by default: always the same ones,
/// unless `PROPTEST_CASES` asks for a different number.
pub fn cases(cases: u32) -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, RngSeed};
    let asked = std::env::var("PROPTEST_CASES").ok();
    Config {
        cases: asked.and_then(|n| n.parse().ok()).unwrap_or(cases),
        // Failures are fixed by a test of their own, not by a file of seeds.
        failure_persistence: None,
        rng_seed: match std::env::var("PROPTEST_RNG_SEED")
            .ok()
            .and_then(|n| n.parse().ok())
        {
            Some(seed) => RngSeed::Fixed(seed),
            None => RngSeed::Fixed(0x6261_636b),
        },
        max_shrink_iters: 300,
        ..Config::default()
    }
}
