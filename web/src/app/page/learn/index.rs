//! The table of contents, with how far the learner came.

use super::lesson::{Group, Lesson};
use super::{lessons, progress, steps};
use crate::app::route::{Page, Route};
use crate::app::text::share;
use yew::prelude::*;

#[function_component(LearnPage)]
pub fn learn_page() -> Html {
    let again = use_force_update();
    let done = lessons::all().filter(|lesson| complete(lesson)).count();
    let total = lessons::all().count();
    let begun = lessons::all().any(|lesson| progress::load(lesson) > 0);
    let next = lessons::all().find(|lesson| !complete(lesson));
    let forget = Callback::from(move |_: MouseEvent| {
        lessons::all().for_each(progress::forget);
        again.force_update();
    });
    html! {
        <div class="learn">
            <div class="page-head">
                <h1 class="page-head__title" tabindex="-1">{ "Learn" }</h1>
                <span class="quiet" data-testid="learn-progress">{ format!("{done} of {total} lessons done") }</span>
                if begun {
                    <div class="page-head__tools">
                        <button type="button" class="pf-v6-c-button pf-m-link pf-m-small" data-testid="forget-progress" onclick={forget}>
                            { "Forget my progress" }
                        </button>
                    </div>
                }
            </div>
            <p class="learn__intro">
                { "Snapshots, block commit and block pull, on real images. Each lesson makes a small chain in this browser's own storage; what you do to it is done by the engine, and your files are not touched. " }
                if let Some(next) = next {
                    <a href={Route::from(Page::Lesson(next.id.to_owned())).href()} data-testid="learn-next">
                        { if begun { "Go on: " } else { "Begin: " } }{ next.title }
                    </a>
                }
            </p>
            <div class="learn__groups">
                { for Group::ALL.iter().map(|&group| html! {
                    <section class="panel" key={group.title()} aria-label={group.title()}>
                        <h2 class="panel__title">{ group.title() }</h2>
                        <ul class="learn__list">{ for lessons::of(group).map(entry) }</ul>
                    </section>
                }) }
            </div>
        </div>
    }
}

fn complete(lesson: &Lesson) -> bool {
    progress::load(lesson) == lesson.steps.len()
}

fn entry(lesson: &'static Lesson) -> Html {
    let done = progress::load(lesson);
    let total = lesson.steps.len();
    let number = |count: usize| u64::try_from(count).unwrap_or_default();
    let part = share(number(done), number(total));
    let state = match done {
        _ if done == total => "done".to_owned(),
        0 => steps::count(lesson),
        _ => format!("{done} of {total} steps"),
    };
    html! {
        <li key={lesson.id} class={classes!("learn__lesson", (done == total).then_some("learn__lesson--done"))}>
            <a href={Route::from(Page::Lesson(lesson.id.to_owned())).href()} data-testid="lesson-link" data-lesson={lesson.id} data-done={done.to_string()}>
                <span class="learn__mark" aria-hidden="true">
                    if done == total { <i class="fas fa-check" /> } else { <span style={format!("--part:{:.0}%", part * 100.0)}></span> }
                </span>
                <span class="learn__name">{ lesson.title }<small>{ state }</small></span>
            </a>
            <a class="icon-button" href={Route::from(Page::Talk(lesson.id.to_owned(), 1)).href()} title="Show it as slides" aria-label={format!("Show as slides: {}", lesson.title)}>
                <i class="fas fa-desktop" aria-hidden="true" />
            </a>
        </li>
    }
}
