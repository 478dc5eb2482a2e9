//! Comparing chains: the verdict is what comparing all their bytes would say, in one thread and
//! in several, and qemu-img says the same.

use backchain::check::{Finding, check};
use backchain::compare::{Verdict, compare};
use backchain_format::Format;
use backchain_format::bytes::to_u64;
use backchain_native::CompareOptions;
use backchain_testkit::build::strategy::{Limits, tree};
use backchain_testkit::case::{Case, id};
use backchain_testkit::verify::verify;
use backchain_testkit::{cases, qemu};
use proptest::prelude::*;
use std::num::NonZeroUsize;
use std::process::Command;

fn fail(error: backchain::Error) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

/// The verdict by the bytes.
fn expected(mut a: Vec<u8>, mut b: Vec<u8>) -> Verdict {
    let whole = |v: &mut Vec<u8>| v.resize(v.len().next_multiple_of(512), 0);
    whole(&mut a);
    whole(&mut b);
    let (short, long) = (a.len().min(b.len()), a.len().max(b.len()));
    a.resize(long, 0);
    b.resize(long, 0);
    match a.chunks(512).zip(b.chunks(512)).position(|(a, b)| a != b) {
        None => Verdict::Identical {
            sizes_differ: short != long,
        },
        Some(sector) => Verdict::Content {
            offset: to_u64(sector * 512),
            in_tail: sector * 512 >= short,
        },
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// Layers of one tree share places, so most of a comparison is skipped: never too much.
    #[test]
    fn the_verdict_is_that_of_the_bytes(spec in tree(Limits::SMALL)) {
        let case = Case::build(&spec);
        let tree = case.open();
        for a in 0..case.nodes.len() {
            for b in 0..case.nodes.len() {
                let left = tree.chain(id(a)).map_err(fail)?;
                let right = tree.chain(id(b)).map_err(fail)?;
                let wanted = expected(case.view(a), case.view(b));
                prop_assert_eq!(compare(&left, &right, false).map_err(fail)?, wanted);
                let options = CompareOptions {
                    threads: NonZeroUsize::new(3),
                    ..CompareOptions::default()
                };
                let seen = backchain_native::compare(&left, &right, &options).map_err(fail)?;
                prop_assert_eq!(seen, wanted);
                if a == b {
                    prop_assert!(compare(&left, &right, true).map_err(fail)?.is_identical());
                }
            }
        }
    }

    /// Images without a flaw have no findings, whatever features they use; what an independent
    /// count calls a leak is one.
    #[test]
    fn built_images_have_no_findings_but_leaks(spec in tree(Limits::ALL)) {
        let case = Case::build(&spec);
        let tree = case.open();
        for (number, node) in case.nodes.iter().enumerate() {
            if node.format != Format::Qcow2 {
                continue;
            }
            let node = tree.node(id(number));
            let image = node.image().map_err(fail)?.as_qcow2().unwrap();
            let mut findings = Vec::new();
            let mut emit = |finding: &Finding| findings.push(finding.to_string());
            let report = check(node.source.as_ref(), image, 100, &mut emit);
            let leaks = to_u64(verify(case.files[&node.name].bytes()).leaks.len());
            let counts = (report.corruptions, report.check_errors);
            prop_assert_eq!(counts, (0, 0), "{}: {:?}", node.name, findings);
            // Bitmaps that nobody vouches for any more are leaks, as qemu-img counts.
            let alike = report.leaks == leaks || report.leaks > leaks && !image.bitmaps_consistent();
            prop_assert!(alike, "{}: {:?} instead of {leaks}", node.name, findings);
        }
    }
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn qemu_img_compares_alike(spec in tree(Limits { odd_sizes: false, ..Limits::SMALL })) {
        if !qemu::installed() {
            return Ok(());
        }
        let case = Case::build(&spec);
        let dir = qemu::directory(&case.files);
        let last = case.nodes.len() - 1;
        for number in 0..last {
            let (a, b) = (&case.nodes[last], &case.nodes[number]);
            let (f, g) = (a.format.name(), b.format.name());
            let output = Command::new("qemu-img")
                .current_dir(dir.path())
                .args(["compare", "-f", f, "-F", g, &a.name, &b.name])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let wanted = match expected(case.view(last), case.view(number)) {
                Verdict::Content { offset, .. } => format!("Content mismatch at offset {offset}!"),
                _ => "Images are identical.".to_owned(),
            };
            prop_assert!(said.contains(&wanted), "{said} instead of {wanted}");
        }
    }
}
