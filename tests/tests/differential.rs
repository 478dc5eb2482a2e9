//! The differential suite: qemu-img and backchain, told the same, do the same.
//!
//! `DIFFERENTIAL=commit` runs only the cases with `commit` in their file or title.

use backchain_tests::backchain;
use backchain_tests::differential::{self, case, deliberate, options, runner};
use std::env;
use std::fs;
use std::path::Path;

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

/// Every option that qemu-img's help names is used by a case, or there is a reason why not.
#[test]
fn every_option_has_a_case() {
    let directory = differential::directory();
    let cases = case::read_all(&directory.join("cases")).unwrap_or_else(|error| panic!("{error}"));
    let excuses = options::read_excuses(&directory.join("options.toml"))
        .unwrap_or_else(|error| panic!("{error}"));
    let rows = options::table(&cases).unwrap_or_else(|error| panic!("{error}"));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("differential-options.md");
    fs::write(&path, options::render(&rows, &excuses)).expect("the table can be written");
    let wrong = options::wrong(&rows, &excuses);
    println!("{}", wrong.join("\n"));
    let used = rows.iter().filter(|row| !row.cases.is_empty()).count();
    let summary = format!(
        "{} options, {used} with a case, {} with a reason why not, {} wrong; see {}",
        rows.len(),
        excuses.len(),
        wrong.len(),
        path.display()
    );
    println!("{summary}");
    assert!(rows.len() > 200 && wrong.is_empty(), "{summary}");
}
