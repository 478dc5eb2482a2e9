//! What commands of our own print, and what those of qemu-img print while they work.

use backchain_tests::Dir;
use serde_json::{Value, json};

/// `base <- mid <- top`, and `clone` on `base`.
fn tree() -> Dir {
    let dir = Dir::new();
    dir.qemu_ok(&["create", "-q", "-f", "raw", "base", "2M"]);
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "mid",
    ]);
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "top",
    ]);
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "clone",
    ]);
    dir.io("qcow2", "mid", &["write -P 2 0 256k"]);
    dir.io("qcow2", "top", &["write -P 3 128k 256k"]);
    dir
}

/// The lines of `text` without what depends on the file system.
fn shape(text: &str) -> Vec<String> {
    let cut = |line: &str| match (line.find("MiB, "), line.find(" on disk")) {
        (Some(from), Some(to)) => format!("{}{}", &line[..from + 3], &line[to + 8..]),
        _ => line.to_owned(),
    };
    text.lines().map(cut).collect()
}

#[test]
fn the_tree_is_drawn_with_its_branches_and_what_is_wrong() {
    let dir = tree();
    dir.qemu_ok(&[
        "create", "-q", "-u", "-f", "qcow2", "-b", "gone", "-F", "qcow2", "orphan", "1M",
    ]);
    let drawn = dir.own_ok(&["chain", "."]);
    let expected = [
        "./base  raw, 2 MiB  [2 images depend on it: a change to it changes them all]",
        "├── ./clone  qcow2, 2 MiB",
        "└── ./mid  qcow2, 2 MiB",
        "    └── ./top  qcow2, 2 MiB",
        "./orphan  qcow2, 1 MiB  [file './gone' was not found]",
    ];
    assert_eq!(shape(&drawn), expected);
    // From one of its images: the same tree, and nothing that is not part of it.
    let drawn = dir.own_ok(&["chain", "mid"]);
    assert_eq!(drawn.lines().count(), 4, "{drawn}");

    let json: Value =
        serde_json::from_str(&dir.own_ok(&["chain", "--output=json", "mid", "orphan"]))
            .expect("JSON");
    let images = json["images"].as_array().expect("a list");
    let find = |name: &str| {
        images
            .iter()
            .find(|i| i["filename"] == name)
            .expect("the image")
    };
    assert_eq!(find("mid")["overlays"], json!(["top"]));
    assert_eq!(find("mid")["backing"], "base");
    assert_eq!(find("orphan")["state"], "missing-backing");
    assert_eq!(find("top")["state"], "ok");
}

#[test]
fn a_preview_has_the_bytes_and_the_links() {
    let dir = tree();
    let text = dir.own_ok(&[
        "blockcommit",
        "top",
        "--top",
        "mid",
        "--dry-run",
        "--output=json",
        "--force-dependents",
    ]);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["copied"], 256 << 10);
    assert_eq!(
        json["links"],
        json!([{"filename": "top", "backing": "base"}])
    );
    assert_eq!(json["superseded"], json!(["mid"]));
    assert_eq!(json["broken-dependents"], json!(["clone"]));
    let written: Vec<_> = json["files"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|f| &f["filename"])
        .collect();
    assert!(written.contains(&&json!("base")) && written.contains(&&json!("top")));

    let text = dir.own_ok(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "top",
        "-F",
        "qcow2",
        "new",
        "--dry-run",
        "--output=json",
    ]);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&json["files"][0]["filename"], &json["files"][0]["new"]),
        (&json!("new"), &json!(true))
    );
    assert!(!dir.path().join("new").exists());
}

/// qemu-img's percentages: they never fall, and they end at a hundred.
#[test]
fn progress_away_from_a_terminal() {
    let dir = tree();
    for (command, last) in [
        (&["convert", "-p", "-O", "qcow2", "top", "copy"][..], ""),
        (&["compare", "-p", "top", "copy"], "Images are identical."),
        (&["rebase", "-p", "-b", "base", "-F", "raw", "top"], ""),
        (
            &["commit", "-p", "--force-dependents", "mid"],
            "Image committed.",
        ),
        (&["blockpull", "-p", "clone"], "'clone' now stands alone."),
    ] {
        let out = dir.own_ok(command);
        let percentages: Vec<f64> = out
            .split('\r')
            .filter_map(|part| {
                part.trim()
                    .strip_prefix('(')?
                    .strip_suffix("/100%)")?
                    .parse()
                    .ok()
            })
            .collect();
        assert_eq!(
            (percentages.first(), percentages.last()),
            (Some(&0.0), Some(&100.0)),
            "{out:?}"
        );
        assert!(percentages.is_sorted(), "{out:?}");
        assert!(out.trim_end().ends_with(last), "{out:?}");
    }
}

#[test]
fn quiet_commands_say_nothing() {
    let dir = tree();
    for command in [
        &[
            "create", "-q", "-f", "qcow2", "-b", "top", "-F", "qcow2", "new",
        ][..],
        &["convert", "-q", "-p", "top", "copy"],
        &["compare", "-q", "top", "copy"],
        &["check", "-q", "top"],
        &["commit", "-q", "-d", "top"],
        &["rebase", "-q", "-b", "base", "-F", "raw", "new"],
        &["blockcommit", "-q", "--force-dependents", "top"],
        &["blockpull", "-q", "new"],
    ] {
        let said = dir.own(command);
        assert_eq!(
            (said.code, said.out.as_str(), said.err.as_str()),
            (Some(0), "", ""),
            "{command:?}"
        );
    }
}

/// As with getopt: options anywhere, values attached, long names cut short, the last one wins.
#[test]
fn options_are_taken_as_qemu_img_takes_them() {
    let dir = tree();
    for arguments in [
        &["info", "top", "-fqcow2"][..],
        &["info", "--form=raw", "top"],
        &["info", "--backing", "top"],
        &["info", "-f", "raw", "-f", "qcow2", "top"],
        &["info", "--", "top"],
        &["compare", "-sq", "top", "mid"],
        &["map", "--output", "json", "-s1M", "-l", "64k", "top"],
    ] {
        dir.both(arguments);
    }
}

/// A limit on the rate is kept.
#[test]
fn the_rate_is_limited() {
    let dir = tree();
    let start = std::time::Instant::now();
    dir.own_ok(&["commit", "-d", "-r", "512k", "top"]);
    // 256 KiB at 512 KiB/s: the last of them half a second after the first.
    assert!(start.elapsed().as_millis() >= 350, "{:?}", start.elapsed());
}
