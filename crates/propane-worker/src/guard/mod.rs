//! What may pass from the network to the HTTP/1 parser: whole, well-formed request heads, and the bodies that they
//! announce.
//!
//! The parser behind it takes more than the standard lets it: lines that end in a bare LF, a `Content-Length` beside a
//! `Transfer-Encoding`, two of the same `Content-Length`. Each of these lets two servers in a row disagree about where a
//! request ends, and then one client's bytes become the start of another's request. Here such a request is refused
//! before anything of it is passed on. What the parser answers to a broken head (nothing, or an empty 400) is replaced
//! that way, too.
//!
//! Pure: bytes in, verdicts out. [`Guard::admit`] looks at every byte once, in whatever pieces they come.

use std::mem::MaybeUninit;

use hyper::Uri;

use self::chunked::Chunked;

mod chunked;

/// The first bytes of a client that speaks HTTP/2 from the start (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Takes the place of `Upgrade` where the wish is for HTTP/2, which nobody grants any more (RFC 9113 §3.1) and many clients
/// still ask for: hyper would end such a connection as if it had been granted, and not wait for the last answer.
const DECLINED: &[u8; 7] = b"Ignored";

/// Header fields of one request. The parser's own number; its table of them is on the stack.
const MAX_FIELDS: usize = 100;

/// The parser's own limit for a request target.
const MAX_TARGET_BYTES: usize = u16::MAX as usize - 1;

/// How much may pass, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// Of a request line, without its end.
    pub(crate) line: usize,
    /// Of a whole head.
    pub(crate) head: usize,
}

/// Why nothing more may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not HTTP, or could be read in two ways.
    Malformed,
    /// The head, or a line of it, is longer than allowed.
    HeadTooLarge,
}

/// Where in the stream of requests the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a head, or between two requests.
    Head,
    /// In a body.
    Body,
    /// After a request that asks for another protocol: whose byte it is depends on the answer.
    Undecided,
    /// Beyond HTTP/1: all of it passes.
    Raw,
    /// Behind an error in a head; nothing passes any more.
    BadHead(Fault),
    /// Behind an error in a body.
    BadBody,
}

/// What may pass of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// So many from the front. The others are offered again, with what follows them.
    pub(crate) bytes: usize,
    /// Request heads among them.
    pub(crate) heads: u64,
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Guard {
    limits: HeadLimits,
    state: State,
    /// Nothing has passed yet, so that it may still turn out to be HTTP/2.
    fresh: bool,
}

#[derive(Debug)]
enum State {
    Head(Progress),
    Body { framing: Framing, then_upgrade: bool },
    Undecided,
    Raw,
    BadHead(Fault),
    BadBody,
}

/// How far into an unfinished head has been looked, so that a client who sends it byte by byte costs no more.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// No end of a head stands before this.
    searched: usize,
    /// Parsed at this length, and found to be a possible start.
    parsed: usize,
}

/// Where a body ends.
#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked(Chunked),
}

/// What a head says about what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    length: Length,
    asks_for_upgrade: bool,
    /// Where the name of a field stands that asks for what is not granted.
    declined_at: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(u64),
    Chunked,
}

impl Guard {
    /// The guard of a new connection.
    pub(crate) fn new(limits: HeadLimits) -> Self {
        Self { limits, state: State::Head(Progress::default()), fresh: true }
    }

    /// Where the next byte stands.
    pub(crate) fn place(&self) -> Place {
        match self.state {
            State::Head(_) => Place::Head,
            State::Body { .. } => Place::Body,
            State::Undecided => Place::Undecided,
            State::Raw => Place::Raw,
            State::BadHead(fault) => Place::BadHead(fault),
            State::BadBody => Place::BadBody,
        }
    }

    /// Decides after [`Place::Undecided`]: the connection has been `switched` to another protocol, or it has not.
    pub(crate) fn decide(&mut self, switched: bool) {
        if matches!(self.state, State::Undecided) {
            self.state = if switched { State::Raw } else { State::Head(Progress::default()) };
        }
    }

    /// Looks at bytes of which none has passed yet. Nothing but [`DECLINED`] is changed in them.
    pub(crate) fn admit(&mut self, bytes: &mut [u8]) -> Admitted {
        let mut admitted = Admitted { bytes: 0, heads: 0 };
        loop {
            let rest = &mut bytes[admitted.bytes..];
            let passed = match &mut self.state {
                State::Raw => rest.len(),
                State::Undecided | State::BadHead(_) | State::BadBody => 0,
                State::Body { framing, then_upgrade } => {
                    let (passed, next) = framing.advance(rest, *then_upgrade);
                    if let Some(next) = next {
                        self.state = next;
                    }
                    passed
                }
                State::Head(_) => {
                    let passed = self.admit_head(rest);
                    admitted.heads += u64::from(passed > 0 && self.place() != Place::Raw);
                    passed
                }
            };
            admitted.bytes += passed;
            if passed == 0 || admitted.bytes == bytes.len() {
                return admitted;
            }
        }
    }

    /// Passes a whole head or nothing.
    fn admit_head(&mut self, bytes: &mut [u8]) -> usize {
        if self.fresh && !bytes.is_empty() {
            if bytes.starts_with(HTTP2_PREFACE) {
                self.state = State::Raw;
                return bytes.len();
            }
            if HTTP2_PREFACE.starts_with(bytes) {
                return 0;
            }
        }
        let State::Head(mut progress) = self.state else { return 0 };
        match look_at_head(bytes, self.limits, &mut progress) {
            Ok(None) => {
                self.state = State::Head(progress);
                0
            }
            Ok(Some((length, head))) => {
                self.fresh = false;
                self.state = head.next();
                if let Some(at) = head.declined_at {
                    bytes[at..at + DECLINED.len()].copy_from_slice(DECLINED);
                }
                length
            }
            Err(fault) => {
                self.state = State::BadHead(fault);
                0
            }
        }
    }
}

impl Framing {
    /// Passes what belongs to the body, and says what comes next if it has ended.
    fn advance(&mut self, bytes: &[u8], then_upgrade: bool) -> (usize, Option<State>) {
        match self {
            Self::Length(left) => {
                let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= passed as u64;
                (passed, (*left == 0).then(|| after_request(then_upgrade)))
            }
            Self::Chunked(chunked) => match chunked.advance(bytes) {
                (passed, chunked::Ended::No) => (passed, None),
                (passed, chunked::Ended::WithBody) => (passed, Some(after_request(then_upgrade))),
                (passed, chunked::Ended::WithFault) => (passed, Some(State::BadBody)),
            },
        }
    }
}

impl Head {
    fn next(self) -> State {
        let then_upgrade = self.asks_for_upgrade;
        match self.length {
            Length::Known(0) => after_request(then_upgrade),
            Length::Known(length) => State::Body { framing: Framing::Length(length), then_upgrade },
            Length::Chunked => State::Body { framing: Framing::Chunked(Chunked::default()), then_upgrade },
        }
    }
}

fn after_request(then_upgrade: bool) -> State {
    if then_upgrade { State::Undecided } else { State::Head(Progress::default()) }
}

/// The length and meaning of the head at the front of `bytes`; none if it has not all arrived.
fn look_at_head(bytes: &[u8], limits: HeadLimits, progress: &mut Progress) -> Result<Option<(usize, Head)>, Fault> {
    let blank = leading_blank_lines(bytes);
    let end = find_end(&bytes[blank..], progress.searched.saturating_sub(blank));
    if let Ok(Some(end)) = end {
        let length = blank + end;
        check_size(&bytes[..length], blank, limits)?;
        // A head that ends before the parser thinks so is not one.
        let mut head = parse(&bytes[blank..length])?.ok_or(Fault::Malformed)?;
        head.declined_at = head.declined_at.map(|at| blank + at);
        return Ok(Some((length, head)));
    }
    check_size(bytes, blank, limits)?;
    end?;
    progress.searched = bytes.len();
    // What can never become a head is refused before its end; looked at again only when it has doubled.
    if bytes.len() >= 2 * progress.parsed {
        progress.parsed = bytes.len();
        parse(&bytes[blank..])?;
    }
    Ok(None)
}

/// Empty lines before a request are skipped (RFC 9112 §2.2).
fn leading_blank_lines(bytes: &[u8]) -> usize {
    bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count() * 2
}

/// Just behind the empty line that ends a head, if none of the lines before it ends in a bare LF. Up to `from`, it has
/// been looked for.
fn find_end(bytes: &[u8], from: usize) -> Result<Option<usize>, Fault> {
    let rest = bytes.get(from..).unwrap_or_default();
    for lf in memchr::memchr_iter(b'\n', rest).map(|at| from + at) {
        match &bytes[..lf] {
            [.., b'\n', b'\r'] => return Ok(Some(lf + 1)),
            [.., b'\r'] => {}
            _ => return Err(Fault::Malformed),
        }
    }
    Ok(None)
}

fn check_size(bytes: &[u8], blank: usize, limits: HeadLimits) -> Result<(), Fault> {
    let line = &bytes[blank..];
    let line_is_too_long = line.len() > limits.line + 1 && !line[..limits.line + 2].contains(&b'\n');
    if line_is_too_long || bytes.len() > limits.head { Err(Fault::HeadTooLarge) } else { Ok(()) }
}

/// What a head without bare LFs says, if it is a whole one; a fault as soon as it can be none.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Fault> {
    // Not filled in before, because most requests have few.
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => meaning(&request, bytes).map(Some),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(Fault::HeadTooLarge),
        Ok(httparse::Status::Complete(_)) | Err(_) => Err(Fault::Malformed),
    }
}

fn meaning(request: &httparse::Request<'_, '_>, bytes: &[u8]) -> Result<Head, Fault> {
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Fault::Malformed);
    };
    check_target(method, target)?;
    let mut fields = Fields::default();
    for field in request.headers.iter() {
        // A name is a part of the bytes that were parsed.
        let at = field.name.as_ptr().addr() - bytes.as_ptr().addr();
        fields.take(field, at)?;
    }
    fields.meaning(minor)
}

/// A path, an absolute URL, or `*` for OPTIONS; no tunnels (RFC 9112 §3.2).
fn check_target(method: &str, target: &str) -> Result<(), Fault> {
    let absolute = || ["http://", "https://"].iter().any(|scheme| starts_with_ignoring_case(target, scheme));
    let form_is_known = target.starts_with('/') || (target == "*" && method == "OPTIONS") || absolute();
    if method == "CONNECT" || !form_is_known {
        return Err(Fault::Malformed);
    }
    if target.len() > MAX_TARGET_BYTES {
        return Err(Fault::HeadTooLarge);
    }
    // What the parser behind would refuse in its own words; it never refuses what is plain.
    if is_plain(target) { Ok(()) } else { target.parse::<Uri>().map(drop).map_err(|_| Fault::Malformed) }
}

fn is_plain(target: &str) -> bool {
    target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~?=&%+".contains(&byte))
}

fn starts_with_ignoring_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The fields that decide where a request ends, and whose it is.
#[derive(Debug, Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    hosts: u32,
    upgrades: u32,
    http2_at: Option<usize>,
}

impl Fields {
    fn take(&mut self, field: &httparse::Header<'_>, at: usize) -> Result<(), Fault> {
        let name = field.name;
        // By length first: nearly every field is none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                if !is_host(field.value) {
                    return Err(Fault::Malformed);
                }
                self.hosts += 1;
            }
            7 if name.eq_ignore_ascii_case("upgrade") => {
                self.upgrades += 1;
                self.http2_at = field.value.eq_ignore_ascii_case(b"h2c").then_some(at);
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                let length = decimal(field.value).ok_or(Fault::Malformed)?;
                // A second one is refused even if it agrees: somebody on the way may have looked at the other.
                if self.length.replace(length).is_some() {
                    return Err(Fault::Malformed);
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if self.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Malformed);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn meaning(self, minor: u8) -> Result<Head, Fault> {
        let current = minor == 1;
        let framed_twice = self.chunked && self.length.is_some();
        let bad_host = self.hosts > 1 || (current && self.hosts == 0);
        if framed_twice || bad_host || (self.chunked && !current) {
            return Err(Fault::Malformed);
        }
        let length = if self.chunked { Length::Chunked } else { Length::Known(self.length.unwrap_or(0)) };
        let declined_at = self.http2_at.filter(|_| self.upgrades == 1);
        let asks_for_upgrade = current && self.upgrades > 0 && declined_at.is_none();
        Ok(Head { length, asks_for_upgrade, declined_at })
    }
}

/// What a name of a host is made of. A table, because every request has one.
static IN_HOST: [bool; 256] = {
    const SIGNS: &[u8] = b"-._~%!$&'()*+,;=";
    let (mut table, mut byte, mut sign) = ([false; 256], 0_u8, 0);
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    while sign < SIGNS.len() {
        table[SIGNS[sign] as usize] = true;
        sign += 1;
    }
    table
};

/// A name or an address, and perhaps a port (RFC 9110 §7.2). It may be empty, where the target has none.
pub(crate) fn is_host(text: &[u8]) -> bool {
    let in_name = |byte: &u8| IN_HOST[usize::from(*byte)];
    let in_address = |byte: &u8| *byte == b':' || in_name(byte);
    let port = match text.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = memchr::memchr(b']', rest) else { return false };
            if end == 0 || !rest[..end].iter().all(in_address) {
                return false;
            }
            &rest[end + 1..]
        }
        None => &text[text.iter().take_while(|byte| in_name(byte)).count()..],
    };
    matches!(port.split_first(), None | Some((b':', _))) && port.iter().skip(1).all(u8::is_ascii_digit)
}

/// Digits only: no sign, no list, no blank inside, and nothing that the parser would count differently.
fn decimal(text: &[u8]) -> Option<u64> {
    // The parser reserves the two largest numbers for its own use.
    const LARGEST: u64 = u64::MAX - 2;
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number <= LARGEST).then_some(number)
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
