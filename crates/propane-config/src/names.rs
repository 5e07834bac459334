//! Names that are probably misspelt ones of ours.

use std::collections::HashMap;
use std::sync::LazyLock;

use strsim::damerau_levenshtein;

use crate::settings::{GROUPS, OPTIONS, PREFIX, SETTINGS, Setting};

/// The most letters that may differ between a name and what was meant by it.
const MOST_SLIPS: usize = 2;

/// Variables that propane gives to workers, so that a worker that starts propane passes them on to it.
const EXPORTED: [&str; 3] = ["ARLEN_PROPANE_PID", "ARLEN_WORKER_ID", "ARLEN_WORKER_GENERATION"];

/// Names of Arlen's own that are near one of ours.
const NEAR_MISSES_OF_ARLEN: [&str; 1] = ["ARLEN_ORM"];

static BY_KEY: LazyLock<HashMap<&str, &Setting>> =
    LazyLock::new(|| SETTINGS.iter().map(|setting| (setting.key, setting)).collect());

/// The row of a key.
pub(crate) fn setting_of(key: &str) -> Option<&'static Setting> {
    BY_KEY.get(key).copied()
}

/// The row of a key of the top level. A key with a dot in it is one of the app's own there, as it is to workers.
pub(crate) fn setting_at_top(key: &str) -> Option<&'static Setting> {
    setting_of(key).filter(|setting| setting.group().is_none())
}

/// The option that has this name, which no property list sets.
pub(crate) fn option_of(name: &str) -> Option<&'static Setting> {
    OPTIONS.iter().find(|option| option.key == name)
}

/// What to do instead of writing a key that changes nothing where it stands: an option, whose name no app has by chance,
/// or the way to a setting in one word.
pub(crate) fn instead_of(name: &str) -> Option<String> {
    let is_ours = |option: &&Setting| option.key.contains(|letter: char| letter.is_ascii_uppercase());
    let in_group = || setting_of(name).and_then(|setting| Some((setting.group()?, setting.name())));
    match option_of(name).filter(is_ours) {
        Some(Setting { flag: Some(flag), .. }) => Some(format!("set it with --{flag}")),
        Some(Setting { variable: Some(variable), .. }) => Some(format!("set it with {variable}")),
        _ => in_group().map(|(group, name)| format!("write {group} = {{ {name} = …; }};")),
    }
}

/// The nearest of `names`, if it is near enough to be a slip.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest_within(MOST_SLIPS, name, names)
}

/// The suggestion of a name. One wording, by which a suggestion is also recognised.
pub(crate) fn did_you_mean(meant: &str) -> String {
    format!("did you mean {meant}?")
}

/// The nearest of `names`, if at most `most` letters differ. Short names are near everything, so two thirds of the
/// letters must be right.
fn nearest_within<'a>(most: usize, name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let slips = |other: &str| if other.eq_ignore_ascii_case(name) { 0 } else { damerau_levenshtein(name, other) };
    let near_enough = |slips: usize| slips <= most && slips * 3 <= name.len();
    names
        .into_iter()
        .filter(|other| other.len().abs_diff(name.len()) <= most)
        .map(|other| (slips(other), other))
        .filter(|(slips, _)| near_enough(*slips))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, other)| other)
}

/// What was probably meant by an unknown key of a closed group: the same name in another place, or a similar one here.
/// It is certainly a mistake, so more letters may differ than elsewhere.
pub(crate) fn key_meant_in_group(group: &str, name: &str) -> Option<&'static str> {
    let here = || SETTINGS.iter().filter(|setting| setting.group() == Some(group));
    let near = || {
        let meant = nearest_within(name.len() / 4, name, here().map(Setting::name))?;
        here().find(|setting| setting.name() == meant)
    };
    let said_otherwise = |setting: &&Setting| {
        let words = |name| format!("{PREFIX}{}", screaming(name));
        shares_words(&words(name), &words(setting.name())) || is_start_of(name, setting.name())
    };
    let alike = || here().find(said_otherwise);
    elsewhere(name).or_else(|| near().or_else(alike).map(|setting| setting.key))
}

/// Whether a name lacks only its last words, mostly a unit: `gracefulShutdown`.
fn is_start_of(name: &str, key: &str) -> bool {
    const LONG_ENOUGH: usize = 8;
    let rest = key.strip_prefix(name).filter(|_| name.len() >= LONG_ENOUGH);
    rest.is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_uppercase()))
}

/// What was probably meant by an unknown key of the top level, where apps keep keys of their own.
pub(crate) fn key_meant_at_top(name: &str) -> Option<&'static str> {
    // A short name of the app's own is too easily near one of ours.
    const LONG_ENOUGH: usize = 8;
    let top = SETTINGS.iter().filter(|setting| setting.group().is_none()).map(|setting| setting.key);
    let is_likely = |meant: &&str| meant.len() >= LONG_ENOUGH || meant.eq_ignore_ascii_case(name);
    let near = || nearest(name, top.chain(GROUPS.iter().copied())).filter(is_likely);
    elsewhere(name).filter(|meant| meant.len() - name.len() > 1 && name.len() >= LONG_ENOUGH).or_else(near)
}

/// The key whose last part is `name` but for its case, in whatever place.
fn elsewhere(name: &str) -> Option<&'static str> {
    SETTINGS.iter().find(|setting| setting.name().eq_ignore_ascii_case(name)).map(|setting| setting.key)
}

/// What a variable in our name space is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variable {
    /// One of ours, or none of our business.
    Fine,
    /// Probably meant to be this one.
    Meant(&'static str),
    /// Under a prefix that is ours alone, but no variable of ours.
    Unknown,
    /// Made up by Kubernetes for a service whose name begins with one of our prefixes.
    ServiceLink,
}

/// Judges a variable by its name and value. Unknown names outside our own two prefixes belong to the framework, to
/// builds and tests, and are left alone unless they are nearly one of ours.
pub(crate) fn judge_variable(name: &str, value: &str) -> Variable {
    if !name.starts_with(PREFIX) || known_variables().any(|known| known == name) {
        return Variable::Fine;
    }
    if EXPORTED.contains(&name) || NEAR_MISSES_OF_ARLEN.contains(&name) {
        return Variable::Fine;
    }
    let is_ours_alone = name.starts_with("ARLEN_PROPANE_") || name.starts_with("ARLEN_CLUSTER_");
    if is_service_link(name, value) {
        return if is_ours_alone { Variable::ServiceLink } else { Variable::Fine };
    }
    match variable_meant(name) {
        Some(meant) => Variable::Meant(meant),
        None if is_ours_alone => Variable::Unknown,
        None => Variable::Fine,
    }
}

/// Every variable that is read.
fn known_variables() -> impl Iterator<Item = &'static str> + Clone {
    SETTINGS.iter().chain(OPTIONS).filter_map(|setting| setting.variable)
}

/// The variable that somebody who knows the key or the flag would have guessed, or one that is nearly spelt so.
pub(crate) fn variable_meant(name: &str) -> Option<&'static str> {
    let guessed = SETTINGS.iter().find(|setting| guesses(setting).iter().any(|guess| guess == name));
    guessed
        .and_then(|setting| setting.variable)
        .or_else(|| nearest(name, known_variables()))
        .or_else(|| known_variables().find(|known| shares_words(name, known)))
}

/// Mechanical spellings: `ARLEN_PROPANE_WORKER_COUNT`, `ARLEN_MAX_CONCURRENT_HTTP_SESSIONS`, `ARLEN_WORKERS`.
fn guesses(setting: &Setting) -> Vec<String> {
    let name = screaming(setting.name());
    let mut guesses = match setting.group() {
        Some("propaneAccessories") => {
            vec![name.clone(), format!("PROPANE_{name}"), format!("PROPANE_ACCESSORIES_{name}")]
        }
        // `enabled` and `name` are nobody's without their group.
        Some("cluster") => vec![format!("CLUSTER_{name}")],
        Some(group) => vec![format!("{}_{name}", screaming(group)), name],
        None => vec![name],
    };
    guesses.extend(setting.flag.map(|flag| flag.replace('-', "_").to_ascii_uppercase()));
    guesses.iter().map(|guess| format!("{PREFIX}{guess}")).collect()
}

/// `maxConcurrentHTTPSessions` -> `MAX_CONCURRENT_HTTP_SESSIONS`.
pub(crate) fn screaming(name: &str) -> String {
    let bytes = name.as_bytes();
    let starts_word = |at: usize| {
        let follows_small = at > 0 && bytes[at - 1].is_ascii_lowercase();
        let precedes_small = at > 0 && bytes.get(at + 1).is_some_and(u8::is_ascii_lowercase);
        bytes[at].is_ascii_uppercase() && (follows_small || precedes_small)
    };
    let mut out = String::new();
    for (at, character) in name.char_indices() {
        if starts_word(at) {
            out.push('_');
        }
        out.push(character.to_ascii_uppercase());
    }
    out
}

/// Whether three quarters of the words of both names together stand in both. The prefix says nothing: all have it.
fn shares_words(name: &str, known: &str) -> bool {
    let (ours, theirs): (Vec<_>, Vec<_>) = (known.split('_').skip(1).collect(), name.split('_').skip(1).collect());
    let shared = ours.iter().filter(|word| theirs.contains(word)).count();
    shared * 4 >= (ours.len() + theirs.len() - shared) * 3
}

/// The form of variables that Kubernetes makes up for every service: `ARLEN_PORT=tcp://10.0.0.1:3000`,
/// `ARLEN_SERVICE_HOST`, `ARLEN_PORT_3000_TCP_ADDR`.
pub(crate) fn is_service_link(name: &str, value: &str) -> bool {
    is_service_address(value) || name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || {
        let port = name.rsplit_once("_PORT_").map_or("", |(_, port)| port);
        port.starts_with(|digit: char| digit.is_ascii_digit()) && (port.contains("_TCP") || port.contains("_UDP"))
    }
}

pub(crate) fn is_service_address(value: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_in_a_group_is_guessed_by_letters_and_by_words() {
        for (group, name, meant) in [
            ("propaneAccessories", "wokerCount", Some("propaneAccessories.workerCount")),
            ("propaneAccessories", "gracefulShutdown", Some("propaneAccessories.gracefulShutdownSeconds")),
            ("propaneAccessories", "jobWorkerRespawnDelay", Some("propaneAccessories.jobWorkerRespawnDelayMs")),
            ("propaneAccessories", "worker_count", Some("propaneAccessories.workerCount")),
            ("runtimeLimits", "maxHTTPSessions", Some("runtimeLimits.maxConcurrentHTTPSessions")),
            ("cluster", "node_id", Some("cluster.nodeID")),
            ("cluster", "port", Some("port")),
            ("propaneAccessories", "worker", None),
            ("propaneAccessories", "timeout", None),
            ("cluster", "size", None),
        ] {
            assert_eq!(key_meant_in_group(group, name), meant, "{name}");
        }
    }
}
