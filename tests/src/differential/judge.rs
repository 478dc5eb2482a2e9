//! Comparing the files that two tools leave behind. The judge is always qemu-img.

use super::case::{Aspect, Case};
use super::normal::{self, Strictness};
use super::tool;
use crate::Said;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// Up to here files are compared byte by byte before anything else: equal files need no judge.
const SMALL: u64 = 64 << 20;

/// The content of larger disks is not compared.
const HUGE: u64 = 4 << 40;

/// What differs in one aspect of one file.
pub(super) struct FileDifference {
    pub(super) name: String,
    pub(super) aspect: Aspect,
    pub(super) theirs: String,
    pub(super) ours: String,
}

/// Compares all files of two directories.
pub(super) fn directories(
    case: &Case,
    theirs: &Path,
    ours: &Path,
) -> io::Result<Vec<FileDifference>> {
    let names: BTreeSet<String> = list(theirs)?.union(&list(ours)?).cloned().collect();
    let mut differences = Vec::new();
    for name in names {
        let (left, right) = (theirs.join(&name), ours.join(&name));
        let kinds = (kind(&left), kind(&right));
        if kinds.0 != kinds.1 {
            if case.judges(Aspect::Files) {
                differences.push(FileDifference {
                    name,
                    aspect: Aspect::Files,
                    theirs: kinds.0.to_owned(),
                    ours: kinds.1.to_owned(),
                });
            }
            continue;
        }
        if kinds.0 == "file" && !same_bytes(&left, &right)? {
            images(case, &name, theirs, ours, &mut differences)?;
        }
    }
    Ok(differences)
}

/// The names in a directory and in the directories in it.
fn list(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            let inner = list(&entry.path())?;
            names.extend(inner.into_iter().map(|inner| format!("{name}/{inner}")));
        }
        names.insert(name);
    }
    Ok(names)
}

fn kind(path: &Path) -> &'static str {
    match fs::symlink_metadata(path) {
        Err(_) => "not there",
        Ok(meta) if meta.is_file() => "file",
        Ok(meta) if meta.is_symlink() => "link",
        Ok(meta) if meta.is_dir() => "directory",
        Ok(_) => "something else",
    }
}

fn same_bytes(left: &Path, right: &Path) -> io::Result<bool> {
    let (a, b) = (fs::metadata(left)?.len(), fs::metadata(right)?.len());
    Ok(a == b && a <= SMALL && fs::read(left)? == fs::read(right)?)
}

/// How qemu-img is to open one file.
enum Opening {
    Format(&'static str),
    /// With the passphrase of the case.
    Encrypted(&'static str, String),
}

impl Opening {
    fn of(case: &Case, path: &Path) -> io::Result<Self> {
        let head = head(path)?;
        let is = |magic: &[u8]| head.starts_with(magic);
        let qcow2 = is(b"QFI\xfb");
        // Bytes 32 to 35 of a qcow2 header: the encryption method.
        let encrypted = qcow2 && head.get(32..36).is_some_and(|m| m != [0; 4]);
        let luks = is(b"LUKS\xba\xbe");
        Ok(match (&case.unlock, qcow2, luks) {
            (Some(secret), true, _) if encrypted => Self::Encrypted("qcow2", secret.clone()),
            (Some(secret), _, true) => Self::Encrypted("luks", secret.clone()),
            (_, true, _) => Self::Format("qcow2"),
            (_, _, true) => Self::Format("luks"),
            _ => Self::Format("raw"),
        })
    }

    fn format(&self) -> &'static str {
        match self {
            Self::Format(format) | Self::Encrypted(format, _) => format,
        }
    }

    /// `command` with the options that open `name`.
    fn arguments(&self, command: &[&str], name: &str) -> Vec<String> {
        let mut arguments: Vec<String> = command.iter().map(|&a| a.to_owned()).collect();
        match self {
            Self::Format(format) => {
                arguments.extend(["-f".to_owned(), (*format).to_owned(), name.to_owned()]);
            }
            Self::Encrypted(format, secret) => {
                let key = if *format == "qcow2" {
                    "encrypt.key-secret"
                } else {
                    "key-secret"
                };
                arguments.extend([
                    "--object".to_owned(),
                    format!("secret,id=judge,data={secret}"),
                    "--image-opts".to_owned(),
                    format!("driver={format},file.filename={name},{key}=judge"),
                ]);
            }
        }
        arguments
    }
}

/// What the header of a qcow2 file has for it.
fn virtual_size(path: &Path) -> io::Result<Option<u64>> {
    let head = head(path)?;
    let size = head.get(24..32).and_then(|bytes| bytes.try_into().ok());
    Ok(size
        .filter(|_| head.starts_with(b"QFI\xfb"))
        .map(u64::from_be_bytes))
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut head = Vec::new();
    fs::File::open(path)?.take(64).read_to_end(&mut head)?;
    Ok(head)
}

fn images(
    case: &Case,
    name: &str,
    theirs: &Path,
    ours: &Path,
    differences: &mut Vec<FileDifference>,
) -> io::Result<()> {
    let openings = (
        Opening::of(case, &theirs.join(name))?,
        Opening::of(case, &ours.join(name))?,
    );
    let mut differ = |aspect, theirs: String, ours: String| {
        if theirs != ours && case.judges(aspect) {
            differences.push(FileDifference {
                name: name.to_owned(),
                aspect,
                theirs,
                ours,
            });
        }
    };
    let views: [(Aspect, &[&str]); 3] = [
        (Aspect::Info, &["info", "-U", "--output=json"]),
        (Aspect::Map, &["map", "-U", "--output=json"]),
        (Aspect::Check, &["check", "-U", "--output=json"]),
    ];
    for (aspect, command) in views {
        if !case.judges(aspect) || (aspect == Aspect::Check && openings.0.format() != "qcow2") {
            continue;
        }
        let view = |opening: &Opening, dir| {
            let said = qemu(&opening.arguments(command, name), dir)?;
            io::Result::Ok(show(aspect, command, &said))
        };
        differ(aspect, view(&openings.0, theirs)?, view(&openings.1, ours)?);
    }
    // Walking through them takes minutes, and their maps were compared.
    let huge = virtual_size(&theirs.join(name))?.is_some_and(|size| size > HUGE);
    if case.judges(Aspect::Content) && !huge {
        let (left, right) = content(case, name, theirs, ours)?;
        differ(Aspect::Content, left, right);
        // A qcow2 file may be longer than another of the same meaning.
        if openings.0.format() != "qcow2" {
            let length = |dir: &Path| fs::metadata(dir.join(name)).map(|m| m.len());
            let text = |length: u64| format!("{length} bytes long");
            differ(Aspect::Content, text(length(theirs)?), text(length(ours)?));
        }
    }
    Ok(())
}

/// One view of an image in its comparable form.
fn show(aspect: Aspect, command: &[&str], said: &Said) -> String {
    let arguments: Vec<String> = command.iter().map(|&a| a.to_owned()).collect();
    let mut text = format!("exit code {}\n", said.code.unwrap_or(-1));
    if aspect == Aspect::Check {
        // Only what is wrong: how many clusters there are is the writer's choice.
        let json: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_default();
        for key in ["check-errors", "corruptions", "leaks"] {
            if let Some(count) = json.get(key) {
                text.push_str(&format!("{key}: {count}\n"));
            }
        }
    } else {
        text += &normal::output(&arguments, &said.out, Strictness::SameMeaning);
    }
    text + &said.err
}

/// What the guest reads: equal texts when it is the same.
fn content(case: &Case, name: &str, theirs: &Path, ours: &Path) -> io::Result<(String, String)> {
    let path = |dir: &Path| dir.join(name).to_string_lossy().into_owned();
    let (left, right) = (path(theirs), path(ours));
    let opening = Opening::of(case, &theirs.join(name))?;
    let against = |other: &str| {
        let mut arguments = match &opening {
            Opening::Format(format) => ["compare", "-U", "-f", format, "-F", format, left.as_str()]
                .map(str::to_owned)
                .into(),
            Opening::Encrypted(..) => opening.arguments(&["compare", "-U"], &left),
        };
        let other = opening.arguments(&[], other).pop();
        arguments.extend(other);
        qemu(&arguments, theirs)
    };
    let said = against(&right)?;
    let ok = "readable".to_owned();
    match said.code {
        Some(0) => Ok((ok.clone(), ok)),
        Some(1) => Ok((ok, said.out)),
        // Not even qemu-img's own result can be read: then there is nothing to compare.
        _ if against(&left)?.code != Some(0) => Ok((ok.clone(), ok)),
        _ => Ok((ok, said.err)),
    }
}

fn qemu(arguments: &[String], dir: &Path) -> io::Result<Said> {
    tool::run(Path::new("qemu-img"), arguments, dir)
}
