//! Words, quoted texts, typed values, and the space between them.

use std::borrow::Cow;

use crate::document::{RemarkKind, Span};

use super::{BARE, Read, Reader, data};

impl<'a> Reader<'a> {
    pub(super) fn bare(&mut self) -> Read<Cow<'a, str>> {
        let start = self.at;
        let length = self.text[start..].iter().position(|byte| !BARE[usize::from(*byte)]);
        self.at = length.map_or(self.text.len(), |length| start + length);
        self.utf8(start, self.at).map(Cow::Borrowed)
    }

    pub(super) fn quoted(&mut self) -> Read<Cow<'a, str>> {
        let open = self.character();
        let start = self.at + 1;
        let mut escaped = false;
        let mut end = start;
        loop {
            match self.text.get(end) {
                Some(b'"') => break,
                Some(b'\\') => (escaped, end) = (true, end + 2),
                Some(_) => end += 1,
                None => {
                    let line = self.text[self.at..].iter().position(|byte| *byte == b'\n');
                    self.found.resume_at = Some(line.map_or(self.text.len(), |length| self.at + length));
                    return Err(self.fault(open, "this quoted text is never closed", "", None));
                }
            }
        }
        self.at = end + 1;
        let raw = self.utf8(start, end)?;
        if !escaped {
            return Ok(Cow::Borrowed(raw));
        }
        let (text, is_cut) = data::unescape(raw).map_err(|(at, length)| {
            self.fault(span(start + at, start + at + length), "half of a surrogate pair", "", None)
        })?;
        if is_cut {
            self.found.remark(self.since(start - 1), RemarkKind::CutEscape);
        }
        Ok(Cow::Owned(text))
    }

    fn utf8(&self, start: usize, end: usize) -> Read<&'a str> {
        std::str::from_utf8(&self.text[start..end]).map_err(|error| {
            let at = start + error.valid_up_to();
            self.fault(span(at, at + 1), "this is not UTF-8", "", Some("save the file as UTF-8"))
        })
    }

    /// Data, or a typed value: everything between angle brackets.
    pub(super) fn typed(&mut self) -> Read<plist::Value> {
        let open = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'*') => self.typed_scalar(open),
            Some(b'[') => self.enclosed(open, b"]>", data::base64).map(plist::Value::Data),
            _ => self.hex(open).map(plist::Value::Data),
        }
    }

    fn typed_scalar(&mut self, open: usize) -> Read<plist::Value> {
        self.enclosed(open, b">", |body| data::scalar(std::str::from_utf8(body).ok()?))
    }

    /// What `read` makes of the bytes after the opening character here, up to `close`.
    fn enclosed<T>(&mut self, open: usize, close: &[u8], read: impl FnOnce(&[u8]) -> Option<T>) -> Read<T> {
        let body = &self.text[self.at + 1..];
        let Some(length) = body.windows(close.len()).position(|window| window == close) else {
            return Err(self.fault(span(open, open + 1), "this '<' is never closed", "", None));
        };
        self.at += 1 + length + close.len();
        read(&body[..length])
            .ok_or_else(|| self.fault(self.since(open), "this is no typed value", "", Some(data::FORMS)))
    }

    fn hex(&mut self, open: usize) -> Read<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            self.skip_space();
            match self.text.get(self.at..).unwrap_or_default() {
                [b'>', ..] => break,
                [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    bytes.push(data::hex_digit(*high) << 4 | data::hex_digit(*low));
                    self.at += 2;
                }
                [] => return Err(self.fault(span(open, open + 1), "this '<' is never closed", "", None)),
                _ => {
                    let help = Some("data is written in pairs of hexadecimal digits: <0fbd77>");
                    return Err(self.fault(self.character(), "expected two hexadecimal digits or '>'", "", help));
                }
            }
        }
        self.at += 1;
        Ok(bytes)
    }

    pub(super) fn skip_space(&mut self) {
        loop {
            match self.text.get(self.at..).unwrap_or_default() {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, ..] => self.at += 1,
                [b'/', b'/', rest @ ..] => {
                    self.at += 2 + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                }
                [b'/', b'*', rest @ ..] => self.skip_comment(rest),
                _ => return,
            }
        }
    }

    /// A comment that is never closed ends with the file, as in GNUstep, and is to blame for whatever is missing then.
    fn skip_comment(&mut self, rest: &[u8]) {
        if let Some(length) = rest.windows(2).position(|pair| pair == b"*/") {
            self.at += 2 + length + 2;
        } else {
            self.found.open_comment = Some(span(self.at, self.at + 2));
            self.at = self.text.len();
        }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub(super) fn here(&self) -> Span {
        span(self.at, self.at)
    }

    pub(super) fn since(&self, start: usize) -> Span {
        span(start, self.at)
    }

    /// The whole character here, however many bytes it has.
    pub(super) fn character(&self) -> Span {
        let rest = &self.text[self.at.min(self.text.len())..];
        let more = rest.iter().skip(1).take_while(|byte| **byte & 0xc0 == 0x80).take(3).count();
        span(self.at, self.at + usize::from(!rest.is_empty()) + more)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a text has at most MAX_BYTES bytes")]
pub(super) fn span(start: usize, end: usize) -> Span {
    Span { start: start as u32, end: end as u32 }
}
