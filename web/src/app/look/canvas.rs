//! Pixels: an image made once, drawn as often as the view moves.

use wasm_bindgen::{Clamped, JsCast, JsValue};
use web_sys::{CanvasRenderingContext2d, HtmlCanvasElement, ImageData};

/// A colour: red, green, blue.
pub type Rgb = [u8; 3];

/// The colour that a custom property of the page's style names, as `#rrggbb`.
#[must_use]
pub fn colour(property: &str) -> Rgb {
    let window = gloo::utils::window();
    let root = gloo::utils::document().document_element();
    let style = root.and_then(|root| window.get_computed_style(&root).ok().flatten());
    let value = style.and_then(|style| style.get_property_value(property).ok());
    let value = value.unwrap_or_default();
    let digits = value.trim().trim_start_matches('#');
    let part = |at: usize| {
        let pair = digits.get(at..at + 2);
        pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .unwrap_or(128)
    };
    [part(0), part(2), part(4)]
}

/// `share` (0 to 1) of `b` over `a`.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between two bytes"
)]
pub fn mix(a: Rgb, b: Rgb, share: f64) -> Rgb {
    let mixed = |n: usize| {
        let (a, b) = (f64::from(a[n]), f64::from(b[n]));
        (a + (b - a) * share.clamp(0.0, 1.0)).round() as u8
    };
    [mixed(0), mixed(1), mixed(2)]
}

/// An image of `width` times `height` pixels that is not on the page.
///
/// # Errors
/// What the browser says, for instance when there is no memory for it.
pub fn image(rgba: &[u8], width: u32, height: u32) -> Result<HtmlCanvasElement, JsValue> {
    let element = gloo::utils::document().create_element("canvas")?;
    let canvas: HtmlCanvasElement = element.unchecked_into();
    canvas.set_width(width);
    canvas.set_height(height);
    let data = ImageData::new_with_u8_clamped_array_and_sh(Clamped(rgba), width, height)?;
    context(&canvas)?.put_image_data(&data, 0.0, 0.0)?;
    Ok(canvas)
}

/// The drawing context of a canvas.
///
/// # Errors
/// When the browser has none.
pub fn context(canvas: &HtmlCanvasElement) -> Result<CanvasRenderingContext2d, JsValue> {
    let context = canvas.get_context("2d")?;
    context
        .and_then(|context| context.dyn_into().ok())
        .ok_or_else(|| JsValue::from_str("this browser cannot draw"))
}

/// Makes the canvas as many pixels large as it is on the screen, and empties it. Returns its
/// context, and width and height.
///
/// # Errors
/// When the browser has no context.
pub fn clear(canvas: &HtmlCanvasElement) -> Result<(CanvasRenderingContext2d, f64, f64), JsValue> {
    let pixels = |n: i32| u32::try_from(n).unwrap_or(1).max(1);
    let (width, height) = (
        pixels(canvas.client_width()),
        pixels(canvas.client_height()),
    );
    if (canvas.width(), canvas.height()) != (width, height) {
        canvas.set_width(width);
        canvas.set_height(height);
    }
    let context = context(canvas)?;
    let (width, height) = (f64::from(width), f64::from(height));
    context.clear_rect(0.0, 0.0, width, height);
    context.set_image_smoothing_enabled(false);
    Ok((context, width, height))
}
