//! A scene one can walk through: only what is seen is in the document.

use super::geometry::{Item, Scene, Shape, Step};
use super::viewport::{STEP, Viewport, Window, area_style, sizer_style};
use std::collections::HashSet;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::{DragEvent, Element, KeyboardEvent};
use yew::prelude::*;

/// How a box looks. Made when it is drawn, and not before.
pub struct Card {
    pub class: Classes,
    /// What it is, in words: what a screen reader says after what is written in the box.
    pub label: AttrValue,
    pub content: Html,
    /// The hooks of a real layer: file name, name of its backing file, state.
    pub hooks: Option<[AttrValue; 3]>,
}

#[derive(Clone, PartialEq, Properties)]
pub struct StageProperties {
    pub scene: Rc<Scene>,
    pub viewport: Rc<Viewport>,
    pub window: Window,
    pub label: AttrValue,
    pub card: Callback<u32, Option<Card>>,
    pub selected: Option<u32>,
    /// The box that has the keyboard, and a number that changes when it must be focused.
    pub cursor: (Option<u32>, u32),
    /// Boxes that belong together now: their arrows are drawn strongly.
    #[prop_or_default]
    pub lit: Rc<HashSet<u32>>,
    /// Drawn although not seen: the one that is being moved.
    pub kept: Option<u32>,
    pub onselect: Callback<u32>,
    pub oncursor: Callback<u32>,
    /// A box is being dragged, or not any more.
    pub ondrag: Callback<Option<u32>>,
    /// A box was dragged onto another one.
    pub ondragonto: Callback<(u32, u32)>,
    /// Something else was dropped on a box. Whether it was taken.
    pub ondrop: Callback<(u32, DragEvent), bool>,
}

/// So many boxes are drawn at once, seen or not.
const FEW: usize = 40;

#[function_component(Stage)]
pub fn stage(props: &StageProperties) -> Html {
    let scene = &props.scene;
    let rect = props.window.rect;
    let few = scene.items.len() <= FEW;
    let (cursor, serial) = props.cursor;
    let cursor = cursor.filter(|&id| scene.item(id).is_some());
    let tab = cursor.or_else(|| scene.items.first().map(|item| item.place.id));
    {
        let viewport = props.viewport.clone();
        use_effect_with((cursor, serial), move |&(cursor, serial)| {
            if let Some(id) = cursor.filter(|_| serial > 0) {
                viewport.focus(id);
            }
        });
    }

    let drawn = |item: &&Item| {
        let id = item.place.id;
        few || item.rect.meets(&rect) || Some(id) == tab || Some(id) == props.kept
    };
    let cards = scene
        .items
        .iter()
        .filter(drawn)
        .filter_map(|item| Some(card(props, item, props.card.emit(item.place.id)?, tab)));

    let click = {
        let (onselect, oncursor) = (props.onselect.clone(), props.oncursor.clone());
        Callback::from(move |event: MouseEvent| {
            if let Some(id) = box_of(&event) {
                oncursor.emit(id);
                onselect.emit(id);
            }
        })
    };
    let (ondragstart, ondragover, ondragend, ondrop) = dragging(props);
    let (width, height) = (scene.width, scene.height);
    let scale = props.window.scale;
    let level = match scale {
        _ if scale >= 0.55 => "near",
        _ if scale >= 0.26 => "far",
        _ => "farthest",
    };
    html! {
        <div
            ref={props.viewport.frame.clone()}
            class="stage"
            role="tree"
            aria-label={props.label.clone()}
            data-testid="tree"
            onkeydown={keys(props, tab)}
        >
            <div ref={props.viewport.sizer.clone()} class="stage__sizer" role="presentation" style={sizer_style(width, height, scale)}>
                <div
                    ref={props.viewport.area.clone()}
                    class={classes!(
                        "stage__area",
                        (scene.shape == Shape::Upright).then_some("stage__area--upright"),
                        (!props.lit.is_empty()).then_some("stage__area--lit"),
                    )}
                    role="presentation"
                    data-level={level}
                    data-scale={format!("{scale:.3}")}
                    style={area_style(width, height, scale)}
                    onclick={click}
                    {ondragstart} {ondragover} {ondragend} {ondrop}
                >
                    { lines(props) }
                    { for cards }
                </div>
            </div>
        </div>
    }
}

/// The arrows that cross the window, as few shapes.
fn lines(props: &StageProperties) -> Html {
    let scene = &props.scene;
    let window = props.window.rect;
    let (mut plain, mut lit, mut looped) = (String::new(), String::new(), String::new());
    for item in &scene.items {
        let Some(below) = item.place.backing.and_then(|id| scene.item(id)) else {
            continue;
        };
        if item.rect.with(&below.rect).meets(&window) {
            let strong = props.lit.contains(&item.place.id) && props.lit.contains(&below.place.id);
            let path = if strong { &mut lit } else { &mut plain };
            path.push_str(&scene.arrow(&item.rect, &below.rect));
        }
    }
    for (from, to) in &scene.closing {
        if let (Some(from), Some(to)) = (scene.item(*from), scene.item(*to)) {
            let (line, head) = scene.curve(&from.rect, &to.rect);
            looped.push_str(&line);
            looped.push_str(&head);
        }
    }
    html! {
        <svg class="diagram__lines" aria-hidden="true" width={format!("{:.0}", scene.width)} height={format!("{:.0}", scene.height)}>
            <path class="arrow" d={plain} />
            <path class="arrow arrow--lit" d={lit} />
            <path class="arrow arrow--loop" d={looped} />
        </svg>
    }
}

fn card(props: &StageProperties, item: &Item, card: Card, tab: Option<u32>) -> Html {
    let id = item.place.id;
    let selected = props.selected == Some(id);
    let rect = item.rect;
    let style = format!(
        "left:{:.0}px;top:{:.0}px;width:{:.0}px;height:{:.0}px",
        rect.left, rect.top, rect.width, rect.height
    );
    let low = match props.scene.shape {
        Shape::Across => rect.height < 112.0,
        Shape::Upright => rect.height < 76.0,
    };
    let class = classes!(
        "layer",
        card.class,
        selected.then_some("layer--selected"),
        low.then_some("layer--low"),
    );
    let real = card.hooks.is_some();
    let [name, backing, state] = card.hooks.unwrap_or_default();
    html! {
        <div
            key={id}
            {class}
            {style}
            role="treeitem"
            tabindex={if tab == Some(id) { "0" } else { "-1" }}
            draggable={if real { "true" } else { "false" }}
            title={card.label}
            aria-selected={selected.to_string()}
            aria-level={(item.place.depth + 1).to_string()}
            aria-posinset={item.sibling.0.to_string()}
            aria-setsize={item.sibling.1.to_string()}
            data-id={id.to_string()}
            data-testid={if real { "node" } else { "ghost" }}
            data-name={name}
            data-backing={backing}
            data-state={state}
        >
            { card.content }
        </div>
    }
}

/// The box an event happened in, unless it was meant for a button in it.
pub fn box_of(event: &Event) -> Option<u32> {
    let target = event.target()?.dyn_into::<Element>().ok()?;
    let button = target.closest("button, a, input").ok().flatten();
    if button.is_some() {
        return None;
    }
    let found = target.closest("[data-id]").ok().flatten()?;
    found.get_attribute("data-id")?.parse().ok()
}

const DRAG_TYPE: &str = "application/x-backchain-layer";

type Drag = Callback<DragEvent>;

fn dragging(props: &StageProperties) -> (Drag, Drag, Drag, Drag) {
    let start = {
        let ondrag = props.ondrag.clone();
        Callback::from(move |event: DragEvent| {
            if let (Some(id), Some(transfer)) = (box_of(&event), event.data_transfer()) {
                let _ = transfer.set_data(DRAG_TYPE, &id.to_string());
                transfer.set_effect_allowed("link");
                ondrag.emit(Some(id));
            }
        })
    };
    let over = Callback::from(|event: DragEvent| {
        let layer = event
            .data_transfer()
            .is_some_and(|t| t.types().includes(&DRAG_TYPE.into(), 0));
        if layer && box_of(&event).is_some() {
            event.prevent_default();
        }
    });
    let end = {
        let ondrag = props.ondrag.clone();
        Callback::from(move |_: DragEvent| ondrag.emit(None))
    };
    let drop = {
        let (onto, other) = (props.ondragonto.clone(), props.ondrop.clone());
        Callback::from(move |event: DragEvent| {
            let Some(id) = box_of(&event) else { return };
            let dragged = event
                .data_transfer()
                .and_then(|t| t.get_data(DRAG_TYPE).ok());
            if let Some(from) = dragged.and_then(|text| text.parse::<u32>().ok()) {
                event.prevent_default();
                if from != id {
                    onto.emit((from, id));
                }
            } else if other.emit((id, event.clone())) {
                // Whoever takes files dropped anywhere sees by this that these are taken.
                event.prevent_default();
            }
        })
    };
    (start, over, end, drop)
}

/// Arrow keys walk, Enter chooses, plus and minus zoom.
fn keys(props: &StageProperties, tab: Option<u32>) -> Callback<KeyboardEvent> {
    let (scene, viewport) = (props.scene.clone(), props.viewport.clone());
    let (onselect, oncursor) = (props.onselect.clone(), props.oncursor.clone());
    Callback::from(move |event: KeyboardEvent| {
        if event.ctrl_key() || event.alt_key() || event.meta_key() {
            return;
        }
        let Some(here) = box_of(&event).or(tab) else {
            return;
        };
        if box_of(&event).is_none() && event.key() != "Tab" && on_control(&event) {
            return;
        }
        let upright = scene.shape == Shape::Upright;
        let to = match event.key().as_str() {
            "ArrowRight" => scene.neighbour(here, Step::Overlay),
            "ArrowLeft" => scene.neighbour(here, Step::Backing),
            "ArrowDown" => scene.neighbour(here, Step::Down),
            "ArrowUp" => scene.neighbour(here, Step::Up),
            "Home" if event.shift_key() => scene.items.first().map(|item| item.place.id),
            "End" if event.shift_key() => scene.items.last().map(|item| item.place.id),
            "Home" => scene.neighbour(here, Step::Base),
            "End" => scene.neighbour(here, Step::Tip),
            "PageDown" if upright => page(&scene, &viewport, here, 1.0),
            "PageUp" if upright => page(&scene, &viewport, here, -1.0),
            "Enter" | " " => {
                event.prevent_default();
                onselect.emit(here);
                return;
            }
            "+" | "=" => return zoom(&event, &viewport, viewport.scale() * STEP),
            "-" => return zoom(&event, &viewport, viewport.scale() / STEP),
            "0" => return zoom(&event, &viewport, 1.0),
            _ => return,
        };
        event.prevent_default();
        event.stop_propagation();
        if let Some(to) = to {
            if let Some(item) = scene.item(to) {
                viewport.reveal(&item.rect);
            }
            oncursor.emit(to);
        }
    })
}

/// Whether a key went to a control inside the tree.
fn on_control(event: &Event) -> bool {
    let target = event.target().and_then(|t| t.dyn_into::<Element>().ok());
    target.is_some_and(|t| t.closest("button, a, input").ok().flatten().is_some())
}

fn zoom(event: &KeyboardEvent, viewport: &Viewport, scale: f64) {
    event.prevent_default();
    event.stop_propagation();
    viewport.zoom_to(scale, None);
}

/// The box about one screen further.
fn page(scene: &Scene, viewport: &Viewport, here: u32, way: f64) -> Option<u32> {
    let height = viewport.seen().height * 0.9;
    let wanted = scene.item(here)?.rect.top + way * height;
    let away = |item: &Item| (item.rect.top - wanted).abs();
    let nearest = scene
        .items
        .iter()
        .min_by(|a, b| away(a).total_cmp(&away(b)))?;
    Some(nearest.place.id)
}
