//! Built tools, shared between the clones of one user.
//!
//! They lie in `$XDG_CACHE_HOME/backchain-tools/NAME-VERSION/`. `.tools/` of a clone stays the
//! place they are used from. The cache only ever saves time: it may be missing, unwritable or
//! removed at any moment, and no failure here is one of the build.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use super::cargo_tools::Tool;

/// Puts the tool into `tools/bin` from the cache. Returns whether it was there.
pub(super) fn fetch(tool: &Tool, tools: &Path) -> bool {
    let Some(cached) = directory(tool) else {
        return false;
    };
    let bin = tools.join("bin");
    fs::create_dir_all(&bin).is_ok()
        && tool
            .programs
            .iter()
            .all(|program| put(&cached.join(program), &bin.join(program)))
}

/// Puts the tool from `tools/bin` into the cache where it is not there yet.
pub(super) fn keep(tool: &Tool, tools: &Path) {
    let Some(cached) = directory(tool) else {
        return;
    };
    if fs::create_dir_all(&cached).is_err() {
        return;
    }
    for program in tool.programs {
        let target = cached.join(program);
        if !target.exists() {
            put(&tools.join("bin").join(program), &target);
        }
    }
}

/// Where the cache has this tool. Programs of different machines sharing a home are apart.
fn directory(tool: &Tool) -> Option<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var_os("HOME").filter(|path| !path.is_empty())?).join(".cache"),
    };
    let name = format!("{}-{}-{}", tool.package, tool.version, env::consts::ARCH);
    Some(cache.join("backchain-tools").join(name))
}

/// Copies a program under a name of its own first, so that nobody sees half of it.
fn put(from: &Path, to: &Path) -> bool {
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".{}", process::id()));
    let partial = PathBuf::from(name);
    let done = fs::copy(from, &partial)
        .and_then(|_| fs::rename(&partial, to))
        .is_ok();
    if !done {
        let _ = fs::remove_file(&partial);
    }
    done
}
