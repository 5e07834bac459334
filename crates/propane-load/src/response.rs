//! Reads one HTTP/1 answer, and says in which way it is not one.

use std::io::{self, BufRead, Read};

use crate::report::Failure;

/// Longest line of a head or of a chunk header. No worker under test sends longer ones.
const LINE: u64 = 16 * 1024;

/// An answer that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Whether the connection can carry another request.
    pub(crate) keeps_alive: bool,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unanswered {
    pub(crate) failure: Failure,
    pub(crate) detail: String,
    /// Not one byte of the reply had come.
    pub(crate) before_first_byte: bool,
}

/// How the length of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

struct Head {
    status: u16,
    framing: Framing,
    keeps_alive: bool,
}

/// Reads the final answer, passing over interim ones.
pub(crate) fn read(stream: &mut impl BufRead) -> Result<Answer, Unanswered> {
    match first_byte(stream) {
        Ok(true) => {}
        Ok(false) => return Err(unanswered(Failure::ShortRead, "closed before the first byte".to_owned(), true)),
        Err(error) => return Err(unanswered(kind(&error), error.to_string(), true)),
    }
    read_rest(stream).map_err(|(failure, detail)| unanswered(failure, detail, false))
}

/// Waits for the first byte; false if there will be none.
fn first_byte(stream: &mut impl BufRead) -> io::Result<bool> {
    loop {
        match stream.fill_buf() {
            Ok(bytes) => return Ok(!bytes.is_empty()),
            // A read with a time limit is not resumed by the kernel.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn unanswered(failure: Failure, detail: String, before_first_byte: bool) -> Unanswered {
    Unanswered { failure, detail, before_first_byte }
}

/// What a failed read or write means.
pub(crate) fn kind(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::Timeout,
        io::ErrorKind::UnexpectedEof => Failure::ShortRead,
        _ => Failure::Reset,
    }
}

type Failed = (Failure, String);

fn read_rest(stream: &mut impl BufRead) -> Result<Answer, Failed> {
    let mut head = read_head(stream)?;
    while (100..200).contains(&head.status) {
        head = read_head(stream)?;
    }
    match head.framing {
        Framing::Length(length) => skip(stream, length)?,
        Framing::Chunked => while skip_chunk(stream)? {},
        Framing::UntilClose => drop(io::copy(stream, &mut io::sink()).map_err(failed)?),
    }
    Ok(Answer { status: head.status, keeps_alive: head.keeps_alive && head.framing != Framing::UntilClose })
}

fn read_head(stream: &mut impl BufRead) -> Result<Head, Failed> {
    let first = line(stream)?;
    let (version, status) = status_line(&first).ok_or_else(|| malformed("status line", &first))?;
    let bodiless = status < 200 || status == 204 || status == 304;
    let framing = if bodiless { Framing::Length(0) } else { Framing::UntilClose };
    let mut head = Head { status, framing, keeps_alive: version == "HTTP/1.1" };
    loop {
        let header = line(stream)?;
        if header.is_empty() {
            return Ok(head);
        }
        let (name, value) = header.split_once(':').ok_or_else(|| malformed("header", &header))?;
        head.apply(name, value.trim())?;
    }
}

fn status_line(line: &str) -> Option<(&str, u16)> {
    let mut words = line.split(' ');
    let version = words.next().filter(|version| version.starts_with("HTTP/1."))?;
    let status = words.next().filter(|status| status.len() == 3)?.parse().ok()?;
    Some((version, status))
}

impl Head {
    fn apply(&mut self, name: &str, value: &str) -> Result<(), Failed> {
        if name.eq_ignore_ascii_case("content-length") && self.framing == Framing::UntilClose {
            self.framing = Framing::Length(value.parse().map_err(|_| malformed("content-length", value))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            self.framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case("connection") {
            let says = |word: &str| value.split(',').any(|option| option.trim().eq_ignore_ascii_case(word));
            self.keeps_alive = !says("close") && (self.keeps_alive || says("keep-alive"));
        }
        Ok(())
    }
}

fn skip_chunk(stream: &mut impl BufRead) -> Result<bool, Failed> {
    let header = line(stream)?;
    let digits = header.split(';').next().unwrap_or_default().trim();
    let size = u64::from_str_radix(digits, 16).map_err(|_| malformed("chunk size", &header))?;
    skip(stream, size)?;
    // The line end after the chunk; after the last one the trailers, up to an empty line.
    while !line(stream)?.is_empty() {}
    Ok(size > 0)
}

fn skip(stream: &mut impl BufRead, length: u64) -> Result<(), Failed> {
    let skipped = io::copy(&mut stream.take(length), &mut io::sink()).map_err(failed)?;
    if skipped == length {
        return Ok(());
    }
    Err((Failure::ShortRead, format!("closed after {skipped} of {length} bytes of the body")))
}

fn line(stream: &mut impl BufRead) -> Result<String, Failed> {
    let mut bytes = Vec::new();
    stream.take(LINE).read_until(b'\n', &mut bytes).map_err(failed)?;
    if bytes.pop() != Some(b'\n') {
        return Err((Failure::ShortRead, "closed in the middle of a line".to_owned()));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|error| malformed("text", &error.to_string()))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: io::Error) -> Failed {
    (kind(&error), error.to_string())
}

fn malformed(what: &str, seen: &str) -> Failed {
    (Failure::Malformed, format!("{what}: {seen:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Result<Answer, Failure> {
        read(&mut text.as_bytes()).map_err(|unanswered| unanswered.failure)
    }

    #[test]
    fn every_framing_is_read_to_its_end() {
        let kept = Ok(Answer { status: 200, keeps_alive: true });
        let closed = |status| Ok(Answer { status, keeps_alive: false });
        let rows = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", kept),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", kept),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nTrailer: t\r\n\r\n", kept),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", kept),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", kept),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", closed(200)),
            ("HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", closed(503)),
            ("HTTP/1.1 200 OK\r\n\r\nuntil the end", closed(200)),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Ok(Answer { status: 304, keeps_alive: true })),
        ];
        for (text, expected) in rows {
            assert_eq!(answer(text), expected, "{text:?}");
        }
    }

    #[test]
    fn every_way_to_fail_is_told_apart() {
        let rows = [
            ("", Failure::ShortRead),
            ("HTTP/1.1 20", Failure::ShortRead),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", Failure::ShortRead),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", Failure::ShortRead),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", Failure::Malformed),
            ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Failure::Malformed),
            ("SSH-2.0-OpenSSH\r\n", Failure::Malformed),
        ];
        for (text, expected) in rows {
            assert_eq!(answer(text), Err(expected), "{text:?}");
        }
        let nothing = read(&mut "".as_bytes()).unwrap_err();
        let something = read(&mut "H".as_bytes()).unwrap_err();
        assert!(nothing.before_first_byte && !something.before_first_byte);
    }
}
