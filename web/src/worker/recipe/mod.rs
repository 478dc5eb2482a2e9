//! Chains made on the spot by the engine, from a recipe in words: the demo and the course.
//!
//! A layer is what its guest is to see, written by the engine as far as that differs from the
//! layer below, so layers come out as a VM would have left them. A guest's later write is a
//! layer of its own, committed at once.

pub mod fill;
pub mod parse;
pub mod view;

use super::private::{forget_folder, private_folder, scratch};
use super::write::Strategy;
use crate::js;
use backchain::chain::MapGate;
use backchain::plan::CreateOptions;
use backchain::{Format, NodeId, Operation, Source, Tree};
use fill::fill;
use js_sys::Array;
use parse::{Line, Written};
use std::collections::BTreeMap;
use std::sync::Arc;
use view::View;
use wasm_bindgen::JsValue;

/// The source document's `[RootBase] <- [Snap-1] <- ... <- [Snap-4 active]`.
pub const DEMO: &str = "
RootBase 256M: 0+24M=11 64M+8M=12 200M+4M=13
Snap-1 < RootBase: 4M+6M=21 32M+3M=22
Snap-2 < Snap-1: 8M+5M=31 66M+2M=00
Snap-3 < Snap-2: 33M+4M=41 120M+2M=42
Snap-4 < Snap-3: 10M+2M=51 121M+4M=52
";

/// Folder of the worker's own storage the demo is made in.
pub const DEMO_FOLDER: &str = "demo";

/// Size of a disk that does not say one.
const SIZE: u64 = 64 << 20;
/// What the guest sees, what it sees through the layer below, and what it writes to a layer
/// that is there: names no layer has.
const VIEW: &str = ".view";
const BELOW: &str = ".below";
const WRITTEN: &str = ".written.qcow2";

/// Makes the chain of `recipe` anew in a folder of the worker's own storage. Returns it.
///
/// # Errors
/// In words, for instance when the browser has no storage of its own.
pub async fn make(folder: &str, recipe: &str) -> Result<JsValue, String> {
    forget_folder(folder).await;
    let mut maker = Maker::new(folder);
    for line in parse::lines(recipe)? {
        maker.follow(line).await?;
    }
    private_folder(folder)
        .await
        .map_err(|error| js::message(&error))
}

/// Lets a guest write to a layer of a chain whose files are all in one private folder.
///
/// # Errors
/// In words.
pub async fn write(
    folder: &str,
    sources: BTreeMap<String, Source>,
    file: &str,
    writes: &str,
) -> Result<(), String> {
    let mut maker = Maker::new(folder);
    maker.gate.0 = sources;
    maker.write(file, parse::writes(writes)?).await
}

/// Deletes a file of a private folder.
///
/// # Errors
/// In words.
pub async fn delete(folder: &str, file: &str) -> Result<(), String> {
    let folder = private_folder(folder).await;
    let folder = folder.map_err(|error| js::message(&error))?;
    let removed = js::call(&folder, "removeEntry", &Array::of1(&file.into())).await;
    removed.map(|_| ()).map_err(|error| js::message(&error))
}

/// A folder being filled.
struct Maker<'a> {
    folder: &'a str,
    /// The files made so far.
    gate: MapGate,
    /// What was said of each layer.
    made: BTreeMap<String, Made>,
}

struct Made {
    file: String,
    size: u64,
    format: Format,
    /// All that its guest and those below it wrote.
    writes: Vec<Written>,
}

impl<'a> Maker<'a> {
    fn new(folder: &'a str) -> Self {
        Self {
            folder,
            gate: MapGate::default(),
            made: BTreeMap::new(),
        }
    }

    fn file(&self, layer: &str) -> Result<String, String> {
        let made = self.made.get(layer);
        made.map(|made| made.file.clone())
            .ok_or_else(|| format!("The recipe has no {layer} there."))
    }

    async fn follow(&mut self, line: Line) -> Result<(), String> {
        match line {
            Line::Layer {
                name,
                backing,
                size,
                raw,
                writes,
            } => self.layer(name, backing, size, raw, writes).await,
            Line::Snapshot { layer, name } => {
                let file = self.file(&layer)?;
                let (tree, image) = self.open(&file)?;
                let snapshot = Operation::SnapshotCreate {
                    image,
                    name,
                    date_sec: now(),
                    date_nsec: 0,
                };
                self.change(&file, &tree, &snapshot).await
            }
            Line::Write { layer, writes } => {
                let file = self.file(&layer)?;
                self.write(&file, writes).await
            }
            Line::Link { layer, backing } => {
                let (file, backing) = (self.file(&layer)?, self.file(&backing)?);
                let (tree, overlay) = self.open(&file)?;
                let link = Operation::Relink {
                    overlay,
                    name: Some(backing),
                    format: Some(Format::Qcow2),
                    base: None,
                };
                self.change(&file, &tree, &link).await
            }
            Line::Forget { layer } => {
                let file = self.file(&layer)?;
                self.gate.0.remove(&file);
                delete(self.folder, &file).await
            }
        }
    }

    async fn layer(
        &mut self,
        name: String,
        backing: Option<String>,
        size: Option<u64>,
        raw: bool,
        writes: Vec<Written>,
    ) -> Result<(), String> {
        let below = backing.map(|backing| self.file(&backing)).transpose()?;
        let under = self
            .made
            .values()
            .find(|made| Some(&made.file) == below.as_ref());
        let size = size.or(under.map(|made| made.size)).unwrap_or(SIZE);
        let mut all = under.map(|made| made.writes.clone()).unwrap_or_default();
        all.extend(writes);
        let format = if raw { Format::Raw } else { Format::Qcow2 };
        let made = Made {
            file: format!("{name}.{}", if raw { "img" } else { "qcow2" }),
            size,
            format,
            writes: all,
        };
        let view = View::new(size, made.writes.clone());
        // What the layer below reads like is computed, which is quicker than reading it.
        let source = match under {
            None => self.copy(&made, view).await?,
            Some(under) => {
                let read: Source = Arc::new(View::new(under.size, under.writes.clone()));
                let link = (under.file.clone(), under.format);
                self.overlay(&made.file, view, read, link).await?
            }
        };
        self.gate.0.insert(made.file.clone(), source);
        self.made.insert(name, made);
        Ok(())
    }

    /// An image that stands alone.
    async fn copy(&mut self, made: &Made, view: View) -> Result<Source, String> {
        let view = Arc::new(view);
        self.gate.0.insert(VIEW.to_owned(), view.clone());
        let (tree, seen) = self.open(VIEW)?;
        let options = CreateOptions {
            format: made.format,
            ..CreateOptions::default()
        };
        let copy = Operation::flatten(seen, made.file.clone(), options);
        let plan = tree.plan(&copy).map_err(|e| text(&e))?;
        let handle = scratch(self.folder, &made.file).await?;
        let view = Some((seen, &view));
        fill(&handle, plan, &tree, view, Strategy::SaveCopy).await
    }

    /// An overlay that reads as `view` does, on what reads as `below` does. It starts as an
    /// empty overlay on the view and is then rebased, so it holds just what differs.
    async fn overlay(
        &mut self,
        file: &str,
        view: View,
        below: Source,
        (name, format): (String, Format),
    ) -> Result<Source, String> {
        let view = Arc::new(view);
        self.gate.0.insert(VIEW.to_owned(), view.clone());
        self.gate.0.insert(BELOW.to_owned(), below);
        let handle = scratch(self.folder, file).await?;
        let (tree, seen) = self.open(VIEW)?;
        let create = Operation::Create {
            name: file.to_owned(),
            options: CreateOptions::default(),
            backing: Some(seen),
        };
        let plan = tree.plan(&create).map_err(|e| text(&e))?;
        let empty = fill(&handle, plan, &tree, None, Strategy::SaveCopy).await?;
        self.gate.0.insert(file.to_owned(), empty);

        let (mut tree, overlay) = self.open(file)?;
        let seen = tree.backing(overlay).ok_or("The view is not there.")?;
        let base = tree.add(&self.gate, BELOW, None).map_err(|e| text(&e))?;
        let rebase = Operation::Rebase {
            overlay,
            base: Some(base),
            name: Some(name),
            format: Some(format),
            compress: false,
        };
        let plan = tree.plan(&rebase).map_err(|e| text(&e))?;
        fill(&handle, plan, &tree, Some((seen, &view)), Strategy::Private).await
    }

    /// What a guest writes to a layer that is there: its clusters as a running VM leaves them,
    /// snapshots and all.
    async fn write(&mut self, file: &str, writes: Vec<Written>) -> Result<(), String> {
        for made in self.made.values_mut().filter(|made| made.file == file) {
            made.writes.extend(writes.iter().cloned());
        }
        let (tree, id) = self.open(file)?;
        let chain = tree.chain(id).map_err(|e| text(&e))?;
        let format = tree.node(id).probed;
        let view = View::above(chain.clone(), writes).map_err(|e| text(&e))?;
        let before = View::above(chain, Vec::new()).map_err(|e| text(&e))?;
        let link = (file.to_owned(), format);
        let written = self.overlay(WRITTEN, view, Arc::new(before), link).await?;
        self.gate.0.insert(WRITTEN.to_owned(), written);
        let (tree, top) = self.open(WRITTEN)?;
        let base = tree.backing(top).ok_or("The layer is not there.")?;
        let commit = Operation::Commit {
            top,
            base,
            relink: Vec::new(),
            empty_top: false,
            bitmaps: false,
            allow_broken: true,
            allow_plaintext: true,
        };
        let done = self.change(file, &tree, &commit).await;
        self.gate.0.remove(WRITTEN);
        delete(self.folder, WRITTEN).await?;
        done
    }

    fn open(&self, file: &str) -> Result<(Tree, NodeId), String> {
        let mut tree = Tree::new();
        let id = tree.add(&self.gate, file, None).map_err(|e| text(&e))?;
        Ok((tree, id))
    }

    /// Carries out an operation that changes only `file`.
    async fn change(&mut self, file: &str, tree: &Tree, wish: &Operation) -> Result<(), String> {
        let plan = tree.plan(wish).map_err(|e| text(&e))?;
        let handle = scratch(self.folder, file).await?;
        let changed = fill(&handle, plan, tree, None, Strategy::Private).await?;
        self.gate.0.insert(file.to_owned(), changed);
        Ok(())
    }
}

/// Seconds since 1970.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and small enough until 2106"
)]
fn now() -> u32 {
    (js_sys::Date::now() / 1000.0) as u32
}

/// An error of the engine as a sentence.
fn text(error: &backchain::Error) -> String {
    super::session::sentence(&error.to_string())
}
