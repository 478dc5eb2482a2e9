//! What is being looked at, and the address that leads there again.
//!
//! An address says the names of layers and places in them, never what is there.

use super::Lens;
use crate::app::look::needle;
use crate::app::route::{Page, Route};
use crate::protocol::look::Space;
use crate::protocol::{LayerId, Tree};
use gloo::events::EventListener;
use gloo::timers::callback::Timeout;
use std::collections::BTreeMap;
use std::rc::Rc;
use yew::prelude::*;

/// A place in a view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spot {
    pub lens: Option<Lens>,
    /// Where the bytes are shown from.
    pub space: Space,
    pub at: u64,
    /// The layer whose bytes are beside.
    pub beside: Option<LayerId>,
    /// The part of a map that is shown, with the layer it belongs to.
    pub view: Option<(LayerId, u64, u64)>,
    /// Changes when the spot was set from outside: views begin anew.
    pub serial: u32,
}

impl Spot {
    /// The part of the map of `layer` that is shown.
    #[must_use]
    pub fn view_of(&self, layer: LayerId) -> Option<(u64, u64)> {
        self.view
            .filter(|(of, ..)| *of == layer)
            .map(|(_, start, end)| (start, end))
    }

    /// The address of the spot in `layer`, for the page of files.
    #[must_use]
    pub fn route(&self, tree: &Tree, layer: Option<LayerId>) -> Route {
        let mut query = BTreeMap::new();
        let mut set = |name: &str, value: String| {
            query.insert(name.to_owned(), value);
        };
        if let Some(layer) = layer {
            if let Some(name) = call(tree, layer) {
                set("layer", name);
            }
            if let Some(lens) = self.lens {
                set("look", lens.words().0.to_owned());
                match lens {
                    Lens::Bytes => {
                        set("at", format!("{:#x}", self.at));
                        if self.space == Space::Host {
                            set("in", "file".to_owned());
                        }
                        if let Some(name) = self.beside.and_then(|beside| call(tree, beside)) {
                            set("beside", name);
                        }
                    }
                    Lens::Map | Lens::Disk => {
                        if let Some((start, end)) = self.view_of(layer) {
                            set("from", format!("{start:#x}"));
                            set("to", format!("{end:#x}"));
                        }
                    }
                }
            }
        }
        Route {
            page: Page::Files,
            query,
        }
    }

    /// The spot of an address and the layer it is in, once the tree has that.
    #[must_use]
    pub fn of(route: &Route, tree: &Tree) -> Option<(LayerId, Self)> {
        let get = |name: &str| route.query.get(name).map(String::as_str);
        let number = |name: &str| get(name).and_then(needle::offset);
        let layer = find(tree, get("layer")?)?;
        let lens = get("look").and_then(|look| {
            let named = |lens: &Lens| lens.words().0 == look;
            Lens::ALL.into_iter().find(named)
        });
        let view = match (number("from"), number("to")) {
            (Some(start), Some(end)) if start < end => Some((layer, start, end)),
            _ => None,
        };
        let space = if get("in") == Some("file") {
            Space::Host
        } else {
            Space::Guest
        };
        let spot = Self {
            lens,
            space,
            at: number("at").unwrap_or(0),
            beside: get("beside").and_then(|name| find(tree, name)),
            view,
            serial: 0,
        };
        Some((layer, spot))
    }
}

/// What a layer is called in an address: its name, or where it lies if others have that, too.
fn call(tree: &Tree, id: LayerId) -> Option<String> {
    let layer = tree.layer(id)?;
    let alone = tree.layers.iter().filter(|l| l.name == layer.name).count() == 1;
    Some(if alone { &layer.name } else { &layer.path }.clone())
}

fn find(tree: &Tree, name: &str) -> Option<LayerId> {
    let by = |of: fn(&crate::protocol::Layer) -> &str| {
        tree.layers.iter().find(|layer| of(layer) == name)
    };
    by(|layer| &layer.path)
        .or_else(|| by(|layer| &layer.name))
        .map(|layer| layer.id)
}

/// The spot, kept in the address. `layer` is the one looked at; `onlayer` is told when an
/// address leads to another one.
#[hook]
pub fn use_spot(
    tree: &Rc<Tree>,
    layer: Option<LayerId>,
    onlayer: Callback<LayerId>,
) -> UseStateHandle<Spot> {
    let spot = use_state(Spot::default);
    // The address the page was entered by waits for its files.
    let wanted = use_state(Route::current);
    {
        let wanted = wanted.clone();
        use_effect_with((), move |()| {
            let listener = EventListener::new(&gloo::utils::window(), "hashchange", move |_| {
                wanted.set(Route::current());
            });
            move || drop(listener)
        });
    }
    {
        let (spot, wanted) = (spot.clone(), wanted.clone());
        use_effect_with((tree.clone(), (*wanted).clone()), move |(tree, route)| {
            if let Some(route) = route.as_ref().filter(|route| route.page == Page::Files)
                && let Some((layer, to)) = Spot::of(route, tree)
            {
                let serial = spot.serial.wrapping_add(1);
                spot.set(Spot { serial, ..to });
                onlayer.emit(layer);
                wanted.set(None);
            }
        });
    }
    {
        // Browsers count how often an address changes.
        let later = use_mut_ref(|| None::<Timeout>);
        let waiting = wanted.is_some();
        let deps = (*spot, layer, tree.clone(), waiting);
        use_effect_with(deps, move |(spot, layer, tree, waiting)| {
            let waits = *waiting && tree.layers.is_empty();
            let here = Route::current().is_none_or(|route| route.page == Page::Files);
            if !waits && here && !tree.layers.is_empty() {
                let route = spot.route(tree, *layer);
                *later.borrow_mut() = Some(Timeout::new(250, move || {
                    let still = Route::current().is_none_or(|route| route.page == Page::Files);
                    if still {
                        route.replace();
                    }
                }));
            }
            let later = later.clone();
            move || drop(later.borrow_mut().take())
        });
    }
    spot
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Layer, Role, State};
    use wasm_bindgen_test::wasm_bindgen_test;

    fn tree() -> Tree {
        let layer = |id: LayerId, path: &str| Layer {
            id,
            gift: 0,
            name: path.rsplit('/').next().unwrap_or(path).to_owned(),
            path: path.to_owned(),
            format: "qcow2".to_owned(),
            virtual_size: None,
            allocated: None,
            file_size: 0,
            backing: None,
            backing_name: String::new(),
            backing_path: String::new(),
            modified: None,
            remarks: Vec::new(),
            located: false,
            role: Role::Single,
            extents: None,
            state: State::Ok,
            reason: None,
            in_place: true,
            folder: None,
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
            staged: false,
        };
        Tree {
            layers: vec![
                layer(0, "a/x.qcow2"),
                layer(1, "b/x.qcow2"),
                layer(2, "top"),
            ],
            ..Tree::default()
        }
    }

    #[wasm_bindgen_test]
    fn an_address_leads_to_the_spot_it_was_made_of() {
        let tree = tree();
        let spots = [
            (2, Spot::default()),
            (
                1,
                Spot {
                    lens: Some(Lens::Bytes),
                    space: Space::Host,
                    at: 0x30000,
                    beside: Some(0),
                    ..Spot::default()
                },
            ),
            (
                2,
                Spot {
                    lens: Some(Lens::Map),
                    view: Some((2, 4096, 1 << 40)),
                    ..Spot::default()
                },
            ),
        ];
        for (layer, spot) in spots {
            let href = spot.route(&tree, Some(layer)).href();
            let route = Route::parse(href.trim_start_matches('#'));
            assert_eq!(Spot::of(&route, &tree), Some((layer, spot)), "{href}");
        }
        // Without its files an address leads nowhere yet.
        let route = Route::parse("/?layer=other&look=map");
        assert_eq!(Spot::of(&route, &tree), None);
    }
}
