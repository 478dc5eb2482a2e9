//! Property: whatever sequence of operations both programs carry out on a chain, every image
//! shows what a plain byte array says, and no check finds anything. `cargo xtask soak` runs more
//! of them, with other seeds.

use backchain_tests::backchain;
use backchain_tests::soak::{self, Amount, Programs};

#[test]
fn two_hundred_random_sequences_of_both_programs_keep_every_byte() {
    if !backchain_testkit::qemu::installed() {
        return;
    }
    let programs = Programs {
        own: backchain().to_owned(),
    };
    let amount = Amount {
        seed: 1,
        sequences: 200,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let report = soak::run(&programs, amount, &|_| ());
    if let Some(failure) = report.failures.first() {
        panic!(
            "sequence {}: {}\n{}",
            failure.seed, failure.message, failure.script
        );
    }
    // Neither program was left out.
    let (own, qemu) = report.statistics.done();
    assert!(own > 400 && qemu > 400, "{}", report.statistics.table());
}
