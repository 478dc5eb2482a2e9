//! The file on disk: host addresses in rows, coloured by owner, with what the check found.

use super::canvas;
use super::findings::{Findings, OwnersTable};
use super::owner::{self, COLOURS};
use super::range::View;
use crate::app::settings::SettingsContext;
use crate::app::text;
use crate::protocol::LayerId;
use crate::protocol::look::{AtSeen, DiskSeen, Look, OwnersSeen, Space};
use gloo::timers::callback::Timeout;
use std::rc::Rc;
use wasm_bindgen::JsValue;
use web_sys::HtmlCanvasElement;
use yew::prelude::*;

/// Cells of a row, and rows.
const COLUMNS: u32 = 128;
const ROWS: u32 = 24;
const CELLS: u32 = COLUMNS * ROWS;
/// Bytes around a finding that are shown.
const AROUND: u64 = 64 << 20;

#[derive(Clone, PartialEq, Properties)]
pub struct DiskViewProperties {
    pub layer: LayerId,
    /// Bytes of the file.
    pub size: u64,
    /// The part to begin with.
    pub view: Option<(u64, u64)>,
    pub onview: Callback<(u64, u64)>,
    pub seen: Option<Rc<DiskSeen>>,
    pub at: Option<Rc<AtSeen>>,
    pub owners: Option<Rc<OwnersSeen>>,
    pub onlook: Callback<Look>,
    pub onjump: Callback<(LayerId, Space, u64)>,
}

#[function_component(DiskView)]
pub fn disk_view(props: &DiskViewProperties) -> Html {
    let view = use_state(|| View::part(props.size, props.view));
    let surface = use_node_ref();
    let cursor = use_state(|| None::<u64>);
    let resting = use_mut_ref(|| None::<Timeout>);
    let dark = use_context::<SettingsContext>().is_some_and(|settings| settings.now.dark());
    {
        let (onlook, onview, layer) = (props.onlook.clone(), props.onview.clone(), props.layer);
        use_effect_with(*view, move |view| {
            onlook.emit(Look::Disk {
                layer,
                start: view.start,
                end: view.end,
                cells: CELLS,
            });
            onview.emit((view.start, view.end));
        });
    }
    {
        let surface = surface.clone();
        use_effect_with((props.seen.clone(), dark), move |(seen, _)| {
            if let (Some(seen), Some(canvas)) = (seen, surface.cast::<HtmlCanvasElement>())
                && let Err(error) = draw(&canvas, seen)
            {
                web_sys::console::error_2(&"the file cannot be drawn".into(), &error);
            }
        });
    }
    let place = {
        let (surface, view) = (surface.clone(), view.clone());
        move |event: &web_sys::MouseEvent| {
            let canvas = surface.cast::<HtmlCanvasElement>()?;
            let part = |at: i32, all: i32, cells: u32| {
                let cell = f64::from(at) / f64::from(all.max(1)) * f64::from(cells);
                cell.floor().clamp(0.0, f64::from(cells - 1))
            };
            let column = part(event.offset_x(), canvas.client_width(), COLUMNS);
            let row = part(event.offset_y(), canvas.client_height(), ROWS);
            Some(view.at((row * f64::from(COLUMNS) + column) / f64::from(CELLS)))
        }
    };
    let point = {
        let (cursor, onlook, layer) = (cursor.clone(), props.onlook.clone(), props.layer);
        move |offset: u64| {
            cursor.set(Some(offset));
            let onlook = onlook.clone();
            let look = Look::At {
                layer,
                space: Space::Host,
                offset,
                lane: None,
            };
            *resting.borrow_mut() = Some(Timeout::new(120, move || onlook.emit(look)));
        }
    };
    let onpointermove = {
        let (place, point) = (place.clone(), point.clone());
        Callback::from(move |event: PointerEvent| {
            if let Some(offset) = place(&event) {
                point(offset);
            }
        })
    };
    let onclick = {
        let (onjump, layer, place) = (props.onjump.clone(), props.layer, place.clone());
        Callback::from(move |event: MouseEvent| {
            if let Some(offset) = place(&event) {
                onjump.emit((layer, Space::Host, offset));
            }
        })
    };
    let onkeydown = {
        let (view, cursor, point) = (view.clone(), *cursor, point.clone());
        let (onjump, layer) = (props.onjump.clone(), props.layer);
        Callback::from(move |event: KeyboardEvent| {
            let key = event.key();
            let done = if key == "Enter" {
                if let Some(offset) = cursor {
                    onjump.emit((layer, Space::Host, offset));
                }
                cursor.is_some()
            } else if let Some(to) = moved(*view, cursor, &key) {
                view.set(view.showing(to));
                point(to);
                true
            } else if let Some(next) = view.keyed(&key, cursor) {
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
            let middle = cursor.filter(|at| view.contains(*at));
            let middle = middle.map_or(0.5, |at| view.part_of(at));
            view.set(view.zoomed(factor, middle));
        })
    };
    let onshow = {
        let (view, surface, size) = (view.clone(), surface.clone(), props.size);
        Callback::from(move |offset: u64| {
            let start = offset.saturating_sub(AROUND / 2);
            let around = (start, start.saturating_add(AROUND));
            view.set(View::part(size, Some(around)).showing(offset));
            point(offset);
            if let Some(canvas) = surface.cast::<HtmlCanvasElement>() {
                canvas.scroll_into_view_with_bool(false);
                let _ = canvas.focus();
            }
        })
    };
    let busy = props
        .seen
        .as_ref()
        .is_none_or(|seen| seen.done < seen.total);
    html! {
        <div class="look">
            <div class="look__bar">
                <span class="look__range">{ view.words() }</span>
                <span class="push" />
                <button type="button" class="icon-button" aria-label="Closer" title="Closer (+)" onclick={zoom(4.0)}><i class="fas fa-search-plus" aria-hidden="true" /></button>
                <button type="button" class="icon-button" aria-label="Further away" title="Further away (-)" onclick={zoom(0.25)}><i class="fas fa-search-minus" aria-hidden="true" /></button>
            </div>
            <div class="look__surface">
                <canvas
                    ref={surface}
                    class="look__canvas look__canvas--disk"
                    tabindex="0"
                    role="application"
                    aria-roledescription="map"
                    aria-label="What every part of the file is for. Arrow keys move the cursor, plus and minus zoom, Enter shows the bytes; the lists below say the same."
                    aria-describedby="disk-at"
                    data-testid="disk-canvas"
                    data-ready={(!busy).to_string()}
                    {onpointermove} {onclick} {onkeydown}
                />
                { mark(*view, *cursor) }
            </div>
            <p class="look__at" id="disk-at" role="status" data-testid="disk-at">{ told(props, *cursor) }</p>
            if let Some(seen) = &props.seen {
                <ul class="look__legend" data-testid="disk-totals">
                    { for seen.totals.iter().map(|(name, number, bytes)| html! {
                        <li key={*number}><i style={format!("background:var({})", owner::colour(*number))} />{ format!("{name}: {}", text::bytes(*bytes)) }</li>
                    }) }
                </ul>
                <Findings seen={seen.clone()} onlook={props.onlook.clone()} {onshow} onjump={props.onjump.clone()} />
                <OwnersTable
                    layer={props.layer}
                    range={(view.start, view.end)}
                    ready={!busy}
                    seen={props.owners.clone()}
                    onlook={props.onlook.clone()}
                    onjump={props.onjump.clone()}
                />
            }
        </div>
    }
}

/// Where a key moves the cursor: a cell or a row.
fn moved(view: View, cursor: Option<u64>, key: &str) -> Option<u64> {
    let cell = (view.width() / u64::from(CELLS)).max(1);
    let row = cell.saturating_mul(u64::from(COLUMNS));
    let at = cursor.unwrap_or(view.start);
    let last = view.size.saturating_sub(1);
    Some(match key {
        "ArrowRight" => at.saturating_add(cell).min(last),
        "ArrowLeft" => at.saturating_sub(cell),
        "ArrowDown" => at.saturating_add(row).min(last),
        "ArrowUp" => at.saturating_sub(row),
        _ => return None,
    })
}

/// Which cell of the view a byte is in.
fn cell_of(start: u64, end: u64, at: u64) -> Option<u32> {
    let by = at.checked_sub(start)?;
    let cell = u128::from(by) * u128::from(CELLS) / u128::from(end.saturating_sub(start).max(1));
    u32::try_from(cell).ok().filter(|cell| *cell < CELLS)
}

/// The cursor over the map.
fn mark(view: View, cursor: Option<u64>) -> Html {
    let Some(cell) = cursor.and_then(|at| cell_of(view.start, view.end, at)) else {
        return html! {};
    };
    let (left, top) = (
        f64::from(cell % COLUMNS) * 100.0 / f64::from(COLUMNS),
        f64::from(cell / COLUMNS) * 100.0 / f64::from(ROWS),
    );
    html! { <i class="look__cell" style={format!("left:{left:.3}%;top:{top:.3}%;width:{:.3}%;height:{:.3}%", 100.0 / f64::from(COLUMNS), 100.0 / f64::from(ROWS))} /> }
}

fn told(props: &DiskViewProperties, cursor: Option<u64>) -> Html {
    let Some(offset) = cursor else {
        return html! { <span class="quiet">{ "Point at a cell, or use the arrow keys, to see what it is for; a click shows its bytes." }</span> };
    };
    let close = props.at.as_ref().filter(|at| at.offset == offset);
    let guest = close.and_then(|at| at.guest).map(|guest| {
        let layer = props.layer;
        props
            .onjump
            .reform(move |_: MouseEvent| (layer, Space::Guest, guest))
    });
    // Findings in the cell that is pointed at.
    let here = props.seen.as_ref().and_then(|seen| {
        let cell = cell_of(seen.start, seen.end, offset)?;
        let mut found = seen.findings.iter().flatten();
        found.find(|defect| {
            let at = defect
                .offset
                .and_then(|at| cell_of(seen.start, seen.end, at));
            at == Some(cell)
        })
    });
    html! {
        <>
            <strong>{ format!("byte {offset:#x}") }</strong>
            if let Some(at) = close { { format!(" · {}", at.text) } }
            if let Some(defect) = here { { " · " }<strong class="look__failed">{ &defect.text }</strong> }
            if let Some(onclick) = guest { { " " }<button type="button" class="link" {onclick}>{ "what the guest sees" }</button> }
        </>
    }
}

fn draw(surface: &HtmlCanvasElement, seen: &DiskSeen) -> Result<(), JsValue> {
    let colours = COLOURS.map(canvas::colour);
    let page = canvas::colour("--cell-unknown");
    let mut rgba: Vec<u8> = Vec::with_capacity(seen.cells.len() * 4);
    for owner in seen.cells.iter() {
        let colour = colours.get(usize::from(*owner)).copied().unwrap_or(page);
        rgba.extend([colour[0], colour[1], colour[2], 255]);
    }
    rgba.resize(usize::try_from(CELLS * 4).unwrap_or(0), 0);
    let picture = canvas::image(&rgba, COLUMNS, ROWS)?;
    let (context, width, height) = canvas::clear(surface)?;
    context.draw_image_with_html_canvas_element_and_dw_and_dh(&picture, 0.0, 0.0, width, height)?;
    // Findings stand out even among what is the same: filled where data is in danger, framed
    // where space is lost.
    let [red, green, blue] = canvas::colour("--corrupt");
    let colour = format!("rgb({red},{green},{blue})");
    context.set_fill_style_str(&colour);
    context.set_stroke_style_str(&colour);
    context.set_line_width(2.0);
    let (wide, high) = (width / f64::from(COLUMNS), height / f64::from(ROWS));
    for defect in seen.findings.iter().flatten() {
        let Some(cell) = defect
            .offset
            .and_then(|at| cell_of(seen.start, seen.end, at))
        else {
            continue;
        };
        let (x, y) = (
            f64::from(cell % COLUMNS) * wide,
            f64::from(cell / COLUMNS) * high,
        );
        if defect.leak {
            context.stroke_rect(
                x + 1.0,
                y + 1.0,
                (wide - 2.0).max(1.0),
                (high - 2.0).max(1.0),
            );
        } else {
            context.fill_rect(x, y, wide, high);
        }
    }
    Ok(())
}
