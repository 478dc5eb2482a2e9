//! The parts of the File System Access API that `web-sys` leaves out or calls unstable, and the
//! few helpers both sides need.

use js_sys::{Array, Object, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    /// `FileSystemHandle`, with its permission calls.
    #[wasm_bindgen(js_name = FileSystemHandle)]
    #[derive(Debug, Clone, PartialEq)]
    pub type Handle;

    #[wasm_bindgen(method, catch, js_name = requestPermission)]
    fn request_permission(this: &Handle, options: &JsValue) -> Result<Promise, JsValue>;

    /// `DataTransferItem`, with the call that yields a handle.
    #[wasm_bindgen(js_name = DataTransferItem)]
    type HandleItem;

    #[wasm_bindgen(method, catch, js_name = getAsFileSystemHandle)]
    fn get_as_file_system_handle(this: &HandleItem) -> Result<Promise, JsValue>;
}

/// An options object: `{ name: value, ... }`.
#[must_use]
pub fn options<const N: usize>(pairs: [(&str, JsValue); N]) -> JsValue {
    let object = Object::new();
    for (name, value) in pairs {
        // Setting a property of a fresh object cannot fail.
        let _ = Reflect::set(&object, &name.into(), &value);
    }
    object.into()
}

/// The named property, or `undefined`.
#[must_use]
pub fn get(target: &JsValue, name: &str) -> JsValue {
    Reflect::get(target, &name.into()).unwrap_or(JsValue::UNDEFINED)
}

/// Calls `target.name(...arguments)` and, if that returns a promise, waits for it.
///
/// # Errors
/// What the call throws or the promise rejects with; also when there is no such function.
pub async fn call(target: &JsValue, name: &str, arguments: &Array) -> Result<JsValue, JsValue> {
    let returned = start(target, name, arguments)?;
    match returned.dyn_into::<Promise>() {
        Ok(promise) => JsFuture::from(promise).await,
        Err(value) => Ok(value),
    }
}

/// Calls `target.name(...arguments)`.
///
/// # Errors
/// What the call throws; also when there is no such function.
pub fn start(target: &JsValue, name: &str, arguments: &Array) -> Result<JsValue, JsValue> {
    let function = get(target, name)
        .dyn_into::<js_sys::Function>()
        .map_err(|_| JsValue::from(js_sys::Error::new(&format!("this browser has no {name}()"))))?;
    function.apply(target, arguments)
}

/// Asks for leave to write. Must run inside a click; [`permitted`] tells the answer.
#[must_use]
pub fn ask_to_write(handle: &Handle) -> Option<Promise> {
    handle
        .request_permission(&options([("mode", "readwrite".into())]))
        .ok()
}

/// Asks for leave to read a handle kept from another day. Must run inside a click;
/// [`permitted`] tells the answer.
#[must_use]
pub fn ask_to_read(handle: &Handle) -> Option<Promise> {
    handle
        .request_permission(&options([("mode", "read".into())]))
        .ok()
}

/// Whether what was asked for was given.
pub async fn permitted(asked: Promise) -> bool {
    JsFuture::from(asked)
        .await
        .is_ok_and(|answer| answer == "granted")
}

/// The handle of a dropped item, where the browser has such things. Must run inside the drop.
#[must_use]
pub fn dropped_handle(item: &JsValue) -> Option<Promise> {
    item.unchecked_ref::<HandleItem>()
        .get_as_file_system_handle()
        .ok()
}

/// The entry of a dropped item, for browsers without handles: the only way into a dropped folder.
/// Must run inside the drop.
#[must_use]
pub fn dropped_entry(item: &JsValue) -> Option<JsValue> {
    start(item, "webkitGetAsEntry", &Array::new())
        .ok()
        .filter(JsValue::is_object)
}

/// Calls `target.name(success, failure)`, as interfaces older than promises want it.
///
/// # Errors
/// What the call throws or passes to `failure`.
pub async fn call_back(target: &JsValue, name: &str) -> Result<JsValue, JsValue> {
    let promise = Promise::new(&mut |resolve, reject| {
        if let Err(error) = start(target, name, &Array::of2(&resolve, &reject)) {
            let _ = reject.call1(&JsValue::UNDEFINED, &error);
        }
    });
    JsFuture::from(promise).await
}

/// Milliseconds since some moment, for measuring.
#[must_use]
pub fn now() -> f64 {
    // The same on the page and in a worker.
    let clock = get(&js_sys::global(), "performance");
    let now = start(&clock, "now", &Array::new());
    now.ok()
        .and_then(|now| now.as_f64())
        .unwrap_or_else(js_sys::Date::now)
}

/// Lets everything else that waits have its turn.
pub async fn pause() {
    let promise = Promise::new(&mut |resolve, _| {
        // Works on the page and in a worker, which have different global objects.
        let _ = start(&js_sys::global(), "setTimeout", &Array::of1(&resolve));
    });
    let _ = JsFuture::from(promise).await;
}

/// What a JavaScript error says: its message, with its name where that tells more.
#[must_use]
pub fn message(error: &JsValue) -> String {
    let text = |name| get(error, name).as_string().filter(|text| !text.is_empty());
    match (text("name"), text("message")) {
        (Some(name), Some(message)) if name != "Error" => format!("{message} ({name})"),
        (_, Some(message)) => message,
        (Some(name), None) => name,
        (None, None) => error.as_string().unwrap_or_else(|| format!("{error:?}")),
    }
}

/// The name of a JavaScript error, such as `NotAllowedError`.
#[must_use]
pub fn error_name(error: &JsValue) -> String {
    get(error, "name").as_string().unwrap_or_default()
}
