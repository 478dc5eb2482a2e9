//! A newer version of the app: offered, never forced.
//!
//! `boot.js` watches the service worker and says when one waits; the worker itself makes sure
//! that no other window still holds the old version.

use crate::js;
use gloo::events::EventListener;
use js_sys::Array;
use patternfly_yew::prelude::{Alert, AlertType};
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::spawn_local;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct UpdateNoticeProperties {
    /// An operation is running: reloading would end it.
    pub running: bool,
    /// Files are open: they will have to be opened again.
    pub open: bool,
}

#[function_component(UpdateNotice)]
pub fn update_notice(props: &UpdateNoticeProperties) -> Html {
    let ready = use_state_eq(|| false);
    {
        let ready = ready.clone();
        use_effect_with((), move |()| {
            let window = gloo::utils::window();
            let heard = ready.clone();
            let listener =
                EventListener::new(&window, "backchain-update", move |_| heard.set(true));
            // It may have been found before anybody listened.
            ready.set(js::get(&boot(), "ready").is_truthy());
            move || drop(listener)
        });
    }
    // Other windows that hold the old version, once that was asked.
    let others = use_state(|| 0_f64);
    let accept = {
        let others = others.clone();
        Callback::from(move |_: MouseEvent| {
            let others = others.clone();
            spawn_local(async move {
                let left = js::call(&boot(), "accept", &Array::new()).await;
                others.set(left.ok().and_then(|n| n.as_f64()).unwrap_or_default());
            });
        })
    };
    let later = {
        let ready = ready.clone();
        Callback::from(move |_: MouseEvent| ready.set(false))
    };
    let words = if props.running {
        "It can be loaded when the running operation is over.".to_owned()
    } else if *others > 0.0 {
        let (are, them) = match *others {
            1.0 => (
                "backchain is open in another window or tab".to_owned(),
                "it",
            ),
            n => (
                format!("backchain is open in {n} other windows or tabs"),
                "them",
            ),
        };
        format!("{are}: close {them} first, so that nothing changes under {them}.")
    } else if props.open {
        "Until you load it, everything stays as it is. The files that are open now have to be opened again.".to_owned()
    } else {
        "Until you load it, everything stays as it is.".to_owned()
    };
    html! {
        <div aria-live="polite">
            if *ready {
                <div class="update" data-testid="update">
                    <Alert inline=true r#type={AlertType::Info} title="A new version is ready">
                        <p>{ words }</p>
                        <p class="update__buttons">
                            <button
                                type="button"
                                class="pf-v6-c-button pf-m-primary pf-m-small"
                                data-testid="update-accept"
                                disabled={props.running}
                                onclick={accept}
                            >
                                { "Reload" }
                            </button>
                            <button type="button" class="pf-v6-c-button pf-m-link pf-m-small" data-testid="update-later" onclick={later}>
                                { "Later" }
                            </button>
                        </p>
                    </Alert>
                </div>
            }
        </div>
    }
}

/// What `boot.js` knows.
fn boot() -> JsValue {
    js::get(&gloo::utils::window().into(), "backchainUpdate")
}
