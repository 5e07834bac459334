//! What the embedded worker answers.

use std::convert::Infallible;

use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode, Uri};
use tower::{Service, ServiceExt as _};
use tower_http::services::ServeDir;
use tower_http::services::fs::{DefaultServeDirFallback, ServeFileSystemResponseBody};

use super::public::Public;

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

    async fn respond<B>(self, request: Request<B>) -> Result<Response<AppBody>, Infallible>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut response = match route(request.method(), request.uri().path()) {
            Route::Files => self.file(request).await,
            Route::NotFound => text(StatusCode::NOT_FOUND),
            Route::MethodNotAllowed => method_not_allowed(),
        };
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Ok(response)
    }

    async fn file<B>(self, request: Request<B>) -> Response<AppBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let at_root = request.uri().path() == "/";
        let response = match self.files {
            Some(files) => {
                let Ok(response) = files.oneshot(for_files(request)).await;
                present(response)
            }
            None => text(StatusCode::NOT_FOUND),
        };
        if at_root && self.serve_static && response.status() == StatusCode::NOT_FOUND {
            return full(StatusCode::OK, HTML, WELCOME);
        }
        response
    }
}

/// The request as `ServeDir` can take it.
fn for_files<B>(mut request: Request<B>) -> Request<B> {
    // Range means something for GET only, and nothing in units that nobody knows (RFC 9110 §14.2). If-Range is unknown to
    // it: without Range the client gets the whole file, which is right in every case, while a part of a file that has
    // changed would spoil what it has.
    let is_in_bytes = |range: &HeaderValue| range.as_bytes().to_ascii_lowercase().starts_with(b"bytes=");
    let understood = request.headers().get(RANGE).is_some_and(is_in_bytes);
    if request.method() != Method::GET || !understood || request.headers().contains_key(IF_RANGE) {
        request.headers_mut().remove(RANGE);
    }
    // Its redirects repeat the request's host, which is the client's word, not ours.
    if let Some(path) = request.uri().path_and_query() {
        *request.uri_mut() = Uri::from(path.clone());
    }
    request
}

/// `ServeDir`'s response with a text for people, and with a charset.
fn present(response: Response<ServeFileSystemResponseBody>) -> Response<AppBody> {
    match response.status() {
        status @ (StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR) => text(status),
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
    use super::*;

    #[test]
    fn routes_go_by_method_and_path() {
        assert_eq!(route(&Method::GET, "/x"), Route::Files);
        assert_eq!(route(&Method::GET, "//evil.example"), Route::NotFound);
        assert_eq!(route(&Method::DELETE, "/x"), Route::MethodNotAllowed);
    }

    #[test]
    fn refusals_read_as_the_contract_has_them() {
        let response = text(StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        let Either::Right(body) = response.into_body() else { panic!("a text is held in memory") };
        assert_eq!(body.size_hint().exact(), Some("not found\n".len() as u64));
    }
}
