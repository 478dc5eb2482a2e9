//! The report as one page: no scripts, nothing from elsewhere, fit for print.

use super::{Entry, Report, data_and_zero, host, role};
use crate::protocol::{LayerId, State};
use crate::units::bytes;
use backchain::Place;
use std::collections::{BTreeMap, BTreeSet};

/// Runs of each layer in its table; the JSON report has more.
const LISTED: usize = 200;
/// Steps to the right that the tree of files takes at most.
const STEPS: usize = 12;

const STYLE: &str = "\
:root{color-scheme:light dark;--text:#151515;--quiet:#4d4d4d;--page:#fff;--edge:#c7c7c7;\
--data:#0066cc;--compressed:#5e40be;--zero:#63993d;--none:#e0e0e0;--bad:#b1380b;--link:#0066cc}\
@media(prefers-color-scheme:dark){:root{--text:#fff;--quiet:#c7c7c7;--page:#1f1f1f;--edge:#4d4d4d;\
--data:#4394e5;--compressed:#b6a6e9;--zero:#87bb62;--none:#3d3d3d;--bad:#f4784a;--link:#92c5f9}}\
@media print{:root{color-scheme:light;--text:#000;--quiet:#333;--page:#fff;--edge:#999;--data:#0066cc;\
--compressed:#5e40be;--zero:#63993d;--none:#e0e0e0;--bad:#b1380b;--link:#000}}\
*{box-sizing:border-box}\
body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 3rem;background:var(--page);color:var(--text);\
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}\
h1,h2,h3{line-height:1.25}h2{margin:2.5rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--edge)}\
h3{margin:1.25rem 0 .25rem;font-size:1rem}a{color:var(--link)}p{margin:.4rem 0}\
.quiet{color:var(--quiet)}.bad{color:var(--bad)}.tree{list-style:none;padding:0}.tree li{margin:.3rem 0}\
.bar{display:flex;height:1rem;border:1px solid var(--edge);margin:.75rem 0 .25rem;\
-webkit-print-color-adjust:exact;print-color-adjust:exact}\
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;padding:0;margin:0}\
.key i{display:inline-block;width:.75em;height:.75em;margin-right:.35em;\
-webkit-print-color-adjust:exact;print-color-adjust:exact}\
.data{background:var(--data)}.compressed{background:var(--compressed)}.zero{background:var(--zero)}\
.none{background:var(--none)}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:left;vertical-align:top;padding:.2rem .75rem .2rem 0;border-bottom:1px solid var(--edge)}\
th{font-weight:600}.facts th{width:16rem;font-weight:400;color:var(--quiet)}\
.facts tr{break-inside:avoid}@media(max-width:32rem){.facts th{width:45%}}";

/// The whole report.
#[must_use]
pub(super) fn write(report: &Report) -> String {
    let mut page = Page(String::new());
    page.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    // Nothing is loaded and nothing runs, whatever a name might try.
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">");
    page.raw("<title>Disk images</title><style>");
    page.raw(STYLE);
    page.raw("</style></head><body><h1>Disk images</h1><p class=\"quiet\">");
    let count = match report.entries.len() {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    let (day, time) = report.created.split_once('T').unwrap_or_default();
    let minute = time.get(..5).unwrap_or_default();
    page.text(&format!(
        "{count}. Report of backchain {}, made on {day} at {minute} UTC. Refcounts were not checked.",
        env!("CARGO_PKG_VERSION")
    ));
    page.raw("</p><ul class=\"tree\">");
    for (entry, depth) in in_order(&report.entries) {
        branch(&mut page, entry, depth);
    }
    page.raw("</ul>");
    for (entry, _) in in_order(&report.entries) {
        image(&mut page, entry);
    }
    page.raw("</body></html>\n");
    page.0
}

/// Every base, followed by what stands on it, with the number of layers below.
fn in_order(entries: &[Entry]) -> Vec<(&Entry, usize)> {
    let mut overlays: BTreeMap<LayerId, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        if let Some(below) = entry.layer.backing {
            overlays.entry(below).or_default().push(entry);
        }
    }
    let mut order = Vec::with_capacity(entries.len());
    let mut seen = BTreeSet::new();
    // What is in a circle has no base: it comes last, from anywhere.
    let bases = entries.iter().filter(|entry| entry.layer.backing.is_none());
    for start in bases.chain(entries) {
        let mut waiting = vec![(start, 0)];
        while let Some((entry, depth)) = waiting.pop() {
            if seen.insert(entry.layer.id) {
                order.push((entry, depth));
                let above = overlays.get(&entry.layer.id).into_iter().flatten();
                waiting.extend(above.rev().map(|&entry| (entry, depth + 1)));
            }
        }
    }
    order
}

fn branch(page: &mut Page, entry: &Entry, depth: usize) {
    let layer = &entry.layer;
    page.raw(&format!(
        "<li style=\"margin-left:{}rem\">",
        depth.min(STEPS)
    ));
    if depth > 0 {
        page.raw("<span class=\"quiet\" aria-hidden=\"true\">\u{2514} </span>");
    }
    page.raw(&format!("<a href=\"#image-{}\">", layer.id));
    page.text(&layer.path);
    page.raw("</a> <span class=\"quiet\">");
    page.text(&layer.format);
    if let Some(size) = layer.virtual_size {
        page.text(&format!(", {}", bytes(size)));
    }
    page.text(&format!(", {}", role(layer.role)));
    page.raw("</span>");
    if layer.state != State::Ok {
        page.raw(" <strong class=\"bad\">");
        page.text(words(layer.state));
        page.raw("</strong>");
    }
    page.raw("</li>");
}

fn image(page: &mut Page, entry: &Entry) {
    let layer = &entry.layer;
    page.raw(&format!("<section><h2 id=\"image-{}\">", layer.id));
    page.text(&layer.name);
    page.raw("</h2>");
    if layer.path != layer.name {
        page.paragraph("quiet", &layer.path);
    }
    if layer.staged {
        page.paragraph("quiet", "As the staged changes would leave it.");
    }
    if let Some(reason) = &layer.reason {
        page.raw("<p class=\"bad\"><strong>");
        page.text(words(layer.state));
        page.raw(":</strong> ");
        page.text(reason);
        page.raw("</p>");
    }
    if let Some(found) = &entry.backing {
        page.paragraph("", &format!("Stands on {found}."));
    }
    bar(page, entry);
    for section in &entry.sections {
        page.raw("<h3>");
        page.text(&section.title);
        page.raw("</h3><table class=\"facts\">");
        for (name, value) in &section.rows {
            page.raw("<tr><th scope=\"row\">");
            page.text(name);
            page.raw("</th><td>");
            page.text(value);
            page.raw("</td></tr>");
        }
        page.raw("</table>");
    }
    map(page, entry);
    page.raw("</section>");
}

fn bar(page: &mut Page, entry: &Entry) {
    let Some(stats) = &entry.stats else { return };
    let parts = [
        ("data", "data", stats.data),
        ("compressed", "compressed", stats.compressed),
        ("zero", "zeros", stats.zero),
        ("none", "not allocated", stats.unallocated),
    ];
    let parts = parts.iter().filter(|(_, _, bytes)| *bytes > 0);
    page.raw("<div class=\"bar\" role=\"img\" aria-label=\"How the virtual size divides up\">");
    for (class, _, bytes) in parts.clone() {
        page.raw(&format!(
            "<span class=\"{class}\" style=\"flex-grow:{bytes}\"></span>"
        ));
    }
    page.raw("</div><ul class=\"key\">");
    for (class, name, count) in parts {
        page.raw(&format!("<li><i class=\"{class}\"></i>"));
        page.text(&format!("{} {name}", bytes(*count)));
        page.raw("</li>");
    }
    page.raw("</ul>");
}

fn map(page: &mut Page, entry: &Entry) {
    let map = &entry.map;
    if let Some(error) = &map.error {
        page.paragraph("bad", &format!("The map could not be read. {error}"));
    }
    let all = map.runs.len();
    if all == 0 {
        return;
    }
    let title = match (all, map.truncated) {
        (1, false) => "Map: 1 run".to_owned(),
        (all, false) if all <= LISTED => format!("Map: {all} runs"),
        (all, false) => format!("Map: the first {LISTED} of {all} runs"),
        (all, true) => format!("Map: the first {} of more than {all} runs", all.min(LISTED)),
    };
    page.raw("<details><summary>");
    page.text(&title);
    page.raw(
        "</summary><table><thead><tr><th scope=\"col\">Start</th><th scope=\"col\">Length</th>\
         <th scope=\"col\">What</th><th scope=\"col\">Place in the file</th></tr></thead><tbody>",
    );
    for run in map.runs.iter().take(LISTED) {
        let what = match (run.place, data_and_zero(run.place)) {
            (Place::Compressed { .. }, _) => "compressed data",
            (_, (true, _)) => "data",
            (_, (_, true)) => "zeros",
            _ => "not allocated",
        };
        let place = host(run.place).map(|at| format!("{at:#x}"));
        page.raw(&format!(
            "<tr><td>{:#x}</td><td>{}</td><td>{what}</td><td>{}</td></tr>",
            run.start,
            bytes(run.len),
            place.unwrap_or_default(),
        ));
    }
    page.raw("</tbody></table></details>");
}

fn words(state: State) -> &'static str {
    match state {
        State::Ok => "OK",
        State::Missing => "Backing file missing",
        State::Loop => "Loop",
        State::WrongLabel => "Wrong format label",
        State::Invalid => "Invalid",
        State::Damaged => "Damaged",
    }
}

struct Page(String);

impl Page {
    /// Markup of this module's own.
    fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    /// Text from anywhere.
    fn text(&mut self, text: &str) {
        for letter in text.chars() {
            match letter {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                letter => self.0.push(letter),
            }
        }
    }

    fn paragraph(&mut self, class: &str, text: &str) {
        self.raw(&format!("<p class=\"{class}\">"));
        self.text(text);
        self.raw("</p>");
    }
}
