//! Around every page: the bar at the top, the page of the address, and what concerns all.

use super::bench::use_bench;
use super::drop::DropZone;
use super::focus::{SkipLink, use_title_focus};
use super::launch::use_launched;
use super::page::about::AboutPage;
use super::page::files::FilesPage;
use super::page::learn::{LearnPage, LessonPage};
use super::page::settings::SettingsPage;
use super::page::talk::TalkPage;
use super::route::{Page, Route, use_route};
use super::settings::{Settings, SettingsContext, Theme, use_settings};
use super::update::UpdateNotice;
use super::window::use_leave_guard;
use yew::prelude::*;

#[function_component(App)]
pub fn app() -> Html {
    let settings = use_settings();
    let route = use_route(settings.now.start.page());
    // The user's files outlive every page.
    let bench = use_bench();
    // Staged changes are nowhere but here.
    use_leave_guard(bench.model.running() || !bench.model.staged.is_empty());
    use_launched(&bench);
    let (running, open) = (bench.model.running(), !bench.model.tree.layers.is_empty());
    use_effect_with(route.page.clone(), |page| {
        let title = match page {
            Page::Files => "backchain".to_owned(),
            page => format!("{} - backchain", page.title()),
        };
        gloo::utils::document().set_title(&title);
    });
    use_title_focus(&route.page);
    let drop = html! { <DropZone bench={bench.clone()} page={route.page.clone()} /> };
    let page = match &route.page {
        Page::Files => html! { <FilesPage {bench} /> },
        Page::Learn => html! { <LearnPage /> },
        Page::Lesson(lesson) => {
            html! { <LessonPage key={lesson.clone()} lesson={lesson.clone()} /> }
        }
        Page::Talk(lesson, step) => {
            html! { <TalkPage key={lesson.clone()} lesson={lesson.clone()} step={*step} /> }
        }
        Page::Settings => html! { <SettingsPage /> },
        Page::About => html! { <AboutPage /> },
    };
    let talk = matches!(route.page, Page::Talk(..));
    html! {
        <ContextProvider<SettingsContext> context={settings}>
            if !talk {
                <SkipLink />
                <Masthead page={route.page} />
            }
            <main class={classes!("main", talk.then_some("main--talk"))} id="main">
                if !talk {
                    <UpdateNotice {running} {open} />
                }
                { page }
            </main>
            { drop }
        </ContextProvider<SettingsContext>>
    }
}

#[derive(Clone, PartialEq, Properties)]
struct MastheadProperties {
    page: Page,
}

#[function_component(Masthead)]
fn masthead(props: &MastheadProperties) -> Html {
    let link = |page: Page, id: &'static str, label: &'static str, current: bool| {
        html! {
            <a
                href={Route::from(page).href()}
                class={classes!("masthead__link", current.then_some("masthead__link--current"))}
                data-testid={id}
                aria-current={current.then_some("page")}
            >
                { label }
            </a>
        }
    };
    let icon =
        |page: Page, id: &'static str, label: &'static str, icon: &'static str, current: bool| {
            html! {
                <a
                    href={Route::from(page).href()}
                    class={classes!("icon-button", current.then_some("icon-button--current"))}
                    data-testid={id}
                    aria-label={label}
                    title={label}
                    aria-current={current.then_some("page")}
                >
                    <i class={classes!("fas", icon)} aria-hidden="true" />
                </a>
            }
        };
    let page = &props.page;
    html! {
        <header class="masthead">
            <a class="masthead__brand" aria-label="backchain" href={Route::from(Page::Files).href()}>
                <img src="icons/icon.svg" alt="" width="28" height="28" />
                <span>{ "backchain" }</span>
            </a>
            <nav class="masthead__nav" aria-label="Pages">
                { link(Page::Files, "nav-files", "Files", *page == Page::Files) }
                { link(Page::Learn, "nav-learn", "Learn", matches!(page, Page::Learn | Page::Lesson(_))) }
            </nav>
            <div class="masthead__tools">
                <ThemeToggle />
                { icon(Page::Settings, "nav-settings", "Settings", "fa-cog", *page == Page::Settings) }
                { icon(Page::About, "nav-about", "About", "fa-question-circle", *page == Page::About) }
            </div>
        </header>
    }
}

/// Light or dark: the system's choice until the user makes one.
#[function_component(ThemeToggle)]
fn theme_toggle() -> Html {
    let Some(settings) = use_context::<SettingsContext>() else {
        return Html::default();
    };
    let dark = settings.now.dark();
    let onclick = Callback::from(move |_: MouseEvent| {
        let theme = if settings.now.dark() {
            Theme::Light
        } else {
            Theme::Dark
        };
        settings.change.emit(Settings {
            theme,
            ..settings.now.clone()
        });
    });
    html! {
        <button
            type="button"
            class="icon-button"
            data-testid="theme"
            aria-label={if dark { "Use the light theme" } else { "Use the dark theme" }}
            {onclick}
        >
            <i class={classes!("fas", if dark { "fa-sun" } else { "fa-moon" })} aria-hidden="true" />
        </button>
    }
}
