//! The menus of operations: the bar above the chain, and what can be done with one layer.

use crate::app::text;
use crate::protocol::{Group, Kind};
use gloo::events::EventListener;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::{Element, HtmlElement, KeyboardEvent, Node};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct OperationsProperties {
    pub chosen: Option<Kind>,
    pub disabled: bool,
    pub onchoose: Callback<Kind>,
    /// The page hears the keys of the operations.
    #[prop_or(true)]
    pub keys: bool,
}

/// The bar: merging at hand, the rest in menus.
#[function_component(Operations)]
pub fn operations(props: &OperationsProperties) -> Html {
    let open = use_state(|| None::<Group>);
    let close = {
        let open = open.clone();
        Callback::from(move |()| open.set(None))
    };
    let choose = {
        let (open, onchoose) = (open.clone(), props.onchoose.clone());
        Callback::from(move |kind: Kind| {
            open.set(None);
            onchoose.emit(kind);
        })
    };
    let menu = |group: Group| {
        let (id, label) = text::group(group);
        let shown = *open == Some(group);
        let chosen = props
            .chosen
            .is_some_and(|kind| group.kinds().contains(&kind));
        let toggle = {
            let open = open.clone();
            Callback::from(move |_: MouseEvent| open.set((!shown).then_some(group)))
        };
        html! {
            <div class="menu-holder" key={id}>
                <button
                    type="button"
                    class={classes!("operations__item", chosen.then_some("operations__item--chosen"))}
                    data-testid={format!("menu-{id}")}
                    aria-haspopup="menu"
                    aria-expanded={shown.to_string()}
                    disabled={props.disabled}
                    onclick={toggle}
                >
                    <span>{ label }</span>
                    <i class="fas fa-caret-down" aria-hidden="true" />
                </button>
                if shown {
                    <Menu
                        groups={Rc::from([group])}
                        label={label}
                        onchoose={choose.clone()}
                        onclose={close.clone()}
                    />
                }
            </div>
        }
    };
    html! {
        <div class="operations" role="toolbar" aria-label="Operations">
            { for Group::Merge.kinds().iter().map(|&kind| {
                let words = text::words(kind);
                let chosen = props.chosen == Some(kind);
                html! {
                    <button
                        key={words.id}
                        type="button"
                        class={classes!("operations__item", chosen.then_some("operations__item--chosen"))}
                        data-testid={format!("op-{}", words.id)}
                        title={words.what}
                        aria-keyshortcuts={props.keys.then_some(words.key)}
                        aria-pressed={chosen.to_string()}
                        disabled={props.disabled}
                        onclick={props.onchoose.reform(move |_: MouseEvent| kind)}
                    >
                        <i class={classes!("fas", words.icon)} aria-hidden="true" />
                        <span>{ words.label }</span>
                        if props.keys { <kbd aria-hidden="true">{ words.key }</kbd> }
                    </button>
                }
            }) }
            { for Group::ALL.into_iter().filter(|group| *group != Group::Merge).map(menu) }
        </div>
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct MenuProperties {
    pub groups: Rc<[Group]>,
    pub label: AttrValue,
    /// Where it opens, in CSS pixels of the window; below what is before it unless given.
    #[prop_or_default]
    pub at: Option<(i32, i32)>,
    /// Without what each is for.
    #[prop_or_default]
    pub brief: bool,
    pub onchoose: Callback<Kind>,
    pub onclose: Callback<()>,
}

/// An open menu: arrow keys go through it, Escape and a click elsewhere close it.
#[function_component(Menu)]
pub fn menu(props: &MenuProperties) -> Html {
    let node = use_node_ref();
    {
        let (node, onclose) = (node.clone(), props.onclose.clone());
        use_effect_with((), move |()| {
            // Where the keys go back to when the menu closes.
            let before = gloo::utils::document()
                .active_element()
                .and_then(|e| e.dyn_into::<HtmlElement>().ok());
            let menu = node.cast::<Element>();
            if let Some(first) = menu
                .as_ref()
                .and_then(|menu| items(menu).into_iter().next())
            {
                let _ = first.focus();
            }
            if let Some(menu) = &menu {
                keep_inside(menu);
            }
            let outside =
                EventListener::new(&gloo::utils::document(), "pointerdown", move |event| {
                    let target = event.target().and_then(|t| t.dyn_into::<Node>().ok());
                    // The button that opened it closes it by itself.
                    let holder = menu.as_ref().and_then(|menu| menu.parent_element());
                    let inside = holder.is_some_and(|holder| holder.contains(target.as_ref()));
                    if !inside {
                        onclose.emit(());
                    }
                });
            move || {
                drop(outside);
                // Once the menu is gone, and unless the focus went elsewhere.
                gloo::timers::callback::Timeout::new(0, move || {
                    let now = gloo::utils::document().active_element();
                    let lost = now.is_none_or(|now| now.tag_name() == "BODY");
                    if let Some(before) = before.filter(|_| lost) {
                        let _ = before.focus();
                    }
                })
                .forget();
            }
        });
    }
    let onkeydown = {
        let (node, onclose) = (node.clone(), props.onclose.clone());
        let (onchoose, groups) = (props.onchoose.clone(), props.groups.clone());
        Callback::from(move |event: KeyboardEvent| {
            let Some(menu) = node.cast::<Element>() else {
                return;
            };
            let items = items(&menu);
            let focused = gloo::utils::document().active_element();
            let at = items
                .iter()
                .position(|item| focused.as_ref().is_some_and(|now| **item == *now));
            let last = items.len().saturating_sub(1);
            let key = event.key();
            let to = match key.as_str() {
                "ArrowDown" => at.map_or(0, |at| if at == last { 0 } else { at + 1 }),
                "ArrowUp" => at.map_or(last, |at| at.checked_sub(1).unwrap_or(last)),
                "Home" => 0,
                "End" => last,
                "Escape" | "Tab" => {
                    event.stop_propagation();
                    onclose.emit(());
                    return;
                }
                _ => {
                    let mut kinds = groups.iter().flat_map(|group| group.kinds());
                    if let Some(&kind) = kinds.find(|&&kind| text::words(kind).key == key) {
                        event.stop_propagation();
                        onchoose.emit(kind);
                    }
                    return;
                }
            };
            event.prevent_default();
            event.stop_propagation();
            if let Some(item) = items.get(to) {
                let _ = item.focus();
            }
        })
    };
    let style = props
        .at
        .map(|(x, y)| format!("position:fixed;left:{x}px;top:{y}px"));
    let several = props.groups.len() > 1;
    html! {
        <div ref={node} class={classes!("pf-v6-c-menu", "menu", props.brief.then_some("menu--brief"))} data-testid="menu" {style} {onkeydown}>
            <div class="pf-v6-c-menu__content" role="menu" aria-label={props.label.clone()}>
                { for props.groups.iter().map(|&group| {
                    let (id, label) = text::group(group);
                    html! {
                        <section key={id} class="pf-v6-c-menu__group" role="group" aria-label={label}>
                            if several {
                                <div class="pf-v6-c-menu__group-title" aria-hidden="true">{ label }</div>
                            }
                            <ul class="pf-v6-c-menu__list" role="none">
                                { for group.kinds().iter().map(|&kind| item(kind, props.brief, &props.onchoose)) }
                            </ul>
                        </section>
                    }
                }) }
            </div>
        </div>
    }
}

fn item(kind: Kind, brief: bool, onchoose: &Callback<Kind>) -> Html {
    let words = text::words(kind);
    html! {
        <li key={words.id} class="pf-v6-c-menu__list-item" role="none">
            <button
                type="button"
                class="pf-v6-c-menu__item"
                role="menuitem"
                tabindex="-1"
                data-testid={format!("op-{}", words.id)}
                aria-keyshortcuts={words.key}
                onclick={onchoose.reform(move |_: MouseEvent| kind)}
            >
                <span class="pf-v6-c-menu__item-main">
                    <span class="pf-v6-c-menu__item-icon"><i class={classes!("fas", words.icon)} aria-hidden="true" /></span>
                    <span class="pf-v6-c-menu__item-text">{ words.label }</span>
                    <kbd aria-hidden="true">{ words.key }</kbd>
                </span>
                if !brief {
                    <span class="pf-v6-c-menu__item-description">{ words.what }</span>
                }
            </button>
        </li>
    }
}

fn items(menu: &Element) -> Vec<HtmlElement> {
    let Ok(found) = menu.query_selector_all("[role=menuitem]") else {
        return Vec::new();
    };
    (0..found.length())
        .filter_map(|nth| found.item(nth)?.dyn_into().ok())
        .collect()
}

/// Moves a menu that would reach past the window's edges.
fn keep_inside(menu: &Element) {
    let Some(element) = menu.dyn_ref::<HtmlElement>() else {
        return;
    };
    let window = gloo::utils::window();
    let size = |value: Result<wasm_bindgen::JsValue, _>| value.ok().and_then(|v| v.as_f64());
    let (Some(width), Some(height)) = (size(window.inner_width()), size(window.inner_height()))
    else {
        return;
    };
    let place = menu.get_bounding_client_rect();
    let left = (width - 8.0 - place.right()).min(0.0);
    let up = (height - 8.0 - place.bottom())
        .min(0.0)
        .max(8.0 - place.top());
    if left < 0.0 || up < 0.0 {
        let move_by = format!("translate({left:.0}px, {up:.0}px)");
        let _ = element.style().set_property("transform", &move_by);
    }
}
