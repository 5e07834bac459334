//! One property list as a tree whose keys and values know where they stand.
//!
//! The form is recognised here: binary and XML go through the `plist` crate behind the guards of [`crate::foreign`],
//! everything else through [`crate::openstep`]. Only the latter has positions for every value.

use std::borrow::Cow;

use crate::{foreign, markup, openstep};

/// The largest file that is read, in bytes. Real ones have a few kilobytes; this keeps a wrong path harmless.
pub const MAX_BYTES: usize = 4 << 20;
/// The most values in one file, which bounds memory where a value takes a single byte of text.
pub const MAX_VALUES: usize = 100_000;
/// The deepest nesting that is read. Everything that walks a tree may recurse, because of it.
pub const MAX_DEPTH: usize = 128;

/// Where a key or value stands: bytes of the text, without its byte order mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node<'a> {
    /// The value.
    pub content: Content<'a>,
    /// Where it stands; `None` in XML and binary files.
    pub span: Option<Span>,
}

/// A value of a property list.
#[derive(Debug, Clone, PartialEq)]
pub enum Content<'a> {
    /// Text, which is also what untyped numbers and booleans are.
    Text(Cow<'a, str>),
    /// A scalar that carries its type: never a string, an array or a dictionary.
    Typed(Box<plist::Value>),
    /// A list.
    Array(Vec<Node<'a>>),
    /// A dictionary, in the order of the file and without duplicates.
    Dict(Vec<Entry<'a>>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<'a> {
    /// The key.
    pub key: Cow<'a, str>,
    /// Where the key stands; `None` in XML and binary files.
    pub key_span: Option<Span>,
    /// Its value.
    pub value: Node<'a>,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Document<'a> {
    /// Its only value.
    pub root: Node<'a>,
    /// What is legal, but probably not meant.
    pub remarks: Vec<Remark>,
}

/// Something legal, but probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Where.
    pub span: Span,
    /// What.
    pub kind: RemarkKind,
}

/// The kinds of [`Remark`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemarkKind {
    /// The top-level dictionary has no braces.
    Braceless,
    /// A key that stands again further down in the same dictionary.
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it stands again.
        again: Span,
    },
    /// A value of which nothing is written.
    EmptyValue,
    /// A numeric escape that the closing quote cuts short, and that is dropped.
    CutEscape,
    /// A comment that the end of the file ends.
    OpenComment,
    /// More remarks than anyone reads were left out.
    AndMore(usize),
}

/// Remarks that are reported one by one; a file that earns more has one thing wrong with it many times.
const MAX_REMARKS: usize = 20;

/// The remarks on a file in the making.
#[derive(Default)]
pub(crate) struct Remarks {
    kept: Vec<Remark>,
    more: usize,
}

impl Remarks {
    pub(crate) fn add(&mut self, span: Span, kind: RemarkKind) {
        if self.kept.len() < MAX_REMARKS {
            self.kept.push(Remark { span, kind });
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn retain(&mut self, is_kept: impl Fn(&Remark) -> bool) {
        self.kept.retain(is_kept);
    }

    /// All of them, in a file that ends there.
    pub(crate) fn finish(mut self, end: Span) -> Vec<Remark> {
        if self.more > 0 {
            self.kept.push(Remark { span: end, kind: RemarkKind::AndMore(self.more) });
        }
        self.kept
    }
}

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where; `None` where the form has no positions.
    pub span: Option<Span>,
    /// What is wrong: `expected '='`.
    pub message: String,
    /// What stands there, to be written under it.
    pub label: String,
    /// How to mend it, where that can be guessed.
    pub help: Option<String>,
    /// What was found instead, where that is somewhere else.
    pub found: Option<Span>,
}

impl Fault {
    pub(crate) fn nowhere(message: impl Into<String>) -> Self {
        Self { span: None, message: message.into(), label: String::new(), help: None, found: None }
    }
}

/// What came of reading a file, mistakes included.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading<'a> {
    /// What could be read. Where there are faults, entries may be missing.
    pub document: Option<Document<'a>>,
    /// Why the file is no property list, in the order in which that was found. Without any, there is a document.
    pub faults: Vec<Fault>,
}

/// Reads a property list in any of its three forms.
pub fn read(bytes: &[u8]) -> Result<Document<'_>, Fault> {
    let Reading { document, faults } = examine(bytes);
    let nothing = || Fault::nowhere("holds nothing that can be read");
    faults.into_iter().next().map_or_else(|| document.ok_or_else(nothing), Err)
}

/// Reads a property list in any of its three forms, and as much as possible of one that has mistakes.
pub fn examine(bytes: &[u8]) -> Reading<'_> {
    if bytes.len() > MAX_BYTES {
        return Err(Fault::nowhere(format!("is larger than {} MiB", MAX_BYTES >> 20))).into();
    }
    if bytes.starts_with(b"bplist00") {
        return foreign::read_binary(bytes).into();
    }
    if let Some(encoding) = wide_encoding(bytes) {
        let (span, help) = (Some(Span { start: 0, end: 1 }), Some("save the file as UTF-8".to_owned()));
        return Err(Fault { span, help, ..Fault::nowhere(format!("the file is written in {encoding}")) }).into();
    }
    let text = without_bom(bytes);
    if looks_like_xml(text) {
        return markup::read(text).into();
    }
    openstep::read(text)
}

/// A reader that stops at the first mistake.
impl<'a> From<Result<Document<'a>, Fault>> for Reading<'a> {
    fn from(read: Result<Document<'a>, Fault>) -> Self {
        match read {
            Ok(document) => Self { document: Some(document), faults: Vec::new() },
            Err(fault) => Self { document: None, faults: vec![fault] },
        }
    }
}

/// The text after a UTF-8 byte order mark, which editors on Windows put there.
pub(crate) fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The encoding of a text whose characters have several bytes each: its byte order mark, or a first character whose other
/// bytes are zeros.
fn wide_encoding(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] | [1..=255, 0, 0, 0, ..] | [0, 0, 0, 1..=255, ..] => {
            Some("UTF-32")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [1..=255, 0, ..] | [0, 1..=255, ..] => Some("UTF-16"),
        _ => None,
    }
}

/// Whether what is secret in the text would be recognised: not between tags, and not in an encoding that is not read.
pub(crate) fn is_quotable(text: &[u8]) -> bool {
    !looks_like_xml(text) && wide_encoding(text).is_none()
}

fn looks_like_xml(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    ["<?xml", "<!DOCTYPE", "<plist"].iter().any(|start| text.starts_with(start.as_bytes()))
}

impl Content<'_> {
    /// What it is, to follow "found".
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Array(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Typed(value) => match **value {
                plist::Value::Boolean(true) => "YES",
                plist::Value::Boolean(false) => "NO",
                plist::Value::Integer(_) => "a whole number",
                plist::Value::Real(_) => "a real number",
                plist::Value::Date(_) => "a date",
                _ => "data",
            },
        }
    }

    /// The same value without positions.
    pub fn to_plist(&self) -> plist::Value {
        match self {
            Self::Text(text) => plist::Value::String(text.clone().into_owned()),
            Self::Typed(value) => (**value).clone(),
            Self::Array(items) => plist::Value::Array(items.iter().map(|item| item.content.to_plist()).collect()),
            Self::Dict(entries) => {
                let pairs =
                    entries.iter().map(|entry| (entry.key.clone().into_owned(), entry.value.content.to_plist()));
                plist::Value::Dictionary(pairs.collect())
            }
        }
    }
}

impl Node<'static> {
    /// A tree without positions, out of the `plist` crate's.
    pub(crate) fn from_plist(value: plist::Value) -> Self {
        let content = match value {
            plist::Value::String(text) => Content::Text(Cow::Owned(text)),
            plist::Value::Array(items) => Content::Array(items.into_iter().map(Self::from_plist).collect()),
            plist::Value::Dictionary(pairs) => Content::Dict(pairs.into_iter().map(Entry::from_plist).collect()),
            typed => Content::Typed(Box::new(typed)),
        };
        Self { content, span: None }
    }
}

impl Entry<'static> {
    fn from_plist((key, value): (String, plist::Value)) -> Self {
        Self { key: Cow::Owned(key), key_span: None, value: Node::from_plist(value) }
    }
}
