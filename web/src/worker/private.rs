//! The worker's own folder in the origin-private file system.
//!
//! All tabs of a site, and all workers of a tab, share that file system. Each worker has a
//! folder of its own there, whose name is a web lock that it holds for as long as it lives: a
//! folder whose lock nobody holds was left behind.

use super::source;
use crate::js;
use js_sys::{Array, Promise};
use std::cell::{Cell, RefCell};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::FileSystemFileHandle;

/// What the names of all such folders, and of their locks, begin with.
const PREFIX: &str = "session-";

/// Folder for results to be saved.
const RESULTS: &str = "results";
/// Folder for new files that are layers.
const MADE: &str = "made";

thread_local! {
    /// Number of results so far.
    static COUNT: Cell<u32> = const { Cell::new(0) };
    /// The name of this worker's folder, once it is locked.
    static NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A file for a result that the user is to save. It lasts until [`forget_results`], whatever
/// other results are called.
///
/// # Errors
/// As [`scratch`].
pub async fn result(name: &str) -> Result<FileSystemFileHandle, String> {
    let count = COUNT.get().wrapping_add(1);
    COUNT.set(count);
    let results = private_folder(RESULTS).await.map_err(say)?;
    let own = folder(&results, &count.to_string()).await.map_err(say)?;
    make(&own, name).await
}

/// A file that becomes one of the layers. It lasts as long as the worker.
///
/// # Errors
/// As [`scratch`].
pub async fn made(name: &str) -> Result<FileSystemFileHandle, String> {
    let count = COUNT.get().wrapping_add(1);
    COUNT.set(count);
    scratch(MADE, &format!("{count}-{name}")).await
}

/// Removes all results.
pub async fn forget_results() {
    forget_folder(RESULTS).await;
}

/// A new file in a folder of the worker's own.
///
/// # Errors
/// In words, where the browser has no such file system.
pub async fn scratch(folder: &str, name: &str) -> Result<FileSystemFileHandle, String> {
    make(&private_folder(folder).await.map_err(say)?, name).await
}

async fn make(folder: &JsValue, name: &str) -> Result<FileSystemFileHandle, String> {
    let create = Array::of2(&name.into(), &create());
    let file = js::call(folder, "getFileHandle", &create).await;
    Ok(file.map_err(say)?.unchecked_into())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn say(error: JsValue) -> String {
    format!(
        "The browser's own storage cannot be used: {}",
        js::message(&error)
    )
}

/// A folder in the worker's own one, made if need be.
///
/// # Errors
/// Whatever the browser says.
pub async fn private_folder(name: &str) -> Result<JsValue, JsValue> {
    let own = own_name().await?;
    let own = folder(&root().await?, &own).await?;
    folder(&own, name).await
}

/// Bytes that can still be stored, as the browser estimates it.
pub async fn room() -> Option<u64> {
    let storage = scope().navigator().storage();
    let estimate = JsFuture::from(storage.estimate().ok()?).await.ok()?;
    let bytes = |name| js::get(&estimate, name).as_f64().map(source::whole);
    Some(bytes("quota")?.saturating_sub(bytes("usage")?))
}

/// Removes a folder in the worker's own one with all that is in it.
pub async fn forget_folder(name: &str) {
    let Ok(own) = own_name().await else { return };
    if let Ok(root) = root().await
        && let Ok(own) = folder(&root, &own).await
    {
        remove(&own, name).await;
    }
}

/// Removes the folders that other workers left behind: those of tabs that were closed.
pub async fn forget_abandoned() {
    // The folders first: whoever has one got its lock before.
    let Ok(root) = root().await else { return };
    let Ok(folders) = names(&root).await else {
        return;
    };
    let Some(held) = held().await else { return };
    for folder in folders {
        if folder.starts_with(PREFIX) && !held.contains(&folder) {
            remove(&root, &folder).await;
        }
    }
}

/// Takes over the folder of a worker that is no more. Somebody else holds its lock meanwhile.
pub fn adopt(name: String) {
    NAME.set(Some(name));
}

/// The name of this worker's folder, which it holds from then on.
///
/// # Errors
/// Whatever the browser says.
pub async fn own_name() -> Result<String, JsValue> {
    if let Some(name) = NAME.with_borrow(Clone::clone) {
        return Ok(name);
    }
    let (now, random) = (js_sys::Date::now(), js_sys::Math::random());
    let name = format!("{PREFIX}{now}-{random}");
    hold(&name).await;
    // Somebody may have been quicker; one folder is enough.
    Ok(NAME.with_borrow_mut(|known| known.get_or_insert(name).clone()))
}

/// Takes a lock, for as long as the worker lives. Where there are no locks, nothing is removed,
/// either.
async fn hold(name: &str) {
    let locks = locks();
    let (tell, told) = deferred();
    let held = Closure::once_into_js(move |_lock: JsValue| {
        let _ = tell.call0(&JsValue::UNDEFINED);
        // Never resolved: the lock is kept.
        Promise::new(&mut |_, _| {})
    });
    if js::start(&locks, "request", &Array::of2(&name.into(), &held)).is_ok() {
        let _ = JsFuture::from(told).await;
    }
}

/// A promise, and the function that fulfils it.
fn deferred() -> (js_sys::Function, Promise) {
    let resolve = Cell::new(None);
    let promise = Promise::new(&mut |fulfil, _| resolve.set(Some(fulfil)));
    // The function above has run by now.
    let resolve = resolve
        .take()
        .unwrap_or_else(|| js_sys::Function::new_no_args(""));
    (resolve, promise)
}

/// The names of all locks that are held.
async fn held() -> Option<Vec<String>> {
    let state = js::call(&locks(), "query", &Array::new()).await.ok()?;
    let held = Array::from(&js::get(&state, "held"));
    let names = held.iter();
    Some(
        names
            .filter_map(|lock| js::get(&lock, "name").as_string())
            .collect(),
    )
}

fn locks() -> JsValue {
    js::get(&js::get(&js_sys::global(), "navigator"), "locks")
}

async fn names(folder: &JsValue) -> Result<Vec<String>, JsValue> {
    let mut names = Vec::new();
    let keys = js::call(folder, "keys", &Array::new()).await?;
    loop {
        let next = js::call(&keys, "next", &Array::new()).await?;
        if js::get(&next, "done").is_truthy() {
            return Ok(names);
        }
        names.extend(js::get(&next, "value").as_string());
    }
}

async fn remove(folder: &JsValue, name: &str) {
    let all = js::options([("recursive", true.into())]);
    // Nothing there is as good.
    let _ = js::call(folder, "removeEntry", &Array::of2(&name.into(), &all)).await;
}

async fn folder(parent: &JsValue, name: &str) -> Result<JsValue, JsValue> {
    js::call(
        parent,
        "getDirectoryHandle",
        &Array::of2(&name.into(), &create()),
    )
    .await
}

fn create() -> JsValue {
    js::options([("create", true.into())])
}

async fn root() -> Result<JsValue, JsValue> {
    JsFuture::from(scope().navigator().storage().get_directory()).await
}

fn scope() -> web_sys::WorkerGlobalScope {
    js_sys::global().unchecked_into()
}
