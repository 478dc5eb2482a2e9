//! The proof that an operation changed nothing else: the wish for it, and what it says.

use super::bench::model::SavedFile;
use super::files::download;
use super::text;
use crate::protocol::proof::{Image, Proof};
use patternfly_yew::prelude::*;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use web_sys::HtmlInputElement;
use yew::prelude::*;

/// What the page knows of it.
#[derive(Clone, Default, PartialEq)]
pub struct Proving {
    /// Runs are to be proven.
    pub wanted: bool,
    /// What the last run's proof says.
    pub found: Option<Rc<Found>>,
}

/// A proof that was made, or could not be.
#[derive(PartialEq)]
pub struct Found {
    images: Vec<Image>,
    different: usize,
    left_out: Vec<(String, String)>,
    missing: Option<String>,
    receipt: Option<SavedFile>,
}

impl Proving {
    pub fn hear(&mut self, proof: Proof) {
        self.found = Some(Rc::new(Found {
            different: proof.different(),
            images: proof.images,
            left_out: proof.left_out,
            missing: proof.missing,
            receipt: proof.receipt.map(SavedFile::from),
        }));
    }

    /// Something else changed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.found.as_ref().is_some_and(|found| found.different > 0)
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct ProveBoxProperties {
    pub wanted: bool,
    pub disabled: bool,
    pub onprove: Callback<bool>,
}

/// Asks for a proof.
#[function_component(ProveBox)]
pub fn prove_box(props: &ProveBoxProperties) -> Html {
    let onchange = props.onprove.reform(|event: Event| {
        let input = event.target().and_then(|t| t.dyn_into().ok());
        input.is_some_and(|input: HtmlInputElement| input.checked())
    });
    html! {
        <label class="check prove">
            <input type="checkbox" data-testid="prove" checked={props.wanted} disabled={props.disabled} {onchange} />
            <span>
                { "Prove that nothing else changed" }
                <small>{ "Hashes what every image that stays valid shows, before and after. Takes as long as reading all their disks twice." }</small>
            </span>
        </label>
    }
}

#[derive(Clone, PartialEq, Properties)]
pub struct ProofViewProperties {
    pub found: Rc<Found>,
}

/// What a proof says.
#[function_component(ProofView)]
pub fn proof_view(props: &ProofViewProperties) -> Html {
    let found = &props.found;
    if let Some(why) = &found.missing {
        return html! {
            <section class="proof" data-testid="proof" data-verdict="missing" role="status" aria-label="Proof">
                <Alert inline=true r#type={AlertType::Warning} title="No proof"><p>{ why }</p></Alert>
            </section>
        };
    }
    let same = found.different == 0;
    let (kind, verdict, role) = if same {
        (AlertType::Success, "identical", "status")
    } else {
        (AlertType::Danger, "different", "alert")
    };
    let (all, count) = (found.images.len(), found.different);
    let title = match (same, all) {
        (true, 1) => "Proven: the one other image shows what it did".to_owned(),
        (true, _) => format!("Proven: all {all} images show what they did"),
        (false, _) => format!("NOT identical: {count} of {all} images read differently now"),
    };
    html! {
        <section class="proof" data-testid="proof" data-verdict={verdict} aria-label="Proof">
            <div {role}><Alert inline=true r#type={kind} {title} /></div>
            <ul class="proof__images">{ for found.images.iter().map(image) }</ul>
            if !found.left_out.is_empty() {
                <p class="quiet">{ "Not compared:" }</p>
                <ul class="notes">
                    { for found.left_out.iter().map(|(name, why)| html! { <li><strong>{ name }</strong>{ ": " }{ why }</li> }) }
                </ul>
            }
            if let Some(receipt) = found.receipt.clone() {
                { save(receipt) }
            }
        </section>
    }
}

fn image(image: &Image) -> Html {
    let (verdict, words) = if image.identical {
        ("identical", "identical")
    } else {
        ("different", "NOT identical")
    };
    let after = image.after.clone().filter(|after| *after != image.before);
    html! {
        <li class="proof__image" data-testid="proof-image" data-name={image.name.clone()} data-verdict={verdict}>
            <strong>{ &image.name }</strong>
            <span class="proof__verdict">{ words }</span>
            <small class="quiet">
                { text::bytes(image.compared) }
                if let Some(other) = &image.compared_with {
                    { format!(", compared with what {other} showed before") }
                }
                if let Some(note) = &image.note {
                    { ". " }{ note }
                }
            </small>
            <code>{ &image.before }</code>
            if let Some(after) = after {
                <code>{ "now " }{ after }</code>
            }
        </li>
    }
}

fn save(receipt: SavedFile) -> Html {
    let onclick = Callback::from(move |_: MouseEvent| {
        if let Some(file) = &receipt.file {
            download(&receipt.name, file);
        }
    });
    html! {
        <button type="button" class="pf-v6-c-button pf-m-secondary" data-testid="save-receipt" {onclick}>{ "Save the receipt" }</button>
    }
}
