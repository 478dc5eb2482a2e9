//! What this is, what it does with the user's data (nothing), and what this browser can do.

use crate::app::ability::use_abilities;
use crate::js;
use patternfly_yew::prelude::{Level, Size, Title};
use yew::prelude::*;

#[function_component(AboutPage)]
pub fn about_page() -> Html {
    let abilities = use_abilities();
    let build = gloo::utils::document()
        .document_element()
        .and_then(|root| root.get_attribute("data-build"));
    let workers = js::get(&gloo::utils::window().navigator(), "serviceWorker");
    let offline = js::get(&workers, "controller").is_object();
    let heading =
        |text: &'static str| html! { <Title level={Level::H2} size={Size::Large}>{ text }</Title> };
    let able = |yes: bool, what: &'static str, otherwise: &'static str| {
        let (icon, words) = if yes {
            ("fa-check", what)
        } else {
            ("fa-times", otherwise)
        };
        html! {
            <li class={classes!("about__able", yes.then_some("about__able--yes"))}>
                <i class={classes!("fas", icon)} aria-hidden="true" />
                { words }
            </li>
        }
    };
    html! {
        <section class="panel about">
            <h1 class="page-head__title" tabindex="-1">{ "About backchain" }</h1>
            <p>
                { "backchain shows what is in chains of VM disk images (qcow2 and raw), teaches how they work, and shortens them safely. The same engine runs on the command line as " }
                <code>{ "backchain" }</code>
                { "." }
            </p>

            { heading("Your data") }
            <p data-testid="privacy">
                { "Nothing leaves this computer: files are read by this browser and go nowhere. There is no server, no account, no counting of visits, and the page's security policy forbids it to speak to any other place than the one it was loaded from." }
            </p>
            <p>
                { "Stored in this browser are your settings, your progress in the course, the images of the demo and the course, and, unless you switch that off, where the files you opened are. Clearing the site's data removes all of it." }
            </p>

            { heading("This browser") }
            <ul class="about__list" data-testid="abilities">
                { able(true, "Reads files that are dropped or chosen", "") }
                { able(abilities.folders, "Opens whole folders", "Opens no folders: choose the files in them") }
                { able(
                    abilities.write_in_place,
                    "Writes to files in place, when you allow it",
                    "Does not write to files in place: changed files are offered to be saved",
                ) }
                { able(
                    abilities.private_storage,
                    "Has storage for the demo, the course and new files",
                    "Has no storage for the demo, the course and new files",
                ) }
                { able(
                    abilities.recent,
                    "Can remember files that were opened",
                    "Cannot remember files that were opened",
                ) }
                { able(
                    offline,
                    "Has a copy of this app and works without a network",
                    "Has no copy of this app yet: it needs the network to load",
                ) }
            </ul>

            { heading("This version") }
            <p data-testid="version">
                { format!("backchain {}", env!("CARGO_PKG_VERSION")) }
                if let Some(build) = build { { format!(", build {build}") } }
                { ". Free software under the MIT and Apache 2.0 licences." }
            </p>
        </section>
    }
}
