//! The cluster map in words: the legend, sums and runs for who does not see it.

use crate::app::text;
use crate::protocol::LayerId;
use crate::protocol::look::{CLASSES, Look, MapSeen, RunsSeen, Space};
use std::rc::Rc;
use web_sys::HtmlDetailsElement;
use yew::prelude::*;

/// What the classes are called, and the property with their colour.
pub const NAMES: [(&str, &str); CLASSES] = [
    ("data", "--data"),
    ("compressed", "--compressed"),
    ("zeros", "--zero"),
    ("hidden data", "--shadowed"),
    ("hidden zeros", "--shadowed-zero"),
    ("shared with a snapshot", "--shared"),
];

pub fn legend() -> Html {
    html! {
        <ul class="look__legend">
            { for NAMES.iter().map(|(name, property)| html! {
                <li><i style={format!("background:var({property})")} />{ *name }</li>
            }) }
            <li><i style="background:var(--unallocated-soft)" />{ "not in this layer" }</li>
        </ul>
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct MapTableProperties {
    pub layer: LayerId,
    /// The part that is shown.
    pub range: (u64, u64),
    pub seen: Option<Rc<MapSeen>>,
    pub runs: Option<Rc<RunsSeen>>,
    pub onlook: Callback<Look>,
    /// Shows a part of the map.
    pub onview: Callback<(u64, u64)>,
    pub onjump: Callback<(LayerId, Space, u64)>,
}

/// The map as tables. The runs are looked up once somebody opens them.
#[function_component(MapTable)]
pub fn map_table(props: &MapTableProperties) -> Html {
    let open = use_state(|| false);
    {
        let (onlook, layer) = (props.onlook.clone(), props.layer);
        let deps = (*open, props.range, props.layer);
        use_effect_with(deps, move |(open, (start, end), _)| {
            if *open {
                onlook.emit(Look::Runs {
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
    let Some(seen) = &props.seen else {
        return html! {};
    };
    html! {
        <details class="look__table" {ontoggle}>
            <summary data-testid="map-as-table">{ "As tables" }</summary>
            <div class="scroll" tabindex="0" role="region" aria-label="Bytes of each layer">
                <table data-testid="map-table">
                    <caption>{ "Bytes of each layer in what is shown" }</caption>
                    <thead><tr>
                        <th scope="col">{ "Layer" }</th>
                        { for NAMES.iter().map(|(name, _)| html! { <th scope="col">{ *name }</th> }) }
                    </tr></thead>
                    <tbody>
                        { for seen.lanes.iter().map(|lane| html! {
                            <tr>
                                <th scope="row">{ &lane.name }</th>
                                { for lane.totals.iter().map(|bytes| html! { <td>{ text::bytes(*bytes) }</td> }) }
                            </tr>
                        }) }
                    </tbody>
                </table>
            </div>
            if let Some(runs) = props.runs.as_ref().filter(|_| *open) {
                { table(props, runs) }
            }
        </details>
    }
}

fn table(props: &MapTableProperties, runs: &RunsSeen) -> Html {
    let layer = props.layer;
    let row = |run: &crate::protocol::look::Run| {
        let (start, end) = (run.start, run.start.saturating_add(run.len));
        let zoom = props.onview.reform(move |_: MouseEvent| (start, end));
        let guest = props
            .onjump
            .reform(move |_: MouseEvent| (layer, Space::Guest, start));
        let host = run.layer.zip(run.host).map(|(layer, host)| {
            props
                .onjump
                .reform(move |_: MouseEvent| (layer, Space::Host, host))
        });
        html! {
            <tr key={start}>
                <td class="mono">
                    <button type="button" class="link" aria-label={format!("Zoom to {start:#x}")} onclick={zoom}>{ format!("{start:#x}") }</button>
                </td>
                <td title={format!("{} bytes", run.len)}>{ text::bytes(run.len) }</td>
                <th scope="row">{ &run.name }</th>
                <td>{ &run.what }</td>
                <td class="mono">
                    if let (Some(at), Some(onclick)) = (run.host, host) {
                        <button type="button" class="link" aria-label={format!("Bytes of {} at {at:#x}", run.name)} {onclick}>{ format!("{at:#x}") }</button>
                    }
                </td>
                <td><button type="button" class="link" aria-label={format!("Bytes the guest sees at {start:#x}")} onclick={guest}>{ "bytes" }</button></td>
            </tr>
        }
    };
    html! {
        <div class="scroll" tabindex="0" role="region" aria-label="Runs">
            <table class="look__list" data-testid="map-runs">
                <caption>{ "What the guest reads in what is shown, as qemu-img map lists it" }</caption>
                <thead><tr>
                    <th scope="col">{ "Guest offset" }</th>
                    <th scope="col">{ "Length" }</th>
                    <th scope="col">{ "Layer" }</th>
                    <th scope="col">{ "What" }</th>
                    <th scope="col">{ "In its file" }</th>
                    <th scope="col"><span class="sr-only">{ "Show" }</span></th>
                </tr></thead>
                <tbody>{ for runs.runs.iter().map(row) }</tbody>
            </table>
            if runs.more {
                <p class="quiet">{ format!("Only the first {} runs are listed: zoom in to see the others.", runs.runs.len()) }</p>
            }
        </div>
    }
}
