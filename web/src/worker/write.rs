//! One file being written, in as few and as large writes as can be.

use super::source::{number, size_of};
pub use super::strategy::Strategy;
use crate::js;
use js_sys::{Array, Uint8Array};
use std::collections::BTreeMap;
use wasm_bindgen::JsValue;
use web_sys::{Blob, FileSystemFileHandle};

/// A run of bytes that belong together in the file, not yet written.
struct Run {
    start: u64,
    end: u64,
    parts: Array,
    /// Bytes of `parts` that are in memory rather than in a file.
    held: u64,
}

/// A run is written once it has this many bytes: per write a browser needs the same time for
/// 64 KiB as for 8 MiB.
const LARGE: u64 = 32 << 20;
/// Or once this much of it is in memory.
const HELD: u64 = 16 << 20;
/// A file's data and its tables grow at several places in turn.
const RUNS: usize = 8;
/// Longer zeros are written piece by piece.
const ZEROS: u32 = 8 << 20;

/// Collects writes to one file and makes them.
pub struct Writer {
    handle: FileSystemFileHandle,
    stream: JsValue,
    runs: Vec<Run>,
    /// In a file started from nothing: what was written, as start and end. The rest is holes.
    written: Option<BTreeMap<u64, u64>>,
    zeros: Option<Blob>,
    /// Bytes given to the browser.
    pub flushed: u64,
}

impl Writer {
    /// Opens `handle` for writing.
    ///
    /// # Errors
    /// In words a user can act on.
    pub async fn open(handle: FileSystemFileHandle, strategy: Strategy) -> Result<Self, String> {
        let options = js::options([
            ("keepExistingData", (!strategy.from_nothing()).into()),
            ("mode", "exclusive".into()),
        ]);
        let opened = js::call(&handle, "createWritable", &Array::of1(&options)).await;
        let stream = opened.map_err(|error| explain(&handle.name(), &error))?;
        Ok(Self {
            handle,
            stream,
            runs: Vec::new(),
            written: strategy.from_nothing().then(BTreeMap::new),
            zeros: None,
            flushed: 0,
        })
    }

    /// Bytes from memory.
    pub async fn bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        let len = bytes.len() as u64;
        self.put(at, len, &Uint8Array::from(bytes).into(), len)
            .await
    }

    /// Bytes of another file (or of this one, as it was): they never enter this module's memory.
    pub async fn blob(&mut self, at: u64, blob: &Blob) -> Result<(), String> {
        self.put(at, size_of(blob), blob, 0).await
    }

    /// Zeros. In a file started from nothing, a hole where nothing was written yet.
    pub async fn zero(&mut self, at: u64, len: u64) -> Result<(), String> {
        let mut at = at;
        let end = at.saturating_add(len);
        while at < end {
            let (data, until) = self.next_zero(at, end);
            let mut left = until - at;
            while data && left > 0 {
                let len = left.min(u64::from(ZEROS));
                let part = self.zeros()?.slice_with_f64_and_f64(0.0, number(len));
                let part = part.map_err(|error| js::message(&error))?;
                self.put(until - left, len, &part, 0).await?;
                left -= len;
            }
            at = until;
        }
        Ok(())
    }

    /// Whether zeros have to be written at `at`, and up to where the same holds.
    fn next_zero(&self, at: u64, end: u64) -> (bool, u64) {
        let Some(written) = &self.written else {
            return (true, end);
        };
        if let Some((_, &until)) = written
            .range(..=at)
            .next_back()
            .filter(|&(_, &until)| until > at)
        {
            return (true, until.min(end));
        }
        let next = written
            .range(at..end)
            .next()
            .map_or(end, |(&start, _)| start);
        (false, next)
    }

    fn zeros(&mut self) -> Result<Blob, String> {
        if let Some(zeros) = &self.zeros {
            return Ok(zeros.clone());
        }
        let parts = Array::of1(&Uint8Array::new_with_length(ZEROS));
        let blob = Blob::new_with_u8_array_sequence(&parts).map_err(|e| js::message(&e))?;
        self.zeros = Some(blob.clone());
        Ok(blob)
    }

    async fn put(&mut self, at: u64, len: u64, part: &JsValue, held: u64) -> Result<(), String> {
        if len == 0 {
            return Ok(());
        }
        let end = at.saturating_add(len);
        // What was asked for first is written first wherever both touch the same bytes.
        while let Some(nth) = self
            .runs
            .iter()
            .position(|run| at < run.end && run.start < end)
        {
            self.flush(nth).await?;
        }
        if let Some(nth) = self.runs.iter().position(|run| run.end == at) {
            if let Some(run) = self.runs.get_mut(nth) {
                run.parts.push(part);
                run.end = end;
                run.held += held;
                if run.end - run.start >= LARGE || run.held >= HELD {
                    self.flush(nth).await?;
                }
            }
        } else {
            if self.runs.len() >= RUNS {
                self.flush(0).await?;
            }
            self.runs.push(Run {
                start: at,
                end,
                parts: Array::of1(part),
                held,
            });
        }
        if let Some(written) = &mut self.written {
            note(written, at, end);
        }
        Ok(())
    }

    async fn flush(&mut self, nth: usize) -> Result<(), String> {
        if nth >= self.runs.len() {
            return Ok(());
        }
        let run = self.runs.remove(nth);
        let blob = Blob::new_with_blob_sequence(&run.parts).map_err(|error| js::message(&error))?;
        let write = js::options([
            ("type", "write".into()),
            ("position", number(run.start).into()),
            ("data", blob.into()),
        ]);
        self.command(&write).await?;
        self.flushed = self.flushed.saturating_add(run.end - run.start);
        Ok(())
    }

    async fn flush_all(&mut self) -> Result<(), String> {
        while !self.runs.is_empty() {
            self.flush(0).await?;
        }
        Ok(())
    }

    async fn command(&self, command: &JsValue) -> Result<(), String> {
        js::call(&self.stream, "write", &Array::of1(command))
            .await
            .map(|_| ())
            .map_err(|error| explain(&self.handle.name(), &error))
    }

    /// Makes the file `len` bytes long.
    pub async fn set_len(&mut self, len: u64) -> Result<(), String> {
        self.flush_all().await?;
        if let Some(written) = &mut self.written {
            written.split_off(&len);
            if let Some((_, until)) = written.iter_mut().next_back() {
                *until = (*until).min(len);
            }
        }
        let truncate = js::options([("type", "truncate".into()), ("size", number(len).into())]);
        self.command(&truncate).await
    }

    /// Everything is with the browser; only [`Writer::close`] is left.
    pub async fn finish(&mut self) -> Result<(), String> {
        self.flush_all().await
    }

    /// Puts the new content in place. Returns the file's handle.
    pub async fn close(self) -> Result<FileSystemFileHandle, String> {
        js::call(&self.stream, "close", &Array::new())
            .await
            .map_err(|error| explain(&self.handle.name(), &error))?;
        Ok(self.handle)
    }

    /// Leaves the file as it was.
    pub async fn abort(self) {
        // A stream that failed is aborted already.
        let _ = js::call(&self.stream, "abort", &Array::new()).await;
    }
}

/// Adds a range to those written, joined with what it touches.
fn note(written: &mut BTreeMap<u64, u64>, start: u64, end: u64) {
    let (mut start, mut end) = (start, end);
    if let Some((&before, &until)) = written.range(..=start).next_back()
        && until >= start
    {
        start = before;
        end = end.max(until);
    }
    let inside: Vec<u64> = written
        .range(start..=end)
        .map(|(&start, _)| start)
        .collect();
    for inner in inside {
        if let Some(until) = written.remove(&inner) {
            end = end.max(until);
        }
    }
    written.insert(start, end);
}

/// A browser's error as something to act on.
fn explain(name: &str, error: &JsValue) -> String {
    let what = match js::error_name(error).as_str() {
        "NotAllowedError" => {
            "the page has no permission to write it: run again and allow it".to_owned()
        }
        "NoModificationAllowedError" => {
            "another tab or program is writing it: close that and run again".to_owned()
        }
        "QuotaExceededError" => {
            "there is not enough free space: make room and run again".to_owned()
        }
        "NotFoundError" => "the file is no longer there: give it to the page again".to_owned(),
        "NotReadableError" => {
            "the browser could not read what belongs there, or has no room for it".to_owned()
        }
        _ => js::message(error),
    };
    format!("{name} cannot be written: {what}.")
}

#[cfg(test)]
mod tests {
    use super::note;
    use std::collections::BTreeMap;
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn written_ranges_are_joined() {
        let mut written = BTreeMap::new();
        for (start, end) in [
            (10, 20),
            (30, 40),
            (20, 25),
            (24, 31),
            (0, 5),
            (50, 60),
            (35, 36),
        ] {
            note(&mut written, start, end);
        }
        assert_eq!(
            written.into_iter().collect::<Vec<_>>(),
            [(0, 5), (10, 40), (50, 60)]
        );
    }
}
