//! Files opened from the desktop: the system hands them to the installed app.

use super::bench::Bench;
use super::route::{Page, Route};
use crate::js;
use js_sys::Array;
use wasm_bindgen::prelude::*;
use yew::prelude::*;

/// Opens what the app was launched with, now and whenever that happens again.
#[hook]
pub fn use_launched(bench: &Bench) {
    let bench = bench.clone();
    use_effect_with((), move |()| {
        let queue = js::get(&gloo::utils::window().into(), "launchQueue");
        if !queue.is_object() {
            return;
        }
        let consumer = Closure::<dyn Fn(JsValue)>::new(move |launched: JsValue| {
            let files = js::get(&launched, "files");
            if Array::is_array(&files) && Array::from(&files).length() > 0 {
                Route::from(Page::Files).go();
                bench.open(bench.gifts.handles(&Array::from(&files)));
            }
        });
        // Launches from before this were kept for us. It stays for as long as the app does.
        let consumer = consumer.into_js_value();
        let _ = js::start(&queue, "setConsumer", &Array::of1(&consumer));
    });
}
