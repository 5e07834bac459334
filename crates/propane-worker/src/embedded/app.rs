//! What the embedded worker answers.

use std::convert::Infallible;

use http_body_util::{Either, Empty, Full};
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use tower::{Service, ServiceExt as _};
use tower_http::services::ServeDir;
use tower_http::services::fs::{DefaultServeDirFallback, ServeFileSystemResponseBody};

use super::public::Public;
use crate::request::join;

/// What `--print-routes` prints.
pub(super) const ROUTES: &str = "\
GET,HEAD /healthz
GET,HEAD /readyz
GET,HEAD /livez
GET,HEAD /clusterz
GET,HEAD /metrics
GET,HEAD /*  public/
";

/// The page at `/` while there is no `public/index.html`.
const WELCOME: &str = include_str!("welcome.html");

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

type Files = ServeDir<DefaultServeDirFallback, Public>;
type AppBody = Either<ServeFileSystemResponseBody, Full<Bytes>>;

/// The embedded worker's app.
#[derive(Clone)]
pub(super) struct App {
    /// None where `public/` is missing or not to be served.
    files: Option<Files>,
    /// Whether a missing page at `/` is worth an explanation.
    serve_static: bool,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Files,
    NotFound,
    MethodNotAllowed,
}

fn route(method: &Method, path: &str) -> Route {
    match (method, path) {
        // A redirect that adds the slash to `//name` would lead to the host of that name.
        (&Method::GET | &Method::HEAD, path) if path.starts_with("//") => Route::NotFound,
        (&Method::GET | &Method::HEAD, _) => Route::Files,
        _ => Route::MethodNotAllowed,
    }
}

impl App {
    pub(super) fn new(public: Option<Public>, serve_static: bool) -> Self {
        let files = public.map(|public| {
            let files = ServeDir::with_backend("", public).ignore_multi_range_requests(true);
            files.precompressed_br().precompressed_gzip()
        });
        Self { files, serve_static }
    }

    /// The app as a service for [`Server::serve`](crate::Server::serve).
    pub(super) fn into_service(
        self,
    ) -> impl Service<Request<crate::Body>, Response = Response<AppBody>, Error = Infallible, Future: Send> + Clone + Send
    {
        tower::service_fn(move |request| self.clone().respond(request))
    }

    async fn respond<B>(self, request: Request<B>) -> Result<Response<AppBody>, Infallible> {
        let mut response = match route(request.method(), request.uri().path()) {
            Route::Files => self.file(request).await,
            Route::NotFound => text(StatusCode::NOT_FOUND),
            Route::MethodNotAllowed => method_not_allowed(),
        };
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Ok(response)
    }

    async fn file<B>(self, request: Request<B>) -> Response<AppBody> {
        let at_root = request.uri().path() == "/";
        let response = match self.files {
            Some(files) => ask(files, for_files(request)).await,
            None => text(StatusCode::NOT_FOUND),
        };
        if at_root && self.serve_static && response.status() == StatusCode::NOT_FOUND {
            return full(StatusCode::OK, HTML, WELCOME);
        }
        response
    }
}

/// What `ServeDir` answers, which knows neither parts that are larger than the file, nor parts of nothing: then the whole
/// of it is right (RFC 9110 §14.1.2).
async fn ask(files: Files, request: Request<Empty<Bytes>>) -> Response<AppBody> {
    let without_range = request.headers().get(RANGE).map(|range| {
        let mut whole = request.clone();
        whole.headers_mut().remove(RANGE);
        (whole, range.as_bytes().starts_with(b"bytes=-"))
    });
    let Ok(response) = files.clone().oneshot(request).await;
    let Some((whole, is_suffix)) = without_range else { return present(response) };
    let of_nothing = |range: &HeaderValue| range.as_bytes().ends_with(b"/0");
    let misses_the_point = match response.status() {
        StatusCode::RANGE_NOT_SATISFIABLE => is_suffix,
        StatusCode::PARTIAL_CONTENT => response.headers().get(CONTENT_RANGE).is_some_and(of_nothing),
        _ => false,
    };
    if !misses_the_point {
        return present(response);
    }
    let Ok(response) = files.oneshot(whole).await;
    present(response)
}

/// The request as `ServeDir` can take it.
fn for_files<B>(request: Request<B>) -> Request<Empty<Bytes>> {
    let (mut parts, _) = request.into_parts();
    // Range means something for GET only. If-Range is unknown to `ServeDir`: without Range the client gets the whole file,
    // which is right in every case, while a part of a file that has changed would spoil what it has.
    let range = match parts.headers.remove(RANGE) {
        Some(range) if parts.method == Method::GET && !parts.headers.contains_key(IF_RANGE) => one_range(&range),
        _ => None,
    };
    parts.headers.extend(range.map(|range| (RANGE, range)));
    // To HEAD it would answer without opening what it speaks of. What it sends is left out where the answer is written.
    parts.method = Method::GET;
    // Of each it reads one line only.
    for name in [IF_MATCH, IF_NONE_MATCH] {
        join(&mut parts.headers, &name, b", ");
    }
    // Its redirects repeat the request's host, which is the client's word, not ours.
    if let Some(path) = parts.uri.path_and_query() {
        parts.uri = Uri::from(path.clone());
    }
    Request::from_parts(parts, Empty::new())
}

/// The one part in bytes that is asked for, as `ServeDir` reads it. Several, and what is in other units or not understood,
/// may be ignored (RFC 9110 §14.2).
fn one_range(value: &HeaderValue) -> Option<HeaderValue> {
    let (unit, set) = value.to_str().ok()?.split_once('=')?;
    let mut parts = set.split(',').map(|part| part.trim_matches([' ', '\t'])).filter(|part| !part.is_empty());
    let (only, None) = (parts.next()?, parts.next()) else { return None };
    let (first, last) = only.split_once('-')?;
    let number = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse::<u64>());
    let is_range = match (number(first)?, number(last)?) {
        (Ok(first), Ok(last)) => first <= last,
        (Ok(_), Err(_)) => last.is_empty(),
        (Err(_), Ok(suffix)) => first.is_empty() && suffix > 0,
        (Err(_), Err(_)) => false,
    };
    (unit.eq_ignore_ascii_case("bytes") && is_range).then(|| HeaderValue::try_from(format!("bytes={only}")).ok())?
}

/// `ServeDir`'s response with a text for people, and with a charset.
fn present(mut response: Response<ServeFileSystemResponseBody>) -> Response<AppBody> {
    match response.status() {
        status @ (StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR) => text(status),
        StatusCode::NOT_MODIFIED => {
            // As the answer with the file says (RFC 9110 §15.4.5).
            response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
            response.map(Either::Left)
        }
        _ => with_charset(response.map(Either::Left)),
    }
}

fn with_charset(mut response: Response<AppBody>) -> Response<AppBody> {
    let media = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let with_charset = format!("{media}; charset=utf-8");
    if media.starts_with("text/")
        && !media.contains(';')
        && let Ok(value) = HeaderValue::try_from(with_charset)
    {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response
}

/// A refusal in the contract's words: the status in small letters and a newline.
fn text(status: StatusCode) -> Response<AppBody> {
    let reason = status.canonical_reason().unwrap_or("error").to_lowercase();
    full(status, PLAIN, format!("{reason}\n"))
}

fn method_not_allowed() -> Response<AppBody> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn full(status: StatusCode, media: HeaderValue, body: impl Into<Bytes>) -> Response<AppBody> {
    let mut response = Response::new(Either::Right(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}

#[cfg(test)]
mod tests {
    use hyper::body::Body as _;

    use super::*;

    #[test]
    fn routes_go_by_method_and_path() {
        assert_eq!(route(&Method::GET, "/x"), Route::Files);
        assert_eq!(route(&Method::GET, "//evil.example"), Route::NotFound);
        assert_eq!(route(&Method::DELETE, "/x"), Route::MethodNotAllowed);
    }

    #[test]
    fn one_range_is_asked_for_in_any_form_and_several_or_none_that_is_understood_are_ignored() {
        let asked = |value: &'static str| one_range(&HeaderValue::from_static(value));
        for (value, canonical) in [
            ("bytes=0-1", "bytes=0-1"),
            ("BYTES=5-", "bytes=5-"),
            ("bytes= -2\t,", "bytes=-2"),
            ("bytes=,, 0-18446744073709551615", "bytes=0-18446744073709551615"),
        ] {
            assert_eq!(asked(value), Some(HeaderValue::from_static(canonical)), "{value}");
        }
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=-0",
            "bytes=2-1",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes 0-1",
            "bytes=18446744073709551616-",
            "bytes=0-18446744073709551616",
        ] {
            assert_eq!(asked(value), None, "{value}");
        }
    }

    #[test]
    fn refusals_read_as_the_contract_has_them() {
        let response = text(StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        let Either::Right(body) = response.into_body() else { panic!("a text is held in memory") };
        assert_eq!(body.size_hint().exact(), Some("not found\n".len() as u64));
    }
}
