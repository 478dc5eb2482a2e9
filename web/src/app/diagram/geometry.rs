//! Where boxes and arrows lie, in CSS pixels at 100 %.

use super::layout::{Link, Place};
use std::collections::HashMap;
use std::fmt::Write;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rect {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

impl Rect {
    #[must_use]
    pub fn right(&self) -> f64 {
        self.left + self.width
    }

    #[must_use]
    pub fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// Its middle.
    #[must_use]
    pub fn middle(&self) -> (f64, f64) {
        (self.left + self.width / 2.0, self.top + self.height / 2.0)
    }

    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.left <= other.right()
            && other.left <= self.right()
            && self.top <= other.bottom()
            && other.top <= self.bottom()
    }

    /// Whether all of `other` lies in it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        self.left <= other.left
            && self.top <= other.top
            && self.right() >= other.right()
            && self.bottom() >= other.bottom()
    }

    /// Larger on all sides.
    #[must_use]
    pub fn grown(&self, by_x: f64, by_y: f64) -> Self {
        Self {
            left: self.left - by_x,
            top: self.top - by_y,
            width: self.width + 2.0 * by_x,
            height: self.height + 2.0 * by_y,
        }
    }

    /// The smallest one that holds both.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let (left, top) = (self.left.min(other.left), self.top.min(other.top));
        Self {
            left,
            top,
            width: self.right().max(other.right()) - left,
            height: self.bottom().max(other.bottom()) - top,
        }
    }

    /// The one on the way from here to `other`: 0 is here, 1 there.
    #[must_use]
    pub fn toward(&self, other: &Self, share: f64) -> Self {
        let mix = |a: f64, b: f64| a + (b - a) * share;
        Self {
            left: mix(self.left, other.left),
            top: mix(self.top, other.top),
            width: mix(self.width, other.width),
            height: mix(self.height, other.height),
        }
    }
}

/// How chains run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// From left to right, branches below.
    Across,
    /// From top to bottom, branches indented.
    Upright,
}

/// What a scene is made for.
#[derive(Clone, Copy)]
pub struct Room<'a> {
    /// Width to draw in.
    pub width: f64,
    /// Small boxes, for before and after.
    pub compact: bool,
    /// `None`: whatever fits.
    pub shape: Option<Shape>,
    /// There are curves, which need a margin.
    pub curves: bool,
    /// How large each box is, from 0 to 1; all are equal where there is none.
    pub sizes: &'a HashMap<u32, f64>,
}

/// A box with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub place: Place,
    pub rect: Rect,
    /// Which of its backing file's overlays it is, counted from 1, and how many there are.
    pub sibling: (u32, u32),
}

/// All boxes with their places.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    pub shape: Shape,
    pub compact: bool,
    pub width: f64,
    pub height: f64,
    /// In drawing order.
    pub items: Vec<Item>,
    /// Links that close a loop: they have no place in a tree, and are drawn as curves.
    pub closing: Vec<(u32, u32)>,
    index: HashMap<u32, usize>,
    rail: f64,
}

/// Around everything, for shadows and focus rings.
const PAD: f64 = 6.0;
/// What a box side by side must have to be readable, and more than it needs.
const LEAST: f64 = 148.0;
const MOST: f64 = 216.0;
/// Its width when not all fit side by side.
const USUAL: f64 = 184.0;
/// Rows narrower than this have two lines.
const NARROW: f64 = 620.0;

struct Metrics {
    shape: Shape,
    width: f64,
    height: f64,
    /// How much a box grows from the smallest size to the largest; less than `height` is the
    /// smallest then.
    growth: (f64, f64),
    gap_x: f64,
    gap_y: f64,
    indent: f64,
    /// Room for curves, below or at the right.
    margin: f64,
    pad: f64,
}

impl Metrics {
    fn new(room: &Room<'_>, columns: u32) -> Self {
        let pad = if room.compact { 1.0 } else { PAD };
        let columns = f64::from(columns.max(1));
        let (least, most, gap_x): (f64, f64, f64) = if room.compact {
            (98.0, 150.0, 34.0)
        } else {
            (LEAST, MOST, 44.0)
        };
        let fitting = ((room.width - 2.0 * pad + gap_x) / columns - gap_x).min(most);
        let shape = room.shape.unwrap_or(if fitting < least {
            Shape::Upright
        } else {
            Shape::Across
        });
        let upright = shape == Shape::Upright;
        let (height, growth) = match (room.compact, shape) {
            (true, _) => (38.0, (38.0, 38.0)),
            (false, Shape::Across) => (126.0, (66.0, 250.0)),
            (false, Shape::Upright) if room.width < NARROW => (82.0, (66.0, 190.0)),
            (false, Shape::Upright) => (42.0, (34.0, 150.0)),
        };
        Self {
            shape,
            width: if fitting < least { USUAL } else { fitting },
            height,
            growth,
            gap_x,
            gap_y: match (room.compact, upright) {
                (true, true) => 20.0,
                (false, true) => 14.0,
                _ => 26.0,
            },
            indent: if room.compact { 22.0 } else { 26.0 },
            margin: match (room.curves, upright) {
                (false, _) => 0.0,
                (true, false) => 30.0,
                (true, true) => 44.0,
            },
            pad,
        }
    }

    fn height_of(&self, id: u32, sizes: &HashMap<u32, f64>) -> f64 {
        let (least, most) = self.growth;
        match sizes.get(&id) {
            Some(size) => least + (most - least) * size.clamp(0.0, 1.0),
            None => self.height,
        }
    }
}

impl Scene {
    #[must_use]
    pub fn new(places: &[Place], links: &[Link], room: &Room<'_>) -> Self {
        let index: HashMap<u32, usize> = places.iter().map(|p| p.id).zip(0..).collect();
        let closing: Vec<(u32, u32)> = links
            .iter()
            .filter_map(|link| Some((link.id, link.backing?)))
            .filter(|(id, backing)| {
                let at = index.get(id).and_then(|&at| places.get(at));
                at.is_some_and(|place| place.backing.is_none()) && index.contains_key(backing)
            })
            .collect();
        let columns = places.iter().map(|p| p.depth + 1).max().unwrap_or(1);
        let room = Room {
            curves: room.curves || !closing.is_empty(),
            ..*room
        };
        let metrics = Metrics::new(&room, columns);
        let rects = match metrics.shape {
            Shape::Across => across(places, &metrics, room.sizes),
            Shape::Upright => upright(places, &metrics, &room),
        };
        let mut siblings: HashMap<Option<u32>, u32> = HashMap::new();
        let nth: Vec<u32> = places
            .iter()
            .map(|place| {
                let count = siblings.entry(place.backing).or_default();
                *count += 1;
                *count
            })
            .collect();
        let items: Vec<Item> = places
            .iter()
            .zip(rects)
            .zip(nth)
            .map(|((place, rect), nth)| Item {
                place: *place,
                rect,
                sibling: (nth, siblings.get(&place.backing).copied().unwrap_or(1)),
            })
            .collect();
        let all = items
            .iter()
            .map(|item| item.rect)
            .reduce(|a, b| a.with(&b))
            .unwrap_or_default();
        let (right, below) = match metrics.shape {
            Shape::Across => (0.0, metrics.margin),
            Shape::Upright => (metrics.margin, 0.0),
        };
        Self {
            shape: metrics.shape,
            compact: room.compact,
            width: all.right() + right + metrics.pad,
            height: all.bottom() + below + metrics.pad,
            items,
            closing,
            index,
            rail: if room.compact { 11.0 } else { 14.0 },
        }
    }

    #[must_use]
    pub fn item(&self, id: u32) -> Option<&Item> {
        self.items.get(*self.index.get(&id)?)
    }

    /// The boxes that `window` shows a part of.
    pub fn within(&self, window: Rect) -> impl Iterator<Item = &Item> {
        self.items
            .iter()
            .filter(move |item| item.rect.meets(&window))
    }

    /// The box beside `id`: next in drawing order, nearest in the next row, or along its chain.
    #[must_use]
    pub fn neighbour(&self, id: u32, step: Step) -> Option<u32> {
        let at = *self.index.get(&id)?;
        let here = self.items.get(at)?;
        let found = match (step, self.shape) {
            (Step::Backing, _) => self.item(here.place.backing?)?,
            (Step::Overlay, _) => self
                .items
                .iter()
                .filter(|item| item.place.backing == Some(id))
                .min_by_key(|item| (item.place.row, item.place.order))?,
            (Step::Base, _) => self
                .items
                .iter()
                .rev()
                .skip(self.items.len() - at - 1)
                .find(|item| item.place.depth == 0)?,
            (Step::Tip, _) => {
                let mut tip = here;
                while let Some(next) = self.neighbour(tip.place.id, Step::Overlay) {
                    tip = self.item(next)?;
                }
                tip
            }
            (Step::Down, Shape::Upright) => self.items.get(at + 1)?,
            (Step::Up, Shape::Upright) => self.items.get(at.checked_sub(1)?)?,
            (Step::Down | Step::Up, Shape::Across) => {
                let down = step == Step::Down;
                let beyond = |item: &&Item| {
                    let (row, here) = (item.place.row, here.place.row);
                    if down { row > here } else { row < here }
                };
                self.items.iter().filter(beyond).min_by_key(|item| {
                    let away = item.place.row.abs_diff(here.place.row);
                    (away, item.place.depth.abs_diff(here.place.depth))
                })?
            }
        };
        Some(found.place.id)
    }

    /// The arrow from an overlay to its backing file.
    #[must_use]
    pub fn arrow(&self, overlay: &Rect, backing: &Rect) -> String {
        let (_, middle) = overlay.middle();
        let mut path = String::new();
        match self.shape {
            Shape::Upright => {
                let rail = backing.left + self.rail;
                let end = backing.bottom() + 2.0;
                if overlay.left <= rail {
                    let _ = write!(path, "M{rail:.1} {:.1}V{end:.1}", overlay.top);
                } else {
                    elbow(&mut path, (overlay.left, middle), (rail, end), 8.0);
                }
                head_up(&mut path, rail, end);
            }
            Shape::Across => {
                let (_, level) = backing.middle();
                if (level - middle).abs() < 1.0 {
                    let end = backing.right() + 3.0;
                    let _ = write!(path, "M{:.1} {middle:.1}H{end:.1}", overlay.left);
                    head_left(&mut path, end, middle);
                } else {
                    let (rail, _) = backing.middle();
                    let end = backing.bottom() + 3.0;
                    elbow(&mut path, (overlay.left, middle), (rail, end), 10.0);
                    head_up(&mut path, rail, end);
                }
            }
        }
        path
    }

    /// The way of data from the layer that holds it to the one it is merged into, and the
    /// curve's head.
    #[must_use]
    pub fn curve(&self, from: &Rect, to: &Rect) -> (String, String) {
        let mut head = String::new();
        let line = match self.shape {
            Shape::Upright => {
                let ((_, y), (_, to_y)) = (from.middle(), to.middle());
                let (a, b) = (from.right() + 2.0, to.right() + 4.0);
                let out = a.max(b) + 34.0;
                head_left(&mut head, b, to_y);
                format!("M{a:.1} {y:.1}C{out:.1} {y:.1} {out:.1} {to_y:.1} {b:.1} {to_y:.1}")
            }
            Shape::Across => {
                let ((x, _), (to_x, _)) = (from.middle(), to.middle());
                let (a, b) = (from.bottom() + 2.0, to.bottom() + 4.0);
                let low = a.max(b) + 26.0;
                head_up(&mut head, to_x, b);
                format!("M{x:.1} {a:.1}C{x:.1} {low:.1} {to_x:.1} {low:.1} {to_x:.1} {b:.1}")
            }
        };
        (line, head)
    }
}

/// Where a key leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Backing,
    Overlay,
    Up,
    Down,
    /// The start of the chain.
    Base,
    /// Its end, along the longest branch.
    Tip,
}

/// Left to the rail, and up along it.
fn elbow(path: &mut String, from: (f64, f64), to: (f64, f64), round: f64) {
    let ((x, y), (rail, end)) = (from, to);
    let above = if end < y { -round } else { round };
    let _ = write!(
        path,
        "M{x:.1} {y:.1}H{:.1}Q{rail:.1} {y:.1} {rail:.1} {:.1}V{end:.1}",
        rail + round,
        y + above
    );
}

fn head_up(path: &mut String, x: f64, y: f64) {
    let _ = write!(path, "M{:.1} {:.1}l4.5 -6.5l4.5 6.5", x - 4.5, y + 6.5);
}

fn head_left(path: &mut String, x: f64, y: f64) {
    let _ = write!(path, "M{:.1} {:.1}l-6.5 4.5l6.5 4.5", x + 6.5, y - 4.5);
}

fn across(places: &[Place], metrics: &Metrics, sizes: &HashMap<u32, f64>) -> Vec<Rect> {
    // A row is as high as the largest of its boxes; all stand on its middle line.
    let mut rows: Vec<f64> = Vec::new();
    for place in places {
        let row = usize::try_from(place.row).unwrap_or(0);
        if rows.len() <= row {
            rows.resize(row + 1, 0.0);
        }
        if let Some(height) = rows.get_mut(row) {
            *height = height.max(metrics.height_of(place.id, sizes));
        }
    }
    let mut top = metrics.pad;
    let middles: Vec<f64> = rows
        .iter()
        .map(|height| {
            let middle = top + height / 2.0;
            top += height + metrics.gap_y;
            middle
        })
        .collect();
    let rect = |place: &Place| {
        let height = metrics.height_of(place.id, sizes);
        let row = usize::try_from(place.row).unwrap_or(0);
        let middle = middles.get(row).copied().unwrap_or(0.0);
        Rect {
            left: metrics.pad + f64::from(place.depth) * (metrics.width + metrics.gap_x),
            top: middle - height / 2.0,
            width: metrics.width,
            height,
        }
    };
    places.iter().map(rect).collect()
}

fn upright(places: &[Place], metrics: &Metrics, room: &Room<'_>) -> Vec<Rect> {
    // Indented at most to the middle.
    let lanes = (room.width * 0.4 / metrics.indent).max(1.0);
    let mut top = metrics.pad;
    let rect = |place: &Place| {
        let left = metrics.pad + f64::from(place.lane).min(lanes) * metrics.indent;
        let height = metrics.height_of(place.id, room.sizes);
        let most = if room.compact { 420.0 } else { f64::MAX };
        let width = room.width - left - metrics.margin - metrics.pad;
        let at = top;
        top += height + metrics.gap_y;
        Rect {
            left,
            top: at,
            width: width.max(120.0).min(most),
            height,
        }
    };
    places.iter().map(rect).collect()
}

#[cfg(test)]
mod tests {
    use super::super::layout::place;
    use super::*;
    use wasm_bindgen_test::wasm_bindgen_test;

    fn scene(links: &[Link], shape: Shape, width: f64) -> Scene {
        let sizes = HashMap::new();
        let room = Room {
            width,
            compact: false,
            shape: Some(shape),
            curves: false,
            sizes: &sizes,
        };
        Scene::new(&place(links), links, &room)
    }

    /// A base with three overlays, the first of which has three more on top.
    fn tree() -> Vec<Link> {
        [
            (0, None),
            (1, Some(0)),
            (2, Some(1)),
            (3, Some(2)),
            (4, Some(0)),
            (5, Some(0)),
        ]
        .map(|(id, backing)| Link {
            id,
            backing,
            dim: false,
        })
        .to_vec()
    }

    #[wasm_bindgen_test]
    fn boxes_never_overlap() {
        for shape in [Shape::Across, Shape::Upright] {
            let scene = scene(&tree(), shape, 700.0);
            for (nth, a) in scene.items.iter().enumerate() {
                for b in scene.items.iter().skip(nth + 1) {
                    assert!(!a.rect.meets(&b.rect), "{a:?} {b:?}");
                }
            }
        }
    }

    #[wasm_bindgen_test]
    fn every_box_is_reached_by_keys_from_every_other() {
        let steps = [Step::Backing, Step::Overlay, Step::Up, Step::Down];
        for shape in [Shape::Across, Shape::Upright] {
            let scene = scene(&tree(), shape, 700.0);
            for start in 0..6 {
                let mut reached = vec![start];
                let mut at = 0;
                while let Some(&id) = reached.get(at) {
                    at += 1;
                    for step in steps {
                        let next = scene.neighbour(id, step);
                        reached.extend(next.filter(|id| !reached.contains(id)));
                    }
                }
                assert_eq!(reached.len(), 6, "{shape:?} from {start}");
            }
            assert_eq!(scene.neighbour(2, Step::Base), Some(0));
            assert_eq!(scene.neighbour(0, Step::Tip), Some(3));
        }
    }

    #[wasm_bindgen_test]
    fn siblings_are_counted() {
        let scene = scene(&tree(), Shape::Across, 700.0);
        let mut seen: Vec<_> = [1, 4, 5]
            .iter()
            .filter_map(|&id| scene.item(id))
            .map(|item| item.sibling)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [(1, 3), (2, 3), (3, 3)]);
    }

    #[wasm_bindgen_test]
    fn a_tree_of_two_hundred_layers_is_laid_out_in_milliseconds() {
        let links: Vec<Link> = (0..200)
            .map(|id: u32| Link {
                id,
                backing: id.checked_sub(if id.is_multiple_of(4) { id / 2 + 1 } else { 1 }),
                dim: false,
            })
            .collect();
        let start = crate::js::now();
        let scene = scene(&links, Shape::Across, 1200.0);
        assert_eq!(scene.items.len(), 200);
        let took = crate::js::now() - start;
        assert!(took < 50.0, "{took} ms, unoptimised");
    }
}
