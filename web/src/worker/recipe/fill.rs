//! Carries out a plan that writes a single file of a recipe.

use super::view::View;
use crate::js;
use crate::worker::files::current;
use crate::worker::source;
use crate::worker::write::{Strategy, Writer};
use backchain::{NodeId, Plan, Source, Step, Tree};
use js_sys::{Array, Uint8Array};
use std::sync::Arc;
use web_sys::{Blob, FileSystemFileHandle};

/// Bytes that go through memory at once.
const PIECE: u64 = 1 << 20;
/// Bytes of one value that the browser is given at once.
const UNIFORM: u32 = 8 << 20;

/// Carries out `plan`, which writes only the file of `handle`. Returns it as it is then.
///
/// `view` is what a guest sees, as a node of `tree`: most of it need not be computed.
///
/// # Errors
/// In words.
pub async fn fill(
    handle: &FileSystemFileHandle,
    plan: Plan,
    tree: &Tree,
    view: Option<(NodeId, &Arc<View>)>,
    strategy: Strategy,
) -> Result<Source, String> {
    let mut writer = Writer::open(handle.clone(), strategy).await?;
    let written = steps(&mut writer, plan, tree, view).await;
    if written.is_err() {
        writer.abort().await;
        return Err(written.err().unwrap_or_default());
    }
    let file = current(&writer.close().await?).await?;
    let source = source::open(file).map_err(|error| error.to_string())?;
    Ok(source)
}

async fn steps(
    writer: &mut Writer,
    plan: Plan,
    tree: &Tree,
    view: Option<(NodeId, &Arc<View>)>,
) -> Result<(), String> {
    let mut uniform: Option<(u8, Blob)> = None;
    for step in plan {
        match step.map_err(|error| super::text(&error))? {
            Step::Copy {
                from,
                src,
                dst,
                len,
                ..
            } => {
                let view = view.filter(|(id, _)| *id == from).map(|(_, view)| view);
                let source = &tree.node(from).source;
                let mut at = 0;
                while at < len {
                    let long = u64::from(UNIFORM).min(len - at);
                    if let Some(byte) = view.and_then(|view| view.uniform(src.0 + at, long)) {
                        let blob = match uniform.take().filter(|(known, _)| *known == byte) {
                            Some((_, blob)) => blob,
                            None => filled(byte)?,
                        };
                        let part = blob.slice_with_f64_and_f64(0.0, source::number(long));
                        writer
                            .blob(dst.0 + at, &part.map_err(|error| js::message(&error))?)
                            .await?;
                        uniform = Some((byte, blob));
                        at += long;
                        continue;
                    }
                    let piece = PIECE.min(len - at);
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
            Step::Create { .. }
            | Step::Sync { .. }
            | Step::Seal { .. }
            | Step::Discard { .. }
            | Step::Allocate { .. } => {}
            other => return Err(format!("A recipe cannot carry out {other:?}.")),
        }
    }
    writer.finish().await
}

fn filled(byte: u8) -> Result<Blob, String> {
    let bytes = Uint8Array::new_with_length(UNIFORM);
    bytes.fill(byte, 0, UNIFORM);
    Blob::new_with_u8_array_sequence(&Array::of1(&bytes)).map_err(|error| js::message(&error))
}
