//! Questions: which files are now invalid, and others.

use super::goal::stem;
use super::lesson::Lesson;
use super::tables::in_order;
use super::text::inline;
use crate::protocol::{After, Fate, Layer, LayerId, State, Tree};
use std::collections::BTreeSet;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::HtmlInputElement;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct InvalidQuestionProperties {
    pub lesson: &'static Lesson,
    pub tree: Rc<Tree>,
    pub fates: Rc<[After]>,
    /// Answered before.
    pub done: bool,
    pub ondone: Callback<()>,
}

/// "Which files are now invalid?" What is right is what the engine says of the tree.
#[function_component(InvalidQuestion)]
pub fn invalid_question(props: &InvalidQuestionProperties) -> Html {
    let chosen = use_state(BTreeSet::<LayerId>::new);
    let none = use_state(|| false);
    let checked = use_state(|| false);
    let layers = &props.tree.layers;
    let right: BTreeSet<LayerId> = layers
        .iter()
        .filter(|layer| layer.state == State::Invalid)
        .map(|layer| layer.id)
        .collect();
    let shown: BTreeSet<LayerId> = if props.done {
        right.clone()
    } else {
        (*chosen).clone()
    };
    let said = *none || !shown.is_empty();
    let correct = said && shown == right;
    let onsubmit = {
        let (checked, ondone) = (checked.clone(), props.ondone.clone());
        Callback::from(move |event: SubmitEvent| {
            event.prevent_default();
            checked.set(true);
            if correct {
                ondone.emit(());
            }
        })
    };
    let option = |layer: &Layer| {
        let id = layer.id;
        let onchange = {
            let (chosen, none, checked) = (chosen.clone(), none.clone(), checked.clone());
            Callback::from(move |event: Event| {
                let input = event
                    .target()
                    .and_then(|t| t.dyn_into::<HtmlInputElement>().ok());
                let mut next = (*chosen).clone();
                if input.is_some_and(|input| input.checked()) {
                    next.insert(id);
                } else {
                    next.remove(&id);
                }
                chosen.set(next);
                none.set(false);
                checked.set(false);
            })
        };
        let judged = shown.contains(&id) == right.contains(&id);
        // A wrong answer is explained; a right one only when all are.
        let told = props.done || *checked && said && (correct || !judged);
        html! {
            <li key={id} class={classes!("answer", told.then_some(if judged { "answer--right" } else { "answer--wrong" }))}>
                <label class="check">
                    <input
                        type="checkbox"
                        data-testid="invalid"
                        data-name={layer.name.clone()}
                        checked={shown.contains(&id)}
                        disabled={props.done}
                        {onchange}
                    />
                    <span>
                        { stem(&layer.name) }
                        if told {
                            <small data-testid="reason">{ inline(&reason(layer, &props.tree, &props.fates)) }</small>
                        }
                    </span>
                </label>
            </li>
        }
    };
    let onnone = {
        let (chosen, none, checked) = (chosen.clone(), none.clone(), checked.clone());
        Callback::from(move |_: Event| {
            chosen.set(BTreeSet::new());
            none.set(!*none);
            checked.set(false);
        })
    };
    html! {
        <form class="question" data-testid="question" {onsubmit}>
            <fieldset>
            <legend class="pf-v6-screen-reader">{ "Files that are now invalid" }</legend>
            <ul class="answers">
                { for in_order(props.lesson, &props.tree).into_iter().map(option) }
                <li class="answer">
                    <label class="check">
                        <input
                            type="checkbox"
                            data-testid="none-invalid"
                            checked={*none || props.done && right.is_empty()}
                            disabled={props.done}
                            onchange={onnone}
                        />
                        <span>{ "None of them" }</span>
                    </label>
                </li>
            </ul>
            </fieldset>
            { verdict(props.done, *checked, correct) }
        </form>
    }
}

/// The button, and what is said of the answer.
fn verdict(done: bool, checked: bool, correct: bool) -> Html {
    html! {
        <>
            if !done {
                <button type="submit" class="pf-v6-c-button pf-m-primary" data-testid="check">{ "Check" }</button>
            }
            <p class="verdict" role="status" data-testid="verdict" data-right={(done || correct && checked).to_string()}>
                if done {
                    <span class="verdict--right">{ "Right." }</span>
                } else if checked && !correct {
                    <span class="verdict--wrong">{ "Not yet. See the remarks, and try again." }</span>
                }
            </p>
        </>
    }
}

/// Why a layer is valid or not.
#[must_use]
pub fn reason(layer: &Layer, tree: &Tree, fates: &[After]) -> String {
    if layer.state == State::Invalid {
        return layer
            .reason
            .clone()
            .unwrap_or_else(|| "What lies below it was changed.".to_owned());
    }
    let fate = fates.iter().find(|after| after.layer == layer.id);
    let below = stem(&layer.backing_name);
    match fate.map(|after| after.fate) {
        Some(Fate::Written) if tree.overlays(layer.id).next().is_some() => {
            "Valid: it has taken over the merged data.".to_owned()
        }
        Some(Fate::Written) => "Valid: it has taken over data, and reads the same.".to_owned(),
        Some(Fate::Relinked) => {
            format!("Valid: only its link changed. It stands on `{below}` now and reads the same.")
        }
        _ if layer.backing.is_some_and(|below| written(fates, below)) => format!(
            "Valid: `{below}` below it was changed, but to what it reads anyway: its own data was merged there."
        ),
        _ if below.is_empty() => "Valid: nothing is below it, and it was not changed.".to_owned(),
        _ => format!("Valid: neither it nor `{below}` below it was changed."),
    }
}

/// The last operation wrote data to that layer.
fn written(fates: &[After], layer: LayerId) -> bool {
    let fate = fates.iter().find(|after| after.layer == layer);
    fate.is_some_and(|after| after.fate == Fate::Written)
}

#[derive(Clone, PartialEq, Properties)]
pub struct QuestionProperties {
    pub ask: &'static str,
    pub answers: &'static [(&'static str, bool, &'static str)],
    pub done: bool,
    pub ondone: Callback<()>,
}

/// One answer out of several.
#[function_component(Question)]
pub fn question(props: &QuestionProperties) -> Html {
    let chosen = use_state(|| None::<usize>);
    let checked = use_state(|| false);
    let right = props.answers.iter().position(|answer| answer.1);
    let shown = if props.done { right } else { *chosen };
    let correct = shown.is_some() && shown == right;
    let onsubmit = {
        let (checked, ondone) = (checked.clone(), props.ondone.clone());
        Callback::from(move |event: SubmitEvent| {
            event.prevent_default();
            checked.set(true);
            if correct {
                ondone.emit(());
            }
        })
    };
    let option = |(nth, &(text, good, why)): (usize, &(&'static str, bool, &'static str))| {
        let onchange = {
            let (chosen, checked) = (chosen.clone(), checked.clone());
            Callback::from(move |_: Event| {
                chosen.set(Some(nth));
                checked.set(false);
            })
        };
        let told = props.done || *checked && shown == Some(nth);
        html! {
            <li key={nth} class={classes!("answer", told.then_some(if good { "answer--right" } else { "answer--wrong" }))}>
                <label class="check">
                    <input
                        type="radio"
                        name={props.ask}
                        data-testid="answer"
                        data-right={good.to_string()}
                        checked={shown == Some(nth)}
                        disabled={props.done}
                        {onchange}
                    />
                    <span>
                        { inline(text) }
                        if told { <small data-testid="reason">{ inline(why) }</small> }
                    </span>
                </label>
            </li>
        }
    };
    html! {
        <form class="question" data-testid="question" {onsubmit}>
            <fieldset>
                <legend>{ inline(props.ask) }</legend>
                <ul class="answers">{ for props.answers.iter().enumerate().map(option) }</ul>
            </fieldset>
            { verdict(props.done, *checked, correct) }
        </form>
    }
}
