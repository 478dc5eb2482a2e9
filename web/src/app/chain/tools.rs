//! Above the tree: finding a layer, the way it is drawn, and how large.

use super::sketch::Sizing;
use crate::app::diagram::geometry::Shape;
use crate::app::diagram::viewport::{STEP, Viewport};
use crate::protocol::LayerId;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::{HtmlInputElement, HtmlSelectElement};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct ToolsProperties {
    pub summary: String,
    pub searchable: bool,
    pub field: NodeRef,
    pub filter: String,
    pub matches: Rc<Vec<LayerId>>,
    pub onfilter: Callback<String>,
    /// Brings a layer into view, and gives it the keyboard or not.
    pub onshow: Callback<(LayerId, bool)>,
    pub shape: Shape,
    pub onshape: Callback<Shape>,
    pub sizing: Sizing,
    pub onsizing: Callback<Sizing>,
    pub viewport: Rc<Viewport>,
    pub scale: f64,
}

#[function_component(Tools)]
pub fn tools(props: &ToolsProperties) -> Html {
    html! {
        <div class="tree-tools">
            <span class="tree-tools__summary" data-testid="tree-summary">{ &props.summary }</span>
            if props.searchable || !props.filter.is_empty() {
                <Find
                    field={props.field.clone()}
                    filter={props.filter.clone()}
                    matches={props.matches.clone()}
                    onfilter={props.onfilter.clone()}
                    onshow={props.onshow.clone()}
                />
            }
            <span class="push" />
            { sizing(props) }
            <span class="tree-tools__group" role="group" aria-label="Layout">
                { shape(props, Shape::Across, "Side by side", "fa-sitemap fa-rotate-270", "tree-across") }
                { shape(props, Shape::Upright, "One below the other", "fa-stream", "tree-upright") }
            </span>
            { zoom(props) }
        </div>
    }
}

fn sizing(props: &ToolsProperties) -> Html {
    let onchange = props.onsizing.reform(|event: Event| {
        let select = event
            .target()
            .and_then(|t| t.dyn_into::<HtmlSelectElement>().ok());
        let value = select.map(|select| select.value()).unwrap_or_default();
        let named = |sizing: &Sizing| sizing.words().0 == value;
        Sizing::ALL.into_iter().find(named).unwrap_or_default()
    });
    html! {
        <label class="tree-tools__sizing">
            <span>{ "Size" }</span>
            <select data-testid="tree-sizing" {onchange}>
                { for Sizing::ALL.into_iter().map(|sizing| {
                    let (name, label) = sizing.words();
                    html! { <option value={name} selected={sizing == props.sizing}>{ label }</option> }
                }) }
            </select>
        </label>
    }
}

fn shape(
    props: &ToolsProperties,
    shape: Shape,
    label: &'static str,
    icon: &'static str,
    id: &'static str,
) -> Html {
    let pressed = props.shape == shape;
    html! {
        <button
            type="button"
            class={classes!("icon-button", pressed.then_some("icon-button--pressed"))}
            aria-label={label}
            title={label}
            aria-pressed={pressed.to_string()}
            data-testid={id}
            onclick={props.onshape.reform(move |_: MouseEvent| shape)}
        >
            <i class={classes!("fas", icon)} aria-hidden="true" />
        </button>
    }
}

fn zoom(props: &ToolsProperties) -> Html {
    let on = |to: fn(&Viewport)| {
        let viewport = props.viewport.clone();
        Callback::from(move |_: MouseEvent| to(&viewport))
    };
    let button = |label: &'static str, icon: &'static str, id: &'static str, onclick| {
        html! {
            <button type="button" class="icon-button" aria-label={label} title={label} data-testid={id} {onclick}>
                <i class={classes!("fas", icon)} aria-hidden="true" />
            </button>
        }
    };
    html! {
        <span class="tree-tools__group" role="group" aria-label="Zoom">
            { button("Zoom out", "fa-search-minus", "tree-out", on(|v| v.zoom_by(1.0 / STEP, None))) }
            <button
                type="button"
                class="tree-tools__scale"
                title="Back to 100 %"
                aria-label={format!("Zoom {:.0} %, back to 100 %", props.scale * 100.0)}
                data-testid="tree-scale"
                onclick={on(|v| v.zoom_to(1.0, None))}
            >
                { format!("{:.0} %", props.scale * 100.0) }
            </button>
            { button("Zoom in", "fa-search-plus", "tree-in", on(|v| v.zoom_by(STEP, None))) }
            { button("Fit everything", "fa-expand", "tree-fit", on(|v| v.zoom_to(v.fitting(highest()), Some((0.0, 0.0))))) }
        </span>
    }
}

/// As high as the tree may get on the screen: the style says the same.
fn highest() -> f64 {
    let window = gloo::utils::window();
    let height = window.inner_height().ok().and_then(|h| h.as_f64());
    (height.unwrap_or(800.0) * 0.7).min(720.0)
}

#[derive(Clone, PartialEq, Properties)]
struct FindProperties {
    field: NodeRef,
    filter: String,
    matches: Rc<Vec<LayerId>>,
    onfilter: Callback<String>,
    onshow: Callback<(LayerId, bool)>,
}

/// The search field: matches are marked, the view moves to the first, Enter to the next.
#[function_component(Find)]
fn find(props: &FindProperties) -> Html {
    let at = use_state(|| 0_usize);
    {
        let (at, onshow) = (at.clone(), props.onshow.clone());
        use_effect_with(props.matches.clone(), move |matches| {
            at.set(0);
            if let Some(&first) = matches.first() {
                onshow.emit((first, false));
            }
        });
    }
    let oninput = props.onfilter.reform(|event: InputEvent| {
        let input = event
            .target()
            .and_then(|t| t.dyn_into::<HtmlInputElement>().ok());
        input.map(|input| input.value()).unwrap_or_default()
    });
    let onkeydown = {
        let (at, matches) = (at.clone(), props.matches.clone());
        let (onshow, onfilter) = (props.onshow.clone(), props.onfilter.clone());
        Callback::from(move |event: KeyboardEvent| {
            let count = matches.len();
            match event.key().as_str() {
                "Enter" if count > 0 => {
                    event.prevent_default();
                    let step = if event.shift_key() { count - 1 } else { 1 };
                    let next = (*at + step) % count;
                    at.set(next);
                    if let Some(&id) = matches.get(next) {
                        onshow.emit((id, false));
                    }
                }
                // From the field into the tree, to the match that is shown.
                "ArrowDown" => {
                    if let Some(&id) = matches.get(*at) {
                        event.prevent_default();
                        onshow.emit((id, true));
                    }
                }
                "Escape" => {
                    event.stop_propagation();
                    onfilter.emit(String::new());
                    if let Some(&id) = matches.get(*at) {
                        onshow.emit((id, true));
                    }
                }
                _ => {}
            }
        })
    };
    let searching = !props.filter.trim().is_empty();
    let said = match props.matches.len() {
        _ if !searching => String::new(),
        0 => "no match".to_owned(),
        n => format!("{} of {n}", *at + 1),
    };
    html! {
        <span class="tree-find" role="search">
            <i class="fas fa-search" aria-hidden="true" />
            <input
                ref={props.field.clone()}
                type="search"
                placeholder="Find a layer"
                aria-label="Find a layer by name"
                aria-keyshortcuts="/"
                data-testid="tree-find"
                autocomplete="off"
                spellcheck="false"
                value={props.filter.clone()}
                {oninput}
                {onkeydown}
            />
            <kbd aria-hidden="true">{ "/" }</kbd>
            <span class="tree-find__count" role="status" data-testid="tree-matches">{ said }</span>
        </span>
    }
}
