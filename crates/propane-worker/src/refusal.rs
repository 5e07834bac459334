//! The answers that this worker gives in an app's place, as Arlen's workers word them.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::guard::Fault;

const BACKPRESSURE_REASON: &str = "X-Arlen-Backpressure-Reason";

/// The four headers that say how long an answer took, in milliseconds.
pub(crate) const TIMING_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("x-arlen-parse-ms"),
    HeaderName::from_static("x-arlen-response-write-ms"),
    HeaderName::from_static("x-arlen-total-ms"),
    HeaderName::from_static("x-mojo-total-ms"),
];

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    BadRequest,
    RequestTimeout,
    PayloadTooLarge,
    HeadTooLarge,
    InvalidUpgrade,
    Internal,
    HttpSessionLimit,
    HttpWorkerQueueFull,
    WebSocketSessionLimit,
}

impl Refusal {
    /// All of them, for those who count.
    pub(crate) const ALL: [Self; 9] = [
        Self::BadRequest,
        Self::RequestTimeout,
        Self::PayloadTooLarge,
        Self::HeadTooLarge,
        Self::InvalidUpgrade,
        Self::Internal,
        Self::HttpSessionLimit,
        Self::HttpWorkerQueueFull,
        Self::WebSocketSessionLimit,
    ];

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::InvalidUpgrade => StatusCode::BAD_REQUEST,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::HttpSessionLimit | Self::HttpWorkerQueueFull | Self::WebSocketSessionLimit => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn body(self) -> &'static str {
        match self {
            Self::BadRequest => "bad request\n",
            Self::RequestTimeout => "request timeout\n",
            Self::PayloadTooLarge => "payload too large\n",
            Self::HeadTooLarge => "request headers too large\n",
            Self::InvalidUpgrade => "invalid websocket upgrade\n",
            Self::Internal => "internal server error\n",
            Self::HttpSessionLimit | Self::HttpWorkerQueueFull | Self::WebSocketSessionLimit => "server busy\n",
        }
    }

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::RequestTimeout => "request_timeout",
            Self::PayloadTooLarge => "payload_too_large",
            Self::HeadTooLarge => "request_headers_too_large",
            Self::InvalidUpgrade => "invalid_websocket_upgrade",
            Self::Internal => "internal_server_error",
            Self::HttpSessionLimit => "http_session_limit",
            Self::HttpWorkerQueueFull => "http_worker_queue_full",
            Self::WebSocketSessionLimit => "websocket_session_limit",
        }
    }

    fn is_backpressure(self) -> bool {
        matches!(self, Self::HttpSessionLimit | Self::HttpWorkerQueueFull | Self::WebSocketSessionLimit)
    }

    /// Those two come before anything is timed.
    fn is_timed(self) -> bool {
        !matches!(self, Self::HttpSessionLimit | Self::HttpWorkerQueueFull)
    }

    /// The header lines in Arlen's order: by name.
    fn headers(self, timings: Option<Timings>) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("Connection", "close".to_owned()),
            ("Content-Length", self.body().len().to_string()),
            ("Content-Type", "text/plain; charset=utf-8".to_owned()),
        ];
        if self.is_backpressure() {
            headers.push(("Retry-After", "1".to_owned()));
        }
        headers.push(("Server", "Arlen".to_owned()));
        if self.is_backpressure() {
            headers.push((BACKPRESSURE_REASON, self.name().to_owned()));
        }
        if let Some(timings) = timings.filter(|_| self.is_timed()) {
            let names = ["X-Arlen-Parse-Ms", "X-Arlen-Response-Write-Ms", "X-Arlen-Total-Ms", "X-Mojo-Total-Ms"];
            let values = timings.values().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            headers.extend(names.into_iter().zip(values));
        }
        headers
    }

    /// The whole answer as it goes over an HTTP/1 connection.
    pub(crate) fn to_bytes(self, timings: Option<Timings>) -> Vec<u8> {
        let status = self.status();
        let mut text = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
        for (name, value) in self.headers(timings) {
            text.extend([name, ": ", &value, "\r\n"]);
        }
        text.extend(["\r\n", self.body()]);
        text.into_bytes()
    }

    /// The same as a response, which over HTTP/2 says nothing of the connection.
    pub(crate) fn to_response(self, timings: Option<Timings>, multiplexed: bool) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body()));
        *response.status_mut() = self.status();
        for (name, value) in self.headers(timings) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().append(name, value);
            }
        }
        if multiplexed {
            response.headers_mut().remove(CONNECTION);
        }
        response
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed => Self::BadRequest,
            Fault::HeadTooLarge => Self::HeadTooLarge,
        }
    }
}

/// The times below a millisecond, which is nearly all of them: what is there already takes no memory.
static BELOW_ONE: &str = {
    const DIGITS: &[u8; 10] = b"0123456789";
    const TEXTS: [[u8; 5]; 1000] = {
        let (mut texts, mut micros) = ([*b"0.000"; 1000], 0);
        while micros < texts.len() {
            texts[micros] = [b'0', b'.', DIGITS[micros / 100], DIGITS[micros / 10 % 10], DIGITS[micros % 10]];
            micros += 1;
        }
        texts
    };
    match std::str::from_utf8(TEXTS.as_flattened()) {
        Ok(text) => text,
        Err(_) => panic!("digits and points"),
    }
};

/// How long a request has taken so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timings {
    /// From the first byte of the head to its last.
    pub(crate) parse: Duration,
    /// From the first byte of the head to the answer.
    pub(crate) total: Duration,
}

impl Timings {
    /// The values of [`TIMING_HEADERS`]. How long writing takes is not known before it is done: always zero, as Arlen's.
    pub(crate) fn values(self) -> [HeaderValue; 4] {
        let total = millis(self.total);
        [millis(self.parse), HeaderValue::from_static("0.000"), total.clone(), total]
    }
}

/// Milliseconds with three places.
fn millis(time: Duration) -> HeaderValue {
    let at = usize::try_from(time.as_micros()).unwrap_or(usize::MAX).saturating_mul(5);
    if let Some(text) = BELOW_ONE.get(at..at.saturating_add(5)) {
        return HeaderValue::from_static(text);
    }
    // From the last digit to the first: the longest time has twenty digits, and there is a point among them.
    let (mut text, mut at, mut left) = ([b'0'; 24], 24, u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    while left > 0 || at > 19 {
        if at == 21 {
            at -= 1;
            text[at] = b'.';
        }
        at -= 1;
        text[at] += (left % 10) as u8;
        left /= 10;
    }
    // Cannot fail, because these are digits and a point.
    HeaderValue::from_bytes(&text[at..]).unwrap_or(HeaderValue::from_static("0.000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_limit_is_arlens_answer_to_the_byte() {
        let expected = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 12\r\n\
             Content-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\nServer: Arlen\r\n\
             X-Arlen-Backpressure-Reason: http_session_limit\r\n\r\nserver busy\n";
        let timings = Some(Timings::default());
        assert_eq!(String::from_utf8(Refusal::HttpSessionLimit.to_bytes(timings)).unwrap(), expected);
        let queue_full = String::from_utf8(Refusal::HttpWorkerQueueFull.to_bytes(timings)).unwrap();
        assert_eq!(queue_full, expected.replace("http_session_limit", "http_worker_queue_full"));
    }

    #[test]
    fn the_others_say_how_long_they_took() {
        let timings = Timings { parse: Duration::from_micros(1500), total: Duration::from_micros(12_034) };
        let answer = String::from_utf8(Refusal::HeadTooLarge.to_bytes(Some(timings))).unwrap();
        assert_eq!(
            answer,
            "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 26\r\n\
             Content-Type: text/plain; charset=utf-8\r\nServer: Arlen\r\nX-Arlen-Parse-Ms: 1.500\r\n\
             X-Arlen-Response-Write-Ms: 0.000\r\nX-Arlen-Total-Ms: 12.034\r\nX-Mojo-Total-Ms: 12.034\r\n\r\n\
             request headers too large\n"
        );
        let quiet = String::from_utf8(Refusal::BadRequest.to_bytes(None)).unwrap();
        assert!(quiet.ends_with("Server: Arlen\r\n\r\nbad request\n"), "{quiet}");
    }

    #[test]
    fn times_have_three_places() {
        let rows = [(0, "0.000"), (7, "0.007"), (999, "0.999"), (1000, "1.000"), (60_012_345, "60012.345")];
        for (micros, text) in rows {
            assert_eq!(millis(Duration::from_micros(micros)), text);
        }
        assert_eq!(millis(Duration::MAX), "18446744073709551.615");
    }

    #[test]
    fn every_answer_says_its_length_right() {
        for refusal in Refusal::ALL {
            let answer = String::from_utf8(refusal.to_bytes(None)).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
            let response = refusal.to_response(None, true);
            assert_eq!((response.status(), response.headers().get(CONNECTION)), (refusal.status(), None));
        }
    }
}
