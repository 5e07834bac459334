//! The OpenStep (ASCII) property list, with a position for every key and value.
//!
//! It follows GNUstep's reader, because Arlen's workers read the same file with that. It differs on purpose, and always
//! with a position: a top level without braces is read, duplicate keys and empty values are remarked on, and keys that
//! are not strings, lone surrogates and garbage in typed values are errors.

use std::borrow::Cow;
use std::fmt::Write;

use crate::document::{
    Content, Document, Entry, Fault, MAX_DEPTH, MAX_VALUES, Node, Reading, Remark, RemarkKind, Span,
};
use crate::openstep_data::{self as data};

/// Remarks that are reported one by one; a file that earns more has one thing wrong with it many times.
const MAX_REMARKS: usize = 20;
/// Mistakes after which the rest of a file is not read: it is something else than a property list.
const MAX_FAULTS: usize = 10;

/// Bytes of words that need no quotes.
static BARE: [bool; 256] = bare_bytes();

const fn bare_bytes() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let punctuation = b"!#$%&*+-./:?@^_|~";
    let mut at = 0;
    while at < punctuation.len() {
        table[punctuation[at] as usize] = true;
        at += 1;
    }
    table
}

/// As a property list writes this text: bare where that is possible, else in double quotes.
pub fn quoted(text: &str) -> Cow<'_, str> {
    let is_comment = text.starts_with("//") || text.starts_with("/*");
    if !text.is_empty() && !is_comment && text.bytes().all(|byte| BARE[usize::from(byte)]) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(always_quoted(text))
}

/// The text in double quotes.
pub fn always_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\U{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A typed scalar, as GNUstep writes it.
pub fn scalar(value: &plist::Value) -> String {
    match value {
        plist::Value::Boolean(on) => format!("<*B{}>", if *on { 'Y' } else { 'N' }),
        plist::Value::Integer(number) => format!("<*I{number}>"),
        plist::Value::Real(number) => format!("<*R{number}>"),
        plist::Value::Date(date) => data::write_date(*date),
        plist::Value::Data(bytes) => data::write_hex(bytes),
        plist::Value::String(text) => quoted(text).into_owned(),
        other => always_quoted(&format!("{other:?}")),
    }
}

/// Reads a text that is not longer than [`crate::document::MAX_BYTES`], past the mistakes that leave no doubt where the
/// next entry starts.
pub(crate) fn read(text: &[u8]) -> Reading<'_> {
    let mut reader = Reader { text, at: 0, depth: 0, values: 0, found: Found::default() };
    let root = match reader.document() {
        Ok(root) => Some(root),
        Err(fault) => {
            reader.found.faults.push(fault);
            None
        }
    };
    let end = reader.here();
    let Found { remarks, faults, .. } = reader.found.finish(end);
    Reading { document: root.map(|root| Document { root, remarks }), faults }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    values: usize,
    found: Found,
}

/// What there is to say about a text.
#[derive(Default)]
struct Found {
    remarks: Vec<Remark>,
    more_remarks: usize,
    faults: Vec<Fault>,
    /// No further mistake is looked for.
    is_over: bool,
    /// That the file ends too early was said.
    is_cut: bool,
    open_comment: Option<Span>,
    /// Where to go on after a quoted text that is never closed: the end of its first line.
    resume_at: Option<usize>,
}

impl Found {
    /// Says what can only be said at the end.
    fn finish(mut self, end: Span) -> Self {
        let is_blamed = |comment| self.faults.iter().any(|fault| fault.span == Some(comment));
        if let Some(comment) = self.open_comment.filter(|comment| !is_blamed(*comment)) {
            self.remark(comment, RemarkKind::OpenComment);
        }
        // A character that cannot start a value leaves an empty one, and is told already.
        let is_told = |remark: &Remark| self.faults.iter().any(|fault| fault.span == Some(remark.span));
        self.remarks.retain(|remark| remark.kind != RemarkKind::EmptyValue || !is_told(remark));
        if self.more_remarks > 0 {
            self.remarks.push(Remark { span: end, kind: RemarkKind::AndMore(self.more_remarks) });
        }
        self
    }

    fn remark(&mut self, span: Span, kind: RemarkKind) {
        if self.remarks.len() < MAX_REMARKS {
            self.remarks.push(Remark { span, kind });
        } else {
            self.more_remarks += 1;
        }
    }
}

type Read<T> = Result<T, Fault>;
type Key<'a> = (Cow<'a, str>, Span);

impl<'a> Reader<'a> {
    fn document(&mut self) -> Read<Node<'a>> {
        self.skip_space();
        if self.peek().is_none() {
            return Err(self.fault(self.here(), "the file holds no value", "", Some("an empty configuration is {}")));
        }
        let first = self.value()?;
        self.skip_space();
        match (self.peek(), first) {
            (None, first) => Ok(first),
            (Some(b'='), Node { content: Content::Text(key), span: Some(span) }) => self.braceless((key, span)),
            (Some(found), first) => {
                let fault = self.after_end(found, &first);
                let is_whole = matches!(first.content, Content::Dict(_));
                if is_whole { self.note(fault).map(|()| first) } else { Err(fault) }
            }
        }
    }

    fn braceless(&mut self, key: Key<'a>) -> Read<Node<'a>> {
        self.found.remark(key.1, RemarkKind::Braceless);
        let start = key.1.start as usize;
        let entries = self.entries(None, Some(key))?;
        Ok(Node { content: Content::Dict(entries), span: Some(self.since(start)) })
    }

    /// Remembers a mistake that the reader can go on after. Hands it back if it cannot.
    fn note(&mut self, mut fault: Fault) -> Read<()> {
        if self.found.is_over {
            return Err(fault);
        }
        if self.found.faults.len() + 1 == MAX_FAULTS {
            fault.help = Some("the rest of the file was not read".to_owned());
            self.found.is_over = true;
            return Err(fault);
        }
        self.found.faults.push(fault);
        Ok(())
    }

    /// Anything after the value of the file.
    fn after_end(&self, found: u8, first: &Node<'_>) -> Fault {
        let span = self.character();
        match (found, &first.content) {
            (b';', Content::Dict(_)) => {
                self.fault(span, "more text after the end", "", Some("no ';' follows the last '}' of a file"))
            }
            (_, Content::Text(text)) if text.is_empty() => self.unexpected(span, "a value"),
            (_, Content::Text(_)) => self.fault(span, "expected '=' or the end of the file", "", hint(found)),
            _ => self.fault(span, "more text after the end", "", None),
        }
    }

    fn value(&mut self) -> Read<Node<'a>> {
        self.skip_space();
        self.values += 1;
        if self.values > MAX_VALUES {
            self.found.is_over = true;
            return Err(self.fault(self.here(), &format!("more than {MAX_VALUES} values"), "", None));
        }
        let start = self.at;
        let content = match self.peek() {
            Some(b'"') => Content::Text(self.quoted()?),
            Some(b'{') => self.nested(Self::dict)?,
            Some(b'(') => self.nested(Self::array)?,
            Some(b'<') => Content::Typed(Box::new(self.typed()?)),
            None => return Err(self.fault(self.here(), "expected a value, but the file ends", "", None)),
            Some(_) => Content::Text(self.bare()?),
        };
        if self.at == start {
            self.found.remark(self.character(), RemarkKind::EmptyValue);
        }
        Ok(Node { content, span: Some(self.since(start)) })
    }

    fn nested(&mut self, read: fn(&mut Self) -> Read<Content<'a>>) -> Read<Content<'a>> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.found.is_over = true;
            return Err(self.fault(self.character(), &format!("nested deeper than {MAX_DEPTH}"), "", None));
        }
        let content = read(self)?;
        self.depth -= 1;
        Ok(content)
    }

    fn dict(&mut self) -> Read<Content<'a>> {
        let open = self.character();
        self.at += 1;
        self.entries(Some(open), None).map(Content::Dict)
    }

    /// Entries up to the brace that closes `open`, or without one up to the end of the file.
    fn entries(&mut self, open: Option<Span>, mut first: Option<Key<'a>>) -> Read<Vec<Entry<'a>>> {
        let (mut entries, depth) = (Vec::new(), self.depth);
        loop {
            if first.is_none() && self.closes(open)? {
                break;
            }
            let entry = match self.entry(first.take()) {
                Ok(entry) => entry,
                Err(fault) => {
                    self.give_up_entry(fault)?;
                    self.depth = depth;
                    continue;
                }
            };
            let value = entry.value.span.map_or(self.at, |span| span.start as usize);
            let end = self.at;
            let is_last = self.closes(open)?;
            match self.peek() {
                _ if is_last => {}
                Some(b';') => self.at += 1,
                found => {
                    if !self.goes_on_without_semicolon(value, end, found)? {
                        continue;
                    }
                }
            }
            entries.push(entry);
            if is_last {
                break;
            }
        }
        self.drop_duplicates(&mut entries);
        Ok(entries)
    }

    fn entry(&mut self, key: Option<Key<'a>>) -> Read<Entry<'a>> {
        let (key, key_span) = match key {
            Some(key) => key,
            None => self.key()?,
        };
        self.expect_equals(&key)?;
        let value = self.value()?;
        Ok(Entry { key, key_span: Some(key_span), value })
    }

    /// Notes why an entry cannot be read, and goes on at the next one.
    fn give_up_entry(&mut self, fault: Fault) -> Read<()> {
        if fault.span.is_some_and(|span| !is_text(&self.text[span.start as usize..])) {
            return Err(fault);
        }
        self.note(fault)?;
        match self.found.resume_at.take() {
            Some(at) => self.at = at,
            None => self.skip_entry(),
        }
        Ok(())
    }

    /// Goes behind the `;` that ends this entry, to what closes its dictionary, or to a line that starts another one.
    fn skip_entry(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'{' | b'(' => depth += 1,
                b'}' if depth == 0 => return,
                b'}' | b')' => depth = depth.saturating_sub(1),
                b'"' => self.at = self.end_of_quoted_on_line(),
                b'\n' if depth == 0 && self.starts_entry(self.at + 1) => return,
                _ => {}
            }
            self.at = self.text.len().min(self.at + 1);
            if byte == b';' && depth == 0 {
                return;
            }
        }
        self.found.is_cut = true;
    }

    /// The quote that closes the text here, or the last byte of its line.
    fn end_of_quoted_on_line(&self) -> usize {
        let mut at = self.at + 1;
        while let Some(byte) = self.text.get(at) {
            match byte {
                b'"' => return at,
                b'\n' => return at - 1,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        self.text.len()
    }

    /// Whether the line that starts at `at` begins with a key and `=`.
    fn starts_entry(&self, at: usize) -> bool {
        let line = self.text.get(at..).unwrap_or_default().trim_ascii_start();
        let key = match line {
            [b'"', rest @ ..] => rest.iter().position(|byte| matches!(byte, b'"' | b'\n')).map(|length| length + 2),
            _ => line.iter().position(|byte| !BARE[usize::from(*byte)]).filter(|length| *length > 0),
        };
        let after = key.and_then(|length| line.get(length..)).unwrap_or_default();
        after.iter().find(|byte| !matches!(byte, b' ' | b'\t')) == Some(&b'=')
    }

    /// Whether the dictionary ends here. A missing `}` is blamed on the innermost `{` that nothing closes.
    fn closes(&mut self, open: Option<Span>) -> Read<bool> {
        self.skip_space();
        match (self.peek(), open) {
            (None, None) => Ok(true),
            (None, Some(open)) => {
                if !self.found.is_cut {
                    self.found.is_cut = true;
                    self.note(self.fault(open, "this '{' is never closed", "", None))?;
                }
                Ok(true)
            }
            (Some(b'}'), Some(_)) => {
                self.at += 1;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn expect_equals(&mut self, key: &str) -> Read<()> {
        self.skip_space();
        match self.peek() {
            Some(b'=') => {
                self.at += 1;
                Ok(())
            }
            None => Err(self.fault(self.here(), "expected '=', but the file ends", "", None)),
            Some(b'}' | b')' | b';') if key.is_empty() => Err(self.unexpected(self.character(), "a key")),
            Some(found) => {
                let colon = key.ends_with(':').then_some("a dictionary is written { key = value; }");
                Err(self.fault(self.character(), "expected '=' after this key", "", colon.or(hint(found))))
            }
        }
    }

    /// What follows the value at `value..end` is neither `;` nor the end of its dictionary. Notes that, goes on at the
    /// next entry, and says whether the value was a whole one.
    fn goes_on_without_semicolon(&mut self, value: usize, end: usize, found: Option<u8>) -> Read<bool> {
        let starts_word = found.is_some_and(|byte| BARE[usize::from(byte)] || byte == b'"');
        let line_end = |from: usize| {
            let rest = &self.text[from..end];
            rest.iter().position(|byte| *byte == b'\n').map(|length| from + length)
        };
        if self.text[value] == b'"'
            && let Some(line_end) = line_end(value)
            && end == self.at
        {
            let help = "it runs over the end of its line, up to the next quote";
            let fault =
                self.fault(span(value, value + 1), "this quoted text is not closed on its line", "", Some(help));
            self.note(fault)?;
            self.at = line_end;
            return Ok(false);
        }
        if starts_word && self.text[end..self.at].contains(&b'\n') {
            // A value that ends its line lacks the `;` there, whatever the next line holds.
            let fault = self.fault(span(end.saturating_sub(1), end), "expected ';' after this value", "", None);
            self.note(Fault { found: Some(self.character()), ..fault })?;
            return Ok(true);
        }
        let fault = self.fault(self.character(), "expected ';' or '}'", "", found.and_then(hint));
        self.give_up_entry(fault)?;
        Ok(false)
    }

    /// The last of several equal keys wins, as it does in GNUstep.
    fn drop_duplicates(&mut self, entries: &mut Vec<Entry<'a>>) {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by(|a, b| entries[*a].key.cmp(&entries[*b].key));
        let mut losers: Vec<(usize, usize)> = order
            .windows(2)
            .map(|pair| (pair[0], pair[1]))
            .filter(|(a, b)| entries[*a].key == entries[*b].key)
            .collect();
        if losers.is_empty() {
            return;
        }
        losers.sort_unstable();
        for (loser, again) in &losers {
            let (Some(span), Some(again)) = (entries[*loser].key_span, entries[*again].key_span) else { continue };
            self.found.remark(span, RemarkKind::DuplicateKey { key: entries[*loser].key.clone().into_owned(), again });
        }
        let mut index = 0..;
        entries.retain(|_| {
            let index = index.next().unwrap_or_default();
            losers.binary_search_by_key(&index, |(loser, _)| *loser).is_err()
        });
    }

    fn array(&mut self) -> Read<Content<'a>> {
        let open = self.character();
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                Some(b')') => break,
                None => return Err(self.fault(open, "this '(' is never closed", "", None)),
                Some(_) => items.push(self.value()?),
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b')') => break,
                None => return Err(self.fault(open, "this '(' is never closed", "", None)),
                Some(found) => return Err(self.fault(self.character(), "expected ',' or ')'", "", hint(found))),
            }
        }
        self.at += 1;
        Ok(Content::Array(items))
    }

    fn key(&mut self) -> Read<Key<'a>> {
        let start = self.at;
        let key = match self.peek() {
            Some(b'"') => self.quoted()?,
            Some(b'<' | b'{' | b'(') => {
                return Err(self.fault(self.character(), "expected a key", "", Some("a key is a word or quoted text")));
            }
            _ => self.bare()?,
        };
        Ok((key, self.since(start)))
    }

    fn bare(&mut self) -> Read<Cow<'a, str>> {
        let start = self.at;
        let length = self.text[start..].iter().position(|byte| !BARE[usize::from(*byte)]);
        self.at = length.map_or(self.text.len(), |length| start + length);
        self.utf8(start, self.at).map(Cow::Borrowed)
    }

    fn quoted(&mut self) -> Read<Cow<'a, str>> {
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
    fn typed(&mut self) -> Read<plist::Value> {
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

    fn skip_space(&mut self) {
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

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn here(&self) -> Span {
        span(self.at, self.at)
    }

    fn since(&self, start: usize) -> Span {
        span(start, self.at)
    }

    /// The whole character here, however many bytes it has.
    fn character(&self) -> Span {
        let rest = &self.text[self.at.min(self.text.len())..];
        let more = rest.iter().skip(1).take_while(|byte| **byte & 0xc0 == 0x80).take(3).count();
        span(self.at, self.at + usize::from(!rest.is_empty()) + more)
    }

    fn unexpected(&self, span: Span, wanted: &str) -> Fault {
        let found = self.peek().and_then(hint);
        self.fault(span, &format!("expected {wanted}"), "", found)
    }

    fn fault(&self, span: Span, message: &str, label: &str, help: Option<&str>) -> Fault {
        let (span, message) = match self.found.open_comment {
            Some(comment) => (comment, "this comment is never closed"),
            None => (span, message),
        };
        Fault {
            span: Some(span),
            message: message.into(),
            label: label.into(),
            help: help.map(Into::into),
            found: None,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a text has at most MAX_BYTES bytes")]
fn span(start: usize, end: usize) -> Span {
    Span { start: start as u32, end: end as u32 }
}

/// Whether what follows can be text that somebody wrote. Anything else is no slip of a hand, and nothing to read on in.
fn is_text(rest: &[u8]) -> bool {
    let near = &rest[..rest.len().min(64)];
    let is_control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    // A character that is cut off at the end is one all the same.
    let is_utf8 = std::str::from_utf8(near).err().is_none_or(|error| error.error_len().is_none());
    is_utf8 && !near.iter().any(is_control)
}

/// What people who write this character usually have in mind.
fn hint(found: u8) -> Option<&'static str> {
    match found {
        b'\'' => Some("text is quoted with double quotes"),
        b'[' | b']' => Some("a list is written ( a, b )"),
        b',' => Some("entries of a dictionary end with ';'"),
        b'$' | b'{' | b'}' | b'\\' | b'`' | b'<' | b'>' => Some("text with this character needs double quotes"),
        0x80.. => Some("text with characters outside ASCII needs double quotes"),
        byte if BARE[usize::from(byte)] => Some("text with spaces needs double quotes"),
        _ => None,
    }
}
