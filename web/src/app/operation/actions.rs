//! What can be done with one layer, where it is drawn: a menu by right click, by the menu key,
//! or by a button.

use super::menu::Menu;
use crate::protocol::{Group, Kind, LayerId, Tree};
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::Element;
use yew::prelude::*;

/// A menu that is open: for which layer, and where in the window.
#[derive(Clone, Copy, PartialEq)]
pub struct Opened {
    layer: LayerId,
    at: (i32, i32),
}

impl Opened {
    /// Below what was clicked.
    #[must_use]
    pub fn below(layer: LayerId, event: &MouseEvent) -> Option<Self> {
        let target = event.target().and_then(|t| t.dyn_into::<Element>().ok())?;
        let button = target.closest("button").ok().flatten()?;
        let place = button.get_bounding_client_rect();
        Some(Self {
            layer,
            at: (whole(place.left()), whole(place.bottom()) + 4),
        })
    }

    /// Where the mouse, or the focus, is: when that is on a layer.
    #[must_use]
    pub fn at(tree: &Tree, event: &MouseEvent) -> Option<Self> {
        let target = event.target().and_then(|t| t.dyn_into::<Element>().ok())?;
        let drawn = target.closest("[data-testid=node]").ok().flatten()?;
        let id = drawn.get_attribute("data-id");
        let id = id.and_then(|id| id.parse().ok()).or_else(|| {
            let name = drawn.get_attribute("data-name")?;
            let named = |layer: &&crate::protocol::Layer| layer.name == name;
            tree.layers.iter().find(named).map(|layer| layer.id)
        });
        let layer = id.filter(|&id| tree.layer(id).is_some())?;
        let at = match (event.client_x(), event.client_y()) {
            // Some browsers do not say where the focus is.
            (0, 0) => {
                let place = drawn.get_bounding_client_rect();
                (whole(place.left()) + 12, whole(place.bottom()) - 12)
            }
            at => at,
        };
        Some(Self { layer, at })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "places in a window are small numbers"
)]
fn whole(pixels: f64) -> i32 {
    pixels.round() as i32
}

#[derive(Clone, PartialEq, Properties)]
pub struct LayerMenuProperties {
    pub tree: Rc<Tree>,
    pub opened: UseStateHandle<Option<Opened>>,
    pub onchoose: Callback<(LayerId, Kind)>,
}

/// The open menu of a layer, if there is one.
#[function_component(LayerMenu)]
pub fn layer_menu(props: &LayerMenuProperties) -> Html {
    let Some(Opened { layer, at }) = *props.opened else {
        return Html::default();
    };
    let name = props.tree.layer(layer).map_or("", |layer| &layer.name);
    let onclose = {
        let opened = props.opened.clone();
        Callback::from(move |()| opened.set(None))
    };
    let onchoose = {
        let (opened, onchoose) = (props.opened.clone(), props.onchoose.clone());
        Callback::from(move |kind: Kind| {
            opened.set(None);
            onchoose.emit((layer, kind));
        })
    };
    html! {
        <div class="layer-menu">
            <Menu
                key={layer}
                groups={Rc::from(Group::ALL)}
                label={format!("Actions for {name}")}
                at={Some(at)}
                brief=true
                {onchoose}
                {onclose}
            />
        </div>
    }
}
