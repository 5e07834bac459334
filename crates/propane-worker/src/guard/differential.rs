//! What the guard passes on, hyper reads as it was meant: the same requests with the same bodies, and none that could be
//! read in two ways.
//!
//! Three judge a stream: the guard, hyper behind it, and a reader written here, which is as plain and as strict as it can be
//! and shares nothing with either. The tests of the guard and a fuzz target drive it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri, Version};

use crate::guard::{Guard, HeadLimits, Place};

/// A request as somebody has understood it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Understood {
    method: String,
    target: String,
    /// Names in lower case.
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    /// Its body has arrived to its end.
    whole: bool,
    /// The connection may end behind it.
    may_be_last: bool,
}

/// Offers `stream` in pieces that end at `cuts`, as a connection does, and gives how many requests have passed.
///
/// # Panics
/// If what has passed is read differently by hyper, or in two ways by anybody.
pub(crate) fn check(stream: &[u8], cuts: &[usize], limits: HeadLimits) -> usize {
    let mut guard = Guard::new(limits);
    let (mut passed, mut heads, mut held) = (Vec::new(), 0, Vec::new());
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        held.extend_from_slice(&stream[from..to]);
        from = to;
        loop {
            let admitted = guard.admit(&mut held);
            heads += admitted.heads;
            passed.push(held.drain(..admitted.bytes).collect::<Vec<u8>>());
            if guard.place() != Place::Undecided {
                break;
            }
            guard.decide(false);
        }
        if guard.place() == Place::Raw {
            // Of HTTP/2, nothing may have passed as HTTP/1.
            assert_eq!(heads, 0);
            return 0;
        }
    }
    let read = read_strictly(&passed.concat()).unwrap_or_else(|fault| panic!("{fault} has passed: {}", show(&passed)));
    assert_eq!(read.len() as u64, heads, "heads that the guard has counted in {}", show(&passed));
    let by_hyper = read_with_hyper(&passed);
    // hyper serves nothing behind a request that it takes for the last one.
    let most =
        read.iter().position(|request| request.may_be_last).map_or(read.len(), |last| by_hyper.len().max(last + 1));
    let expected = read.get(..most).unwrap_or(&read);
    assert_eq!(by_hyper, expected, "hyper (left) and the plain reader (right) of {}", show(&passed));
    read.len()
}

fn show(pieces: &[Vec<u8>]) -> String {
    let pieces: Vec<String> = pieces.iter().map(|piece| format!("\"{}\"", piece.escape_ascii())).collect();
    pieces.join(" ")
}

/// The requests at the front of `bytes`, the last one perhaps without the end of its body.
fn read_strictly(bytes: &[u8]) -> Result<Vec<Understood>, &'static str> {
    let (mut rest, mut requests) = (bytes, Vec::new());
    loop {
        while let Some(behind) = rest.strip_prefix(b"\r\n") {
            rest = behind;
        }
        if rest.is_empty() {
            return Ok(requests);
        }
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").ok_or("half a head")?;
        let (mut request, framing) = read_head(&rest[..end])?;
        let body = read_body(&rest[end + 4..], &framing)?;
        rest = body.rest.unwrap_or_default();
        (request.body, request.whole) = (body.content, body.rest.is_some());
        requests.push(request);
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

fn read_head(head: &[u8]) -> Result<(Understood, Framing), &'static str> {
    let lines: Vec<&[u8]> = lines(head)?;
    let (first, fields) = lines.split_first().ok_or("no request line")?;
    let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return Err("a request line that is not three words") };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) || method == b"CONNECT" {
        return Err("a method that is none");
    }
    if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err("a target that is none");
    }
    let is_current = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err("a version that is none"),
    };
    let fields = fields.iter().map(|line| read_field(line)).collect::<Result<Vec<_>, _>>()?;
    let all = |name: &str| -> Vec<&[u8]> {
        fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_slice()).collect()
    };
    let hosts = all("host").len();
    if hosts > 1 || is_current && hosts == 0 {
        return Err("not one host");
    }
    let framing = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Framing::Length(0),
        ([length], []) if length.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
            Framing::Length(length.ok_or("a length that is none")?)
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && is_current => Framing::Chunked,
        _ => return Err("a body that can be read in two ways"),
    };
    let request = Understood {
        method: String::from_utf8_lossy(method).into_owned(),
        // As hyper writes it, which leaves out a fragment.
        target: Uri::try_from(target).map_err(|_| "a target that is none")?.to_string(),
        may_be_last: !is_current || all("connection").into_iter().any(says_close),
        fields: sorted(fields),
        ..Understood::default()
    };
    Ok((request, framing))
}

fn says_close(connection: &[u8]) -> bool {
    connection.to_ascii_lowercase().windows(5).any(|five| five == b"close")
}

/// hyper gives fields of the same name together.
fn sorted(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

/// Lines between CRLF, in which there is no other CR or LF.
fn lines(bytes: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let (mut lines, mut from) = (Vec::new(), 0);
    while let Some(at) = bytes[from..].windows(2).position(|two| two == b"\r\n") {
        lines.push(&bytes[from..from + at]);
        from += at + 2;
    }
    lines.push(&bytes[from..]);
    let is_plain = |line: &&[u8]| !line.contains(&b'\r') && !line.contains(&b'\n');
    if lines.iter().all(is_plain) { Ok(lines) } else { Err("a bare CR or LF") }
}

fn read_field(line: &[u8]) -> Result<(String, Vec<u8>), &'static str> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or("a field without a colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err("a field's name that is none");
    }
    if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
        return Err("a control character in a field");
    }
    let is_blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value[start..end].to_vec()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

struct ReadBody<'a> {
    content: Vec<u8>,
    /// What follows it; none where it has not ended.
    rest: Option<&'a [u8]>,
}

fn read_body<'a>(bytes: &'a [u8], framing: &Framing) -> Result<ReadBody<'a>, &'static str> {
    match framing {
        Framing::Length(length) => {
            let split = usize::try_from(*length).ok().and_then(|length| bytes.split_at_checked(length));
            let (content, rest) = split.map_or((bytes, None), |(content, rest)| (content, Some(rest)));
            Ok(ReadBody { content: content.to_vec(), rest })
        }
        Framing::Chunked => read_chunks(bytes),
    }
}

fn read_chunks(bytes: &[u8]) -> Result<ReadBody<'_>, &'static str> {
    let (mut rest, mut content) = (bytes, Vec::new());
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return Ok(ReadBody { content, rest: None });
        };
        let line = &rest[..end];
        rest = &rest[end + 2..];
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        if digits.is_empty()
            || !digits.iter().all(u8::is_ascii_hexdigit)
            || line.contains(&b'\r')
            || line.contains(&b'\n')
        {
            return Err("a chunk size that is none");
        }
        let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let size = usize::try_from(size.ok_or("a chunk size beyond all sense")?).unwrap_or(usize::MAX);
        if size == 0 {
            return Ok(ReadBody { content, rest: skip_trailer(rest)? });
        }
        let Some((chunk, behind)) = rest.split_at_checked(size) else {
            content.extend_from_slice(rest);
            return Ok(ReadBody { content, rest: None });
        };
        content.extend_from_slice(chunk);
        rest = match behind {
            [b'\r', b'\n', rest @ ..] => rest,
            [] | [b'\r'] => return Ok(ReadBody { content, rest: None }),
            _ => return Err("a chunk that is longer than its size"),
        };
    }
}

/// What follows the trailer; none where it has not ended.
fn skip_trailer(mut rest: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let line = &rest[..end];
        rest = &rest[end + 2..];
        if line.is_empty() {
            return Ok(Some(rest));
        }
        read_field(line)?;
    }
}

/// What an app behind hyper gets.
fn read_with_hyper(pieces: &[Vec<u8>]) -> Vec<Understood> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let app = {
        let seen = Rc::clone(&seen);
        service_fn(move |request| serve(request, Rc::clone(&seen)))
    };
    let wire = Wire { pieces: pieces.iter().filter(|piece| !piece.is_empty()).cloned().collect(), at: 0 };
    let mut http1 = http1::Builder::new();
    http1.header_read_timeout(None).auto_date_header(false);
    let mut connection = pin!(http1.serve_connection(wire, app));
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    while woken.0.swap(false, Ordering::Relaxed) {
        if connection.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            break;
        }
    }
    seen.take()
}

async fn serve(
    request: Request<Incoming>,
    seen: Rc<RefCell<Vec<Understood>>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (parts, mut body) = request.into_parts();
    let fields = parts.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let fields: Vec<_> = fields.collect();
    let mut connection = parts.headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    let understood = Understood {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        may_be_last: parts.version != Version::HTTP_11 || connection.any(says_close),
        fields: sorted(fields),
        ..Understood::default()
    };
    let at = seen.borrow().len();
    seen.borrow_mut().push(understood);
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                seen.borrow_mut()[at].body.extend_from_slice(&data);
            }
            // A body that is not whole is an error of the connection.
            Some(Err(_)) => break,
            None => {
                seen.borrow_mut()[at].whole = true;
                break;
            }
        }
    }
    Ok(Response::new(Empty::new()))
}

/// Notices that there is more to do.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client that sends these pieces, takes whatever it is answered, and then says nothing more.
struct Wire {
    pieces: Vec<Vec<u8>>,
    at: usize,
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(piece) = this.pieces.get_mut(this.at) else { return Poll::Pending };
        let count = piece.len().min(buf.remaining());
        buf.put_slice(&piece[..count]);
        piece.drain(..count);
        this.at += usize::from(piece.is_empty());
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
