//! A `File` as the engine reads it.

use crate::js;
use backchain::format::bytes::all_zero;
use backchain::{CachedSource, ReadAt};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::JsFuture;
use web_sys::{File, FileReaderSync};

/// Bytes read from a file at once for metadata: each call costs a millisecond or two, up to
/// about this size.
const BLOCK: u64 = 256 << 10;
/// Blocks kept for each file. There may be many files.
const BLOCKS: usize = 24;
/// Bytes read at once when a file is searched for zeros.
const WINDOW: u64 = 4 << 20;
/// Windows read at once when the whole file is searched.
const AHEAD: u64 = 2;
/// What is found out to be zeros or data: one bit each in a [`FileSource::windows`] entry.
const GRAIN: u64 = 64 << 10;
/// Places at which a file is looked at for an estimate, and bytes at each: some 50 ms in all.
const SAMPLES: u64 = 48;
const SAMPLE: u64 = 4 << 10;

/// Reads `file` with a cache, as a source for the engine.
///
/// # Errors
/// When the browser has no `FileReaderSync`: it exists in workers only.
pub fn open(file: File) -> io::Result<Arc<Cached>> {
    Ok(Arc::new(CachedSource::new(
        FileSource::new(file)?,
        BLOCK,
        BLOCKS,
    )))
}

/// A file behind its cache.
pub type Cached = CachedSource<FileSource>;

/// A `File`, read synchronously.
pub struct FileSource {
    file: File,
    reader: FileReaderSync,
    len: u64,
    /// For each window looked at: which of its grains hold anything but zeros.
    windows: RefCell<HashMap<u64, u64>>,
    sampled: Cell<Option<u64>>,
}

impl FileSource {
    /// # Errors
    /// See [`open`].
    pub fn new(file: File) -> io::Result<Self> {
        let len = size_of(&file);
        let reader = FileReaderSync::new().map_err(failed)?;
        Ok(Self {
            file,
            reader,
            len,
            windows: RefCell::default(),
            sampled: Cell::default(),
        })
    }

    /// The grains of the window that starts at `start` that hold data, as bits.
    fn grains(&self, start: u64) -> io::Result<u64> {
        if let Some(&grains) = self.windows.borrow().get(&start) {
            return Ok(grains);
        }
        let len = WINDOW.min(self.len.saturating_sub(start));
        let bytes = self.read(start, len)?.to_vec();
        let grains = grains(&bytes);
        self.windows.borrow_mut().insert(start, grains);
        Ok(grains)
    }

    /// Looks for holes in the whole file beforehand, several reads at a time, which is some
    /// times faster than [`ReadAt::data_at`] doing it bit by bit. Tells `report` how many bytes
    /// were looked at; ends early when that says so.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn survey(&self, report: &dyn Fn(u64) -> bool) -> io::Result<()> {
        let ahead = AHEAD * WINDOW;
        let mut pending = VecDeque::new();
        let mut next = 0;
        loop {
            while next < self.len && pending.len() < 4 {
                if !self.windows.borrow().contains_key(&next) {
                    let end = number(next.saturating_add(ahead).min(self.len));
                    let part = self.file.slice_with_f64_and_f64(number(next), end);
                    let bytes = part.map_err(failed)?.array_buffer();
                    pending.push_back((next, bytes));
                }
                next = next.saturating_add(ahead);
            }
            let Some((start, bytes)) = pending.pop_front() else {
                return Ok(());
            };
            let bytes = JsFuture::from(bytes).await.map_err(failed)?;
            let bytes = js_sys::Uint8Array::new(&bytes).to_vec();
            let window = usize::try_from(WINDOW).unwrap_or(usize::MAX);
            for (window, at) in bytes.chunks(window).zip((start..).step_by(window)) {
                self.windows.borrow_mut().insert(at, grains(window));
            }
            if !report(next.min(self.len)) {
                return Ok(());
            }
        }
    }

    /// Bytes that are not zeros, in units of a grain, once every part of the file was looked at.
    #[must_use]
    pub fn known_data(&self) -> Option<u64> {
        let windows = self.windows.borrow();
        let all = usize::try_from(self.len.div_ceil(WINDOW)).ok()?;
        (windows.len() >= all).then(|| {
            let grains: u64 = windows.values().map(|w| u64::from(w.count_ones())).sum();
            (grains * GRAIN).min(self.len)
        })
    }

    /// An estimate of the same from a few places all over the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sampled_data(&self) -> io::Result<u64> {
        if let Some(data) = self.sampled.get() {
            return Ok(data);
        }
        let mut full = 0;
        for nth in 0..SAMPLES {
            let at = self.len / SAMPLES * nth;
            let len = SAMPLE.min(self.len - at);
            full += u64::from(!all_zero(&self.read(at, len)?.to_vec()));
        }
        let data = if full == SAMPLES {
            self.len
        } else {
            self.len / SAMPLES * full
        };
        self.sampled.set(Some(data));
        Ok(data)
    }

    fn read(&self, offset: u64, len: u64) -> io::Result<js_sys::Uint8Array> {
        let end = offset.saturating_add(len);
        let part = self
            .file
            .slice_with_f64_and_f64(number(offset), number(end))
            .map_err(failed)?;
        let bytes = self.reader.read_as_array_buffer(&part).map_err(failed)?;
        Ok(js_sys::Uint8Array::new(&bytes))
    }
}

impl ReadAt for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = buf.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if buf.is_empty() {
            return Ok(());
        }
        let bytes = self.read(offset, len)?;
        if u64::from(bytes.length()) != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.copy_to(buf);
        Ok(())
    }

    /// A browser does not tell where a file has holes, so they are found by looking for zeros.
    /// Each window is read for this only once.
    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.data_in(offset..self.len)
    }

    fn data_in(&self, within: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let end = within.end.min(self.len);
        let mut at = within.start;
        let mut start = None;
        while at < end {
            let window = at - at % WINDOW;
            let grains = self.grains(window)?;
            let nth = (at - window) / GRAIN;
            let data = grains >> nth & 1 == 1;
            match (start, data) {
                (None, true) => start = Some(at),
                (Some(start), false) => return Ok(Some(start..at)),
                _ => {}
            }
            // A window of zeros is passed in one step.
            at = if grains == 0 {
                window + WINDOW
            } else {
                window + (nth + 1) * GRAIN
            };
        }
        Ok(start.map(|start| start..end))
    }
}

/// Which grains of a window hold data, as bits.
fn grains(window: &[u8]) -> u64 {
    let grain = usize::try_from(GRAIN).unwrap_or(usize::MAX);
    window
        .chunks(grain)
        .zip(0_u32..)
        .filter(|(chunk, _)| !all_zero(chunk))
        .fold(0, |found, (_, nth)| found | 1 << nth)
}

/// Size of a file or blob in bytes.
#[must_use]
pub fn size_of(file: &web_sys::Blob) -> u64 {
    whole(file.size())
}

/// A number of bytes that JavaScript tells.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size is a whole number below 2^53"
)]
pub fn whole(count: f64) -> u64 {
    count as u64
}

/// An offset as JavaScript takes it. Exact up to 2^53, which no file exceeds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
pub fn number(offset: u64) -> f64 {
    offset as f64
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: JsValue) -> io::Error {
    let text = match js::error_name(&error).as_str() {
        "NotReadableError" => {
            "the file was changed, moved or deleted since it was opened; give it to the page again"
                .to_owned()
        }
        "NotFoundError" => "the file is no longer there".to_owned(),
        _ => js::message(&error),
    };
    io::Error::other(text)
}
