//! What page and worker say to each other: every message, once, with its types.
//!
//! Messages are Rust values turned into JavaScript ones by serde; file handles and files pass
//! through as they are. Numbers of 64 bits travel as `BigInt`.

pub mod course;
pub mod locate;
pub mod look;
pub mod operation;
pub mod proof;
pub mod report;
pub mod staged;
pub mod strips;

use crate::units::Units;
use locate::{Locate, Located};
use look::{Look, Seen};
pub use operation::{
    After, Command, Fate, Field, FileWrite, Group, Kind, Made, Operation, Place, Preview, Way,
};
use serde::{Deserialize, Serialize};
use wasm_bindgen::JsValue;

/// A layer, by its place among the granted files. Valid until [`Request::Clear`].
pub type LayerId = u32;

/// Page to worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Adds files to the ones granted before and draws the tree again.
    Open { granted: Vec<Granted> },
    /// Makes the demo chain in the origin-private file system and opens it.
    Demo,
    /// Forgets every file.
    Clear,
    /// From now on, numbers of bytes in texts are in these units.
    Units(Units),
    /// Asks for the details of one layer.
    Details { layer: LayerId },
    /// Asks for one layer's file, to be saved somewhere else.
    Copy { layer: LayerId },
    /// Plans an operation without doing it. `serial` comes back with the answer.
    Preview { serial: u32, operation: Operation },
    /// Plans an operation and carries it out. Files of the gifts in `read_only` may not be
    /// written: changed copies of them are offered for saving.
    Run {
        operation: Operation,
        read_only: Vec<u32>,
        /// The file that was chosen for what the operation makes.
        target: Option<Granted>,
        /// Prove that nothing else changed.
        prove: bool,
    },
    /// Asks for a look into files; answers come bit by bit. A newer look of the same kind
    /// replaces an older one.
    Look(Look),
    /// Asks what each layer of a part of a chain holds, for its bar in the tree.
    Strips(strips::Ask),
    /// Finds a missing backing file among the given files.
    Locate(Locate),
    /// What only a lesson of the course asks for.
    Course(course::Ask),
    /// Changes that are tried without writing.
    Staged(staged::Ask),
    /// Asks for a report on all files.
    Report(report::Ask),
    /// Stops the running operation, if it can still be stopped.
    Cancel,
}

/// Worker to page.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// The worker listens; sent once.
    Ready,
    /// The layers of all granted files, anew.
    Tree(Tree),
    /// What a layer of the tree was found to hold, or why it cannot be read: comes after the
    /// tree, as looking takes a while.
    Measured {
        layer: LayerId,
        found: Result<Extents, String>,
    },
    Details(Details),
    /// What is being looked at while a plan is made.
    Planning {
        serial: u32,
        note: String,
    },
    Preview {
        serial: u32,
        preview: Result<Preview, String>,
    },
    /// The file of a layer, to be saved.
    Copy(Saved),
    /// What a look has found so far.
    Seen(Seen),
    /// What the layers asked for hold, as far as known.
    Strips(strips::Answer),
    /// What became of a missing backing file.
    Located(Located),
    /// What a lesson asked for.
    Course(course::Answer),
    /// What became of changes that are tried without writing.
    Staged(staged::Answer),
    /// How far a report is, or the report itself.
    Report(report::Answer),
    Progress(Progress),
    /// Whether all else is as it was, right before the outcome.
    Proof(proof::Proof),
    Outcome(Outcome),
    /// A request failed, in words a person can act on.
    Problem(String),
    /// The worker panicked and answers no more.
    Crash(String),
}

/// A file or folder the user gave to the page.
#[derive(Debug, Serialize, Deserialize)]
pub struct Granted {
    /// Which of the user's gifts this came with: permission to write is asked for by it.
    pub gift: u32,
    /// Where the file lies in the folder it came with, or just its name.
    pub path: String,
    pub access: Access,
}

/// How a granted file can be reached.
#[derive(Debug, Serialize, Deserialize)]
pub enum Access {
    /// `FileSystemFileHandle`: readable, and writable once permitted.
    Handle(#[serde(with = "serde_wasm_bindgen::preserve")] JsValue),
    /// `FileSystemDirectoryHandle`: every file below it is granted.
    Folder(#[serde(with = "serde_wasm_bindgen::preserve")] JsValue),
    /// `File`: readable only; a changed copy is offered for saving.
    File(#[serde(with = "serde_wasm_bindgen::preserve")] JsValue),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    pub layers: Vec<Layer>,
    /// Files that were given but are left out, with the reason.
    pub ignored: Vec<String>,
}

impl Tree {
    #[must_use]
    pub fn layer(&self, id: LayerId) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.id == id)
    }

    /// The layers below `id`, nearest first. Ends where a link is broken or closes a loop.
    #[must_use]
    pub fn below(&self, id: LayerId) -> Vec<&Layer> {
        let mut found: Vec<&Layer> = Vec::new();
        let mut at = self.layer(id).and_then(|layer| layer.backing);
        while let Some(layer) = at.and_then(|id| self.layer(id)) {
            if layer.id == id || found.iter().any(|seen| seen.id == layer.id) {
                break;
            }
            found.push(layer);
            at = layer.backing;
        }
        found
    }

    /// The layers whose backing file is `id`.
    pub fn overlays(&self, id: LayerId) -> impl Iterator<Item = &Layer> {
        self.layers
            .iter()
            .filter(move |layer| layer.backing == Some(id))
    }
}

/// One file, as the page draws it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    pub id: LayerId,
    pub gift: u32,
    /// File name, without folders.
    pub name: String,
    /// Where it lies in what the user gave; differs from `name` only in a folder.
    pub path: String,
    pub format: String,
    /// Guest bytes; `None` when the file could not be read as an image.
    pub virtual_size: Option<u64>,
    /// Bytes of the file that hold something, as far as the file itself says.
    pub allocated: Option<u64>,
    pub file_size: u64,
    pub backing: Option<LayerId>,
    /// The backing file's name without folders, "" when there is none.
    pub backing_name: String,
    /// The same as the file's header has it, with folders.
    pub backing_path: String,
    /// When the file was changed last, in milliseconds since 1970.
    pub modified: Option<u64>,
    /// What is worth knowing about its link, though nothing is wrong with it yet.
    pub remarks: Vec<Remark>,
    /// Its backing file was pointed out by the user: the header calls it by another name until
    /// the link is rebased.
    pub located: bool,
    pub role: Role,
    /// What of the guest's disk it holds itself, once that was looked up.
    pub extents: Option<Extents>,
    pub state: State,
    /// Why the state is what it is, when it is not `Ok`.
    pub reason: Option<String>,
    /// Written in place; otherwise a changed copy is offered for saving.
    pub in_place: bool,
    /// The folder it came with, where new files can be put beside it.
    pub folder: Option<String>,
    /// Its internal snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Names of its persistent bitmaps.
    pub bitmaps: Vec<String>,
    /// It is drawn as staged changes would leave it, and not as it is on the disk.
    pub staged: bool,
}

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: String,
    pub name: String,
}

impl Layer {
    /// Takes in what [`Event::Measured`] says.
    pub fn measured(&mut self, found: Result<Extents, String>) {
        match found {
            Ok(extents) => {
                self.allocated = Some(extents.data.saturating_add(extents.compressed));
                self.extents = Some(extents);
            }
            Err(reason) if self.state == State::Ok => {
                self.state = State::Damaged;
                self.reason = Some(reason);
            }
            Err(_) => {}
        }
    }
}

/// Something about a layer's link that may surprise later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remark {
    /// The backing file is named with all its folders from the root on.
    AbsoluteLink,
    /// The backing file was changed after the layer itself.
    ChangedBelow,
    /// The header does not say which format the backing file has.
    NoFormat,
}

/// Where a layer stands in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Has overlays, and no backing file.
    Base,
    /// Has both.
    Middle,
    /// Has no overlays among the given files: what a VM would write to.
    Active,
    /// Has neither.
    Single,
    /// What it held was merged elsewhere: still valid, and not needed any more.
    Spare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Ok,
    /// Its backing file is not among the given files.
    Missing,
    /// Its backing links lead back to itself.
    Loop,
    /// It calls its backing file another format than that file is.
    WrongLabel,
    /// An operation changed what is below it.
    Invalid,
    /// It cannot be read.
    Damaged,
}

impl State {
    /// The name used in `data-state`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Loop => "loop",
            Self::WrongLabel => "wrong-label",
            Self::Invalid => "invalid",
            Self::Damaged => "damaged",
        }
    }
}

/// More about one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Details {
    pub layer: LayerId,
    pub sections: Vec<Section>,
}

/// A titled list of facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Section {
    pub title: String,
    pub rows: Vec<(String, String)>,
}

/// How a layer's virtual size divides up, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extents {
    pub data: u64,
    pub compressed: u64,
    pub zero: u64,
    pub unallocated: u64,
    /// Number of runs the map has.
    pub runs: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
    pub phase: String,
    /// Cancelling still leaves every file as it was.
    pub can_cancel: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Done,
    Failed,
    Cancelled,
}

impl Status {
    /// The name used in `data-status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How a run ended. A [`Event::Tree`] has been sent before it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub status: Status,
    pub message: String,
    pub notes: Vec<String>,
    /// Results that could not be written in place.
    pub saved: Vec<Saved>,
}

/// A new file for the user to keep.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    pub name: String,
    pub size: u64,
    /// A `File`.
    #[serde(with = "serde_wasm_bindgen::preserve")]
    pub file: JsValue,
}

/// A message as the JavaScript value that crosses.
///
/// # Errors
/// Only if a type above cannot be expressed in JavaScript, which is a fault of this program.
pub fn encode<T: Serialize>(message: &T) -> Result<JsValue, serde_wasm_bindgen::Error> {
    let serializer =
        serde_wasm_bindgen::Serializer::new().serialize_large_number_types_as_bigints(true);
    message.serialize(&serializer)
}

/// The message a JavaScript value carries.
///
/// # Errors
/// If the value is no such message.
pub fn decode<T: for<'de> Deserialize<'de>>(
    value: JsValue,
) -> Result<T, serde_wasm_bindgen::Error> {
    serde_wasm_bindgen::from_value(value)
}
