//! How a property list writes texts and typed values.

use std::borrow::Cow;
use std::fmt::Write;

use super::{BARE, data};

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
