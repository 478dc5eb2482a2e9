//! The file on disk: host addresses in rows, coloured by owner, with what the check found.

use super::canvas;
use super::range::View;
use crate::app::text;
use crate::protocol::LayerId;
use crate::protocol::look::{AtSeen, Defect, DiskSeen, Look, Space};
use gloo::timers::callback::Timeout;
use std::rc::Rc;
use wasm_bindgen::JsValue;
use web_sys::HtmlCanvasElement;
use yew::prelude::*;

/// Cells of a row, and rows.
const COLUMNS: u32 = 128;
const ROWS: u32 = 24;
/// Findings shown in the list.
const LISTED: usize = 100;

/// The colours of owners, by their numbers.
const COLOURS: [&str; 14] = [
    "--unallocated-soft",
    "--leaked",
    "--data",
    "--compressed",
    "--zero",
    "--shared",
    "--bitmap",
    "--l2",
    "--l1",
    "--refcounts",
    "--refcount-table",
    "--encryption",
    "--header",
    "--corrupt",
];

#[derive(Clone, PartialEq, Properties)]
pub struct DiskViewProperties {
    pub layer: LayerId,
    /// Bytes of the file.
    pub size: u64,
    pub seen: Option<Rc<DiskSeen>>,
    pub at: Option<Rc<AtSeen>>,
    pub onlook: Callback<Look>,
    pub onjump: Callback<(LayerId, Space, u64)>,
}

#[function_component(DiskView)]
pub fn disk_view(props: &DiskViewProperties) -> Html {
    let view = use_state(|| View::whole(props.size));
    let surface = use_node_ref();
    let hover = use_state(|| None::<u64>);
    let resting = use_mut_ref(|| None::<Timeout>);
    {
        let (onlook, layer) = (props.onlook.clone(), props.layer);
        use_effect_with(*view, move |view| {
            onlook.emit(Look::Disk {
                layer,
                start: view.start,
                end: view.end,
                cells: COLUMNS * ROWS,
            });
        });
    }
    {
        let surface = surface.clone();
        use_effect_with(props.seen.clone(), move |seen| {
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
            let cells = f64::from(COLUMNS * ROWS);
            Some(view.at((row * f64::from(COLUMNS) + column) / cells))
        }
    };
    let onpointermove = {
        let (hover, onlook, layer, place) = (
            hover.clone(),
            props.onlook.clone(),
            props.layer,
            place.clone(),
        );
        Callback::from(move |event: PointerEvent| {
            let Some(offset) = place(&event) else { return };
            hover.set(Some(offset));
            let onlook = onlook.clone();
            let look = Look::At {
                layer,
                space: Space::Host,
                offset,
            };
            *resting.borrow_mut() = Some(Timeout::new(120, move || onlook.emit(look)));
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
        let (view, hover) = (view.clone(), *hover);
        Callback::from(move |_: MouseEvent| {
            let middle = hover.filter(|at| (view.start..view.end).contains(at));
            let part = middle.map_or(0.5, |at| text::share(at - view.start, view.width()));
            view.set(view.zoomed(factor, part));
        })
    };
    let busy = props
        .seen
        .as_ref()
        .is_none_or(|seen| seen.done < seen.total);
    html! {
        <div class="look">
            <div class="look__bar">
                <span class="look__range">{ format!("{} – {} of {}", text::bytes(view.start), text::bytes(view.end), text::bytes(props.size)) }</span>
                <span class="push" />
                <button type="button" class="icon-button" aria-label="Closer" title="Closer (+)" onclick={zoom(4.0)}><i class="fas fa-search-plus" aria-hidden="true" /></button>
                <button type="button" class="icon-button" aria-label="Further away" title="Further away (-)" onclick={zoom(0.25)}><i class="fas fa-search-minus" aria-hidden="true" /></button>
            </div>
            <canvas
                ref={surface}
                class="look__canvas look__canvas--disk"
                tabindex="0"
                role="img"
                aria-label="What every part of the file is for. The lists below say the same."
                data-testid="disk-canvas"
                data-ready={(!busy).to_string()}
                {onpointermove} {onclick} {onkeydown}
            />
            <p class="look__at" data-testid="disk-at">{ told(props, *hover) }</p>
            if let Some(seen) = &props.seen {
                <ul class="look__legend" data-testid="disk-totals">
                    { for seen.totals.iter().map(|(name, owner, bytes)| html! {
                        <li key={*owner}><i style={format!("background:var({})", COLOURS.get(usize::from(*owner)).copied().unwrap_or("--edge"))} />{ format!("{name}: {}", text::bytes(*bytes)) }</li>
                    }) }
                </ul>
                { findings(seen, &props.onjump) }
            }
        </div>
    }
}

fn told(props: &DiskViewProperties, hover: Option<u64>) -> Html {
    let Some(offset) = hover else {
        return html! { <span class="quiet">{ "Point at a cell to see what it is for; a click shows its bytes." }</span> };
    };
    let close = props.at.as_ref().filter(|at| at.offset == offset);
    html! {
        <>
            <strong>{ format!("byte {offset:#x}") }</strong>
            if let Some(at) = close { { format!(" · {}", at.text) } }
        </>
    }
}

/// What the check found, each with the way to its bytes.
fn findings(seen: &DiskSeen, onjump: &Callback<(LayerId, Space, u64)>) -> Html {
    let Some(found) = &seen.findings else {
        return html! {};
    };
    if found.is_empty() {
        return html! { <p class="quiet" data-testid="findings">{ "The check finds no errors." }</p> };
    }
    let line = |defect: &Defect| {
        let (onjump, layer) = (onjump.clone(), seen.layer);
        let jump = defect.offset.map(|offset| {
            Callback::from(move |_: MouseEvent| onjump.emit((layer, Space::Host, offset)))
        });
        html! {
            <li class={classes!(defect.leak.then_some("quiet"))}>
                { &defect.text }
                if let Some(onclick) = jump {
                    { " " }<button type="button" class="link" {onclick}>{ "show" }</button>
                }
            </li>
        }
    };
    html! {
        <div class="facts" data-testid="findings">
            <h3>{ format!("The check found {}", if found.len() == 1 { "one thing".to_owned() } else { format!("{} things", found.len()) }) }</h3>
            <ul class="notes">{ for found.iter().take(LISTED).map(line) }</ul>
            if found.len() > LISTED { <p class="quiet">{ format!("and {} more", found.len() - LISTED) }</p> }
        </div>
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
    rgba.resize(usize::try_from(COLUMNS * ROWS * 4).unwrap_or(0), 0);
    // Findings stand out even among what is the same.
    let corrupt = canvas::colour("--corrupt");
    let width = (seen.end - seen.start).max(1);
    for defect in seen.findings.iter().flatten().filter(|defect| !defect.leak) {
        let Some(by) = defect.offset.and_then(|at| at.checked_sub(seen.start)) else {
            continue;
        };
        let cell = u128::from(by) * u128::from(COLUMNS * ROWS) / u128::from(width);
        let at = usize::try_from(cell)
            .unwrap_or(usize::MAX)
            .saturating_mul(4);
        if let Some(pixel) = rgba.get_mut(at..at.saturating_add(3)) {
            pixel.copy_from_slice(&corrupt);
        }
    }
    let picture = canvas::image(&rgba, COLUMNS, ROWS)?;
    let (context, width, height) = canvas::clear(surface)?;
    context.draw_image_with_html_canvas_element_and_dw_and_dh(&picture, 0.0, 0.0, width, height)
}
