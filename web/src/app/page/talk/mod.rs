//! A lesson as slides, for talks: large, driven by keys and clickers, done live.

pub mod keys;
pub mod show;
pub mod slide;

use super::learn::keeper::Keeper;
use super::learn::lessons;
use crate::app::route::{Page, Route};
use keys::{Move, use_slide_keys};
use show::Show;
use slide::slides;
use std::rc::Rc;
use wasm_bindgen_futures::spawn_local;
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
    let lesson = lessons::find(&props.lesson);
    let slides = use_memo(lesson.map(|lesson| lesson.id), |_| {
        lesson.map(slides).unwrap_or_default()
    });
    let count = slides.len();
    let nth = props.step.clamp(1, count.max(1));
    let id = props.lesson.clone();
    let go = Callback::from(move |step: Move| {
        let to = |step: usize| Route::from(Page::Talk(id.to_string(), step)).go();
        match step {
            Move::On if nth < count => to(nth + 1),
            Move::Back if nth > 1 => to(nth - 1),
            Move::First => to(1),
            Move::Last => to(count),
            Move::Leave => {
                leave_full_screen();
                Route::from(Page::Lesson(id.to_string())).go();
            }
            Move::FullScreen => full_screen(),
            Move::On | Move::Back => {}
        }
    });
    use_slide_keys(go.clone());

    // Each worker has a number; a killed one leaves its folder to the next, and the number of
    // steps that have happened.
    let worker = use_state(|| (0_u32, None::<(Rc<str>, usize)>));
    let keeper = use_mut_ref(|| None::<Keeper>);
    let onkill = {
        let (worker, keeper) = (worker.clone(), keeper.clone());
        let slide = slides.get(nth - 1).copied();
        Callback::from(move |folder: Rc<str>| {
            let happened = lesson.zip(slide).map_or(0, |(l, slide)| slide.happened(l));
            let (worker, keeper) = (worker.clone(), keeper.clone());
            spawn_local(async move {
                let kept = Keeper::wait_for(&folder).await;
                keeper.replace(Some(kept));
                worker.set((worker.0 + 1, Some((folder, happened))));
            });
        })
    };
    let Some((lesson, &slide)) = lesson.zip(slides.get(nth - 1)) else {
        return html! {
            <div class="talk">
                <h1>{ "There is no such lesson" }</h1>
                <p><a href={Route::from(Page::Learn).href()}>{ "All lessons" }</a></p>
            </div>
        };
    };
    let (number, adopt) = (*worker).clone();
    let button = |step: Move, id: &'static str, label: &'static str, icon: &'static str| {
        html! {
            <button type="button" class="icon-button" data-testid={id} title={label} aria-label={label} onclick={go.reform(move |_: MouseEvent| step)}>
                <i class={classes!("fas", icon)} aria-hidden="true" />
            </button>
        }
    };
    html! {
        <div class="talk" data-testid="talk" data-slide={nth.to_string()} data-slides={count.to_string()}>
            <Show key={number} {lesson} {slide} {adopt} {onkill} />
            <footer class="talk__foot">
                { button(Move::Leave, "talk-leave", "Leave (Escape)", "fa-times") }
                { button(Move::FullScreen, "talk-full", "Full screen (f)", "fa-expand") }
                <span class="talk__lesson">{ lesson.title }</span>
                { button(Move::Back, "talk-back", "Back", "fa-chevron-left") }
                <span class="talk__count" data-testid="talk-count">{ format!("{nth} / {count}") }</span>
                { button(Move::On, "talk-next", "Next", "fa-chevron-right") }
            </footer>
        </div>
    }
}

fn full_screen() {
    let document = gloo::utils::document();
    if document.fullscreen_element().is_some() {
        document.exit_fullscreen();
    } else if let Some(root) = document.document_element() {
        // A browser may refuse; the slides are there all the same.
        let _ = root.request_fullscreen();
    }
}

fn leave_full_screen() {
    let document = gloo::utils::document();
    if document.fullscreen_element().is_some() {
        document.exit_fullscreen();
    }
}
