//! The granted files, and the gate through which the engine gets them.

use super::source::{self, Cached, size_of};
use crate::js;
use crate::protocol::{Access, Granted};
use backchain::chain::{self, Denied, Gate, Locator, Opening, Request};
use backchain::{Node, Source};
use js_sys::Array;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{File, FileSystemFileHandle};

/// One granted file.
pub struct Entry {
    pub gift: u32,
    /// Where it lies in what the user gave: `folder/sub/name`, or its name.
    pub path: String,
    /// For writing, where there is one.
    pub handle: Option<FileSystemFileHandle>,
    /// As it is now.
    pub file: File,
    pub source: Arc<Cached>,
    /// As staged changes would leave it, where they do.
    pub staged: Option<Source>,
    /// Not on the disk: a staged change makes it. Without a staged source it is gone again, and
    /// keeps its number only.
    pub planned: bool,
    /// In the origin-private file system: nobody else sees it.
    pub private: bool,
    /// Given by name, and not merely found in a given folder.
    pub named: bool,
    /// The folder it lies in, where new files can be made: `FileSystemDirectoryHandle`.
    pub folder: Option<JsValue>,
}

impl Entry {
    /// File name without folders.
    #[must_use]
    pub fn name(&self) -> &str {
        chain::file_name(&self.path)
    }

    /// Whether it can be written in its place. Gifts in `read_only` may not be.
    #[must_use]
    pub fn writable(&self, read_only: &[u32]) -> bool {
        let allowed = self.handle.is_some() && !read_only.contains(&self.gift);
        allowed || self.private || self.planned
    }

    /// It was staged and taken back: there is no such file.
    #[must_use]
    pub fn gone(&self) -> bool {
        self.planned && self.staged.is_none()
    }

    /// The bytes that are shown: those on the disk, unless changes are staged.
    #[must_use]
    pub fn now(&self) -> Source {
        self.staged.clone().unwrap_or_else(|| self.source.clone())
    }

    /// Name of the folder where new files can be put beside it.
    #[must_use]
    pub fn folder_name(&self) -> Option<String> {
        let folder = self.folder.as_ref()?;
        js::get(folder, "name").as_string()
    }
}

/// How a file came here.
pub struct Origin {
    pub gift: u32,
    pub path: String,
    pub private: bool,
    pub named: bool,
    pub folder: Option<JsValue>,
}

impl Origin {
    /// Given by name.
    #[must_use]
    pub fn named(gift: u32, path: String) -> Self {
        Self {
            gift,
            path,
            private: false,
            named: true,
            folder: None,
        }
    }
}

/// All granted files. An entry keeps its number.
#[derive(Default)]
pub struct Files(pub Vec<Entry>, Located, BTreeSet<String>);

/// Backing files that the user pointed out: for an overlay, the name in its header that this is
/// about, and the file. A link that was changed since has another name.
type Located = BTreeMap<usize, (String, usize)>;

/// The ending that Chromium gives to what it has not put in place yet.
const HALF_WRITTEN: &str = ".crswap";
/// Deeper folders are not searched.
const MAX_DEPTH: u32 = 16;
/// A folder with more files is surely not one of disk images.
const MAX_FILES: usize = 2000;

impl Files {
    /// Adds what the user gave. A file that is here already is replaced. Returns the numbers of
    /// the entries.
    ///
    /// # Errors
    /// In words for the user; what was added before stays.
    pub async fn add(&mut self, granted: Vec<Granted>) -> Result<Vec<usize>, String> {
        let mut added = Vec::new();
        for granted in granted {
            let gift = granted.gift;
            match granted.access {
                Access::Handle(handle) => {
                    let origin = Origin::named(gift, granted.path);
                    added.push(self.add_handle(origin, handle.unchecked_into()).await?);
                }
                Access::Folder(folder) => {
                    let entries = self.add_folder(gift, granted.path, folder, false);
                    added.extend(entries.await?);
                }
                Access::File(file) => {
                    let file: File = file.unchecked_into();
                    // In a folder chosen without handles, every file comes by its path.
                    let named = !granted.path.contains('/');
                    added.push(self.put(gift, granted.path, file, named)?);
                }
            }
        }
        Ok(added)
    }

    /// Files that browsers write to before they put them in place, found where images are: a
    /// browser that was stopped left them behind, or one is writing just now.
    pub fn half_written(&self) -> impl Iterator<Item = &str> {
        self.2.iter().map(String::as_str)
    }

    /// From now on `found` is the backing file of `overlay`, whose header calls it `recorded`.
    pub fn link(&mut self, overlay: usize, recorded: String, found: usize) {
        self.1.insert(overlay, (recorded, found));
    }

    /// The header's name counts again.
    pub fn unlink(&mut self, overlay: usize) {
        self.1.remove(&overlay);
    }

    /// The backing file of `node` that the user pointed out, unless its link was changed since.
    #[must_use]
    pub fn linked(&self, node: &Node) -> Option<usize> {
        let (recorded, found) = self.1.get(&self.by_key(&node.key)?)?;
        let backing = node.backing().filter(|backing| backing.name == *recorded);
        backing.map(|_| *found).filter(|&nth| nth < self.0.len())
    }

    /// Adds every file in a folder and the folders in it. Returns the numbers of the entries.
    pub async fn add_folder(
        &mut self,
        gift: u32,
        path: String,
        folder: JsValue,
        private: bool,
    ) -> Result<Vec<usize>, String> {
        let inside = format!("{path}/");
        self.2.retain(|path| !path.starts_with(&inside));
        let mut added = Vec::new();
        let mut folders = vec![(path, folder, 0)];
        while let Some((path, folder, depth)) = folders.pop() {
            let say = |e: JsValue| format!("The folder {path} cannot be read: {}", js::message(&e));
            let entries = js::call(&folder, "values", &Array::new())
                .await
                .map_err(say)?;
            loop {
                let next = js::call(&entries, "next", &Array::new())
                    .await
                    .map_err(say)?;
                if js::get(&next, "done").is_truthy() {
                    break;
                }
                let entry = js::get(&next, "value");
                let name = js::get(&entry, "name").as_string().unwrap_or_default();
                let below = format!("{path}/{name}");
                if js::get(&entry, "kind") == "directory" {
                    if depth < MAX_DEPTH && !name.starts_with('.') {
                        folders.push((below, entry, depth + 1));
                    }
                } else if name.ends_with(HALF_WRITTEN) {
                    self.2.insert(below);
                } else if !name.starts_with('.') {
                    if self.0.len() >= MAX_FILES {
                        return Err(format!(
                            "The folder holds more than {MAX_FILES} files: choose the images in it instead."
                        ));
                    }
                    let origin = Origin {
                        gift,
                        path: below,
                        private,
                        named: false,
                        folder: Some(folder.clone()),
                    };
                    added.push(self.add_handle(origin, entry.unchecked_into()).await?);
                }
            }
        }
        Ok(added)
    }

    /// Adds the file behind a handle, or replaces it. Returns its number.
    ///
    /// # Errors
    /// In words, when it cannot be read.
    pub async fn add_handle(
        &mut self,
        origin: Origin,
        handle: FileSystemFileHandle,
    ) -> Result<usize, String> {
        let path = origin.path;
        let file = current(&handle)
            .await
            .map_err(|e| format!("{path} cannot be read: {e}"))?;
        let same = self.same(&handle).await;
        let source =
            source::open(file.clone()).map_err(|e| format!("{path} cannot be read: {e}"))?;
        let entry = Entry {
            gift: origin.gift,
            path,
            handle: Some(handle),
            file,
            source,
            staged: None,
            planned: false,
            private: origin.private,
            named: origin.named,
            folder: origin.folder,
        };
        Ok(self.store(same, entry))
    }

    /// The number of the file that this handle leads to, when it is here.
    pub async fn same(&self, handle: &FileSystemFileHandle) -> Option<usize> {
        let mut same = None;
        for (nth, entry) in self.0.iter().enumerate() {
            let Some(other) = &entry.handle else { continue };
            if other.name() == handle.name() {
                let answer = JsFuture::from(other.is_same_entry(handle)).await;
                if answer.is_ok_and(|answer| answer.is_truthy()) {
                    same = Some(nth);
                }
            }
        }
        same
    }

    /// Keeps a number for a file that a staged change makes.
    ///
    /// # Errors
    /// In words, when the browser makes no empty file.
    pub fn plan(&mut self, origin: Origin) -> Result<usize, String> {
        let name = chain::file_name(&origin.path);
        let file =
            File::new_with_blob_sequence(&Array::new(), name).map_err(|e| js::message(&e))?;
        let source = source::open(file.clone()).map_err(|e| e.to_string())?;
        self.0.push(Entry {
            gift: origin.gift,
            path: origin.path,
            handle: None,
            file,
            source,
            staged: None,
            planned: true,
            private: origin.private,
            named: origin.named,
            folder: origin.folder,
        });
        Ok(self.0.len() - 1)
    }

    /// Puts an entry in the place of the one that is the same file, or at the end.
    fn store(&mut self, same: Option<usize>, entry: Entry) -> usize {
        if let Some((nth, old)) = same.and_then(|nth| Some((nth, self.0.get_mut(nth)?))) {
            let named = old.named || entry.named;
            let folder = entry.folder.clone().or_else(|| old.folder.take());
            let staged = old.staged.take();
            *old = Entry {
                named,
                folder,
                staged,
                ..entry
            };
            nth
        } else {
            self.0.push(entry);
            self.0.len() - 1
        }
    }

    fn put(&mut self, gift: u32, path: String, file: File, named: bool) -> Result<usize, String> {
        let source =
            source::open(file.clone()).map_err(|e| format!("{path} cannot be read: {e}"))?;
        let entry = Entry {
            gift,
            path,
            handle: None,
            file,
            source,
            staged: None,
            planned: false,
            private: false,
            named,
            folder: None,
        };
        let same = self
            .0
            .iter()
            .position(|old| old.handle.is_none() && !old.planned && old.path == entry.path);
        Ok(self.store(same, entry))
    }

    /// Looks at every file again: a `File` is of no use once its file has changed.
    pub async fn refresh(&mut self) {
        for entry in &mut self.0 {
            let Some(handle) = &entry.handle else {
                continue;
            };
            // A file that is gone keeps its old `File`; reading it says so.
            if let Ok(file) = current(handle).await
                && (size_of(&file), modified(&file))
                    != (size_of(&entry.file), modified(&entry.file))
                && let Ok(source) = source::open(file.clone())
            {
                entry.file = file;
                entry.source = source;
            }
        }
    }

    /// The entry the engine opened under this key.
    #[must_use]
    pub fn by_key(&self, key: &str) -> Option<usize> {
        key.parse().ok().filter(|&nth| nth < self.0.len())
    }

    /// The file a backing reference means. The whole path first; then the longest end of it, as
    /// files dropped one by one come without their folders.
    ///
    /// Within one folder every place is known, so there only the whole path counts.
    fn find(&self, wanted: &str, referrer: Option<usize>) -> Option<usize> {
        let absolute = wanted.starts_with('/');
        let wanted: Vec<&str> = parts(wanted);
        let from = referrer.and_then(|nth| self.0.get(nth));
        let referrer = from.map(|entry| parts(&entry.path)).unwrap_or_default();
        let score = |entry: &Entry| {
            let have = parts(&entry.path);
            let alike = wanted
                .iter()
                .rev()
                .zip(have.iter().rev())
                .take_while(|(a, b)| a == b)
                .count();
            let exact = alike == wanted.len() && alike == have.len();
            let together = from.is_some_and(|from| from.gift == entry.gift);
            if together && !absolute && !exact {
                return None;
            }
            let near = referrer
                .iter()
                .zip(&have)
                .take_while(|(a, b)| a == b)
                .count();
            (alike > 0).then_some((exact, alike, near))
        };
        let best = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.gone())
            .filter_map(|(nth, entry)| Some((score(entry)?, nth)));
        // Of equals the first given.
        best.max_by_key(|&(score, nth)| (score, std::cmp::Reverse(nth)))
            .map(|(_, nth)| nth)
    }
}

impl Gate for Files {
    fn open(&self, request: Request<'_>) -> Result<chain::Granted, Denied> {
        let located = request.referrer.and_then(|referrer| {
            let recorded = Opening::parse(&referrer.backing()?.name).ok()?;
            // The same header may name a data file, too.
            let backing = recorded.name() == Some(request.name);
            self.linked(referrer).filter(|_| backing)
        });
        let (nth, name) = if let Some(nth) = located {
            let path = self.0.get(nth).map(|entry| entry.path.clone());
            (nth, path.unwrap_or_default())
        } else if let Some(referrer) = request.referrer {
            // There is no working directory: what is relative to it is looked for beside.
            let name = request.name;
            let name = name.strip_prefix("file:").unwrap_or(name);
            let name = Locator::resolve(name, Some(&referrer.name))
                .map_err(|e| Denied::Unsupported(e.to_string()))?;
            let name = normal(&name);
            let nth = self
                .find(&name, self.by_key(&referrer.key))
                .ok_or_else(|| {
                    Denied::NotGranted("it is not among the files given to this page".to_owned())
                })?;
            (nth, name)
        } else {
            // The session names its own files by number.
            let nth = self.by_key(request.name).ok_or(Denied::NotFound)?;
            (
                nth,
                self.0
                    .get(nth)
                    .map(|entry| entry.path.clone())
                    .unwrap_or_default(),
            )
        };
        let entry = self.0.get(nth).ok_or(Denied::NotFound)?;
        Ok(chain::Granted {
            name,
            key: nth.to_string(),
            source: entry.now(),
            modified: modified(&entry.file),
            allocated: None,
        })
    }
}

/// Time of a file's last change in nanoseconds; browsers tell milliseconds.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "milliseconds since 1970 are whole and small"
)]
pub fn modified(file: &File) -> Option<i128> {
    Some(i128::from(file.last_modified() as i64) * 1_000_000)
}

/// The file behind a handle as it is now.
///
/// # Errors
/// In words.
pub async fn current(handle: &FileSystemFileHandle) -> Result<File, String> {
    let file = JsFuture::from(handle.get_file())
        .await
        .map_err(|e| js::message(&e))?;
    file.dyn_into()
        .map_err(|_| "the browser gave no file".to_owned())
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect()
}

/// The path without `.` and without `..` that can be resolved.
fn normal(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in parts(path) {
        if part == ".." && kept.last().is_some_and(|last| *last != "..") {
            kept.pop();
        } else {
            kept.push(part);
        }
    }
    let joined = kept.join("/");
    if path.starts_with('/') {
        format!("/{joined}")
    } else {
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::normal;
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn paths_lose_what_leads_nowhere() {
        assert_eq!(normal("dir/a/../b/./c"), "dir/b/c");
        assert_eq!(normal("../base"), "../base");
        assert_eq!(normal("/x//y"), "/x/y");
    }
}
