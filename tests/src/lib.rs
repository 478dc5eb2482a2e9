//! Helpers of the tests that run programs: the command `backchain` and the installed QEMU tools;
//! malformed images; and the differential suite.

pub mod damaged;
pub mod differential;
pub mod malformed;
mod memory;
pub mod soak;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// What a program said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// The program under test: what `BACKCHAIN_BIN` names, or else the one that cargo builds beside
/// the tests.
///
/// # Panics
/// When it is not there and cannot be built.
pub fn backchain() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = env::var_os("BACKCHAIN_BIN") {
            return program.into();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let built = Command::new(env!("CARGO"))
            .current_dir(&root)
            .args(["build", "--quiet", "--package", "backchain-cli"])
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the command could not be built");
        // target/debug/deps/TEST
        let test = env::current_exe().expect("tests have a path");
        let dir = test
            .ancestors()
            .nth(2)
            .expect("tests lie in target/debug/deps");
        dir.join("backchain")
    })
}

/// A directory of images, gone at the end of the test.
pub struct Dir(TempDir);

impl Dir {
    /// An empty one.
    ///
    /// # Panics
    /// When it cannot be made.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs a program in it.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Said {
        let output = Command::new(program)
            .current_dir(self.path())
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs the program under test.
    pub fn own(&self, arguments: &[&str]) -> Said {
        self.run(backchain(), arguments)
    }

    /// Runs the program under test, which has to succeed. Returns its output.
    ///
    /// # Panics
    /// When it fails.
    pub fn own_ok(&self, arguments: &[&str]) -> String {
        let said = self.own(arguments);
        assert_eq!(said.code, Some(0), "backchain {arguments:?}: {said:?}");
        said.out
    }

    /// Runs qemu-img.
    pub fn qemu(&self, arguments: &[&str]) -> Said {
        self.run(Path::new("qemu-img"), arguments)
    }

    /// Runs qemu-img, which has to succeed. Returns its output.
    ///
    /// # Panics
    /// When it fails.
    pub fn qemu_ok(&self, arguments: &[&str]) -> String {
        let said = self.qemu(arguments);
        assert_eq!(said.code, Some(0), "qemu-img {arguments:?}: {said:?}");
        said.out
    }

    /// Writes to an image with qemu-io commands like `write -P 1 0 64k`.
    ///
    /// # Panics
    /// When one of them fails.
    pub fn io(&self, format: &str, image: &str, commands: &[&str]) {
        let mut arguments = vec!["-f", format];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(image);
        let said = self.run(Path::new("qemu-io"), &arguments);
        assert_eq!(said.code, Some(0), "qemu-io {arguments:?}: {said:?}");
        assert!(!said.out.contains("failed"), "{arguments:?}: {said:?}");
    }

    /// Runs both tools with the same arguments; they have to say the same, but for their names.
    ///
    /// # Panics
    /// When they do not.
    pub fn both(&self, arguments: &[&str]) -> Said {
        let (theirs, ours) = (self.qemu(arguments), self.own(arguments));
        let theirs = Said {
            err: theirs.err.replace("qemu-img", "backchain"),
            ..theirs
        };
        assert_eq!(ours, theirs, "{arguments:?}");
        ours
    }

    /// The bytes of every file, by name.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn bytes(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.path()).expect("the directory can be listed");
        let read = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.expect("the directory can be listed");
            let bytes = fs::read(entry.path()).expect("the file can be read");
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        };
        entries.map(read).collect()
    }

    /// Whether `qemu-img check` finds nothing at all.
    ///
    /// # Panics
    /// When it finds something.
    pub fn assert_clean(&self, image: &str) {
        let said = self.qemu(&["check", "-f", "qcow2", image]);
        assert_eq!(said.code, Some(0), "check {image}: {said:?}");
    }

    /// Whether two images show the guest the same, by `qemu-img compare`.
    ///
    /// # Panics
    /// When they do not.
    pub fn assert_same(&self, image: &str, reference: &str) {
        let said = self.qemu(&["compare", image, reference]);
        assert_eq!(said.code, Some(0), "compare {image} {reference}: {said:?}");
    }

    /// The name that an image's header has for its backing file.
    ///
    /// # Panics
    /// When there is no such image.
    pub fn backing(&self, image: &str) -> Option<String> {
        let text = self.qemu_ok(&["info", "-U", "--output=json", image]);
        let info: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        Some(info.get("backing-filename")?.as_str()?.to_owned())
    }
}
