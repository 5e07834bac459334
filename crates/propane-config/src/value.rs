//! Typed values of settings, and how the text of a layer becomes them.
//!
//! Every layer but XML and binary property lists knows only text, so the setting's own type decides how that text is
//! read. What does not fit is a [`Misfit`], never a default.

use std::fmt;

use serde::de::{SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use crate::document::Content;
use crate::embedded::mask_within;
use crate::names;

/// A resolved value, typed as its setting says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// YES or NO.
    Bool(bool),
    /// Free text, or one of the words of a choice.
    Text(String),
    /// A list of words.
    List(Vec<String>),
}

/// What a setting accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within these bounds, both included.
    Int {
        /// Smallest accepted value.
        min: i64,
        /// Largest accepted value.
        max: i64,
    },
    /// YES or NO, in any of the spellings of [`read_bool`].
    Bool,
    /// Text of a certain shape.
    Text(Shape),
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A list of words; separated by commas where a layer has only text.
    List,
}

/// What text a [`Kind::Text`] accepts. None of them may hold a NUL, which neither an argument nor a variable can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Any text, the empty one included.
    Any,
    /// At least one character that is not a space.
    NonEmpty,
    /// The path of a file or directory.
    Path,
    /// Empty, or an octal file mode of up to four digits.
    Octal,
    /// Empty, or the path of a URL: starts with `/`, holds no spaces and no control characters.
    UrlPath,
}

/// Why a value was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Of the right type, but outside what the setting accepts.
    pub out_of_range: bool,
    /// What is wrong with the value, to stand under it: `0 is below the minimum`.
    pub label: String,
    /// What was probably meant.
    pub meant: Option<&'static str>,
}

impl Kind {
    /// The type's name in machine-readable output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int { .. } => "int",
            Self::Bool => "bool",
            Self::Text(_) => "string",
            Self::Choice(_) => "enum",
            Self::List => "list",
        }
    }

    /// What the setting accepts, to follow "expected".
    pub fn expected(self) -> String {
        match self {
            Self::Int { min, max } => format!("a whole number from {min} to {max}"),
            Self::Bool => "YES or NO".to_owned(),
            Self::Text(Shape::Any) => "text".to_owned(),
            Self::Text(Shape::NonEmpty) => "text that is not empty".to_owned(),
            Self::Text(Shape::Path) => "a path".to_owned(),
            Self::Text(Shape::Octal) => "an octal file mode such as 027, or nothing".to_owned(),
            Self::Text(Shape::UrlPath) => "a path that starts with /, or nothing".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::List => "a list of words".to_owned(),
        }
    }

    /// Reads a value from a layer that has only text: the environment and the command line.
    pub fn read_text(self, text: &str) -> Result<Value, Misfit> {
        match self {
            Self::List => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                read_words(words.map(str::to_owned).collect())
            }
            _ => self.read_scalar(text),
        }
    }

    /// A value that is typed already, if the setting can hold it.
    pub(crate) fn accept(self, value: &Value) -> Result<Value, Misfit> {
        match (self, value) {
            (Self::List, Value::List(_)) | (Self::Bool, Value::Bool(_)) => Ok(value.clone()),
            (Self::Int { .. }, Value::Int(number)) => self.read_scalar(&number.to_string()),
            (Self::Text(_) | Self::Choice(_), Value::Text(text)) => self.read_scalar(text),
            (_, other) => Err(Misfit::new(format!("found {other}"))),
        }
    }

    /// Reads a value from a property list.
    pub(crate) fn read_content(self, content: &Content<'_>) -> Result<Value, Misfit> {
        match (self, content) {
            (Self::List, Content::Array(items)) => {
                items.iter().map(|item| read_word(&item.content)).collect::<Result<_, _>>().and_then(read_words)
            }
            (Self::List, other) => Err(Misfit::type_of(other)),
            (_, Content::Text(text)) => self.read_scalar(text),
            (_, Content::Typed(value)) => self.read_typed(value).ok_or_else(|| Misfit::type_of(content))?,
            (_, other) => Err(Misfit::type_of(other)),
        }
    }

    /// A typed scalar of a property list. `None` if its type does not suit the setting at all.
    fn read_typed(self, value: &plist::Value) -> Option<Result<Value, Misfit>> {
        match (self, value) {
            (Self::Bool, plist::Value::Boolean(on)) => Some(Ok(Value::Bool(*on))),
            // Whether 27 is meant as 027 or as 033 nobody can tell.
            (Self::Text(Shape::Octal), _) => None,
            (_, plist::Value::Integer(number)) => Some(self.read_scalar(&number.to_string())),
            _ => None,
        }
    }

    fn read_scalar(self, text: &str) -> Result<Value, Misfit> {
        match self {
            Self::Int { min, max } => read_int(text, min, max).map(Value::Int),
            Self::Bool => read_bool(text).map(Value::Bool).ok_or_else(|| Misfit::found(text)),
            Self::Text(shape) => shape.read(text).map(Value::Text),
            Self::Choice(words) => {
                let word = text.trim();
                words.iter().find(|choice| choice.eq_ignore_ascii_case(word)).map_or_else(
                    || {
                        let meant = names::nearest(word, words.iter().copied());
                        Err(Misfit { out_of_range: true, meant, ..Misfit::found(text) })
                    },
                    |choice| Ok(Value::Text((*choice).to_owned())),
                )
            }
            Self::List => Err(Misfit::found(text)),
        }
    }
}

impl Shape {
    fn read(self, text: &str) -> Result<String, Misfit> {
        let wrong = |label: &str| Err(Misfit::out_of_range(label));
        match self {
            _ if text.contains('\0') => wrong("contains a NUL character"),
            Self::NonEmpty | Self::Path if text.trim().is_empty() => wrong("is empty"),
            Self::Octal if text.len() > 4 || !text.bytes().all(|digit| matches!(digit, b'0'..=b'7')) => {
                wrong("is not an octal file mode")
            }
            Self::UrlPath if !text.is_empty() && !text.starts_with('/') => wrong("does not start with /"),
            Self::UrlPath if text.contains(|c: char| c.is_whitespace() || c.is_control()) => {
                wrong("contains a space or a control character")
            }
            _ => Ok(text.to_owned()),
        }
    }
}

impl Misfit {
    pub(crate) fn new(label: impl Into<String>) -> Self {
        Self { out_of_range: false, label: label.into(), meant: None }
    }

    fn out_of_range(label: impl Into<String>) -> Self {
        Self { out_of_range: true, ..Self::new(label) }
    }

    fn found(text: &str) -> Self {
        Self::new(format!("found {}", shorten(&mask_within(text))))
    }

    fn type_of(content: &Content<'_>) -> Self {
        Self::new(format!("found {}", content.describe()))
    }
}

/// The spellings of a boolean, in any case. The set is Arlen's own for its command line and its JSON.
const YES: [&str; 4] = ["yes", "true", "on", "1"];
const NO: [&str; 4] = ["no", "false", "off", "0"];

/// All spellings of a boolean.
pub(crate) fn switch_words() -> impl Iterator<Item = &'static str> {
    YES.into_iter().chain(NO)
}

/// Reads a boolean.
pub(crate) fn read_bool(text: &str) -> Option<bool> {
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.trim().eq_ignore_ascii_case(word));
    match (is_one_of(&YES), is_one_of(&NO)) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

fn read_int(text: &str, min: i64, max: i64) -> Result<i64, Misfit> {
    let digits = text.trim();
    let unsigned = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Misfit::found(text));
    }
    // Digits that overflow are out of any range a setting can have.
    let number = digits.parse().unwrap_or(if digits.starts_with('-') { i64::MIN } else { i64::MAX });
    let side = match number {
        _ if number < min => "below the minimum",
        _ if number > max => "above the maximum",
        _ => return Ok(number),
    };
    Err(Misfit::out_of_range(format!("{} is {side}", shorten(digits).trim_matches('"'))))
}

fn read_word(content: &Content<'_>) -> Result<String, Misfit> {
    match content {
        Content::Text(text) => Shape::Any.read(text),
        Content::Typed(value) if value.as_signed_integer().is_some() => {
            Ok(value.as_signed_integer().unwrap_or_default().to_string())
        }
        other => Err(Misfit::type_of(other)),
    }
}

/// A list goes to workers as one variable, its words separated by commas and spaces around them dropped. What would
/// arrive as something else is refused; an empty variable is an unset one, which workers take for all extensions.
fn read_words(words: Vec<String>) -> Result<Value, Misfit> {
    let is_kept = |word: &String| !word.is_empty() && word.trim() == word && !word.contains(',');
    if words.is_empty() {
        return Err(Misfit::out_of_range("is empty"));
    }
    if !words.iter().all(is_kept) {
        return Err(Misfit::out_of_range("has a word that is empty, holds a comma, or begins or ends with a space"));
    }
    Ok(Value::List(words))
}

/// The value as a message quotes it; long ones are cut, because a message is one line.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    format!("{:?}…", text.chars().take(LONGEST).collect::<String>())
}

/// As a property list writes it, which is how people know these values: `YES`, `3000`, `"a b"`, `(css, js)`.
impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(out, "{number}"),
            Self::Bool(on) => out.write_str(if *on { "YES" } else { "NO" }),
            Self::Text(text) => out.write_str(&crate::openstep::quoted(text)),
            Self::List(words) => {
                let words: Vec<_> = words.iter().map(|word| crate::openstep::quoted(word)).collect();
                write!(out, "({})", words.join(", "))
            }
        }
    }
}

impl Value {
    /// As a variable of the environment carries it: booleans as 0 and 1, lists separated by commas.
    pub fn to_variable(&self) -> String {
        match self {
            Self::Int(number) => number.to_string(),
            Self::Bool(on) => u8::from(*on).to_string(),
            Self::Text(text) => text.clone(),
            Self::List(words) => words.join(","),
        }
    }
}

/// By its JSON type, which tells all of them apart.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a whole number, true, false, text or a list of texts")
    }

    fn visit_bool<E>(self, on: bool) -> Result<Value, E> {
        Ok(Value::Bool(on))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Value, E> {
        let number = i64::try_from(number);
        number.map(Value::Int).map_err(|_| E::custom("a number of more than 63 bits"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(items)).map(Value::List)
    }
}
