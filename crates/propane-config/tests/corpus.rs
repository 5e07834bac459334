//! Every property list under `testdata/plist/` reads as GNUstep reads it. `valid/` holds what GNUstep accepts,
//! `invalid/` what it refuses; a new case is a new file. Where propane differs on purpose, the file is listed here and
//! has a test of its own below.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use propane_config::document::{Content, Document, Fault, RemarkKind, read};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Read by propane, refused by GNUstep.
const ALSO_READ: [&str; 8] = [
    "enc_utf8_bom",
    "top_braceless_accessories",
    "top_braceless_flat",
    "top_braceless_nested",
    "top_braceless_one_no_semicolon",
    "top_braceless_runtime",
    "xml_doctype_only_prolog",
    "xml_no_prolog",
];
/// Refused by propane, read by GNUstep.
const ALSO_REFUSED: [&str; 4] = ["nest_depth_2000", "xml_cdata", "xml_deep_500", "xml_missing_value"];

fn corpus(directory: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/plist").join(directory)
}

fn bytes(directory: &str, name: &str) -> Vec<u8> {
    fs::read(corpus(directory).join(format!("{name}.plist"))).unwrap()
}

fn each(directory: &str, mut check: impl FnMut(&str, Result<Document<'_>, Fault>)) {
    let mut count = 0;
    for entry in fs::read_dir(corpus(directory)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "plist") {
            let bytes = fs::read(&path).unwrap();
            check(path.file_stem().unwrap().to_str().unwrap(), read(&bytes));
            count += 1;
        }
    }
    assert!(count > 50, "only {count} files in {directory}");
}

fn expected(name: &str) -> Json {
    let text = fs::read_to_string(corpus("valid").join(format!("{name}.expected.json"))).unwrap();
    let mut reader = serde_json::Deserializer::from_str(&text);
    reader.disable_recursion_limit();
    Json::deserialize(&mut reader).unwrap()["value"].take()
}

/// The tree in the form of the expected answers.
fn typed(content: &Content<'_>) -> Json {
    match content {
        Content::Text(text) => json!({"t": "string", "v": text}),
        Content::Array(items) => {
            json!({"t": "array", "v": items.iter().map(|item| typed(&item.content)).collect::<Vec<_>>()})
        }
        Content::Dict(entries) => {
            let pairs = entries.iter().map(|entry| (entry.key.to_string(), typed(&entry.value.content)));
            json!({"t": "dict", "v": pairs.collect::<BTreeMap<_, _>>()})
        }
        Content::Typed(value) => typed_scalar(value),
    }
}

fn typed_scalar(value: &plist::Value) -> Json {
    match value {
        plist::Value::Boolean(on) => json!({"t": "bool", "v": on}),
        plist::Value::Integer(number) => json!({"t": "int", "v": number.to_string()}),
        plist::Value::Real(number) => json!({"t": "real", "v": number.to_string()}),
        plist::Value::Date(date) => json!({"t": "date", "v": date.to_xml_format().replace('Z', ".000Z")}),
        plist::Value::Data(bytes) => {
            json!({"t": "data", "v": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()})
        }
        plist::Value::Uid(uid) => {
            json!({"t": "dict", "v": {"CF$UID": {"t": "int", "v": uid.get().to_string()}}})
        }
        other => panic!("{other:?} is no scalar"),
    }
}

#[test]
fn what_gnustep_accepts_reads_as_the_same_tree() {
    each("valid", |name, read| match read {
        Ok(document) => {
            assert!(!ALSO_REFUSED.contains(&name), "{name} should be refused");
            assert_eq!(typed(&document.root.content), expected(name), "{name}");
        }
        Err(fault) => assert!(ALSO_REFUSED.contains(&name), "{name}: {fault:?}"),
    });
}

#[test]
fn what_gnustep_refuses_is_refused_with_a_position() {
    each("invalid", |name, read| match read {
        Ok(document) => assert!(ALSO_READ.contains(&name), "{name} read as {:?}", document.root),
        Err(fault) => {
            assert!(!ALSO_READ.contains(&name), "{name} should be read: {fault:?}");
            // Of XML only what the crate itself refuses has one.
            let has_positions = !name.starts_with("bin_") || name == "bin_magic_01";
            assert!(name.starts_with("xml_") || fault.span.is_some() == has_positions, "{name}: {fault:?}");
        }
    });
}

fn remarks(bytes: &[u8]) -> Vec<RemarkKind> {
    read(bytes).unwrap().remarks.into_iter().map(|remark| remark.kind).collect()
}

fn fault(bytes: &[u8]) -> Fault {
    read(bytes).expect_err("should be refused")
}

/// Where a fault is, in characters of the text: good enough for texts on one line.
fn column(bytes: &[u8]) -> Option<u32> {
    fault(bytes).span.map(|span| span.start + 1)
}

#[test]
fn a_top_level_without_braces_is_read_with_a_remark() {
    for name in ALSO_READ.iter().filter(|name| name.starts_with("top_braceless")) {
        assert_eq!(remarks(&bytes("invalid", name)), [RemarkKind::Braceless], "{name}");
    }
    let document = bytes("invalid", "top_braceless_one_no_semicolon");
    let value = read(&document).unwrap().root.content.to_plist();
    assert_eq!(value.as_dictionary().unwrap().get("port").unwrap().as_string(), Some("3000"));
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let document = bytes("invalid", "enc_utf8_bom");
    let document = read(&document).unwrap();
    let Content::Dict(entries) = &document.root.content else { panic!("{document:?}") };
    assert_eq!(entries[0].key, "a");
    assert_eq!(entries[0].key_span.unwrap().start, 2, "the mark is no part of the text");
}

#[test]
fn xml_is_recognised_without_its_prolog() {
    for name in ["xml_no_prolog", "xml_doctype_only_prolog"] {
        assert!(matches!(read(&bytes("invalid", name)).unwrap().root.content, Content::Dict(_)), "{name}");
    }
}

#[test]
fn nesting_is_bounded_in_every_form() {
    assert!(fault(&bytes("valid", "nest_depth_2000")).message.contains("deeper than 128"));
    assert!(fault(&bytes("valid", "xml_deep_500")).message.contains("deeper than 128"));
    let nested = |depth: usize| "(".repeat(depth) + &")".repeat(depth);
    assert!(read(nested(128).as_bytes()).is_ok());
    assert_eq!(column(nested(129).as_bytes()), Some(129));
    let xml = |depth| format!("<plist>{}{}</plist>", "<array>".repeat(depth), "</array>".repeat(depth));
    assert!(read(xml(128).as_bytes()).is_ok());
    assert!(read(xml(131).as_bytes()).is_err());
}

#[test]
fn xml_that_the_crate_would_drop_in_silence_is_refused() {
    assert!(fault(&bytes("valid", "xml_cdata")).message.contains("CDATA"));
    assert!(read(&bytes("valid", "xml_missing_value")).is_err());
    let entity = "<!DOCTYPE plist [<!ENTITY x 'y'>]><plist><string>&x;</string></plist>";
    assert!(fault(entity.as_bytes()).message.contains("internal document type"));
    assert!(fault(b"<plist><string>&x;</string></plist>").message.contains("entity"));
}

#[test]
fn duplicate_keys_are_remarked_on_and_the_last_wins() {
    let twice = |key: &str| RemarkKind::DuplicateKey {
        key: key.into(),
        again: propane_config::document::Span { start: 16, end: 17 },
    };
    assert_eq!(remarks(&bytes("valid", "dup_keys")), [twice("a")]);
}

#[test]
fn empty_bare_values_are_remarked_on() {
    assert_eq!(remarks(b"{a=;}"), [RemarkKind::EmptyValue]);
    assert_eq!(remarks(b"(x,,y)"), [RemarkKind::EmptyValue]);
    assert_eq!(remarks(b"{a=\"\";}"), []);
    let value = read(b"(x,,y)").unwrap().root.content.to_plist();
    assert_eq!(value.as_array().unwrap()[1].as_string(), Some(""));
}

#[test]
fn a_comment_that_is_never_closed_is_to_blame_for_what_is_missing() {
    assert_eq!(remarks(b"{a=1;} /* x"), [RemarkKind::OpenComment]);
    assert_eq!(column(b"{ a = 1; /* x }"), Some(10));
    assert_eq!(fault(b"{ a = (1, /* x ); }").message, "this comment is never closed");
}

/// Seen on GNUstep 1.28.
#[test]
fn a_numeric_escape_that_the_closing_quote_cuts_short_is_dropped_with_a_remark() {
    let text = |bytes: &[u8]| read(bytes).unwrap().root.content.to_plist().into_string().unwrap();
    assert_eq!(text(br#""a\U12g""#), "a\u{12}g");
    assert_eq!(text(br#""\18""#), "\u{1}8");
    assert_eq!(text(br#""\777""#), "\u{1ff}");
    for cut in [br#""a\U12""#.as_slice(), br#""a\Ub""#, br#""a\u""#, br#""a\12""#] {
        assert_eq!(text(cut), "a", "{cut:?}");
        assert_eq!(remarks(cut), [RemarkKind::CutEscape], "{cut:?}");
    }
}

#[test]
fn keys_that_are_not_strings_are_errors() {
    assert_eq!(column(b"{ <*I5> = 1; }"), Some(3));
    assert_eq!(column(b"{ (a) = 1; }"), Some(3));
}

#[test]
fn half_a_surrogate_pair_is_an_error() {
    assert_eq!(column(br#"{ a = "x\ud83dy"; }"#), Some(9));
    assert_eq!(column(br#"{ a = "\udca9"; }"#), Some(8));
    assert_eq!(column(br#"{ a = "\ud83d"; }"#), Some(8));
}

#[test]
fn garbage_in_typed_values_is_an_error() {
    for (text, at) in [
        ("{ a = <*Iabc>; }", 7),
        ("{ a = <*I5x>; }", 7),
        ("{ a = <*R1.5.2>; }", 7),
        ("{ a = <*Rnan>; }", 7),
        ("{ a = <*D2001-13-01 00:00:00 +0000>; }", 7),
        ("{ a = <*D2001-02-29 00:00:00 +0000>; }", 7),
        ("{ a = <*Dyesterday>; }", 7),
        ("{ a = <[SG!sbG8=]>; }", 7),
    ] {
        assert_eq!(column(text.as_bytes()), Some(at), "{text}");
    }
}

/// A text of a few bytes a value must not become gigabytes.
#[test]
fn the_number_of_values_and_the_size_are_bounded() {
    assert!(fault("(,".repeat(300_000).as_bytes()).message.contains("deeper"));
    let commas = format!("({})", ",".repeat(300_000));
    assert!(fault(commas.as_bytes()).message.contains("100000 values"));
    assert!(fault(&vec![b' '; 5 << 20]).message.contains("larger than 4 MiB"));
}

/// A binary list of 60 objects that shares each one ten times: 10^60 values if it were expanded.
#[test]
fn shared_references_are_counted_before_they_are_expanded() {
    let levels = 60_u8;
    let mut list = b"bplist00".to_vec();
    let mut offsets = Vec::new();
    for level in 0..levels {
        offsets.push(u16::try_from(list.len()).unwrap());
        if level + 1 == levels {
            list.extend(b"\x51x");
        } else {
            list.push(0xaa);
            list.extend([level + 1; 10]);
        }
    }
    let table = list.len() as u64;
    list.extend(offsets.iter().flat_map(|offset| offset.to_be_bytes()));
    list.extend([0, 0, 0, 0, 0, 0, 2, 1]);
    list.extend([u64::from(levels), 0, table].iter().flat_map(|word| word.to_be_bytes()));
    assert!(fault(&list).message.contains("more values"));
}
