//! Bytes: of the guest's disk or of the file, with the fields of the format named.

use super::needle;
use crate::app::text;
use crate::protocol::look::{BytesSeen, FieldSeen, FindSeen, Look, Space};
use crate::protocol::{LayerId, Tree};
use serde_bytes::ByteBuf;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::{HtmlInputElement, HtmlSelectElement};
use yew::prelude::*;

/// Bytes of a row, and rows on the screen.
const ROW: u64 = 16;
const ROWS: u64 = 24;
const SCREEN: u64 = ROW * ROWS;
/// Steps of the slider.
const STEPS: u64 = 10_000;

#[derive(Clone, PartialEq, Properties)]
pub struct BytesViewProperties {
    pub tree: Rc<Tree>,
    pub layer: LayerId,
    /// What is shown, from which byte on.
    pub place: (Space, u64),
    pub onplace: Callback<(Space, u64)>,
    pub seen: Option<Rc<BytesSeen>>,
    pub find: Option<Rc<FindSeen>>,
    pub onlook: Callback<Look>,
}

#[function_component(BytesView)]
pub fn bytes_view(props: &BytesViewProperties) -> Html {
    let beside = use_state(|| None::<LayerId>);
    let wrong = use_state(|| None::<String>);
    let (space, start) = props.place;
    let start = start / ROW * ROW;
    {
        let onlook = props.onlook.clone();
        // A tree made anew means files that may have changed.
        let wanted = (props.layer, space, start, *beside, props.tree.clone());
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
    // A hit is where the view goes, once.
    {
        let onplace = props.onplace.clone();
        use_effect_with(props.find.clone(), move |find| {
            if let Some(find) = find
                && let Some(hit) = find.hit
            {
                onplace.emit((find.space, hit / ROW * ROW));
            }
        });
    }
    let size = props.seen.as_ref().map_or(0, |seen| seen.size);
    let last = size.saturating_sub(SCREEN).next_multiple_of(ROW);
    let go = {
        let onplace = props.onplace.clone();
        Callback::from(move |to: u64| onplace.emit((space, to.min(last) / ROW * ROW)))
    };
    let onkeydown = {
        let go = go.clone();
        Callback::from(move |event: KeyboardEvent| {
            let to = match event.key().as_str() {
                "ArrowDown" => start.saturating_add(ROW),
                "ArrowUp" => start.saturating_sub(ROW),
                "PageDown" => start.saturating_add(SCREEN),
                "PageUp" => start.saturating_sub(SCREEN),
                "Home" => 0,
                "End" => u64::MAX,
                _ => return,
            };
            event.prevent_default();
            event.stop_propagation();
            go.emit(to);
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
        let (go, wrong) = (go.clone(), wrong.clone());
        Callback::from(move |event: Event| {
            let typed = value_of(&event).unwrap_or_default();
            match needle::offset(&typed) {
                Some(to) => {
                    wrong.set(None);
                    go.emit(to);
                }
                None => wrong.set(Some(format!(
                    "“{typed}” is not an offset. Try 0x10000 or 64M."
                ))),
            }
        })
    };
    let onspace = {
        let onplace = props.onplace.clone();
        Callback::from(move |event: Event| {
            let host = value_of(&event).is_some_and(|value| value == "host");
            onplace.emit((if host { Space::Host } else { Space::Guest }, 0));
        })
    };
    let onbeside = {
        let beside = beside.clone();
        Callback::from(move |event: Event| {
            beside.set(value_of(&event).and_then(|v| v.parse().ok()))
        })
    };
    let searching = props.find.as_ref().is_some_and(|find| !find.finished);
    let typed = use_node_ref();
    let search = {
        let (onlook, layer, wrong, typed) = (
            props.onlook.clone(),
            props.layer,
            wrong.clone(),
            typed.clone(),
        );
        let after = props
            .find
            .as_ref()
            .filter(|find| find.space == space)
            .and_then(|find| find.hit)
            .filter(|hit| (start..start + SCREEN).contains(hit))
            .map_or(start, |hit| hit + 1);
        Callback::from(move |event: SubmitEvent| {
            event.prevent_default();
            let text = typed
                .cast::<HtmlInputElement>()
                .map(|i| i.value())
                .unwrap_or_default();
            match needle::parse(&text) {
                Ok(needle) if !needle.is_empty() => {
                    wrong.set(None);
                    onlook.emit(Look::Find {
                        layer,
                        space,
                        start: after,
                        needle: ByteBuf::from(needle),
                    });
                }
                Ok(_) => {}
                Err(why) => wrong.set(Some(why)),
            }
        })
    };
    let stop = props.onlook.reform(|_: MouseEvent| Look::StopFinding);
    let onfollow = {
        let onplace = props.onplace.clone();
        Callback::from(move |to: u64| onplace.emit((Space::Host, to)))
    };
    let slider = u128::from(start) * u128::from(STEPS) / u128::from(last.max(1));
    html! {
        <div class="look">
            <div class="look__bar">
                <select class="field" aria-label="Whose bytes" data-testid="space" onchange={onspace}>
                    <option value="guest" selected={space == Space::Guest}>{ "as the guest sees them" }</option>
                    <option value="host" selected={space == Space::Host}>{ "of the file" }</option>
                </select>
                <input class="field field--offset" aria-label="Go to an offset" placeholder="0x… or 64M" data-testid="goto" onchange={ongo} />
                <select class="field" aria-label="Compare with another layer" data-testid="beside" onchange={onbeside}>
                    <option value="" selected={beside.is_none()}>{ "alone" }</option>
                    { for props.tree.layers.iter().filter(|layer| layer.id != props.layer).map(|layer| html! {
                        <option value={layer.id.to_string()} selected={*beside == Some(layer.id)}>{ format!("beside {}", layer.name) }</option>
                    }) }
                </select>
                <form class="look__find" onsubmit={search}>
                    <input ref={typed} class="field" aria-label="Search for text, or 0x… for bytes" placeholder="text, or 0x…" data-testid="needle" />
                    <button type="submit" class="icon-button" aria-label="Search on" data-testid="find"><i class="fas fa-search" aria-hidden="true" /></button>
                    if searching {
                        <button type="button" class="icon-button" aria-label="Stop searching" onclick={stop}><i class="fas fa-times" aria-hidden="true" /></button>
                    }
                </form>
            </div>
            <p class="look__at" role="status" data-testid="bytes-at">{ told(props, start, wrong.as_ref()) }</p>
            <div class="hex-and-fields">
                <div class="hex" tabindex="0" role="group" aria-label="Bytes; arrow and page keys move" data-testid="hex" data-start={start.to_string()} {onkeydown} {onwheel}>
                    { rows(props, start) }
                </div>
                { fields(props, start, &onfollow) }
            </div>
            <input class="look__slider" type="range" min="0" max={STEPS.to_string()} value={slider.to_string()} aria-label="Where in the whole" oninput={onslide} />
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

fn told(props: &BytesViewProperties, start: u64, wrong: Option<&String>) -> String {
    if let Some(wrong) = wrong {
        return wrong.clone();
    }
    match &props.find {
        Some(find) if !find.finished => {
            let percent = text::share(find.pos, find.end) * 100.0;
            return format!("searching: {percent:.0} %");
        }
        Some(find) if find.hit.is_none() => return "Not found from here to the end.".to_owned(),
        _ => {}
    }
    let Some(seen) = &props.seen else {
        return "reading…".to_owned();
    };
    let mut said = format!(
        "{start:#x} of {:#x} ({})",
        seen.size,
        text::bytes(seen.size)
    );
    if !seen.owner.is_empty() {
        said.push_str(&format!(" · {}", seen.owner));
    }
    if let Some((_, other)) = &seen.beside {
        let differ = seen
            .bytes
            .iter()
            .zip(other.iter())
            .filter(|(a, b)| a != b)
            .count();
        said.push_str(&match differ {
            0 => " · the same in both".to_owned(),
            n => format!(" · {n} bytes differ here"),
        });
    }
    said
}

fn rows(props: &BytesViewProperties, start: u64) -> Html {
    let Some(seen) = props
        .seen
        .as_ref()
        .filter(|seen| seen.space == props.place.0)
    else {
        return html! {};
    };
    let hit = props
        .find
        .as_ref()
        .filter(|find| find.space == seen.space)
        .and_then(|find| {
            let hit = find.hit?;
            Some(hit..hit + u64::from(find.len))
        });
    let row = |n: u64| {
        let at = start + n * ROW;
        let byte = |offset: u64| {
            let index = usize::try_from(offset.checked_sub(seen.start)?).ok()?;
            let other = seen.beside.as_ref().and_then(|(_, other)| other.get(index));
            Some((*seen.bytes.get(index)?, other.copied()))
        };
        byte(at)?;
        let cells: Vec<_> = (at..at + ROW)
            .map(|offset| (offset, byte(offset)))
            .collect();
        let class = |offset: u64, byte: u8, other: Option<u8>| {
            let field = seen
                .fields
                .iter()
                .position(|f| (f.offset..f.offset + f.len).contains(&offset));
            classes!(
                (byte == 0).then_some("hex__zero"),
                field.map(|n| if n % 2 == 0 { "hex__even" } else { "hex__odd" }),
                other.filter(|other| *other != byte).map(|_| "hex__differs"),
                hit.as_ref()
                    .filter(|hit| hit.contains(&offset))
                    .map(|_| "hex__hit"),
            )
        };
        Some(html! {
            <div class="hex__row" key={at}>
                <span class="hex__offset">{ format!("{at:012x}") }</span>
                <span class="hex__bytes">
                    { for cells.iter().map(|(offset, found)| match found {
                        Some((byte, other)) => html! { <span class={class(*offset, *byte, *other)}>{ format!("{byte:02x}") }</span> },
                        None => html! { <span>{ "  " }</span> },
                    }) }
                </span>
                <span class="hex__text" aria-hidden="true">
                    { cells.iter().filter_map(|(_, found)| found.map(|(byte, _)| printable(byte))).collect::<String>() }
                </span>
            </div>
        })
    };
    html! { { for (0..ROWS).map_while(row) } }
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' {
        char::from(byte)
    } else {
        '·'
    }
}

fn fields(props: &BytesViewProperties, start: u64, onfollow: &Callback<u64>) -> Html {
    let Some(seen) = &props.seen else {
        return html! {};
    };
    let shown: Vec<&FieldSeen> = seen
        .fields
        .iter()
        .filter(|f| f.offset < start + SCREEN && f.offset + f.len > start)
        .collect();
    if shown.is_empty() || seen.space != props.place.0 {
        return html! {};
    }
    html! {
           <div class="fields" tabindex="0" role="region" aria-label="Fields" data-testid="fields">
               <table>
                   <thead><tr><th scope="col">{ "At" }</th><th scope="col">{ "Field" }</th><th scope="col">{ "Value" }</th></tr></thead>
                   <tbody>
                       { for shown.into_iter().map(|f| {
                           let follow = f.target.map(|to| onfollow.reform(move |_: MouseEvent| to));
                           html! {
                               <tr key={f.offset}>
                                   <td class="fields__at">{ format!("{:x}", f.offset) }</td>
                                   <td>{ &f.name }</td>
                                   <td>
                                       <code>{ &f.value }</code>
                                       if !f.meaning.is_empty() { <small>{ &f.meaning }</small> }
                                       if let Some(onclick) = follow {
    { " " }<button type="button" class="link" data-testid="follow" {onclick}>{ "follow" }</button>
                                       }
                                   </td>
                               </tr>
                           }
                       }) }
                   </tbody>
               </table>
           </div>
       }
}
