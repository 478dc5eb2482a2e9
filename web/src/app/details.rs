//! What one layer says about itself.

use super::text;
use crate::protocol::{Details, Extents, Layer, LayerId, State};
use patternfly_yew::prelude::*;
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct LayerDetailsProperties {
    pub layer: Layer,
    pub details: Option<Rc<Details>>,
    pub onclose: Callback<()>,
    pub onsave: Callback<LayerId>,
    /// Opens the menu of what can be done with the layer.
    #[prop_or_default]
    pub onactions: Option<Callback<MouseEvent>>,
}

#[function_component(LayerDetails)]
pub fn layer_details(props: &LayerDetailsProperties) -> Html {
    let layer = &props.layer;
    let id = layer.id;
    let save = props.onsave.reform(move |_: MouseEvent| id);
    let close = props.onclose.reform(|_: MouseEvent| ());
    html! {
        <section class="panel" data-testid="details" aria-label={format!("Details of {}", layer.name)}>
            <header class="panel__head">
                <Title level={Level::H2} size={Size::Large}>{ &layer.name }</Title>
                if let Some(onactions) = &props.onactions {
                    <button type="button" class="pf-v6-c-button pf-m-secondary pf-m-small push" data-testid="actions" aria-haspopup="menu" onclick={onactions.clone()}>
                        { "Actions " }<i class="fas fa-caret-down" aria-hidden="true" />
                    </button>
                }
                <button type="button" class="icon-button push" data-testid="save-copy" title="Save a copy" aria-label={format!("Save a copy of {}", layer.name)} onclick={save}>
                    <i class="fas fa-download" aria-hidden="true" />
                </button>
                <button type="button" class="icon-button" aria-label="Close the details" onclick={close}>
                    { Icon::Times }
                </button>
            </header>
            if layer.path != layer.name {
                <p class="quiet">{ &layer.path }</p>
            }
            if layer.staged {
                <p class="quiet">{ "Shown as the staged changes would leave it." }</p>
            }
            if let Some(reason) = &layer.reason {
                <Alert inline=true r#type={alert_type(layer.state)} title={sentence(text::state(layer.state))}>
                    <p>{ reason }</p>
                </Alert>
            }
            if let Some(extents) = &layer.extents {
                { map(extents) }
            }
            if let Some(details) = &props.details {
                { for details.sections.iter().map(|section| html! {
                    <div class="facts" key={section.title.clone()}>
                        <h3>{ &section.title }</h3>
                        <dl>
                            { for section.rows.iter().map(|(name, value)| html! {
                                <><dt>{ name }</dt><dd>{ value }</dd></>
                            }) }
                        </dl>
                    </div>
                }) }
            } else if layer.state != State::Damaged {
                <p class="quiet"><Spinner size={SpinnerSize::Md} />{ " reading…" }</p>
            }
        </section>
    }
}

fn alert_type(state: State) -> AlertType {
    match state {
        State::Damaged | State::Invalid | State::Loop => AlertType::Danger,
        State::Ok | State::Missing | State::WrongLabel => AlertType::Warning,
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// How the layer's virtual size divides up, as a bar with its legend.
fn map(extents: &Extents) -> Html {
    let parts = [
        ("data", "data", extents.data),
        ("compressed", "compressed", extents.compressed),
        ("zero", "zero", extents.zero),
        ("unallocated", "not here, from below", extents.unallocated),
    ];
    let total: u64 = parts.iter().map(|(_, _, bytes)| bytes).sum();
    let shown = parts.iter().filter(|(_, _, bytes)| *bytes > 0);
    html! {
        <div class="map">
            <div class="map__bar" role="img" aria-label="How the virtual size divides up">
                { for shown.clone().map(|(class, _, bytes)| html! {
                    <span
                        class={format!("map__{class}")}
                        style={format!("flex-grow:{:.4}", text::share(*bytes, total) * 100.0)}
                    />
                }) }
            </div>
            <ul>
                { for shown.map(|(class, name, bytes)| html! {
                    <li><i class={format!("map__{class}")} />{ format!("{} {name}", text::bytes(*bytes)) }</li>
                }) }
                <li class="quiet">{ if extents.runs == 1 { "1 run".to_owned() } else { format!("{} runs", extents.runs) } }</li>
            </ul>
        </div>
    }
}
