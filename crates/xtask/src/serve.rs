//! A small web server for the site, for this machine only.

use std::fs::{self, File};
use std::io::Cursor;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use tiny_http::{Header, Method, Request, Response, Server, StatusCode};

use crate::cmd;

/// The port when none is asked for; the next free one is taken.
const DEFAULT_PORT: u16 = 8080;
/// How many requests are answered at a time.
const THREADS: usize = 4;

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
    server: Arc<Server>,
    port: u16,
}

impl Site {
    /// Starts to serve; port 0 takes any free one.
    pub(crate) fn start(dist: &Path, port: u16) -> Result<Self> {
        if !dist.join("index.html").is_file() {
            bail!("there is no site in dist/; `cargo xtask build web` makes it");
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let server = Server::http(address).map_err(|error| anyhow!("port {port}: {error}"))?;
        let port = server
            .server_addr()
            .to_ip()
            .map_or(port, |bound| bound.port());
        let server = Arc::new(server);
        for _ in 0..THREADS {
            let server = Arc::clone(&server);
            let dist = dist.to_owned();
            thread::spawn(move || {
                while let Ok(request) = server.recv() {
                    // A visitor who went away is no reason to stop.
                    let _ = answer(&dist, request);
                }
            });
        }
        Ok(Self { server, port })
    }

    /// The address to type into a browser.
    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for _ in 0..THREADS {
            self.server.unblock();
        }
    }
}

fn answer(dist: &Path, request: Request) -> std::io::Result<()> {
    if !matches!(request.method(), Method::Get | Method::Head) {
        return request.respond(plain(405, "only GET and HEAD\n"));
    }
    let Some(file) = find(dist, request.url()) else {
        return request.respond(plain(404, "not found\n"));
    };
    let mut response = Response::from_file(File::open(&file)?);
    // A rebuilt site shows at the next reload.
    for (name, value) in [
        ("Content-Type", mime_type(&file)),
        ("Cache-Control", "no-cache"),
        ("X-Content-Type-Options", "nosniff"),
    ] {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    request.respond(response)
}

fn plain(status: u16, text: &str) -> Response<Cursor<Vec<u8>>> {
    Response::from_string(text).with_status_code(StatusCode(status))
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
        let ask = |head: &str| {
            let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
            write!(
                stream,
                "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        let wasm = ask("GET /app.wasm");
        assert!(wasm.starts_with("HTTP/1.1 200"), "{wasm}");
        assert!(
            wasm.contains("Content-Type: application/wasm\r\n"),
            "{wasm}"
        );
        assert!(wasm.ends_with("\0asm"), "{wasm}");
        assert!(ask("GET /nothing").starts_with("HTTP/1.1 404"));
        assert!(ask("POST /").starts_with("HTTP/1.1 405"));
        let head = ask("HEAD /");
        assert!(
            head.starts_with("HTTP/1.1 200") && !head.contains("home"),
            "{head}"
        );
    }
}
