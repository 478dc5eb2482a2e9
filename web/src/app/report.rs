//! The report on all files: its buttons, and how far it is.

use super::bench::Bench;
use super::bench::model::Action;
use super::files::download;
use super::operation::bar;
use crate::protocol::report::{Answer, Ask, Format};
use crate::protocol::{Progress, Request};
use wasm_bindgen::JsCast;
use yew::prelude::*;

/// What the page knows of a report.
#[derive(Clone, Default, PartialEq)]
pub struct Reporting {
    busy: Option<Busy>,
}

#[derive(Clone, Default, PartialEq)]
struct Busy {
    progress: Option<Progress>,
    cancelling: bool,
}

impl Reporting {
    pub fn begin(&mut self) {
        self.busy = Some(Busy::default());
    }

    pub fn cancel(&mut self) {
        if let Some(busy) = &mut self.busy {
            busy.cancelling = true;
        }
    }

    /// Takes in an answer; why there is no report, if so.
    pub fn hear(&mut self, answer: Answer) -> Option<String> {
        match answer {
            Answer::Progress(progress) => {
                if let Some(busy) = &mut self.busy {
                    busy.progress = Some(progress);
                }
                return None;
            }
            Answer::Ready(_) | Answer::Cancelled => self.busy = None,
            Answer::Failed(why) => {
                self.busy = None;
                return Some(why);
            }
        }
        None
    }
}

/// Has the browser save the report, when it is there.
pub fn keep(answer: &Answer) {
    if let Answer::Ready(saved) = answer
        && let Some(file) = saved.file.dyn_ref()
    {
        download(&saved.name, file);
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct ReportProperties {
    pub bench: Bench,
}

/// The buttons.
#[function_component(ReportButtons)]
pub fn report_buttons(props: &ReportProperties) -> Html {
    let bench = &props.bench;
    let model = &bench.model;
    let possible = model.reporting.busy.is_none() && !model.running();
    let button = |id: &'static str, label: &'static str, title: &'static str, format: Format| {
        let bench = bench.clone();
        let onclick = possible.then(|| {
            Callback::from(move |_: MouseEvent| {
                bench.dispatch(Action::Reporting(true));
                bench.send(&Request::Report(Ask { format }));
            })
        });
        // A button that is switched off loses the keyboard's place: it says that it does nothing.
        html! {
            <button
                type="button"
                class={classes!("pf-v6-c-button", "pf-m-link", "pf-m-small", (!possible).then_some("pf-m-aria-disabled"))}
                data-testid={id}
                {title}
                aria-disabled={(!possible).then_some("true")}
                {onclick}
            >
                { label }
            </button>
        }
    };
    html! {
        <>
            { button("export-json", "Export JSON", "All that is known about these files, for programs", Format::Json) }
            { button("export-html", "Export report", "All that is known about these files, as a page to read or print", Format::Html) }
        </>
    }
}

/// How far it is; nothing when there is none.
#[function_component(ReportProgress)]
pub fn report_progress(props: &ReportProperties) -> Html {
    let Some(busy) = &props.bench.model.reporting.busy else {
        return Html::default();
    };
    let onclick = {
        let bench = props.bench.clone();
        Callback::from(move |_: MouseEvent| {
            bench.dispatch(Action::Reporting(false));
            bench.send(&Request::Cancel);
        })
    };
    html! {
        <section class="panel report" data-testid="report-progress" aria-label="Report">
            { bar(busy.progress.as_ref(), busy.cancelling) }
            <button type="button" class="pf-v6-c-button pf-m-link" data-testid="report-cancel" disabled={busy.cancelling} {onclick}>
                { "Cancel" }
            </button>
        </section>
    }
}
