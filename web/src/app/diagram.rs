//! Boxes and backing arrows, as the source document draws them.

use super::layout::{self, Link, Place};
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
    /// What a screen reader says.
    pub label: AttrValue,
    pub content: Html,
    /// The hooks of a real layer: file name, name of its backing file, state.
    pub hooks: Option<[AttrValue; 3]>,
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

/// Sizes in CSS pixels.
struct Metrics {
    width: f64,
    height: f64,
    gap_x: f64,
    gap_y: f64,
    indent: f64,
    upright: bool,
    /// Room for the flow's curves, below or at the right.
    margin: f64,
}

impl Metrics {
    fn new(compact: bool, columns: u32, available: f64, flow: bool) -> Self {
        let columns = f64::from(columns.max(1));
        let (least, most, gap_x): (f64, f64, f64) = if compact {
            (98.0, 150.0, 34.0)
        } else {
            (148.0, 216.0, 44.0)
        };
        let width = ((available - 2.0 + gap_x) / columns - gap_x).min(most);
        let upright = width < least;
        let margin = match (flow, upright) {
            (false, _) => 0.0,
            (true, false) => 30.0,
            (true, true) => 44.0,
        };
        Self {
            width,
            height: if compact { 38.0 } else { 126.0 },
            gap_x,
            gap_y: if upright && compact { 20.0 } else { 26.0 },
            indent: if compact { 22.0 } else { 26.0 },
            upright,
            margin,
        }
    }

    /// Left, top and width of a box.
    fn at(&self, place: &Place, available: f64) -> (f64, f64, f64) {
        if self.upright {
            let left = f64::from(place.lane.min(6)) * self.indent;
            let width = (available - left - self.margin - 2.0).clamp(120.0, 420.0);
            (
                left,
                f64::from(place.order) * (self.height + self.gap_y),
                width,
            )
        } else {
            (
                f64::from(place.depth) * (self.width + self.gap_x),
                f64::from(place.row) * (self.height + self.gap_y),
                self.width,
            )
        }
    }
}

#[function_component(Diagram)]
pub fn diagram(props: &DiagramProperties) -> Html {
    let node = use_node_ref();
    let available = use_width(&node);
    let links: Vec<Link> = props
        .boxes
        .iter()
        .map(|b| Link {
            id: b.id,
            backing: b.backing,
            dim: b.dim,
        })
        .collect();
    let places = use_memo(links, |links| layout::place(links));
    let columns = places.iter().map(|p| p.depth + 1).max().unwrap_or(1);
    // The link that closes a loop has no place in a tree: it is drawn as a curve.
    let closing: Vec<(u32, u32)> = props
        .boxes
        .iter()
        .filter_map(|b| Some((b.id, b.backing?)))
        .filter(|&(id, backing)| {
            let place = |id| places.iter().find(|place| place.id == id);
            place(id).is_some_and(|place| place.backing.is_none()) && place(backing).is_some()
        })
        .collect();
    let curves = !props.flow.is_empty() || !closing.is_empty();
    let metrics = Metrics::new(props.compact, columns, available, curves);

    let find = |id: u32| places.iter().find(|place| place.id == id);
    let mut right: f64 = 0.0;
    let mut bottom: f64 = 0.0;
    for place in places.iter() {
        let (left, top, width) = metrics.at(place, available);
        right = right.max(left + width);
        bottom = bottom.max(top + metrics.height);
    }
    let (right, bottom) = if metrics.upright {
        (right + metrics.margin, bottom)
    } else {
        (right, bottom + metrics.margin)
    };

    let arrows = places.iter().filter_map(|place| {
        let below = find(place.backing?)?;
        let path = arrow(&metrics, place, below, available);
        Some(html! { <path class="arrow" d={path} marker-end="url(#arrow-head)" /> })
    });
    let flows = props.flow.iter().filter_map(|&(from, to)| {
        let path = curve(&metrics, find(from)?, find(to)?, available);
        Some(html! { <path class="flow" d={path} marker-end="url(#flow-head)" /> })
    });
    let closing = closing.iter().filter_map(|&(from, to)| {
        let path = curve(&metrics, find(from)?, find(to)?, available);
        Some(html! { <path class="arrow arrow--loop" d={path} marker-end="url(#arrow-head)" /> })
    });
    let cards = places.iter().filter_map(|place| {
        let shown = props.boxes.iter().find(|b| b.id == place.id)?;
        let (left, top, width) = metrics.at(place, available);
        let style = format!(
            "left:{left:.0}px;top:{top:.0}px;width:{width:.0}px;height:{:.0}px",
            metrics.height
        );
        Some(card(props, shown, style))
    });
    let class = classes!(
        "diagram",
        props.compact.then_some("diagram--compact"),
        metrics.upright.then_some("diagram--upright"),
    );
    let size = format!("width:{right:.0}px;height:{bottom:.0}px");
    html! {
        <div {class} ref={node} role="group" aria-label={props.label.clone()}>
            <div class="diagram__area" style={size}>
                <svg class="diagram__lines" aria-hidden="true" width={format!("{right:.0}")} height={format!("{:.0}", bottom)}>
                    <defs>
                        { head("arrow-head") }
                        { head("flow-head") }
                    </defs>
                    { for arrows }
                    { for flows }
                    { for closing }
                </svg>
                { for cards }
            </div>
        </div>
    }
}

fn head(id: &'static str) -> Html {
    html! {
        <marker {id} viewBox="0 0 10 10" refX="8.5" refY="5" markerWidth="7" markerHeight="7" orient="auto">
            <path d="M1 1 L9 5 L1 9" />
        </marker>
    }
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
            aria-label={shown.label.clone()}
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

/// From the overlay to its backing file.
fn arrow(metrics: &Metrics, overlay: &Place, backing: &Place, available: f64) -> String {
    let (x, y, _) = metrics.at(overlay, available);
    let (to_x, to_y, to_width) = metrics.at(backing, available);
    let half = metrics.height / 2.0;
    if metrics.upright {
        let rail = to_x + if metrics.indent < 24.0 { 11.0 } else { 13.0 };
        let end = to_y + metrics.height + 2.0;
        if overlay.lane == backing.lane {
            return format!("M{rail} {y} V{end}");
        }
        let middle = y + half;
        return format!(
            "M{x} {middle} H{} Q{rail} {middle} {rail} {} V{end}",
            rail + 8.0,
            middle - 8.0
        );
    }
    let middle = y + half;
    if overlay.row == backing.row {
        return format!("M{x} {middle} H{}", to_x + to_width + 3.0);
    }
    let rail = to_x + to_width / 2.0;
    let end = to_y + metrics.height + 3.0;
    format!(
        "M{x} {middle} H{} Q{rail} {middle} {rail} {} V{end}",
        rail + 10.0,
        middle - 10.0
    )
}

/// From the layer whose data moves to the one it is merged into.
fn curve(metrics: &Metrics, from: &Place, to: &Place, available: f64) -> String {
    let (x, y, width) = metrics.at(from, available);
    let (to_x, to_y, to_width) = metrics.at(to, available);
    if metrics.upright {
        let half = metrics.height / 2.0;
        let (a, b) = (x + width + 2.0, to_x + to_width + 4.0);
        let out = a.max(b) + 34.0;
        return format!(
            "M{a} {} C{out} {} {out} {} {b} {}",
            y + half,
            y + half,
            to_y + half,
            to_y + half
        );
    }
    let start = y + metrics.height + 2.0;
    let end = to_y + metrics.height + 4.0;
    let low = start.max(end) + 26.0;
    let (a, b) = (x + width / 2.0, to_x + to_width / 2.0);
    format!("M{a} {start} C{a} {low} {b} {low} {b} {end}")
}

/// The width an element has to draw in, kept up to date.
#[hook]
fn use_width(node: &NodeRef) -> f64 {
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
