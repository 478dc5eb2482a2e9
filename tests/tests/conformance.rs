//! What only looks at images says what qemu-img says: `info`, `map`, `check` and `compare`, as
//! text and as JSON, over images made by qemu-img and qemu-io.

use backchain_tests::Dir;
use serde_json::Value;

/// Runs both tools with `--output=json`: exit code and every key and value are the same.
fn same_json(dir: &Dir, arguments: &[&str]) {
    let mut arguments = arguments.to_vec();
    arguments.insert(1, "--output=json");
    let (theirs, ours) = (dir.qemu(&arguments), dir.own(&arguments));
    assert_eq!(ours.code, theirs.code, "{arguments:?}: {ours:?}");
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    assert_eq!(parse(&ours.out), parse(&theirs.out), "{arguments:?}");
}

/// Everything both tools can say about an image without changing it.
fn same(dir: &Dir, image: &str) {
    dir.both(&["info", image]);
    dir.both(&["info", "--backing-chain", image]);
    dir.both(&["map", image]);
    dir.both(&["map", "-s", "70000", "-l", "300001", image]);
    dir.both(&["check", image]);
    same_json(dir, &["info", image]);
    same_json(dir, &["info", "--backing-chain", image]);
    same_json(dir, &["map", image]);
    same_json(dir, &["map", "-s", "70000", "-l", "300001", image]);
    same_json(dir, &["check", image]);
}

/// A qcow2 image of 4 MiB with data, zeros and gaps.
fn image(dir: &Dir, name: &str, options: &str) {
    let mut create = vec!["create", "-q", "-f", "qcow2", name, "4M"];
    if !options.is_empty() {
        create.extend(["-o", options]);
    }
    dir.qemu_ok(&create);
    let zeros = if options.contains("0.10") {
        "write -P 0 2M 64k"
    } else {
        "write -z 2M 192k"
    };
    dir.io(
        "qcow2",
        name,
        &[
            "write -P 1 0 100k",
            "write -P 2 1M 4k",
            "write -P 3 1500k 300k",
            zeros,
        ],
    );
}

#[test]
fn single_images_of_every_layout() {
    let dir = Dir::new();
    let layouts = [
        ("plain", ""),
        ("v2", "compat=0.10"),
        ("small", "cluster_size=512"),
        ("four", "cluster_size=4k"),
        ("large", "cluster_size=2M"),
        ("bits1", "refcount_bits=1"),
        ("bits64", "refcount_bits=64"),
        ("lazy", "lazy_refcounts=on"),
        ("zstd", "compression_type=zstd"),
        ("extended", "extended_l2=on"),
        ("extended16", "extended_l2=on,cluster_size=16k"),
        ("metadata", "preallocation=metadata"),
        ("extmeta", "preallocation=metadata,extended_l2=on"),
        ("falloc", "preallocation=falloc"),
    ];
    for (name, options) in layouts {
        image(&dir, name, options);
        same(&dir, name);
    }
}

#[test]
fn compressed_images() {
    let dir = Dir::new();
    image(&dir, "plain", "");
    for (name, options) in [
        ("zlib", "compression_type=zlib"),
        ("zstd", "compression_type=zstd"),
        ("ext", "extended_l2=on"),
    ] {
        dir.qemu_ok(&["convert", "-c", "-O", "qcow2", "-o", options, "plain", name]);
        same(&dir, name);
        dir.io("qcow2", name, &["write -P 9 32k 64k"]);
        same(&dir, name);
        dir.both(&["compare", "plain", name]);
    }
}

#[test]
fn snapshots_and_bitmaps() {
    let dir = Dir::new();
    image(&dir, "disk", "");
    dir.qemu_ok(&["snapshot", "-c", "first", "disk"]);
    dir.io("qcow2", "disk", &["write -P 8 0 64k"]);
    dir.qemu_ok(&["snapshot", "-c", "a second one with a long name", "disk"]);
    dir.qemu_ok(&["bitmap", "--add", "-g", "128k", "disk", "b0"]);
    dir.qemu_ok(&["bitmap", "--add", "--disable", "disk", "b1"]);
    same(&dir, "disk");
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "disk", "-F", "qcow2", "over",
    ]);
    same(&dir, "over");
}

#[test]
fn raw_images() {
    let dir = Dir::new();
    for (name, size) in [
        ("empty", "0"),
        ("sector", "512"),
        ("mebi", "1M"),
        ("large", "10G"),
    ] {
        dir.qemu_ok(&["create", "-q", "-f", "raw", name, size]);
        if size == "1M" {
            dir.io("raw", name, &["write -P 1 200k 8k"]);
        }
        same(&dir, name);
    }
    // A length that is no multiple of a sector.
    std::fs::write(dir.path().join("odd"), vec![7; 70_001]).expect("a small file");
    same(&dir, "odd");
}

/// Layers that differ in size, cluster size and version, on a raw base.
#[test]
fn chains() {
    let dir = Dir::new();
    dir.qemu_ok(&["create", "-q", "-f", "raw", "base", "3M"]);
    dir.io("raw", "base", &["write -P 1 0 200k", "write -P 2 2M 1M"]);
    let overlay =
        |name: &str, on: &str, format: &str, options: &str, size: &str, writes: &[&str]| {
            dir.qemu_ok(&[
                "create", "-q", "-f", "qcow2", "-o", options, "-b", on, "-F", format, name, size,
            ]);
            dir.io("qcow2", name, writes);
        };
    overlay(
        "one",
        "base",
        "raw",
        "cluster_size=4k",
        "5M",
        &["write -P 3 100k 10k", "write -P 4 4M 64k"],
    );
    overlay(
        "two",
        "one",
        "qcow2",
        "extended_l2=on",
        "2M",
        &["write -P 5 64k 2k", "write -z 1M 20k"],
    );
    overlay(
        "three",
        "two",
        "qcow2",
        "compat=0.10",
        "6M",
        &["write -P 6 3M 64k"],
    );
    overlay(
        "four",
        "three",
        "qcow2",
        "extended_l2=on,cluster_size=2M",
        "6M",
        &["write -P 7 1M 64k", "write -P 7 5M 64k"],
    );
    for name in ["one", "two", "three", "four"] {
        same(&dir, name);
        for other in ["base", "one", "four"] {
            dir.both(&["compare", name, other]);
            dir.both(&["compare", "-s", name, other]);
            dir.both(&["compare", "-q", name, other]);
        }
    }
}

#[test]
fn names_are_shown_as_they_were_opened() {
    let dir = Dir::new();
    std::fs::create_dir(dir.path().join("sub")).expect("a directory");
    dir.qemu_ok(&["create", "-q", "-f", "qcow2", "sub/base", "1M"]);
    dir.qemu_ok(&[
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "sub/top",
    ]);
    same(&dir, "sub/top");
    let whole = dir.path().join("sub/top");
    same(&dir, whole.to_str().expect("a plain path"));
}

/// An image whose key nobody gives is described all the same.
#[test]
fn information_without_a_key() {
    let dir = Dir::new();
    std::fs::write(dir.path().join("key"), "secret").expect("a small file");
    let aes = "encrypt.format=aes,encrypt.key-secret=s";
    let secret = ["--object", "secret,id=s,file=key"];
    let mut create = vec!["create", "-q", "-f", "qcow2", "-o", aes];
    create.extend(secret);
    create.extend(["aes", "1M"]);
    dir.qemu_ok(&create);
    dir.both(&["info", "aes"]);
    same_json(&dir, &["info", "aes"]);
    // Nothing is guessed about its content.
    let said = dir.own(&["convert", "aes", "out"]);
    assert_eq!(
        (said.code, said.err.lines().count()),
        (Some(1), 1),
        "{said:?}"
    );
}

#[test]
fn damage_is_counted_alike() {
    let dir = Dir::new();
    image(&dir, "disk", "");
    let path = dir.path().join("disk");
    let good = std::fs::read(&path).expect("the image");
    let be = |at: usize| u64::from_be_bytes(good[at..at + 8].try_into().expect("eight bytes"));
    let [l1, table] = [40, 48].map(|at| usize::try_from(be(at)).expect("small"));
    let block = usize::try_from(be(table)).expect("small");
    let l2 = usize::try_from(be(l1) & 0x00ff_ffff_ffff_fe00).expect("small");
    // A leak; a refcount too low; a copied flag missing; a cluster twice in use.
    for (what, at, bytes) in [
        ("leak", l2, vec![0; 8]),
        ("low", block + 2 * 5, vec![0, 0]),
        ("flag", l2, vec![good[l2] & 0x7f]),
        ("twice", l2 + 8, good[l2..l2 + 8].to_vec()),
    ] {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(&bytes);
        std::fs::write(&path, &bad).expect("the image");
        let said = dir.both(&["check", "disk"]);
        assert_ne!(said.code, Some(0), "{what}");
        same_json(&dir, &["check", "disk"]);
    }
}

#[test]
fn errors_have_the_same_words_and_codes() {
    let dir = Dir::new();
    image(&dir, "disk", "");
    dir.qemu_ok(&["create", "-q", "-f", "raw", "raw", "1M"]);
    dir.qemu_ok(&[
        "create", "-q", "-u", "-f", "qcow2", "-b", "gone", "-F", "qcow2", "orphan", "1M",
    ]);
    dir.qemu_ok(&[
        "create", "-q", "-u", "-f", "qcow2", "-b", "orphan", "-F", "qcow2", "above", "1M",
    ]);
    for command in ["info", "map", "check", "commit"] {
        for arguments in [
            &["none"][..],
            &[],
            &["disk", "raw"],
            &["-f", "nope", "disk"],
            &["--bad"],
            &["-f", "qcow2", "raw"],
        ] {
            let mut all = vec![command];
            all.extend(arguments);
            dir.both(&all);
        }
    }
    for command in ["map", "check", "commit"] {
        dir.both(&[command, "orphan"]);
        dir.both(&[command, "above"]);
    }
    for arguments in [
        &["info", "--backing-chain", "orphan"][..],
        &["info", "--output", "xml", "disk"],
        &["map", "-s", "1Q", "disk"],
        &["compare", "disk"],
        &["compare", "disk", "none"],
        &["compare", "-T", "nope", "disk", "disk"],
        &["compare", "disk", "orphan"],
        &["convert", "disk"],
        &["convert", "-O", "nope", "disk", "x"],
        &["convert", "none", "x"],
        &["convert", "-t", "nope", "disk", "x"],
        &["convert", "-m", "17", "disk", "x"],
        &["convert", "disk", "none/x"],
        &["convert", "-r", "x", "disk", "y"],
        &["commit", "disk"],
        &["commit", "-t", "nope", "disk"],
        &["rebase", "disk"],
        &["rebase", "-b", "none", "-F", "qcow2", "disk"],
        &["rebase", "-b", "raw", "disk"],
        &["rebase", "-u", "-b", "none", "disk"],
        &["rebase", "-b", "raw", "-F", "nope", "disk"],
        &["rebase", "-f", "raw", "-b", "disk", "-F", "qcow2", "raw"],
        &["nope"],
        &[],
    ] {
        dir.both(arguments);
    }
}

/// A writer's lock keeps readers out, unless they do not mind (`-U`).
#[test]
fn images_in_use() {
    let dir = Dir::new();
    image(&dir, "disk", "");
    let mut writer = std::process::Command::new("qemu-io")
        .current_dir(dir.path())
        .args(["-f", "qcow2", "disk"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("qemu-io starts");
    // Its prompt comes once the image is open.
    let mut prompt = [0; 1];
    std::io::Read::read_exact(writer.stdout.as_mut().expect("a pipe"), &mut prompt)
        .expect("a prompt");
    for command in ["info", "map", "check"] {
        assert_eq!(dir.both(&[command, "disk"]).code, Some(1));
        dir.both(&[command, "-U", "disk"]);
    }
    let before = dir.bytes();
    let said = dir.own(&["create", "-f", "qcow2", "disk", "1M"]);
    assert_eq!(
        (said.code, dir.bytes() == before),
        (Some(1), true),
        "{said:?}"
    );
    drop(writer.stdin.take());
    writer.wait().expect("qemu-io ends");
    dir.both(&["info", "disk"]);
}
