//! The keys of the page, and the dialog that tells them.

use super::dialog::Dialog;
use super::look::Lens;
use super::text;
use crate::protocol::Group;
use yew::prelude::*;

/// Keys that are no operation and no way to look.
const GENERAL: [(&str, &str); 13] = [
    ("O", "Add files"),
    ("← → ↑ ↓", "Go from layer to layer"),
    ("Home End", "Go to the start or the end of the chain"),
    ("Enter", "Select the layer"),
    (
        "D",
        "Move the layer onto another: choose it, and press Enter",
    ),
    ("/", "Find a layer by its name"),
    ("+ - 0", "Zoom the tree"),
    (
        "Shift F10",
        "Actions for the layer, as the menu key and the right button",
    ),
    ("Tab", "Go on to the next control"),
    ("Ctrl Z", "Take the last staged change back"),
    ("Ctrl Shift Z", "Stage it again"),
    (
        "Esc",
        "Close the menu, the form, or the details; stop a run",
    ),
    ("?", "Show these keys"),
];

#[derive(Clone, PartialEq, Properties)]
pub struct KeysProperties {
    pub onclose: Callback<()>,
}

#[function_component(Keys)]
pub fn keys(props: &KeysProperties) -> Html {
    let row = |key: &str, what: &str| {
        html! {
            <div key={what.to_owned()} class="keys__row">
                <dt>{ for key.split(' ').map(one) }</dt>
                <dd>{ what }</dd>
            </div>
        }
    };
    let looks = Lens::ALL.iter().map(|lens| {
        let (_, label, key, _) = lens.words();
        row(&key.to_uppercase(), label)
    });
    html! {
        <Dialog title="Keys" testid="keys" onclose={props.onclose.clone()}>
            <div class="keys">
                <section>
                    <h3>{ "Everywhere" }</h3>
                    <dl>{ for GENERAL.iter().map(|(key, what)| row(key, what)) }</dl>
                </section>
                <section>
                    <h3>{ "Look inside" }</h3>
                    <dl>{ for looks }</dl>
                </section>
                { for Group::ALL.into_iter().map(|group| html! {
                    <section key={text::group(group).0}>
                        <h3>{ text::group(group).1 }</h3>
                        <dl>
                            { for group.kinds().iter().map(|&kind| {
                                let words = text::words(kind);
                                row(&words.key.to_uppercase(), words.label)
                            }) }
                        </dl>
                    </section>
                }) }
            </div>
        </Dialog>
    }
}

fn one(key: &str) -> Html {
    html! { <kbd key={key.to_owned()}>{ key }</kbd> }
}
