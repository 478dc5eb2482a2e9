//! A tree of images in memory with the model beside it.

use crate::build::{self, FormatSpec, TreeSpec};
use crate::model::{self, Layer};
use crate::sim::SimFile;
use backchain::chain::MapGate;
use backchain::chain::Reader;
use backchain::{Format, NodeId, Source, Tree};
use backchain_format::bytes::to_usize;
use backchain_format::qcow2::{Backing, Extensions, Head, autoclear};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Files by name.
pub type Files = BTreeMap<String, SimFile>;

/// Images in files, and what each of them says.
#[derive(Debug, Clone)]
pub struct Case {
    /// The files.
    pub files: Files,
    /// By number: name, format, number of the backing file, and the model.
    pub nodes: Vec<CaseNode>,
}

/// One image of a [`Case`].
#[derive(Debug, Clone)]
pub struct CaseNode {
    /// File name.
    pub name: String,
    /// Format.
    pub format: Format,
    /// Number of the backing file.
    pub parent: Option<usize>,
    /// What the image says, as it was built.
    pub layer: Layer,
    /// What its guest sees, once an operation has changed where that comes from.
    pub view: Option<Vec<u8>>,
}

impl Case {
    /// Builds all images of a tree; every link has its format label.
    pub fn build(spec: &TreeSpec) -> Self {
        Self::build_labelled(spec, true)
    }

    /// Builds all images of a tree, with or without format labels.
    pub fn build_labelled(spec: &TreeSpec, labels: bool) -> Self {
        let mut case = Self {
            files: Files::new(),
            nodes: Vec::new(),
        };
        for (number, (layer, parent)) in spec.nodes.iter().enumerate() {
            let format = match layer.format {
                FormatSpec::Raw { .. } => Format::Raw,
                FormatSpec::Qcow2(_) => Format::Qcow2,
            };
            let backing = parent.map(|p| Backing {
                name: case.nodes[p].name.clone(),
                format: labels.then(|| case.nodes[p].format.name().to_owned()),
            });
            let data_name = format!("d{number}.data");
            let built = build::build(layer, backing, &data_name);
            let name = name(number, format, layer.seed);
            if let Some(data) = built.data {
                case.files.insert(data_name, data);
            }
            case.files.insert(name.clone(), built.file);
            case.nodes.push(CaseNode {
                name,
                format,
                parent: *parent,
                layer: built.layer,
                view: None,
            });
        }
        case
    }

    /// The numbers of the chain from `top` down.
    pub fn chain(&self, top: usize) -> Vec<usize> {
        std::iter::successors(Some(top), |n| self.nodes[*n].parent).collect()
    }

    /// What the guest must see of image `top`.
    pub fn view(&self, top: usize) -> Vec<u8> {
        if let Some(view) = &self.nodes[top].view {
            return view.clone();
        }
        let chain = self.chain(top);
        model::view(chain.iter().rev().map(|n| &self.nodes[*n].layer))
    }

    /// Whether the data file of image `node` is to be readable as a raw image, and its name.
    pub fn raw_data(&self, node: usize, files: &Files) -> Option<String> {
        let head = Head::from_bytes(files.get(&self.nodes[node].name)?.bytes()).ok()?;
        raw_data_name(&head)
    }

    /// Whether image `node` is `below` or reaches it.
    pub fn reaches(&self, node: usize, below: usize) -> bool {
        self.chain(node).contains(&below)
    }

    /// The engine's tree of these files: node n is image n.
    pub fn open(&self) -> Tree {
        let names = self.nodes.iter().map(|n| (n.name.as_str(), n.format));
        open(&self.files, names)
    }
}

/// The name of the data file that an image's head says is readable as a raw image.
pub fn raw_data_name(head: &Head) -> Option<String> {
    let raw = head.header.autoclear & autoclear::RAW_DATA_FILE != 0;
    raw.then(|| head.extensions.string(Extensions::DATA_FILE))?
}

/// A file name, short or long: long ones do not fit beside each other in a small first cluster.
fn name(number: usize, format: Format, seed: u64) -> String {
    let long = match seed % 5 {
        0 => to_usize(seed / 5 % 130),
        1 => to_usize(seed / 5 % 30),
        _ => 0,
    };
    format!("n{number}{}.{format}", "x".repeat(long))
}

/// Opens files, so that they are numbered in this order.
///
/// # Panics
/// When one cannot be opened as a file.
pub fn open<'a>(files: &Files, names: impl IntoIterator<Item = (&'a str, Format)>) -> Tree {
    let source = |file: &SimFile| Arc::new(file.clone()) as Source;
    let gate = MapGate(files.iter().map(|(n, f)| (n.clone(), source(f))).collect());
    open_through(&gate, names)
}

/// Opens files through a gate, so that they are numbered in this order.
///
/// # Panics
/// When one cannot be opened as a file.
pub fn open_through<'a>(
    gate: &MapGate,
    names: impl IntoIterator<Item = (&'a str, Format)>,
) -> Tree {
    let mut tree = Tree::new();
    let names: Vec<_> = names.into_iter().collect();
    // First each file by itself, so that links do not decide on the order.
    for (name, format) in &names {
        let id = tree.add_one(gate, name, Some(*format));
        id.expect("the file is there");
    }
    for (name, format) in names {
        let id = tree.add(gate, name, Some(format));
        let id = id.expect("the file is there");
        // Those that are damaged, or not encrypted, have nothing to unlock.
        let _ = tree.unlock(id, &build::passphrase());
    }
    tree
}

/// The number of image `n` in the engine's tree.
pub fn id(n: usize) -> NodeId {
    NodeId(u32::try_from(n).expect("few images"))
}

/// What the engine reads through the whole chain of `node`.
pub fn engine_view(tree: &Tree, node: NodeId) -> backchain::Result<Vec<u8>> {
    let chain = tree.chain(node)?;
    let mut view = vec![0xaa; to_usize(chain.virtual_size())];
    Reader::new(chain).read_at(0, &mut view)?;
    Ok(view)
}
