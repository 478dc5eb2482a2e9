//! The differential suite: qemu-img and backchain, told the same, do the same.
//!
//! `DIFFERENTIAL=commit` runs only the cases with `commit` in their file or title.

use backchain_tests::backchain;
use backchain_tests::differential::{self, case, deliberate, runner};
use std::env;

/// Both tools say the same and leave the same behind, but for what is listed with a reason.
#[test]
fn both_tools_do_the_same() {
    let oracle = differential::oracle_version().expect("qemu-img has to be installed");
    let directory = differential::directory();
    let cases = case::read_all(&directory.join("cases")).unwrap_or_else(|error| panic!("{error}"));
    let deliberate = deliberate::read(&directory.join("differences.toml"))
        .unwrap_or_else(|error| panic!("{error}"));
    for entry in &deliberate {
        assert!(
            cases.iter().any(|case| case.title == entry.case),
            "differences.toml has an entry for '{}', which is no case",
            entry.case
        );
    }
    let wanted = env::var("DIFFERENTIAL").unwrap_or_default();
    let cases: Vec<_> = cases
        .into_iter()
        .filter(|case| case.file.contains(&wanted) || case.title.contains(&wanted))
        .collect();
    assert!(!cases.is_empty(), "no case has '{wanted}' in its title");
    let report = runner::run(&cases, backchain(), &deliberate);
    for text in &report.wrong {
        println!("{text}");
    }
    let summary = format!(
        "{oracle}: {} cases, {} runs of each tool, {} cases differ on purpose, {} are wrong",
        report.cases,
        report.runs,
        report.deliberate,
        report.wrong.len()
    );
    println!("{summary}");
    assert!(report.wrong.is_empty(), "{summary}");
}
