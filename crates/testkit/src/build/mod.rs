//! Makes images in memory straight from the format's encoders, without the engine's planner,
//! each with its [`Layer`]: what it says, in plain terms.

mod content;
mod pack;
mod qcow2;
mod raw;
mod spec;
pub mod strategy;

pub use qcow2::passphrase;
pub use spec::{FormatSpec, LayerSpec, Qcow2Spec, TreeSpec};

use crate::model::Layer;
use crate::sim::SimFile;
use backchain_format::qcow2::Backing;

/// An image and what it says.
#[derive(Debug, Clone)]
pub struct Built {
    /// The file.
    pub file: SimFile,
    /// Its external data file, if it has one.
    pub data: Option<SimFile>,
    /// What it says.
    pub layer: Layer,
}

/// Makes one image; `backing` is what its header is to name, `data_name` the name of its data
/// file, should it have one.
pub fn build(spec: &LayerSpec, backing: Option<Backing>, data_name: &str) -> Built {
    match &spec.format {
        FormatSpec::Raw { holes } => raw::build(spec, *holes),
        FormatSpec::Qcow2(format) => qcow2::build(spec, format, backing, data_name),
    }
}
