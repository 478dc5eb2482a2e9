//! Preparing the files of a case.

use super::case::Setup;
use super::tool;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

/// Does what one `setup` line says in directory `dir`; the program that it leaves running, if it
/// is one that holds an image.
pub(super) fn perform(setup: &Setup, dir: &Path) -> Result<Option<tool::Held>, String> {
    if let Setup::Hold(arguments) = setup {
        let held = tool::Held::start(arguments, dir);
        return held.map(Some).map_err(|error| format!("hold: {error}"));
    }
    if let Setup::Program {
        program,
        arguments,
        may_fail,
    } = setup
    {
        return program_ok(program, arguments, *may_fail, dir).map(|()| None);
    }
    let done = files(setup, dir);
    done.map(|()| None)
        .map_err(|error| format!("{setup:?}: {error}"))
}

fn program_ok(
    program: &str,
    arguments: &[String],
    may_fail: bool,
    dir: &Path,
) -> Result<(), String> {
    let arguments = in_dir(arguments, dir);
    let said = tool::run(Path::new(program), &arguments, dir)
        .map_err(|error| format!("{program}: {error}"))?;
    // qemu-io says so, and exits with 0.
    let failed = said.code != Some(0) || (program == "qemu-io" && said.out.contains("failed: "));
    if failed && !may_fail {
        return Err(format!("{program} {}: {said:?}", arguments.join(" ")));
    }
    Ok(())
}

fn files(setup: &Setup, dir: &Path) -> io::Result<()> {
    let path = |name: &str| dir.join(name);
    match setup {
        Setup::File(name, size, byte) => {
            let mut file = fs::File::create(path(name))?;
            match byte {
                None => file.set_len(*size),
                Some(byte) => {
                    let size = usize::try_from(*size).map_err(io::Error::other)?;
                    file.write_all(&vec![*byte; size])
                }
            }
        }
        Setup::Poke(name, offset, bytes) => {
            let file = OpenOptions::new().write(true).open(path(name))?;
            file.write_all_at(bytes, *offset)
        }
        Setup::Truncate(name, size) => {
            let file = OpenOptions::new().write(true).open(path(name))?;
            file.set_len(*size)
        }
        Setup::Copy(from, to) => copy(&path(from), &path(to)),
        Setup::Link(target, name) => {
            let target = target.replace("$DIR", &dir.to_string_lossy());
            symlink(target, path(name))
        }
        Setup::Directory(name) => fs::create_dir(path(name)),
        Setup::Remove(name) => fs::remove_file(path(name)),
        Setup::Text(name, text) => {
            fs::write(path(name), text.replace("$DIR", &dir.to_string_lossy()))
        }
        Setup::Program { .. } | Setup::Hold(_) => Ok(()),
    }
}

/// Copies a file or a directory with its holes, links and times.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let status = Command::new("cp")
        .args(["-a", "--sparse=auto"])
        .args([from, to])
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other("cp failed"))
    }
}

/// The arguments with `$DIR` replaced.
pub(super) fn in_dir(arguments: &[String], dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy();
    arguments.iter().map(|a| a.replace("$DIR", &dir)).collect()
}
