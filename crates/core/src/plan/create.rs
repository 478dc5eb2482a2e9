//! Making new images: empty ones and overlays.

use super::create_blank::{Blank, data_id};
use super::info::InfoBuilder;
use super::link::backing_for;
use super::{CreateOptions, Fixed, MetadataKind, Plan, Preallocation, Stage, Step, guard};
use crate::chain::{Node, NodeId, Tree};
use crate::crypto::Volume;
use crate::error::{Error, ErrorKind, Result};
use backchain_format::bytes::align_up;
use backchain_format::qcow2::Backing;
use backchain_format::{Format, HostOffset};
use std::sync::Arc;

/// [`super::Operation::Create`].
pub(super) fn plan_create(
    tree: &Tree,
    name: &str,
    options: &CreateOptions,
    backing: Option<NodeId>,
) -> Result<Plan> {
    let mut info = InfoBuilder::new(tree);
    let id = new_id(tree);
    info.made(id, name);
    let below = backing.map(|id| tree.node(id));
    if let Some(below) = below {
        info.read(std::slice::from_ref(below));
        if let Some(format) = options.backing_format {
            guard::check_label(below, format)?;
        }
    }
    let size = match (options.size, below) {
        (Some(size), _) => size,
        (None, Some(below)) => {
            below.image()?;
            below.virtual_size()
        }
        (None, None) => {
            return Err(Error::new(
                ErrorKind::Invalid,
                "an image without a backing file needs a size",
            ));
        }
    };
    let link = link(tree, name, options, below.map(Arc::as_ref))?;
    info.link(id, backing);
    let mut stages: Vec<Box<dyn Stage>> = vec![Box::new(Fixed(vec![Step::Create { node: id }]))];
    if options.format == Format::Raw {
        if link.is_some() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a raw image cannot have a backing file",
            ));
        }
        stages.push(Box::new(Fixed(raw_steps(id, size, options.preallocation)?)));
    } else if options.format == Format::Luks {
        stages.push(Box::new(Fixed(luks_steps(id, size, options)?)));
    } else {
        let blank = Blank::new(options, size, link)?;
        if let Some(path) = blank.data_path(name)? {
            let data = data_id(id);
            info.made(data, &path);
            let mut steps = blank.data_steps(data);
            steps.push(Step::Seal { node: data });
            stages.insert(0, Box::new(Fixed(steps)));
        }
        stages.push(Box::new(blank.stage(id)));
    }
    stages.push(Box::new(Fixed(vec![Step::Seal { node: id }])));
    Ok(Plan::new(info.build(), stages))
}

/// The steps that make the empty file `to` a raw image of `size` bytes of zeros.
pub(super) fn raw_steps(to: NodeId, size: u64, preallocation: Preallocation) -> Result<Vec<Step>> {
    if preallocation == Preallocation::Metadata {
        let message = "Unsupported preallocation mode: metadata";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    if i64::try_from(size).is_err() {
        let message = "The image size is too large for file format 'raw'";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    if size == 0 {
        return Ok(Vec::new());
    }
    let allocate = |from: u64, end: u64, write| Step::Allocate {
        to,
        dst: HostOffset(from),
        len: end - from,
        write,
    };
    let all = preallocation == Preallocation::Full;
    let first = if all { size } else { size.min(FIRST_BLOCK) };
    let mut steps = vec![Step::SetLen { to, len: size }, allocate(0, first, true)];
    if preallocation == Preallocation::Falloc && first < size {
        steps.push(allocate(first, size, false));
    }
    Ok(steps)
}

/// The steps that make the empty file `to` a LUKS volume with a disk of `size` bytes.
pub(super) fn luks_steps(to: NodeId, size: u64, options: &CreateOptions) -> Result<Vec<Step>> {
    let volume = luks_volume(options)?;
    let payload = volume.area.header.payload_offset;
    let len = payload.checked_add(size).filter(|&len| len < 1 << 63);
    let len =
        len.ok_or_else(|| Error::new(ErrorKind::Invalid, "The requested file size is too large"))?;
    let header = Step::Write {
        to,
        dst: HostOffset(0),
        kind: MetadataKind::CryptoHeader,
        // Slots that are not used stay holes.
        bytes: volume.used().to_vec(),
    };
    let mut steps = vec![Step::SetLen { to, len }, header];
    if len > payload {
        steps.extend(match options.preallocation {
            Preallocation::Off => None,
            Preallocation::Metadata => {
                let message = "Unsupported preallocation mode: metadata";
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            mode => Some(Step::Allocate {
                to,
                dst: HostOffset(payload),
                len: len - payload,
                write: mode == Preallocation::Full,
            }),
        });
    }
    Ok(steps)
}

/// The header that a new LUKS volume is to have.
pub(super) fn luks_volume(options: &CreateOptions) -> Result<&Volume> {
    options
        .encryption
        .as_deref()
        .ok_or_else(|| Error::new(ErrorKind::Invalid, "a LUKS volume needs a passphrase"))
}

/// As QEMU does, the first block of a raw image is written: only where there is data can a
/// program find out how reading it directly has to be aligned.
const FIRST_BLOCK: u64 = 4096;

/// The number of the file that a plan makes.
pub(super) fn new_id(tree: &Tree) -> NodeId {
    NodeId(u32::try_from(tree.nodes().len()).unwrap_or(u32::MAX))
}

/// The link that a new overlay `name` gets.
pub(super) fn link(
    tree: &Tree,
    name: &str,
    options: &CreateOptions,
    below: Option<&Node>,
) -> Result<Option<Backing>> {
    let format = options.backing_format.map(|f| f.name().to_owned());
    let Some(below) = below else {
        return Ok(options
            .backing_name
            .clone()
            .map(|name| Backing { name, format }));
    };
    let mut link = match &options.backing_name {
        Some(name) => Backing {
            name: name.clone(),
            format: Some(below.image()?.format().name().to_owned()),
        },
        None => backing_for(tree, name, below)?,
    };
    if format.is_some() {
        link.format = format;
    }
    Ok(Some(link))
}

/// A size as QEMU makes it: whole sectors.
pub fn round_size(bytes: u64) -> Option<u64> {
    align_up(bytes, backchain_format::raw::SECTOR)
}
