//! What is refused where qemu-img would go on, with exit code 4 and not a byte changed; and what
//! a command does when it is stopped or its reader goes away.

use backchain_tests::{Dir, Said, backchain};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// `base <- mid <- top`, each with data of its own.
fn three() -> Dir {
    let dir = Dir::new();
    dir.qemu_ok(&["create", "-q", "-f", "qcow2", "base", "2M"]);
    for (name, on) in [("mid", "base"), ("top", "mid")] {
        dir.qemu_ok(&["create", "-q", "-f", "qcow2", "-b", on, "-F", "qcow2", name]);
    }
    dir.io("qcow2", "base", &["write -P 1 0 1M"]);
    dir.io("qcow2", "mid", &["write -P 2 64k 200k"]);
    dir.io("qcow2", "top", &["write -P 3 128k 200k"]);
    dir
}

/// It is refused with code 4, in one line, and no byte has changed.
fn refused(dir: &Dir, arguments: &[&str]) -> Said {
    let before = dir.bytes();
    let said = dir.own(arguments);
    assert_eq!(said.code, Some(4), "{arguments:?}: {said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
    assert!(dir.bytes() == before, "{arguments:?} changed something");
    said
}

#[test]
fn dependents_are_found_beside_and_named() {
    let dir = three();
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "clone",
    ]);
    dir.qemu_ok(&["convert", "-O", "raw", "top", "reference"]);
    for arguments in [
        &["commit", "mid"][..],
        &["commit", "-b", "base", "top"],
        &["blockcommit", "top"],
        &["blockcommit", "top", "--top", "mid"],
        &["remove", "mid", "--active", "top", "--method", "1"],
        &["commit", "mid", "--dry-run"],
    ] {
        let said = refused(&dir, arguments);
        assert!(
            said.err.contains("clone") && said.err.contains("--force-dependents"),
            "{said:?}"
        );
    }
    // Method 2 breaks nobody, so it is what remove chooses.
    let clone = dir.bytes()["clone"].clone();
    let text = dir.own_ok(&["remove", "mid", "--active", "top"]);
    assert!(text.contains("method 2"), "{text}");
    dir.assert_same("top", "reference");
    // The override goes on, and says what it broke.
    let said = dir.own(&["blockcommit", "top", "--force-dependents"]);
    assert_eq!(said.code, Some(0));
    assert!(
        said.err.contains("read differently now: ") && said.err.contains("'clone'"),
        "{said:?}"
    );
    dir.assert_same("base", "reference");
    assert_eq!(dir.bytes()["clone"], clone);
}

/// Every overlay of top beside it is relinked, not only the one in the active layer's chain.
#[test]
fn all_the_overlays_of_top_are_relinked() {
    let dir = three();
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "twin", "3M",
    ]);
    dir.io("qcow2", "twin", &["write -P 9 1M 1M"]);
    for name in ["top", "twin"] {
        dir.qemu_ok(&["convert", "-O", "raw", name, &format!("{name}.raw")]);
    }
    dir.own_ok(&["blockcommit", "top", "--top", "mid", "--delete"]);
    for name in ["top", "twin"] {
        assert_eq!(dir.backing(name).as_deref(), Some("base"));
        dir.assert_clean(name);
        dir.assert_same(name, &format!("{name}.raw"));
    }
    assert!(!dir.path().join("mid").exists());
}

/// From another directory, with the images named by their path.
#[test]
fn dependents_are_found_wherever_the_command_runs() {
    let dir = three();
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "clone",
    ]);
    let top = dir.path().join("top");
    let elsewhere = Dir::new();
    let said = elsewhere.own(&["blockcommit", top.to_str().expect("a plain path")]);
    assert_eq!(said.code, Some(4), "{said:?}");
}

#[test]
fn wrong_labels() {
    let dir = three();
    dir.qemu_ok(&["rebase", "-u", "-b", "base", "-F", "raw", "top"]);
    refused(&dir, &["commit", "top"]);
    refused(&dir, &["blockcommit", "top"]);
    refused(&dir, &["rebase", "-b", "mid", "-F", "raw", "top"]);
    refused(
        &dir,
        &[
            "create", "-q", "-f", "qcow2", "-b", "mid", "-F", "raw", "new",
        ],
    );
    let drawn = dir.own_ok(&["chain", "top"]);
    assert!(
        drawn.contains("says it is raw, but it holds qcow2"),
        "{drawn}"
    );
    // The way out that the message names.
    dir.own_ok(&["rebase", "-u", "-b", "base", "-F", "qcow2", "top"]);
    dir.own_ok(&["rebase", "-b", "mid", "-F", "qcow2", "top"]);
}

#[test]
fn loops() {
    let dir = three();
    refused(&dir, &["rebase", "-u", "-b", "top", "-F", "qcow2", "base"]);
    refused(&dir, &["rebase", "-u", "-b", "base", "-F", "qcow2", "base"]);
    refused(&dir, &["rebase", "-b", "top", "-F", "qcow2", "mid"]);
    dir.qemu_ok(&["rebase", "-u", "-b", "top", "-F", "qcow2", "base"]);
    for arguments in [
        &["commit", "top"][..],
        &["blockcommit", "top"],
        &["pull", "top"],
        &["rebase", "-b", "", "top"],
        &["remove", "mid", "--active", "top"],
    ] {
        let said = refused(&dir, arguments);
        assert!(said.err.contains("form a loop: "), "{said:?}");
    }
    // Reading ends with an error rather than never.
    for command in ["map", "check", "convert", "compare"] {
        let mut arguments = vec![command, "top"];
        match command {
            "convert" => arguments.push("new"),
            "compare" => arguments.push("mid"),
            _ => {}
        }
        let said = dir.own(&arguments);
        assert_eq!(
            said.code,
            Some(if command == "compare" { 2 } else { 1 }),
            "{said:?}"
        );
        assert!(said.err.contains("form a loop: "), "{said:?}");
    }
    assert_eq!(dir.own(&["info", "--backing-chain", "top"]).code, Some(1));
    let drawn = dir.own_ok(&["chain", "."]);
    assert_eq!(drawn.matches("form a loop").count(), 3, "{drawn}");
    // Relinking is the way out.
    dir.own_ok(&["rebase", "-u", "-b", "", "base"]);
    assert_eq!(dir.own(&["check", "top"]).code, Some(0));
}

#[test]
fn internal_snapshots_and_corrupt_marks() {
    let dir = three();
    dir.qemu_ok(&["snapshot", "-c", "s", "top"]);
    // What top holds now its snapshot does not: it would see it in mid.
    dir.io("qcow2", "top", &["write -P 77 0 128k"]);
    refused(&dir, &["commit", "-d", "top"]);
    refused(&dir, &["rebase", "-b", "base", "-F", "qcow2", "top"]);
    refused(&dir, &["pull", "top"]);
    dir.own_ok(&["info", "top"]);
    let path = dir.path().join("base");
    let mut bytes = std::fs::read(&path).expect("the image");
    bytes[79] |= 2; // incompatible feature bit 1: corrupt
    std::fs::write(&path, bytes).expect("the image");
    let said = refused(&dir, &["commit", "mid"]);
    assert!(said.err.contains("corrupt"), "{said:?}");
}

/// A file is never made anew over one that is being read.
#[test]
fn an_input_is_not_overwritten() {
    let dir = three();
    std::os::unix::fs::symlink("mid", dir.path().join("link")).expect("a link");
    let before = dir.bytes();
    for target in ["top", "mid", "base", "link", "./base"] {
        for arguments in [
            &["convert", "-O", "qcow2", "top", target][..],
            &["create", "-f", "qcow2", "-b", "top", "-F", "qcow2", target],
        ] {
            let said = dir.own(arguments);
            assert_eq!(said.code, Some(1), "{arguments:?}: {said:?}");
            assert!(dir.bytes() == before, "{arguments:?}");
        }
    }
}

/// The running machine's image is left alone, and so is everything else.
#[test]
fn images_in_use_are_not_changed() {
    let dir = three();
    let mut writer = Command::new("qemu-io")
        .current_dir(dir.path())
        .args(["-f", "qcow2", "top"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io starts");
    let mut prompt = [0; 1];
    writer
        .stdout
        .as_mut()
        .expect("a pipe")
        .read_exact(&mut prompt)
        .expect("a prompt");
    let before = dir.bytes();
    for arguments in [
        &["commit", "top"][..],
        &["blockcommit", "top", "--top", "mid"],
        // The writer is only seen beside.
        &["commit", "-b", "base", "mid"],
        &["blockcommit", "mid"],
        &["pull", "top"],
        &["rebase", "-u", "-b", "base", "-F", "qcow2", "top"],
    ] {
        let said = dir.own(arguments);
        assert_eq!(said.code, Some(1), "{arguments:?}: {said:?}");
        assert!(said.err.contains("lock"), "{said:?}");
        assert!(dir.bytes() == before, "{arguments:?}");
    }
    drop(writer.stdin.take());
    writer.wait().expect("qemu-io ends");
    dir.own_ok(&["blockcommit", "top", "--top", "mid"]);
}

/// Ctrl-C stops a commit; the active layer reads as before, and the same command completes it.
#[test]
fn ctrl_c() {
    let dir = three();
    dir.io("qcow2", "mid", &["write -P 5 0 2M"]);
    dir.qemu_ok(&["convert", "-O", "raw", "top", "reference"]);
    let command = ["blockcommit", "top", "--top", "mid", "--rate", "100k"];
    let start = Instant::now();
    let child = Command::new(backchain())
        .current_dir(dir.path())
        .args(command)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    std::thread::sleep(Duration::from_millis(600));
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "it did not stop at once"
    );
    dir.assert_same("top", "reference");
    for name in ["base", "mid", "top"] {
        let said = dir.qemu(&["check", name]);
        assert!(matches!(said.code, Some(0 | 3)), "{name}: {said:?}");
    }
    dir.own_ok(&["blockcommit", "top", "--top", "mid"]);
    dir.assert_same("top", "reference");
    assert_eq!(dir.backing("top").as_deref(), Some("base"));
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_panic() {
    let dir = three();
    for arguments in [
        &["info", "top"][..],
        &["map", "top"],
        &["chain", "top"],
        &["man"],
        &["completions", "zsh"],
    ] {
        let mut child = Command::new(backchain())
            .current_dir(dir.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code().is_some() && text.is_empty(),
            "{arguments:?}: {text}"
        );
    }
}

#[test]
fn manual_pages_and_completions_cover_every_command() {
    let dir = Dir::new();
    dir.own_ok(&["man", "pages"]);
    let help = dir.own_ok(&["--help"]);
    for command in [
        "info",
        "map",
        "chain",
        "check",
        "compare",
        "create",
        "commit",
        "blockcommit",
        "blockpull",
        "rebase",
        "remove",
        "convert",
    ] {
        assert!(help.contains(command));
        assert!(
            dir.path()
                .join(format!("pages/backchain-{command}.1"))
                .exists()
        );
        dir.own_ok(&[command, "--help"]);
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(dir.own_ok(&["completions", shell]).contains("blockcommit"));
    }
}
