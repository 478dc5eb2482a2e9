//! Where handles are kept for another day: IndexedDB, which alone can store them.

use crate::js::{self, Handle};
use js_sys::{Array, Date, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

const DATABASE: &str = "backchain";
const STORE: &str = "recent";
/// More are not kept.
const MOST: usize = 12;

/// What was opened in one go.
#[derive(Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) id: f64,
    pub(super) handles: Vec<Handle>,
    /// When it was opened last, in milliseconds since 1970.
    pub(super) opened: f64,
}

impl Entry {
    /// The name of the first file, or of the folder.
    #[must_use]
    pub(super) fn name(&self) -> String {
        self.handles.first().map(name_of).unwrap_or_default()
    }

    #[must_use]
    pub(super) fn is_folder(&self) -> bool {
        let kind = self.handles.first().map(|handle| js::get(handle, "kind"));
        kind.is_some_and(|kind| kind == "directory")
    }
}

fn name_of(handle: &Handle) -> String {
    js::get(handle, "name").as_string().unwrap_or_default()
}

/// All entries, the latest first. None where the browser refuses.
pub(super) async fn list() -> Vec<Entry> {
    let Ok(found) = with(|store| js::start(store, "getAll", &Array::new())).await else {
        return Vec::new();
    };
    let mut entries: Vec<Entry> = Array::from(&found)
        .iter()
        .map(|record| Entry {
            id: js::get(&record, "id").as_f64().unwrap_or_default(),
            handles: Array::from(&js::get(&record, "handles"))
                .iter()
                .map(JsCast::unchecked_into)
                .collect(),
            opened: js::get(&record, "opened").as_f64().unwrap_or_default(),
        })
        .collect();
    entries.sort_by(|a, b| b.opened.total_cmp(&a.opened));
    entries
}

/// Keeps what was opened in one go, as the latest.
pub(super) async fn keep(handles: Vec<Handle>) {
    let mut rest = Vec::new();
    for entry in list().await {
        if same(&entry.handles, &handles).await {
            forget(entry.id).await;
        } else {
            rest.push(entry);
        }
    }
    for old in rest.iter().skip(MOST - 1) {
        forget(old.id).await;
    }
    let record = js::options([
        ("handles", handles.iter().collect::<Array>().into()),
        ("opened", Date::now().into()),
    ]);
    // A browser that refuses to keep it keeps nothing.
    let _ = with(|store| js::start(store, "add", &Array::of1(&record))).await;
}

pub(super) async fn forget(id: f64) {
    let _ = with(|store| js::start(store, "delete", &Array::of1(&id.into()))).await;
}

pub(super) async fn forget_all() {
    let _ = with(|store| js::start(store, "clear", &Array::new())).await;
}

/// Whether these are the same files in the same order.
async fn same(some: &[Handle], others: &[Handle]) -> bool {
    if some.len() != others.len() {
        return false;
    }
    for (one, other) in some.iter().zip(others) {
        if name_of(one) != name_of(other) {
            return false;
        }
        let answer = js::call(one, "isSameEntry", &Array::of1(other)).await;
        if !answer.is_ok_and(|answer| answer.is_truthy()) {
            return false;
        }
    }
    true
}

/// Does one thing with the store, and waits until it is done.
async fn with(act: impl FnOnce(&JsValue) -> Result<JsValue, JsValue>) -> Result<JsValue, JsValue> {
    let factory = js::get(&js_sys::global(), "indexedDB");
    let open = js::start(&factory, "open", &Array::of2(&DATABASE.into(), &1.into()))?;
    let made = open.clone();
    let make = Closure::once_into_js(move || {
        let options = js::options([("keyPath", "id".into()), ("autoIncrement", true.into())]);
        let arguments = Array::of2(&STORE.into(), &options);
        let _ = js::start(&js::get(&made, "result"), "createObjectStore", &arguments);
    });
    Reflect::set(&open, &"onupgradeneeded".into(), &make)?;
    let database = settled(&open).await?;
    let arguments = Array::of2(&STORE.into(), &"readwrite".into());
    let result = match js::start(&database, "transaction", &arguments)
        .and_then(|change| js::start(&change, "objectStore", &Array::of1(&STORE.into())))
        .and_then(|store| act(&store))
    {
        Ok(request) => settled(&request).await,
        Err(error) => Err(error),
    };
    js::start(&database, "close", &Array::new())?;
    result
}

/// What a request of IndexedDB comes to.
async fn settled(request: &JsValue) -> Result<JsValue, JsValue> {
    let promise = Promise::new(&mut |resolve, reject| {
        // Setting a handler cannot fail.
        let _ = Reflect::set(request, &"onsuccess".into(), &resolve);
        let _ = Reflect::set(request, &"onerror".into(), &reject);
    });
    let event = JsFuture::from(promise).await?;
    Ok(js::get(&js::get(&event, "target"), "result"))
}
