//! The page of one lesson.

use super::keeper::Keeper;
use super::lesson::Lesson;
use super::live::Live;
use super::{lessons, progress};
use crate::app::route::{Page, Route};
use crate::app::window::use_keys;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::spawn_local;
use web_sys::HtmlElement;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct LessonPageProperties {
    /// The lesson's name, as in its address.
    pub lesson: AttrValue,
}

/// One lesson.
#[function_component(LessonPage)]
pub fn lesson_page(props: &LessonPageProperties) -> Html {
    match lessons::find(&props.lesson) {
        Some(lesson) => html! { <Found {lesson} /> },
        None => html! {
            <div class="learn">
                <h1 class="page-head__title" tabindex="-1">{ "There is no such lesson" }</h1>
                <p><a href={Route::from(Page::Learn).href()}>{ "All lessons" }</a></p>
            </div>
        },
    }
}

#[derive(Clone, PartialEq, Properties)]
struct FoundProperties {
    lesson: &'static Lesson,
}

#[function_component(Found)]
fn found(props: &FoundProperties) -> Html {
    let lesson = props.lesson;
    let done = use_state(|| progress::load(lesson));
    // Each worker has a number; a killed one leaves its folder to the next.
    let worker = use_state(|| (0_u32, None::<Rc<str>>));
    let keeper = use_mut_ref(|| None::<Keeper>);
    let (before, after) = lessons::beside(lesson.id);
    let total = lesson.steps.len();

    let ondone = {
        let done = done.clone();
        Callback::from(move |step: usize| {
            if step == *done {
                progress::store(lesson, step + 1);
                done.set(step + 1);
                show(step + 1);
            }
        })
    };
    let onkill = {
        let (done, worker) = (done.clone(), worker.clone());
        let keeper = keeper.clone();
        Callback::from(move |folder: Rc<str>| {
            let (done, worker, keeper) = (done.clone(), worker.clone(), keeper.clone());
            spawn_local(async move {
                let kept = Keeper::wait_for(&folder).await;
                keeper.replace(Some(kept));
                progress::store(lesson, *done + 1);
                done.set(*done + 1);
                worker.set((worker.0 + 1, Some(folder)));
            });
        })
    };
    let reset = {
        let (done, worker, keeper) = (done.clone(), worker.clone(), keeper.clone());
        Callback::from(move |_: MouseEvent| {
            keeper.replace(None);
            progress::forget(lesson);
            done.set(0);
            worker.set((worker.0 + 1, None));
        })
    };
    use_keys(Callback::from(move |key: String| match key.as_str() {
        "n" => after.iter().for_each(|lesson| go(lesson)),
        "p" => before.iter().for_each(|lesson| go(lesson)),
        "Enter" => press(),
        _ => {}
    }));
    // After the shell, which knows the page and not the lesson.
    use_effect_with((), move |()| {
        let title =
            move || gloo::utils::document().set_title(&format!("{} - backchain", lesson.title));
        let timeout = gloo::timers::callback::Timeout::new(0, title);
        move || drop(timeout)
    });
    let (number, adopt) = (*worker).clone();
    html! {
        <article class="lesson" data-testid="lesson" data-lesson={lesson.id} data-done={done.to_string()}>
            <header class="lesson__head">
                <nav class="lesson__path" aria-label="Where you are">
                    <a href={Route::from(Page::Learn).href()}>{ "Learn" }</a>{ " / " }{ lesson.group.title() }
                </nav>
                <h1 class="page-head__title" tabindex="-1">{ lesson.title }</h1>
                <div class="lesson__tools">
                    <span class="quiet" aria-live="polite">{ format!("{} of {total} steps done", *done) }</span>
                    <button type="button" class="pf-v6-c-button pf-m-link pf-m-small" data-testid="reset" onclick={reset}>{ "Start over" }</button>
                    <a class="pf-v6-c-button pf-m-link pf-m-small" data-testid="slides" href={Route::from(Page::Talk(lesson.id.to_owned(), 1)).href()}>{ "As slides" }</a>
                </div>
            </header>
            <Live key={number} {lesson} done={*done} {ondone} {adopt} {onkill} />
            <footer class="lesson__foot">
                if *done == total {
                    <p class="lesson__end" role="status" data-testid="lesson-done">
                        <i class="fas fa-check-circle" aria-hidden="true" />{ " You have done this lesson." }
                    </p>
                }
                <nav class="lesson__beside" aria-label="Other lessons">
                    if let Some(before) = before { { beside(before, "lesson-previous", "Previous", "p") } }
                    if let Some(after) = after { { beside(after, "lesson-next", "Next", "n") } }
                </nav>
            </footer>
        </article>
    }
}

fn go(lesson: &Lesson) {
    Route::from(Page::Lesson(lesson.id.to_owned())).go();
}

fn beside(
    lesson: &'static Lesson,
    id: &'static str,
    label: &'static str,
    key: &'static str,
) -> Html {
    html! {
        <a class="lesson__link" href={Route::from(Page::Lesson(lesson.id.to_owned())).href()} data-testid={id} aria-keyshortcuts={key}>
            <small>{ label }{ " " }<kbd aria-hidden="true">{ key }</kbd></small>
            <span>{ lesson.title }</span>
        </a>
    }
}

/// Enter stands for the one thing the step asks for, unless it was pressed on something else.
fn press() {
    let document = gloo::utils::document();
    let elsewhere = document
        .active_element()
        .is_some_and(|e| matches!(e.tag_name().as_str(), "BUTTON" | "A" | "SUMMARY"));
    let selector = ".step--now :is([data-testid=continue], [data-testid=check], [data-testid=perform], [data-testid=show-me])";
    let button = document.query_selector(selector).ok().flatten();
    if let Some(button) = button.and_then(|b| b.dyn_into::<HtmlElement>().ok())
        && !elsewhere
    {
        button.click();
    }
}

/// Brings a step into view, once it is drawn.
fn show(step: usize) {
    gloo::timers::callback::Timeout::new(0, move || {
        let title = gloo::utils::document().get_element_by_id(&format!("step-{step}"));
        if let Some(title) = title.and_then(|t| t.dyn_into::<HtmlElement>().ok()) {
            let _ = title.focus();
        }
    })
    .forget();
}
