//! The gate to the local file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backchain::chain::{
    Denied, FormatOrigin, Gate, Granted, Locator, Node, Opening, Request, Secret,
};
use backchain::format::probe::{PROBE_BYTES, probe};
use backchain::{Format, Source};

use crate::file::{self, NativeFile};
use crate::lock::{Conflict, Locks, Permissions};

/// How an [`FsGate`] behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GateOptions {
    /// Do not look at locks: the files may be changing while they are read (`-U`).
    pub force_share: bool,
    /// Follow references found in a backing file whose format nobody recorded, as QEMU does.
    pub trust_probed: bool,
}

/// Opens local files for reading, as QEMU would: relative names start at the directory of the
/// referring image's name as it was opened. A file is open once, however many names it has.
#[derive(Default)]
pub struct FsGate {
    options: GateOptions,
    secrets: BTreeMap<String, Secret>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Keys of the files that the user named.
    named: BTreeSet<String>,
    /// Files opened so far, by key.
    open: BTreeMap<String, Opened>,
}

struct Opened {
    file: Arc<NativeFile>,
    locks: Option<Locks>,
    /// The overlay that led here first, and what it calls this file.
    found_in: Option<(String, String)>,
}

impl FsGate {
    /// A gate that has opened nothing yet.
    pub fn new(options: GateOptions) -> Self {
        Self {
            options,
            secrets: BTreeMap::new(),
            state: Mutex::default(),
        }
    }

    /// The same with passphrases, by the names that images are opened with.
    #[must_use]
    pub fn with_secrets(mut self, secrets: BTreeMap<String, Secret>) -> Self {
        self.secrets = secrets;
        self
    }

    /// Takes note that the user named the file `name`, before anything refers to it. Files that
    /// are opened without a referrer count as named anyway. Files that are not there are none.
    pub fn name(&self, name: &str) {
        if let Ok(opening) = Opening::parse(name)
            && let Some(path) = opening.path()
            && let Ok(metadata) = fs::metadata(path)
        {
            self.state().named.insert(file::key(&metadata));
        }
    }

    /// Gives up all locks, so that the same files can be locked for writing. Whoever changes
    /// them compares fingerprints under the new locks.
    pub fn release(&self) {
        for opened in self.state().open.values_mut() {
            if let Some(locks) = opened.locks.take() {
                locks.release(opened.file.file());
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to follow a link found in a file that nobody says is an image: a guest could
    /// have written it.
    fn check_trust(&self, state: &State, referrer: &Node, path: &str) -> Result<(), Denied> {
        let is_named = |key: &str| state.named.contains(key);
        if self.options.trust_probed
            || referrer.origin != FormatOrigin::Probed
            || is_named(&referrer.key)
            || fs::metadata(path).is_ok_and(|target| is_named(&file::key(&target)))
        {
            return Ok(());
        }
        let probed = referrer.probed;
        let remedy = match state.open.get(&referrer.key).map(|o| &o.found_in) {
            Some(Some((overlay, name))) => {
                format!("backchain rebase -u -F {probed} -b '{name}' '{overlay}'")
            }
            _ => format!(
                "backchain rebase -u -F {probed} -b '{}' OVERLAY",
                referrer.name
            ),
        };
        Err(Denied::NotGranted(format!(
            "it is named inside '{}', which looks like {probed} but is not recorded to be so, and \
             a guest can make its disk look like anything; name the file too, or record the \
             format: {remedy}",
            referrer.name
        )))
    }

    fn lock(&self, name: &str, file: &NativeFile) -> Result<Option<Locks>, Denied> {
        if self.options.force_share {
            return Ok(None);
        }
        let permissions = match head_format(file)? {
            Format::Raw => Permissions::READ_RAW,
            _ => Permissions::READ,
        };
        match Locks::take(file.file(), permissions) {
            Ok(locks) => Ok(Some(locks)),
            Err(Conflict::Io(error)) => Err(Denied::Io(error)),
            Err(conflict) => Err(Denied::InUse(in_use(&conflict, name))),
        }
    }
}

impl Drop for FsGate {
    /// The sources handed out may live on, and a child just being started may have their files.
    fn drop(&mut self) {
        self.release();
    }
}

impl Gate for FsGate {
    fn open(&self, request: Request<'_>) -> Result<Granted, Denied> {
        let referrer = request.referrer;
        let name = Locator::resolve(request.name, referrer.map(|node| node.name.as_str()))
            .map_err(|error| Denied::Unsupported(error.to_string()))?;
        let mut state = self.state();
        if let Some(referrer) = referrer {
            self.check_trust(&state, referrer, &name)?;
        }
        let file = NativeFile::open(Path::new(&name)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Denied::NotFound,
            _ => Denied::Io(error),
        })?;
        let key = file.key().to_owned();
        if referrer.is_none() {
            state.named.insert(key.clone());
        }
        let file = match state.open.get(&key) {
            Some(opened) => Arc::clone(&opened.file),
            None => {
                let locks = self.lock(&name, &file)?;
                let file = Arc::new(file);
                let opened = Opened {
                    file: Arc::clone(&file),
                    locks,
                    found_in: referrer.map(|node| (node.name.clone(), request.name.to_owned())),
                };
                state.open.insert(key.clone(), opened);
                file
            }
        };
        Ok(Granted {
            name,
            key,
            modified: file.modified(),
            allocated: Some(file.allocated()),
            source: file as Source,
        })
    }

    fn secret(&self, id: &str) -> Option<Secret> {
        self.secrets.get(id).cloned()
    }
}

/// QEMU's words for a file that somebody else has open.
pub(crate) fn in_use(conflict: &Conflict, name: &str) -> String {
    format!("{conflict}\nIs another process using the image [{name}]?")
}

fn head_format(file: &NativeFile) -> io::Result<Format> {
    let mut head = [0; PROBE_BYTES];
    backchain::source::read_padded(file, 0, &mut head)?;
    Ok(probe(&head))
}

/// The images found by [`find_beside`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beside {
    /// Their names: the directory as it was given, a slash, the file's own name.
    pub names: Vec<String>,
    /// Nothing was left out: the directory could be read to its end, and so could its files.
    pub complete: bool,
}

/// Entries of a directory that [`find_beside`] looks at.
const MAX_BESIDE: usize = 10_000;

/// The qcow2 images lying in the directory `dir` (`""` is the working directory), sorted: where
/// to look for images that depend on one there. Subdirectories are not searched.
pub fn find_beside(dir: &str) -> io::Result<Beside> {
    let mut found = Beside {
        names: Vec::new(),
        complete: true,
    };
    let path = if dir.is_empty() { "." } else { dir };
    for (count, entry) in fs::read_dir(path)?.enumerate() {
        let entry = entry?;
        if count >= MAX_BESIDE {
            found.complete = false;
            break;
        }
        let slash = if dir.is_empty() || dir.ends_with('/') {
            ""
        } else {
            "/"
        };
        match (is_qcow2(&entry.path()), entry.file_name().into_string()) {
            (Ok(false), _) => {}
            (Ok(true), Ok(name)) => found.names.push(format!("{dir}{slash}{name}")),
            _ => found.complete = false,
        }
    }
    found.names.sort();
    Ok(found)
}

/// Whether a path leads to a regular file with the header of a qcow2 image.
fn is_qcow2(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Ok(false),
        // A dangling symbolic link, or a file that has just gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    Ok(head_format(&NativeFile::open(path)?)? == Format::Qcow2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backchain::{ErrorKind, Link, Tree};
    use std::process::Command;

    /// Runs qemu-img in `dir`.
    fn qemu_img(dir: &Path, args: &[&str]) {
        let mut command = Command::new("qemu-img");
        let output = command.current_dir(dir).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    fn path(dir: &Path, name: &str) -> String {
        dir.join(name).to_str().unwrap().to_owned()
    }

    /// A chain `base <- mid <- top` in which nothing records that `mid` is qcow2.
    fn unlabelled() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        qemu_img(dir.path(), &["create", "-q", "-fqcow2", "base", "1M"]);
        let mid = ["create", "-q", "-fqcow2", "-bbase", "-Fqcow2", "mid"];
        qemu_img(dir.path(), &mid);
        let top = ["create", "-q", "-fqcow2", "-bmid", "-Fqcow2", "top"];
        qemu_img(dir.path(), &top);
        // qemu-img no longer makes such images: turn the label into an unknown extension.
        let mut image = fs::read(dir.path().join("top")).unwrap();
        let label = [0xe2, 0x79, 0x2a, 0xca];
        let at = image.windows(4).position(|bytes| bytes == label).unwrap();
        image[at..at + 4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
        fs::write(dir.path().join("top"), image).unwrap();
        dir
    }

    #[test]
    fn links_inside_a_file_that_only_looks_like_an_image_are_not_followed() {
        let dir = unlabelled();
        let (top, base) = (path(dir.path(), "top"), path(dir.path(), "base"));

        let gate = FsGate::default();
        let mut tree = Tree::new();
        tree.add(&gate, &top, None).unwrap();
        let mid = tree.find("mid").unwrap();
        let Link::Broken(error) = tree.link(mid) else {
            panic!("the link was followed");
        };
        assert_eq!(error.kind(), ErrorKind::NotGranted);
        let remedy = format!("backchain rebase -u -F qcow2 -b 'mid' '{top}'");
        assert!(error.message().contains(&remedy), "{error}");

        // Naming the file, or wanting QEMU's behaviour, opens it.
        let gate = FsGate::default();
        gate.name(&base);
        let mut tree = Tree::new();
        let id = tree.add(&gate, &top, None).unwrap();
        assert_eq!(tree.chain(id).unwrap().layers().len(), 3);
        let gate = FsGate::new(GateOptions {
            trust_probed: true,
            ..GateOptions::default()
        });
        let mut tree = Tree::new();
        let id = tree.add(&gate, &top, None).unwrap();
        assert_eq!(tree.chain(id).unwrap().layers().len(), 3);
    }

    #[test]
    fn two_names_of_one_file_are_one_grant() {
        let dir = unlabelled();
        std::os::unix::fs::symlink("base", dir.path().join("link")).unwrap();
        let gate = FsGate::default();
        let mut tree = Tree::new();
        let one = tree.add(&gate, &path(dir.path(), "base"), None).unwrap();
        let two = tree.add(&gate, &path(dir.path(), "link"), None).unwrap();
        assert_eq!(one, two);
        let missing = tree.add(&gate, &path(dir.path(), "none"), None);
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn images_beside_are_found_and_nothing_else_is() {
        let dir = unlabelled();
        fs::write(dir.path().join("text"), "QFI").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        let found = find_beside(dir.path().to_str().unwrap()).unwrap();
        let names = ["base", "mid", "top"].map(|name| path(dir.path(), name));
        assert_eq!(found.names, names);
        assert!(found.complete);
    }
}
