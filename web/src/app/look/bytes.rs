//! Bytes: of the guest's disk or of the file, with the fields of the format named.

use super::hex::{ROW, SCREEN, fields, rows, target};
use super::needle;
use super::owner;
use super::seek::{self, Seek, screen_of};
use super::spot::Spot;
use crate::app::text;
use crate::protocol::look::{AtSeen, BytesSeen, FindSeen, Look, Space};
use crate::protocol::{LayerId, Tree};
use gloo::timers::callback::Timeout;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::{HtmlInputElement, HtmlSelectElement};
use yew::prelude::*;

/// Steps of the slider.
const STEPS: u64 = 10_000;
/// Places remembered.
const REMEMBERED: usize = 200;

#[derive(Clone, PartialEq, Properties)]
pub struct BytesViewProperties {
    pub tree: Rc<Tree>,
    pub layer: LayerId,
    pub spot: Spot,
    pub onspot: Callback<Spot>,
    pub onselect: Callback<LayerId>,
    pub seen: Option<Rc<BytesSeen>>,
    pub find: Option<Rc<FindSeen>>,
    /// The guest byte of the first one shown, when that was asked for.
    pub at: Option<Rc<AtSeen>>,
    pub onlook: Callback<Look>,
}

/// A place that was left.
type Left = (LayerId, Space, u64);

/// Where one was before, and where one came back from.
#[derive(Default, PartialEq, Clone)]
struct Trail {
    back: Vec<Left>,
    on: Vec<Left>,
}

#[function_component(BytesView)]
pub fn bytes_view(props: &BytesViewProperties) -> Html {
    let wrong = use_state(|| None::<String>);
    let trail = use_state(Trail::default);
    let spot = props.spot;
    let (space, beside) = (spot.space, spot.beside.filter(|id| *id != props.layer));
    let start = spot.at / ROW * ROW;
    {
        let onlook = props.onlook.clone();
        // A tree made anew means files that may have changed.
        let wanted = (props.layer, space, start, beside, props.tree.clone());
        use_effect_with(wanted, move |(layer, space, start, beside, _)| {
            onlook.emit(Look::Bytes {
                layer: *layer,
                space: *space,
                start: *start,
                len: u32::try_from(SCREEN).unwrap_or(0),
                beside: *beside,
            });
        });
    }
    // Where one rests in a file, whose guest byte it is is worth knowing.
    {
        let (onlook, layer) = (props.onlook.clone(), props.layer);
        let resting = use_mut_ref(|| None::<Timeout>);
        use_effect_with((layer, space, start), move |(layer, space, offset)| {
            let look = Look::At {
                layer: *layer,
                space: *space,
                offset: *offset,
                lane: None,
            };
            *resting.borrow_mut() =
                (*space == Space::Host).then(|| Timeout::new(250, move || onlook.emit(look)));
        });
    }
    let place = {
        let onspot = props.onspot.clone();
        Callback::from(move |(space, at): (Space, u64)| onspot.emit(Spot { space, at, ..spot }))
    };
    // Leaps can be taken back; scrolling is no leap.
    let leap = {
        let (trail, onspot, onselect) =
            (trail.clone(), props.onspot.clone(), props.onselect.clone());
        let here = (props.layer, space, start);
        Callback::from(move |(layer, space, at): Left| {
            let mut next = (*trail).clone();
            next.back.push(here);
            if next.back.len() > REMEMBERED {
                next.back.remove(0);
            }
            next.on.clear();
            trail.set(next);
            if layer != here.0 {
                onselect.emit(layer);
            }
            onspot.emit(Spot { space, at, ..spot });
        })
    };
    let turn = |back: bool| {
        let (trail, onspot, onselect) =
            (trail.clone(), props.onspot.clone(), props.onselect.clone());
        let here = (props.layer, space, start);
        Callback::from(move |()| {
            let mut next = (*trail).clone();
            let (from, to) = if back {
                (&mut next.back, &mut next.on)
            } else {
                (&mut next.on, &mut next.back)
            };
            let Some((layer, space, at)) = from.pop() else {
                return;
            };
            to.push(here);
            trail.set(next);
            if layer != here.0 {
                onselect.emit(layer);
            }
            onspot.emit(Spot { space, at, ..spot });
        })
    };
    let (back, on) = (turn(true), turn(false));
    // A hit is where the view goes, once.
    {
        let (leap, layer) = (leap.clone(), props.layer);
        let first = use_mut_ref(|| true);
        use_effect_with(props.find.clone(), move |find| {
            // What was found before the view opened is no news.
            let news = !first.replace(false);
            if let Some(find) = find.as_ref().filter(|_| news)
                && let Some(hit) = find.hit
            {
                leap.emit((layer, find.space, screen_of(hit)));
            }
        });
    }
    let seen = props
        .seen
        .as_ref()
        .filter(|seen| seen.space == space)
        .cloned();
    let size = seen.as_ref().map_or(0, |seen| seen.size);
    let last = size.saturating_sub(SCREEN).next_multiple_of(ROW);
    let go = place.reform(move |to: u64| (space, to.min(last) / ROW * ROW));
    let onkeydown = {
        let (go, back, on) = (go.clone(), back.clone(), on.clone());
        Callback::from(move |event: KeyboardEvent| {
            match event.key().as_str() {
                "ArrowDown" => go.emit(start.saturating_add(ROW)),
                "ArrowUp" => go.emit(start.saturating_sub(ROW)),
                "PageDown" => go.emit(start.saturating_add(SCREEN)),
                "PageUp" => go.emit(start.saturating_sub(SCREEN)),
                "Home" => go.emit(0),
                "End" => go.emit(u64::MAX),
                "Backspace" if event.shift_key() => on.emit(()),
                "Backspace" => back.emit(()),
                _ => return,
            }
            event.prevent_default();
            event.stop_propagation();
        })
    };
    let onwheel = {
        let go = go.clone();
        Callback::from(move |event: WheelEvent| {
            event.prevent_default();
            let rows = if event.delta_y().abs() > 60.0 { 3 } else { 1 };
            go.emit(if event.delta_y() > 0.0 {
                start.saturating_add(rows * ROW)
            } else {
                start.saturating_sub(rows * ROW)
            });
        })
    };
    let onslide = {
        let go = go.clone();
        Callback::from(move |event: InputEvent| {
            let value = value_of(&event)
                .and_then(|v| v.parse::<u64>().ok())
                .unwrap_or(0);
            let to = u128::from(last) * u128::from(value) / u128::from(STEPS);
            go.emit(u64::try_from(to).unwrap_or(u64::MAX));
        })
    };
    let ongo = {
        let (leap, wrong, layer) = (leap.clone(), wrong.clone(), props.layer);
        Callback::from(move |event: Event| {
            let typed = value_of(&event).unwrap_or_default();
            match needle::offset(&typed) {
                Some(to) => {
                    wrong.set(None);
                    leap.emit((layer, space, to.min(last) / ROW * ROW));
                }
                None if typed.trim().is_empty() => wrong.set(None),
                None => wrong.set(Some(format!(
                    "“{typed}” is not an offset. Try 0x10000 or 64M."
                ))),
            }
        })
    };
    let onspace = place.reform(|event: Event| {
        let host = value_of(&event).is_some_and(|value| value == "host");
        (if host { Space::Host } else { Space::Guest }, 0)
    });
    let onbeside = props.onspot.reform(move |event: Event| Spot {
        beside: value_of(&event).and_then(|value| value.parse().ok()),
        ..spot
    });
    let onfollow = {
        let layer = props.layer;
        leap.reform(move |to: u64| (layer, Space::Host, to))
    };
    let onclick = {
        let onfollow = onfollow.clone();
        Callback::from(move |event: MouseEvent| {
            if let Some(to) = target(&event) {
                onfollow.emit(to);
            }
        })
    };
    let hit = props
        .find
        .as_ref()
        .filter(|find| find.space == space && !find.differ)
        .and_then(|find| Some(find.hit?..find.hit?.saturating_add(u64::from(find.len))));
    let slider = u128::from(start) * u128::from(STEPS) / u128::from(last.max(1));
    let turned = |label: &'static str,
                  hook: &'static str,
                  icon: &'static str,
                  way: &Callback<()>,
                  there: bool| {
        let onclick = way.reform(|_: MouseEvent| ());
        html! {
            <button type="button" class="icon-button" aria-label={label} title={label} data-testid={hook} disabled={!there} {onclick}>
                <i class={classes!("fas", icon)} aria-hidden="true" />
            </button>
        }
    };
    html! {
        <div class="look">
            <div class="look__bar">
                { turned("Back to where I was", "bytes-back", "fa-arrow-left", &back, !trail.back.is_empty()) }
                { turned("Forward again", "bytes-forward", "fa-arrow-right", &on, !trail.on.is_empty()) }
                <select class="field" aria-label="Whose bytes" data-testid="space" onchange={onspace}>
                    <option value="guest" selected={space == Space::Guest}>{ "as the guest sees them" }</option>
                    <option value="host" selected={space == Space::Host}>{ "of the file" }</option>
                </select>
                <input class="field field--offset" aria-label="Go to an offset" placeholder="0x… or 64M" data-testid="goto" onchange={ongo} />
                <select class="field" aria-label="Compare with another layer" data-testid="beside" onchange={onbeside}>
                    <option value="" selected={beside.is_none()}>{ "alone" }</option>
                    { for props.tree.layers.iter().filter(|layer| layer.id != props.layer).map(|layer| html! {
                        <option value={layer.id.to_string()} selected={beside == Some(layer.id)}>{ format!("beside {}", layer.name) }</option>
                    }) }
                </select>
                <Seek
                    layer={props.layer} {space} {start} {beside}
                    find={props.find.clone()}
                    onlook={props.onlook.clone()}
                    onwrong={let wrong = wrong.clone(); move |why| wrong.set(why)}
                />
            </div>
            <p class="look__at" role="status" data-testid="bytes-at">{ told(props, seen.as_deref(), start, wrong.as_ref(), &leap) }</p>
            <div class={classes!("hex-and-fields", beside.map(|_| "hex-and-fields--wide"))}>
                <div
                    class="hex"
                    tabindex="0"
                    role="group"
                    aria-label="Bytes; arrow and page keys move, Backspace leads back"
                    data-testid="hex"
                    data-start={start.to_string()}
                    {onkeydown} {onwheel} {onclick}
                >
                    if let Some(seen) = &seen { { rows(seen, start, hit.as_ref()) } }
                </div>
                if let Some(seen) = &seen { { fields(seen, start, &onfollow) } }
            </div>
            <input class="look__slider" type="range" min="0" max={STEPS.to_string()} value={slider.to_string()} aria-label="Where in the whole" aria-valuetext={format!("{start:#x} of {size:#x}")} oninput={onslide} />
        </div>
    }
}

fn value_of(event: &Event) -> Option<String> {
    let target = event.target()?;
    match target.dyn_into::<HtmlInputElement>() {
        Ok(input) => Some(input.value()),
        Err(target) => target
            .dyn_into::<HtmlSelectElement>()
            .ok()
            .map(|s| s.value()),
    }
}

/// What is shown, in words, with the ways to the same place elsewhere.
fn told(
    props: &BytesViewProperties,
    seen: Option<&BytesSeen>,
    start: u64,
    wrong: Option<&String>,
    leap: &Callback<Left>,
) -> Html {
    if let Some(wrong) = wrong {
        return html! { wrong };
    }
    if let Some(said) = props.find.as_deref().and_then(seek::told) {
        return html! { said };
    }
    let Some(seen) = seen else {
        return html! { "reading…" };
    };
    let mut said = format!(
        "{start:#x} of {:#x} ({})",
        seen.size,
        text::bytes(seen.size)
    );
    if let Some((_, other)) = &seen.beside {
        let differ = seen
            .bytes
            .iter()
            .zip(other.iter())
            .filter(|(a, b)| a != b)
            .count();
        said.push_str(&match differ {
            0 => " · the same in both".to_owned(),
            1 => " · 1 byte differs here".to_owned(),
            n => format!(" · {n} bytes differ here"),
        });
    }
    let at = props
        .at
        .as_ref()
        .filter(|at| seen.space == Space::Host && at.offset == start);
    let layer = props.layer;
    let guest = at
        .and_then(|at| at.guest)
        .map(|guest| leap.reform(move |_: MouseEvent| (layer, Space::Guest, guest)));
    let host = seen
        .host
        .map(|(layer, at)| leap.reform(move |_: MouseEvent| (layer, Space::Host, at)));
    let owner = at.map_or(seen.owner.as_str(), |at| at.text.as_str());
    html! {
        <>
            { said }
            if !owner.is_empty() {
                { " · " }
                if seen.kind != u8::MAX {
                    <i class="swatch" style={format!("background:var({})", owner::colour(seen.kind))} />
                }
                { owner }
            }
            if let Some(onclick) = guest { { " " }<button type="button" class="link" data-testid="to-guest" {onclick}>{ "what the guest sees" }</button> }
            if let Some(onclick) = host { { " " }<button type="button" class="link" data-testid="to-host" {onclick}>{ "in the file" }</button> }
        </>
    }
}
