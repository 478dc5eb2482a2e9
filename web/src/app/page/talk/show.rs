//! The slide itself, and the chain on it.

use super::slide::Slide;
use crate::app::bench::model::{Action, Stage};
use crate::app::bench::use_bench;
use crate::app::operation::bar;
use crate::app::page::learn::act;
use crate::app::page::learn::chain::LiveFigure;
use crate::app::page::learn::goal::stem;
use crate::app::page::learn::lesson::{Act, Lesson, Shows, Task};
use crate::app::page::learn::live::planned;
use crate::app::page::learn::player::{Player, Until, use_player};
use crate::app::page::learn::question::reason;
use crate::app::page::learn::tables::{Moved, PeekTable, Sizes, in_order};
use crate::app::page::learn::text::{inline, paragraph};
use crate::protocol::State;
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct ShowProperties {
    pub lesson: &'static Lesson,
    pub slide: Slide,
    /// The folder that a killed worker left behind, and the steps that had happened.
    pub adopt: Option<(Rc<str>, usize)>,
    pub onkill: Callback<Rc<str>>,
}

#[function_component(Show)]
pub fn show(props: &ShowProperties) -> Html {
    let (lesson, slide) = (props.lesson, props.slide);
    let bench = use_bench();
    let player = use_player(bench, lesson, props.onkill.clone());
    let happened = use_mut_ref(|| None::<usize>);
    let idle = player.now().idle();
    {
        let (player, happened, adopt) = (player.clone(), happened.clone(), props.adopt.clone());
        let wanted = slide.happened(lesson);
        use_effect_with((wanted, idle), move |&(wanted, _)| {
            let before = *happened.borrow();
            let now = match (before, adopt) {
                (None, Some((folder, steps))) => {
                    player.adopt(&folder);
                    steps
                }
                (None, None) => {
                    player.bring_to(wanted);
                    wanted
                }
                (Some(before), _) if before < wanted && player.now().idle() => {
                    player.perform(jobs(lesson, before, wanted));
                    wanted
                }
                (Some(before), _) if before > wanted => {
                    if !jobs(lesson, wanted, before).is_empty() {
                        player.bring_to(wanted);
                    }
                    wanted
                }
                (Some(before), _) => before,
            };
            happened.replace(Some(now));
        });
    }
    // What is going to be done is drawn beforehand.
    {
        let player = player.clone();
        let tree = player.bench.model.tree.clone();
        use_effect_with((slide, idle, tree), move |(slide, idle, tree)| {
            if !*idle {
                return;
            }
            let coming = match slide {
                Slide::Before(step) => act_of(lesson, *step),
                _ => None,
            };
            match coming.and_then(|(act, _)| act::operation(&act, tree)) {
                Some(operation) => player.bench.dispatch(Action::Propose(operation)),
                None => player.bench.dispatch(Action::CloseForm),
            }
        });
    }
    let model = &player.bench.model;
    let ready = idle && !model.tree.layers.is_empty() && !model.course.peeked.is_empty();
    let veiled = matches!(slide, Slide::Ask(step) if task(lesson, step) == Some(Task::Invalid))
        || matches!(slide, Slide::After(step) if task(lesson, step + 1) == Some(Task::Invalid));
    let flow = planned(&player.bench).map_or_else(Vec::new, |preview| preview.flow.clone());
    let progress = model.form.as_ref().and_then(|form| match &form.stage {
        Stage::Running {
            progress,
            cancelling,
            ..
        } => Some(bar(progress.as_ref(), *cancelling)),
        _ => None,
    });
    let few = model.tree.layers.len() <= 5;
    html! {
        <section class="slide" data-testid="slide" data-ready={ready.to_string()} aria-live="polite">
            { words(lesson, slide, &player) }
            if let Some(problem) = &player.now().problem {
                <p class="slide__problem" data-testid="problem">{ problem }</p>
            }
            <div class="slide__figure">
                <LiveFigure tree={model.tree.clone()} start={player.now().start.clone()} {flow} {veiled} />
            </div>
            <div class="slide__progress">{ progress }</div>
            if few && (veiled || matches!(slide, Slide::Before(_) | Slide::After(_))) {
                { table(&player, veiled) }
            }
        </section>
    }
}

fn table(player: &Player, veiled: bool) -> Html {
    let (lesson, model) = (player.lesson, &player.bench.model);
    match lesson.shows {
        Shows::Sizes => html! {
            <div class="slide__table"><Sizes {lesson} start={player.now().start.clone()} tree={model.tree.clone()} /></div>
        },
        Shows::Moved => html! {
            <div class="slide__table"><Moved {lesson} moved={player.now().moved.clone()} /></div>
        },
        _ => html! {
            <div class="slide__table"><PeekTable {lesson} tree={model.tree.clone()} peeked={model.course.peeked.clone()} {veiled} /></div>
        },
    }
}

fn task(lesson: &Lesson, step: usize) -> Option<Task> {
    Some(lesson.steps.get(step)?.task)
}

/// What a step does to the chain, and how far.
fn act_of(lesson: &Lesson, step: usize) -> Option<(Act, Until)> {
    Some(match lesson.steps.get(step)?.task {
        Task::Do { act, .. } => (act, Until::Done),
        Task::Remake => (Act::Remake, Until::Done),
        Task::Stop { act } => (act, Until::Stopped),
        Task::Kill { act } => (act, Until::Killed),
        Task::Read | Task::Invalid | Task::Question { .. } => return None,
    })
}

fn jobs(lesson: &Lesson, from: usize, to: usize) -> Vec<(usize, Act, Until)> {
    (from..to)
        .filter_map(|step| act_of(lesson, step).map(|(act, until)| (step, act, until)))
        .collect()
}

/// What is said on a slide.
fn words(lesson: &'static Lesson, slide: Slide, player: &Player) -> Html {
    let step = slide.step().and_then(|step| lesson.steps.get(step));
    let Some(step) = step else {
        return html! {
            <>
                <p class="slide__group">{ if slide == Slide::End { "That was" } else { lesson.group.title() } }</p>
                <h1 class="slide__title slide__title--large">{ lesson.title }</h1>
            </>
        };
    };
    let said = match slide {
        Slide::Text { from, count, .. } => {
            let text = step.text.iter().skip(from).take(count);
            html! { <>{ for text.map(|text| paragraph(text)) }</> }
        }
        Slide::Before(nth) => {
            let hint = act_of(lesson, nth).and_then(|(act, _)| act::hint(&act));
            html! {
                <>
                    { for step.text.iter().map(|text| paragraph(text)) }
                    if let Some(hint) = hint { <p class="step__do">{ inline(&hint) }</p> }
                </>
            }
        }
        Slide::After(nth) => {
            let goal = step.task.goal();
            let model = &player.bench.model;
            let reached = goal.is_some_and(|goal| goal.reached(&model.tree, &model.course.peeked));
            let told = match task(lesson, nth) {
                Some(Task::Stop { .. }) => "Cancelled. All files are as they were.",
                Some(Task::Kill { .. }) => {
                    "Killed. Another worker has opened what is left: all files are as they were."
                }
                Some(Task::Remake) => "The chain is as it was at the beginning.",
                _ => "Done.",
            };
            let done = player.now().idle() && (goal.is_none() || reached);
            html! {
                <p class="slide__done" data-testid="slide-done" data-reached={reached.to_string()}>
                    if done { <i class="fas fa-check-circle" aria-hidden="true" />{ " " }{ told } }
                </p>
            }
        }
        Slide::Ask(_) | Slide::Answer(_) => question(step.task, slide, player),
        Slide::Title | Slide::End => Html::default(),
    };
    html! {
        <>
            <h1 class="slide__title">{ step.title }</h1>
            <div class="slide__text">{ said }</div>
        </>
    }
}

fn question(task: Task, slide: Slide, player: &Player) -> Html {
    let told = matches!(slide, Slide::Answer(_));
    match task {
        Task::Question { ask, answers } => html! {
            <>
                <p>{ inline(ask) }</p>
                <ol class="slide__answers" type="A">
                    { for answers.iter().map(|&(text, right, why)| html! {
                        <li class={(told && right).then_some("slide__right")}>
                            { inline(text) }
                            if told && right { <small>{ inline(why) }</small> }
                        </li>
                    }) }
                </ol>
            </>
        },
        Task::Invalid if told => {
            let tree = &player.bench.model.tree;
            let layers = in_order(player.lesson, tree).into_iter();
            // Layers that are invalid for the same reason are named together.
            let mut told: Vec<(String, Vec<&str>)> = Vec::new();
            for layer in layers.filter(|layer| layer.state == State::Invalid) {
                let why = reason(layer, tree, &player.now().fates);
                match told.iter_mut().find(|(known, _)| *known == why) {
                    Some((_, names)) => names.push(stem(&layer.name)),
                    None => told.push((why, vec![stem(&layer.name)])),
                }
            }
            html! {
                <ul class="slide__answers" data-testid="slide-invalid">
                    { for told.iter().map(|(why, names)| html! {
                        <li class="slide__right">{ names.join(", ") }<small>{ inline(why) }</small></li>
                    }) }
                    if told.is_empty() { <li class="slide__right">{ "None of them." }</li> }
                </ul>
            }
        }
        _ => Html::default(),
    }
}
