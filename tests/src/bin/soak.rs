//! The soak as a program: `soak [--sequences N] [--seed N] [--threads N] [--one SEED]`.

use backchain_tests::soak::{self, Amount, Programs, Report};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut amount = Amount {
        seed: 1,
        sequences: 2000,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut one = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let Some(value) = arguments.next().and_then(|text| text.parse::<u64>().ok()) else {
            eprintln!("{option} needs a number");
            return ExitCode::FAILURE;
        };
        match option.as_str() {
            "--sequences" => amount.sequences = value,
            "--seed" => amount.seed = value,
            "--threads" => amount.threads = usize::try_from(value).unwrap_or(1),
            "--one" => one = Some(value),
            _ => {
                eprintln!("unknown option {option}");
                return ExitCode::FAILURE;
            }
        }
    }
    // The command lies beside this program unless something else is asked for.
    let beside = std::env::current_exe().map(|exe| exe.with_file_name("backchain"));
    let own = match (std::env::var_os("BACKCHAIN_BIN"), beside) {
        (Some(own), _) => own.into(),
        (None, Ok(own)) if own.is_file() => own,
        _ => {
            eprintln!("the command is not built: cargo build -p backchain-cli");
            return ExitCode::FAILURE;
        }
    };
    let programs = Programs { own };
    let report: Report = match one {
        Some(seed) => soak::run_one(&programs, seed),
        None => soak::run(&programs, amount, &|done| {
            if done.is_multiple_of(100) {
                println!("{done} of {} sequences", amount.sequences);
            }
        }),
    };
    println!("{}", report.statistics.table());
    for failure in &report.failures {
        println!(
            "FAILED, --one {}\n{}\n--- script\n{}---",
            failure.seed, failure.message, failure.script
        );
    }
    let (own, qemu) = report.statistics.done();
    println!(
        "{} sequences, {own} operations by backchain, {qemu} by QEMU, {} failed",
        report.sequences,
        report.failures.len()
    );
    if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
