//! A lesson at work: its steps, and the chain they are about.

use super::act;
use super::chain::LiveFigure;
use super::figure::GoalFigure;
use super::lesson::{Lesson, Shows, Task};
use super::player::{Player, use_player};
use super::steps::Steps;
use super::tables::{Moved, PeekTable, Sizes};
use crate::app::bench::model::{Action, Stage};
use crate::app::bench::{Bench, use_bench};
use crate::app::details::LayerDetails;
use crate::app::look::spot::Spot;
use crate::app::look::{Lens, LookView};
use crate::app::operation::OperationView;
use crate::app::operation::menu::Operations;
use crate::protocol::{Kind, LayerId, Preview, Request, Status};
use patternfly_yew::prelude::*;
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct LiveProperties {
    pub lesson: &'static Lesson,
    /// Number of steps that are done.
    pub done: usize,
    pub ondone: Callback<usize>,
    /// The folder that a killed worker left behind.
    pub adopt: Option<Rc<str>>,
    /// Ends this worker; with its folder.
    pub onkill: Callback<Rc<str>>,
}

#[function_component(Live)]
pub fn live(props: &LiveProperties) -> Html {
    let lesson = props.lesson;
    let bench = use_bench();
    let player = use_player(bench, lesson, props.onkill.clone());
    let bench = player.bench.clone();
    {
        let player = player.clone();
        let (adopt, done) = (props.adopt.clone(), props.done);
        use_effect_with((), move |()| match adopt {
            Some(folder) => player.adopt(&folder),
            None => player.bring_to(done),
        });
    }
    let ready = player.now().idle() && !bench.model.tree.layers.is_empty();
    let step = lesson.steps.get(props.done);
    let peeked = &bench.model.course.peeked;
    let finished = outcome(&bench);

    // A step is done when the chain is what the figure says, however it became so.
    {
        let (player, ondone, done) = (player.clone(), props.ondone.clone(), props.done);
        let reached = step.is_some_and(|step| match step.task {
            Task::Do { goal, .. } => goal.reached(&bench.model.tree, peeked),
            Task::Remake => player.now().last == Some(props.done),
            Task::Stop { .. } => finished == Some(Status::Cancelled),
            _ => false,
        });
        let reached = reached && ready && !bench.model.running();
        let next = lesson.steps.get(props.done + 1);
        let asked = next.is_some_and(|step| step.task == Task::Invalid);
        use_effect_with((reached, done), move |&(reached, done)| {
            if reached {
                player.note(done);
                if asked {
                    player.bench.dispatch(Action::CloseForm);
                }
                ondone.emit(done);
            }
        });
    }
    let onkill = {
        let player = player.clone();
        Callback::from(move |()| player.kill())
    };
    html! {
        <div class="lesson__columns">
            <Steps player={player.clone()} done={props.done} {ready} ondone={props.ondone.clone()} {onkill} />
            <Workplace {player} done={props.done} {ready} />
        </div>
    }
}

/// How the operation in the form ended.
fn outcome(bench: &Bench) -> Option<Status> {
    match &bench.model.form.as_ref()?.stage {
        Stage::Finished { result, .. } => Some(result.status),
        _ => None,
    }
}

/// What the operation in the form would do, or does.
#[must_use]
pub fn planned(bench: &Bench) -> Option<&Preview> {
    match &bench.model.form.as_ref()?.stage {
        Stage::Planned(preview) | Stage::Running { preview, .. } => preview.as_ref().as_ref().ok(),
        Stage::Planning | Stage::Finished { .. } => None,
    }
}

#[derive(Clone, PartialEq, Properties)]
struct WorkplaceProperties {
    player: Player,
    done: usize,
    ready: bool,
}

/// The chain, what to do with it, and what is known of it.
#[function_component(Workplace)]
fn workplace(props: &WorkplaceProperties) -> Html {
    let player = &props.player;
    let (bench, lesson) = (&player.bench, player.lesson);
    let model = &bench.model;
    let act = lesson
        .steps
        .get(props.done)
        .and_then(|step| match step.task {
            Task::Do { act, .. } | Task::Stop { act } | Task::Kill { act } => Some(act),
            _ => None,
        });
    // The last figure stays until there is another one.
    let goal = (0..=props.done.min(lesson.steps.len().saturating_sub(1)))
        .rev()
        .find_map(|nth| lesson.steps.get(nth)?.task.goal());
    let on = |act: fn(&Bench)| {
        let bench = bench.clone();
        Callback::from(move |()| act(&bench))
    };
    let select = {
        let bench = bench.clone();
        Callback::from(move |layer: LayerId| bench.dispatch(Action::Select(Some(layer))))
    };
    let choose = {
        let bench = bench.clone();
        Callback::from(move |kind: Kind| bench.dispatch(Action::Choose(kind)))
    };
    let anew = {
        let (player, done) = (player.clone(), props.done);
        Callback::from(move |_: MouseEvent| player.bring_to(done))
    };
    // The question which layers are invalid is not answered beforehand.
    let asked = |step: usize| {
        let step = lesson.steps.get(step);
        step.is_some_and(|step| step.task == Task::Invalid)
    };
    let veiled = asked(props.done) || act.is_some() && asked(props.done + 1);
    let flow = planned(bench).map_or_else(Vec::new, |preview| preview.flow.clone());
    let partly = act_partly(lesson, props.done);
    let missed = act.is_some_and(|act| act::kind(&act).is_some())
        && props.ready
        && outcome(bench) == Some(Status::Done);
    let problem = player.now().problem.as_ref().or(model.problem.as_ref());
    html! {
        <div class="workplace">
            if let Some(problem) = problem {
                <div data-testid="problem">
                    <Alert inline=true r#type={AlertType::Danger} title="That did not work"><p>{ problem }</p></Alert>
                </div>
            }
            <section class="panel panel--chain" aria-label="The chain" data-testid="workplace" data-ready={props.ready.to_string()}>
                if model.tree.layers.is_empty() {
                    <p class="quiet" role="status"><Spinner size={SpinnerSize::Md} />{ " Making the chain…" }</p>
                } else {
                    <LiveFigure tree={model.tree.clone()} start={player.now().start.clone()} selected={model.selected} onselect={select} {flow} {veiled} />
                }
                if let Some(goal) = goal {
                    <GoalFigure {goal} tree={model.tree.clone()} peeked={model.course.peeked.clone()} {veiled} />
                }
            </section>
            if missed {
                <div data-testid="missed">
                    if partly {
                        <Alert inline=true r#type={AlertType::Info} title="It was done before you were">
                            <p>{ "Make the chain anew and try again, or let the page do both." }</p>
                        </Alert>
                    } else {
                        <Alert inline=true r#type={AlertType::Info} title="Done, and yet it is not the figure">
                            <p>{ "That was another operation than the one asked for. Look at what it did, then make the chain anew and try again." }</p>
                        </Alert>
                    }
                </div>
            }
            if act.is_some_and(|act| act::kind(&act).is_some()) {
                <Operations keys=false chosen={model.form.as_ref().map(|form| form.operation.kind)} disabled={model.running() || !props.ready} onchoose={choose} />
            }
            if let Some(form) = &model.form {
                <OperationView
                    tree={model.tree.clone()}
                    form={form.clone()}
                    onchange={let bench = bench.clone(); move |operation| bench.dispatch(Action::Change(operation))}
                    onrun={on(Bench::run)}
                    oncancel={on(Bench::cancel)}
                />
            }
            { shown(player) }
            <section class="panel" aria-label="What the guests read">
                <PeekTable {lesson} tree={model.tree.clone()} peeked={model.course.peeked.clone()} {veiled} />
            </section>
            if lesson.shows == Shows::Looks && props.ready {
                <Looks bench={bench.clone()} />
            }
            <p class="workplace__tools">
                <button type="button" class="pf-v6-c-button pf-m-link pf-m-inline" data-testid="anew" disabled={model.running()} onclick={anew}>
                    <i class="fas fa-redo" aria-hidden="true" />{ " Make the chain anew, as this step begins" }
                </button>
            </p>
        </div>
    }
}

/// The step is about an operation that does not come to its end.
fn act_partly(lesson: &Lesson, step: usize) -> bool {
    let step = lesson.steps.get(step);
    step.is_some_and(|step| matches!(step.task, Task::Stop { .. } | Task::Kill { .. }))
}

/// What this lesson shows besides.
fn shown(player: &Player) -> Html {
    let (bench, lesson) = (&player.bench, player.lesson);
    let model = &bench.model;
    match lesson.shows {
        Shows::Nothing | Shows::Looks => Html::default(),
        Shows::Sizes => html! {
            <section class="panel" aria-label="Sizes">
                <h2 class="panel__title">{ "Sizes of the files" }</h2>
                <Sizes {lesson} start={player.now().start.clone()} tree={model.tree.clone()} />
            </section>
        },
        Shows::Moved => html! {
            <section class="panel" aria-label="Bytes moved">
                <Moved {lesson} moved={player.now().moved.clone()} />
            </section>
        },
        Shows::Details => {
            let selected = model.selected.and_then(|id| model.tree.layer(id)).cloned();
            let close = {
                let bench = bench.clone();
                Callback::from(move |()| bench.dispatch(Action::Select(None)))
            };
            let save = {
                let bench = bench.clone();
                Callback::from(move |layer: LayerId| bench.send(&Request::Copy { layer }))
            };
            selected.map_or_else(Html::default, |layer| {
                html! { <LayerDetails {layer} details={model.details.clone()} onclose={close} onsave={save} /> }
            })
        }
    }
}

#[derive(Clone, PartialEq, Properties)]
struct LooksProperties {
    bench: Bench,
}

/// The ways to look into a layer.
#[function_component(Looks)]
fn looks(props: &LooksProperties) -> Html {
    let bench = &props.bench;
    let spot = use_state(Spot::default);
    let lens = spot.lens;
    let onlook = {
        let bench = bench.clone();
        Callback::from(move |look| bench.send(&Request::Look(look)))
    };
    let onlens = {
        let spot = spot.clone();
        Callback::from(move |lens: Option<Lens>| spot.set(Spot { lens, ..*spot }))
    };
    let select = {
        let bench = bench.clone();
        Callback::from(move |layer: LayerId| bench.dispatch(Action::Select(Some(layer))))
    };
    html! {
        <>
            <div class="operations operations--looks" role="toolbar" aria-label="Ways to look inside">
                { for Lens::ALL.iter().map(|&one| {
                    let (id, label, _, icon) = one.words();
                    let pressed = lens == Some(one);
                    html! {
                        <button
                            key={id}
                            type="button"
                            class={classes!("operations__item", pressed.then_some("operations__item--chosen"))}
                            data-testid={format!("lens-{id}")}
                            aria-pressed={pressed.to_string()}
                            onclick={onlens.reform(move |_: MouseEvent| (!pressed).then_some(one))}
                        >
                            <i class={classes!("fas", icon)} aria-hidden="true" />
                            <span>{ label }</span>
                        </button>
                    }
                }) }
            </div>
            if let Some(layer) = bench.focus().filter(|_| lens.is_some()) {
                <LookView
                    tree={bench.model.tree.clone()}
                    {layer}
                    spot={*spot}
                    looks={bench.model.looks.clone()}
                    {onlook}
                    onspot={let spot = spot.clone(); move |to| spot.set(to)}
                    onselect={select}
                />
            }
        </>
    }
}
