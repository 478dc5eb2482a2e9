//! What this is, and what it does with the user's data: nothing.

use yew::prelude::*;

#[function_component(AboutPage)]
pub fn about_page() -> Html {
    html! {
        <section class="panel">
            <h1 class="page-head__title" tabindex="-1">{ "About backchain" }</h1>
            <p>{ format!("Version {}.", env!("CARGO_PKG_VERSION")) }</p>
            <p>{ "Nothing leaves this computer: the page speaks to nobody, and has no way to." }</p>
        </section>
    }
}
