//! The steps of a lesson, one below the other.

use super::act;
use super::lesson::{Act, Lesson, Step, Task};
use super::player::{Player, Until};
use super::question::{InvalidQuestion, Question};
use super::text::{inline, paragraph};
use crate::app::bench::model::{Action, Stage};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct StepsProperties {
    pub player: Player,
    /// Number of steps that are done.
    pub done: usize,
    /// The chain is where the step begins.
    pub ready: bool,
    pub ondone: Callback<usize>,
    pub onkill: Callback<()>,
}

#[function_component(Steps)]
pub fn steps(props: &StepsProperties) -> Html {
    let lesson = props.player.lesson;
    html! {
        <ol class="steps">
            { for lesson.steps.iter().enumerate().map(|(nth, step)| html! {
                <StepView key={nth} {nth} props={props.clone()} {step} />
            }) }
        </ol>
    }
}

#[derive(Clone, PartialEq, Properties)]
struct StepViewProperties {
    nth: usize,
    step: &'static Step,
    props: StepsProperties,
}

#[function_component(StepView)]
fn step_view(view: &StepViewProperties) -> Html {
    let StepViewProperties { nth, step, props } = view;
    let nth = *nth;
    let state = match nth.cmp(&props.done) {
        std::cmp::Ordering::Less => "done",
        std::cmp::Ordering::Equal => "now",
        std::cmp::Ordering::Greater => "later",
    };
    html! {
        <li
            class={classes!("step", format!("step--{state}"))}
            data-testid="step"
            data-state={state}
            aria-current={(state == "now").then_some("step")}
        >
            <h2 class="step__title" id={format!("step-{nth}")} tabindex="-1">
                <span class="step__mark" aria-hidden="true">
                    if state == "done" { <i class="fas fa-check" /> } else { { nth + 1 } }
                </span>
                { step.title }
                if state == "done" { <span class="pf-v6-screen-reader">{ " (done)" }</span> }
            </h2>
            <div class="step__body">
                { for step.text.iter().map(|text| paragraph(text)) }
                { task(nth, step, props, state) }
            </div>
        </li>
    }
}

/// What is to be done in the step.
fn task(nth: usize, step: &Step, props: &StepsProperties, state: &str) -> Html {
    let player = &props.player;
    let (now, done) = (state == "now", state == "done");
    let finish = {
        let ondone = props.ondone.clone();
        Callback::from(move |()| ondone.emit(nth))
    };
    match step.task {
        Task::Read if now => {
            let onclick = finish.reform(|_: MouseEvent| ());
            html! {
                <button type="button" class="pf-v6-c-button pf-m-primary" data-testid="continue" {onclick}>
                    { "Continue" }
                </button>
            }
        }
        Task::Read => Html::default(),
        Task::Do { act, .. } => html! {
            <>
                { instruction(&act) }
                if now { { controls(nth, act, player, props.ready) } }
            </>
        },
        Task::Remake if now => controls(nth, Act::Remake, player, props.ready),
        Task::Remake => Html::default(),
        Task::Stop { act } | Task::Kill { act } => html! {
            <>
                { instruction(&act) }
                if now {
                    <div class="step__buttons">
                        { controls(nth, act, player, props.ready) }
                        { partly(nth, act, matches!(step.task, Task::Kill { .. }), player, props) }
                    </div>
                }
            </>
        },
        Task::Invalid if now && !props.ready => Html::default(),
        Task::Invalid if now => html! {
            <InvalidQuestion
                lesson={player.lesson}
                tree={player.bench.model.tree.clone()}
                fates={player.now().fates.clone()}
                done=false
                ondone={finish}
            />
        },
        Task::Invalid => Html::default(),
        Task::Question { ask, answers } if now || done => {
            html! { <Question {ask} {answers} {done} ondone={finish} /> }
        }
        Task::Question { ask, answers } => html! {
            <div class="step__print">
                <p>{ inline(ask) }</p>
                <ul>{ for answers.iter().map(|(text, ..)| html! { <li>{ inline(text) }</li> }) }</ul>
            </div>
        },
    }
}

fn instruction(act: &Act) -> Html {
    act::hint(act).map_or_else(Html::default, |hint| {
        html! { <p class="step__do">{ inline(&hint) }</p> }
    })
}

/// The buttons of a step that changes the chain.
fn controls(nth: usize, act: Act, player: &Player, ready: bool) -> Html {
    if let Some(label) = act::button(&act) {
        let onclick = {
            let player = player.clone();
            Callback::from(move |_: MouseEvent| player.perform([(nth, act, Until::Done)]))
        };
        return html! {
            <button type="button" class="pf-v6-c-button pf-m-primary" data-testid="perform" disabled={!ready} {onclick}>
                { label }
            </button>
        };
    }
    let show = {
        let player = player.clone();
        Callback::from(move |_: MouseEvent| {
            if let Some(operation) = act::operation(&act, &player.bench.model.tree) {
                player.bench.dispatch(Action::Propose(operation));
            }
        })
    };
    html! {
        <button type="button" class="pf-v6-c-button pf-m-secondary" data-testid="show-me" disabled={!ready} onclick={show}>
            { "Show me" }
        </button>
    }
}

/// The buttons of an operation that is not to come to its end: on a quick machine nobody is quick
/// enough.
fn partly(nth: usize, act: Act, killed: bool, player: &Player, props: &StepsProperties) -> Html {
    let form = player.bench.model.form.as_ref();
    let running = form.is_some_and(|form| matches!(form.stage, Stage::Running { .. }));
    let itself = {
        let player = player.clone();
        let until = if killed {
            Until::Killed
        } else {
            Until::Stopped
        };
        Callback::from(move |_: MouseEvent| player.perform([(nth, act, until)]))
    };
    html! {
        <>
            if killed {
                <button
                    type="button"
                    class="pf-v6-c-button pf-m-danger"
                    data-testid="kill"
                    disabled={!running}
                    onclick={props.onkill.reform(|_: MouseEvent| ())}
                >
                    { "Kill the engine" }
                </button>
            }
            <button type="button" class="pf-v6-c-button pf-m-link" data-testid="by-itself" disabled={!props.ready || running} onclick={itself}>
                { if killed { "Start and kill it for me" } else { "Start and cancel it for me" } }
            </button>
        </>
    }
}

/// Number of steps of a lesson, in words.
#[must_use]
pub fn count(lesson: &Lesson) -> String {
    match lesson.steps.len() {
        1 => "1 step".to_owned(),
        n => format!("{n} steps"),
    }
}
