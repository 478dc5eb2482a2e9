//! The tree of the user's files: every layer, with its facts.

pub mod cards;
pub mod foot;
pub mod locate;
pub mod remarks;
pub mod sketch;
pub mod strips;
pub mod tools;

use super::bench::Bench;
use super::diagram::geometry::{Room, Scene, Shape};
use super::diagram::gestures::use_viewport;
use super::diagram::layout;
use super::diagram::minimap::MiniMap;
use super::diagram::stage::{Card, Stage, box_of};
use super::diagram::use_width;
use super::settings::SettingsContext;
use super::window::use_keys;
use crate::protocol::locate::{Locate, Located};
use crate::protocol::{LayerId, Operation, Request, State, Tree};
use cards::LayerCard;
use foot::Foot;
use gloo::timers::callback::Timeout;
use sketch::{Sizing, Sketch};
use std::collections::HashSet;
use std::rc::Rc;
use strips::Palette;
use tools::Tools;
use wasm_bindgen_futures::spawn_local;
use web_sys::{DragEvent, HtmlElement, HtmlInputElement};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct ChainProperties {
    pub tree: Rc<Tree>,
    pub selected: Option<LayerId>,
    pub onselect: Callback<LayerId>,
    pub ondragonto: Callback<(LayerId, LayerId)>,
    /// The workbench the tree is on: for the bars, and for missing files.
    #[prop_or_default]
    pub bench: Option<Bench>,
    /// Proposes an operation, with its preview.
    #[prop_or_default]
    pub onpropose: Option<Callback<Operation>>,
}

/// From so many layers on there is something to search.
const SEARCHED: usize = 8;

#[function_component(Chain)]
pub fn chain(props: &ChainProperties) -> Html {
    let outer = use_node_ref();
    let width = use_width(&outer);
    let (viewport, window) = use_viewport();
    let dark = use_context::<SettingsContext>().is_some_and(|settings| settings.now.dark());
    let palette = use_memo(dark, |_| Palette::now());

    let shape = use_state(|| None::<Shape>);
    let sizing = use_state(Sizing::default);
    let filter = use_state(String::new);
    let cursor = use_state(|| (None::<LayerId>, 0_u32));
    let moving = use_state(|| None::<LayerId>);
    let dragged = use_state(|| None::<LayerId>);

    let sketch = use_memo(props.tree.clone(), |tree| Sketch::new(tree.clone()));
    let places = use_memo(sketch.links.clone(), |links| layout::place(links));
    let sizes = use_memo((sketch.clone(), *sizing), |(sketch, sizing)| {
        sizing.sizes(sketch)
    });
    let scene = use_memo(
        (places.clone(), sizes.clone(), width, *shape),
        |(places, sizes, width, shape)| {
            let room = Room {
                // A scroll bar must not change what fits.
                width: *width - 16.0,
                compact: false,
                shape: *shape,
                curves: false,
                sizes,
            };
            Scene::new(places, &sketch.links, &room)
        },
    );
    viewport.resize(scene.width, scene.height);
    {
        let viewport = viewport.clone();
        // What is too large is first seen from some way off.
        use_effect_with(scene.shape, move |shape| {
            let scale = match shape {
                Shape::Across => viewport.fitting(f64::MAX).max(0.6),
                Shape::Upright => 1.0,
            };
            viewport.zoom_to(scale, None);
        });
    }

    // What belongs to the selected layer, and what was searched for.
    let matches = use_memo(
        (sketch.clone(), places.clone(), (*filter).clone()),
        |(sketch, places, filter)| {
            let order: Vec<LayerId> = places.iter().map(|place| place.id).collect();
            sketch.find(filter, &order)
        },
    );
    let found: Rc<HashSet<LayerId>> = use_memo(matches.clone(), |m| m.iter().copied().collect());
    let lit = use_memo((sketch.clone(), props.selected), |(sketch, selected)| {
        let related = selected.map(|id| sketch.related(id)).unwrap_or_default();
        // Where everything belongs together there is nothing to point out.
        if related.len() < sketch.links.len() {
            related
        } else {
            HashSet::new()
        }
    });

    use_bars(props, &sketch, &scene, &viewport, window);
    use_missing(props, &sketch);

    // Moving a layer onto another: by dragging, or by choosing both one after the other.
    let choose = {
        let (onselect, ondragonto, moving) = (
            props.onselect.clone(),
            props.ondragonto.clone(),
            moving.clone(),
        );
        Callback::from(move |id: LayerId| match *moving {
            Some(from) => {
                moving.set(None);
                if from != id {
                    ondragonto.emit((from, id));
                }
            }
            None => onselect.emit(id),
        })
    };
    let go = {
        let cursor = cursor.clone();
        Callback::from(move |(id, focus): (LayerId, bool)| {
            cursor.set((Some(id), if focus { cursor.1 + 1 } else { cursor.1 }));
        })
    };
    let show = {
        let (viewport, scene, go) = (viewport.clone(), scene.clone(), go.clone());
        Callback::from(move |(id, focus): (LayerId, bool)| {
            if let Some(item) = scene.item(id) {
                viewport.reveal(&item.rect);
            }
            go.emit((id, focus));
        })
    };
    let move_from = {
        let moving = moving.clone();
        let sketch = sketch.clone();
        Callback::from(move |from: Option<LayerId>| {
            moving.set(from.filter(|&id| sketch.layer(id).is_some()));
        })
    };

    let locate = use_locate(props, &sketch);
    let field = use_node_ref();
    {
        let field = field.clone();
        use_keys(Callback::from(move |key: String| {
            if key == "/"
                && let Some(field) = field.cast::<HtmlInputElement>()
            {
                // The key itself would be typed into it.
                Timeout::new(0, move || {
                    let _ = field.focus();
                    field.select();
                })
                .forget();
            }
        }));
    }
    let onkeydown = {
        let (moving, move_from, focused) = (moving.clone(), move_from.clone(), *cursor);
        Callback::from(move |event: KeyboardEvent| {
            if event.ctrl_key() || event.alt_key() || event.meta_key() {
                return;
            }
            match event.key().as_str() {
                "w" => {
                    if let Some(id) = box_of(&event) {
                        event.prevent_default();
                        move_from.emit(Some(id).or(focused.0));
                    }
                }
                "Escape" if moving.is_some() => {
                    event.stop_propagation();
                    move_from.emit(None);
                }
                _ => {}
            }
        })
    };

    let card = {
        let (sketch, lit, found, palette) =
            (sketch.clone(), lit.clone(), found.clone(), palette.clone());
        let strips = props.bench.as_ref().map(|bench| bench.model.strips.clone());
        let (moving, searching) = (*moving, !filter.trim().is_empty());
        let overlays = use_memo(sketch.clone(), |sketch| {
            let mut count = std::collections::HashMap::<LayerId, u32>::new();
            for below in sketch.links.iter().filter_map(|link| link.backing) {
                *count.entry(below).or_default() += 1;
            }
            count
        });
        let onlocate = locate.clone();
        Callback::from(move |id: LayerId| -> Option<Card> {
            let aside = if searching {
                !found.contains(&id)
            } else {
                !lit.is_empty() && !lit.contains(&id)
            };
            let more = classes!(
                aside.then_some("layer--aside"),
                (searching && found.contains(&id)).then_some("layer--match"),
                (moving == Some(id)).then_some("layer--moving"),
                moving
                    .is_some_and(|from| from != id)
                    .then_some("layer--target"),
            );
            if let Some(layer) = sketch.layer(id) {
                let content = html! {
                    <LayerCard
                        layer={layer.clone()}
                        strip={strips.as_ref().and_then(|strips| strips.of(id))}
                        palette={palette.clone()}
                        barred={strips.is_some() && layer.virtual_size.is_some()}
                        overlays={overlays.get(&id).copied().unwrap_or(0)}
                    />
                };
                return Some(cards::card(layer, more, content));
            }
            let ghost = sketch.ghost(id)?;
            let overlay = ghost.overlays.first().copied();
            let onclick = onlocate
                .clone()
                .zip(overlay)
                .map(|(locate, overlay)| locate.reform(move |_: MouseEvent| overlay));
            Some(cards::ghost(ghost, more, onclick))
        })
    };
    let ondrop = use_drop_on_ghost(props, &sketch);
    let oncursor = go.reform(|id| (id, true));
    let layers = sketch.tree.layers.len();
    let seen = viewport.seen();
    let large = layers > 12
        && width > 700.0
        && scene.shape == Shape::Across
        && (scene.width > seen.width * 1.2 || scene.height > seen.height * 1.2);
    let colours = use_memo((sketch.clone(), places.clone()), |(sketch, places)| {
        places
            .iter()
            .map(|place| cards::colour(sketch.layer(place.id)))
            .collect::<Vec<_>>()
    });
    html! {
        <div
            ref={outer}
            class={classes!("chain", moving.is_some().then_some("chain--moving"))}
            style={format!("--bar-width:{:.0}px", (scene.width * 0.36).max(90.0))}
            {onkeydown}
        >
            <Tools
                summary={sketch.summary()}
                searchable={layers >= SEARCHED}
                field={field}
                filter={(*filter).clone()}
                matches={matches}
                onfilter={let filter = filter.clone(); move |wanted| filter.set(wanted)}
                onshow={show}
                shape={scene.shape}
                onshape={let shape = shape.clone(); move |to| shape.set(Some(to))}
                sizing={*sizing}
                onsizing={let sizing = sizing.clone(); move |to| sizing.set(to)}
                viewport={viewport.clone()}
                scale={window.scale}
            />
            <div class="chain__stage">
                <Stage
                    scene={scene.clone()}
                    viewport={viewport.clone()}
                    {window}
                    label="Layers and their backing files"
                    {card}
                    selected={props.selected}
                    cursor={if cursor.0.is_some() { *cursor } else { (props.selected, 0) }}
                    lit={lit}
                    kept={dragged.or(*moving)}
                    onselect={choose}
                    {oncursor}
                    ondrag={let dragged = dragged.clone(); move |id| dragged.set(id)}
                    ondragonto={props.ondragonto.clone()}
                    {ondrop}
                />
                if large {
                    <MiniMap scene={scene.clone()} viewport={viewport.clone()} {colours} {dark} />
                }
            </div>
            <Foot
                sketch={sketch.clone()}
                selected={props.selected}
                moving={*moving}
                onmove={move_from}
                bench={props.bench.clone()}
                onlocate={locate}
                onpropose={props.onpropose.clone()}
            />
        </div>
    }
}

/// Asks for the bars of what is seen, one row after the other, once the view rests.
#[hook]
fn use_bars(
    props: &ChainProperties,
    sketch: &Rc<Sketch>,
    scene: &Rc<Scene>,
    viewport: &Rc<super::diagram::viewport::Viewport>,
    window: super::diagram::viewport::Window,
) {
    let asked = use_mut_ref(|| None::<(Rc<Sketch>, crate::protocol::strips::Ask)>);
    let strips = props.bench.as_ref().map(|bench| bench.model.strips.clone());
    let (bench, sketch, scene, viewport) = (
        props.bench.clone(),
        sketch.clone(),
        scene.clone(),
        viewport.clone(),
    );
    use_effect_with((strips, scene.clone(), window), move |(strips, ..)| {
        let wait = strips.clone().zip(bench).map(|(strips, bench)| {
            Timeout::new(60, move || {
                let seen: Vec<LayerId> = scene
                    .within(viewport.seen())
                    .map(|item| item.place.id)
                    .collect();
                if let Some(ask) = strips.wanted(&sketch, &scene, &seen) {
                    let mut asked = asked.borrow_mut();
                    let same = |(of, what): &(Rc<Sketch>, crate::protocol::strips::Ask)| {
                        Rc::ptr_eq(&of.tree, &sketch.tree) && *what == ask
                    };
                    if !asked.as_ref().is_some_and(same) {
                        *asked = Some((sketch.clone(), ask));
                        bench.send(&Request::Strips(ask));
                    }
                }
            })
        });
        move || drop(wait)
    });
}

/// Asks which of the given files a missing one may be; what was found for one overlay is taken
/// for all others that name the same file.
#[hook]
fn use_missing(props: &ChainProperties, sketch: &Rc<Sketch>) {
    let locating = props
        .bench
        .as_ref()
        .map(|bench| bench.model.locating.clone());
    let (bench, sketch) = (props.bench.clone(), sketch.clone());
    let heard = locating.as_ref().map(|locating| locating.heard);
    use_effect_with((sketch.clone(), heard), move |_| {
        let (Some(bench), Some(locating)) = (bench, locating) else {
            return;
        };
        if let Some(Located::Linked { layer, file }) = locating.last.as_deref()
            && let Some(linked) = sketch.layer(*layer)
            && let Some(other) = sketch.tree.layers.iter().find(|other| {
                other.state == State::Missing && other.backing_path == linked.backing_path
            })
        {
            bench.send(&Request::Locate(Locate::Take {
                layer: other.id,
                file: file.file,
            }));
            return;
        }
        for ghost in sketch.ghosts.iter().take(8) {
            for &layer in ghost.overlays.iter().take(1) {
                if !locating.asked(layer) {
                    bench.send(&Request::Locate(Locate::Suggest { layer }));
                }
            }
        }
    });
}

/// Opens the picker for a layer's missing file.
#[hook]
fn use_locate(props: &ChainProperties, _sketch: &Rc<Sketch>) -> Option<Callback<LayerId>> {
    let bench = props.bench.clone()?;
    Some(Callback::from(move |layer: LayerId| {
        let bench = bench.clone();
        spawn_local(async move {
            let granted = match bench.gifts.pick_files().await {
                Some(Ok(granted)) => granted,
                Some(Err(error)) => {
                    bench.dispatch(super::bench::model::Action::Problem(Some(error)));
                    return;
                }
                // Browsers without a picker have an input of the page for it.
                None => {
                    let document = gloo::utils::document();
                    let input = document.query_selector("[data-testid=\"file-input\"]");
                    if let Ok(Some(input)) = input {
                        let input: HtmlElement = wasm_bindgen::JsCast::unchecked_into(input);
                        input.click();
                    }
                    return;
                }
            };
            if !granted.is_empty() {
                bench.send(&Request::Locate(Locate::Give { layer, granted }));
            }
        });
    }))
}

/// Files dropped on the box of a missing one are meant for it.
#[hook]
fn use_drop_on_ghost(
    props: &ChainProperties,
    sketch: &Rc<Sketch>,
) -> Callback<(LayerId, DragEvent), bool> {
    let (bench, sketch) = (props.bench.clone(), sketch.clone());
    Callback::from(move |(id, event): (LayerId, DragEvent)| {
        let layer = sketch
            .ghost(id)
            .and_then(|ghost| ghost.overlays.first().copied());
        let (Some(layer), Some(bench), Some(transfer)) =
            (layer, bench.clone(), event.data_transfer())
        else {
            return false;
        };
        let granted = bench.gifts.dropped(&transfer);
        spawn_local(async move {
            let granted = granted.await;
            bench.send(&Request::Locate(Locate::Give { layer, granted }));
        });
        true
    })
}
