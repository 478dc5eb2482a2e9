//! A small web server for the site, for this machine only.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use axum::Router;
use axum::body::Body;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, Request, Response, StatusCode};
use axum::response::IntoResponse;
use tokio::runtime;
use tokio::sync::oneshot;

use crate::cmd;

/// The port when none is asked for; the next free one is taken.
const DEFAULT_PORT: u16 = 8080;

/// How to serve.
#[derive(Default)]
pub(crate) struct Options {
    /// This port and no other; by default 8080 or the next free one.
    pub(crate) port: Option<u16>,
    /// End by itself after this time; by default run until interrupted.
    pub(crate) time: Option<Duration>,
}

/// Serves a directory on the loopback interface and prints the address.
pub(crate) fn serve(dist: &Path, options: &Options) -> Result<()> {
    let site = match options.port {
        Some(port) => Site::start(dist, port)?,
        None => (DEFAULT_PORT..DEFAULT_PORT + 100)
            .find_map(|port| Site::start(dist, port).ok())
            .ok_or_else(|| anyhow!("no free port from {DEFAULT_PORT} on"))?,
    };
    cmd::say("serving dist/ on this machine only; Ctrl-C ends it");
    println!("{}", site.address());
    match options.time {
        Some(time) => {
            let start = Instant::now();
            while let Some(left) = time.checked_sub(start.elapsed()) {
                thread::sleep(left.min(Duration::from_secs(1)));
            }
        }
        None => loop {
            thread::park();
        },
    }
    Ok(())
}

/// A directory being served. Serving ends when this is dropped.
pub(crate) struct Site {
    port: u16,
    _stop: oneshot::Sender<()>,
}

impl Site {
    /// Starts to serve; port 0 takes any free one.
    pub(crate) fn start(dist: &Path, port: u16) -> Result<Self> {
        if !dist.join("index.html").is_file() {
            bail!("there is no site in dist/; `cargo xtask build web` makes it");
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("port {port}"))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let dist = dist.to_owned();
        thread::spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                    return;
                };
                let answer = move |request| {
                    let dist = dist.clone();
                    async move { answer(&dist, &request) }
                };
                tokio::select! {
                    _ = axum::serve(listener, Router::new().fallback(answer)) => {}
                    // The sender was dropped.
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { port, _stop: stop })
    }

    /// The address to type into a browser.
    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

fn answer(dist: &Path, request: &Request<Body>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n").into_response();
    }
    let file = find(dist, request.uri().path());
    let packed = file
        .as_ref()
        .filter(|_| takes_brotli(request.headers()))
        .and_then(|file| fs::read(packed(file)).ok());
    let coded = packed.is_some();
    let bytes = packed.or_else(|| fs::read(file.as_ref()?).ok());
    let (Some(bytes), Some(file)) = (bytes, file) else {
        return (StatusCode::NOT_FOUND, "not found\n").into_response();
    };
    let headers = [
        (CONTENT_TYPE, mime_type(&file)),
        // A rebuilt site shows at the next reload.
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (VARY, "accept-encoding"),
    ];
    let mut response = (headers, bytes).into_response();
    if coded {
        let brotli = HeaderValue::from_static("br");
        response.headers_mut().insert(CONTENT_ENCODING, brotli);
    }
    response
}

/// Where the build puts the compressed form of a file.
fn packed(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".br");
    name.into()
}

fn takes_brotli(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok());
    accepted.is_some_and(|list| list.split(',').any(|coding| coding.trim() == "br"))
}

/// The file that a URL names, if there is one inside of `dist`.
fn find(dist: &Path, url: &str) -> Option<PathBuf> {
    let path = url.split(['?', '#']).next()?;
    let path = percent_decoded(path)?;
    let relative = Path::new(path.trim_start_matches('/'));
    if !relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return None;
    }
    let mut file = dist.join(relative);
    if file.is_dir() {
        file.push("index.html");
    }
    // A symbolic link must not lead out either.
    let file = fs::canonicalize(file).ok()?;
    (file.starts_with(fs::canonicalize(dist).ok()?) && file.is_file()).then_some(file)
}

/// Undoes `%20` and the like. `None` for broken escapes, NUL, and what is not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    if bytes.contains(&0) {
        return None;
    }
    String::from_utf8(bytes).ok()
}

fn mime_type(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("txt") => "text/plain; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("json" | "map") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn site() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let dist = dir.path().join("dist");
        fs::create_dir_all(dist.join("sub dir")).unwrap();
        fs::write(dist.join("index.html"), "<p>home</p>").unwrap();
        fs::write(dist.join("app.wasm"), b"\0asm").unwrap();
        fs::write(dist.join("sub dir/a.js"), "1").unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("../secret", dist.join("link")).unwrap();
        (dir, dist)
    }

    /// Whatever the URL, only files inside the directory are found.
    #[test]
    fn urls_do_not_lead_out_of_the_directory() {
        let (_dir, dist) = site();
        for (url, file) in [
            ("/", "index.html"),
            ("/?demo#x", "index.html"),
            ("/app.wasm?v=1", "app.wasm"),
            ("/sub%20dir/a.js", "sub dir/a.js"),
        ] {
            assert_eq!(
                find(&dist, url),
                Some(fs::canonicalize(dist.join(file)).unwrap()),
                "{url}"
            );
        }
        for url in [
            "/../secret",
            "/%2e%2e/secret",
            "/sub%20dir/../../secret",
            "/link",
            "/absent",
            "/%",
            "/%zz",
            "/index.html%00",
            "/sub%20dir",
            "/%2Fetc/passwd",
            "//etc/passwd",
        ] {
            assert_eq!(find(&dist, url), None, "{url}");
        }
    }

    /// A browser compiles wasm while it streams only if the type says application/wasm.
    #[test]
    fn the_server_answers_with_types_and_ends_on_drop() {
        let (_dir, dist) = site();
        let site = Site::start(&dist, 0).unwrap();
        let ask_with = |head: &str, headers: &str| {
            let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
            write!(
                stream,
                "{head} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n"
            )
            .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        let ask = |head: &str| ask_with(head, "");
        let wasm = ask("GET /app.wasm");
        assert!(wasm.starts_with("HTTP/1.1 200"), "{wasm}");
        assert!(
            wasm.contains("content-type: application/wasm\r\n"),
            "{wasm}"
        );
        assert!(wasm.ends_with("\0asm"), "{wasm}");
        // The compressed form is for those who take it.
        fs::write(dist.join("app.wasm.br"), "packed").unwrap();
        assert!(ask("GET /app.wasm").ends_with("\0asm"));
        let packed = ask_with("GET /app.wasm", "Accept-Encoding: gzip, deflate, br\r\n");
        assert!(packed.contains("content-encoding: br\r\n"), "{packed}");
        assert!(
            packed.contains("content-type: application/wasm\r\n") && packed.ends_with("packed")
        );
        assert!(ask("GET /nothing").starts_with("HTTP/1.1 404"));
        assert!(ask("POST /").starts_with("HTTP/1.1 405"));
        let head = ask("HEAD /");
        assert!(
            head.starts_with("HTTP/1.1 200") && !head.contains("home"),
            "{head}"
        );
    }
}
