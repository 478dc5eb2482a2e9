//! The few marks in a lesson's text, as elements.

use yew::prelude::*;

/// A paragraph: `! ` begins what people get wrong, `$ ` a command.
pub fn paragraph(text: &'static str) -> Html {
    if let Some(command) = text.strip_prefix("$ ") {
        return html! { <pre class="lesson__command">{ command }</pre> };
    }
    if let Some(wrong) = text.strip_prefix("! ") {
        return html! {
            <div class="lesson__wrong" data-testid="wrong">
                <strong>{ "What people get wrong" }</strong>
                <p>{ inline(wrong) }</p>
            </div>
        };
    }
    html! { <p>{ inline(text) }</p> }
}

/// Text with `code` and *emphasis*.
pub fn inline(text: &str) -> Html {
    let code = text.split('`').enumerate().map(|(nth, part)| {
        if nth % 2 == 1 {
            return html! { <code>{ part }</code> };
        }
        let emphasis = part.split('*').enumerate().map(|(nth, part)| {
            if nth % 2 == 1 {
                html! { <em>{ part }</em> }
            } else {
                html! { { part } }
            }
        });
        html! { <>{ for emphasis }</> }
    });
    html! { <>{ for code }</> }
}
