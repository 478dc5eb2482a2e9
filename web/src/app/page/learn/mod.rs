//! The course: lessons on live chains.

pub mod heard;

use yew::prelude::*;

/// The table of contents.
#[function_component(LearnPage)]
pub fn learn_page() -> Html {
    html! { <h1 class="page-head__title" tabindex="-1">{ "Learn" }</h1> }
}

#[derive(Clone, PartialEq, Properties)]
pub struct LessonPageProperties {
    /// The lesson's name, as in its address.
    pub lesson: AttrValue,
}

/// One lesson.
#[function_component(LessonPage)]
pub fn lesson_page(props: &LessonPageProperties) -> Html {
    html! { <h1 class="page-head__title" tabindex="-1">{ &props.lesson }</h1> }
}
