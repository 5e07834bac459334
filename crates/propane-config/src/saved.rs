//! The saved form of a resolution: what `config print --format json` writes, and what reads it back.
//!
//! Both sides share the structs here. A reader takes what it knows and leaves the rest, so that a later version may add
//! fields under the same format name.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::layer::{Layer, LayerKind, Leaf};
use crate::names;
use crate::origin::Origin;
use crate::settings::{DefaultValue, Reload, ResolvedConfig, SETTINGS};
use crate::stack::Stack;
use crate::value::{Value, shorten};

/// The name and version of the form.
pub const FORMAT: &str = "propane-config/1";

/// The largest saved document that is read, in bytes: one with as many values as a file may have.
pub const MAX_BYTES: u64 = 64 << 20;

/// A resolution as it was saved.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Saved {
    /// Name of the environment it was resolved for.
    pub environment: String,
    /// What was saved, in the order of the document. Values that were masked stay so.
    pub settings: Vec<SavedSetting>,
}

/// A setting, an option or a key of the app's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSetting {
    /// Its key.
    pub key: String,
    /// Its value; `None` where each worker has its own default.
    pub value: Option<Value>,
    /// Name of its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where the value came from.
    pub origin: Origin,
    /// What lost against it, from the nearest layer down.
    #[serde(default)]
    pub overrides: Vec<SavedOverride>,
    /// Whether its value is masked, wholly or in part.
    pub secret: bool,
    /// What a reload does with a change.
    pub reload: Reload,
}

/// A value that lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedOverride {
    /// The value.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// Why a document could not be read. Each is a clause to follow the document's name.
#[derive(Debug, Error)]
pub enum SavedError {
    /// It cannot be read at all.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// Nobody saves that much.
    #[error("is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    /// It ends before it is complete.
    #[error("is cut short: it ends at line {line}, column {column}")]
    Truncated {
        /// Where it ends.
        line: usize,
        /// Where it ends.
        column: usize,
    },
    /// It is no JSON.
    #[error("is no JSON: {0}")]
    NotJson(serde_json::Error),
    /// It is JSON, but of something else or of another version.
    #[error("is no saved configuration of the format {FORMAT}{}; save one with `propane config print --format json`", found(.0.as_deref()))]
    Format(Option<String>),
    /// It has the right name and lacks what belongs to it.
    #[error("is no sound {FORMAT} document: {0}")]
    Shape(serde_json::Error),
    /// A key stands in it twice.
    #[error("holds {0} twice")]
    Twice(String),
    /// A setting is missing, because only some were saved.
    #[error("does not hold {0}: it was not saved whole")]
    Partial(&'static str),
    /// A setting holds what it cannot.
    #[error("holds {key} = {value}, which must be {expected}")]
    Value {
        /// Its key.
        key: &'static str,
        /// What it holds.
        value: Value,
        /// What it may hold.
        expected: String,
    },
}

fn found(format: Option<&str>) -> String {
    format.map_or(String::new(), |format| format!(", but of {}", shorten(format)))
}

/// The name that a document gives itself.
#[derive(Deserialize)]
struct Header {
    format: String,
}

/// Reads a saved document from a file or a pipe.
pub fn load(path: &Path) -> Result<Saved, SavedError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES { Err(SavedError::TooLarge) } else { read(&bytes) }
}

/// Reads a saved document.
pub fn read(bytes: &[u8]) -> Result<Saved, SavedError> {
    let header: Result<Header, _> = serde_json::from_slice(bytes);
    match header {
        Ok(Header { format }) if format == FORMAT => {}
        Ok(Header { format }) => return Err(SavedError::Format(Some(format))),
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            return Err(match error.classify() {
                serde_json::error::Category::Eof => SavedError::Truncated { line, column },
                serde_json::error::Category::Data => SavedError::Format(None),
                _ => SavedError::NotJson(error),
            });
        }
    }
    let saved: Saved = serde_json::from_slice(bytes).map_err(SavedError::Shape)?;
    let mut keys: Vec<_> = saved.settings.iter().map(|setting| &setting.key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(SavedError::Twice(pair[0].clone())),
        None => Ok(saved),
    }
}

impl Saved {
    /// A setting, option or app's key by its name.
    pub fn setting(&self, key: &str) -> Option<&SavedSetting> {
        self.settings.iter().find(|setting| setting.key == key)
    }

    /// The configuration that was saved, masked values as they are. Fails unless every setting of the table was saved.
    pub fn config(&self) -> Result<ResolvedConfig, SavedError> {
        let mut layer = Layer::new(LayerKind::Derived);
        for saved in &self.settings {
            let Some((row, value)) = names::setting_of(&saved.key).zip(saved.value.as_ref()) else { continue };
            let value = row.kind.accept(value).map_err(|_| SavedError::Value {
                key: row.key,
                value: value.clone(),
                expected: row.kind.expected(),
            })?;
            layer.leaves.insert(row.key, Leaf { value, origin: saved.origin.clone(), span: None });
        }
        let is_missing = |key| !layer.leaves.contains_key(key);
        match SETTINGS.iter().find(|row| row.default != DefaultValue::Workers && is_missing(row.key)) {
            Some(row) => Err(SavedError::Partial(row.key)),
            None => Ok(Stack::new([&layer]).merge()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        read(text.as_bytes()).map(|_| ()).expect_err(text).to_string()
    }

    #[test]
    fn what_is_no_saved_configuration_says_what_it_is() {
        for (text, said) in [
            ("", "is cut short: it ends at line 1, column 0"),
            ("{\"format\": \"propane-config/1\",\n \"environment\"", "is cut short: it ends at line 2, column 14"),
            ("{ port = 3000; }", "is no JSON: key must be a string at line 1 column 3"),
            (
                "[1]",
                "is no saved configuration of the format propane-config/1; save one with `propane config print --format json`",
            ),
            (
                "{\"format\": \"propane-config/2\"}",
                "is no saved configuration of the format propane-config/1, but of \"propane-config/2\"; \
                 save one with `propane config print --format json`",
            ),
            (
                "{\"format\": \"propane-config/1\", \"environment\": \"e\"}",
                "is no sound propane-config/1 document: missing field `settings` at line 1 column 50",
            ),
        ] {
            assert_eq!(error(text), said, "{text}");
        }
    }

    fn document(settings: &str) -> String {
        format!(
            "{{\"later\": [], \"format\": \"{FORMAT}\", \"environment\": \"production\", \"settings\": [{settings}]}}"
        )
    }

    const PORT: &str = r#"{"key": "port", "type": "int", "value": 4000, "secret": false, "reload": "restart", "new": 1,
        "origin": {"kind": "file", "path": "config/app.plist", "line": 3, "column": 10},
        "overrides": [{"value": 3000, "origin": {"kind": "builtin"}}]}"#;

    #[test]
    fn unknown_fields_are_left_alone() {
        let saved = read(document(PORT).as_bytes()).expect("the document is sound");
        let port = saved.setting("port").expect("it was saved");
        assert_eq!((&port.value, port.origin.to_string().as_str()), (&Some(Value::Int(4000)), "config/app.plist:3:10"));
        assert_eq!(port.overrides[0].origin, Origin::Builtin);
    }

    #[test]
    fn a_document_with_holes_or_wrong_values_is_no_configuration() {
        assert_eq!(error(&document(&format!("{PORT}, {PORT}"))), "holds port twice");
        let wrong = error(&document(&PORT.replace("4000", "1.5")));
        assert!(wrong.contains("a whole number, true, false, text or a list of texts"), "{wrong}");
        let config = |settings: &str| read(document(settings).as_bytes()).expect(settings).config();
        let partial = config(PORT).expect_err("the rest is missing").to_string();
        assert_eq!(partial, "does not hold host: it was not saved whole");
        for value in ["0", "\"many\"", "[\"4000\"]", "true"] {
            let wrong = config(&PORT.replace("4000", value)).expect_err(value).to_string();
            assert!(wrong.ends_with("which must be a whole number from 1 to 65535"), "{wrong}");
        }
    }
}
