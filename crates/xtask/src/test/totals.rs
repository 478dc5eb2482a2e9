//! Adding up what test runners say about themselves.

/// How many tests passed and failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

impl Totals {
    /// Looks for a total in one line of a runner's output.
    ///
    /// Rust's runner and wasm-bindgen's say `test result: ok. 3 passed; 0 failed; ...`, Node's
    /// says `ℹ pass 3` and `ℹ fail 0`, with `#` instead of the sign in its other format.
    pub(super) fn read(&mut self, line: &str) {
        if let Some((_, counts)) = line.split_once("test result: ") {
            let counts = counts
                .trim_start_matches("ok. ")
                .trim_start_matches("FAILED. ");
            for count in counts.split("; ") {
                match count.split_once(' ') {
                    Some((number, "passed")) => add(&mut self.passed, number),
                    Some((number, "failed")) => add(&mut self.failed, number),
                    _ => {}
                }
            }
        } else if let Some(count) = line.strip_prefix("ℹ ").or_else(|| line.strip_prefix("# ")) {
            match count.split_once(' ') {
                Some(("pass", number)) => add(&mut self.passed, number),
                Some(("fail" | "cancelled", number)) => add(&mut self.failed, number),
                _ => {}
            }
        }
    }
}

fn add(total: &mut u64, number: &str) {
    if let Ok(number) = number.parse::<u64>() {
        *total += number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines were taken from runs of cargo test, wasm-bindgen-test-runner and Node 18, 20.
    #[test]
    fn totals_of_every_runner_are_added() {
        let mut totals = Totals::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: ok. 10 passed; 0 failed; 0 ignored; 0 filtered out; finished in 0.15s",
            "ℹ tests 6",
            "ℹ pass 5",
            "ℹ fail 1",
            "ℹ cancelled 0",
            "# pass 100",
            "# fail 0",
            "# passing thoughts",
        ] {
            totals.read(line);
        }
        assert_eq!(
            totals,
            Totals {
                passed: 122,
                failed: 3
            }
        );
    }
}
