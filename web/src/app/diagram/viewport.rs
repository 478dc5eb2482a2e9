//! The window onto a large scene: native scrolling, and a scale of its own.

use super::geometry::Rect;
use std::cell::{Cell, RefCell};
use wasm_bindgen::JsCast;
use web_sys::HtmlElement;
use yew::prelude::*;

/// The smallest and the largest scale.
pub const LEAST: f64 = 0.05;
pub const MOST: f64 = 2.5;
/// One step of a button or a key.
pub const STEP: f64 = 1.25;

/// What of the scene is drawn, and how large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// In the scene's pixels; more than is seen, so that not every step of scrolling draws.
    pub rect: Rect,
    pub scale: f64,
}

/// The scrolling element, its content, and what was told of it last.
pub struct Viewport {
    /// Scrolls.
    pub frame: NodeRef,
    /// As large as the scaled scene.
    pub sizer: NodeRef,
    /// The scene at 100 %, scaled by a transformation.
    pub area: NodeRef,
    /// The frame on the small map.
    pub lens: NodeRef,
    scene: Cell<(f64, f64)>,
    scale: Cell<f64>,
    drawn: Cell<Option<Window>>,
    /// What to do when something else must be drawn.
    listener: RefCell<Callback<Window>>,
}

impl Default for Viewport {
    fn default() -> Self {
        Self {
            frame: NodeRef::default(),
            sizer: NodeRef::default(),
            area: NodeRef::default(),
            lens: NodeRef::default(),
            scene: Cell::new((1.0, 1.0)),
            scale: Cell::new(1.0),
            drawn: Cell::new(None),
            listener: RefCell::new(Callback::noop()),
        }
    }
}

impl Viewport {
    pub fn listen(&self, listener: Callback<Window>) {
        *self.listener.borrow_mut() = listener;
    }

    /// Takes in the size of a scene that is about to be drawn.
    pub fn resize(&self, width: f64, height: f64) {
        if self.scene.replace((width.max(1.0), height.max(1.0))) != (width, height) {
            self.drawn.set(None);
        }
    }

    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale.get()
    }

    fn frame(&self) -> Option<HtmlElement> {
        self.frame.cast()
    }

    /// Width and height of what is seen, in CSS pixels.
    #[must_use]
    pub fn size(&self) -> (f64, f64) {
        self.frame().map_or((1.0, 1.0), |frame| {
            (
                f64::from(frame.client_width().max(1)),
                f64::from(frame.client_height().max(1)),
            )
        })
    }

    /// Where the scaled scene begins within the scrolled content: a small one is centred.
    fn origin(&self, scale: f64) -> f64 {
        let (width, _) = self.size();
        ((width - self.scene.get().0 * scale) / 2.0).max(0.0)
    }

    /// What is seen, in the scene's pixels.
    #[must_use]
    pub fn seen(&self) -> Rect {
        let (width, height) = self.size();
        let scale = self.scale.get();
        let frame = self.frame();
        let (left, top) = frame.map_or((0, 0), |f| (f.scroll_left(), f.scroll_top()));
        Rect {
            left: (f64::from(left) - self.origin(scale)) / scale,
            top: f64::from(top) / scale,
            width: width / scale,
            height: height / scale,
        }
    }

    /// Has drawn what is missing after scrolling, zooming, or a change of size.
    pub fn refresh(&self) {
        let seen = self.seen();
        let scale = self.scale.get();
        self.show_lens(&seen);
        let fits = self.drawn.get().is_some_and(|drawn| {
            let enough = seen.grown(seen.width * 0.1, seen.height * 0.1);
            drawn.scale == scale && drawn.rect.holds(&clip(&enough, self.scene.get()))
        });
        if !fits {
            let rect = seen.grown(seen.width * 0.4, seen.height * 0.6);
            let window = Window { rect, scale };
            self.drawn.set(Some(window));
            let listener = self.listener.borrow().clone();
            listener.emit(window);
        }
    }

    fn show_lens(&self, seen: &Rect) {
        let Some(lens) = self.lens.cast::<HtmlElement>() else {
            return;
        };
        let (width, height) = self.scene.get();
        let seen = clip(seen, (width, height));
        let style = lens.style();
        let parts = [
            ("left", seen.left / width),
            ("top", seen.top / height),
            ("width", seen.width / width),
            ("height", seen.height / height),
        ];
        for (name, share) in parts {
            let _ = style.set_property(name, &format!("{:.2}%", share * 100.0));
        }
    }

    /// Changes the scale; what is at `at` (in the frame, CSS pixels) stays there.
    pub fn zoom_to(&self, scale: f64, at: Option<(f64, f64)>) {
        let old = self.scale.get();
        let scale = scale.clamp(LEAST, MOST);
        let (width, height) = self.size();
        let (x, y) = at.unwrap_or((width / 2.0, height / 2.0));
        let Some(frame) = self.frame() else { return };
        let point = (
            (f64::from(frame.scroll_left()) + x - self.origin(old)) / old,
            (f64::from(frame.scroll_top()) + y) / old,
        );
        self.scale.set(scale);
        self.apply();
        frame.set_scroll_left(whole(point.0 * scale + self.origin(scale) - x));
        frame.set_scroll_top(whole(point.1 * scale - y));
        self.refresh();
    }

    pub fn zoom_by(&self, factor: f64, at: Option<(f64, f64)>) {
        self.zoom_to(self.scale.get() * factor, at);
    }

    /// The scale at which everything is seen at once.
    #[must_use]
    pub fn fitting(&self, highest: f64) -> f64 {
        let (width, _) = self.size();
        let (scene_width, scene_height) = self.scene.get();
        (width / scene_width)
            .min(highest / scene_height)
            .clamp(LEAST, 1.0)
    }

    /// Sets the sizes that follow from the scale, ahead of the next drawing.
    fn apply(&self) {
        let (width, height) = self.scene.get();
        let scale = self.scale.get();
        if let Some(sizer) = self.sizer.cast::<HtmlElement>() {
            let _ = sizer.set_attribute("style", &sizer_style(width, height, scale));
        }
        if let Some(area) = self.area.cast::<HtmlElement>() {
            let _ = area.set_attribute("style", &area_style(width, height, scale));
        }
    }

    /// Scrolls by so many CSS pixels.
    pub fn pan(&self, x: f64, y: f64) {
        if let Some(frame) = self.frame() {
            frame.set_scroll_left(frame.scroll_left() + whole(x));
            frame.set_scroll_top(frame.scroll_top() + whole(y));
        }
    }

    /// Scrolls until all of `rect` is seen, with some room around.
    pub fn reveal(&self, rect: &Rect) {
        let seen = self.seen();
        let room = rect.grown(24.0, 24.0);
        let by = |start: f64, end: f64, seen_start: f64, seen_end: f64| {
            if start < seen_start {
                start - seen_start
            } else if end > seen_end {
                (end - seen_end).min(start - seen_start)
            } else {
                0.0
            }
        };
        let x = by(room.left, room.right(), seen.left, seen.right());
        let y = by(room.top, room.bottom(), seen.top, seen.bottom());
        if x != 0.0 || y != 0.0 {
            let scale = self.scale.get();
            self.pan(x * scale, y * scale);
            self.refresh();
        }
    }

    /// Brings a point of the scene into the middle.
    pub fn centre(&self, (x, y): (f64, f64)) {
        let (seen_x, seen_y) = self.seen().middle();
        let scale = self.scale.get();
        self.pan((x - seen_x) * scale, (y - seen_y) * scale);
        self.refresh();
    }

    /// A point of the window in the frame's own pixels.
    #[must_use]
    pub fn local(&self, x: f64, y: f64) -> (f64, f64) {
        let frame = self.frame();
        let bounds = frame.map(|frame| frame.get_bounding_client_rect());
        bounds.map_or((x, y), |bounds| (x - bounds.left(), y - bounds.top()))
    }

    /// Gives the keyboard to the box `id`, when it is drawn.
    pub fn focus(&self, id: u32) {
        let area = self.area.cast::<HtmlElement>();
        let found = area.and_then(|area| {
            let found = area.query_selector(&format!("[data-id=\"{id}\"]"));
            found.ok().flatten()
        });
        if let Some(found) = found.and_then(|found| found.dyn_into::<HtmlElement>().ok()) {
            let _ = found.focus();
        }
    }
}

#[must_use]
pub fn sizer_style(width: f64, height: f64, scale: f64) -> String {
    format!(
        "width:{:.0}px;height:{:.0}px",
        width * scale,
        height * scale
    )
}

#[must_use]
pub fn area_style(width: f64, height: f64, scale: f64) -> String {
    format!("width:{width:.0}px;height:{height:.0}px;transform:scale({scale:.4})")
}

/// The part of `rect` that lies on the scene.
fn clip(rect: &Rect, (width, height): (f64, f64)) -> Rect {
    let (left, top) = (rect.left.clamp(0.0, width), rect.top.clamp(0.0, height));
    Rect {
        left,
        top,
        width: rect.right().clamp(left, width) - left,
        height: rect.bottom().clamp(top, height) - top,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a place on the screen")]
fn whole(pixels: f64) -> i32 {
    pixels.round() as i32
}

impl PartialEq for Viewport {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
