//! Looking into images: the cluster map, the file on disk, and bytes.

pub mod bytes;
pub mod canvas;
pub mod disk;
pub mod findings;
pub mod hex;
pub mod map;
pub mod map_draw;
pub mod map_table;
pub mod needle;
pub mod owner;
pub mod range;
pub mod seek;
pub mod spot;

use crate::protocol::look::{
    AtSeen, BytesSeen, DiskSeen, FindSeen, Look, MapSeen, OwnersSeen, RunsSeen, Seen, Space,
};
use crate::protocol::{LayerId, Tree};
use bytes::BytesView;
use disk::DiskView;
use map::MapView;
use spot::Spot;
use std::rc::Rc;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use yew::prelude::*;

/// What the worker told last, of each kind.
#[derive(Clone, Default, PartialEq)]
pub struct Looks {
    pub map: Option<Rc<MapSeen>>,
    pub disk: Option<Rc<DiskSeen>>,
    pub bytes: Option<Rc<BytesSeen>>,
    pub at: Option<Rc<AtSeen>>,
    pub find: Option<Rc<FindSeen>>,
    pub runs: Option<Rc<RunsSeen>>,
    pub owners: Option<Rc<OwnersSeen>>,
    pub failed: Option<Rc<(Look, String)>>,
}

impl Looks {
    /// Takes in what the worker found.
    pub fn hear(&mut self, seen: Seen) {
        // A place that is pointed at says nothing about the view as a whole.
        if !matches!(seen, Seen::At(_)) {
            self.failed = None;
        }
        match seen {
            Seen::Map(seen) => self.map = Some(Rc::new(seen)),
            Seen::Disk(seen) => self.disk = Some(Rc::new(seen)),
            Seen::Bytes(seen) => self.bytes = Some(Rc::new(seen)),
            Seen::At(seen) => self.at = Some(Rc::new(seen)),
            Seen::Find(seen) => self.find = Some(Rc::new(seen)),
            Seen::FindingStopped => {
                if let Some(find) = self.find.as_mut().filter(|find| !find.finished) {
                    let find = Rc::make_mut(find);
                    (find.finished, find.stopped) = (true, true);
                }
            }
            Seen::Runs(seen) => self.runs = Some(Rc::new(seen)),
            Seen::Owners(seen) => self.owners = Some(Rc::new(seen)),
            Seen::Failed { look, why } => self.failed = Some(Rc::new((look, why))),
        }
    }
}

/// The ways to look, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub spot: Spot,
    pub looks: Looks,
    pub onlook: Callback<Look>,
    pub onspot: Callback<Spot>,
    pub onselect: Callback<LayerId>,
    /// The address leads here, so that a link can be copied.
    #[prop_or_default]
    pub linked: bool,
}

/// The panel with the chosen lens.
#[function_component(LookView)]
pub fn look_view(props: &LookViewProperties) -> Html {
    let (Some(lens), Some(layer)) = (props.spot.lens, props.tree.layer(props.layer).cloned())
    else {
        return html! {};
    };
    let spot = props.spot;
    let id = props.layer;
    let jump = {
        let (onspot, onselect) = (props.onspot.clone(), props.onselect.clone());
        Callback::from(move |(layer, space, at): (LayerId, Space, u64)| {
            onselect.emit(layer);
            onspot.emit(Spot {
                lens: Some(Lens::Bytes),
                space,
                at,
                ..spot
            });
        })
    };
    let onview = props.onspot.reform(move |(start, end): (u64, u64)| Spot {
        view: Some((id, start, end)),
        ..spot
    });
    let close = props
        .onspot
        .reform(move |_: MouseEvent| Spot { lens: None, ..spot });
    let (hook, title, _, _) = lens.words();
    let failed = props
        .looks
        .failed
        .as_ref()
        .filter(|failed| lens_of(&failed.0) == Some(lens));
    html! {
        <section class="panel panel--look" data-testid={format!("look-{hook}")} aria-label={format!("{title} of {}", layer.name)}>
            <header class="panel__head">
                <h2 class="panel__title">{ title }</h2>
                <label class="look__layer">
                    <span class="sr-only">{ "Layer" }</span>
                    { layer_choice(&props.tree, id, &props.onselect) }
                </label>
                if props.linked {
                    <CopyLink tree={props.tree.clone()} layer={id} {spot} />
                } else {
                    <span class="push" />
                }
                <button type="button" class="icon-button" aria-label={format!("Close the {}", title.to_lowercase())} onclick={close}>
                    <i class="fas fa-times" aria-hidden="true" />
                </button>
            </header>
            if let Some(failed) = failed {
                <p class="look__failed" role="alert" data-testid="look-failed">{ &failed.1 }</p>
            } else if lens == Lens::Map && longest(&props.tree, id) == 0 {
                <p class="look__failed" role="alert" data-testid="look-failed">{ layer.reason.as_deref().unwrap_or("The disk has no bytes.") }</p>
            }
            { match lens {
                Lens::Map => html! {
                    <MapView
                        key={format!("{id}-{}", spot.serial)}
                        layer={id}
                        size={longest(&props.tree, id)}
                        view={spot.view_of(id)}
                        {onview}
                        seen={props.looks.map.clone().filter(|seen| seen.layer == id)}
                        at={props.looks.at.clone().filter(|at| at.layer == id && at.space == Space::Guest)}
                        runs={props.looks.runs.clone().filter(|runs| runs.layer == id)}
                        onlook={props.onlook.clone()}
                        onjump={jump}
                    />
                },
                Lens::Disk => html! {
                    <DiskView
                        key={format!("{id}-{}", spot.serial)}
                        layer={id}
                        size={layer.file_size}
                        view={spot.view_of(id)}
                        {onview}
                        seen={props.looks.disk.clone().filter(|seen| seen.layer == id)}
                        at={props.looks.at.clone().filter(|at| at.layer == id && at.space == Space::Host)}
                        owners={props.looks.owners.clone().filter(|owners| owners.layer == id)}
                        onlook={props.onlook.clone()}
                        onjump={jump}
                    />
                },
                Lens::Bytes => html! {
                    <BytesView
                        key={spot.serial}
                        tree={props.tree.clone()}
                        layer={id}
                        {spot}
                        onspot={props.onspot.clone()}
                        onselect={props.onselect.clone()}
                        seen={props.looks.bytes.clone().filter(|seen| seen.layer == id)}
                        find={props.looks.find.clone().filter(|find| find.layer == id)}
                        at={props.looks.at.clone().filter(|at| at.layer == id && at.space == Space::Host)}
                        onlook={props.onlook.clone()}
                    />
                },
            } }
        </section>
    }
}

fn lens_of(look: &Look) -> Option<Lens> {
    match look {
        Look::Map { .. } | Look::Runs { .. } => Some(Lens::Map),
        Look::Disk { .. } | Look::Owners { .. } | Look::Check { .. } => Some(Lens::Disk),
        Look::Bytes { .. } | Look::Find { .. } | Look::Differ { .. } => Some(Lens::Bytes),
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

#[derive(Clone, PartialEq, Properties)]
struct CopyLinkProperties {
    tree: Rc<Tree>,
    layer: LayerId,
    spot: Spot,
}

/// Puts the address of what is shown on the clipboard. It says where, not what.
#[function_component(CopyLink)]
fn copy_link(props: &CopyLinkProperties) -> Html {
    let said = use_state(|| "");
    {
        let said = said.clone();
        use_effect_with((props.layer, props.spot), move |_| said.set(""));
    }
    let onclick = {
        let (props, said) = (props.clone(), said.clone());
        Callback::from(move |_: MouseEvent| {
            let route = props.spot.route(&props.tree, Some(props.layer));
            route.replace();
            let said = said.clone();
            spawn_local(async move {
                let window = gloo::utils::window();
                let address = window.location().href().unwrap_or_default();
                // Where pages may not write to the clipboard there is none.
                let clipboard = crate::js::get(&window.navigator(), "clipboard");
                let copied = if clipboard.is_undefined() {
                    false
                } else {
                    let promise = window.navigator().clipboard().write_text(&address);
                    JsFuture::from(promise).await.is_ok()
                };
                said.set(if copied {
                    "Link copied"
                } else {
                    "The link is in the address bar"
                });
            });
        })
    };
    html! {
        <>
            <span class="look__copied push" role="status" data-testid="link-copied">{ *said }</span>
            <button type="button" class="icon-button" data-testid="copy-link" aria-label="Copy link to this place" title="Copy link to this place" {onclick}>
                <i class="fas fa-link" aria-hidden="true" />
            </button>
        </>
    }
}
