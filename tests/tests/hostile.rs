//! Malformed images: whatever is in a file, the answer is an answer. No panic, no signal, not
//! much memory, not much time.

use backchain::chain::Reader;
use backchain::check::check;
use backchain::inspect::Stats;
use backchain::plan::Preview;
use backchain::stage::Trial;
use backchain::view_hash::{Over, ViewHash};
use backchain::ways::{Goal, Ways};
use backchain::{NodeId, Operation, ReadAt, Tree};
use backchain_format::bytes::to_usize;
use backchain_native::{FsGate, GateOptions};
use backchain_tests::backchain;
use backchain_tests::malformed::{self, Case};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Time for one command.
const TIME: Duration = Duration::from_secs(30);
/// Address space for one command beyond the program file, in KiB.
const MEMORY: u64 = 512 << 10;

/// Runs `program` within the limits; `None` when time ran out.
fn run(program: &Path, dir: &Path, arguments: &[&str]) -> Option<Output> {
    let own = std::fs::metadata(program).unwrap().len() / 1024;
    let limit = MEMORY + own;
    let mut child = Command::new("sh")
        .current_dir(dir)
        .args(["-c", &format!("ulimit -v {limit}; exec \"$0\" \"$@\"")])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(dir.join("stdout")).unwrap())
        .stderr(std::fs::File::create(dir.join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > TIME {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    };
    Some(Output {
        status,
        stdout: std::fs::read(dir.join("stdout")).unwrap(),
        stderr: std::fs::read(dir.join("stderr")).unwrap(),
    })
}

/// Runs `work` on every item, by a few threads.
fn each<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync) {
    let items = Mutex::new(items.into_iter());
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let next = items.lock().unwrap().next();
                    match next {
                        Some(item) => work(item),
                        None => break,
                    }
                }
            });
        }
    });
}

/// What `qemu-img` finds nothing wrong with need not be an error here, nor what is only wrong
/// in ways that the command does not look at. This list is of the rest: cases in which success
/// would be wrong.
fn must_fail(case: &str, command: &str) -> bool {
    let never_opens = [
        "cut-at-8",
        "cut-at-24",
        "cut-at-71",
        "cut-at-72",
        "cut-at-103",
        "cut-at-4096",
        "cut-at-8192",
        "cut-at-12292",
        "version-1",
        "version-4",
        "cluster-bits",
        "size-max",
        "l1-entries",
        "l1-misaligned",
        "l1-past-end",
        "l1-at-0",
        "refcount-table-misaligned",
        "refcount-table-max",
        "refcount-order-7",
        "header-length",
        "feature-unknown",
        "feature-all",
        "feature-extended",
        "compression",
        "extension-past",
        "extension-length",
        "snapshots-max",
        "snapshot-table-misaligned",
        "snapshot-garbage",
        "bitmap-count",
        "backing-name-past",
        "backing-name-too-long",
        "backing-name-length",
        "backing-format-too",
    ];
    let no_chain = [
        "loop-",
        "backing-missing",
        "backing-empty",
        "backing-cut",
        "backing-not-qcow2",
    ];
    let no_data = [
        "compressed-zeros",
        "compressed-ones",
        "compressed-past-end",
        "zstd-",
    ];
    let starts = |list: &[&str]| list.iter().any(|name| case.starts_with(name));
    match command {
        "info" => starts(&never_opens),
        "check" => starts(&never_opens) && case != "l1-entries-limit",
        "map" => starts(&never_opens) || starts(&no_chain),
        _ => starts(&never_opens) || starts(&no_chain) || starts(&no_data),
    }
}

/// Every command on every image: an exit code of qemu-img's, one line when it fails (more only
/// for findings of a check), within the limits.
#[test]
fn commands_survive_malformed_images() {
    let program = backchain();
    let jobs: Vec<Case> = malformed::all();
    let failures = Mutex::new(Vec::new());
    each(jobs, |case| {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path()).unwrap();
        let image = case.image();
        let commands: [&[&str]; 5] = [
            &["info", image],
            &["info", "--backing-chain", "--output=json", image],
            &["map", "--output=json", image],
            &["check", "-f", "qcow2", image],
            &["convert", "-f", "qcow2", "-O", "qcow2", image, "out.qcow2"],
        ];
        for arguments in commands {
            let output = run(program, dir.path(), arguments);
            let problem = output.map_or(Some("time ran out".to_owned()), |output| {
                verdict(&case.name, arguments[0], &output)
            });
            if let Some(problem) = problem {
                let text = format!("{} {arguments:?}: {problem}", case.name);
                failures.lock().unwrap().push(text);
            }
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What is wrong with the way a command ended.
fn verdict(case: &str, command: &str, output: &Output) -> Option<String> {
    let error = String::from_utf8_lossy(&output.stderr);
    let Some(code) = output.status.code() else {
        return Some(format!("{}: {error}", output.status));
    };
    let lines = error.lines().count();
    if error.contains("panicked") {
        Some(error.into_owned())
    } else if !(0..=3).contains(&code) {
        Some(format!("exit code {code}: {error}"))
    } else if code == 0 && must_fail(case, command) {
        Some("it succeeded".to_owned())
    } else if code != 0 && lines == 0 {
        Some(format!("exit code {code} without a word"))
    } else if code != 0 && lines > 1 && command != "check" {
        Some(format!("more than a line: {error}"))
    } else {
        None
    }
}

/// Everything the engine can do with an image, in moderation.
fn exercise(tree: &Tree, top: NodeId) {
    for node in tree.nodes() {
        if let Ok(image) = node.image()
            && let Some(image) = image.as_qcow2()
        {
            let _ = image.snapshots(node.source.as_ref());
            let _ = image.bitmaps(node.source.as_ref());
            let _ = check(node.source.as_ref(), image, 100, &mut |_| {});
        }
    }
    let Ok(chain) = tree.chain(top) else {
        return;
    };
    let mut reader = Reader::new(chain.clone());
    let mut buffer = vec![0; 4096];
    if let Ok(extents) = chain.extents(0) {
        for extent in extents.take(2000) {
            let Ok(extent) = extent else { break };
            let _ = reader.read_at(extent.start, &mut buffer);
        }
    }
    let base = chain.layers().get(1).map(|node| node.id);
    let mut operations = vec![Operation::Pull {
        overlay: top,
        base: None,
    }];
    if let Some(base) = base {
        operations.push(Operation::Commit {
            top,
            base,
            relink: Vec::new(),
            empty_top: false,
            bitmaps: false,
            allow_broken: true,
            allow_plaintext: true,
        });
        operations.push(Operation::Rebase {
            overlay: top,
            base: chain.layers().get(2).map(|node| node.id),
            name: None,
            format: None,
            compress: false,
        });
    }
    for operation in operations {
        if let Ok(plan) = tree.plan(&operation) {
            let mut trial = Trial::new(tree, &plan.info);
            for step in plan.take(2000) {
                if step.is_err() || step.is_ok_and(|step| trial.step(step).is_err()) {
                    break;
                }
            }
            for file in trial.finish().into_values() {
                look_at(file.as_ref());
            }
        }
    }
    let mut stats = Stats::new(tree, &|_| false);
    stats.advance(2000);
    for over in [Over::Bytes, Over::Data] {
        if let Ok(mut hash) = ViewHash::new(&chain, None, over) {
            let more = (0..10).try_for_each(|_| hash.advance(100_000).map(|_| ()));
            let _ = (more, hash.digest());
        }
    }
    let goals = [
        base.map(|layer| Goal::Remove { layer, active: top }),
        Some(Goal::Shorten { top, below: 0 }),
    ];
    for goal in goals.into_iter().flatten() {
        if let Ok(mut ways) = Ways::new(tree, goal, Some("new.qcow2")) {
            ways.advance(tree, 2000);
            let _ = ways.ranked(&Preview::written).len();
        }
    }
}

/// Reads some of a file, where it says that it has something.
fn look_at(file: &dyn ReadAt) {
    let mut buffer = vec![0; 70_000];
    let mut at = 0;
    for _ in 0..50 {
        let Ok(Some(data)) = file.data_at(at) else {
            break;
        };
        assert!(data.start >= at && data.start < data.end && data.end <= file.len());
        let len = data.end.min(data.start + 70_000) - data.start;
        let _ = file.read_exact_at(data.start, &mut buffer[..to_usize(len)]);
        at = data.end;
    }
    assert!(file.read_exact_at(u64::MAX, &mut buffer).is_err());
}

/// The same images through the library, where more is tried than the commands do.
#[test]
fn the_engine_survives_malformed_images() {
    each(malformed::all(), |case| {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path()).unwrap();
        let start = Instant::now();
        let path = dir.path().join(case.image());
        let mut tree = Tree::new();
        let gate = FsGate::new(GateOptions::default());
        if let Ok(top) = tree.add(&gate, path.to_str().unwrap(), None) {
            exercise(&tree, top);
        }
        let took = start.elapsed();
        assert!(took < 3 * TIME, "{} took {took:?}", case.name);
    });
}

mod mutations {
    use super::exercise;
    use backchain::chain::MapGate;
    use backchain::{Format, Source, Tree};
    use backchain_testkit::build::strategy::{Limits, tree};
    use backchain_testkit::case::{Case, id};
    use backchain_testkit::cases;
    use backchain_tests::malformed::sound::{self, Sound, sound};
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// Small, fast, the same every time.
    struct Random(u64);
    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 11).unwrap() % limit
        }
    }

    /// Thousands of images, each a sound one with a few bytes of its metadata changed.
    #[test]
    fn the_engine_survives_changed_bytes() {
        let kinds = [
            Sound::default(),
            Sound {
                v2: true,
                ..Sound::default()
            },
            Sound {
                snapshot: true,
                ..Sound::default()
            },
            Sound {
                bitmap: true,
                snapshot: true,
                ..Sound::default()
            },
            Sound {
                zstd: true,
                ..Sound::default()
            },
        ];
        let base: Source = Arc::new(sound(Sound::default()));
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let mut opened = 0;
        for round in 0..6000 {
            let has = Sound {
                backing: (round % 3 == 0).then_some("base"),
                ..kinds[round % kinds.len()]
            };
            let mut bytes = sound(has);
            for _ in 0..=random.below(3) {
                // Mostly metadata: the data may be anything anyway.
                let at = match random.below(6) {
                    0 | 1 => random.below(160),
                    2 => sound::REFCOUNT_TABLE + random.below(16),
                    3 => sound::L1 + random.below(16),
                    4 => sound::L2 + random.below(64),
                    _ => random.below(bytes.len()),
                };
                bytes[at] = match random.below(3) {
                    0 => bytes[at] ^ 1 << random.below(8),
                    1 => [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                    _ => u8::try_from(random.below(256)).unwrap(),
                };
            }
            if random.below(16) == 0 {
                bytes.truncate(random.below(bytes.len()));
            }
            let mut gate = MapGate::default();
            gate.0.insert("image".to_owned(), Arc::new(bytes));
            gate.0.insert("base".to_owned(), Arc::clone(&base));
            let mut tree = Tree::new();
            let start = Instant::now();
            if let Ok(top) = tree.add(&gate, "image", Some(Format::Qcow2)) {
                opened += usize::from(tree.node(top).image().is_ok());
                exercise(&tree, top);
            }
            let took = start.elapsed();
            assert!(took < Duration::from_secs(5), "round {round} took {took:?}");
        }
        // Else the changes would only ever show that headers are validated.
        assert!(opened > 3000, "only {opened} images were opened");
    }

    proptest! {
        #![proptest_config(cases(150))]

        /// The same for trees of every format and feature, each file with a few changed words.
        #[test]
        fn the_engine_survives_changed_trees(spec in tree(Limits::SMALL), seed: u64) {
            let mut case = Case::build(&spec);
            let mut random = Random(seed | 1);
            for file in case.files.values_mut() {
                for _ in 0..random.below(4) {
                    let len = file.bytes().len().max(1);
                    // The first clusters hold most of the metadata.
                    let at = if random.below(2) == 0 {
                        random.below(len.min(8 << 10))
                    } else {
                        random.below(len)
                    };
                    let byte = u8::try_from(random.below(256)).unwrap();
                    if at < file.bytes().len() {
                        file.write(u64::try_from(at).unwrap(), &[byte]);
                    }
                }
            }
            let tree = case.open();
            for number in 0..case.nodes.len() {
                exercise(&tree, id(number));
            }
        }
    }
}
