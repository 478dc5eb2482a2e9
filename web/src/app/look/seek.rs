//! Looking for bytes and for differences: the fields and buttons of it.

use super::hex::{ROW, SCREEN};
use super::needle;
use crate::app::text;
use crate::protocol::LayerId;
use crate::protocol::look::{FindSeen, Look, Space};
use serde_bytes::ByteBuf;
use std::rc::Rc;
use web_sys::HtmlInputElement;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct SeekProperties {
    pub layer: LayerId,
    pub space: Space,
    /// First byte on the screen.
    pub start: u64,
    pub beside: Option<LayerId>,
    pub find: Option<Rc<FindSeen>>,
    pub onlook: Callback<Look>,
    /// What was typed cannot be searched for, and why; `None` when it can.
    pub onwrong: Callback<Option<String>>,
}

/// Where the search goes on: behind or before the last hit, while that is on the screen.
fn from(props: &SeekProperties, differ: bool, back: bool) -> u64 {
    let hit = props
        .find
        .as_ref()
        .filter(|find| find.space == props.space && find.differ == differ)
        .and_then(|find| find.hit)
        .filter(|hit| (props.start..props.start.saturating_add(SCREEN)).contains(hit));
    match (hit, back) {
        (Some(hit), true) => hit,
        // The row of the difference tells that it is known.
        (Some(hit), false) if differ => hit,
        (Some(hit), false) => hit.saturating_add(1),
        (None, _) => props.start,
    }
}

#[function_component(Seek)]
pub fn seek(props: &SeekProperties) -> Html {
    let typed = use_node_ref();
    let search = {
        let (props, typed) = (props.clone(), typed.clone());
        move |back: bool| {
            let text = typed
                .cast::<HtmlInputElement>()
                .map(|input| input.value())
                .unwrap_or_default();
            match needle::parse(&text) {
                Ok(needle) if !needle.is_empty() => {
                    props.onwrong.emit(None);
                    props.onlook.emit(Look::Find {
                        layer: props.layer,
                        space: props.space,
                        start: from(&props, false, back),
                        needle: ByteBuf::from(needle),
                        back,
                    });
                }
                Ok(_) => {}
                Err(why) => props.onwrong.emit(Some(why)),
            }
        }
    };
    let onsubmit = {
        let search = search.clone();
        Callback::from(move |event: SubmitEvent| {
            event.prevent_default();
            search(false);
        })
    };
    let onback = Callback::from(move |_: MouseEvent| search(true));
    let differ = |back: bool| {
        let props = props.clone();
        Callback::from(move |_: MouseEvent| {
            if let Some(other) = props.beside {
                props.onlook.emit(Look::Differ {
                    layer: props.layer,
                    other,
                    space: props.space,
                    start: from(&props, true, back),
                    back,
                });
            }
        })
    };
    let stop = props.onlook.reform(|_: MouseEvent| Look::StopFinding);
    let running = props.find.as_ref().filter(|find| !find.finished);
    html! {
        <>
            <form class="look__find" role="search" {onsubmit}>
                <input ref={typed} class="field" aria-label="Search for text, or 0x… for bytes" placeholder="text, or 0x…" data-testid="needle" />
                <button type="button" class="icon-button" aria-label="Search back" title="Search back" data-testid="find-back" onclick={onback}><i class="fas fa-chevron-up" aria-hidden="true" /></button>
                <button type="submit" class="icon-button" aria-label="Search on" title="Search on (Enter)" data-testid="find"><i class="fas fa-chevron-down" aria-hidden="true" /></button>
            </form>
            if props.beside.is_some() {
                <span class="look__find" role="group" aria-label="Differences">
                    <button type="button" class="pf-v6-c-button pf-m-secondary pf-m-small" data-testid="differ-back" onclick={differ(true)}>{ "Previous difference" }</button>
                    <button type="button" class="pf-v6-c-button pf-m-secondary pf-m-small" data-testid="differ" onclick={differ(false)}>{ "Next difference" }</button>
                </span>
            }
            if let Some(find) = running {
                <span class="look__find" data-testid="finding">
                    <progress max="100" value={percent(find)} aria-label="Searched" />
                    <button type="button" class="pf-v6-c-button pf-m-link pf-m-small" data-testid="stop-finding" onclick={stop}>{ "Stop" }</button>
                </span>
            }
        </>
    }
}

fn percent(find: &FindSeen) -> String {
    format!("{:.0}", text::share(find.done, find.total) * 100.0)
}

/// What came of the search, in words; `None` when there is nothing to say.
#[must_use]
pub fn told(find: &FindSeen) -> Option<String> {
    if !find.finished {
        return Some(format!("searching: {} %", percent(find)));
    }
    if find.hit.is_some() {
        return None;
    }
    if find.stopped {
        return Some(format!("Stopped after {} %.", percent(find)));
    }
    let what = if find.differ {
        "No difference"
    } else {
        "Not found"
    };
    let whither = if find.back {
        "from here back to the start"
    } else {
        "from here to the end"
    };
    Some(format!("{what} {whither}."))
}

/// The first byte to show for a hit.
#[must_use]
pub fn screen_of(hit: u64) -> u64 {
    hit / ROW * ROW
}
