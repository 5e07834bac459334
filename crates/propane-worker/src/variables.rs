//! Reads settings out of environment variables, and reports everything that is wrong at once.
//!
//! Pure: the variables come in through a function, so that nothing here reads the process environment.

use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// What is wrong with one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable's name.
    pub variable: &'static str,
    /// Its value, as far as it is text.
    pub value: String,
    /// What was expected instead, to be read after "expected".
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {} but got {:?}", self.variable, self.expected, self.value)
    }
}

/// Every variable that could not be used, in the order in which they are read.
///
/// Its `Debug` form is the text for people, too, because that is what a `main` shows that returns it.
#[derive(Clone, PartialEq, Eq)]
pub struct BadVariables(pub Vec<Problem>);

impl fmt::Debug for BadVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for BadVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for BadVariables {}

/// A look at the variables that collects problems instead of stopping at the first.
pub(crate) struct Variables<'a> {
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
    problems: Vec<Problem>,
}

impl<'a> Variables<'a> {
    pub(crate) fn new(lookup: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self { lookup, problems: Vec::new() }
    }

    /// The value, where an empty variable is an unset one.
    pub(crate) fn raw(&self, name: &'static str) -> Option<OsString> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// The value as text; what is not UTF-8 is a problem.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        match self.raw(name)?.into_string() {
            Ok(text) => Some(text),
            Err(raw) => {
                self.problem(name, &raw.to_string_lossy(), "UTF-8 text");
                None
            }
        }
    }

    /// A whole number inside `range`.
    pub(crate) fn integer<T>(&mut self, name: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let text = self.text(name)?;
        match text.trim().parse::<T>() {
            Ok(value) if range.contains(&value) => Some(value),
            _ => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                self.problem(name, &text, &expected);
                None
            }
        }
    }

    /// A boolean in any of the spellings that the manager and Arlen accept.
    pub(crate) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        let text = self.text(name)?;
        match text.trim().to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Some(true),
            "0" | "false" | "no" | "off" => Some(false),
            _ => {
                self.problem(name, &text, "a boolean (1, true, yes, on, 0, false, no, off)");
                None
            }
        }
    }

    pub(crate) fn problem(&mut self, variable: &'static str, value: &str, expected: &str) {
        self.problems.push(Problem { variable, value: value.to_owned(), expected: expected.to_owned() });
    }

    /// The end of the reading: an error if anything was wrong.
    pub(crate) fn finish(self) -> Result<(), BadVariables> {
        if self.problems.is_empty() { Ok(()) } else { Err(BadVariables(self.problems)) }
    }
}
