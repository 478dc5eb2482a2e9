//! Files dropped anywhere, whatever page is shown: they are opened, and the page of files comes up.

use super::bench::Bench;
use super::route::{Page, Route};
use super::window::use_drop_zone;
use wasm_bindgen_futures::spawn_local;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct DropZoneProperties {
    pub bench: Bench,
    /// The page shown now.
    pub page: Page,
}

/// Hears drops for the whole window, and says so while files are dragged over it.
#[function_component(DropZone)]
pub fn drop_zone(props: &DropZoneProperties) -> Html {
    // What hears the window is made once: it looks up here what to do.
    let latest = use_mut_ref(|| props.clone());
    *latest.borrow_mut() = props.clone();
    let dragging = use_drop_zone(Callback::from(move |transfer: web_sys::DataTransfer| {
        let DropZoneProperties { bench, page } = latest.borrow().clone();
        let granted = bench.gifts.dropped(&transfer);
        if page != Page::Files {
            Route::from(Page::Files).go();
        }
        spawn_local(async move { bench.open(granted.await) });
    }));
    if !dragging {
        return Html::default();
    }
    html! { <div class="veil" aria-hidden="true"><p>{ "Drop the files anywhere" }</p></div> }
}
