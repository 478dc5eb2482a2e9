//! The demo chain: the source document's `[RootBase] <- [Snap-1] <- ... <- [Snap-4 active]`,
//! made on the spot by the engine.
//!
//! Each layer starts as an empty overlay on what its guest is to see, and is then rebased onto
//! the layer before it: the engine copies just what differs, so the layers come out as a VM
//! would have left them.

use super::files::current;
use super::private::{forget_folder, private_folder, scratch};
use super::source;
use super::write::{Strategy, Writer};
use crate::js;
use backchain::chain::MapGate;
use backchain::plan::CreateOptions;
use backchain::{Operation, Plan, ReadAt, Source, Step, Tree};
use std::io;
use std::sync::Arc;
use wasm_bindgen::JsValue;
use web_sys::FileSystemFileHandle;

/// Folder of the worker's own storage it is made in.
pub const FOLDER: &str = "demo";

const SIZE: u64 = 256 << 20;
const MIB: u64 = 1 << 20;

/// What a guest wrote: from which MiB on, how many, and with which byte. Zero is a deletion.
type Written = (u64, u64, u8);

/// The layers from the base up.
const LAYERS: [(&str, &[Written]); 5] = [
    (
        "RootBase.qcow2",
        &[(0, 24, 0x11), (64, 8, 0x12), (200, 4, 0x13)],
    ),
    ("Snap-1.qcow2", &[(4, 6, 0x21), (32, 3, 0x22)]),
    ("Snap-2.qcow2", &[(8, 5, 0x31), (66, 2, 0)]),
    ("Snap-3.qcow2", &[(33, 4, 0x41), (120, 2, 0x42)]),
    ("Snap-4.qcow2", &[(10, 2, 0x51), (121, 4, 0x52)]),
];

/// Makes the chain anew. Returns the folder it is in.
///
/// # Errors
/// In words, for instance when the browser has no storage of its own.
pub async fn make() -> Result<JsValue, String> {
    forget_folder(FOLDER).await;
    let mut view = View::default();
    let mut below: Vec<(&str, Source)> = Vec::new();
    for (name, writes) in LAYERS {
        view.0.extend(writes);
        let made = layer(name, view.clone(), &below).await?;
        below.push((name, made));
    }
    private_folder(FOLDER)
        .await
        .map_err(|error| js::message(&error))
}

async fn layer(name: &str, view: View, below: &[(&str, Source)]) -> Result<Source, String> {
    let handle = scratch(FOLDER, name).await?;
    let view: Source = Arc::new(view);
    let mut gate = MapGate::default();
    gate.0.insert("view.raw".to_owned(), view.clone());
    gate.0.extend(
        below
            .iter()
            .map(|(name, source)| ((*name).to_owned(), source.clone())),
    );

    let mut tree = Tree::new();
    let seen = tree.add(&gate, "view.raw", None).map_err(text)?;
    let Some((base, _)) = below.last() else {
        let copy = Operation::flatten(seen, name, CreateOptions::default());
        return fill(
            &handle,
            tree.plan(&copy).map_err(text)?,
            &tree,
            Strategy::SaveCopy,
        )
        .await;
    };
    let create = Operation::Create {
        name: name.to_owned(),
        options: CreateOptions::default(),
        backing: Some(seen),
    };
    let empty = fill(
        &handle,
        tree.plan(&create).map_err(text)?,
        &tree,
        Strategy::SaveCopy,
    )
    .await?;

    gate.0.insert(name.to_owned(), empty);
    let mut tree = Tree::new();
    let overlay = tree.add(&gate, name, None).map_err(text)?;
    let base = tree.add(&gate, base, None).map_err(text)?;
    let rebase = Operation::Rebase {
        overlay,
        base: Some(base),
        name: None,
        format: None,
        compress: false,
    };
    fill(
        &handle,
        tree.plan(&rebase).map_err(text)?,
        &tree,
        Strategy::Private,
    )
    .await
}

/// Carries out a plan that writes one file only. Returns the file as it is then.
async fn fill(
    handle: &FileSystemFileHandle,
    plan: Plan,
    tree: &Tree,
    strategy: Strategy,
) -> Result<Source, String> {
    let mut writer = Writer::open(handle.clone(), strategy).await?;
    for step in plan {
        match step.map_err(text)? {
            Step::Copy {
                from,
                src,
                dst,
                len,
                ..
            } => {
                let source = &tree.node(from).source;
                let mut at = 0;
                while at < len {
                    let piece = MIB.min(len - at);
                    let mut bytes = vec![0; usize::try_from(piece).unwrap_or_default()];
                    backchain::source::read_padded(source.as_ref(), src.0 + at, &mut bytes)
                        .map_err(|error| error.to_string())?;
                    writer.bytes(dst.0 + at, &bytes).await?;
                    at += piece;
                }
            }
            Step::Zero { dst, len, .. } => writer.zero(dst.0, len).await?,
            Step::Write { dst, bytes, .. } => writer.bytes(dst.0, &bytes).await?,
            Step::SetLen { len, .. } => writer.set_len(len).await?,
            Step::Create { .. } | Step::Sync { .. } | Step::Seal { .. } | Step::Discard { .. } => {}
            other => return Err(format!("The demo cannot carry out {other:?}.")),
        }
    }
    writer.finish().await?;
    let file = current(&writer.close().await?).await?;
    let source = source::open(file).map_err(|error| error.to_string())?;
    Ok(source)
}

/// What a guest sees: writes on a disk of zeros, the later ones above the earlier.
#[derive(Clone, Default)]
struct View(Vec<Written>);

impl ReadAt for View {
    fn len(&self) -> u64 {
        SIZE
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        let inside = |at: u64| {
            usize::try_from(at.saturating_sub(offset)).map_or(buf.len(), |at| at.min(buf.len()))
        };
        let parts: Vec<_> = self
            .0
            .iter()
            .map(|&(from, count, byte)| (inside(from * MIB)..inside((from + count) * MIB), byte))
            .collect();
        for (part, byte) in parts {
            if let Some(part) = buf.get_mut(part) {
                part.fill(byte);
            }
        }
        Ok(())
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        let ranges = self
            .0
            .iter()
            .map(|&(from, count, _)| (from * MIB, (from + count) * MIB));
        let behind = ranges.filter(|&(_, end)| end > offset);
        Ok(behind.min().map(|(start, end)| start.max(offset)..end))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: backchain::Error) -> String {
    super::session::sentence(&error.to_string())
}
