//! The JSON Schema of an app's property list, in the form that the list has as JSON.
//!
//! OpenStep text has no numbers and no switches, so both may be strings; the patterns here say which strings
//! [`Kind`] reads. A test compares the two over generated values. What JSON cannot say is left out: dates and data, which
//! no setting takes, have no form of their own in it, and 4.0 is a whole number there.

use serde_json::{Map, Value as Json, json};

use crate::settings::{GROUPS, SETTINGS, Setting};
use crate::value::{Kind, Shape, Value, switch_words};

/// What `str::trim` takes away, as a class without its brackets.
const SPACE: &str = r"\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000";
/// What [`char::is_control`] is true for.
const CONTROL: &str = r"\u0000-\u001f\u007f-\u009f";

/// The schema, JSON Schema 2020-12.
pub fn schema() -> Json {
    let top = SETTINGS.iter().filter(|row| row.group().is_none());
    let mut properties = properties(top);
    properties.extend(GROUPS.iter().map(|group| ((*group).to_owned(), closed(group))));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "config/app.plist",
        "description": "An app's settings, in config/app.plist and config/environments/ENV.plist. Numbers and switches may \
            be strings, because OpenStep property lists have nothing else. Other keys are the app's own. Generated from the \
            table of settings.",
        "type": "object",
        "properties": properties,
    })
}

/// A dictionary that holds nothing but settings.
fn closed(group: &str) -> Json {
    json!({
        "type": "object",
        "properties": properties(SETTINGS.iter().filter(|row| row.group() == Some(group))),
        "additionalProperties": false,
    })
}

fn properties(rows: impl Iterator<Item = &'static Setting>) -> Map<String, Json> {
    rows.map(|row| (row.name().to_owned(), property(row).into())).collect()
}

fn property(row: &Setting) -> Map<String, Json> {
    let mut property = accepted(row.kind);
    let notes = [
        ("description", Some(format!("{} {}", row.doc(), sentence(&row.kind.expected())).into())),
        ("default", row.default_value().map(to_json)),
        ("x-variable", row.variable.map(Json::from)),
        ("x-flag", row.flag_usage().map(Json::from)),
        ("x-change-takes", Some(row.reload.takes().into())),
    ];
    property.extend(notes.into_iter().filter_map(|(name, note)| Some((name.to_owned(), note?))));
    property
}

fn sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

fn to_json(value: Value) -> Json {
    match value {
        Value::Int(number) => number.into(),
        Value::Bool(on) => on.into(),
        Value::Text(text) => text.into(),
        Value::List(words) => words.into(),
    }
}

/// What a setting accepts.
fn accepted(kind: Kind) -> Map<String, Json> {
    let accepted = match kind {
        Kind::Int { min, max } => json!({ "anyOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "pattern": trimmed(&number(min, max)) },
        ] }),
        Kind::Bool => json!({ "anyOf": [
            { "type": "boolean" },
            { "enum": [0, 1] },
            { "type": "string", "pattern": trimmed(&any_case(switch_words())) },
        ] }),
        Kind::Choice(words) => json!({ "anyOf": [
            { "enum": words },
            { "type": "string", "pattern": trimmed(&any_case(words.iter().copied())) },
        ] }),
        Kind::List => json!({ "type": "array", "minItems": 1, "items": { "anyOf": [
            { "type": "string", "pattern": format!(r"^[^\u0000,{SPACE}](?:[^\u0000,]*[^\u0000,{SPACE}])?$") },
            { "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX },
        ] } }),
        Kind::Text(pattern @ (Shape::Octal | Shape::UrlPath)) => json!({ "type": "string", "pattern": shape(pattern) }),
        Kind::Text(pattern) => json!({ "anyOf": [
            { "type": "string", "pattern": shape(pattern) },
            { "type": "integer" },
        ] }),
    };
    match accepted {
        Json::Object(members) => members,
        // All of the above are objects.
        _ => Map::new(),
    }
}

fn shape(shape: Shape) -> String {
    match shape {
        Shape::Any => r"^[^\u0000]*$".to_owned(),
        Shape::NonEmpty | Shape::Path => format!(r"^[^\u0000]*[^\u0000{SPACE}][^\u0000]*$"),
        Shape::Octal => "^[0-7]{0,4}$".to_owned(),
        Shape::UrlPath => format!(r"^(?:/[^{SPACE}{CONTROL}]*)?$"),
    }
}

fn trimmed(pattern: &str) -> String {
    format!("^[{SPACE}]*(?:{pattern})[{SPACE}]*$")
}

/// Any of the words, in small and capital letters as they come.
fn any_case(words: impl Iterator<Item = &'static str>) -> String {
    let letter = |letter: char| {
        let (small, capital) = (letter.to_ascii_lowercase(), letter.to_ascii_uppercase());
        if small == capital { letter.to_string() } else { format!("[{small}{capital}]") }
    };
    let words: Vec<_> = words.map(|word| word.chars().map(letter).collect::<String>()).collect();
    words.join("|")
}

/// A whole number between two that are not negative, with a sign and leading zeros if need be.
fn number(min: i64, max: i64) -> String {
    let zero = if min == 0 { "|-0+" } else { "" };
    let (min, max) = (min.unsigned_abs(), max.unsigned_abs());
    let lengths = min.to_string().len()..=max.to_string().len();
    let mut alternatives = Vec::new();
    for length in lengths {
        // The numbers of one length, none of which starts with a zero but zero itself.
        let shortest = if length == 1 { 0 } else { 10_u64.pow(u32::try_from(length).unwrap_or(1) - 1) };
        let (low, high) = (min.max(shortest).to_string(), max.to_string());
        let high = if high.len() > length { "9".repeat(length) } else { high };
        alternatives.extend(between(low.as_bytes(), high.as_bytes()));
    }
    format!(r"\+?0*(?:{}){zero}", alternatives.join("|"))
}

/// Patterns of the digits from `low` to `high`, which are equally many.
fn between(low: &[u8], high: &[u8]) -> Vec<String> {
    let ([first, low @ ..], [last, high @ ..]) = (low, high) else { return vec![String::new()] };
    let any = match low.len() {
        0 => String::new(),
        1 => "[0-9]".to_owned(),
        count => format!("[0-9]{{{count}}}"),
    };
    if low.iter().all(|digit| *digit == b'0') && high.iter().all(|digit| *digit == b'9') {
        return vec![digits(*first, *last) + &any];
    }
    let after = |digit: u8, rest: Vec<String>| rest.into_iter().map(move |rest| format!("{}{rest}", char::from(digit)));
    if first == last {
        return after(*first, between(low, high)).collect();
    }
    let (zeros, nines) = (vec![b'0'; low.len()], vec![b'9'; low.len()]);
    let middle = (first + 1 < *last).then(|| digits(first + 1, last - 1) + &any);
    after(*first, between(low, &nines)).chain(middle).chain(after(*last, between(&zeros, high))).collect()
}

fn digits(first: u8, last: u8) -> String {
    let (first, last) = (char::from(first), char::from(last));
    if first == last { first.to_string() } else { format!("[{first}-{last}]") }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::path::Path;

    use jsonschema::Validator;
    use proptest::prelude::*;

    use super::*;
    use crate::document::{self, Content, Node};
    use crate::problem::Code;
    use crate::{Inputs, load, tree_to_json};

    fn validator(schema: &Json) -> Validator {
        jsonschema::draft202012::new(schema).expect("a sound schema")
    }

    #[test]
    fn the_schema_is_a_schema() {
        jsonschema::meta::validate(&schema()).expect("valid by the schema of schemas");
    }

    /// Strings that are nearly right, and some that are far off.
    fn text(kind: Kind) -> BoxedStrategy<String> {
        let words: Vec<String> = match kind {
            Kind::Int { min, max } => {
                let around = [min - 1, min, min + 1, max - 1, max, max + 1, max / 2, max.saturating_mul(10)];
                around.map(|number| number.to_string()).to_vec()
            }
            Kind::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
            Kind::Bool => switch_words().map(ToOwned::to_owned).collect(),
            Kind::Text(_) | Kind::List => ["/", "/ready?a=1", "027", "0777", "00000", "9"].map(String::from).to_vec(),
        };
        let word = prop::sample::select(words)
            .prop_flat_map(|word| prop_oneof![Just(word.clone()), Just(word.to_ascii_uppercase()), Just(word + "x")])
            .boxed();
        let space =
            || prop::sample::select(vec!["", "", " ", "\n", "\u{85}", "\u{3000}", "\u{feff}", "\0", "x", "0", "\u{1}"]);
        let sign = prop::sample::select(vec!["", "", "+", "-", "00", "+0", "-0", "--"]);
        let near = (space(), sign, word.clone(), space())
            .prop_map(|(before, sign, word, after)| [before, sign, &word, after].concat());
        prop_oneof![4 => near, 4 => word, 1 => any::<String>(), 1 => "[0-9]{1,11}", 4 => "/?[a-z \u{7f}\u{1}\0é]{0,4}"]
            .boxed()
    }

    fn content(kind: Kind) -> BoxedStrategy<Content<'static>> {
        let typed = |value: plist::Value| Content::Typed(Box::new(value));
        let near = match kind {
            Kind::Int { min, max } => prop::sample::select(vec![min - 1, min, max, max + 1]),
            _ => prop::sample::select(vec![-1, 0, 1, 2, 7, 8, 27]),
        };
        let scalar = prop_oneof![
            4 => text(kind).prop_map(|text| Content::Text(Cow::Owned(text))),
            1 => near.prop_map(move |number| typed(number.into())),
            1 => any::<i64>().prop_map(move |number| typed(number.into())),
            1 => any::<u64>().prop_map(move |number| typed(number.into())),
            1 => any::<bool>().prop_map(move |on| typed(on.into())),
            1 => any::<i16>().prop_map(move |number| typed((f64::from(number) + 0.5).into())),
        ];
        let node = |content| Node { content, span: None };
        let list = prop::collection::vec(scalar.clone().prop_map(node), 0..3).prop_map(Content::Array);
        let lists_weight = if kind == Kind::List { 8 } else { 1 };
        prop_oneof![8 => scalar, lists_weight => list, 1 => Just(Content::Dict(Vec::new()))].boxed()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_value_is_valid_where_the_resolution_reads_it(
            values in SETTINGS.iter().map(|row| content(row.kind)).collect::<Vec<_>>(),
        ) {
            static VALIDATORS: std::sync::LazyLock<Vec<Validator>> = std::sync::LazyLock::new(|| {
                SETTINGS.iter().map(|row| validator(&accepted(row.kind).into())).collect()
            });
            for ((row, validator), content) in SETTINGS.iter().zip(VALIDATORS.iter()).zip(values) {
                let read = row.kind.read_content(&content);
                let json = tree_to_json(&content.to_plist());
                prop_assert_eq!(validator.is_valid(&json), read.is_ok(), "{} = {} is {:?}", row.key, json, read);
            }
        }
    }

    #[test]
    fn every_number_of_a_range_matches_and_no_other() {
        for (min, max) in [(0, 0), (0, 100), (1, 1024), (7, 7), (95, 1203), (10, 99), (0, 65535)] {
            let pattern = json!({ "type": "string", "pattern": trimmed(&number(min, max)) });
            let validator = validator(&pattern);
            for number in 0..70_000_i64 {
                assert_eq!(validator.is_valid(&number.to_string().into()), (min..=max).contains(&number), "{number}");
            }
        }
    }

    /// The apps that tests and documents use are valid where the resolution finds nothing wrong with their values.
    #[test]
    fn the_apps_are_valid_where_they_resolve() {
        let validator = validator(&schema());
        let mut judged = Vec::new();
        for app in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/apps")).unwrap() {
            let root = app.unwrap().path();
            let Ok(bytes) = std::fs::read(root.join("config/app.plist")) else { continue };
            let Ok(document) = document::read(&bytes) else { continue };
            let is_valid = validator.is_valid(&tree_to_json(&document.root.content.to_plist()));
            let inputs = Inputs { cwd: root.clone(), ..Inputs::default() };
            let is_wrong = |code| matches!(code, Code::Type | Code::Range | Code::UnknownKey);
            let in_it = |path: &str| path == "config/app.plist";
            let resolves = !load(&inputs).problems.iter().any(|problem| {
                let place = problem.place.as_ref().map(|place| &place.origin);
                is_wrong(problem.code) && matches!(place, Some(crate::Origin::File { path, .. }) if in_it(path))
            });
            assert_eq!(is_valid, resolves, "{}", root.display());
            judged.push(is_valid);
        }
        assert!(judged.contains(&true) && judged.contains(&false), "{judged:?}");
    }
}
