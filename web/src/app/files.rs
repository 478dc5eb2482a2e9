//! How files come in: dropped, picked, or chosen in an old-fashioned file input.

use crate::js::{self, Handle};
use crate::protocol::{Access, Granted};
use js_sys::{Array, Promise};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{DataTransfer, File, FileList, HtmlAnchorElement, HtmlInputElement};

/// Deeper folders are not searched.
const MAX_DEPTH: u32 = 16;
/// A folder with more files is surely not one of disk images.
const MAX_FILES: usize = 2000;

/// What the user gave, remembered so that leave to write can be asked for later.
#[derive(Clone, Default)]
pub struct Gifts(Rc<Inner>);

#[derive(Default)]
struct Inner {
    handles: RefCell<BTreeMap<u32, Handle>>,
    next: Cell<u32>,
}

impl PartialEq for Gifts {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Gifts {
    /// Takes in a handle or a `File`.
    fn add(&self, given: JsValue, path: Option<String>) -> Granted {
        let gift = self.0.next.get();
        self.0.next.set(gift.wrapping_add(1));
        let name = js::get(&given, "name").as_string().unwrap_or_default();
        let access = match js::get(&given, "kind").as_string().as_deref() {
            Some("directory") => Access::Folder(given.clone()),
            Some("file") => Access::Handle(given.clone()),
            _ => Access::File(given.clone()),
        };
        if !matches!(access, Access::File(_)) {
            self.0
                .handles
                .borrow_mut()
                .insert(gift, given.unchecked_into());
        }
        Granted {
            gift,
            path: path.unwrap_or(name),
            access,
        }
    }

    /// Asks for leave to write to these gifts, all at once, and returns those without it. Call
    /// it inside the click, and wait for the result afterwards.
    pub fn ask(&self, gifts: &[u32]) -> impl Future<Output = Vec<u32>> + use<> {
        let handles = self.0.handles.borrow();
        let asked: Vec<_> = gifts
            .iter()
            .filter_map(|gift| Some((*gift, js::ask_to_write(handles.get(gift)?))))
            .collect();
        async move {
            let mut refused = Vec::new();
            for (gift, asked) in asked {
                let granted = match asked {
                    Some(asked) => js::permitted(asked).await,
                    None => false,
                };
                if !granted {
                    refused.push(gift);
                }
            }
            refused
        }
    }

    /// Everything in a drop. The browser empties the list when the event ends, so the handles
    /// are asked for before the first wait.
    pub fn dropped(&self, transfer: &DataTransfer) -> impl Future<Output = Vec<Granted>> + use<> {
        let items = transfer.items();
        let mut pending: Vec<(Option<Promise>, Option<JsValue>, Option<File>)> = Vec::new();
        for index in 0..items.length() {
            let Some(item) = items.get(index) else {
                continue;
            };
            if item.kind() == "file" {
                let file = item.get_as_file().ok().flatten();
                pending.push((js::dropped_handle(&item), js::dropped_entry(&item), file));
            }
        }
        let gifts = self.clone();
        async move {
            let mut granted = Vec::new();
            for (handle, entry, file) in pending {
                let handle = match handle {
                    Some(promise) => JsFuture::from(promise)
                        .await
                        .ok()
                        .filter(JsValue::is_object),
                    None => None,
                };
                let folder = entry.filter(|entry| js::get(entry, "isDirectory").is_truthy());
                match (handle, folder, file) {
                    (Some(handle), ..) => granted.push(gifts.add(handle, None)),
                    (None, Some(folder), _) => gifts.walk(folder, &mut granted).await,
                    (None, None, Some(file)) => granted.push(gifts.add(file.into(), None)),
                    (None, None, None) => {}
                }
            }
            granted
        }
    }

    /// The files in a dropped folder and in the folders in it, where there are no handles.
    async fn walk(&self, folder: JsValue, granted: &mut Vec<Granted>) {
        let mut folders = vec![(folder, 0)];
        while let Some((folder, depth)) = folders.pop() {
            let Ok(reader) = js::start(&folder, "createReader", &Array::new()) else {
                continue;
            };
            // Each call gives some; an empty list is the end. What cannot be read is not there.
            while let Ok(some) = js::call_back(&reader, "readEntries").await {
                let some: Array = some.unchecked_into();
                if some.length() == 0 {
                    break;
                }
                for entry in some.iter() {
                    let name = js::get(&entry, "name").as_string().unwrap_or_default();
                    if name.starts_with('.') {
                        continue;
                    }
                    if js::get(&entry, "isDirectory").is_truthy() {
                        if depth < MAX_DEPTH {
                            folders.push((entry, depth + 1));
                        }
                    } else if granted.len() < MAX_FILES
                        && let Ok(file) = js::call_back(&entry, "file").await
                    {
                        let path = js::get(&entry, "fullPath").as_string();
                        let path = path.map(|path| path.trim_start_matches('/').to_owned());
                        granted.push(self.add(file, path));
                    }
                }
            }
        }
    }

    /// Handles that come from somewhere else: from the desktop, or kept from another day.
    #[must_use]
    pub fn handles(&self, handles: &Array) -> Vec<Granted> {
        handles
            .iter()
            .map(|handle| self.add(handle, None))
            .collect()
    }

    /// Files through the browser's picker. `None` where it has none.
    ///
    /// # Errors
    /// Whatever the picker failed with; choosing nothing is an empty list.
    pub async fn pick_files(&self) -> Option<Result<Vec<Granted>, String>> {
        let options = js::options([("multiple", true.into()), ("id", "images".into())]);
        self.pick("showOpenFilePicker", &options).await
    }

    /// A folder through the browser's picker. `None` where it has none.
    pub async fn pick_folder(&self) -> Option<Result<Vec<Granted>, String>> {
        let options = js::options([("id", "images".into()), ("mode", "readwrite".into())]);
        self.pick("showDirectoryPicker", &options).await
    }

    async fn pick(&self, picker: &str, options: &JsValue) -> Option<Result<Vec<Granted>, String>> {
        let window: JsValue = gloo::utils::window().into();
        if !js::get(&window, picker).is_function() {
            return None;
        }
        Some(
            match js::call(&window, picker, &Array::of1(options)).await {
                Ok(picked) if Array::is_array(&picked) => Ok(Array::from(&picked)
                    .iter()
                    .map(|handle| self.add(handle, None))
                    .collect()),
                Ok(folder) => Ok(vec![self.add(folder, None)]),
                Err(error) if js::error_name(&error) == "AbortError" => Ok(Vec::new()),
                Err(error) => Err(format!(
                    "The files cannot be opened: {}",
                    js::message(&error)
                )),
            },
        )
    }

    /// Asks the user where a new file is to go. Call it inside the click, and
    /// [`Gifts::finish_target`] with what it returns.
    ///
    /// # Errors
    /// Whatever the browser says.
    pub fn start_target(&self, name: &str) -> Result<JsValue, JsValue> {
        let options = js::options([("suggestedName", name.into()), ("id", "images".into())]);
        js::start(&gloo::utils::window(), SAVE_PICKER, &Array::of1(&options))
    }

    /// The file that the user chose. `None` when none was.
    ///
    /// # Errors
    /// In words, whatever the dialog failed with.
    pub async fn finish_target(
        &self,
        started: Result<JsValue, JsValue>,
    ) -> Result<Option<Granted>, String> {
        let chosen = match started {
            Ok(promise) => JsFuture::from(Promise::resolve(&promise)).await,
            Err(error) => Err(error),
        };
        match chosen {
            Ok(handle) => Ok(Some(self.add(handle, None))),
            Err(error) if js::error_name(&error) == "AbortError" => Ok(None),
            Err(error) => Err(format!(
                "The new file cannot be made there: {}",
                js::message(&error)
            )),
        }
    }

    /// What was chosen in a file input.
    #[must_use]
    pub fn chosen(&self, input: &HtmlInputElement) -> Vec<Granted> {
        let files: Vec<File> = input.files().as_ref().map(list).unwrap_or_default();
        // So that the same files can be chosen once more.
        input.set_value("");
        files
            .into_iter()
            .map(|file| {
                let path = js::get(&file, "webkitRelativePath").as_string();
                self.add(file.into(), path.filter(|path| !path.is_empty()))
            })
            .collect()
    }
}

const SAVE_PICKER: &str = "showSaveFilePicker";

/// Whether the browser can ask where a new file is to go.
#[must_use]
pub fn can_pick_target() -> bool {
    js::get(&gloo::utils::window(), SAVE_PICKER).is_function()
}

fn list(files: &FileList) -> Vec<File> {
    (0..files.length())
        .filter_map(|index| files.get(index))
        .collect()
}

/// Has the browser save a file, in the way that works everywhere.
pub fn download(name: &str, file: &File) {
    let Ok(url) = web_sys::Url::create_object_url_with_blob(file) else {
        return;
    };
    let anchor = gloo::utils::document().create_element("a").ok();
    if let Some(anchor) = anchor.and_then(|a| a.dyn_into::<HtmlAnchorElement>().ok()) {
        anchor.set_href(&url);
        anchor.set_download(name);
        anchor.click();
    }
    // The browser holds the file by then; the address is not needed any longer.
    gloo::timers::callback::Timeout::new(60_000, move || {
        let _ = web_sys::Url::revoke_object_url(&url);
    })
    .forget();
}
