//! The OpenStep reader: any text is read or refused, and whatever it points at lies in the text.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use propane_config::document::{Content, Node, Reading, Span, examine};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    // Other forms have a target of their own.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_foreign = |start: &&[u8]| text.trim_ascii_start().starts_with(start);
    if bytes.starts_with(b"bplist00") || [b"<?xml".as_slice(), b"<!DOCTYPE", b"<plist"].iter().any(is_foreign) {
        return Corpus::Reject;
    }
    let Reading { document, faults } = examine(bytes);
    assert!(document.is_some() || !faults.is_empty());
    for fault in faults {
        check_span(fault.span.expect("a fault of a text has its place"), text);
        fault.found.into_iter().for_each(|found| check_span(found, text));
        assert!(!fault.message.is_empty());
    }
    if let Some(document) = document {
        document.remarks.iter().for_each(|remark| check_span(remark.span, text));
        check(&document.root, text, 0);
    }
    Corpus::Keep
});

fn check(node: &Node<'_>, text: &[u8], depth: usize) {
    assert!(depth <= propane_config::document::MAX_DEPTH + 1);
    check_span(node.span.expect("a value of a text has its place"), text);
    match &node.content {
        Content::Array(items) => items.iter().for_each(|item| check(item, text, depth + 1)),
        Content::Dict(entries) => {
            for entry in entries {
                check_span(entry.key_span.expect("a key of a text has its place"), text);
                check(&entry.value, text, depth + 1);
            }
        }
        Content::Text(_) | Content::Typed(_) => {}
    }
}

fn check_span(span: Span, text: &[u8]) {
    assert!(span.start <= span.end && span.end as usize <= text.len(), "{span:?} of {}", text.len());
}
