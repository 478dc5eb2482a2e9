//! The bar of each layer: what it holds of the disk, as one line of the cluster map.

use super::sketch::Sketch;
use crate::app::diagram::geometry::Scene;
use crate::app::look::canvas::{self, Rgb};
use crate::app::look::map_draw::blend;
use crate::app::look::map_table::NAMES;
use crate::protocol::LayerId;
use crate::protocol::look::CLASSES;
use crate::protocol::strips::{Answer, Ask, COLUMNS, Strip};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use wasm_bindgen::{Clamped, JsValue};
use web_sys::{HtmlCanvasElement, ImageData};
use yew::prelude::*;

/// What the worker told of the layers, as long as the tree lasts.
#[derive(Clone, Default, PartialEq)]
pub struct Strips {
    known: HashMap<LayerId, Rc<Strip>>,
    finished: HashSet<(LayerId, LayerId)>,
    /// Answers heard: changes with every one.
    heard: u32,
}

impl Strips {
    pub fn hear(&mut self, answer: Answer) {
        self.heard = self.heard.wrapping_add(1);
        if answer.finished {
            self.finished.insert((answer.ask.top, answer.ask.bottom));
        }
        for strip in answer.strips {
            self.known.insert(strip.layer, Rc::new(strip));
        }
    }

    #[must_use]
    pub fn of(&self, layer: LayerId) -> Option<Rc<Strip>> {
        self.known.get(&layer).cloned()
    }

    /// What to ask for next so that all of `seen` have their bars: one row at a time, from its
    /// start to its end.
    #[must_use]
    pub fn wanted(&self, sketch: &Sketch, scene: &Scene, seen: &[LayerId]) -> Option<Ask> {
        let rows: HashSet<u32> = seen
            .iter()
            .filter(|id| !self.known.contains_key(id))
            .filter_map(|&id| Some(scene.item(id)?.place.row))
            .collect();
        // The lowest and the highest layer of each row, by depth.
        let mut ends: HashMap<u32, [(u32, LayerId); 2]> = HashMap::new();
        for item in &scene.items {
            let place = item.place;
            if rows.contains(&place.row) && sketch.layer(place.id).is_some() {
                let here = (place.depth, place.id);
                let [bottom, top] = ends.entry(place.row).or_insert([here, here]);
                *bottom = (*bottom).min(here);
                *top = (*top).max(here);
            }
        }
        let mut rows: Vec<_> = ends.into_iter().collect();
        rows.sort_unstable();
        rows.into_iter()
            .map(|(_, [(_, bottom), (_, top)])| Ask {
                top,
                bottom,
                end: sketch.extent(),
            })
            .find(|ask| !self.finished.contains(&(ask.top, ask.bottom)))
    }
}

/// The colours of the classes, and of nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Palette([Rgb; CLASSES], Rgb);

impl Palette {
    /// As the page has them now.
    #[must_use]
    pub fn now() -> Self {
        Self(
            NAMES.map(|(_, property)| canvas::colour(property)),
            canvas::colour("--unallocated-soft"),
        )
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct BarProperties {
    pub strip: Option<Rc<Strip>>,
    pub palette: Rc<Palette>,
}

/// Rows of pixels: the lowest say what is shared with a snapshot.
const ROWS: u32 = 4;

/// A canvas of as many pixels as there are columns; the browser stretches it.
#[function_component(Bar)]
pub fn bar(props: &BarProperties) -> Html {
    let surface = use_node_ref();
    {
        let surface = surface.clone();
        use_effect_with(
            (props.strip.clone(), props.palette.clone()),
            move |(strip, palette)| {
                if let (Some(canvas), Some(strip)) = (surface.cast(), strip) {
                    // A layer without its bar is still a layer.
                    let _ = draw(&canvas, strip, palette);
                }
            },
        );
    }
    let class = classes!("bar", props.strip.is_none().then_some("bar--waiting"));
    html! {
        <span {class} aria-hidden="true" data-testid="bar" data-ready={props.strip.is_some().to_string()}>
            <canvas ref={surface} width={COLUMNS.to_string()} height={ROWS.to_string()} />
        </span>
    }
}

fn draw(canvas: &HtmlCanvasElement, strip: &Strip, palette: &Palette) -> Result<(), JsValue> {
    let Palette(colours, empty) = palette;
    let (mut main, mut foot) = (Vec::new(), Vec::new());
    for cell in strip.cells.chunks_exact(CLASSES).take(COLUMNS) {
        let colour = blend(cell, colours, *empty);
        let shared = cell.last().is_some_and(|share| *share > 0);
        let [red, green, blue] = colour;
        main.extend([red, green, blue, 255]);
        let [red, green, blue] = if shared { colours[CLASSES - 1] } else { colour };
        foot.extend([red, green, blue, 255]);
    }
    let mut rgba = Vec::with_capacity(main.len() * 4);
    for row in 0..ROWS {
        rgba.extend(if row + 1 < ROWS { &main } else { &foot });
    }
    let width = u32::try_from(main.len() / 4).unwrap_or(0);
    if width == 0 {
        return Ok(());
    }
    let data = ImageData::new_with_u8_clamped_array_and_sh(Clamped(&rgba), width, ROWS)?;
    canvas::context(canvas)?.put_image_data(&data, 0.0, 0.0)
}

/// What the colours mean, in one line.
pub fn legend() -> Html {
    html! {
        <ul class="look__legend">
            { for NAMES.iter().map(|(name, property)| html! {
                <li><i style={format!("background:var({property})")} />{ *name }</li>
            }) }
        </ul>
    }
}
