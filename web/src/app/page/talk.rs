//! A lesson as slides, for talks.

use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct TalkPageProperties {
    /// The lesson's name, as in its address.
    pub lesson: AttrValue,
    /// The step shown, from 1.
    pub step: usize,
}

#[function_component(TalkPage)]
pub fn talk_page(props: &TalkPageProperties) -> Html {
    html! { <h1 class="page-head__title" tabindex="-1">{ &props.lesson }{ " " }{ props.step }</h1> }
}
