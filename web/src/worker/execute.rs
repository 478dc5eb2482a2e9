//! Carries a plan out: reads its steps, collects them into large writes, and puts the new files
//! in place at the very end, in the plan's order.
//!
//! A browser replaces a file only when its writer is closed. All writers are therefore kept
//! open until every byte of every file is with the browser; until then a cancelled, failed or
//! crashed run has changed nothing. The plan's order of seals is the order of closing, so a
//! link changes only after the file it will name is in place.

use super::files::{self, Entry};
use super::private;
use super::session::{Session, sentence};
use super::source::{self, Cached, number, size_of};
use super::strategy::{Strategy, Way};
use super::write::Writer;
use crate::app::text::bytes;
use crate::js;
use crate::protocol::Progress;
use backchain::chain::Fingerprint;
use backchain::plan::{Ciphers, FileChange, Meter, Origin, Recoder};
use backchain::source::read_padded;
use backchain::{CodecState, NodeId, Plan, ReadAt, Step, inflate};
use js_sys::Array;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Blob, File, FileSystemFileHandle};

/// Why a run did not come to its end.
#[derive(Debug)]
pub enum Stopped {
    /// The user wished it. Nothing was changed.
    Cancelled,
    /// In words. `changed` names the files that were in place already.
    Failed { why: String, changed: Vec<String> },
}

impl From<String> for Stopped {
    fn from(why: String) -> Self {
        Self::Failed {
            why,
            changed: Vec::new(),
        }
    }
}

/// A result that could not be put in place.
pub struct NewFile {
    pub name: String,
    pub file: File,
}

/// Where a file goes that a plan makes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// Into this folder, a `FileSystemDirectoryHandle`.
    Folder(JsValue),
    /// To this file, chosen by the user.
    Picked(FileSystemFileHandle),
    /// Into the origin-private file system.
    Private,
}

/// What a run has written, besides the files that are in place.
#[derive(Default)]
pub struct Written {
    /// Changed copies of files that cannot be written themselves.
    pub copies: Vec<NewFile>,
    /// The new file that the plan makes.
    pub made: Option<FileSystemFileHandle>,
}

/// Bytes copied from file to file in one go.
const PIECE: u64 = 32 << 20;
/// Bytes decrypted or encrypted in one go: they go through the page's own memory.
const RECODED: u64 = 8 << 20;
/// Milliseconds after which messages are let in.
const BREATH: f64 = 40.0;

/// One run of a plan.
pub struct Run<'a> {
    session: &'a Session,
    read_only: &'a [u32],
    stop: &'a Cell<bool>,
    report: &'a dyn Fn(Progress),
    changes: &'a [FileChange],
    /// What each file of the plan looked like when the plan was made.
    expected: BTreeMap<NodeId, Option<Fingerprint>>,
    writers: BTreeMap<NodeId, Writer>,
    /// Files in the order in which they are to be closed.
    sealed: Vec<NodeId>,
    strategies: BTreeMap<NodeId, Strategy>,
    total: u64,
    done: u64,
    breathed: f64,
    codec: CodecState,
    ciphers: Ciphers,
    recoder: Recoder,
    cluster: Option<(NodeId, u64, Vec<u8>)>,
    /// Name and destination of the file that the plan makes.
    target: Option<(String, Destination)>,
    making: Option<NodeId>,
    /// How far the planning is, where that says more than the bytes written.
    meter: Option<Arc<Meter>>,
}

impl<'a> Run<'a> {
    /// `total` is the number of bytes the plan's preview counts.
    #[must_use]
    pub fn new(
        session: &'a Session,
        read_only: &'a [u32],
        stop: &'a Cell<bool>,
        report: &'a dyn Fn(Progress),
        total: u64,
    ) -> Self {
        Self {
            session,
            read_only,
            stop,
            report,
            changes: &[],
            expected: BTreeMap::new(),
            writers: BTreeMap::new(),
            sealed: Vec::new(),
            strategies: BTreeMap::new(),
            total,
            done: 0,
            breathed: now(),
            codec: CodecState::default(),
            ciphers: Ciphers::default(),
            recoder: Recoder::default(),
            cluster: None,
            target: None,
            making: None,
            meter: None,
        }
    }

    /// The same run with a place for the file that its plan makes.
    #[must_use]
    pub fn making(mut self, name: &str, destination: Destination) -> Self {
        self.target = Some((name.to_owned(), destination));
        self
    }

    /// The same run, whose progress is that of `plan`: how much it will write is not known.
    #[must_use]
    pub fn measured_by(mut self, plan: &Plan) -> Self {
        self.meter = Some(plan.meter());
        self
    }

    /// The same run, with what its plan's preview says about each file: the way to write it is
    /// chosen by that.
    #[must_use]
    pub fn expecting(mut self, changes: &'a [FileChange]) -> Self {
        self.changes = changes;
        self
    }

    /// Carries `plan` out. Returns what is not simply in place.
    ///
    /// # Errors
    /// When it was cancelled or failed. Unless the error names changed files, every file is as
    /// it was.
    pub async fn carry_out(mut self, plan: Plan) -> Result<Written, Stopped> {
        let written = match self.write_all(plan).await {
            Ok(()) => self.close_all().await,
            Err(stopped) => {
                for (_, writer) in std::mem::take(&mut self.writers) {
                    writer.abort().await;
                }
                // What cannot be read any more was most likely changed: that says more.
                match stopped {
                    Stopped::Failed { .. } => self.check_all_unchanged().await.and(Err(stopped)),
                    Stopped::Cancelled => Err(stopped),
                }
            }
        };
        if written.is_err()
            && self.making.is_some()
            && let Some((name, Destination::Folder(folder))) = &self.target
        {
            // It was made empty by this run. Where it cannot be removed it stays empty.
            let _ = js::call(folder, "removeEntry", &Array::of1(&name.into())).await;
        }
        written
    }

    async fn write_all(&mut self, plan: Plan) -> Result<(), Stopped> {
        let expected = plan
            .info
            .files
            .iter()
            .map(|file| (file.node, file.before))
            .collect();
        self.ciphers = plan.info.ciphers.clone();
        self.expected = expected;
        self.check_all_unchanged().await?;
        let written: Vec<NodeId> = plan
            .info
            .files
            .iter()
            .filter(|file| file.written)
            .map(|file| file.node)
            .collect();
        self.make_sure_of_room(&written).await?;
        for node in written {
            match self.expected.get(&node) {
                Some(None) => self.make(node).await?,
                _ => self.open(node).await?,
            }
        }
        for step in plan {
            let step = step.map_err(|error| sentence(&error.to_string()))?;
            self.carry_out_step(step).await?;
            self.breathe("Writing").await?;
        }
        for writer in self.writers.values_mut() {
            writer.finish().await?;
        }
        self.breathe_now("Writing").await?;
        // What somebody else wrote meanwhile would be lost, or was read half.
        self.check_all_unchanged().await
    }

    /// The plan is only true for the files it was made for.
    async fn check_all_unchanged(&self) -> Result<(), Stopped> {
        for &node in self.expected.keys() {
            self.check_unchanged(node).await?;
        }
        Ok(())
    }

    async fn check_unchanged(&self, node: NodeId) -> Result<(), String> {
        let before = self.expected.get(&node).copied().flatten();
        let (Some(before), Ok(entry)) = (before, self.entry(node)) else {
            return Ok(());
        };
        is_unchanged(entry, before).await
    }

    /// The browser's own storage is limited, and tells how much of it is left.
    async fn make_sure_of_room(&self, written: &[NodeId]) -> Result<(), Stopped> {
        let mut needed = 0_u64;
        for &node in written {
            // What a plan makes has no length yet.
            let Ok(way) = self.way(node) else { continue };
            if way.strategy.in_browser() {
                needed = needed.saturating_add(way.temporary);
            }
        }
        match private::room().await {
            Some(room) if needed > room => Err(format!(
                "The browser's own storage has {} left for this page, and {} are needed there. Free some space on the disk, or clear what this page holds.",
                bytes(room),
                bytes(needed)
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// How a file is written.
    fn way(&self, node: NodeId) -> Result<Way, String> {
        let change = self.changes.iter().find(|change| change.node == node);
        Ok(Way::of(self.entry(node)?, self.read_only, change))
    }

    async fn open(&mut self, node: NodeId) -> Result<(), Stopped> {
        let entry = self.entry(node)?;
        let strategy = self.way(node)?.strategy;
        let handle = match &entry.handle {
            Some(handle) if strategy.in_place() => handle.clone(),
            _ => private::result(entry.name()).await?,
        };
        let (file, source) = (entry.file.clone(), entry.source.clone());
        let mut writer = Writer::open(handle, strategy).await?;
        if strategy.from_nothing() {
            self.total = self.total.saturating_add(size_of(&file));
            let copied = self.keep(&mut writer, &file, &source).await;
            if copied.is_err() {
                writer.abort().await;
                return copied;
            }
        }
        self.strategies.insert(node, strategy);
        self.writers.insert(node, writer);
        Ok(())
    }

    /// Makes the plan's new file, empty. Never one that is there.
    async fn make(&mut self, node: NodeId) -> Result<(), Stopped> {
        let Some((name, destination)) = self.target.clone().filter(|_| self.making.is_none())
        else {
            return Err("This page cannot make a second file at once."
                .to_owned()
                .into());
        };
        let handle = match destination {
            Destination::Folder(folder) => {
                let handle = make_in(&folder, &name).await?;
                self.making = Some(node);
                handle
            }
            Destination::Picked(handle) => handle,
            Destination::Private => private::made(&name).await?,
        };
        if let Some(nth) = self.session.files.same(&handle).await {
            let entry = self.session.files.0.get(nth);
            let path = entry.map_or("", |entry| entry.path.as_str());
            let why = format!(
                "{path} is one of the files here and is not overwritten. Choose another name."
            );
            return Err(why.into());
        }
        self.making = Some(node);
        let writer = Writer::open(handle, Strategy::Rewrite).await?;
        self.writers.insert(node, writer);
        Ok(())
    }

    /// Copies what a file holds into its successor, leaving holes for its zeros.
    async fn keep(
        &mut self,
        writer: &mut Writer,
        file: &File,
        source: &Cached,
    ) -> Result<(), Stopped> {
        let (stop, total) = (self.stop, size_of(file));
        let report = |seen| {
            self.report_survey(seen, total);
            !stop.get()
        };
        let surveyed = source.inner().survey(&report).await;
        surveyed.map_err(|error| error.to_string())?;
        self.breathe_now("Copying what stays").await?;
        let mut at = 0;
        loop {
            let data = source.data_at(at).map_err(|error| error.to_string())?;
            let Some(range) = data else { break };
            let mut start = range.start;
            self.done = self.done.saturating_add(start - at);
            while start < range.end {
                let end = range.end.min(start + PIECE);
                writer.blob(start, &part(file, start, end)?).await?;
                self.done = self.done.saturating_add(end - start);
                start = end;
                self.breathe("Copying what stays").await?;
            }
            at = range.end;
        }
        self.done = self.done.saturating_add(size_of(file).saturating_sub(at));
        // The end may be a hole.
        writer.set_len(size_of(file)).await?;
        Ok(())
    }

    async fn carry_out_step(&mut self, step: Step) -> Result<(), Stopped> {
        let bytes = step.bytes();
        match step {
            Step::Copy {
                from,
                src,
                to,
                dst,
                len,
                ..
            } => {
                self.copy(from, src.0, to, dst.0, len).await?;
                return Ok(());
            }
            Step::Inflate {
                from,
                src,
                len,
                codec,
                cluster,
                skip,
                take,
                to,
                dst,
            } => {
                if !matches!(&self.cluster, Some((node, at, _)) if (*node, *at) == (from, src.0)) {
                    let mut packed = vec![0; size(len)?];
                    let mut unpacked = vec![0; size(cluster)?];
                    let source = self.entry(from)?.source.clone();
                    read_padded(source.as_ref(), src.0, &mut packed).map_err(|e| e.to_string())?;
                    inflate(&mut self.codec, codec, &packed, &mut unpacked)
                        .map_err(|error| sentence(&error.to_string()))?;
                    self.cluster = Some((from, src.0, unpacked));
                }
                let end = skip.saturating_add(take);
                let unpacked = self.cluster.as_ref().map(|(_, _, bytes)| bytes.as_slice());
                let wanted =
                    unpacked.and_then(|bytes| bytes.get(size(skip).ok()?..size(end).ok()?));
                let wanted = wanted
                    .ok_or_else(|| "A step reaches past its cluster.".to_owned())?
                    .to_vec();
                self.writer(to)?.bytes(dst.0, &wanted).await?;
            }
            Step::Recode {
                origin,
                to,
                dst,
                encrypt,
                len,
                ..
            } => {
                let source = match origin.source() {
                    Some(node) => Some(self.entry(node)?.source.clone()),
                    None => None,
                };
                let mut at = 0;
                while at < len {
                    let piece = match origin {
                        Origin::Packed { .. } => len,
                        _ => RECODED.min(len - at),
                    };
                    let mut bytes = vec![0; size(piece)?];
                    let encrypt = encrypt.map(|offset| offset.saturating_add(at));
                    let source = source.as_ref().map(|source| source.as_ref() as &dyn ReadAt);
                    self.recoder
                        .fill(
                            &self.ciphers,
                            &origin.advanced(at),
                            source,
                            to,
                            encrypt,
                            &mut bytes,
                        )
                        .map_err(|error| sentence(&error.to_string()))?;
                    self.writer(to)?.bytes(dst.plus(at).0, &bytes).await?;
                    at += piece;
                    self.done = self.done.saturating_add(piece);
                    self.breathe("Writing").await?;
                }
                return Ok(());
            }
            Step::Zero { to, dst, len } => self.writer(to)?.zero(dst.0, len).await?,
            Step::Write { to, dst, bytes, .. } => self.writer(to)?.bytes(dst.0, &bytes).await?,
            Step::SetLen { to, len } => self.writer(to)?.set_len(len).await?,
            // Nothing is durable, or seen by anybody, before the file is closed.
            Step::Sync { .. } | Step::Discard { .. } => {}
            // A browser allocates as it likes; that the file gets its length is enough.
            Step::Allocate { to, dst, len, .. } => self.writer(to)?.zero(dst.0, len).await?,
            Step::Seal { node } => self.sealed.push(node),
            // It was made when everything was opened.
            Step::Create { node } => {
                self.writer(node)?;
            }
            other => return Err(format!("This page cannot carry out {other:?}.").into()),
        }
        self.done = self.done.saturating_add(bytes);
        Ok(())
    }

    async fn copy(
        &mut self,
        from: NodeId,
        src: u64,
        to: NodeId,
        dst: u64,
        len: u64,
    ) -> Result<(), Stopped> {
        let file = self.entry(from)?.file.clone();
        let inside = size_of(&file).saturating_sub(src).min(len);
        let mut at = 0;
        while at < inside {
            let piece = PIECE.min(inside - at);
            let blob = part(&file, src + at, src + at + piece)?;
            self.writer(to)?.blob(dst + at, &blob).await?;
            at += piece;
            self.done = self.done.saturating_add(piece);
            self.breathe("Writing").await?;
        }
        if inside < len {
            // Past the end of a file there are zeros.
            self.writer(to)?.zero(dst + inside, len - inside).await?;
            self.done = self.done.saturating_add(len - inside);
        }
        Ok(())
    }

    /// Puts every file in place. From the first one on there is no way back.
    async fn close_all(&mut self) -> Result<Written, Stopped> {
        let unsealed: Vec<NodeId> = self
            .writers
            .keys()
            .copied()
            .filter(|node| !self.sealed.contains(node))
            .collect();
        self.sealed.extend(unsealed);
        let mut changed = Vec::new();
        let mut results = Written::default();
        let order = std::mem::take(&mut self.sealed);
        let mut failure: Option<String> = None;
        for node in order {
            let Some(writer) = self.writers.remove(&node) else {
                continue;
            };
            if failure.is_some() {
                writer.abort().await;
                continue;
            }
            let made = self.making == Some(node);
            let name = match &self.target {
                Some((name, _)) if made => name.clone(),
                _ => self
                    .entry(node)
                    .map(|entry| entry.name().to_owned())
                    .unwrap_or_default(),
            };
            self.tell(&format!("Putting {name} in place"), false);
            // The first one was looked at just now; putting it in place may have taken a while.
            if !changed.is_empty()
                && let Err(why) = self.check_unchanged(node).await
            {
                writer.abort().await;
                failure = Some(why);
                continue;
            }
            let in_place = self
                .strategies
                .get(&node)
                .is_none_or(|strategy| strategy.in_place());
            match writer.close().await {
                Ok(handle) if made => results.made = Some(handle),
                Ok(_) if in_place => changed.push(name),
                Ok(handle) => match files::current(&handle).await {
                    Ok(file) => results.copies.push(NewFile { name, file }),
                    Err(why) => failure = Some(why),
                },
                Err(why) => failure = Some(why),
            }
        }
        match failure {
            None => Ok(results),
            Some(why) => Err(Stopped::Failed { why, changed }),
        }
    }

    fn entry(&self, node: NodeId) -> Result<&'a Entry, String> {
        let session = self.session;
        let entry = session.file(node).and_then(|nth| session.files.0.get(nth));
        entry.ok_or_else(|| "The plan names a file that is not here.".to_owned())
    }

    fn writer(&mut self, node: NodeId) -> Result<&mut Writer, String> {
        self.writers
            .get_mut(&node)
            .ok_or_else(|| "The plan writes a file that it did not announce.".to_owned())
    }

    /// Every now and then: tells how far it is, and lets messages in.
    async fn breathe(&mut self, phase: &str) -> Result<(), Stopped> {
        if now() - self.breathed >= BREATH {
            self.breathe_now(phase).await
        } else {
            Ok(())
        }
    }

    async fn breathe_now(&mut self, phase: &str) -> Result<(), Stopped> {
        self.tell(phase, true);
        js::pause().await;
        self.breathed = now();
        if self.stop.get() {
            Err(Stopped::Cancelled)
        } else {
            Ok(())
        }
    }

    fn report_survey(&self, seen: u64, total: u64) {
        (self.report)(Progress {
            done: seen,
            total,
            phase: "Looking for holes".to_owned(),
            can_cancel: true,
        });
    }

    fn tell(&self, phase: &str, can_cancel: bool) {
        let (done, total) = match &self.meter {
            Some(meter) => (meter.done(), meter.total()),
            None => (self.done, self.total),
        };
        (self.report)(Progress {
            done: done.min(total),
            total,
            phase: phase.to_owned(),
            can_cancel,
        });
    }
}

/// Makes an empty file of this name in a folder, unless there is one already.
async fn make_in(folder: &JsValue, name: &str) -> Result<FileSystemFileHandle, String> {
    match js::call(folder, "getFileHandle", &Array::of1(&name.into())).await {
        Err(error) if js::error_name(&error) == "NotFoundError" => {}
        Err(error) if js::error_name(&error) != "TypeMismatchError" => {
            return Err(format!("{name} cannot be made: {}.", js::message(&error)));
        }
        _ => {
            return Err(format!(
                "There is a {name} in the folder already, and it is not overwritten. Choose another name."
            ));
        }
    }
    let create = js::options([("create", true.into())]);
    js::call(folder, "getFileHandle", &Array::of2(&name.into(), &create))
        .await
        .map(JsCast::unchecked_into)
        .map_err(|error| format!("{name} cannot be made: {}.", js::message(&error)))
}

fn part(file: &File, start: u64, end: u64) -> Result<Blob, String> {
    file.slice_with_f64_and_f64(number(start), number(end))
        .map_err(|error| js::message(&error))
}

fn size(len: u64) -> Result<usize, String> {
    usize::try_from(len).map_err(|_| "A step is larger than memory.".to_owned())
}

fn now() -> f64 {
    js_sys::Date::now()
}

/// Whether a file is what it was when a plan was made for it.
///
/// # Errors
/// When it is not, or cannot be read, in words.
pub async fn is_unchanged(entry: &Entry, before: Fingerprint) -> Result<(), String> {
    let name = entry.name();
    let file = match &entry.handle {
        Some(handle) => files::current(handle)
            .await
            .map_err(|why| format!("{name}: {why}"))?,
        None => entry.file.clone(),
    };
    let modified = files::modified(&file);
    let now = source::open(file)
        .and_then(|source| Fingerprint::of(source.as_ref(), modified))
        .map_err(|error| format!("{name} cannot be read: {error}"))?;
    if now == before {
        return Ok(());
    }
    Err(format!(
        "{name} was changed by somebody else meanwhile, and what was planned is not true for it any more. Look at it again."
    ))
}
