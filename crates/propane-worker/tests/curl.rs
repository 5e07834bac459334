//! A client that others wrote, with the corners of HTTP that it knows: curl.

#![allow(clippy::unwrap_used, reason = "a failure of the helpers is a failure of the test")]

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};

use support::Launch;

/// Whether curl can be had. Where peers are required, it must be.
fn has_curl() -> bool {
    let found = Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(found || std::env::var_os("PROPANE_REQUIRE_PEERS").is_none(), "curl is required and not installed");
    if !found {
        eprintln!("skipped: curl is not installed");
    }
    found
}

/// What curl gets for these words, with this on its standard input. It must be content with the answer.
fn curl(port: u16, target: &str, words: &[&str], input: &[u8]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--write-out", " %{http_code} %{http_version}"]);
    command.args(words).arg(format!("http://127.0.0.1:{port}{target}"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A refusal may come before everything is sent.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_is_content_in_every_corner() {
    if !has_curl() {
        return;
    }
    let port = propane_load::free_port();
    let _worker = Launch::app().port(port).ready();
    let large = vec![b'x'; 1_048_576];
    let too_large = vec![b'x'; 1_048_577];
    let upload = ["--data-binary", "@-"];
    let chunked = ["--data-binary", "@-", "--header", "Transfer-Encoding: chunked"];
    let expecting = ["--data-binary", "@-", "--header", "Expect: 100-continue"];
    let expecting_chunked = [&expecting[..], &chunked[2..]].concat();
    let http2 = ["--http2-prior-knowledge"];
    let http2_upload = ["--http2-prior-knowledge", "--data-binary", "@-"];
    let rows: [(&str, &[&str], &[u8], &str); 16] = [
        ("/", &[], b"", "hello\n 200 1.1"),
        ("/", &["--http1.0"], b"", "hello\n 200 1"),
        ("/", &["--http2"], b"", "hello\n 200 1.1"),
        ("/", &["--http2", "--header", "Connection: close"], b"", "hello\n 200 1.1"),
        ("/", &http2, b"", "hello\n 200 2"),
        ("/missing", &http2, b"", "not found\n 404 2"),
        ("/healthz", &http2, b"", "ok\n 200 2"),
        ("/panic", &http2, b"", "internal server error\n 500 2"),
        ("/collect", &upload, &large, "1048576 bytes\n 200 1.1"),
        ("/collect", &chunked, &large, "1048576 bytes\n 200 1.1"),
        ("/collect", &expecting, &large, "1048576 bytes\n 200 1.1"),
        ("/collect", &expecting_chunked, &large, "1048576 bytes\n 200 1.1"),
        ("/collect", &http2_upload, &large, "1048576 bytes\n 200 2"),
        ("/collect", &expecting, &too_large, "payload too large\n 413 1.1"),
        ("/", &["--header", "Host:"], b"", "bad request\n 400 1.1"),
        ("/", &["--header", "Content-Length: 0, 0"], b"", "bad request\n 400 1.1"),
    ];
    for (target, words, input, expected) in rows {
        assert_eq!(curl(port, target, words, input), expected, "{target} {words:?}");
    }
    let both = curl(port, "/[1-3]", &[], b"");
    assert_eq!(both.matches("404 1.1").count(), 3, "one connection, three requests: {both}");
}
