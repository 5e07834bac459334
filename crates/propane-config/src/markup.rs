//! XML property lists, read by the `plist` crate.
//!
//! The guards here come first, because the crate builds whatever a file describes: they bound depth and number of values,
//! and refuse the features that the crate drops without a word. What it drops of a sound file is told afterwards.

use std::collections::HashMap;

use crate::document::{Document, Fault, MAX_DEPTH, MAX_VALUES, Node, Remark, RemarkKind, Remarks, Span};
use crate::names::screaming;

pub(crate) fn read(text: &[u8]) -> Result<Document<'static>, Fault> {
    check(text)?;
    let value = plist::Value::from_reader_xml(text).map_err(|error| unsound(&error.to_string()))?;
    Ok(Document { root: Node::from_plist(value), remarks: duplicate_keys(text) })
}

/// The crate's `InvalidIntegerString (offset 209)` in words, at the end of what it had read by then.
fn unsound(error: &str) -> Fault {
    let offset = error.strip_suffix(')').and_then(|error| error.rsplit_once(" (offset "));
    let (what, end) = offset.map_or((error, None), |(what, offset)| (what, offset.parse::<u32>().ok()));
    let span = end.and_then(|end| Some(Span { start: end.checked_sub(1)?, end }));
    let what = screaming(what).replace('_', " ").replace("  ", " ").to_ascii_lowercase();
    let subject = if span.is_some() { "this " } else { "" };
    let help = what.contains("utf8").then(|| "save the file as UTF-8".to_owned());
    Fault { span, help, ..Fault::nowhere(format!("{subject}is not a sound property list: {what}")) }
}

/// The keys that stand twice in one dictionary of a sound text, of which the crate keeps the last.
fn duplicate_keys(text: &[u8]) -> Vec<Remark> {
    let mut remarks = Remarks::default();
    let mut open: Vec<HashMap<&[u8], Span>> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
        let tag = &rest[at..];
        rest = after(tag, if tag.starts_with(b"<!--") { b"-->" } else { b">" });
        match &tag[..tag.len() - rest.len()] {
            b"</dict>" => drop(open.pop()),
            opening if opening.starts_with(b"<dict") && !opening.ends_with(b"/>") => open.push(HashMap::new()),
            opening if opening.starts_with(b"<key") => {
                let key = &rest[..rest.iter().position(|byte| *byte == b'<').unwrap_or(rest.len())];
                let span = span_of(text.len() - rest.len(), key.len());
                if let Some(first) = open.last_mut().and_then(|keys| keys.insert(key, span)) {
                    let key = String::from_utf8_lossy(key).into_owned();
                    remarks.add(first, RemarkKind::DuplicateKey { key, again: span });
                }
            }
            _ => {}
        }
    }
    remarks.finish(span_of(text.len(), 0))
}

/// Files are small enough for it.
fn span_of(start: usize, length: usize) -> Span {
    let at = |place| u32::try_from(place).unwrap_or(u32::MAX);
    Span { start: at(start), end: at(start + length) }
}

/// Looks at the markup without understanding all of it: enough to bound it, and to see what the crate would drop.
fn check(text: &[u8]) -> Result<(), Fault> {
    let refuse = |what: &str| Err(Fault::nowhere(format!("has {what}, which is not supported in a property list")));
    let (mut depth, mut values) = (0_usize, 0_usize);
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'<' | b'&')) {
        rest = &rest[at..];
        match rest {
            [b'<', b'!', b'-', b'-', ..] => rest = after(rest, b"-->"),
            [b'<', b'!', b'[', ..] => return refuse("a CDATA section"),
            [b'<', b'!', ..] if declares_entities(rest) => return refuse("an internal document type"),
            [b'&', ..] if !is_known_entity(rest) => return refuse("an entity of its own"),
            [b'<', b'/', ..] => (depth, rest) = (depth.saturating_sub(1), &rest[2..]),
            [b'<', b'!' | b'?', ..] => rest = after(rest, b">"),
            [b'&', ..] => rest = &rest[1..],
            _ => {
                let tag = &rest[..rest.len() - after(rest, b">").len()];
                depth += usize::from(!tag.ends_with(b"/>"));
                values += 1;
                rest = &rest[tag.len()..];
            }
        }
        // The document element and the leaf's own tag are no nesting.
        if depth > MAX_DEPTH + 2 {
            return Err(Fault::nowhere(format!("is nested deeper than {MAX_DEPTH}")));
        }
        if values > MAX_VALUES {
            return Err(Fault::nowhere("describes more values than a configuration can need"));
        }
    }
    Ok(())
}

/// The text after the first `end`, which is nothing if there is none.
fn after<'a>(text: &'a [u8], end: &[u8]) -> &'a [u8] {
    text.windows(end.len()).position(|window| window == end).map_or(&[], |at| &text[at + end.len()..])
}

fn declares_entities(markup: &[u8]) -> bool {
    markup.iter().take_while(|byte| **byte != b'>').any(|byte| *byte == b'[') || markup.starts_with(b"<!ENTITY")
}

fn is_known_entity(text: &[u8]) -> bool {
    ["&lt;", "&gt;", "&amp;", "&quot;", "&apos;", "&#"].iter().any(|known| text.starts_with(known.as_bytes()))
}
