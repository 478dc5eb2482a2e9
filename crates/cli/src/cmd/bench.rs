//! `bench`: a simple benchmark of one image, with requests of one size in a row.

use crate::failure::{Failure, Outcome, code};
use crate::open::{self, Input};
use crate::output;
use crate::output::size::{self, SizeError};
use backchain::chain::Reader;
use backchain::format::bytes::to_usize;
use backchain::{Chain, Tree};
use clap::Args;
use std::io::Write;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Run a simple benchmark on an image
///
/// Requests go to the image in turn, several at a time. Writing is possible to raw images only.
#[derive(Args)]
pub(crate) struct Options {
    /// Number of requests
    #[arg(short, long, value_name = "COUNT", allow_hyphen_values = true)]
    count: Option<String>,
    /// Requests at a time
    #[arg(short, long, value_name = "DEPTH", allow_hyphen_values = true)]
    depth: Option<String>,
    /// Where the first request starts
    #[arg(short, long, value_name = "OFFSET", allow_hyphen_values = true)]
    offset: Option<String>,
    /// Bytes of a request
    #[arg(
        short = 's',
        long,
        value_name = "BUFFER_SIZE",
        allow_hyphen_values = true
    )]
    buffer_size: Option<String>,
    /// Bytes from the start of one request to that of the next
    #[arg(
        short = 'S',
        long,
        value_name = "STEP_SIZE",
        allow_hyphen_values = true
    )]
    step_size: Option<String>,
    /// Write instead of reading
    #[arg(short, long)]
    write: bool,
    /// The byte that is written
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    pattern: Option<String>,
    /// Make everything durable after so many requests
    #[arg(long, value_name = "INTERVAL", allow_hyphen_values = true)]
    flush_interval: Option<String>,
    /// Do not wait for the requests before a flush
    #[arg(long)]
    no_drain: bool,
    /// How requests reach the disk: threads, native or io_uring; always threads here
    #[arg(short = 'i', long, value_name = "AIO")]
    aio: Option<String>,
    /// The same as -i native
    #[arg(short, long)]
    native: bool,
    /// Cache mode
    #[arg(short = 't', long, value_name = "CACHE")]
    cache: Option<String>,
    /// Accepted, without effect
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    input: Input,
    /// The image
    filename: String,
}

/// What is done.
struct Work {
    count: u64,
    depth: u64,
    offset: u64,
    bytes: u64,
    step: u64,
    pattern: u8,
    flush: u64,
}

impl Work {
    /// Where request `number` starts on a disk of `size` bytes: the first one where it was asked
    /// for, later ones from the start again when they come to the end.
    fn at(&self, number: u64, size: u64) -> Option<u64> {
        let at = number.checked_mul(self.step)?.checked_add(self.offset)?;
        if number == 0 {
            Some(at)
        } else {
            at.checked_rem(size)
        }
    }
}

const INT: RangeInclusive<u64> = 1..=0x7fff_ffff;

fn number(
    what: &str,
    text: Option<&str>,
    default: u64,
    range: RangeInclusive<u64>,
) -> Result<u64, Failure> {
    let Some(text) = text else { return Ok(default) };
    let outside = || {
        Failure::new(format_args!(
            "Invalid {what} specified. Must be between {} and {}.",
            range.start(),
            range.end()
        ))
    };
    match size::parse(text) {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(_) | Err(SizeError::TooLarge) => Err(outside()),
        Err(SizeError::Invalid) => Err(Failure::new(format_args!(
            "Invalid {what} specified: '{text}'."
        ))),
    }
}

pub(crate) fn run(options: &Options) -> Outcome {
    let any = 0..=*INT.end();
    let text = |option: &'static str| match option {
        "count" => options.count.as_deref(),
        "depth" => options.depth.as_deref(),
        "offset" => options.offset.as_deref(),
        "bytes" => options.buffer_size.as_deref(),
        "step" => options.step_size.as_deref(),
        "pattern" => options.pattern.as_deref(),
        _ => options.flush_interval.as_deref(),
    };
    let bytes = number("buffer size", text("bytes"), 4096, INT)?;
    let step = number("step size", text("step"), 0, any.clone())?;
    let pattern = number("pattern byte", text("pattern"), 0, 0..=255)?;
    let work = Work {
        count: number("request count", text("count"), 75000, INT)?,
        depth: number("queue depth", text("depth"), 64, INT)?,
        offset: number("offset", text("offset"), 0, 0..=u64::MAX >> 1)?,
        bytes,
        step: if step == 0 { bytes } else { step },
        pattern: u8::try_from(pattern).unwrap_or(0),
        flush: number("flush interval", text("flush"), 0, any)?,
    };
    check(options, &work)?;

    let mut tree = Tree::new();
    let gate = options.input.gate()?;
    let name = &options.filename;
    if options.write && options.input.sharing.force_share {
        return Err(Failure::open(
            name,
            "force-share=on can only be used with read-only images",
        ));
    }
    let is_native = options.native || options.aio.as_deref() == Some("native");
    let is_direct = matches!(
        options.cache.as_deref(),
        Some("none" | "off" | "directsync")
    );
    if is_native && !is_direct {
        return Err(Failure::open(
            name,
            "aio=native was specified, but it requires cache.direct=on, which was not specified.",
        ));
    }
    let chain = options.input.chain(&mut tree, &gate, name)?;
    let target = match options.write {
        true => Some(writable(&chain, &gate, options)?),
        false => None,
    };
    let mut out = output::stdout();
    writeln!(
        out,
        "Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})",
        work.count,
        if options.write { "write" } else { "read" },
        work.bytes,
        work.depth,
        work.offset,
        work.step
    )?;
    if work.flush > 0 {
        writeln!(out, "Sending flush every {} requests", work.flush)?;
    }
    let start = Instant::now();
    let done = go(&work, &chain, target.as_ref(), options.no_drain);
    if !done {
        let failed = Failure::new("Failed request: Input/output error");
        out.flush()?;
        return Err(failed);
    }
    writeln!(
        out,
        "Run completed in {:.3} seconds.",
        start.elapsed().as_secs_f64()
    )?;
    out.flush()?;
    Ok(code::OK)
}

fn check(options: &Options, work: &Work) -> Result<(), Failure> {
    if let Some(aio) = options.aio.as_deref()
        && !matches!(aio, "threads" | "native" | "io_uring")
    {
        return Err(Failure::new(format_args!("Invalid aio option: {aio}")));
    }
    if let Some(mode) = options.cache.as_deref()
        && open::cache_mode(mode).is_none()
    {
        return Err(Failure::new("Invalid cache mode"));
    }
    if !options.write && work.flush > 0 {
        return Err(Failure::new(
            "--flush-interval is only available in write tests",
        ));
    }
    if work.flush > 0 && work.flush < work.depth {
        return Err(Failure::new("Flush interval can't be smaller than depth"));
    }
    Ok(())
}

/// The file of a raw image, open for writing and locked.
struct Writable {
    file: std::fs::File,
    /// Where the disk starts in it, and where it ends.
    offset: u64,
    size: u64,
}

fn writable(
    chain: &Chain,
    gate: &backchain_native::FsGate,
    options: &Options,
) -> Result<Writable, Failure> {
    use backchain::image::Image;
    let node = chain.top();
    let Ok(Image::Raw { size, offset }) = node.image() else {
        return Err(
            Failure::new("only raw images can be written to in a benchmark")
                .with_code(code::REFUSED),
        );
    };
    gate.release();
    let name = &options.filename;
    let failed = |error: std::io::Error| Failure::open(name, crate::failure::plain(&error));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .read(true)
        .open(&node.name)
        .map_err(failed)?;
    let locks = backchain_native::Locks::take(&file, backchain_native::Permissions::WRITE);
    locks.map_err(|conflict| {
        Failure::open(
            name,
            format_args!("{conflict}\nIs another process using the image [{name}]?"),
        )
    })?;
    Ok(Writable {
        file,
        offset: *offset,
        size: *size,
    })
}

/// Sends all requests; false when one failed.
fn go(work: &Work, chain: &Chain, target: Option<&Writable>, no_drain: bool) -> bool {
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    // Held for reading by requests, for writing by a flush that waits for them.
    let drain = std::sync::RwLock::new(());
    let flushes = Mutex::new(());
    let size = target.map_or(chain.virtual_size(), |target| target.size);
    let fit = (MAX_BUFFERS / work.bytes).max(1);
    let threads = work.depth.min(work.count).min(MAX_THREADS).min(fit);
    let serve = || {
        let mut buffer = vec![work.pattern; to_usize(work.bytes)];
        let mut reader = Reader::new(chain.clone());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= work.count || failed.load(Ordering::Relaxed) {
                return;
            }
            let at = work.at(number, size);
            let inside = at.filter(|at| at.checked_add(work.bytes).is_some_and(|end| end <= size));
            let done = inside.is_some_and(|at| {
                let _requests = (!no_drain).then(|| drain.read());
                match target {
                    Some(target) => {
                        let at = target.offset.saturating_add(at);
                        target.file.write_all_at(&buffer, at).is_ok()
                    }
                    None => reader.read_at(at, &mut buffer).is_ok(),
                }
            });
            if !done {
                failed.store(true, Ordering::Relaxed);
            }
            if let Some(target) = target
                && work.flush > 0
                && (number + 1).is_multiple_of(work.flush)
            {
                let _one = flushes.lock();
                let _all = (!no_drain).then(|| drain.write());
                if target.file.sync_data().is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(serve);
        }
    });
    !failed.load(Ordering::Relaxed)
}

/// Threads at most, whatever the depth: more requests at a time only wait.
const MAX_THREADS: u64 = 64;
/// Bytes of all buffers together, but for a single larger one.
const MAX_BUFFERS: u64 = 256 << 20;
