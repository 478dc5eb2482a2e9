//! The page.

use patternfly_yew::prelude::*;
use yew::prelude::*;

/// Draws the page into `#app`.
pub fn start() {
    crate::panic::install(crash_notice);
    if let Some(root) = gloo::utils::document().get_element_by_id("app") {
        root.set_inner_html("");
        yew::Renderer::<App>::with_root(root).render();
    }
}

/// Shows the notice that stands outside the app, through the script that is there before it.
fn crash_notice(message: &str) {
    let window = gloo::utils::window();
    if let Ok(function) = js_sys::Reflect::get(&window, &"backchainCrash".into())
        && let Ok(function) = wasm_bindgen::JsCast::dyn_into::<js_sys::Function>(function)
    {
        let _ = function.call1(&window, &message.into());
    }
}

#[function_component(App)]
fn app() -> Html {
    html! { <Title level={Level::H1}>{ "backchain" }</Title> }
}
