//! The operations of the handout on chains of five layers made by qemu-img and qemu-io, judged by
//! `qemu-img check` and by `qemu-img compare` with a copy of the active layer taken before.

use backchain_tests::Dir;

/// The layers, lowest first.
const LAYERS: [&str; 5] = ["base", "snap1", "snap2", "snap3", "active"];

/// Chains that differ in what their layers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// qcow2 with default options.
    Plain,
    /// The base is raw.
    RawBase,
    /// Mixed cluster sizes, versions, refcount widths and extended L2.
    Mixed,
    /// Layers of unequal sizes.
    Sizes,
}

const KINDS: [Kind; 4] = [Kind::Plain, Kind::RawBase, Kind::Mixed, Kind::Sizes];

impl Kind {
    fn options(self, layer: usize) -> &'static str {
        if self != Kind::Mixed {
            return "lazy_refcounts=off";
        }
        [
            "cluster_size=4k",
            "cluster_size=64k,extended_l2=on",
            "compat=0.10,cluster_size=32k",
            "cluster_size=512,refcount_bits=1",
            "cluster_size=256k,extended_l2=on,refcount_bits=64",
        ][layer]
    }

    /// Virtual sizes in KiB; with lengths that are no multiple of a cluster.
    fn size(self, layer: usize) -> u64 {
        if self == Kind::Sizes {
            [3000, 4096, 2047, 4500, 3555][layer]
        } else {
            4096
        }
    }

    fn format(self, layer: usize) -> &'static str {
        if self == Kind::RawBase && layer == 0 {
            "raw"
        } else {
            "qcow2"
        }
    }
}

/// Makes the chain and `reference`, what the guest sees in the active layer.
fn chain(kind: Kind) -> Dir {
    let dir = Dir::new();
    for (layer, name) in LAYERS.iter().enumerate() {
        let size = format!("{}k", kind.size(layer));
        let format = kind.format(layer);
        let mut create = vec!["create", "-q", "-f", format];
        if format == "qcow2" {
            create.extend(["-o", kind.options(layer)]);
        }
        if layer > 0 {
            create.extend(["-b", LAYERS[layer - 1], "-F", kind.format(layer - 1)]);
        }
        create.extend([*name, size.as_str()]);
        dir.qemu_ok(&create);
        let n = layer as u64;
        let mut writes = vec![
            // Each layer hides a part of the one below, and has a part of its own.
            format!("write -P {} {}k 150k", n + 1, n * 100),
            format!("write -P {} {}k 33k", n + 11, 1000 + n * 200 + 3),
            // Small, so that other subclusters of the same cluster stay unallocated.
            format!(
                "write -P {} {} 1024",
                n + 21,
                (2_000_000 + n * 8192) / 512 * 512
            ),
            // Up to the end of the disk.
            format!(
                "write -P {} {} 5120",
                n + 31,
                kind.size(layer) * 1024 - 5120
            ),
        ];
        if format == "qcow2" && !kind.options(layer).contains("0.10") {
            writes.push(format!("write -z {}k 40k", 60 + n * 110));
        }
        if layer > 0 {
            writes.push(format!("write -P 0 {}k 20k", 1010 + n * 190));
        }
        let writes: Vec<&str> = writes.iter().map(String::as_str).collect();
        dir.io(format, name, &writes);
    }
    dir.qemu_ok(&["convert", "-O", "raw", "active", "reference"]);
    dir
}

/// Every image named is consistent, and the last of them shows what the active layer showed.
fn judge(dir: &Dir, kind: Kind, valid: &[&str]) {
    for name in valid {
        if *name != "base" || kind != Kind::RawBase {
            dir.assert_clean(name);
        }
    }
    let active = valid.last().expect("an active layer");
    dir.assert_same(active, "reference");
}

/// The six cases of the handout: layers from `top` down to the one above `base` are merged into
/// it, the one above top gets base as its backing file.
const COMMITS: [(&str, &str, &str); 6] = [
    ("snap3", "base", "active"),
    ("snap2", "base", "snap3"),
    ("snap1", "base", "snap2"),
    ("snap2", "snap1", "snap3"),
    ("snap3", "snap2", "active"),
    ("snap3", "snap1", "active"),
];

fn position(name: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| *layer == name)
        .expect("a layer")
}

/// The layers that are valid after a commit.
fn left(top: &str, base: &str) -> Vec<&'static str> {
    let (top, base) = (position(top), position(base));
    LAYERS[..=base]
        .iter()
        .chain(&LAYERS[top + 1..])
        .copied()
        .collect()
}

#[test]
fn six_commits_by_blockcommit() {
    for kind in KINDS {
        for (top, base, above) in COMMITS {
            let dir = chain(kind);
            dir.own_ok(&["blockcommit", "active", "--top", top, "--base", base]);
            assert_eq!(
                dir.backing(above).as_deref(),
                Some(base),
                "{kind:?} {top} {base}"
            );
            judge(&dir, kind, &left(top, base));
        }
    }
}

#[test]
fn six_commits_by_commit_and_rebase() {
    for kind in KINDS {
        for (top, base, above) in COMMITS {
            let dir = chain(kind);
            let said = dir.own(&["commit", "-b", base, top]);
            assert_eq!(
                (said.code, said.out.as_str()),
                (Some(0), "Image committed.\n"),
                "{said:?}"
            );
            // Nothing that is still valid has changed, even before it is relinked.
            judge(&dir, kind, &left(top, base));
            // It says how to go on; the words are a command.
            let (_, command) = said.err.split_once(": backchain ").expect("advice");
            let command = command.trim_end().replace('\'', "");
            let arguments: Vec<&str> = command.split(' ').collect();
            assert_eq!(arguments.last(), Some(&above), "{kind:?}: {command}");
            dir.own_ok(&arguments);
            assert_eq!(dir.backing(above).as_deref(), Some(base));
            judge(&dir, kind, &left(top, base));

            // A safe rebase is right whatever the sizes are.
            let dir = chain(kind);
            dir.own_ok(&["commit", "-b", base, top]);
            let rebase = [
                "rebase",
                "-b",
                base,
                "-F",
                kind.format(position(base)),
                above,
            ];
            dir.own_ok(&rebase);
            judge(&dir, kind, &left(top, base));
        }
    }
}

#[test]
fn shallow_and_delete() {
    for kind in KINDS {
        let dir = chain(kind);
        dir.own_ok(&[
            "blockcommit",
            "active",
            "--top",
            "snap2",
            "--shallow",
            "--delete",
        ]);
        assert_eq!(dir.backing("snap3").as_deref(), Some("snap1"));
        assert!(!dir.path().join("snap2").exists());
        dir.own_ok(&["blockcommit", "active", "--top", "snap3", "--delete"]);
        assert_eq!(dir.backing("active").as_deref(), Some("base"));
        assert!(!dir.path().join("snap1").exists() && !dir.path().join("snap3").exists());
        judge(&dir, kind, &["base", "active"]);
    }
}

#[test]
fn active_commit() {
    for kind in KINDS {
        let dir = chain(kind);
        dir.own_ok(&["blockcommit", "active"]);
        judge(&dir, kind, &["base"]);
        judge(&dir, kind, &["active"]);

        // qemu-img's plain commit: one layer, emptied afterwards.
        let dir = chain(kind);
        dir.own_ok(&["commit", "active"]);
        judge(&dir, kind, &["base", "snap1", "snap2", "snap3", "active"]);
        if kind != Kind::Sizes {
            judge(&dir, kind, &["snap3"]);
        }
        let map = dir.qemu_ok(&["map", "--output=json", "active"]);
        assert!(
            !map.contains("\"depth\": 0, \"present\": true"),
            "{kind:?}: {map}"
        );
        // With -d it keeps its data.
        let dir = chain(kind);
        dir.own_ok(&["commit", "-d", "active"]);
        judge(&dir, kind, &["base", "snap1", "snap2", "snap3", "active"]);
        let map = dir.qemu_ok(&["map", "--output=json", "active"]);
        assert!(
            map.contains("\"depth\": 0, \"present\": true"),
            "{kind:?}: {map}"
        );
    }
}

/// Fig 5: the layers above the base move into the active one. Fig 6: everything does.
#[test]
fn pulls() {
    for kind in KINDS {
        let dir = chain(kind);
        let before: Vec<_> = dir
            .bytes()
            .into_iter()
            .filter(|(name, _)| name != "active")
            .collect();
        dir.own_ok(&["blockpull", "--base", "base", "active"]);
        assert_eq!(dir.backing("active").as_deref(), Some("base"));
        judge(&dir, kind, &LAYERS);
        dir.own_ok(&["pull", "active"]);
        assert_eq!(dir.backing("active"), None);
        judge(&dir, kind, &LAYERS);
        let after: Vec<_> = dir
            .bytes()
            .into_iter()
            .filter(|(name, _)| name != "active")
            .collect();
        assert_eq!(before, after, "{kind:?}: only the active layer changes");

        // Into a layer in the middle.
        let dir = chain(kind);
        dir.own_ok(&["blockpull", "--base", "snap1", "snap3"]);
        assert_eq!(dir.backing("snap3").as_deref(), Some("snap1"));
        judge(&dir, kind, &LAYERS);
        dir.own_ok(&["blockpull", "snap3"]);
        assert_eq!(dir.backing("snap3"), None);
        judge(&dir, kind, &LAYERS);
    }
}

#[test]
fn removing_a_middle_layer() {
    for kind in KINDS {
        for (method, valid) in [
            ("1", &["base", "snap1", "snap3", "active"][..]),
            ("2", &LAYERS[..]),
        ] {
            let dir = chain(kind);
            let remove = ["remove", "snap2", "--active", "active", "--method", method];
            dir.own_ok(&remove);
            assert_eq!(dir.backing("snap3").as_deref(), Some("snap1"));
            judge(&dir, kind, valid);
            // It is not in the chain any more.
            assert_eq!(dir.own(&remove).code, Some(1));
        }
        let dir = chain(kind);
        dir.own_ok(&["remove", "snap1", "--active", "active", "--delete"]);
        assert_eq!(dir.backing("snap2").as_deref(), Some("base"));
        assert!(!dir.path().join("snap1").exists());
        judge(&dir, kind, &["base", "snap2", "snap3", "active"]);
    }
}

#[test]
fn rebases() {
    for kind in KINDS {
        let dir = chain(kind);
        let format = kind.format(0);
        dir.own_ok(&["rebase", "-b", "base", "-F", format, "active"]);
        assert_eq!(dir.backing("active").as_deref(), Some("base"));
        judge(&dir, kind, &LAYERS);
        dir.own_ok(&["rebase", "-b", "snap2", "-F", "qcow2", "active"]);
        judge(&dir, kind, &LAYERS);
        // Onto something that was never in its chain.
        dir.qemu_ok(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=8k",
            "other",
            "2M",
        ]);
        dir.io("qcow2", "other", &["write -P 77 0 2M"]);
        dir.own_ok(&["rebase", "-b", "other", "-F", "qcow2", "active"]);
        judge(&dir, kind, &LAYERS);
        dir.own_ok(&["rebase", "-b", "", "active"]);
        assert_eq!(dir.backing("active"), None);
        judge(&dir, kind, &LAYERS);
    }
}

#[test]
fn conversions() {
    for kind in KINDS {
        let dir = chain(kind);
        for (format, options) in [
            ("raw", ""),
            ("qcow2", ""),
            ("qcow2", "cluster_size=4k,extended_l2=off"),
            ("qcow2", "extended_l2=on"),
            ("qcow2", "compat=0.10"),
            ("qcow2", "refcount_bits=1,cluster_size=2M"),
        ] {
            let mut convert = vec!["convert", "-O", format];
            if !options.is_empty() {
                convert.extend(["-o", options]);
            }
            convert.extend(["active", "copy"]);
            dir.own_ok(&convert);
            dir.assert_same("copy", "reference");
            if format == "qcow2" {
                dir.assert_clean("copy");
            }
        }
    }
}

/// What `create` makes is what qemu-img makes, as far as `info` tells, and can be used.
#[test]
fn creation() {
    let dir = Dir::new();
    dir.qemu_ok(&["create", "-q", "-f", "qcow2", "below", "3M"]);
    for (options, more) in [
        ("cluster_size=64k", &["1M"][..]),
        ("cluster_size=512", &["1000"]),
        ("cluster_size=2M", &["20M"]),
        ("compat=0.10", &["1.5M"]),
        ("extended_l2=on,refcount_bits=64", &["1T"]),
        ("refcount_bits=1,lazy_refcounts=on", &["70000"]),
        ("compression_type=zstd", &["0"]),
        ("cluster_size=4k", &["-b", "below", "-F", "qcow2"]),
        (
            "cluster_size=512,backing_file=below,backing_fmt=qcow2",
            &["5M"],
        ),
    ] {
        let mut create = vec!["create", "-f", "qcow2", "-o", options, "new"];
        create.extend(more);
        let text = dir.qemu_ok(&create);
        let theirs = dir.qemu_ok(&["info", "new"]);
        let ours = dir.own_ok(&create);
        assert_eq!(ours, text);
        dir.assert_clean("new");
        // How many bytes an empty image takes is not part of the format.
        let info = dir.qemu_ok(&["info", "new"]);
        let lines = |text: &str| -> Vec<String> {
            let kept = text
                .lines()
                .filter(|l| !l.contains("disk size") && !l.contains("file length"));
            kept.map(str::to_owned).collect()
        };
        assert_eq!(lines(&info), lines(&theirs), "{options} {more:?}");
        if !more.contains(&"0") {
            dir.io(
                "qcow2",
                "new",
                &["write -P 5 0 64k"].map(|w| {
                    if more.contains(&"1000") {
                        "write -P 5 0 1024"
                    } else {
                        w
                    }
                }),
            );
            dir.assert_clean("new");
        }
    }
}

/// A dry run tells what would be done and changes no byte.
#[test]
fn dry_runs_change_nothing() {
    for kind in KINDS {
        let dir = chain(kind);
        let before = dir.bytes();
        for command in [
            &["commit", "active"][..],
            &["commit", "-b", "base", "snap3"],
            &["blockcommit", "active"],
            &[
                "blockcommit",
                "active",
                "--top",
                "snap3",
                "--base",
                "snap1",
                "--delete",
            ],
            &["blockpull", "--base", "base", "active"],
            &["pull", "active"],
            &["rebase", "-b", "snap1", "-F", "qcow2", "active"],
            &["rebase", "-u", "-b", "snap1", "-F", "qcow2", "active"],
            &["remove", "snap2", "--active", "active"],
            &[
                "create", "-f", "qcow2", "-b", "active", "-F", "qcow2", "new",
            ],
            &["convert", "-O", "qcow2", "active", "new"],
        ] {
            let mut command = command.to_vec();
            command.push("--dry-run");
            let text = dir.own_ok(&command);
            assert!(text.ends_with("Nothing was written.\n"), "{text}");
            command.push("--output=json");
            let json: serde_json::Value =
                serde_json::from_str(&dir.own_ok(&command)).expect("JSON");
            assert_eq!(
                json["operation"],
                command[0]
                    .replace("pull", "blockpull")
                    .replace("blockblock", "block")
            );
            assert!(dir.bytes() == before, "{kind:?} {command:?}");
        }
    }
}
