//! Requests that ask for another protocol, of which WebSocket (RFC 6455) is the one that is known here.

use hyper::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Version};

/// What a request asks for, as far as it decides how an answer 101 is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To stay with HTTP.
    None,
    /// Another protocol, in an orderly way.
    Orderly,
    /// WebSocket, but not as its handshake is.
    Broken,
}

impl Wish {
    pub(crate) fn of(request: &Parts) -> Self {
        let headers = &request.headers;
        if request.version != Version::HTTP_11 || !headers.contains_key(UPGRADE) {
            return Self::None;
        }
        let is_websocket = has_token(headers, &UPGRADE, "websocket");
        let is_orderly = has_token(headers, &CONNECTION, "upgrade") && (!is_websocket || is_handshake(request));
        if is_orderly { Self::Orderly } else { Self::Broken }
    }
}

fn is_handshake(request: &Parts) -> bool {
    let version = request.headers.get(SEC_WEBSOCKET_VERSION).map(|version| version.as_bytes().trim_ascii());
    let key = request.headers.get(SEC_WEBSOCKET_KEY).map(|key| key.as_bytes().trim_ascii());
    request.method == Method::GET && version == Some(b"13") && key.is_some_and(is_key)
}

/// Sixteen bytes in base64: 22 digits and two signs that there are no more.
fn is_key(key: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    matches!(key.split_at_checked(22), Some((digits, b"==")) if digits.iter().all(digit))
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let tokens = headers.get_all(name).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.map(<[u8]>::trim_ascii).any(|other| other.eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    const HANDSHAKE: [(&str, &str); 4] = [
        ("upgrade", "WebSocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn wish(method: Method, change: Option<(&str, &str)>) -> Wish {
        let mut request = Request::builder().method(method);
        for (name, value) in HANDSHAKE {
            let value = change.filter(|(changed, _)| *changed == name).map_or(value, |(_, value)| value);
            request = request.header(name, value);
        }
        Wish::of(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_handshake_is_complete_or_broken() {
        assert_eq!(wish(Method::GET, None), Wish::Orderly);
        assert_eq!(wish(Method::POST, None), Wish::Broken);
        for broken in [
            ("connection", "keep-alive"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", ""),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==="),
            ("sec-websocket-key", "dGhl IHNhbXBsZSBub25jZ=="),
        ] {
            assert_eq!(wish(Method::GET, Some(broken)), Wish::Broken, "{broken:?}");
        }
    }

    #[test]
    fn other_protocols_are_not_ours_to_judge() {
        let request = Request::builder().header("upgrade", "h2c").header("connection", "upgrade").body(()).unwrap();
        assert_eq!(Wish::of(&request.into_parts().0), Wish::Orderly);
        let old = Request::builder().version(Version::HTTP_10).header("upgrade", "websocket").body(()).unwrap();
        assert_eq!(Wish::of(&old.into_parts().0), Wish::None);
    }
}
