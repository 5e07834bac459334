//! The text of a file, to say where something stands in it and to quote it.

use std::cell::{Ref, RefCell};
use std::ops::Range;

use serde::Serialize;

use crate::document::Span;
use crate::origin::{Origin, Position};
use crate::secrets::{MASK, Secrets};

/// A longer line is cut around what is meant, in bytes.
const LONGEST_QUOTE: usize = 400;
/// What of a cut line stands before and after what is meant, and of that itself, in bytes.
const CONTEXT: usize = 60;
/// The most characters of a key that a message names.
const LONGEST_NAME: usize = 100;
/// What stands where a line was cut.
const CUT: &str = "…";

/// How far behind a place is looked for what tells that it is secret: the `@` of a URL, the end of a quoted text.
const LOOKAHEAD: usize = 4096;

/// A shorter secret is not looked for elsewhere on its line: it would be found in innocent words.
const SHORTEST_COPY: usize = 6;

/// Bytes between two entries of the table that counts characters: columns of a file on one line must stay cheap.
const BLOCK: usize = 256;

/// A file as it was read, without its byte order mark.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// Relative to the app root.
    pub(crate) path: &'a str,
    text: &'a [u8],
    line_starts: Vec<usize>,
    /// Characters before each block.
    characters: Vec<usize>,
    /// Whether the text is a property list.
    is_sound: bool,
    /// Its secrets, up to where they were looked for.
    secrets: RefCell<(usize, Secrets)>,
}

/// One source line around a problem, secrets already masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quote {
    /// Its number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What of it is meant, in bytes of `text`.
    pub start: usize,
    /// The end of that.
    pub end: usize,
    /// Whether the line goes on beyond `text`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

impl<'a> Source<'a> {
    pub(crate) fn new(path: &'a str, bytes: &'a [u8], is_sound: bool) -> Self {
        let text = crate::document::without_bom(bytes);
        let breaks = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let characters = text.chunks(BLOCK).scan(0, |sum, block| {
            let before = *sum;
            *sum += count_characters(block);
            Some(before)
        });
        Self {
            path,
            text,
            line_starts: std::iter::once(0).chain(breaks).collect(),
            characters: characters.collect(),
            is_sound,
            secrets: RefCell::default(),
        }
    }

    /// The origin of what stands at `span`.
    pub(crate) fn origin(&self, span: Option<Span>) -> Origin {
        Origin::File { path: self.path.to_owned(), position: span.map(|span| self.position(span)) }
    }

    pub(crate) fn position(&self, span: Span) -> Position {
        let (line, start) = self.line_of(span);
        Position { line, column: 1 + self.characters_before(span.start as usize) - self.characters_before(start) }
    }

    fn characters_before(&self, at: usize) -> usize {
        let block = (at / BLOCK).min(self.characters.len().saturating_sub(1));
        let counted = self.characters.get(block).copied().unwrap_or_default();
        counted + count_characters(self.text.get(block * BLOCK..at).unwrap_or_default())
    }

    /// The number of the line, from 1, and where it starts.
    fn line_of(&self, span: Span) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= span.start as usize);
        (line, self.line_starts[line - 1])
    }

    /// All secrets that reach into the text before `end`. Only so much of it is looked at, because a large file is mostly
    /// one whose mistake stands near its start.
    fn secrets(&self, end: usize) -> Ref<'_, Secrets> {
        let wanted = self.text.len().min(end + LOOKAHEAD);
        let known = self.secrets.borrow().0;
        if known < wanted {
            let end = self.text.len().min(wanted.max(known * 2));
            *self.secrets.borrow_mut() = (end, Secrets::of(&self.text[..end], self.is_sound));
        }
        Ref::map(self.secrets.borrow(), |(_, secrets)| secrets)
    }

    /// Whether what stands at `span` is or holds a secret. In a file that is not sound, anything may be read as a key.
    pub(crate) fn is_secret(&self, span: Option<Span>) -> bool {
        let Some(span) = span else { return false };
        let (start, end) = (span.start as usize, span.end as usize);
        self.secrets(end).covered(start..end).next().is_some()
    }

    /// A key, to be named in a message.
    pub(crate) fn named(&self, key: &str, span: Option<Span>) -> String {
        match key.char_indices().nth(LONGEST_NAME) {
            _ if self.is_secret(span) => MASK.to_owned(),
            Some((end, _)) => format!("{}{CUT}", &key[..end]),
            None => key.to_owned(),
        }
    }

    /// The line of `span`, or of its first line where it has several. None where its secrets are not
    /// known well enough to quote it.
    pub(crate) fn quote(&self, span: Option<Span>) -> Option<Quote> {
        let span = span.filter(|_| crate::document::is_quotable(self.text))?;
        let (line, start) = self.line_of(span);
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        let end = end - usize::from(self.text[start..end].ends_with(b"\r"));
        let (whole, meant) =
            (start..end, (span.start as usize).clamp(start, end)..(span.end as usize).clamp(start, end));
        let Range { start, end } = if whole.len() > LONGEST_QUOTE { self.cut(&whole, &meant) } else { whole.clone() };
        let mut bytes = self.text[start..end].to_vec();
        let secrets = self.secrets(end);
        for secret in secrets.covered(start..end) {
            bytes[secret.start - start..secret.end - start].fill(b'*');
        }
        for secret in secrets.starting(&(start..end)) {
            let secret = &self.text[secret.clone()];
            overwrite_copies(&mut bytes, secret);
            // Several words may be one secret, and each of them one as well: nobody knows in a file that is not sound.
            for word in secret.split(u8::is_ascii_whitespace).filter(|word| word.len() < secret.len()) {
                overwrite_copies(&mut bytes, word);
            }
        }
        let within = |at: usize| at.clamp(start, end) - start;
        let quote = Quote::of(line, &bytes, within(meant.start), within(meant.end));
        Some(quote.between(start > whole.start, end < whole.end))
    }

    /// The part of a long line that is shown.
    fn cut(&self, line: &Range<usize>, meant: &Range<usize>) -> Range<usize> {
        let start = meant.start.saturating_sub(CONTEXT).max(line.start);
        let end = (meant.end.min(meant.start + CONTEXT) + CONTEXT).min(line.end);
        let is_inside = |at: &usize| self.text.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
        // Whole characters: four bytes at most.
        let start = (start..meant.start).find(|at| !is_inside(at)).unwrap_or(start);
        start..(end..line.end).find(|at| !is_inside(at)).unwrap_or(end)
    }
}

/// Overwrites the same secret elsewhere on the line: in a comment that says what it was, or under another key.
fn overwrite_copies(line: &mut [u8], secret: &[u8]) {
    let secret = secret.strip_prefix(b"\"").map_or(secret, |rest| rest.strip_suffix(b"\"").unwrap_or(rest));
    if !(SHORTEST_COPY..=line.len()).contains(&secret.len()) {
        return;
    }
    for at in 0..=line.len() - secret.len() {
        if line[at..].starts_with(secret) {
            line[at..at + secret.len()].fill(b'*');
        }
    }
}

/// A character starts at every byte that continues none. Comments need not be UTF-8, so this is all there is to go by.
fn count_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

impl Quote {
    /// Bytes that are no UTF-8 are replaced, and the marked part moves with them.
    fn of(line: usize, bytes: &[u8], start: usize, end: usize) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (before, marked, after) = (text(&bytes[..start]), text(&bytes[start..end]), text(&bytes[end..]));
        let (start, end) = (before.len(), before.len() + marked.len());
        Self { line, text: before + &marked + &after, start, end, cut: false }
    }

    /// The same with signs where the line was cut.
    fn between(mut self, before: bool, after: bool) -> Self {
        if before {
            self.text.insert_str(0, CUT);
            (self.start, self.end) = (self.start + CUT.len(), self.end + CUT.len());
        }
        if after {
            self.text.push_str(CUT);
        }
        Self { cut: before || after, ..self }
    }
}
