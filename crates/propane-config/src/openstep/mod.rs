//! The OpenStep (ASCII) property list, with a position for every key and value.
//!
//! It follows GNUstep's reader, because Arlen's workers read the same file with that. It differs on purpose, and always
//! with a position: a top level without braces is read, duplicate keys and empty values are remarked on, and keys that
//! are not strings, lone surrogates and garbage in typed values are errors.

mod data;
mod found;
mod grammar;
mod lexer;
mod recovery;
mod writing;

use std::borrow::Cow;

use crate::document::{Document, Fault, Reading, Span};

pub(crate) use data::unescape;
use found::Found;
pub use writing::{always_quoted, quoted, scalar};

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
    let (remarks, faults) = reader.found.finish(end);
    Reading { document: root.map(|root| Document { root, remarks }), faults }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    values: usize,
    found: Found,
}

type Read<T> = Result<T, Fault>;
type Key<'a> = (Cow<'a, str>, Span);
