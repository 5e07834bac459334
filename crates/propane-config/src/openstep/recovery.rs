//! Mistakes: how they are told, and where the reader goes on after them.

use crate::document::{Content, Fault, Node, Span};

use super::lexer::span;
use super::{BARE, Read, Reader};

/// Mistakes after which the rest of a file is not read: it is something else than a property list.
const MAX_FAULTS: usize = 10;

impl Reader<'_> {
    /// Remembers a mistake that the reader can go on after. Hands it back if it cannot.
    pub(super) fn note(&mut self, mut fault: Fault) -> Read<()> {
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
    pub(super) fn after_end(&self, found: u8, first: &Node<'_>) -> Fault {
        let span = self.character();
        match (found, &first.content) {
            (b';', Content::Dict(_)) => {
                self.fault(span, "more text after the end", "", Some("no ';' follows the last '}' of a file"))
            }
            (_, Content::Text(text)) if text.is_empty() => self.unexpected(span, "a value"),
            (_, Content::Text(text)) => {
                let help = if text.ends_with(':') { hint(b':') } else { hint(found) };
                self.fault(span, "expected '=' or the end of the file", "", help)
            }
            _ => self.fault(span, "more text after the end", "", None),
        }
    }

    /// Notes why an entry cannot be read, and goes on at the next one.
    pub(super) fn give_up_entry(&mut self, fault: Fault) -> Read<()> {
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

    /// What follows the value at `value..end` is neither `;` nor the end of its dictionary. Notes that, goes on at the
    /// next entry, and says whether the value was a whole one.
    pub(super) fn goes_on_without_semicolon(&mut self, value: usize, end: usize, found: Option<u8>) -> Read<bool> {
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

    pub(super) fn unexpected(&self, span: Span, wanted: &str) -> Fault {
        let found = self.peek().and_then(hint);
        self.fault(span, &format!("expected {wanted}"), "", found)
    }

    pub(super) fn fault(&self, span: Span, message: &str, label: &str, help: Option<&str>) -> Fault {
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

/// Whether what follows can be text that somebody wrote. Anything else is no slip of a hand, and nothing to read on in.
fn is_text(rest: &[u8]) -> bool {
    let near = &rest[..rest.len().min(64)];
    let is_control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    // A character that is cut off at the end is one all the same.
    let is_utf8 = std::str::from_utf8(near).err().is_none_or(|error| error.error_len().is_none());
    is_utf8 && !near.iter().any(is_control)
}

/// What people who write this character usually have in mind.
pub(super) fn hint(found: u8) -> Option<&'static str> {
    match found {
        b'\'' => Some("text is quoted with double quotes"),
        b'[' | b']' => Some("a list is written ( a, b )"),
        b',' => Some("entries of a dictionary end with ';'"),
        b':' => Some("a dictionary is written { key = value; }"),
        b'$' | b'{' | b'}' | b'\\' | b'`' | b'<' | b'>' => Some("text with this character needs double quotes"),
        0x80.. => Some("text with characters outside ASCII needs double quotes"),
        byte if BARE[usize::from(byte)] => Some("text with spaces needs double quotes"),
        _ => None,
    }
}
