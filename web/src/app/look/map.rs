//! The cluster map: guest addresses from left to right, layers from top to bottom.

use super::canvas::{self, Rgb};
use super::range::View;
use crate::app::text;
use crate::protocol::LayerId;
use crate::protocol::look::{AtSeen, CLASSES, Lane, Look, MapSeen, Space};
use gloo::events::EventListener;
use gloo::timers::callback::Timeout;
use std::rc::Rc;
use wasm_bindgen::JsValue;
use web_sys::HtmlCanvasElement;
use yew::prelude::*;

/// Height of a lane on the screen, in pixels, and of its image.
const LANE: u32 = 26;
const ROWS: u32 = 8;

/// What the classes are called, and the property with their colour.
const NAMES: [(&str, &str); CLASSES] = [
    ("data", "--data"),
    ("compressed", "--compressed"),
    ("zeros", "--zero"),
    ("hidden data", "--shadowed"),
    ("hidden zeros", "--shadowed-zero"),
    ("shared with a snapshot", "--shared"),
];

#[derive(Clone, PartialEq, Properties)]
pub struct MapViewProperties {
    pub layer: LayerId,
    /// Bytes of the longest disk in the chain.
    pub size: u64,
    pub seen: Option<Rc<MapSeen>>,
    pub at: Option<Rc<AtSeen>>,
    pub onlook: Callback<Look>,
    pub onjump: Callback<(LayerId, Space, u64)>,
}

/// The image of a map, as long as the map stays the same.
type Drawn = Option<(Rc<MapSeen>, HtmlCanvasElement)>;

#[function_component(MapView)]
pub fn map_view(props: &MapViewProperties) -> Html {
    let view = use_state(|| View::whole(props.size));
    let width = use_state(|| 0_u32);
    let surface = use_node_ref();
    let drawn = use_mut_ref(|| Drawn::None);
    let hover = use_state(|| None::<(u64, usize)>);
    let resting = use_mut_ref(|| None::<Timeout>);
    let grip = use_mut_ref(|| None::<(f64, View)>);

    use_width(&surface, &width);
    {
        let (onlook, layer, size) = (props.onlook.clone(), props.layer, props.size);
        use_effect_with((*view, *width), move |(view, width)| {
            if *width > 0 && size > 0 {
                onlook.emit(Look::Map {
                    layer,
                    start: view.start,
                    end: view.end,
                    columns: *width,
                });
            }
        });
    }
    {
        let surface = surface.clone();
        use_effect_with(
            (props.seen.clone(), *view, *width),
            move |(seen, view, _)| {
                if let (Some(seen), Some(canvas)) = (seen, surface.cast::<HtmlCanvasElement>())
                    && let Err(error) = draw(&canvas, &mut drawn.borrow_mut(), seen, *view)
                {
                    web_sys::console::error_2(&"the map cannot be drawn".into(), &error);
                }
            },
        );
    }

    let lanes = props.seen.as_ref().map_or(0, |seen| seen.lanes.len());
    let height = u32::try_from(lanes.max(1)).unwrap_or(1) * LANE;
    let part = {
        let surface = surface.clone();
        move |event: &web_sys::MouseEvent| {
            let canvas = surface.cast::<HtmlCanvasElement>();
            let (w, h) = canvas.map_or((1, 1), |c| (c.client_width(), c.client_height()));
            (
                f64::from(event.offset_x()) / f64::from(w.max(1)),
                f64::from(event.offset_y()) / f64::from(h.max(1)),
            )
        }
    };
    let onwheel = {
        let (view, part) = (view.clone(), part.clone());
        Callback::from(move |event: WheelEvent| {
            // The plain wheel scrolls the page.
            if event.ctrl_key() || event.meta_key() || event.shift_key() {
                event.prevent_default();
                let (x, _) = part(&event);
                let turn = if event.delta_y() == 0.0 {
                    event.delta_x()
                } else {
                    event.delta_y()
                };
                view.set(if event.shift_key() {
                    view.moved(turn.signum() * 0.1)
                } else {
                    view.zoomed(if turn < 0.0 { 1.5 } else { 1.0 / 1.5 }, x)
                });
            }
        })
    };
    let onpointerdown = {
        let (grip, view, part) = (grip.clone(), view.clone(), part.clone());
        Callback::from(move |event: PointerEvent| {
            *grip.borrow_mut() = Some((part(&event).0, *view));
        })
    };
    let onpointermove = {
        let (view, hover, part, onlook) = (
            view.clone(),
            hover.clone(),
            part.clone(),
            props.onlook.clone(),
        );
        let (layer, grip) = (props.layer, grip.clone());
        Callback::from(move |event: PointerEvent| {
            let (x, y) = part(&event);
            let held = *grip.borrow();
            if let Some((from, was)) = held.filter(|_| event.buttons() & 1 != 0) {
                view.set(was.moved(from - x));
                return;
            }
            let offset = view.at(x);
            hover.set(Some((offset, lane_at(y, lanes))));
            // Where the pointer rests the worker looks closer.
            let onlook = onlook.clone();
            let look = Look::At {
                layer,
                space: Space::Guest,
                offset,
            };
            *resting.borrow_mut() = Some(Timeout::new(120, move || onlook.emit(look)));
        })
    };
    let release = {
        let grip = grip.clone();
        Callback::from(move |_: PointerEvent| *grip.borrow_mut() = None)
    };
    let ondblclick = {
        let (view, part) = (view.clone(), part);
        Callback::from(move |event: MouseEvent| view.set(view.zoomed(4.0, part(&event).0)))
    };
    let onkeydown = {
        let view = view.clone();
        Callback::from(move |event: KeyboardEvent| {
            if let Some(next) = view.keyed(&event.key()) {
                event.prevent_default();
                event.stop_propagation();
                view.set(next);
            }
        })
    };
    let zoom = |factor: f64| {
        let view = view.clone();
        Callback::from(move |_: MouseEvent| view.set(view.zoomed(factor, 0.5)))
    };
    let whole = {
        let (view, size) = (view.clone(), props.size);
        Callback::from(move |_: MouseEvent| view.set(View::whole(size)))
    };
    let busy = props.seen.as_ref().is_none_or(|seen| seen.done < seen.end);
    html! {
        <div class="look">
            <div class="look__bar">
                <span class="look__range">{ format!("{} – {} of {}", text::bytes(view.start), text::bytes(view.end), text::bytes(props.size)) }</span>
                <span class="push" />
                <button type="button" class="icon-button" aria-label="Closer" title="Closer (+)" data-testid="map-closer" onclick={zoom(2.0)}><i class="fas fa-search-plus" aria-hidden="true" /></button>
                <button type="button" class="icon-button" aria-label="Further away" title="Further away (-)" onclick={zoom(0.5)}><i class="fas fa-search-minus" aria-hidden="true" /></button>
                <button type="button" class="icon-button" aria-label="The whole disk" title="The whole disk (Home)" onclick={whole}><i class="fas fa-arrows-alt-h" aria-hidden="true" /></button>
            </div>
            <div class="map-lanes">
                <ul class="map-lanes__names" aria-hidden="true">
                    { for props.seen.iter().flat_map(|seen| seen.lanes.iter()).map(|lane| html! { <li title={lane.error.clone()}>{ &lane.name }</li> }) }
                </ul>
                <canvas
                    ref={surface}
                    class="look__canvas"
                    style={format!("height:{height}px")}
                    tabindex="0"
                    role="img"
                    aria-label="Which layer holds what of the disk. Arrow keys move, plus and minus zoom; the table below says the same."
                    data-testid="map-canvas"
                    data-ready={(!busy).to_string()}
                    {onwheel} {onpointerdown} {onpointermove} {ondblclick} {onkeydown}
                    onpointerup={release.clone()}
                    onpointerleave={release}
                />
            </div>
            <p class="look__at" data-testid="map-at">{ told(props, *hover) }</p>
            { legend() }
            { table(props) }
        </div>
    }
}

/// Keeps `width` the width of the canvas on the screen.
#[hook]
fn use_width(surface: &NodeRef, width: &UseStateHandle<u32>) {
    let (surface, width) = (surface.clone(), width.clone());
    use_effect_with((), move |()| {
        let measure = move || {
            let canvas = surface.cast::<HtmlCanvasElement>();
            if let Some(found) = canvas.and_then(|c| u32::try_from(c.client_width()).ok()) {
                width.set(found);
            }
        };
        measure();
        let window = gloo::utils::window();
        let listener = EventListener::new(&window, "resize", move |_| measure());
        move || drop(listener)
    });
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place on the screen"
)]
fn lane_at(part: f64, lanes: usize) -> usize {
    ((part * lanes as f64) as usize).min(lanes.saturating_sub(1))
}

/// Where the pointer is, in words.
fn told(props: &MapViewProperties, hover: Option<(u64, usize)>) -> Html {
    let (Some((offset, depth)), Some(seen)) = (hover, &props.seen) else {
        return html! { <span class="quiet">{ "Point at the map to see what is there. Drag to move, Ctrl and the wheel to zoom." }</span> };
    };
    let lane = seen.lanes.get(depth);
    let share = lane.and_then(|lane| cell(seen, lane, offset)).map(shares);
    let close = props.at.as_ref().filter(|at| at.offset == offset);
    let jump = lane.and_then(|lane| lane.layer).map(|_| {
        let (onjump, layer) = (props.onjump.clone(), props.layer);
        Callback::from(move |_: MouseEvent| onjump.emit((layer, Space::Guest, offset)))
    });
    html! {
        <>
            <strong>{ format!("guest {offset:#x}") }</strong>
            if let Some(lane) = lane {
                { format!(" · {}: {}", lane.name, share.unwrap_or_default()) }
            }
            if let Some(at) = close {
                { format!(" · the guest reads {}", at.text) }
            }
            if let Some(jump) = jump {
                { " " }<button type="button" class="link" onclick={jump}>{ "show the bytes" }</button>
            }
        </>
    }
}

fn cell<'a>(seen: &MapSeen, lane: &'a Lane, offset: u64) -> Option<&'a [u8]> {
    let by = offset.checked_sub(seen.start)?;
    let column =
        u128::from(by) * u128::from(seen.columns) / u128::from((seen.end - seen.start).max(1));
    let column = usize::try_from(column).ok()?;
    lane.cells.get(column * CLASSES..(column + 1) * CLASSES)
}

fn shares(cell: &[u8]) -> String {
    let parts: Vec<String> = NAMES
        .iter()
        .zip(cell)
        .filter(|(_, share)| **share > 0)
        .map(|((name, _), share)| match u32::from(*share) * 100 / 255 {
            100 => (*name).to_owned(),
            0 => format!("a little {name}"),
            percent => format!("{percent} % {name}"),
        })
        .collect();
    if parts.is_empty() {
        "nothing of its own".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Draws the part of the map that the view shows.
fn draw(
    canvas: &HtmlCanvasElement,
    drawn: &mut Drawn,
    seen: &Rc<MapSeen>,
    view: View,
) -> Result<(), JsValue> {
    let known = drawn.as_ref().is_some_and(|(map, _)| Rc::ptr_eq(map, seen));
    if !known {
        *drawn = Some((seen.clone(), picture(seen)?));
    }
    let Some((_, picture)) = drawn else {
        return Ok(());
    };
    let (context, width, height) = canvas::clear(canvas)?;
    // The map may be of another range than is shown now: it is stretched until the right one
    // is there.
    let scale = width / float(view.width().max(1));
    let x = if seen.start >= view.start {
        float(seen.start - view.start) * scale
    } else {
        -float(view.start - seen.start) * scale
    };
    let wide = float(seen.end - seen.start) * scale;
    context.draw_image_with_html_canvas_element_and_dw_and_dh(picture, x, 0.0, wide, height)
}

#[expect(clippy::cast_precision_loss, reason = "a place on the screen")]
fn float(n: u64) -> f64 {
    n as f64
}

fn picture(seen: &MapSeen) -> Result<HtmlCanvasElement, JsValue> {
    let colours = NAMES.map(|(_, property)| canvas::colour(property));
    let empty = canvas::colour("--unallocated-soft");
    let rows = u32::try_from(seen.lanes.len().max(1)).unwrap_or(1) * ROWS;
    let mut rgba = Vec::new();
    for lane in &seen.lanes {
        let (mut main, mut foot) = (Vec::new(), Vec::new());
        for cell in lane.cells.chunks_exact(CLASSES) {
            let colour = blend(cell, &colours, empty);
            let shared = cell.last().copied().unwrap_or(0) > 0;
            let below = if shared { colours[CLASSES - 1] } else { colour };
            main.extend([colour[0], colour[1], colour[2], 255]);
            foot.extend([below[0], below[1], below[2], 255]);
        }
        for row in 0..ROWS {
            match row {
                // A gap between lanes.
                0 => rgba.extend(std::iter::repeat_n(0, main.len())),
                6 | 7 => rgba.extend(&foot),
                _ => rgba.extend(&main),
            }
        }
    }
    canvas::image(&rgba, seen.columns, rows)
}

/// The colour of a cell: what there is of it stays visible however little it is.
fn blend(cell: &[u8], colours: &[Rgb; CLASSES], empty: Rgb) -> Rgb {
    let own = cell.get(..CLASSES - 1).unwrap_or_default();
    let all: f64 = own.iter().map(|&share| f64::from(share)).sum();
    if all == 0.0 {
        return empty;
    }
    let mut colour = [0.0; 3];
    for (share, of) in own.iter().zip(colours) {
        for (sum, part) in colour.iter_mut().zip(of) {
            *sum += f64::from(*share) / all * f64::from(*part);
        }
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a mean of bytes is a byte"
    )]
    let colour = colour.map(|part| part.round() as u8);
    canvas::mix(empty, colour, 0.35 + 0.65 * all / 255.0)
}

fn legend() -> Html {
    html! {
        <ul class="look__legend">
            { for NAMES.iter().map(|(name, property)| html! {
                <li><i style={format!("background:var({property})")} />{ *name }</li>
            }) }
            <li><i style="background:var(--unallocated-soft)" />{ "not in this layer" }</li>
        </ul>
    }
}

/// The same for who does not see the map: bytes of every class in what the view shows.
fn table(props: &MapViewProperties) -> Html {
    let Some(seen) = &props.seen else {
        return html! {};
    };
    html! {
        <details class="look__table">
            <summary>{ "As a table" }</summary>
            <div class="scroll" tabindex="0" role="region" aria-label="The map as a table">
            <table data-testid="map-table">
                <thead><tr>
                    <th scope="col">{ "Layer" }</th>
                    { for NAMES.iter().map(|(name, _)| html! { <th scope="col">{ *name }</th> }) }
                </tr></thead>
                <tbody>
                    { for seen.lanes.iter().map(|lane| html! {
                        <tr>
                            <th scope="row">{ &lane.name }</th>
                            { for lane.totals.iter().map(|bytes| html! { <td>{ text::bytes(*bytes) }</td> }) }
                        </tr>
                    }) }
                </tbody>
            </table>
            </div>
        </details>
    }
}
