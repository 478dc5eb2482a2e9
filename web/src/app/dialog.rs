//! A dialog in front of the page: the browser's own, which keeps the keys inside, closes on
//! Escape, and gives the focus back.

use crate::js;
use js_sys::Array;
use web_sys::{Element, MouseEvent as DomMouseEvent};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct DialogProperties {
    pub title: AttrValue,
    pub testid: AttrValue,
    pub onclose: Callback<()>,
    pub children: Html,
}

#[function_component(Dialog)]
pub fn dialog(props: &DialogProperties) -> Html {
    let node = use_node_ref();
    {
        let node = node.clone();
        use_effect_with((), move |()| {
            let dialog = node.cast::<Element>();
            if let Some(dialog) = &dialog {
                // A browser without it shows the dialog within the page.
                let _ = js::start(dialog, "showModal", &Array::new());
            }
            move || {
                if let Some(dialog) = dialog {
                    let _ = js::start(&dialog, "close", &Array::new());
                }
            }
        });
    }
    // Escape closes it; so does a click beside it, which hits the dialog's own element.
    let onclose = props.onclose.reform(|_: Event| ());
    let onclick = {
        let (node, onclose) = (node.clone(), props.onclose.clone());
        Callback::from(move |event: DomMouseEvent| {
            let hit = event.target().map(wasm_bindgen::JsValue::from);
            if hit.is_some() && hit == node.get().map(wasm_bindgen::JsValue::from) {
                onclose.emit(());
            }
        })
    };
    let close = props.onclose.reform(|_: MouseEvent| ());
    html! {
        <dialog ref={node} class="dialog" data-testid={props.testid.clone()} aria-labelledby="dialog-title" oncancel={onclose} {onclick}>
            <div class="dialog__body">
                <header class="panel__head">
                    <h2 id="dialog-title" class="dialog__title">{ &props.title }</h2>
                    <button type="button" class="icon-button push" aria-label="Close" data-testid="dialog-close" onclick={close}>
                        <i class="fas fa-times" aria-hidden="true" />
                    </button>
                </header>
                { props.children.clone() }
            </div>
        </dialog>
    }
}
