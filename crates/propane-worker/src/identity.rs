//! Which request this is: the number that it goes by, and its place in a distributed trace.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::HeaderMap;
use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue};

use crate::settings::Observability;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
pub(crate) const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest number that is taken over from a client: it is repeated in an answer and in a log.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Makes numbers that no other request has: from the kernel's randomness once, and from then on by counting.
#[derive(Debug)]
pub(crate) struct Numbers(AtomicU64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// From the kernel. A system without randomness gives numbers that only this worker has once.
    pub(crate) fn from_kernel() -> Self {
        let mut seed = [0; 8];
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        Self::new(u64::from_ne_bytes(seed))
    }

    /// `SplitMix64`: a bijection, so that no two calls give the same.
    fn next(&self) -> u64 {
        let mut number = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }
}

/// What one request is called.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    pub(crate) request: Option<HeaderValue>,
    pub(crate) trace: Option<HeaderValue>,
    pub(crate) parent: Option<HeaderValue>,
}

/// Where what is made up for a request stands in the one piece of memory that it takes.
const REQUEST_DIGITS: Range<usize> = 0..32;
const PARENT: Range<usize> = 32..87;
const TRACE_DIGITS: Range<usize> = 35..67;
const SPAN_DIGITS: Range<usize> = 68..84;
const FLAGS: Range<usize> = 85..87;
const FRAME: &[u8; PARENT.end] =
    b"0000000000000000000000000000000000-00000000000000000000000000000000-0000000000000000-01";

impl Identity {
    /// Reads what the client, or a proxy before it, has called the request, and makes up what it has not.
    pub(crate) fn of(headers: &HeaderMap, wanted: Observability, numbers: &Numbers) -> Self {
        if !wanted.identity_headers && !wanted.trace_headers {
            return Self::default();
        }
        let given = Given::of(headers);
        let mut text = *FRAME;
        let request = given.request_id().filter(|_| wanted.identity_headers);
        if request.is_none() {
            hex(numbers.next(), &mut text[..16]);
            hex(numbers.next(), &mut text[16..32]);
        }
        if wanted.trace_headers {
            given.write_trace(numbers, &mut text);
        }
        let text = Bytes::from_owner(text);
        let made_up = |range| header(text.slice(range));
        Self {
            request: wanted.identity_headers.then(|| request.cloned().unwrap_or_else(|| made_up(REQUEST_DIGITS))),
            trace: wanted.trace_headers.then(|| made_up(TRACE_DIGITS)),
            parent: wanted.trace_headers.then(|| made_up(PARENT)),
        }
    }

    /// Tells the app: what the client did not say, and its own span of the trace.
    pub(crate) fn tell_app(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.request {
            headers.insert(REQUEST_ID, id.clone());
        }
        if let Some(parent) = &self.parent {
            headers.insert(TRACEPARENT, parent.clone());
        }
    }
}

/// What a request says of itself; of each header the first.
#[derive(Default)]
struct Given<'a> {
    request: Option<&'a HeaderValue>,
    correlation: Option<&'a HeaderValue>,
    trace: Option<&'a HeaderValue>,
    parent: Option<&'a HeaderValue>,
}

impl<'a> Given<'a> {
    /// In one pass: to compare the few names of a request takes less than to hash four.
    fn of(headers: &'a HeaderMap) -> Self {
        let mut given = Self::default();
        for (name, value) in headers {
            let place = match name {
                name if name == REQUEST_ID => &mut given.request,
                name if name == CORRELATION_ID => &mut given.correlation,
                name if name == TRACE_ID => &mut given.trace,
                name if name == TRACEPARENT => &mut given.parent,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        given
    }

    fn request_id(&self) -> Option<&'a HeaderValue> {
        [self.request, self.correlation].into_iter().flatten().find(|id| is_plain(id))
    }

    /// A new span of the trace that `traceparent` (W3C Trace Context) or `X-Trace-Id` names, or of a new one.
    fn write_trace(&self, numbers: &Numbers, text: &mut [u8; PARENT.end]) {
        let parent = self.parent.and_then(|value| parse_traceparent(value.as_bytes()));
        if let Some((_, flags)) = parent {
            text[FLAGS].copy_from_slice(&flags);
        }
        let trace = || lower_hex(self.trace?.as_bytes());
        if let Some(id) = parent.map(|(id, _)| id).or_else(trace) {
            text[TRACE_DIGITS].copy_from_slice(&id);
        } else {
            hex(numbers.next(), &mut text[TRACE_DIGITS][..16]);
            hex(numbers.next().max(1), &mut text[TRACE_DIGITS][16..]);
        }
        hex(numbers.next().max(1), &mut text[SPAN_DIGITS]);
    }
}

/// Only what can stand in any log as it is.
fn is_plain(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    !bytes.is_empty() && bytes.len() <= MAX_REQUEST_ID_BYTES && bytes.iter().all(plain)
}

/// The trace id and the flags. Versions after 00 may have more fields, which are not ours to know.
fn parse_traceparent(text: &[u8]) -> Option<([u8; 32], [u8; 2])> {
    let version: [u8; 2] = lower_hex_strict(text.get(..2)?)?;
    let ends_well = if version == *b"00" { text.len() == 55 } else { matches!(text.get(55), None | Some(b'-')) };
    let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
    if version == *b"ff" || !ends_well || !dashes {
        return None;
    }
    let _span: [u8; 16] = lower_hex_strict(text.get(36..52)?).filter(|span| *span != [b'0'; 16])?;
    let id = lower_hex_strict(text.get(3..35)?).filter(|id| *id != [b'0'; 32])?;
    Some((id, lower_hex_strict(text.get(53..55)?)?))
}

fn lower_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    lower_hex_strict(&text.to_ascii_lowercase()).filter(|id| *id != [b'0'; N])
}

fn lower_hex_strict<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digits: [u8; N] = text.try_into().ok()?;
    digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(digits)
}

/// Every byte as two digits.
static DIGITS: [[u8; 2]; 256] = {
    let (digits, mut pairs, mut byte) = (b"0123456789abcdef", [[0; 2]; 256], 0);
    while byte < pairs.len() {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Sixteen digits.
fn hex(number: u64, to: &mut [u8]) {
    for (pair, byte) in to.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair.copy_from_slice(&DIGITS[usize::from(byte)]);
    }
}

fn header(text: Bytes) -> HeaderValue {
    // Cannot fail, because these are digits and dashes.
    HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Observability = crate::settings::Observability {
        endpoints: true,
        health_details: true,
        metrics: true,
        readiness_requires_startup: false,
        readiness_requires_quorum: false,
        identity_headers: true,
        trace_headers: true,
        performance_headers: true,
    };

    fn identity(pairs: &[(&'static str, &'static str)]) -> Identity {
        let headers =
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Identity::of(&headers.collect(), WANTED, &Numbers::new(7))
    }

    fn text(value: Option<HeaderValue>) -> String {
        value.unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_plain_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(text(identity(&[("x-request-id", "a-1")]).request), "a-1");
        assert_eq!(text(identity(&[("x-correlation-id", "c.2")]).request), "c.2");
        for bad in ["", "a b", "a\"b", "a,b", "<x>"] {
            let id = text(identity(&[("x-request-id", bad)]).request);
            assert!(id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
        }
    }

    #[test]
    fn a_trace_goes_on_with_a_span_of_our_own() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let identity = identity(&[("traceparent", given)]);
        assert_eq!(text(identity.trace), "4bf92f3577b34da6a3ce929d0e0e4736");
        let parent = text(identity.parent);
        assert!(parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && parent.ends_with("-00"), "{parent}");
        assert!(parent != given && parent.len() == 55);
    }

    #[test]
    fn what_is_no_trace_begins_a_new_one() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for bad in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00",
        ] {
            assert_ne!(text(identity(&[("traceparent", bad)]).trace), id, "{bad}");
        }
        assert_eq!(text(identity(&[("x-trace-id", "4BF92F3577B34DA6A3CE929D0E0E4736")]).trace), id);
    }
}
