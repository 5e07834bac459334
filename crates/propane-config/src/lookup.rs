//! The setting that somebody means by a name: a key, the last part of one, a variable or a flag.

use std::fmt;

use crate::names::{self, nearest};
use crate::resolve::{Resolution, ResolvedSetting};
use crate::settings::{LEGACY_PREFIX, OPTIONS, PREFIX, SETTINGS, Setting};
use crate::value::shorten;

/// The most candidates that a message names.
const MOST_NAMED: usize = 8;

/// A name that nothing has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSuchName {
    /// What is wrong with it.
    pub message: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl Resolution {
    /// The setting, option or key of the app that is called so: `propaneAccessories.workerCount`, `workerCount` if nothing
    /// else ends so, `ARLEN_PROPANE_WORKERS` with or without `$` and braces, or `--workers`.
    pub fn find(&self, name: &str) -> Result<&ResolvedSetting, NoSuchName> {
        match Name::of(name) {
            Name::Variable(variable) => self.of_row(by_variable(variable)?),
            Name::Flag(flag) => self.of_row(by_flag(flag)?),
            Name::Key(key) => self.by_key(key),
        }
    }

    fn of_row(&self, row: &Setting) -> Result<&ResolvedSetting, NoSuchName> {
        // Every row has its setting in every resolution, set or not.
        self.setting(row.key).ok_or_else(|| NoSuchName::new("key", row.key, None))
    }

    fn by_key(&self, key: &str) -> Result<&ResolvedSetting, NoSuchName> {
        if let Some(setting) = self.setting(key) {
            return Ok(setting);
        }
        let is_called_so = |setting: &&ResolvedSetting| {
            [last_part(&setting.key), &setting.key].iter().any(|name| *name == key || unquoted(name) == key)
        };
        let called_so: Vec<_> = self.settings.iter().filter(is_called_so).collect();
        match called_so.as_slice() {
            [setting] => Ok(setting),
            [] => Err(self.no_such_key(key)),
            several => Err(NoSuchName {
                message: format!("there are several keys {}", readable(key)),
                suggestion: Some(format!("name one of {}", listed(several))),
            }),
        }
    }

    /// What to say about a key that does not exist.
    pub fn no_such_key(&self, key: &str) -> NoSuchName {
        let under: Vec<_> = self.settings.iter().filter(|setting| is_under(&setting.key, key)).collect();
        if !under.is_empty() {
            let message = format!("{} is a group of keys", readable(key));
            return NoSuchName { message, suggestion: Some(format!("name one of {}", listed(&under))) };
        }
        NoSuchName::new("key", key, self.key_meant(key))
    }

    fn key_meant(&self, key: &str) -> Option<String> {
        let keys = || self.settings.iter().map(|setting| setting.key.as_str());
        let last = |name: &str| keys().find(|key| last_part(key) == name);
        let as_flag = || Some(format!("--{}", rows().filter_map(|row| row.flag).find(|flag| *flag == key)?));
        let is_it =
            |name: &str| name.eq_ignore_ascii_case(key.trim()) || unquoted(name).eq_ignore_ascii_case(key.trim());
        let same = |other: &&str| is_it(other) || is_it(last_part(other));
        let near = || nearest(key, keys()).or_else(|| last(nearest(key, keys().map(last_part))?));
        keys().find(same).map(ToOwned::to_owned).or_else(as_flag).or_else(|| near().map(ToOwned::to_owned))
    }
}

/// Whether `key` is `prefix` or stands in it.
pub fn is_under(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// `there is no key workerCuont; did you mean propaneAccessories.workerCount?`
impl fmt::Display for NoSuchName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)?;
        self.suggestion.as_ref().map_or(Ok(()), |suggestion| write!(out, "; {suggestion}"))
    }
}

impl NoSuchName {
    fn new(what: &str, name: &str, meant: Option<String>) -> Self {
        let suggestion = meant.map(|meant| names::did_you_mean(&meant));
        Self { message: format!("there is no {what} {}", readable(name)), suggestion }
    }
}

/// What kind of name it is.
enum Name<'n> {
    Variable(&'n str),
    Flag(&'n str),
    Key(&'n str),
}

impl<'n> Name<'n> {
    fn of(name: &'n str) -> Self {
        let bare = name.strip_prefix('$').map(|rest| {
            let inner = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            inner.unwrap_or(rest)
        });
        let is_ours = |name: &str| [PREFIX, LEGACY_PREFIX].iter().any(|prefix| name.starts_with(prefix));
        match (bare, name.strip_prefix("--")) {
            (Some(variable), _) => Self::Variable(variable),
            (None, Some(flag)) => Self::Flag(flag.split_once('=').map_or(flag, |(flag, _)| flag)),
            (None, None) if is_ours(name) => Self::Variable(name),
            (None, None) => Self::Key(name),
        }
    }
}

fn rows() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().chain(OPTIONS)
}

fn by_variable(name: &str) -> Result<&'static Setting, NoSuchName> {
    if let Some(row) = rows().find(|row| row.variable == Some(name)) {
        return Ok(row);
    }
    if let Some(variable) =
        rows().find(|row| row.legacy_variable().as_deref() == Some(name)).and_then(|row| row.variable)
    {
        let message = format!("{name} is the deprecated name of {variable}");
        return Err(NoSuchName { message, suggestion: Some(format!("use {variable}")) });
    }
    let upper = name.to_ascii_uppercase();
    let with_prefix = if upper.starts_with(PREFIX) { upper } else { format!("{PREFIX}{upper}") };
    Err(NoSuchName::new("variable", name, names::variable_meant(&with_prefix).map(ToOwned::to_owned)))
}

fn by_flag(name: &str) -> Result<&'static Setting, NoSuchName> {
    let flags = || rows().filter_map(|row| row.flag);
    rows().find(|row| row.flag == Some(name)).ok_or_else(|| {
        let by_name =
            || rows().find(|row| row.name().eq_ignore_ascii_case(&name.replace('-', ""))).and_then(|row| row.flag);
        let meant = by_name().or_else(|| nearest(name, flags()));
        NoSuchName::new("flag", &format!("--{name}"), meant.map(|meant| format!("--{meant}")))
    })
}

/// What follows the last dot that does not stand in quotes.
fn last_part(key: &str) -> &str {
    let (mut start, mut in_quotes, mut escaped) = (0, false, false);
    for (at, character) in key.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_quotes => escaped = true,
            '"' => in_quotes = !in_quotes,
            '.' if !in_quotes => start = at + 1,
            _ => {}
        }
    }
    &key[start..]
}

/// The key as somebody types it who does not know that one of its parts is quoted.
fn unquoted(key: &str) -> String {
    key.replace('"', "")
}

fn listed(settings: &[&ResolvedSetting]) -> String {
    let named: Vec<_> = settings.iter().take(MOST_NAMED).map(|setting| setting.key.as_str()).collect();
    let more = if settings.len() > MOST_NAMED { ", …" } else { "" };
    format!("{}{more}", named.join(", "))
}

/// A name within a message: one that would not be seen, that is too long, or that could move the cursor, is quoted.
fn readable(name: &str) -> String {
    const LONGEST: usize = 60;
    let is_plain = !name.contains(char::is_control) && name.trim() == name && !name.is_empty() && name.len() <= LONGEST;
    if is_plain { name.to_owned() } else { shorten(name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Inputs, load};

    /// The key that is found, or what is said in its place.
    fn found(name: &str) -> String {
        match load(&Inputs::default()).find(name) {
            Ok(setting) => setting.key.clone(),
            Err(missing) => missing.to_string(),
        }
    }

    #[test]
    fn a_setting_answers_to_its_names() {
        for (name, key) in [
            ("propaneAccessories.workerCount", "propaneAccessories.workerCount"),
            ("workerCount", "propaneAccessories.workerCount"),
            ("ARLEN_PROPANE_WORKERS", "propaneAccessories.workerCount"),
            ("$ARLEN_PROPANE_WORKERS", "propaneAccessories.workerCount"),
            ("${ARLEN_PROPANE_WORKERS}", "propaneAccessories.workerCount"),
            ("--workers", "propaneAccessories.workerCount"),
            ("--workers=12", "propaneAccessories.workerCount"),
            ("name", "cluster.name"),
            ("pidFile", "pidFile"),
            ("--env", "environment"),
            ("$ARLEN_APP_ROOT", "appRoot"),
        ] {
            assert_eq!(found(name), key);
        }
    }

    #[test]
    fn other_names_are_answered_with_what_was_meant() {
        for (name, said) in [
            ("workerCuont", "there is no key workerCuont; did you mean propaneAccessories.workerCount?"),
            ("WORKERCOUNT", "there is no key WORKERCOUNT; did you mean propaneAccessories.workerCount?"),
            ("workers", "there is no key workers; did you mean --workers?"),
            ("MOJOOBJC_HOST", "MOJOOBJC_HOST is the deprecated name of ARLEN_HOST; use ARLEN_HOST"),
            ("$PORT", "there is no variable PORT; did you mean ARLEN_PORT?"),
            ("arlen_port", "there is no key arlen_port"),
            ("$arlen_port", "there is no variable arlen_port; did you mean ARLEN_PORT?"),
            ("ARLEN_WORKERS", "there is no variable ARLEN_WORKERS; did you mean ARLEN_PROPANE_WORKERS?"),
            ("--wrokers", "there is no flag --wrokers; did you mean --workers?"),
            ("--worker-count", "there is no flag --worker-count; did you mean --workers?"),
            (
                "requestLimits",
                "requestLimits is a group of keys; name one of requestLimits.maxRequestLineBytes, \
                requestLimits.maxHeaderBytes, requestLimits.maxBodyBytes",
            ),
            ("", "there is no key \"\""),
            ("$", "there is no variable \"\""),
            ("--", "there is no flag --"),
            ("a\u{1b}[2J", "there is no key \"a\\u{1b}[2J\""),
        ] {
            assert_eq!(found(name), said);
        }
    }

    #[test]
    fn the_last_part_of_a_key_may_be_quoted() {
        assert_eq!(last_part("a.b.c"), "c");
        assert_eq!(last_part("a.\"b.c\""), "\"b.c\"");
        assert_eq!(last_part("\"a.b\".c"), "c");
        assert_eq!(last_part("\"a\\\".b\""), "\"a\\\".b\"");
    }
}
