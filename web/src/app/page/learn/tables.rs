//! What is shown below a lesson's figure: what the guests read, sizes, bytes moved.

use super::goal::stem;
use super::lesson::Lesson;
use crate::app::text::{bytes, share};
use crate::protocol::course::Peeked;
use crate::protocol::{Layer, State, Tree};
use std::collections::BTreeMap;
use std::rc::Rc;
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct PeekTableProperties {
    pub lesson: &'static Lesson,
    pub tree: Rc<Tree>,
    pub peeked: Rc<[Peeked]>,
    /// Not told yet: which layers are invalid.
    #[prop_or_default]
    pub veiled: bool,
}

/// What a guest would read on each of the layers.
#[function_component(PeekTable)]
pub fn peek_table(props: &PeekTableProperties) -> Html {
    let seen = |layer: &Layer| props.peeked.iter().find(|seen| seen.layer == layer.id);
    let any = props.peeked.iter().any(|seen| !seen.snapshots.is_empty());
    let row = |layer: &Layer| {
        let known = seen(layer);
        let cell = |nth: usize| {
            let text = known.map(|seen| seen.texts.get(nth).cloned().flatten());
            match text {
                None => html! { <td class="quiet">{ "…" }</td> },
                Some(None) => html! { <td class="quiet">{ "cannot be read" }</td> },
                Some(Some(text)) if text.is_empty() => html! { <td class="quiet">{ "zeros" }</td> },
                Some(Some(text)) => html! { <td><code>{ text }</code></td> },
            }
        };
        let errors = known.map_or(0, |seen| seen.errors);
        html! {
            <tr key={layer.id} data-testid="peek-row" data-name={layer.name.clone()} class={(layer.state == State::Invalid && !props.veiled).then_some("peek__invalid")}>
                <th scope="row">{ stem(&layer.name) }</th>
                { for (0..props.lesson.places.len()).map(cell) }
                if any {
                    <td>{ known.map(|seen| seen.snapshots.join(", ")) }</td>
                }
                <td class="quiet">{ match (known.is_some(), errors) {
                    (false, _) => "…".to_owned(),
                    (true, 0) => "no errors".to_owned(),
                    (true, 1) => "1 error".to_owned(),
                    (true, n) => format!("{n} errors"),
                } }</td>
            </tr>
        }
    };
    html! {
        <div class="peek" tabindex="0" role="group" aria-label="What a guest reads on each layer">
            <table class="peek__table" data-testid="peek" data-known={(!props.peeked.is_empty()).to_string()}>
                <caption>{ "What a guest reads on each layer" }</caption>
                <thead>
                    <tr>
                        <th scope="col">{ "on" }</th>
                        { for props.lesson.places.iter().map(|(name, ..)| html! { <th scope="col">{ *name }</th> }) }
                        if any { <th scope="col">{ "snapshots" }</th> }
                        <th scope="col">{ "check of the file" }</th>
                    </tr>
                </thead>
                <tbody>{ for in_order(props.lesson, &props.tree).into_iter().map(row) }</tbody>
            </table>
        </div>
    }
}

/// The layers as the lesson's recipe has them, and then those that were made later.
#[must_use]
pub fn in_order<'a>(lesson: &Lesson, tree: &'a Tree) -> Vec<&'a Layer> {
    let mut layers: Vec<&Layer> = tree.layers.iter().collect();
    layers.sort_by_key(|layer| {
        let name = stem(&layer.name);
        let mut lines = lesson.recipe.lines();
        lines
            .position(|line| line.split([' ', ':']).find(|word| !word.is_empty()) == Some(name))
            .unwrap_or(usize::MAX)
    });
    layers
}

#[derive(Clone, PartialEq, Properties)]
pub struct SizesProperties {
    pub lesson: &'static Lesson,
    pub start: Rc<Tree>,
    pub tree: Rc<Tree>,
}

/// How large each file was, and is.
#[function_component(Sizes)]
pub fn sizes(props: &SizesProperties) -> Html {
    let all = props.start.layers.iter().chain(&props.tree.layers);
    let most = all.map(|layer| layer.file_size).max().unwrap_or(1).max(1);
    let bar = |class: &'static str, size: u64| {
        let style = format!("width:{:.1}%", share(size, most) * 100.0);
        html! {
            <span class={classes!("sizes__bar", class)}><span {style}></span><small>{ bytes(size) }</small></span>
        }
    };
    html! {
        <dl class="sizes" data-testid="sizes" aria-label="Sizes of the files before and now">
            { for in_order(props.lesson, &props.tree).into_iter().map(|layer| {
                let before = props.start.layers.iter().find(|old| old.name == layer.name);
                html! {
                    <div key={layer.id} data-name={layer.name.clone()} data-size={layer.file_size.to_string()}>
                        <dt>{ stem(&layer.name) }</dt>
                        <dd>
                            if let Some(before) = before { { bar("sizes__bar--before", before.file_size) } }
                            { bar("sizes__bar--now", layer.file_size) }
                        </dd>
                    </div>
                }
            }) }
            <div class="sizes__key quiet" aria-hidden="true">
                <span class="sizes__bar--before">{ "before" }</span><span class="sizes__bar--now">{ "now" }</span>
            </div>
        </dl>
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct MovedProperties {
    pub lesson: &'static Lesson,
    pub moved: BTreeMap<usize, u64>,
}

/// How many bytes the operation of each step moved.
#[function_component(Moved)]
pub fn moved(props: &MovedProperties) -> Html {
    html! {
        <table class="peek__table" data-testid="moved">
            <caption>{ "Bytes moved" }</caption>
            <tbody>
                { for props.moved.iter().filter_map(|(step, count)| Some(html! {
                    <tr key={*step} data-bytes={count.to_string()}>
                        <th scope="row">{ props.lesson.steps.get(*step)?.title }</th>
                        <td>{ bytes(*count) }</td>
                    </tr>
                })) }
            </tbody>
        </table>
    }
}
