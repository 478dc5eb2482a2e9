//! The cluster map: guest addresses from left to right, layers from top to bottom.

use super::map_draw::{Drawn, draw};
use super::map_table::{MapTable, NAMES, legend};
use super::range::View;
use crate::app::settings::SettingsContext;
use crate::protocol::LayerId;
use crate::protocol::look::{AtSeen, CLASSES, Lane, Look, MapSeen, RunsSeen, Space};
use gloo::events::EventListener;
use gloo::timers::callback::Timeout;
use std::rc::Rc;
use web_sys::HtmlCanvasElement;
use yew::prelude::*;

/// Height of a lane on the screen, in pixels.
const LANE: u32 = 26;
/// Milliseconds a pointer rests before the worker looks closer.
const REST: u32 = 120;

#[derive(Clone, PartialEq, Properties)]
pub struct MapViewProperties {
    pub layer: LayerId,
    /// Bytes of the longest disk in the chain.
    pub size: u64,
    /// The part to begin with.
    pub view: Option<(u64, u64)>,
    pub onview: Callback<(u64, u64)>,
    pub seen: Option<Rc<MapSeen>>,
    pub at: Option<Rc<AtSeen>>,
    pub runs: Option<Rc<RunsSeen>>,
    pub onlook: Callback<Look>,
    pub onjump: Callback<(LayerId, Space, u64)>,
}

/// The guest byte and the lane that are pointed at.
type Cursor = (u64, usize);

#[function_component(MapView)]
pub fn map_view(props: &MapViewProperties) -> Html {
    let view = use_state(|| View::part(props.size, props.view));
    let width = use_state(|| 0_u32);
    let surface = use_node_ref();
    let drawn = use_mut_ref(|| Drawn::None);
    let cursor = use_state(|| None::<Cursor>);
    let resting = use_mut_ref(|| None::<Timeout>);
    let grip = use_mut_ref(|| None::<(f64, View)>);
    let dark = use_context::<SettingsContext>().is_some_and(|settings| settings.now.dark());

    use_width(&surface, &width);
    {
        let (onlook, onview) = (props.onlook.clone(), props.onview.clone());
        let (layer, size) = (props.layer, props.size);
        use_effect_with((*view, *width), move |(view, width)| {
            if *width > 0 && size > 0 {
                onlook.emit(Look::Map {
                    layer,
                    start: view.start,
                    end: view.end,
                    columns: u32::try_from(view.width()).map_or(*width, |w| w.min(*width)),
                });
                onview.emit((view.start, view.end));
            }
        });
    }
    {
        let surface = surface.clone();
        let deps = (props.seen.clone(), *view, *width, dark);
        use_effect_with(deps, move |(seen, view, _, dark)| {
            if let (Some(seen), Some(canvas)) = (seen, surface.cast::<HtmlCanvasElement>())
                && let Err(error) = draw(&canvas, &mut drawn.borrow_mut(), seen, *view, *dark)
            {
                web_sys::console::error_2(&"the map cannot be drawn".into(), &error);
            }
        });
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
    // Where the cursor rests the worker looks closer.
    let point = {
        let (cursor, onlook) = (cursor.clone(), props.onlook.clone());
        let (layer, seen) = (props.layer, props.seen.clone());
        move |offset: u64, depth: usize| {
            cursor.set(Some((offset, depth)));
            let lane = seen.as_ref().and_then(|seen| seen.lanes.get(depth)?.layer);
            let look = Look::At {
                layer,
                space: Space::Guest,
                offset,
                lane,
            };
            let onlook = onlook.clone();
            *resting.borrow_mut() = Some(Timeout::new(REST, move || onlook.emit(look)));
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
        let (view, part, grip, point) = (view.clone(), part.clone(), grip.clone(), point.clone());
        Callback::from(move |event: PointerEvent| {
            let (x, y) = part(&event);
            let held = *grip.borrow();
            if let Some((from, was)) = held.filter(|_| event.buttons() & 1 != 0) {
                view.set(was.moved(from - x));
                return;
            }
            point(view.at(x), lane_at(y, lanes));
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
        let (view, cursor) = (view.clone(), *cursor);
        let (onjump, layer, columns) = (props.onjump.clone(), props.layer, *width);
        Callback::from(move |event: KeyboardEvent| {
            let key = event.key();
            let done = if key == "Enter" {
                if let Some((offset, _)) = cursor {
                    onjump.emit((layer, Space::Guest, offset));
                }
                cursor.is_some()
            } else if let Some((offset, depth)) = moved(*view, cursor, &key, lanes, columns) {
                view.set(view.showing(offset));
                point(offset, depth);
                true
            } else if let Some(next) = view.keyed(&key, cursor.map(|(at, _)| at)) {
                view.set(next);
                true
            } else {
                false
            };
            if done {
                event.prevent_default();
                event.stop_propagation();
            }
        })
    };
    let zoom = |factor: f64| {
        let (view, cursor) = (view.clone(), *cursor);
        Callback::from(move |_: MouseEvent| {
            let middle = cursor.filter(|(at, _)| view.contains(*at));
            let middle = middle.map_or(0.5, |(at, _)| view.part_of(at));
            view.set(view.zoomed(factor, middle));
        })
    };
    let show = {
        let (view, size) = (view.clone(), props.size);
        Callback::from(move |part: (u64, u64)| view.set(View::part(size, Some(part))))
    };
    let whole = {
        let (view, size) = (view.clone(), props.size);
        Callback::from(move |_: MouseEvent| view.set(View::whole(size)))
    };
    let busy = props.seen.as_ref().is_none_or(|seen| seen.done < seen.end);
    let errors = props
        .seen
        .iter()
        .flat_map(|seen| seen.lanes.iter())
        .filter_map(|lane| Some((&lane.name, lane.error.as_ref()?)));
    html! {
        <div class="look">
            <div class="look__bar">
                <span class="look__range">{ view.words() }</span>
                <span class="push" />
                <button type="button" class="icon-button" aria-label="Closer" title="Closer (+)" onclick={zoom(2.0)}><i class="fas fa-search-plus" aria-hidden="true" /></button>
                <button type="button" class="icon-button" aria-label="Further away" title="Further away (-)" onclick={zoom(0.5)}><i class="fas fa-search-minus" aria-hidden="true" /></button>
                <button type="button" class="icon-button" aria-label="The whole disk" title="The whole disk (Home)" onclick={whole}><i class="fas fa-arrows-alt-h" aria-hidden="true" /></button>
            </div>
            { for errors.map(|(name, why)| html! {
                <p class="look__failed" role="status" data-testid="map-error">{ format!("{name}: {why}") }</p>
            }) }
            <div class="map-lanes">
                <ul class="map-lanes__names" aria-hidden="true">
                    { for props.seen.iter().flat_map(|seen| seen.lanes.iter()).map(|lane| html! { <li title={lane.name.clone()}>{ &lane.name }</li> }) }
                </ul>
                <div class="look__surface">
                    <canvas
                        ref={surface}
                        class="look__canvas"
                        style={format!("height:{height}px")}
                        tabindex="0"
                        role="application"
                        aria-roledescription="map"
                        aria-label="Which layer holds what of the disk. Arrow keys move the cursor, plus and minus zoom, Enter shows the bytes; the tables below say the same."
                        aria-describedby="map-at"
                        data-testid="map-canvas"
                        data-ready={(!busy).to_string()}
                        {onwheel} {onpointerdown} {onpointermove} {ondblclick} {onkeydown}
                        onpointerup={release.clone()}
                        onpointerleave={release}
                    />
                    { mark(*view, *cursor) }
                </div>
            </div>
            <p class="look__at" id="map-at" role="status" data-testid="map-at">{ told(props, *cursor) }</p>
            { legend() }
            <MapTable
                layer={props.layer}
                range={(view.start, view.end)}
                seen={props.seen.clone()}
                runs={props.runs.clone()}
                onlook={props.onlook.clone()}
                onview={show}
                onjump={props.onjump.clone()}
            />
        </div>
    }
}

/// Where a key moves the cursor: a step to the side, or to another lane.
fn moved(
    view: View,
    cursor: Option<Cursor>,
    key: &str,
    lanes: usize,
    columns: u32,
) -> Option<Cursor> {
    // Some pixels; a sector at least.
    let step = (view.width() / u64::from(columns.max(1)))
        .saturating_mul(8)
        .max(512);
    let (at, lane) = cursor.unwrap_or((view.at(0.5), 0));
    let last = view.size.saturating_sub(1);
    Some(match key {
        "ArrowRight" => (at.saturating_add(step).min(last), lane),
        "ArrowLeft" => (at.saturating_sub(step), lane),
        "ArrowDown" => (at, (lane + 1).min(lanes.saturating_sub(1))),
        "ArrowUp" => (at, lane.saturating_sub(1)),
        _ => return None,
    })
}

/// The cursor over the map.
fn mark(view: View, cursor: Option<Cursor>) -> Html {
    let Some((at, lane)) = cursor.filter(|(at, _)| view.contains(*at)) else {
        return html! {};
    };
    let left = view.part_of(at) * 100.0;
    let top = u32::try_from(lane).unwrap_or(0) * LANE;
    html! {
        <>
            <i class="look__cursor" style={format!("left:{left:.3}%")} />
            <i class="look__lane" style={format!("top:{top}px;height:{LANE}px")} />
        </>
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

/// Where the cursor is, in words.
fn told(props: &MapViewProperties, cursor: Option<Cursor>) -> Html {
    let (Some((offset, depth)), Some(seen)) = (cursor, &props.seen) else {
        return html! { <span class="quiet">{ "Point at the map, or use the arrow keys, to see what is there. Drag to move, Ctrl and the wheel to zoom." }</span> };
    };
    let lane = seen.lanes.get(depth);
    let share = lane.and_then(|lane| cell(seen, lane, offset)).map(shares);
    let close = props.at.as_ref().filter(|at| at.offset == offset);
    let own = close
        .and_then(|at| at.lane.as_ref())
        .filter(|(layer, ..)| lane.is_some_and(|lane| lane.layer == Some(*layer)));
    let jump = {
        let layer = props.layer;
        props
            .onjump
            .reform(move |_: MouseEvent| (layer, Space::Guest, offset))
    };
    let host = own.and_then(|(layer, _, host)| Some((*layer, (*host)?)));
    let host = host.or_else(|| close.and_then(|at| at.host));
    let to_host = host.map(|(layer, host)| {
        props
            .onjump
            .reform(move |_: MouseEvent| (layer, Space::Host, host))
    });
    // What the guest reads may be what the lane has.
    let hidden = own.filter(|(_, text, _)| close.is_none_or(|at| at.text != *text));
    html! {
        <>
            <strong>{ format!("guest {offset:#x}") }</strong>
            if let Some(lane) = lane {
                { format!(" · {}: {}", lane.name, share.unwrap_or_default()) }
            }
            if let Some((_, text, _)) = hidden {
                { format!(" · here {text}") }
            }
            if let Some(at) = close {
                { format!(" · the guest reads {}", at.text) }
            }
            { " " }<button type="button" class="link" onclick={jump}>{ "show the bytes" }</button>
            if let Some(onclick) = to_host {
                { " " }<button type="button" class="link" data-testid="map-to-host" {onclick}>{ "in the file" }</button>
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
