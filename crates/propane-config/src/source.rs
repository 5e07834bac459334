//! The text of a file, to say where something stands in it and to quote it.

use std::cell::OnceCell;
use std::ops::Range;

use serde::Serialize;

use crate::document::Span;
use crate::origin::{Origin, Position};
use crate::secrets::secret_spans;

/// A line this long is not quoted: it was not written by hand, and its column says where to look.
const LONGEST_QUOTE: usize = 400;

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
    secrets: OnceCell<Vec<Range<usize>>>,
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
}

impl<'a> Source<'a> {
    pub(crate) fn new(path: &'a str, bytes: &'a [u8]) -> Self {
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
            secrets: OnceCell::new(),
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

    /// The line of `span`, or of its first line where it has several.
    pub(crate) fn quote(&self, span: Option<Span>) -> Option<Quote> {
        let span = span?;
        let (line, start) = self.line_of(span);
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        let end = end - usize::from(self.text[start..end].ends_with(b"\r"));
        if end - start > LONGEST_QUOTE {
            return None;
        }
        let mut bytes = self.text[start..end].to_vec();
        for secret in self.secrets.get_or_init(|| secret_spans(self.text)) {
            for at in secret.start.max(start)..secret.end.min(end) {
                bytes[at - start] = b'*';
            }
        }
        let within = |at: u32| (at as usize).clamp(start, end) - start;
        Some(Quote::of(line, &bytes, within(span.start), within(span.end)))
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
        Self { line, text: before + &marked + &after, start, end }
    }
}
