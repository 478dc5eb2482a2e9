//! Rows of bytes, with the fields they belong to.

use super::owner;
use crate::protocol::look::{BytesSeen, FieldSeen};
use std::ops::Range;
use wasm_bindgen::JsCast;
use web_sys::Element;
use yew::prelude::*;

/// Bytes of a row, and rows on the screen.
pub const ROW: u64 = 16;
pub const ROWS: u64 = 24;
pub const SCREEN: u64 = ROW * ROWS;

/// The rows from byte `start` on. A click on a field that points somewhere is told by its
/// target (see [`target`]).
pub fn rows(seen: &BytesSeen, start: u64, hit: Option<&Range<u64>>) -> Html {
    let row = |n: u64| {
        let at = start.checked_add(n * ROW)?;
        byte(seen, at)?;
        let cells: Vec<_> = (at..at.saturating_add(ROW))
            .map(|offset| (offset, byte(seen, offset)))
            .collect();
        let other = seen.beside.is_some().then(|| {
            let bytes = cells.iter().map(|(_, found)| found.and_then(|(_, other)| other));
            let bytes: Vec<Option<u8>> = bytes.collect();
            html! {
                <>
                    <span class="hex__bytes hex__other">
                        { for cells.iter().map(|(_, found)| match found {
                            Some((byte, Some(other))) => html! {
                                <span class={classes!((*other == 0).then_some("hex__zero"), (other != byte).then_some("hex__differs"))}>{ format!("{other:02x}") }</span>
                            },
                            _ => html! { <span>{ "  " }</span> },
                        }) }
                    </span>
                    <span class="hex__text" aria-hidden="true">
                        { bytes.into_iter().flatten().map(printable).collect::<String>() }
                    </span>
                </>
            }
        });
        Some(html! {
            <div class="hex__row" key={at}>
                <span class="hex__offset">{ format!("{at:012x}") }</span>
                <span class="hex__bytes">
                    { for cells.iter().map(|(offset, found)| match found {
                        Some((byte, other)) => cell(seen, *offset, *byte, *other, hit),
                        None => html! { <span>{ "  " }</span> },
                    }) }
                </span>
                <span class="hex__text" aria-hidden="true">
                    { cells.iter().filter_map(|(_, found)| found.map(|(byte, _)| printable(byte))).collect::<String>() }
                </span>
                { other.unwrap_or_default() }
            </div>
        })
    };
    html! { { for (0..ROWS).map_while(row) } }
}

fn byte(seen: &BytesSeen, offset: u64) -> Option<(u8, Option<u8>)> {
    let index = usize::try_from(offset.checked_sub(seen.start)?).ok()?;
    let other = seen.beside.as_ref().and_then(|(_, other)| other.get(index));
    Some((*seen.bytes.get(index)?, other.copied()))
}

fn covers(field: &FieldSeen, offset: u64) -> bool {
    (field.offset..field.offset.saturating_add(field.len)).contains(&offset)
}

fn cell(
    seen: &BytesSeen,
    offset: u64,
    byte: u8,
    other: Option<u8>,
    hit: Option<&Range<u64>>,
) -> Html {
    let nth = seen.fields.iter().position(|field| covers(field, offset));
    let field = nth.and_then(|nth| seen.fields.get(nth));
    let class = classes!(
        (byte == 0).then_some("hex__zero"),
        nth.map(|nth| if nth % 2 == 0 {
            "hex__even"
        } else {
            "hex__odd"
        }),
        other.filter(|other| *other != byte).map(|_| "hex__differs"),
        hit.filter(|hit| hit.contains(&offset)).map(|_| "hex__hit"),
        field.and_then(|field| field.target).map(|_| "hex__pointer"),
    );
    let style = field.map(|field| format!("--owner:var({})", owner::field_colour(field.kind)));
    let target = field.and_then(|field| field.target);
    let title = field.map(|field| {
        let mut title = format!("{}: {}", field.name, field.value);
        if !field.meaning.is_empty() {
            title.push_str(&format!(" ({})", field.meaning));
        }
        title
    });
    html! {
        <span {class} {style} {title} data-target={target.map(|target| target.to_string())}>{ format!("{byte:02x}") }</span>
    }
}

/// The place that the field under a click points at.
#[must_use]
pub fn target(event: &MouseEvent) -> Option<u64> {
    let element = event.target()?.dyn_into::<Element>().ok()?;
    element.get_attribute("data-target")?.parse().ok()
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' {
        char::from(byte)
    } else {
        '·'
    }
}

/// The fields on the screen as a table, with a legend of their structures.
pub fn fields(seen: &BytesSeen, start: u64, onfollow: &Callback<u64>) -> Html {
    let end = start.saturating_add(SCREEN);
    let shown: Vec<&FieldSeen> = seen
        .fields
        .iter()
        .filter(|f| f.offset < end && f.offset.saturating_add(f.len) > start)
        .collect();
    if shown.is_empty() {
        return html! {};
    }
    let mut kinds: Vec<u8> = shown.iter().map(|field| field.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    html! {
        <div class="fields-and-legend">
            <ul class="look__legend">
                { for kinds.into_iter().map(|kind| html! {
                    <li key={kind}><i style={format!("background:var({})", owner::field_colour(kind))} />{ owner::structure(kind) }</li>
                }) }
            </ul>
            <div class="fields" tabindex="0" role="region" aria-label="Fields" data-testid="fields">
                <table>
                    <thead><tr><th scope="col">{ "At" }</th><th scope="col">{ "Field" }</th><th scope="col">{ "Value" }</th></tr></thead>
                    <tbody>{ for shown.into_iter().map(|field| line(field, onfollow)) }</tbody>
                </table>
            </div>
        </div>
    }
}

fn line(field: &FieldSeen, onfollow: &Callback<u64>) -> Html {
    let follow = field
        .target
        .map(|to| onfollow.reform(move |_: MouseEvent| to));
    html! {
        <tr key={field.offset} style={format!("--owner:var({})", owner::field_colour(field.kind))}>
            <td class="fields__at">{ format!("{:x}", field.offset) }</td>
            <td>{ &field.name }</td>
            <td>
                <code>{ &field.value }</code>
                if !field.meaning.is_empty() { <small>{ &field.meaning }</small> }
                if let Some(onclick) = follow {
                    { " " }<button type="button" class="link" data-testid="follow" aria-label={format!("Follow {}", field.name)} {onclick}>{ "follow" }</button>
                }
            </td>
        </tr>
    }
}
