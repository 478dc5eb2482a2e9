//! Boxes and backing arrows, as the source document draws them.
//!
//! [`Diagram`] is a picture; [`stage::Stage`] is a large scene to walk through.

pub mod geometry;
pub mod gestures;
pub mod layout;
pub mod minimap;
pub mod stage;
pub mod viewport;

use geometry::{Room, Scene, Shape};
use layout::{Link, Place};
use std::collections::HashMap;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use web_sys::{DragEvent, Element, HtmlElement, KeyboardEvent, ResizeObserver};
use yew::prelude::*;

/// One box. The arrow goes from the overlay's box to its backing file's.
#[derive(Clone, PartialEq)]
pub struct DiagramBox {
    pub id: u32,
    pub backing: Option<u32>,
    /// Not part of what matters now: drawn beside the living chain.
    pub dim: bool,
    pub class: Classes,
    /// What it is, in words.
    pub label: AttrValue,
    pub content: Html,
    /// The hooks of a real layer: file name, name of its backing file, state.
    pub hooks: Option<[AttrValue; 3]>,
}

impl DiagramBox {
    /// What of it decides where it is drawn.
    #[must_use]
    pub fn link(&self) -> Link {
        Link {
            id: self.id,
            backing: self.backing,
            dim: self.dim,
        }
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct DiagramProperties {
    pub boxes: Rc<Vec<DiagramBox>>,
    /// Small boxes, for before and after.
    #[prop_or_default]
    pub compact: bool,
    /// Where data goes: from box to box.
    #[prop_or_default]
    pub flow: Vec<(u32, u32)>,
    #[prop_or_default]
    pub selected: Option<u32>,
    /// Chosen by click or key; without it the boxes are only pictures.
    #[prop_or_default]
    pub onselect: Option<Callback<u32>>,
    /// A box was dragged onto another one.
    #[prop_or_default]
    pub ondragonto: Callback<(u32, u32)>,
    pub label: AttrValue,
}

/// A picture of a chain.
#[function_component(Diagram)]
pub fn diagram(props: &DiagramProperties) -> Html {
    let node = use_node_ref();
    // Without the padding at both sides, which leaves room for the boxes' focus rings.
    let available = (use_width(&node) - 6.0).max(0.0);
    let links: Vec<Link> = props.boxes.iter().map(DiagramBox::link).collect();
    let places = use_memo(links.clone(), |links| layout::place(links));
    let scene = picture(
        &places,
        &links,
        available,
        props.compact,
        !props.flow.is_empty(),
    );
    let rect = |id: u32| scene.item(id).map(|item| item.rect);
    let arrows = scene.items.iter().filter_map(|item| {
        let path = scene.arrow(&item.rect, &rect(item.place.backing?)?);
        Some(html! { <path class="arrow" d={path} /> })
    });
    let flows = props.flow.iter().filter_map(|&(from, to)| {
        let (line, head) = scene.curve(&rect(from)?, &rect(to)?);
        Some(html! { <><path class="flow" d={line} /><path class="flow-head" d={head} /></> })
    });
    let closing = scene.closing.iter().filter_map(|&(from, to)| {
        let (line, head) = scene.curve(&rect(from)?, &rect(to)?);
        Some(html! { <path class="arrow arrow--loop" d={line + &head} /> })
    });
    let shown: HashMap<u32, &DiagramBox> = props.boxes.iter().map(|b| (b.id, b)).collect();
    let cards = scene.items.iter().filter_map(|item| {
        let shown = shown.get(&item.place.id)?;
        let rect = item.rect;
        let style = format!(
            "left:{:.0}px;top:{:.0}px;width:{:.0}px;height:{:.0}px",
            rect.left, rect.top, rect.width, rect.height
        );
        Some(card(props, shown, style))
    });
    let class = classes!(
        "diagram",
        props.compact.then_some("diagram--compact"),
        (scene.shape == Shape::Upright).then_some("diagram--upright"),
    );
    let size = format!("width:{:.0}px;height:{:.0}px", scene.width, scene.height);
    html! {
        <div {class} ref={node} role="group" aria-label={props.label.clone()}>
            <div class="diagram__area" style={size}>
                <svg class="diagram__lines" aria-hidden="true" width={format!("{:.0}", scene.width)} height={format!("{:.0}", scene.height)}>
                    { for arrows }
                    { for flows }
                    { for closing }
                </svg>
                { for cards }
            </div>
        </div>
    }
}

/// A picture's scene: all boxes are of one size.
fn picture(places: &[Place], links: &[Link], width: f64, compact: bool, curves: bool) -> Scene {
    let room = Room {
        width,
        compact,
        shape: None,
        curves,
        sizes: &HashMap::new(),
    };
    Scene::new(places, links, &room)
}

fn card(props: &DiagramProperties, shown: &DiagramBox, style: String) -> Html {
    let id = shown.id;
    let class = classes!(
        "layer",
        shown.class.clone(),
        (props.selected == Some(id)).then_some("layer--selected")
    );
    let Some(onselect) = props.onselect.clone().filter(|_| shown.hooks.is_some()) else {
        return html! {
            <div key={id} {class} {style} title={shown.label.clone()}>{ shown.content.clone() }</div>
        };
    };
    let [name, backing, state] = shown.hooks.clone().unwrap_or_default();
    let onclick = onselect.reform(move |_: MouseEvent| id);
    let onkeydown = Callback::from(move |event: KeyboardEvent| walk(&event));
    let ondragstart = Callback::from(move |event: DragEvent| {
        if let Some(transfer) = event.data_transfer() {
            let _ = transfer.set_data(DRAG_TYPE, &id.to_string());
            transfer.set_effect_allowed("link");
        }
    });
    let ondragover = Callback::from(|event: DragEvent| {
        if event
            .data_transfer()
            .is_some_and(|t| t.types().includes(&DRAG_TYPE.into(), 0))
        {
            event.prevent_default();
        }
    });
    let ondrop = {
        let ondragonto = props.ondragonto.clone();
        Callback::from(move |event: DragEvent| {
            let dragged = event
                .data_transfer()
                .and_then(|t| t.get_data(DRAG_TYPE).ok());
            if let Some(from) = dragged.and_then(|text| text.parse::<u32>().ok()) {
                event.prevent_default();
                if from != id {
                    ondragonto.emit((from, id));
                }
            }
        })
    };
    html! {
        <button
            key={id}
            type="button"
            {class}
            {style}
            draggable="true"
            title={shown.label.clone()}
            aria-pressed={(props.selected == Some(id)).to_string()}
            data-testid="node"
            data-name={name}
            data-backing={backing}
            data-state={state}
            {onclick}
            {onkeydown}
            {ondragstart}
            {ondragover}
            {ondrop}
        >
            { shown.content.clone() }
        </button>
    }
}

const DRAG_TYPE: &str = "application/x-backchain-layer";

/// Arrow keys go from layer to layer.
fn walk(event: &KeyboardEvent) {
    let step = match event.key().as_str() {
        "ArrowRight" | "ArrowDown" => 1,
        "ArrowLeft" | "ArrowUp" => -1,
        _ => return,
    };
    let target = event.target().and_then(|t| t.dyn_into::<Element>().ok());
    let Some(here) = target.and_then(|t| t.closest("button").ok().flatten()) else {
        return;
    };
    event.prevent_default();
    let mut at = Some(here);
    while let Some(element) = at {
        at = if step > 0 {
            element.next_element_sibling()
        } else {
            element.previous_element_sibling()
        };
        if let Some(button) = at.as_ref().filter(|e| e.tag_name() == "BUTTON") {
            if let Some(button) = button.dyn_ref::<HtmlElement>() {
                let _ = button.focus();
                button.click();
            }
            return;
        }
    }
}

/// The width an element has to draw in, kept up to date.
#[hook]
pub fn use_width(node: &NodeRef) -> f64 {
    let width = use_state(|| {
        let inner = gloo::utils::window()
            .inner_width()
            .ok()
            .and_then(|w| w.as_f64());
        inner.unwrap_or(1024.0) - 64.0
    });
    let node = node.clone();
    let state = width.clone();
    use_effect_with((), move |()| {
        let observed = node.cast::<Element>();
        let measure = {
            let observed = observed.clone();
            let mut last = 0.0;
            move || {
                let now = observed
                    .as_ref()
                    .map_or(0.0, |e| f64::from(e.client_width()));
                if now > 0.0 && (now - last).abs() >= 1.0 {
                    last = now;
                    state.set(now);
                }
            }
        };
        let closure = Closure::<dyn FnMut()>::new(measure);
        let observer = ResizeObserver::new(closure.as_ref().unchecked_ref()).ok();
        if let (Some(observer), Some(observed)) = (&observer, &observed) {
            observer.observe(observed);
        }
        move || {
            if let Some(observer) = observer {
                observer.disconnect();
            }
            drop(closure);
        }
    });
    *width
}
