//! Drawing the cluster map: an image made once for each map, stretched as the view moves.

use super::canvas::{self, Rgb};
use super::map_table::NAMES;
use super::range::View;
use crate::protocol::look::{CLASSES, MapSeen};
use std::rc::Rc;
use wasm_bindgen::JsValue;
use web_sys::HtmlCanvasElement;

/// Rows of pixels of a lane's image.
const ROWS: u32 = 8;

/// The image of a map, as long as the map and the theme stay the same.
pub type Drawn = Option<(Rc<MapSeen>, bool, HtmlCanvasElement)>;

/// Draws the part of the map that the view shows.
///
/// # Errors
/// What the browser says.
pub fn draw(
    canvas: &HtmlCanvasElement,
    drawn: &mut Drawn,
    seen: &Rc<MapSeen>,
    view: View,
    dark: bool,
) -> Result<(), JsValue> {
    let known = drawn
        .as_ref()
        .is_some_and(|(map, was, _)| Rc::ptr_eq(map, seen) && *was == dark);
    if !known {
        *drawn = Some((seen.clone(), dark, picture(seen)?));
    }
    let Some((.., picture)) = drawn else {
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
pub fn blend(cell: &[u8], colours: &[Rgb; CLASSES], empty: Rgb) -> Rgb {
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
