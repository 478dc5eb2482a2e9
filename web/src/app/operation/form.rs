//! The form of an operation: its layers and its fields, drawn from their description.

use super::propose::{default_base, fill, folder, renamed};
use super::shape::{self, Control, Spec, fault, matters};
use crate::protocol::{Field, Kind, Layer, LayerId, Operation, Place, Tree};
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::{HtmlInputElement, HtmlSelectElement};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct FieldsProperties {
    pub tree: Rc<Tree>,
    pub operation: Operation,
    pub base_chosen: bool,
    pub disabled: bool,
    pub can_force: bool,
    pub onchange: Callback<Operation>,
}

#[function_component(Fields)]
pub fn fields(props: &FieldsProperties) -> Html {
    let FieldsProperties {
        tree,
        operation,
        disabled,
        onchange,
        ..
    } = props;
    let kind = operation.kind;
    let shape = shape::shape(kind);
    let set_top = {
        let (tree, operation) = (tree.clone(), operation.clone());
        let base_chosen = props.base_chosen;
        onchange.reform(move |top: Option<LayerId>| with_top(&tree, &operation, top, base_chosen))
    };
    let set_base = {
        let (tree, operation) = (tree.clone(), operation.clone());
        onchange.reform(move |base| {
            let next = Operation {
                base,
                force: false,
                ..operation.clone().without(Field::Goal)
            };
            // Another folder may be the one beside.
            match kind {
                Kind::GoBack => keeping_entries(&tree, &operation, next),
                _ => next,
            }
        })
    };
    let tops = vec![("", others(tree, |_| true))];
    let none_on_top = (kind == Kind::Create).then_some("no layer");
    let top = operation.top.and_then(|top| tree.layer(top));
    let drawn = |field: &Field| {
        let spec = shape::spec(kind, *field);
        matters(operation, top, *field).then(|| (spec.rare, field_view(props, top, *field, &spec)))
    };
    let (rare, usual): (Vec<_>, Vec<_>) = shape
        .fields
        .iter()
        .filter_map(drawn)
        .partition(|(rare, _)| *rare);
    html! {
        <form class="form" onsubmit={Callback::from(|event: SubmitEvent| event.prevent_default())}>
            { select("top", shape.top, tree, &tops, operation.top, none_on_top, *disabled, set_top) }
            if let Some(base) = shape.base.filter(|_| shape::base_matters(operation)) {
                { select(
                    "base",
                    base.label,
                    tree,
                    &base_groups(tree, operation, base.below_first),
                    operation.base,
                    base.none,
                    *disabled,
                    set_base,
                ) }
            }
            { for usual.into_iter().map(|(_, view)| view) }
            if !rare.is_empty() {
                <details class="form__more">
                    <summary data-testid="more-options">{ "More options" }</summary>
                    <div class="form">{ for rare.into_iter().map(|(_, view)| view) }</div>
                </details>
            }
            if props.can_force || operation.force {
                { switch(
                    "force",
                    "Do it although other overlays break",
                    "They will read differently afterwards, without any warning from other tools.",
                    operation.force,
                    *disabled,
                    {
                        let operation = operation.clone();
                        onchange.reform(move |force| Operation { force, ..operation.clone() })
                    },
                ) }
            }
        </form>
    }
}

/// The same operation on another layer.
fn with_top(
    tree: &Tree,
    operation: &Operation,
    top: Option<LayerId>,
    base_chosen: bool,
) -> Operation {
    let kind = operation.kind;
    let fits = match (kind, operation.base, top) {
        (_, None, _) => !matches!(kind, Kind::Commit | Kind::GoBack),
        (Kind::Rebase | Kind::Bitmap, base, top) => base != top,
        (_, Some(base), Some(top)) => tree.below(top).iter().any(|layer| layer.id == base),
        (_, _, None) => false,
    };
    let base = if base_chosen && fits {
        operation.base
    } else {
        top.and_then(|top| default_base(tree, kind, top))
    };
    let next = Operation {
        top,
        base,
        force: false,
        ..operation.clone().without(Field::Goal)
    };
    if top == operation.top {
        next
    } else {
        keeping_entries(tree, operation, next)
    }
}

/// What depends on the layers is filled in anew, the rest stays.
fn keeping_entries(tree: &Tree, operation: &Operation, next: Operation) -> Operation {
    let anew = [
        Field::Name,
        Field::Place,
        Field::Snapshot,
        Field::SnapshotName,
        Field::Bitmap,
        Field::Action,
        Field::Goal,
    ];
    let mut filled = fill(tree, next);
    for (field, value) in &operation.entries {
        let of_layer = *field == Field::Size && operation.kind == Kind::Resize;
        if !of_layer && !anew.contains(field) {
            filled = filled.with(*field, value.clone());
        }
    }
    filled
}

/// What makes sense comes first; the rest is there too, and the preview says why not.
fn base_groups(
    tree: &Tree,
    operation: &Operation,
    below_first: bool,
) -> Vec<(&'static str, Vec<Layer>)> {
    let top = operation.top;
    if !below_first {
        return vec![("", others(tree, |layer| Some(layer.id) != top))];
    }
    let below: Vec<LayerId> = top
        .map(|top| tree.below(top).iter().map(|layer| layer.id).collect())
        .unwrap_or_default();
    vec![
        ("Below it", others(tree, |layer| below.contains(&layer.id))),
        (
            "Elsewhere",
            others(tree, |layer| {
                Some(layer.id) != top && !below.contains(&layer.id)
            }),
        ),
    ]
}

fn others(tree: &Tree, keep: impl Fn(&Layer) -> bool) -> Vec<Layer> {
    tree.layers
        .iter()
        .filter(|layer| keep(layer))
        .cloned()
        .collect()
}

/// One field with its label, its help, and what is wrong with it.
fn field_view(props: &FieldsProperties, top: Option<&Layer>, field: Field, spec: &Spec) -> Html {
    let operation = &props.operation;
    let disabled = props.disabled;
    let value = operation.get(field).to_owned();
    let set = {
        let operation = operation.clone();
        props
            .onchange
            .reform(move |value: String| entered(&operation, field, value))
    };
    let choice = |options: Vec<(String, String)>| {
        choices(
            spec.id,
            spec.label,
            spec.help,
            options,
            &value,
            disabled,
            set.clone(),
        )
    };
    let owned = |(value, text): &(&str, &str)| ((*value).to_owned(), (*text).to_owned());
    let named = |names: &[String]| names.iter().map(|n| (n.clone(), n.clone())).collect();
    match spec.control {
        Control::Switch => switch(
            spec.id,
            spec.label,
            spec.help,
            operation.is(field),
            disabled,
            set.reform(|on: bool| if on { "on" } else { "" }.to_owned()),
        ),
        Control::Select(options) => choice(options.iter().map(owned).collect()),
        Control::Snapshot(none) => {
            let list = top
                .map(|layer| layer.snapshots.as_slice())
                .unwrap_or_default();
            let none = none.map(|text| (String::new(), text.to_owned()));
            let rest = list.iter().map(|known| {
                (
                    known.id.clone(),
                    format!("{} (ID {})", known.name, known.id),
                )
            });
            choice(none.into_iter().chain(rest).collect())
        }
        Control::Place => choice(places(&props.tree, operation)),
        Control::Bitmap if operation.get(Field::Action) != "add" => {
            choice(named(top.map(|l| l.bitmaps.as_slice()).unwrap_or_default()))
        }
        Control::OtherBitmap => {
            let base = operation.base.and_then(|base| props.tree.layer(base));
            let layer = base.or(top);
            choice(named(
                layer.map(|l| l.bitmaps.as_slice()).unwrap_or_default(),
            ))
        }
        Control::Text | Control::Size | Control::Bitmap => {
            text_field(spec, value, fault(operation, top, field), disabled, set)
        }
    }
}

/// The operation with one more entry, and what follows from it.
fn entered(operation: &Operation, field: Field, value: String) -> Operation {
    let next = operation.clone().with(field, value.clone());
    match field {
        Field::Format => {
            let name = renamed(operation.get(Field::Name), &value);
            let next = next.with(Field::Name, name);
            if value == "raw" {
                Operation {
                    base: None,
                    ..next.with(Field::Preallocation, "off")
                }
            } else {
                next
            }
        }
        Field::Compress => next.with(Field::Preallocation, "off"),
        _ => next,
    }
}

fn places(tree: &Tree, operation: &Operation) -> Vec<(String, String)> {
    let option = |place: Place, text: String| (place.name().to_owned(), text);
    let folder = folder(tree, operation);
    let picks = crate::app::files::can_pick_target();
    [
        folder.map(|name| option(Place::Folder, format!("in the folder {name}"))),
        picks.then(|| option(Place::Picked, "where I say when it runs".to_owned())),
        Some(option(
            Place::Private,
            "in the browser, to be saved afterwards".to_owned(),
        )),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn text_field(
    spec: &Spec,
    value: String,
    fault: Option<String>,
    disabled: bool,
    set: Callback<String>,
) -> Html {
    let oninput = set.reform(|event: InputEvent| {
        let input = event
            .target()
            .and_then(|t| t.dyn_into::<HtmlInputElement>().ok());
        input.map(|input| input.value()).unwrap_or_default()
    });
    let about = format!("{}-about", spec.id);
    let said = fault.clone().unwrap_or_else(|| spec.help.to_owned());
    html! {
        <label class="field">
            <span class="field__label">{ spec.label }</span>
            <span class={classes!("pf-v6-c-form-control", "field__text", fault.is_some().then_some("pf-m-error"))}>
                <input
                    type="text"
                    autocomplete="off"
                    spellcheck="false"
                    data-testid={spec.id}
                    {value}
                    {disabled}
                    aria-invalid={fault.is_some().to_string()}
                    aria-describedby={about.clone()}
                    {oninput}
                />
            </span>
            <small id={about} class={classes!("field__help", fault.is_some().then_some("field__help--fault"))}>
                { said }
            </small>
        </label>
    }
}

fn choices(
    id: &'static str,
    label: &'static str,
    help: &'static str,
    options: Vec<(String, String)>,
    chosen: &str,
    disabled: bool,
    set: Callback<String>,
) -> Html {
    let onchange = set.reform(|event: Event| {
        let select = event
            .target()
            .and_then(|t| t.dyn_into::<HtmlSelectElement>().ok());
        select.map(|select| select.value()).unwrap_or_default()
    });
    let known = options.iter().any(|(value, _)| value == chosen);
    html! {
        <label class="field">
            <span class="field__label">{ label }</span>
            <span class="pf-v6-c-form-control">
                <select data-testid={id} {disabled} {onchange}>
                    if !known {
                        <option key="?" value={chosen.to_owned()} selected=true disabled=true>
                            { if options.is_empty() { "there is none" } else { "choose one" } }
                        </option>
                    }
                    { for options.into_iter().map(|(value, text)| html! {
                        <option key={value.clone()} value={value.clone()} selected={value == chosen}>{ text }</option>
                    }) }
                </select>
            </span>
            if !help.is_empty() {
                <small class="field__help">{ help }</small>
            }
        </label>
    }
}

/// An option's value: the file name, or the path where several files share a name.
fn value_of(tree: &Tree, layer: &Layer) -> String {
    let shared = tree
        .layers
        .iter()
        .filter(|other| other.name == layer.name)
        .count()
        > 1;
    if shared {
        layer.path.clone()
    } else {
        layer.name.clone()
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "a select has this many independent parts"
)]
fn select(
    id: &'static str,
    label: &str,
    tree: &Rc<Tree>,
    groups: &[(&'static str, Vec<Layer>)],
    chosen: Option<LayerId>,
    none: Option<&str>,
    disabled: bool,
    onchange: Callback<Option<LayerId>>,
) -> Html {
    let onchange = {
        let tree = tree.clone();
        Callback::from(move |event: Event| {
            let Some(select) = event
                .target()
                .and_then(|t| t.dyn_into::<HtmlSelectElement>().ok())
            else {
                return;
            };
            let value = select.value();
            let layer = tree
                .layers
                .iter()
                .find(|layer| value_of(&tree, layer) == value);
            onchange.emit(layer.map(|layer| layer.id));
        })
    };
    let option = |layer: &Layer| {
        let value = value_of(tree, layer);
        html! {
            <option key={value.clone()} value={value.clone()} selected={Some(layer.id) == chosen}>
                { value.clone() }
            </option>
        }
    };
    html! {
        <label class="field">
            <span class="field__label">{ label }</span>
            <span class="pf-v6-c-form-control">
                <select data-testid={id} {disabled} {onchange}>
                    if let Some(none) = none {
                        <option key="" value="" selected={chosen.is_none()}>{ none }</option>
                    } else if chosen.is_none() {
                        <option key="" value="" selected=true>{ "choose a layer" }</option>
                    }
                    { for groups.iter().filter(|(_, layers)| !layers.is_empty()).map(|(name, layers)| {
                        if name.is_empty() {
                            html! { <>{ for layers.iter().map(option) }</> }
                        } else {
                            html! { <optgroup key={*name} label={*name}>{ for layers.iter().map(option) }</optgroup> }
                        }
                    }) }
                </select>
            </span>
        </label>
    }
}

fn switch(
    id: &'static str,
    label: &'static str,
    help: &'static str,
    checked: bool,
    disabled: bool,
    onchange: Callback<bool>,
) -> Html {
    let onchange = onchange.reform(|event: Event| {
        let input = event
            .target()
            .and_then(|t| t.dyn_into::<HtmlInputElement>().ok());
        input.is_some_and(|input| input.checked())
    });
    html! {
        <label class="check">
            <input type="checkbox" data-testid={id} {checked} {disabled} {onchange} />
            <span>{ label }<small>{ help }</small></span>
        </label>
    }
}
