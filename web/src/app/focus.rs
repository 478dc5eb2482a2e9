//! Where the keyboard goes when the page changes: to the title of the page.

use super::route::Page;
use gloo::timers::callback::Timeout;
use wasm_bindgen::JsCast;
use web_sys::HtmlElement;
use yew::prelude::*;

/// Moves the focus to the page's title whenever another page is shown; not at the first one, and
/// not from slide to slide.
#[hook]
pub fn use_title_focus(page: &Page) {
    let page = match page {
        Page::Talk(lesson, _) => Page::Talk(lesson.clone(), 1),
        page => page.clone(),
    };
    let first = use_mut_ref(|| true);
    use_effect_with(page, move |_| {
        let first = first.replace(false);
        let timeout = (!first).then(|| Timeout::new(0, focus_title));
        move || drop(timeout)
    });
}

fn focus_title() {
    let title = gloo::utils::document()
        .query_selector("#main h1")
        .ok()
        .flatten();
    if let Some(title) = title.and_then(|title| title.dyn_into::<HtmlElement>().ok()) {
        let _ = title.set_attribute("tabindex", "-1");
        let _ = title.focus();
    }
}

/// The first stop of the keyboard, unseen until it is there: past the bar at the top.
#[function_component(SkipLink)]
pub fn skip_link() -> Html {
    // The address is the app's; following the link must not change it.
    let onclick = Callback::from(|event: MouseEvent| {
        event.prevent_default();
        focus_title();
    });
    html! {
        <div class="skip">
            <a class="pf-v6-c-button pf-m-primary" data-testid="skip" href="#main" {onclick}>{ "Skip to content" }</a>
        </div>
    }
}
