//! The executor on real files, with plans put together by hand.

use super::*;
use backchain::HostOffset;
use backchain::chain::Fingerprint;
use backchain::format::bytes::to_usize;
use backchain::format::qcow2::Codec;
use backchain::plan::{MetadataKind, PlanFile};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use crate::NativeFile;

const MIB: u64 = 1 << 20;

/// A directory, and the files of a plan in it.
struct Bench {
    dir: tempfile::TempDir,
    info: PlanInfo,
}

impl Bench {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            info: PlanInfo::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds an existing file with these bytes.
    fn file(&mut self, name: &str, bytes: &[u8], written: bool) -> NodeId {
        fs::write(self.path(name), bytes).unwrap();
        self.existing(name, written)
    }

    fn existing(&mut self, name: &str, written: bool) -> NodeId {
        let file = NativeFile::open(&self.path(name)).unwrap();
        let before = Fingerprint::of(&file, file.modified()).unwrap();
        self.list(name, Some(before), written)
    }

    fn list(&mut self, name: &str, before: Option<Fingerprint>, written: bool) -> NodeId {
        let node = NodeId(u32::try_from(self.info.files.len()).unwrap());
        self.info.files.push(PlanFile {
            node,
            name: self.path(name).to_str().unwrap().to_owned(),
            before,
            written,
        });
        node
    }

    fn run(&self, steps: Vec<Step>) -> Result<Report> {
        self.run_with(steps, &Options::default())
    }

    fn run_with(&self, steps: Vec<Step>, options: &Options<'_>) -> Result<Report> {
        execute_steps(&self.info, steps.into_iter().map(Ok), options)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

fn copy(from: NodeId, src: u64, to: NodeId, dst: u64, len: u64, sparse: bool) -> Step {
    Step::Copy {
        from,
        src: HostOffset(src),
        to,
        dst: HostOffset(dst),
        len,
        sparse,
    }
}

fn zero(to: NodeId, dst: u64, len: u64) -> Step {
    let dst = HostOffset(dst);
    Step::Zero { to, dst, len }
}

fn write(to: NodeId, dst: u64, bytes: &[u8]) -> Step {
    Step::Write {
        to,
        dst: HostOffset(dst),
        kind: MetadataKind::Header,
        bytes: bytes.to_vec(),
    }
}

/// Bytes that differ wherever two offsets can be mixed up.
fn pattern(len: u64, seed: u64) -> Vec<u8> {
    (0..len / 8)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).to_le_bytes())
        .collect()
}

/// Long copies are cut up and short ones put together; either way each byte must arrive at its
/// place, whatever the order in which threads get there.
#[test]
fn copies_long_and_short_arrive() {
    let mut bench = Bench::new();
    let (a, b) = (pattern(5 * MIB, 1), pattern(3 * MIB, 2));
    let from = bench.file("a", &a, false);
    let other = bench.file("b", &b, false);
    let to = bench.file("to", b"", true);
    let mut steps = vec![copy(from, 4096, to, 0, 4 * MIB + 512, false)];
    let mut expected = a[4096..][..4 * 1024 * 1024 + 512].to_vec();
    // Contiguous in the target only.
    for n in 0..100 {
        let (src, len) = ((97 - n % 97) * 8192, 8192 + n * 8);
        steps.push(copy(
            other,
            src,
            to,
            u64::try_from(expected.len()).unwrap(),
            len,
            n % 2 == 0,
        ));
        expected.extend_from_slice(&b[to_usize(src)..][..to_usize(len)]);
    }
    steps.push(Step::Seal { node: to });
    let report = bench.run(steps).unwrap();
    assert!(bench.read("to") == expected);
    assert_eq!(report.bytes, u64::try_from(expected.len()).unwrap());
    assert_eq!(report.steps, 102);
}

/// A sparse copy leaves out zeros and holes of the source, and the file is as long as if it had
/// written them.
#[test]
fn holes_and_zeros_stay_out_of_sparse_copies() {
    let mut bench = Bench::new();
    let source = fs::File::create(bench.path("from")).unwrap();
    source.set_len(64 * MIB).unwrap();
    source.write_all_at(&[7; 4096], 3 * MIB).unwrap();
    source.write_all_at(&vec![0; 1 << 20], 8 * MIB).unwrap();
    source.write_all_at(&[8; 10], 9 * MIB + 5).unwrap();
    let from = bench.existing("from", false);
    let to = bench.list("to", None, true);
    let report = bench
        .run(vec![
            Step::Create { node: to },
            copy(from, 0, to, 0, 64 * MIB, true),
            Step::Seal { node: to },
        ])
        .unwrap();
    assert!(bench.read("to") == bench.read("from"));
    assert_eq!(report.bytes, 64 * MIB);
    assert_eq!(report.written, 8192);
    assert!(fs::metadata(bench.path("to")).unwrap().blocks() * 512 <= MIB);
}

/// Bytes behind the end of a source are zeros: written ones where the target holds something.
#[test]
fn a_short_source_goes_on_with_zeros() {
    let mut bench = Bench::new();
    let from = bench.file("from", &[1; 1000], false);
    let to = bench.file("to", &[9; 20_000], true);
    let fresh = bench.list("fresh", None, true);
    bench
        .run(vec![
            copy(from, 500, to, 100, 10_000, false),
            copy(from, 5_000_000, to, 15_000, 2000, false),
            Step::Create { node: fresh },
            copy(from, 0, fresh, 0, 6000, true),
        ])
        .unwrap();
    let mut expected = vec![9; 20_000];
    expected[100..10_100].fill(0);
    expected[100..600].fill(1);
    expected[15_000..17_000].fill(0);
    assert!(bench.read("to") == expected);
    let mut expected = vec![0; 6000];
    expected[..1000].fill(1);
    assert!(bench.read("fresh") == expected);
}

/// Ranges are made zero inside the file and behind its end, where the file grows; lengths are
/// set in order with the writes around them.
#[test]
fn zeros_and_lengths() {
    let mut bench = Bench::new();
    let to = bench.file("to", &[9; 100_000], true);
    let node = to;
    let inside = vec![
        zero(to, 1000, 50_000),
        Step::Discard {
            to,
            dst: HostOffset(60_000),
            len: 5,
        },
        zero(to, 99_000, 101_000),
        Step::Sync { node },
    ];
    bench.run(inside).unwrap();
    let now = bench.read("to");
    assert_eq!(now.len(), 200_000);
    assert!(now[..1000].iter().all(|&b| b == 9) && now[1000..51_000].iter().all(|&b| b == 0));
    assert!(now[70_000..99_000].iter().all(|&b| b == 9));
    assert!(now[99_000..].iter().all(|&b| b == 0));

    bench.info.files.clear();
    let to = bench.existing("to", true);
    let lengths = vec![
        write(to, 300_000, b"gone"),
        Step::SetLen { to, len: 10 },
        write(to, 12, b"stays"),
        Step::SetLen { to, len: 20 },
    ];
    bench.run(lengths).unwrap();
    assert_eq!(
        bench.read("to"),
        b"\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\0\0stays\0\0\0"
    );
}

#[test]
fn packed_clusters_are_unpacked_and_damage_is_located() {
    let mut bench = Bench::new();
    let cluster = pattern(65536, 3);
    // Stored, not compressed: a deflate block of up to 65535 bytes needs no encoder.
    let mut packed = Vec::new();
    for (last, part) in [(0, &cluster[..40_000]), (1, &cluster[40_000..])] {
        let len = u16::try_from(part.len()).unwrap();
        packed.push(last);
        packed.extend(len.to_le_bytes());
        packed.extend((!len).to_le_bytes());
        packed.extend(part);
    }
    let mut image = vec![0xff; 700];
    image.extend(&packed);
    let from = bench.file("from", &image, false);
    let to = bench.file("to", b"", true);
    let step = |src, skip, take| Step::Inflate {
        from,
        src: HostOffset(src),
        len: 70_000,
        codec: Codec::Zlib,
        cluster: 65536,
        skip,
        take,
        to,
        dst: HostOffset(skip),
    };
    bench
        .run(vec![step(700, 0, 30_000), step(700, 30_000, 35_536)])
        .unwrap();
    assert!(bench.read("to") == cluster);
    bench.info.files.pop();
    let to = bench.existing("to", true);
    assert_eq!(to, NodeId(1));
    for src in [1, 1 << 40] {
        let error = bench.run(vec![step(src, 0, 512)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains(&format!("byte {src}")), "{error}");
        assert!(error.file().unwrap().ends_with("from"));
    }
}

/// Whatever changed since the plan was made, in whichever file, nothing is written.
#[test]
fn changed_files_stop_the_run_before_the_first_write() {
    for change in 0..3 {
        let mut bench = Bench::new();
        let to = bench.file("to", &[1; 5000], true);
        let from = bench.file("from", &[2; 5000], false);
        let file = fs::OpenOptions::new()
            .write(true)
            .open(bench.path("from"))
            .unwrap();
        match change {
            0 => file.set_len(5001).unwrap(),
            1 => file.write_all_at(&[3], 4000).unwrap(),
            _ => file
                .set_modified(std::time::SystemTime::UNIX_EPOCH)
                .unwrap(),
        }
        let error = bench
            .run(vec![write(to, 0, b"x"), copy(from, 0, to, 10, 10, false)])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed);
        assert!(error.file().unwrap().ends_with("from"));
        assert_eq!(bench.read("to"), [1; 5000]);
    }
}

#[test]
fn new_files_replace_others_only_when_allowed_and_never_their_own_sources() {
    let mut bench = Bench::new();
    let from = bench.file("from", &[2; 5000], false);
    fs::write(bench.path("old"), [1; 9000]).unwrap();
    let new = bench.list("old", None, true);
    let steps = || {
        vec![
            Step::Create { node: new },
            copy(from, 0, new, 0, 5000, true),
            Step::Seal { node: new },
        ]
    };
    let error = bench.run(steps()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(bench.read("old"), [1; 9000]);
    let overwrite = Options {
        overwrite: true,
        ..Options::default()
    };
    bench.run_with(steps(), &overwrite).unwrap();
    assert_eq!(bench.read("old"), [2; 5000]);

    fs::remove_file(bench.path("old")).unwrap();
    fs::hard_link(bench.path("from"), bench.path("old")).unwrap();
    bench.info.files.remove(0);
    bench.existing("from", false);
    bench.info.files[1].node = NodeId(0);
    bench.info.files[0].node = NodeId(1);
    let error = bench.run_with(steps(), &overwrite).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(bench.read("from"), [2; 5000]);
}

/// A stop comes through while steps keep coming, what was being made is removed, and nothing
/// behind the stop is done.
#[test]
fn a_stop_ends_the_run_between_steps() {
    let mut bench = Bench::new();
    let from = bench.file("from", &pattern(MIB, 4), false);
    let to = bench.list("to", None, true);
    let cancel = AtomicBool::new(false);
    let calls = Cell::new(0);
    let progress = |_: Progress| calls.set(calls.get() + 1);
    let options = Options {
        cancel: Some(&cancel),
        progress: Some(&progress),
        ..Options::default()
    };
    let mut made = 0;
    let steps = std::iter::once(Step::Create { node: to }).chain((0..1_000_000).map(|n| {
        made = n;
        if n == 500 {
            cancel.store(true, Ordering::Relaxed);
        }
        copy(from, 0, to, n % 64 * MIB, MIB, false)
    }));
    let error = execute_steps(&bench.info, steps.map(Ok), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(made, 500);
    assert!(!bench.path("to").exists());
}

/// An error of a worker is reported once, with the file and the offset, and so is an error of
/// the plan itself.
#[test]
fn errors_name_file_and_offset() {
    let mut bench = Bench::new();
    let from = bench.file("from", &[1; 100], false);
    let to = bench.file("to", &[2; 100], true);
    // The file was opened for reading only.
    let error = bench.run(vec![write(from, 64, b"x")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.message().contains("1 bytes at offset 64"), "{error}");
    assert!(error.file().unwrap().ends_with("from"));
    let steps = [
        Ok(write(to, 0, b"x")),
        Err(Error::new(ErrorKind::Corrupt, "a bad table")),
    ];
    let error = execute_steps(&bench.info, steps, &Options::default()).unwrap_err();
    assert_eq!(error.message(), "a bad table");
    let error = bench.run(vec![zero(NodeId(77), 0, 1)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
