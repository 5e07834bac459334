//! What the embedded worker answers, asked over a real socket.

#![allow(clippy::unwrap_used, reason = "a failure of the helpers is a failure of the test")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, UNIX_EPOCH};

use support::{Answer, Client, Launch, Worker, local};
use tempfile::TempDir;

/// An app root whose `public/` has everything that can be asked for, and a secret beside it.
fn app_root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let public = root.path().join("public");
    fs::create_dir_all(public.join("css")).unwrap();
    fs::create_dir_all(public.join(".well-known")).unwrap();
    fs::create_dir_all(public.join("folder/index.html")).unwrap();
    let files = [
        ("index.html", "<p>hello\n"),
        ("css/site.css", "p{}\n"),
        ("data.json", "{}\n"),
        ("digits.txt", "0123456789"),
        ("empty.txt", ""),
        (".env", "SECRET=1\n"),
        (".well-known/security.txt", "Contact: x\n"),
        ("no extension", "plain\n"),
    ];
    for (name, text) in files {
        fs::write(public.join(name), text).unwrap();
    }
    fs::write(root.path().join("secret.txt"), "secret\n").unwrap();
    symlink("../secret.txt", public.join("out.txt")).unwrap();
    symlink("css/site.css", public.join("in.css")).unwrap();
    root
}

fn serve(launch: Launch) -> (Worker, Client) {
    let port = propane_load::free_port();
    let worker = launch.port(port).ready();
    (worker, Client::connect(local(port)))
}

/// One request and what must be true of the answer.
struct Row {
    request: (&'static str, &'static str, &'static [&'static str]),
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: Option<&'static str>,
}

const fn row(
    method: &'static str,
    target: &'static str,
    headers: &'static [&'static str],
    status: u16,
    expected: &'static [(&'static str, &'static str)],
    body: Option<&'static str>,
) -> Row {
    Row { request: (method, target, headers), status, headers: expected, body }
}

const PLAIN: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
const NOT_FOUND: Option<&str> = Some("not found\n");

const ROWS: &[Row] = &[
    row(
        "GET",
        "/",
        &[],
        200,
        &[("content-type", "text/html; charset=utf-8"), ("content-length", "9")],
        Some("<p>hello\n"),
    ),
    row("HEAD", "/", &[], 200, &[("content-type", "text/html; charset=utf-8"), ("content-length", "9")], Some("")),
    row("GET", "/?query=x", &[], 200, &[], Some("<p>hello\n")),
    row("GET", "/css/site.css", &[], 200, &[("content-type", "text/css; charset=utf-8")], Some("p{}\n")),
    row("GET", "/css%2fsite.css", &[], 200, &[], Some("p{}\n")),
    row("GET", "/data.json", &[], 200, &[("content-type", "application/json")], Some("{}\n")),
    row("GET", "/no%20extension", &[], 404, &[PLAIN], NOT_FOUND),
    row("GET", "/in.css", &[], 200, &[], Some("p{}\n")),
    row("GET", "/.well-known/security.txt", &[], 200, &[], Some("Contact: x\n")),
    row("GET", "/css", &[], 307, &[("location", "/css/")], Some("")),
    row("GET", "http://other.example/css?a=b", &[], 307, &[("location", "/css/?a=b")], Some("")),
    row("GET", "/css/", &[], 404, &[PLAIN], NOT_FOUND),
    // Ranges.
    row("GET", "/digits.txt", &["Range: bytes=2-4"], 206, &[("content-range", "bytes 2-4/10")], Some("234")),
    row("GET", "/digits.txt", &["Range: bytes=-3"], 206, &[("content-range", "bytes 7-9/10")], Some("789")),
    row("GET", "/digits.txt", &["Range: bytes=8-"], 206, &[("content-length", "2")], Some("89")),
    row("GET", "/digits.txt", &["Range: lines=2-4"], 200, &[], Some("0123456789")),
    row("GET", "/digits.txt", &["Range: bytes=10-"], 416, &[("content-range", "bytes */10")], Some("")),
    row("GET", "/digits.txt", &["Range: bytes=-11"], 200, &[], Some("0123456789")),
    row("GET", "/digits.txt", &["Range: BYTES= 2-4,"], 206, &[("content-range", "bytes 2-4/10")], Some("234")),
    row("GET", "/digits.txt", &["Range: bytes=4-2"], 200, &[], Some("0123456789")),
    row("GET", "/empty.txt", &["Range: bytes=0-"], 200, &[("content-length", "0")], Some("")),
    row("GET", "/empty.txt", &["Range: bytes=-1"], 200, &[("content-length", "0")], Some("")),
    row("GET", "/digits.txt", &["Range: bytes=0-1,4-5"], 200, &[], Some("0123456789")),
    row("GET", "/digits.txt", &["Range: bytes=0-1", "If-Range: \"other\""], 200, &[], Some("0123456789")),
    row("HEAD", "/folder/", &[], 404, &[("content-length", "10")], Some("")),
    row("HEAD", "/digits.txt", &["Range: bytes=2-4"], 200, &[("content-length", "10")], Some("")),
    // Conditions that need no knowledge of the file.
    row("GET", "/digits.txt", &["If-None-Match: *"], 304, &[], Some("")),
    row("GET", "/digits.txt", &["If-None-Match: \"other\""], 200, &[], Some("0123456789")),
    row("GET", "/digits.txt", &["If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"], 200, &[], Some("0123456789")),
    row("GET", "/digits.txt", &["If-Match: \"other\""], 412, &[], Some("")),
    // Ways out.
    row("GET", "/../secret.txt", &[], 404, &[PLAIN], NOT_FOUND),
    row("GET", "/..%2fsecret.txt", &[], 404, &[], NOT_FOUND),
    row("GET", "/%2e%2e/secret.txt", &[], 404, &[], NOT_FOUND),
    row("GET", "/css/..%2f..%2fsecret.txt", &[], 404, &[], NOT_FOUND),
    row("GET", "/css/%2e%2e%2f%2e%2e%2fsecret.txt", &[], 404, &[], NOT_FOUND),
    row("GET", "/..%5csecret.txt", &[], 404, &[], NOT_FOUND),
    row("GET", "/..%c0%afsecret.txt", &[], 404, &[], NOT_FOUND),
    row("GET", "/%2fetc/passwd", &[], 404, &[], NOT_FOUND),
    row("GET", "//etc/passwd", &[], 404, &[], NOT_FOUND),
    row("GET", "/index.html%00.png", &[], 404, &[], NOT_FOUND),
    row("HEAD", "/index.html%00.png", &[], 404, &[], Some("")),
    row("GET", "/out.txt", &[], 404, &[], NOT_FOUND),
    row("GET", "/.env", &[], 404, &[], NOT_FOUND),
    row("GET", "/%2eenv", &[], 404, &[], NOT_FOUND),
    row("GET", "/index.html/more", &[], 404, &[], NOT_FOUND),
    row("GET", "/missing", &[], 404, &[PLAIN], NOT_FOUND),
    // Health, as far as it is this app's.
    row("POST", "/healthz", &[], 405, &[("allow", "GET, HEAD"), PLAIN], Some("method not allowed\n")),
    row("DELETE", "/index.html", &[], 405, &[("allow", "GET, HEAD")], Some("method not allowed\n")),
    row("OPTIONS", "/missing", &[], 405, &[("allow", "GET, HEAD")], Some("method not allowed\n")),
];

#[test]
fn the_table_of_requests() {
    let root = app_root();
    let (_worker, mut client) = serve(Launch::embedded(root.path()));
    for row in ROWS {
        let (method, target, headers) = row.request;
        let answer = client.ask(method, target, headers);
        let name = format!("{method} {target} {headers:?}");
        assert_eq!(answer.status, row.status, "{name}: {answer:?}");
        for (header, value) in row.headers {
            assert_eq!(answer.header(header), Some(*value), "{name}");
        }
        row.body.inspect(|body| assert_eq!(answer.body, **body, "{name}"));
        assert_common(&answer, &name);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{name}");
    }
}

fn assert_common(answer: &Answer, name: &str) {
    assert_eq!(answer.header("server"), Some("Arlen"), "{name}");
    let types = answer.headers.iter().filter(|(header, _)| header == "content-type").count();
    assert!(types <= 1, "{name} has {types} content types");
}

#[test]
fn what_a_client_has_already_is_not_sent_again() {
    let root = app_root();
    let (_worker, mut client) = serve(Launch::embedded(root.path()));
    let first = client.get("/index.html");
    let (etag, modified) = (first.header("etag").unwrap(), first.header("last-modified").unwrap());
    for condition in [format!("If-None-Match: {etag}"), format!("If-Modified-Since: {modified}")] {
        let again = client.ask("GET", "/index.html", &[&condition]);
        assert_eq!((again.status, again.header("etag")), (304, Some(etag)), "{condition}");
        assert_eq!(again.header("vary"), first.header("vary"), "{condition}");
    }
    fs::write(root.path().join("public/index.html"), "<p>changed\n").unwrap();
    let changed = client.ask("GET", "/index.html", &[&format!("If-None-Match: {etag}")]);
    assert_eq!((changed.status, changed.body.as_str()), (200, "<p>changed\n"));
}

#[test]
fn a_file_older_than_any_date_is_a_file() {
    let root = app_root();
    let time = UNIX_EPOCH - Duration::from_secs(1);
    fs::File::options().append(true).open(root.path().join("public/digits.txt")).unwrap().set_modified(time).unwrap();
    let (_worker, mut client) = serve(Launch::embedded(root.path()));
    for headers in [&[][..], &["If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"], &["If-None-Match: \"x\""]] {
        let answer = client.ask("GET", "/digits.txt", headers);
        assert_eq!((answer.status, answer.body.as_str()), (200, "0123456789"));
        assert_eq!((answer.header("last-modified"), answer.header("etag")), (None, None));
    }
}

#[test]
fn a_file_that_was_compressed_beforehand_is_sent_to_whom_takes_it() {
    let root = app_root();
    for (ending, text) in [("br", "in brotli"), ("gz", "in gzip")] {
        fs::write(root.path().join("public/css/site.css").with_extension(format!("css.{ending}")), text).unwrap();
    }
    let limited = Launch::embedded(root.path()).set("ARLEN_STATIC_ALLOW_EXTENSIONS", "css");
    let (_worker, mut client) = serve(limited);
    for (accept, coding, body) in [
        ("gzip, deflate, br", Some("br"), "in brotli"),
        ("gzip", Some("gzip"), "in gzip"),
        ("br;q=0, gzip;q=0.5", Some("gzip"), "in gzip"),
        ("identity", None, "p{}\n"),
        ("zstd", None, "p{}\n"),
    ] {
        let answer = client.ask("GET", "/css/site.css", &[&format!("Accept-Encoding: {accept}")]);
        assert_eq!((answer.status, answer.header("content-encoding"), answer.body.as_str()), (200, coding, body));
        assert_eq!(answer.header("content-type"), Some("text/css; charset=utf-8"), "{accept}");
        assert_eq!(answer.header("vary"), Some("accept-encoding"), "{accept}");
    }
    let first = client.ask("GET", "/css/site.css", &["Accept-Encoding: br"]);
    let plain = client.get("/css/site.css");
    assert_ne!(first.header("etag"), plain.header("etag"), "two representations");
}

#[test]
fn without_public_there_is_a_page_that_says_so() {
    let root = tempfile::tempdir().unwrap();
    let (_worker, mut client) = serve(Launch::embedded(root.path()));
    let page = client.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("public/") && page.body.contains("workerCommand"), "{}", page.body);
    assert_eq!(client.get("/index.html").status, 404);
    assert_eq!(client.get("/healthz").body, "ok\n");
}

#[test]
fn static_files_can_be_switched_off_and_limited() {
    let root = app_root();
    let (_off, mut client) = serve(Launch::embedded(root.path()).set("ARLEN_SERVE_STATIC", "0"));
    assert_eq!(client.get("/").status, 404);
    assert_eq!(client.get("/css/site.css").status, 404);
    assert_eq!(client.get("/healthz").status, 200);

    let limited = Launch::embedded(root.path()).set("ARLEN_STATIC_ALLOW_EXTENSIONS", "css, .HTML");
    let (_limited, mut client) = serve(limited);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.get("/css/site.css").status, 200);
    assert_eq!(client.get("/data.json").status, 404);
    assert_eq!(client.get("/no%20extension").status, 404);
}

#[test]
fn the_access_log_is_off_unless_asked_for_and_has_no_query() {
    let root = app_root();
    let ask = |launch: Launch| {
        let (worker, mut client) = serve(launch);
        client.ask("GET", "/css/site.css?token=secret", &["Connection: close"]);
        client.rest();
        drop(client);
        worker.terminate();
        worker.end()
    };
    assert_eq!(ask(Launch::embedded(root.path())), (Some(0), String::new()));
    let (code, text) = ask(Launch::embedded(root.path()).set("ARLEN_LOG_FORMAT", "text"));
    assert_eq!((code, text.lines().count()), (Some(0), 1), "{text}");
    assert!(text.starts_with("event=request method=GET path=\"/css/site.css\" status=200 bytes=4 "), "{text}");
    let (_, json) = ask(Launch::embedded(root.path()).set("ARLEN_LOG_FORMAT", "json"));
    assert!(json.starts_with('{') && json.contains("\"path\":\"/css/site.css\""), "{json}");
    assert!(!text.contains("secret") && !json.contains("secret"));
}

#[test]
fn no_client_can_fill_the_log_with_its_mistakes() {
    const ANSWERS_NO_PING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
        \0\0\x08\x06\x01\0\0\0\0nothing!\
        \0\0\x08\x06\0\0\0\0\0question";
    let root = app_root();
    let (worker, mut client) = serve(Launch::embedded(root.path()));
    client.send(ANSWERS_NO_PING);
    let mut frames = std::iter::from_fn(|| client.http2_frame());
    assert!(frames.any(|frame| frame.content == b"question"), "both pings have been read");
    drop(client);
    worker.terminate();
    assert_eq!(worker.end(), (Some(0), String::new()));
}

#[test]
fn one_connection_is_served_with_once() {
    let root = app_root();
    let (worker, mut client) = serve(Launch::embedded(root.path()).word("--once"));
    let answer = client.get("/healthz");
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("ok\n", Some("close")));
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn routes_and_help_are_printed() {
    let root = app_root();
    let output = Launch::embedded(root.path()).word("--port=1").word("--print-routes").output();
    let routes = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(routes.contains("/healthz") && routes.contains("public/"), "{routes}");
    let output = Launch::embedded(root.path()).word("--help").output();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("Usage: propane worker"));
}

/// Runs a launch that must fail, and gives its exit code and message.
fn refusal(launch: Launch) -> (Option<i32>, String) {
    let output = launch.output();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_cannot_be_done_is_said_with_the_right_exit_code() {
    let root = app_root();
    let embedded = || Launch::embedded(root.path());
    let expect = |launch, code, message: &str| {
        let (seen, stderr) = refusal(launch);
        assert_eq!(seen, Some(code), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    };
    expect(embedded().word("--jobs"), 2, "propane worker: Unknown argument: --jobs\n");
    expect(embedded().set("ARLEN_PORT", "http"), 2, "ARLEN_PORT: expected a whole number from 1 to 65535");
    expect(embedded().set("ARLEN_SERVE_STATIC", "2"), 2, "ARLEN_SERVE_STATIC: expected a boolean");
    expect(embedded().set("ARLEN_HOST", "no.such.host.invalid"), 1, "ARLEN_HOST: cannot use");
    expect(embedded().set("ARLEN_HOST", "unix:/tmp/x"), 1, "only the manager binds a UNIX socket");
    let (_holder, address) = support::listener();
    expect(embedded().port(address.port()), 1, &format!("cannot listen on {address}: Address already in use"));
    // What a `main` shows that returns the library's error.
    expect(Launch::app().set("ARLEN_PORT", "0"), 1, "Error: ARLEN_PORT: expected a whole number from 1 to 65535 but");
    let in_use = format!("Error: cannot listen on {address}: Address already in use");
    expect(Launch::app().port(address.port()), 1, &in_use);
    let file = root.path().join("secret.txt");
    expect(Launch::embedded(&file), 1, "Not a directory");
}
