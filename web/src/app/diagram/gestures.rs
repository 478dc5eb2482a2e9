//! Wheel, pinch and drag on a viewport.
//!
//! Native listeners: they must be able to keep the browser from zooming the whole page.

use super::viewport::{Viewport, Window};
use crate::js;
use gloo::events::{EventListener, EventListenerOptions};
use std::cell::Cell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use web_sys::{Element, Event, PointerEvent, ResizeObserver, WheelEvent};
use yew::prelude::*;

/// A viewport that listens to the user, and what of the scene is to be drawn now.
#[hook]
pub fn use_viewport() -> (Rc<Viewport>, Window) {
    let viewport = use_memo((), |()| Viewport::default());
    let window = use_state(|| Window {
        rect: super::geometry::Rect {
            width: 2000.0,
            height: 1400.0,
            ..Default::default()
        },
        scale: 1.0,
    });
    {
        let (viewport, window) = (viewport.clone(), window.clone());
        use_effect_with((), move |()| {
            viewport.listen(Callback::from(move |next| window.set(next)));
            let listeners = listen(&viewport);
            let observed = observe(&viewport);
            move || {
                viewport.listen(Callback::noop());
                drop(listeners);
                drop(observed);
            }
        });
    }
    {
        // A scene that changed may need more drawn than the old one.
        let viewport = viewport.clone();
        use_effect(move || viewport.refresh());
    }
    (viewport, *window)
}

fn listen(viewport: &Rc<Viewport>) -> Vec<EventListener> {
    let Some(frame) = viewport.frame.cast::<Element>() else {
        return Vec::new();
    };
    let on = |name: &'static str, react: Box<dyn Fn(&Event)>| {
        let options = EventListenerOptions::enable_prevent_default();
        EventListener::new_with_options(&frame, name, options, move |event| react(event))
    };
    let mut listeners = vec![
        on("wheel", wheel(viewport.clone())),
        on("scroll", {
            let viewport = viewport.clone();
            Box::new(move |_| viewport.refresh())
        }),
    ];
    let held = Rc::new(Cell::new(None));
    listeners.extend(
        ["touchstart", "touchmove", "touchend", "touchcancel"].map(|name| {
            let (viewport, held) = (viewport.clone(), held.clone());
            on(name, Box::new(move |event| pinch(&viewport, &held, event)))
        }),
    );
    let grip = Rc::new(Cell::new(None));
    listeners.extend(
        ["pointerdown", "pointermove", "pointerup", "pointercancel"].map(|name| {
            let (viewport, grip) = (viewport.clone(), grip.clone());
            on(name, Box::new(move |event| drag(&viewport, &grip, event)))
        }),
    );
    listeners
}

/// With Ctrl the wheel zooms at the pointer, as a pinch on a touchpad does; alone it scrolls.
fn wheel(viewport: Rc<Viewport>) -> Box<dyn Fn(&Event)> {
    // Turns of the wheel since the last frame, and where the pointer is.
    let pending = Rc::new(Cell::new(None::<(f64, f64, f64)>));
    Box::new(move |event| {
        let Some(event) = event.dyn_ref::<WheelEvent>() else {
            return;
        };
        if !event.ctrl_key() && !event.meta_key() {
            return;
        }
        event.prevent_default();
        let unit = match event.delta_mode() {
            WheelEvent::DOM_DELTA_LINE => 16.0,
            WheelEvent::DOM_DELTA_PAGE => 400.0,
            _ => 1.0,
        };
        let turn = (event.delta_y() * unit).clamp(-240.0, 240.0);
        let (x, y) = (f64::from(event.client_x()), f64::from(event.client_y()));
        let waiting = pending.get();
        pending.set(Some((waiting.map_or(0.0, |(turn, ..)| turn) + turn, x, y)));
        if waiting.is_none() {
            let (viewport, pending) = (viewport.clone(), pending.clone());
            next_frame(move |_| {
                if let Some((turn, x, y)) = pending.take() {
                    let at = viewport.local(x, y);
                    viewport.zoom_by((-turn * 0.0022).exp(), Some(at));
                }
            });
        }
    })
}

/// Calls back before the next frame is drawn, with the time in milliseconds.
pub fn next_frame(act: impl FnOnce(f64) + 'static) {
    let act = Closure::once_into_js(act);
    let _ = gloo::utils::window().request_animation_frame(act.unchecked_ref());
}

/// Distance between two fingers and their middle, in the window's pixels.
fn fingers(event: &Event) -> Option<(f64, f64, f64)> {
    let touches = js::get(event, "touches");
    if js::get(&touches, "length").as_f64()? != 2.0 {
        return None;
    }
    let place = |nth: &str| {
        let touch = js::get(&touches, nth);
        let part = |name| js::get(&touch, name).as_f64();
        Some((part("clientX")?, part("clientY")?))
    };
    let ((ax, ay), (bx, by)) = (place("0")?, place("1")?);
    let distance = (ax - bx).hypot(ay - by).max(1.0);
    Some((distance, (ax + bx) / 2.0, (ay + by) / 2.0))
}

/// Two fingers zoom; one scrolls, which the browser does by itself.
fn pinch(viewport: &Viewport, held: &Cell<Option<(f64, f64, f64)>>, event: &Event) {
    let now = fingers(event);
    if let (Some((was, old_x, old_y)), Some((distance, x, y))) = (held.get(), now)
        && event.type_() == "touchmove"
    {
        event.prevent_default();
        viewport.pan(old_x - x, old_y - y);
        viewport.zoom_by(distance / was, Some(viewport.local(x, y)));
    }
    held.set(now);
}

/// The mouse drags the scene by its empty parts; with the middle button, by any.
fn drag(viewport: &Viewport, grip: &Cell<Option<(f64, f64)>>, event: &Event) {
    let Some(event) = event.dyn_ref::<PointerEvent>() else {
        return;
    };
    let Some(frame) = viewport.frame.cast::<Element>() else {
        return;
    };
    let (x, y) = (f64::from(event.client_x()), f64::from(event.client_y()));
    match event.type_().as_str() {
        "pointerdown" if event.pointer_type() == "mouse" => {
            let target = event.target().and_then(|t| t.dyn_into::<Element>().ok());
            let empty = target.is_some_and(|t| t.closest(".layer").ok().flatten().is_none());
            let (local_x, local_y) = viewport.local(x, y);
            let (width, height) = viewport.size();
            // Beyond them are the scroll bars.
            let inside = local_x < width && local_y < height;
            if inside && (event.button() == 1 || event.button() == 0 && empty) {
                event.prevent_default();
                let _ = frame.set_pointer_capture(event.pointer_id());
                let _ = frame.class_list().add_1("stage--held");
                grip.set(Some((x, y)));
            }
        }
        "pointermove" => {
            if let Some((was_x, was_y)) = grip.get() {
                viewport.pan(was_x - x, was_y - y);
                grip.set(Some((x, y)));
            }
        }
        _ => {
            if grip.take().is_some() {
                let _ = frame.class_list().remove_1("stage--held");
            }
        }
    }
}

/// Refreshes when the viewport's size changes. Ends when dropped.
fn observe(viewport: &Rc<Viewport>) -> Option<Observed> {
    let frame = viewport.frame.cast::<Element>()?;
    let react = {
        let viewport = viewport.clone();
        Closure::<dyn FnMut()>::new(move || viewport.refresh())
    };
    let observer = ResizeObserver::new(react.as_ref().unchecked_ref()).ok()?;
    observer.observe(&frame);
    Some(Observed {
        observer,
        _react: react,
    })
}

struct Observed {
    observer: ResizeObserver,
    _react: Closure<dyn FnMut()>,
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.observer.disconnect();
    }
}
