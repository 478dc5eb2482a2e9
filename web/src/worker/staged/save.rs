//! Files that cannot be written themselves: what staged changes make of them, as new files for
//! the user to save.

use crate::js;
use crate::protocol::{Progress, Saved};
use crate::worker::execute::Stopped;
use crate::worker::private;
use crate::worker::session::Session;
use crate::worker::source::size_of;
use crate::worker::write::{Strategy, Writer};
use crate::worker::{files, staged::TURN};
use backchain::Source;
use std::cell::Cell;

/// Bytes read and written at once.
const PIECE: u64 = 8 << 20;

/// Copies files as they would be into the browser's own storage.
///
/// # Errors
/// When it was stopped or failed. Files that were given are never touched.
pub async fn copies(
    session: &Session,
    wanted: &[usize],
    stop: &Cell<bool>,
    report: &dyn Fn(Progress),
) -> Result<Vec<Saved>, Stopped> {
    let entries = wanted.iter().filter_map(|&nth| session.files.0.get(nth));
    let mut saved = Vec::new();
    for entry in entries {
        let handle = private::result(entry.name()).await?;
        let mut writer = Writer::open(handle, Strategy::SaveCopy).await?;
        if let Err(why) = fill(&mut writer, &entry.now(), entry.name(), stop, report).await {
            writer.abort().await;
            return Err(why);
        }
        let file = files::current(&writer.close().await?).await?;
        saved.push(Saved {
            name: entry.name().to_owned(),
            size: size_of(&file),
            file: file.into(),
        });
    }
    Ok(saved)
}

/// Writes all of `source`, leaving its holes out.
async fn fill(
    writer: &mut Writer,
    source: &Source,
    name: &str,
    stop: &Cell<bool>,
    report: &dyn Fn(Progress),
) -> Result<(), Stopped> {
    let say = |error: std::io::Error| format!("{name} cannot be read: {error}.");
    let mut at = 0;
    let mut until = js::now() + TURN;
    while let Some(range) = source.data_at(at).map_err(say)? {
        let mut start = range.start;
        while start < range.end {
            let len = PIECE.min(range.end - start);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
            source.read_exact_at(start, &mut bytes).map_err(say)?;
            writer.bytes(start, &bytes).await?;
            start += len;
            if js::now() > until {
                report(Progress {
                    done: start,
                    total: source.len(),
                    phase: format!("Copying {name}"),
                    can_cancel: true,
                });
                js::pause().await;
                until = js::now() + TURN;
            }
            if stop.get() {
                return Err(Stopped::Cancelled);
            }
        }
        at = range.end;
    }
    writer.set_len(source.len()).await?;
    writer.finish().await?;
    Ok(())
}
