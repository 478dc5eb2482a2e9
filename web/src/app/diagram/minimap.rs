//! The whole scene in a corner, with a frame around what is seen.

use super::geometry::{Rect, Scene};
use super::viewport::Viewport;
use crate::app::look::canvas;
use std::rc::Rc;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Element, HtmlCanvasElement, PointerEvent};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct MiniMapProperties {
    pub scene: Rc<Scene>,
    pub viewport: Rc<Viewport>,
    /// For each box of the scene, the property with its colour.
    pub colours: Rc<Vec<&'static str>>,
    /// Anything that changes when the colours of the page do.
    pub dark: bool,
}

/// Larger it never is, in CSS pixels.
const WIDTH: f64 = 190.0;
const HEIGHT: f64 = 150.0;

/// A picture for the pointer alone: the tree itself is what keys and screen readers use.
#[function_component(MiniMap)]
pub fn mini_map(props: &MiniMapProperties) -> Html {
    let surface = use_node_ref();
    let scene = &props.scene;
    let scale = (WIDTH / scene.width).min(HEIGHT / scene.height);
    let (width, height) = (scene.width * scale, scene.height * scale);
    {
        let surface = surface.clone();
        use_effect_with(
            (scene.clone(), props.colours.clone(), props.dark),
            move |(scene, colours, _)| {
                if let Some(canvas) = surface.cast::<HtmlCanvasElement>() {
                    // Without it the tree works as well.
                    let _ = draw(&canvas, scene, colours);
                }
            },
        );
    }
    let steer = {
        let (viewport, scene) = (props.viewport.clone(), scene.clone());
        Callback::from(move |event: PointerEvent| {
            if event.buttons() & 1 == 0 {
                return;
            }
            event.prevent_default();
            let Some(map) = event
                .current_target()
                .and_then(|t| t.dyn_into::<Element>().ok())
            else {
                return;
            };
            let _ = map.set_pointer_capture(event.pointer_id());
            let bounds = map.get_bounding_client_rect();
            let share = |at: i32, start: f64, len: f64| (f64::from(at) - start) / len.max(1.0);
            viewport.centre((
                share(event.client_x(), bounds.left(), bounds.width()) * scene.width,
                share(event.client_y(), bounds.top(), bounds.height()) * scene.height,
            ));
        })
    };
    html! {
        <div
            class="minimap"
            aria-hidden="true"
            data-testid="minimap"
            style={format!("width:{width:.0}px;height:{height:.0}px")}
            onpointerdown={steer.clone()}
            onpointermove={steer}
        >
            <canvas ref={surface} />
            <div ref={props.viewport.lens.clone()} class="minimap__lens" />
        </div>
    }
}

fn draw(canvas: &HtmlCanvasElement, scene: &Scene, colours: &[&str]) -> Result<(), JsValue> {
    let (context, width, height) = canvas::clear(canvas)?;
    let (x, y) = (width / scene.width, height / scene.height);
    context.set_stroke_style_str(&hex("--quiet"));
    context.set_line_width(0.5);
    context.begin_path();
    for item in &scene.items {
        if let Some(below) = item.place.backing.and_then(|id| scene.item(id)) {
            let (from, to) = (item.rect.middle(), below.rect.middle());
            context.move_to(from.0 * x, from.1 * y);
            context.line_to(to.0 * x, from.1 * y);
            context.line_to(to.0 * x, to.1 * y);
        }
    }
    context.stroke();
    for (item, colour) in scene.items.iter().zip(colours) {
        let Rect {
            left,
            top,
            width,
            height,
        } = item.rect;
        context.set_fill_style_str(&hex(colour));
        context.fill_rect(
            left * x,
            top * y,
            (width * x).max(1.5),
            (height * y).max(1.5),
        );
    }
    Ok(())
}

fn hex(property: &str) -> String {
    let [red, green, blue] = canvas::colour(property);
    format!("#{red:02x}{green:02x}{blue:02x}")
}
