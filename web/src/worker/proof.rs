//! Proves that an operation changed nothing else: hashes what every image that stays valid
//! shows, before and after.

use super::execute::Stopped;
use super::operation;
use super::session::{Session, sentence};
use crate::js;
use crate::protocol::proof::{Image, Proof};
use crate::protocol::{Kind, LayerId, Operation, Outcome, Progress, Saved, State, Status};
use backchain::plan::{PlanInfo, RemoveMethod};
use backchain::view_hash::{Over, ViewHash};
use backchain::{Chain, NodeId, Preview as Sum};
use js_sys::Array;
use serde::Serialize;
use std::cell::Cell;
use wasm_bindgen::JsValue;

/// Milliseconds of work before messages are let in.
const TURN: f64 = 25.0;
/// Bytes hashed before the clock is looked at.
const STEP: u64 = 1 << 20;

/// What is known before the operation is carried out.
pub struct Before {
    items: Vec<Item>,
    left_out: Vec<(String, String)>,
    missing: Option<String>,
    operation: String,
    commands: Vec<String>,
}

/// One image that is hashed before, and one, mostly the same, that is hashed afterwards.
struct Item {
    before: LayerId,
    after: LayerId,
    name: String,
    compared_with: Option<String>,
    len: u64,
    /// Its length changes, as it is wished.
    resized: bool,
    digest: String,
}

/// The receipt: what it says is in its field names.
#[derive(Serialize)]
struct Receipt<'a> {
    engine: &'static str,
    version: &'static str,
    date: String,
    operation: &'a str,
    commands: &'a [String],
    digest: &'static str,
    images: &'a [Image],
    left_out: Vec<LeftOut<'a>>,
}

#[derive(Serialize)]
struct LeftOut<'a> {
    name: &'a str,
    why: &'a str,
}

/// How far all hashes are.
struct Meter<'a> {
    report: &'a dyn Fn(Progress),
    done: u64,
    total: u64,
    phase: String,
}

impl Meter<'_> {
    fn tell(&self, more: u64) {
        (self.report)(Progress {
            done: self.done.saturating_add(more).min(self.total),
            total: self.total,
            phase: self.phase.clone(),
            can_cancel: true,
        });
    }
}

impl Before {
    /// Hashes what has to be the same afterwards. Nothing was written yet.
    ///
    /// # Errors
    /// When it was stopped.
    pub async fn take(
        session: &Session,
        form: &Operation,
        sum: &Sum,
        read_only: &[u32],
        stop: &Cell<bool>,
        report: &dyn Fn(Progress),
    ) -> Result<Self, Stopped> {
        let shown = operation::shown(session, form, sum, read_only);
        let mut before = Self {
            items: Vec::new(),
            left_out: Vec::new(),
            missing: None,
            operation: shown.summary,
            commands: shown.commands.into_iter().map(|c| c.lines).collect(),
        };
        let elsewhere = |w: &&crate::protocol::FileWrite| w.layer.is_some() && !w.in_place;
        let copies: Vec<String> = shown
            .writes
            .iter()
            .filter(elsewhere)
            .map(|w| w.name.clone())
            .collect();
        if !copies.is_empty() {
            before.missing = Some(format!(
                "No proof could be made: {} cannot be written in place, and the changed copy to save lies outside the chain.",
                copies.join(", ")
            ));
            return Ok(before);
        }
        before.choose(session, form, &sum.info);
        let items = std::mem::take(&mut before.items);
        let mut meter = Meter {
            report,
            done: 0,
            total: items
                .iter()
                .fold(0, |sum, item| item.len.saturating_add(sum)),
            phase: String::new(),
        };
        for mut item in items {
            let read = name(session, item.before);
            meter.phase = format!("Hashing {read} before");
            let digest = match chain(session, item.before) {
                Ok(chain) => digest(&chain, item.len, stop, &meter).await,
                Err(why) => Err(why),
            };
            meter.done = meter.done.saturating_add(item.len);
            match digest {
                Ok(Some(digest)) => {
                    item.digest = digest;
                    before.items.push(item);
                }
                Ok(None) => return Err(Stopped::Cancelled),
                Err(why) => before
                    .left_out
                    .push((item.name, format!("{read} could not be read before: {why}"))),
            }
        }
        Ok(before)
    }

    /// Decides what is compared with what.
    fn choose(&mut self, session: &Session, form: &Operation, info: &PlanInfo) {
        let gone: Vec<NodeId> = [
            &info.invalid,
            &info.broken_dependents,
            operation::merged_away(info),
        ]
        .into_iter()
        .flatten()
        .copied()
        .collect();
        let target = merged_into(session, form, info);
        let mut layers = session.view().layers;
        layers.sort_by_key(|layer| operation::depth_of_file(session, index(layer.id)));
        for layer in layers {
            let Ok(id) = session.node(layer.id) else {
                self.left_out
                    .push((layer.path, "It could not be read before.".to_owned()));
                continue;
            };
            let why = if layer.state != State::Ok {
                Some(format!(
                    "It was not usable before: {}",
                    layer.reason.unwrap_or_default()
                ))
            } else if gone.contains(&id) {
                Some("The operation makes it superfluous or invalid.".to_owned())
            } else if form.kind == Kind::Revert && form.top == Some(layer.id) {
                Some("The operation changes what it shows.".to_owned())
            } else {
                None
            };
            if let Some(why) = why {
                self.left_out.push((layer.path, why));
                continue;
            }
            let source = target
                .filter(|&(into, _)| into == layer.id)
                .map(|(_, from)| from);
            let read = source.unwrap_or(layer.id);
            match chain(session, read) {
                Ok(chain) => self.items.push(Item {
                    before: read,
                    after: layer.id,
                    name: layer.path,
                    compared_with: source.map(|from| name(session, from)),
                    len: chain.virtual_size(),
                    resized: form.kind == Kind::Resize && form.top == Some(layer.id),
                    digest: String::new(),
                }),
                Err(why) => self.left_out.push((layer.path, why)),
            }
        }
    }

    /// Compares, and makes a failure of an outcome that changed something else.
    pub async fn judge(
        self,
        session: &Session,
        outcome: &mut Outcome,
        stop: &Cell<bool>,
        report: &dyn Fn(Progress),
    ) -> Proof {
        let proof = self.compare(session, stop, report).await;
        if proof.different() > 0 {
            outcome.status = Status::Failed;
            outcome.message.push_str(
                " But not everything else is as it was: the proof below says what reads differently now.",
            );
        }
        proof
    }

    /// Hashes again, once the operation is done and the files are opened anew.
    async fn compare(
        self,
        session: &Session,
        stop: &Cell<bool>,
        report: &dyn Fn(Progress),
    ) -> Proof {
        let mut proof = Proof {
            images: Vec::new(),
            left_out: self.left_out,
            missing: self.missing,
            receipt: None,
        };
        if proof.missing.is_some() {
            return proof;
        }
        let mut meter = Meter {
            report,
            done: 0,
            total: self
                .items
                .iter()
                .fold(0, |sum, item| item.len.saturating_add(sum)),
            phase: String::new(),
        };
        for item in self.items {
            meter.phase = format!("Hashing {} after", item.name);
            let (len, name) = (item.len, item.name.clone());
            match again(session, item, stop, &meter).await {
                Some(Ok(image)) => proof.images.push(image),
                Some(Err(why)) => proof.left_out.push((name, why)),
                None => {
                    proof.images.clear();
                    proof.missing = Some(
                        "No proof was made: it was stopped after the operation was carried out."
                            .to_owned(),
                    );
                    return proof;
                }
            }
            meter.done = meter.done.saturating_add(len);
        }
        if proof.images.is_empty() {
            proof.missing =
                Some("There is nothing to prove: no other image stays valid.".to_owned());
            return proof;
        }
        proof.receipt = receipt(&self.operation, &self.commands, &proof);
        proof
    }
}

/// Hashes one image again. `None` when it was stopped, an error when there is nothing to compare.
async fn again(
    session: &Session,
    item: Item,
    stop: &Cell<bool>,
    meter: &Meter<'_>,
) -> Option<Result<Image, String>> {
    let mut image = Image {
        name: item.name,
        compared_with: item.compared_with,
        virtual_size: item.len,
        compared: item.len,
        before: item.digest,
        after: None,
        identical: false,
        note: None,
    };
    let chain = match chain(session, item.after) {
        Ok(chain) => chain,
        Err(why) => {
            image.note = Some(format!("It cannot be read any more: {why}"));
            return Some(Ok(image));
        }
    };
    let size = chain.virtual_size();
    image.virtual_size = size;
    if size < item.len && item.resized {
        return Some(Err(
            "It was made shorter, as wished: what is left was not hashed on its own before."
                .to_owned(),
        ));
    }
    // What was merged into a longer disk is its beginning.
    let longer = size > item.len && (item.resized || image.compared_with.is_some());
    match digest(&chain, item.len, stop, meter).await {
        Ok(Some(digest)) => {
            image.identical = digest == image.before && (size == item.len || longer);
            image.after = Some(digest);
            image.note = match size == item.len {
                true => None,
                false if longer => {
                    Some("It is longer: the common beginning is compared.".to_owned())
                }
                false => Some("Its length changed.".to_owned()),
            };
        }
        Ok(None) => return None,
        Err(why) => image.note = Some(format!("It cannot be read any more: {why}")),
    }
    Some(Ok(image))
}

/// What a merge down goes into, and the layer whose view it then shows.
fn merged_into(session: &Session, form: &Operation, info: &PlanInfo) -> Option<(LayerId, LayerId)> {
    let top = form.top?;
    match form.kind {
        Kind::Commit => Some((form.base?, top)),
        Kind::Remove if info.method != Some(RemoveMethod::Rebase) => {
            let below = session.tree.backing(session.node(top).ok()?)?;
            Some((session.layer(below)?, top))
        }
        _ => None,
    }
}

/// The digest of a chain's first `len` bytes, in turns. `None` when it was stopped.
async fn digest(
    chain: &Chain,
    len: u64,
    stop: &Cell<bool>,
    meter: &Meter<'_>,
) -> Result<Option<String>, String> {
    let words = |error: backchain::Error| sentence(&error.to_string());
    let mut hash = ViewHash::new(chain, Some(len), Over::Bytes).map_err(words)?;
    loop {
        meter.tell(hash.done());
        js::pause().await;
        if stop.get() {
            return Ok(None);
        }
        let until = js::now() + TURN;
        while js::now() < until {
            if !hash.advance(STEP).map_err(words)? {
                return Ok(Some(hash.digest().to_string()));
            }
        }
    }
}

fn receipt(operation: &str, commands: &[String], proof: &Proof) -> Option<Saved> {
    let left_out = proof.left_out.iter();
    let receipt = Receipt {
        engine: "backchain",
        version: env!("CARGO_PKG_VERSION"),
        date: js_sys::Date::new_0().to_iso_string().into(),
        operation,
        commands,
        digest: "BLAKE3 of the guest's disk as raw bytes",
        images: &proof.images,
        left_out: left_out.map(|(name, why)| LeftOut { name, why }).collect(),
    };
    let value = receipt
        .serialize(&serde_wasm_bindgen::Serializer::json_compatible())
        .ok()?;
    let text =
        js_sys::JSON::stringify_with_replacer_and_space(&value, &JsValue::NULL, &2.into()).ok()?;
    let name = "backchain-receipt.json";
    let file = web_sys::File::new_with_str_sequence(&Array::of1(&text), name).ok()?;
    Some(Saved {
        name: name.to_owned(),
        size: super::source::size_of(&file),
        file: file.into(),
    })
}

fn chain(session: &Session, layer: LayerId) -> Result<Chain, String> {
    let chain = session.tree.chain(session.node(layer)?);
    chain.map_err(|error| sentence(&error.to_string()))
}

fn name(session: &Session, layer: LayerId) -> String {
    let entry = session.files.0.get(index(layer));
    entry.map(|entry| entry.path.clone()).unwrap_or_default()
}

fn index(layer: LayerId) -> usize {
    usize::try_from(layer).unwrap_or(usize::MAX)
}
