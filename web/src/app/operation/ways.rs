//! The ways to a goal, side by side.

use crate::app::text;
use crate::protocol::{Operation, Way};
use yew::prelude::*;

#[derive(Clone, PartialEq, Properties)]
pub struct WaysViewProperties {
    pub ways: Vec<Way>,
    /// The one that is gone.
    pub way: Option<u32>,
    pub onway: Callback<Operation>,
}

#[function_component(WaysView)]
pub fn ways_view(props: &WaysViewProperties) -> Html {
    let chosen = props.way.and_then(|way| usize::try_from(way).ok());
    html! {
        <div class="ways" data-testid="ways">
            <table>
                <caption>{ "Ways to the same end, the cheapest first" }</caption>
                <thead>
                    <tr>
                        <th scope="col">{ "Way" }</th>
                        <th scope="col" class="ways__bytes">{ "Moved" }</th>
                        <th scope="col" class="ways__bytes">{ "Written here" }</th>
                        <th scope="col" class="ways__bytes">{ "Can be freed" }</th>
                        <th scope="col">{ "Becomes invalid" }</th>
                    </tr>
                </thead>
                <tbody>
                    { for props.ways.iter().enumerate().map(|(nth, way)| row(nth, way, chosen == Some(nth), &props.onway)) }
                </tbody>
            </table>
        </div>
    }
}

fn row(nth: usize, way: &Way, chosen: bool, onway: &Callback<Operation>) -> Html {
    let onchange = {
        let operation = way.operation.clone();
        onway.reform(move |_: Event| operation.clone())
    };
    let bytes = |count: u64| {
        if way.possible {
            text::bytes(count)
        } else {
            "–".to_owned()
        }
    };
    let verdict = match (way.possible, way.refused) {
        (false, _) => "not possible",
        (true, true) => "refused",
        (true, false) => "",
    };
    html! {
        <tr
            key={nth}
            class={classes!(chosen.then_some("ways__chosen"), (!way.possible).then_some("ways__not"))}
            data-testid="way"
            data-possible={way.possible.to_string()}
        >
            <th scope="row">
                <label>
                    <input type="radio" name="way" checked={chosen} disabled={!way.possible} {onchange} />
                    <span>
                        { &way.label }
                        if !verdict.is_empty() {
                            <small><strong>{ verdict }</strong>{ ": " }{ &way.why }</small>
                        }
                    </span>
                </label>
            </th>
            <td class="ways__bytes" data-label="Moved">{ bytes(way.written) }</td>
            <td class="ways__bytes" data-label="Written here">{ bytes(way.here) }</td>
            <td class="ways__bytes" data-label="Can be freed">{ bytes(way.released) }</td>
            <td data-label="Becomes invalid">{ if way.invalid.is_empty() { "nothing".to_owned() } else { way.invalid.join(", ") } }</td>
        </tr>
    }
}
