//! What the library is measured against: hyper as it comes, with an answer of the same bytes made beforehand. See
//! `cargo xtask throughput`.

use std::convert::Infallible;
use std::error::Error;
use std::net::Ipv4Addr;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// The headers of the library's answer to `/`, in its order, with values of the same length.
const HEADERS: [(&str, &str); 11] = [
    ("server", "Arlen"),
    ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("x-correlation-id", "00000000000000000000000000000000"),
    ("x-request-id", "00000000000000000000000000000000"),
    ("x-trace-id", "00000000000000000000000000000000"),
    ("traceparent", "00-00000000000000000000000000000000-0000000000000000-01"),
    ("x-arlen-parse-ms", "0.000"),
    ("x-arlen-response-write-ms", "0.000"),
    ("x-arlen-total-ms", "0.000"),
    ("x-mojo-total-ms", "0.000"),
    ("content-type", "text/plain; charset=utf-8"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = std::env::var("ARLEN_PORT")?.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let headers: HeaderMap =
        HEADERS.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
    let mut http1 = hyper::server::conn::http1::Builder::new();
    http1.timer(TokioTimer::new()).title_case_headers(true).auto_date_header(false);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let headers = headers.clone();
        let hello = service_fn(move |_: Request<Incoming>| {
            let mut response = Response::new(Full::new(Bytes::from_static(b"hello\n")));
            *response.headers_mut() = headers.clone();
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let connection = http1.serve_connection(TokioIo::new(stream), hello).with_upgrades();
        tokio::spawn(async move {
            // A client that goes away is nothing to report here.
            let _ = connection.await;
        });
    }
}
