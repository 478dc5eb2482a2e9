//! What the check found in a file, and who owns it, as lists.

use super::owner;
use crate::app::text;
use crate::protocol::LayerId;
use crate::protocol::look::{Defect, DiskSeen, Look, OwnersSeen, Space};
use std::rc::Rc;
use web_sys::HtmlDetailsElement;
use yew::prelude::*;

/// Findings shown in the list.
const LISTED: usize = 100;

#[derive(Clone, PartialEq, Properties)]
pub struct FindingsProperties {
    pub seen: Rc<DiskSeen>,
    pub onlook: Callback<Look>,
    /// Shows the place on the map.
    pub onshow: Callback<u64>,
    pub onjump: Callback<(LayerId, Space, u64)>,
}

/// What the check found, each with the way to its place and its bytes.
#[function_component(Findings)]
pub fn findings(props: &FindingsProperties) -> Html {
    let seen = &props.seen;
    let layer = seen.layer;
    let Some(found) = &seen.findings else {
        if !seen.unchecked {
            return html! { <p class="quiet" data-testid="checking">{ "The check is running…" }</p> };
        }
        let onclick = props
            .onlook
            .reform(move |_: MouseEvent| Look::Check { layer });
        return html! {
            <p data-testid="unchecked">
                { "This file is so large that its check may take a minute, during which nothing else can be looked at. " }
                <button type="button" class="link" {onclick}>{ "Check it" }</button>
            </p>
        };
    };
    if found.is_empty() {
        return html! { <p class="quiet" data-testid="findings">{ "The check finds no errors." }</p> };
    }
    let line = |defect: &Defect| {
        let jump = defect.offset.map(|offset| {
            props
                .onjump
                .reform(move |_: MouseEvent| (layer, Space::Host, offset))
        });
        let show = defect
            .offset
            .map(|offset| props.onshow.reform(move |_: MouseEvent| offset));
        html! {
            <li class={classes!(defect.leak.then_some("quiet"))}>
                { &defect.text }
                if let (Some(jump), Some(show)) = (jump, show) {
                    { " " }<button type="button" class="link" aria-label={format!("Bytes: {}", defect.text)} onclick={jump}>{ "bytes" }</button>
                    { " · " }<button type="button" class="link" data-testid="finding-on-map" aria-label={format!("On the map: {}", defect.text)} onclick={show}>{ "on the map" }</button>
                }
            </li>
        }
    };
    html! {
        <div class="facts" data-testid="findings">
            <h3>{ format!("The check found {}", if found.len() == 1 { "one thing".to_owned() } else { format!("{} things", found.len()) }) }</h3>
            <ul class="notes">{ for found.iter().take(LISTED).map(line) }</ul>
            if found.len() > LISTED { <p class="quiet">{ format!("and {} more", found.len() - LISTED) }</p> }
        </div>
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct OwnersTableProperties {
    pub layer: LayerId,
    /// The part that is shown.
    pub range: (u64, u64),
    /// All owners are known: the list is worth making.
    pub ready: bool,
    pub seen: Option<Rc<OwnersSeen>>,
    pub onlook: Callback<Look>,
    pub onjump: Callback<(LayerId, Space, u64)>,
}

/// The file as a table, looked up once somebody opens it.
#[function_component(OwnersTable)]
pub fn owners_table(props: &OwnersTableProperties) -> Html {
    let open = use_state(|| false);
    {
        let (onlook, layer) = (props.onlook.clone(), props.layer);
        let deps = (*open && props.ready, props.range);
        use_effect_with(deps, move |(wanted, (start, end))| {
            if *wanted {
                onlook.emit(Look::Owners {
                    layer,
                    start: *start,
                    end: *end,
                });
            }
        });
    }
    let ontoggle = {
        let open = open.clone();
        Callback::from(move |event: Event| {
            let details = event.target_dyn_into::<HtmlDetailsElement>();
            open.set(details.is_some_and(|details| details.open()));
        })
    };
    let layer = props.layer;
    let row = |(at, len, number, name): &(u64, u64, u8, String)| {
        let at = *at;
        let onclick = props
            .onjump
            .reform(move |_: MouseEvent| (layer, Space::Host, at));
        html! {
            <tr key={at}>
                <td class="mono">
                    <button type="button" class="link" aria-label={format!("Bytes at {at:#x}")} {onclick}>{ format!("{at:#x}") }</button>
                </td>
                <td title={format!("{len} bytes")}>{ text::bytes(*len) }</td>
                <th scope="row"><i class="swatch" style={format!("background:var({})", owner::colour(*number))} />{ name }</th>
            </tr>
        }
    };
    html! {
        <details class="look__table" {ontoggle}>
            <summary data-testid="disk-as-table">{ "As a table" }</summary>
            if let Some(seen) = props.seen.as_ref().filter(|_| *open) {
                <div class="scroll" tabindex="0" role="region" aria-label="Parts of the file">
                    <table class="look__list" data-testid="disk-owners">
                        <caption>{ "Parts of the file in what is shown" }</caption>
                        <thead><tr>
                            <th scope="col">{ "Offset" }</th>
                            <th scope="col">{ "Length" }</th>
                            <th scope="col">{ "What for" }</th>
                        </tr></thead>
                        <tbody>{ for seen.runs.iter().map(row) }</tbody>
                    </table>
                    if seen.more {
                        <p class="quiet">{ format!("Only the first {} parts are listed: zoom in to see the others.", seen.runs.len()) }</p>
                    }
                </div>
            }
        </details>
    }
}
