//! Looking into images: the cluster map, the file on disk, and bytes.

pub mod bytes;
pub mod canvas;
pub mod disk;
pub mod map;
pub mod needle;
pub mod range;

use crate::protocol::look::{AtSeen, BytesSeen, DiskSeen, FindSeen, Look, MapSeen, Seen, Space};
use crate::protocol::{LayerId, Tree};
use bytes::BytesView;
use disk::DiskView;
use map::MapView;
use std::rc::Rc;
use yew::prelude::*;

/// What the worker told last, of each kind.
#[derive(Clone, Default, PartialEq)]
pub struct Looks {
    pub map: Option<Rc<MapSeen>>,
    pub disk: Option<Rc<DiskSeen>>,
    pub bytes: Option<Rc<BytesSeen>>,
    pub at: Option<Rc<AtSeen>>,
    pub find: Option<Rc<FindSeen>>,
    pub failed: Option<Rc<(Look, String)>>,
}

impl Looks {
    /// Takes in what the worker found.
    pub fn hear(&mut self, seen: Seen) {
        self.failed = None;
        match seen {
            Seen::Map(seen) => self.map = Some(Rc::new(seen)),
            Seen::Disk(seen) => self.disk = Some(Rc::new(seen)),
            Seen::Bytes(seen) => self.bytes = Some(Rc::new(seen)),
            Seen::At(seen) => self.at = Some(Rc::new(seen)),
            Seen::Find(seen) => self.find = Some(Rc::new(seen)),
            Seen::Failed { look, why } => self.failed = Some(Rc::new((look, why))),
        }
    }
}

/// The ways to look, one at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lens {
    Map,
    Disk,
    Bytes,
}

impl Lens {
    pub const ALL: [Self; 3] = [Self::Map, Self::Disk, Self::Bytes];

    /// Its hook, its name, its key and its icon.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Map => ("map", "Cluster map", "m", "fa-th"),
            Self::Disk => ("disk", "File on disk", "f", "fa-hdd"),
            Self::Bytes => ("bytes", "Bytes", "b", "fa-barcode"),
        }
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct LookViewProperties {
    pub tree: Rc<Tree>,
    /// The layer to look at.
    pub layer: LayerId,
    pub lens: Lens,
    pub looks: Looks,
    pub onlook: Callback<Look>,
    pub onlens: Callback<Option<Lens>>,
    pub onselect: Callback<LayerId>,
}

/// The panel with the chosen lens.
#[function_component(LookView)]
pub fn look_view(props: &LookViewProperties) -> Html {
    // Where the bytes are shown from: other lenses lead there.
    let place = use_state(|| (Space::Guest, 0_u64));
    let Some(layer) = props.tree.layer(props.layer).cloned() else {
        return html! {};
    };
    let jump = {
        let (place, onlens, onselect) =
            (place.clone(), props.onlens.clone(), props.onselect.clone());
        Callback::from(move |(layer, space, offset): (LayerId, Space, u64)| {
            place.set((space, offset));
            onselect.emit(layer);
            onlens.emit(Some(Lens::Bytes));
        })
    };
    let close = props.onlens.reform(|_: MouseEvent| None);
    let (id, title, _, _) = props.lens.words();
    let failed = props
        .looks
        .failed
        .as_ref()
        .filter(|failed| lens_of(&failed.0) == Some(props.lens));
    html! {
        <section class="panel panel--look" data-testid={format!("look-{id}")} aria-label={format!("{title} of {}", layer.name)}>
            <header class="panel__head">
                <h2 class="panel__title">{ title }</h2>
                <label class="look__layer">
                    <span class="sr-only">{ "Layer" }</span>
                    { layer_choice(&props.tree, props.layer, &props.onselect) }
                </label>
                <button type="button" class="icon-button push" aria-label={format!("Close the {}", title.to_lowercase())} onclick={close}>
                    <i class="fas fa-times" aria-hidden="true" />
                </button>
            </header>
            if let Some(failed) = failed {
                <p class="look__failed" role="status" data-testid="look-failed">{ &failed.1 }</p>
            }
            { match props.lens {
                Lens::Map => html! {
                    <MapView
                        key={props.layer}
                        layer={props.layer}
                        size={longest(&props.tree, props.layer)}
                        seen={props.looks.map.clone().filter(|seen| seen.layer == props.layer)}
                        at={props.looks.at.clone().filter(|at| at.layer == props.layer && at.space == Space::Guest)}
                        onlook={props.onlook.clone()}
                        onjump={jump}
                    />
                },
                Lens::Disk => html! {
                    <DiskView
                        key={props.layer}
                        layer={props.layer}
                        size={layer.file_size}
                        seen={props.looks.disk.clone().filter(|seen| seen.layer == props.layer)}
                        at={props.looks.at.clone().filter(|at| at.layer == props.layer && at.space == Space::Host)}
                        onlook={props.onlook.clone()}
                        onjump={jump}
                    />
                },
                Lens::Bytes => html! {
                    <BytesView
                        tree={props.tree.clone()}
                        layer={props.layer}
                        place={*place}
                        onplace={let place = place.clone(); move |to| place.set(to)}
                        seen={props.looks.bytes.clone().filter(|seen| seen.layer == props.layer)}
                        find={props.looks.find.clone().filter(|find| find.layer == props.layer)}
                        onlook={props.onlook.clone()}
                    />
                },
            } }
        </section>
    }
}

fn lens_of(look: &Look) -> Option<Lens> {
    match look {
        Look::Map { .. } => Some(Lens::Map),
        Look::Disk { .. } => Some(Lens::Disk),
        Look::Bytes { .. } | Look::Find { .. } => Some(Lens::Bytes),
        Look::At { .. } | Look::StopFinding => None,
    }
}

/// The length of the longest disk in the chain of `layer`.
fn longest(tree: &Tree, layer: LayerId) -> u64 {
    let own = tree.layer(layer).and_then(|layer| layer.virtual_size);
    let below = tree
        .below(layer)
        .into_iter()
        .filter_map(|layer| layer.virtual_size);
    below.chain(own).max().unwrap_or(0)
}

fn layer_choice(tree: &Tree, chosen: LayerId, onselect: &Callback<LayerId>) -> Html {
    let onchange = onselect.reform(|event: Event| {
        event
            .target_dyn_into::<web_sys::HtmlSelectElement>()
            .and_then(|select| select.value().parse().ok())
            .unwrap_or_default()
    });
    html! {
        <select class="field" data-testid="look-layer" {onchange}>
            { for tree.layers.iter().map(|layer| html! {
                <option value={layer.id.to_string()} selected={layer.id == chosen}>{ &layer.name }</option>
            }) }
        </select>
    }
}
