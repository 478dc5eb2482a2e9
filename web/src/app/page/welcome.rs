//! What is shown before there are files.

use crate::app::ability::Limits;
use crate::app::diagram::{Diagram, DiagramBox};
use crate::app::route::{Page, Route};
use crate::app::text;
use crate::protocol::Group;
use patternfly_yew::prelude::*;
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct WelcomeProperties {
    pub opening: bool,
    pub onfiles: Callback<()>,
    pub onfolder: Callback<()>,
    pub ondemo: Callback<()>,
    pub onnew: Callback<()>,
    /// What stands between the drop zone and the operations.
    #[prop_or_default]
    pub children: Html,
}

#[function_component(Welcome)]
pub fn welcome(props: &WelcomeProperties) -> Html {
    let click = |callback: &Callback<()>| callback.reform(|_: MouseEvent| ());
    html! {
        <div class="welcome">
            <section class="welcome__drop">
                <div class="welcome__picture">{ picture() }</div>
                <Title level={Level::H1} size={Size::XXLarge}>{ "Drop your disk images here" }</Title>
                <p>
                    { "qcow2 and raw files, one, several, or a whole folder. The chain appears as it is, " }
                    { "and nothing is changed before you say so." }
                </p>
                <div class="welcome__buttons">
                    <button type="button" class="pf-v6-c-button pf-m-primary" data-testid="open-files" onclick={click(&props.onfiles)}>
                        { "Choose files" }
                    </button>
                    <button type="button" class="pf-v6-c-button pf-m-secondary" data-testid="open-folder" onclick={click(&props.onfolder)}>
                        { "Choose a folder" }
                    </button>
                    <button type="button" class="pf-v6-c-button pf-m-link" data-testid="demo" onclick={click(&props.ondemo)}>
                        { "Try the demo chain" }
                    </button>
                    <button type="button" class="pf-v6-c-button pf-m-link" data-testid="new-image" onclick={click(&props.onnew)}>
                        { "New image" }
                    </button>
                </div>
                if props.opening {
                    <p class="quiet"><Spinner size={SpinnerSize::Md} />{ " opening…" }</p>
                }
                <p class="privacy" data-testid="privacy">
                    <i class="fas fa-lock" aria-hidden="true" />
                    <span>
                        { "Nothing leaves this computer: the page speaks to no other place, and works without a network. " }
                        <a href={Route::from(Page::About).href()}>{ "More about that" }</a>
                    </span>
                </p>
                <Limits />
            </section>
            { props.children.clone() }
            <ul class="welcome__what">
                { for Group::Merge.kinds().iter().map(|&kind| {
                    let words = text::words(kind);
                    html! { <li key={words.id}><i class={classes!("fas", words.icon)} aria-hidden="true" /><strong>{ words.label }</strong><span>{ words.what }</span></li> }
                }) }
            </ul>
        </div>
    }
}

/// A chain, so that one sees what is meant.
fn picture() -> Html {
    let names = ["base", "snap-1", "snap-2", "active"];
    let boxes = names
        .iter()
        .zip(0_u32..)
        .map(|(name, id)| DiagramBox {
            id,
            backing: id.checked_sub(1),
            dim: false,
            class: match id {
                0 => classes!("layer--base"),
                3 => classes!("layer--active"),
                _ => classes!(),
            },
            label: (*name).into(),
            content: html! { <span class="layer__name">{ *name }</span> },
            hooks: None,
        })
        .collect();
    html! { <Diagram boxes={Rc::new(boxes)} compact=true label="A chain: base, snap-1, snap-2, active" /> }
}
