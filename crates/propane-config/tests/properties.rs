//! What holds for every input.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use propane_config::document::{Content, Node, Reading, Span, examine, read};
use propane_config::openstep;
use proptest::prelude::*;

/// Bytes that mean something to the reader, and some that mean nothing.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "(",
        ")",
        "<",
        ">",
        "=",
        ";",
        ",",
        "\"",
        "\\",
        "//",
        "/*",
        "*/",
        "*",
        "\n",
        " ",
        "a",
        "key",
        "0",
        "<*I5>",
        "<*BY>",
        "<*D2001-01-01 00:00:00 +0000>",
        "<[SGk=]>",
        "<48>",
        "\\U00e9",
        "\\ud83d",
        "\\7",
        "é",
        "\u{feff}",
        "secret",
        "://u:p@",
        "<?xml",
        "<plist>",
        "<dict>",
        "</dict>",
        "<![CDATA[",
        "&x;",
        "bplist00",
    ]);
    let pieces = prop::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat().into_bytes());
    prop_oneof![4 => pieces, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

/// Every node of a tree.
fn nodes<'n>(node: &'n Node<'n>, visit: &mut impl FnMut(&'n Node<'n>)) {
    visit(node);
    match &node.content {
        Content::Array(items) => items.iter().for_each(|item| nodes(item, visit)),
        Content::Dict(entries) => entries.iter().for_each(|entry| nodes(&entry.value, visit)),
        Content::Text(_) | Content::Typed(_) => {}
    }
}

/// What the fuzz target of the reader asserts, too: there is a document or a fault, and all that is pointed at is there.
fn check_reading(bytes: &[u8]) {
    let length = u32::try_from(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).len()).unwrap();
    let is_inside = |span: Option<Span>| span.is_none_or(|span| span.start <= span.end && span.end <= length);
    let Reading { document, faults } = examine(bytes);
    assert!(document.is_some() || !faults.is_empty());
    assert!(faults.iter().all(|fault| is_inside(fault.span) && is_inside(fault.found)), "{faults:?}");
    if let Some(document) = document {
        assert!(document.remarks.iter().all(|remark| is_inside(Some(remark.span))), "{:?}", document.remarks);
        nodes(&document.root, &mut |node| assert!(is_inside(node.span), "{node:?}"));
    }
}

/// The corpus with a few bytes of each file changed, dropped, repeated or taken from another one. The generator is a
/// fixed one, so that a failure stays.
#[test]
fn mutations_of_the_corpus_are_read_or_refused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/plist");
    let mut files: Vec<PathBuf> = ["valid", "invalid"]
        .iter()
        .flat_map(|kind| fs::read_dir(root.join(kind)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "plist"))
        .collect();
    files.sort();
    let files: Vec<_> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(files.len() > 100);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for round in 0..100 {
        for (index, file) in files.iter().enumerate() {
            let mut bytes = file.clone();
            for _ in 0..=round % 4 {
                random.change(&mut bytes, &files[(index + round) % files.len()]);
            }
            check_reading(&bytes);
        }
    }
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        const SIGNS: &[u8] = b"{}()<>=;,\"\\/*\n\0'a\xc3\xff";
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(9)).min(bytes.len());
        match self.below(4) {
            0 => bytes.insert(at, SIGNS[self.below(SIGNS.len())]),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.extend_from_within(at..end),
            _ => {
                let from = self.below(other.len() + 1);
                let taken = other[from..].iter().take(12).copied().collect::<Vec<_>>();
                drop(bytes.splice(at..end, taken));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes are, the reader ends, and what it points at lies in the text.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in bytes()) {
        check_reading(&bytes);
    }

}

proptest! {
    // Each case makes a directory and a file.
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever an app's file holds, resolving it ends with a usable configuration, and no report of it fails.
    #[test]
    fn any_file_resolves(bytes in bytes()) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("config")).unwrap();
        std::fs::write(root.path().join("config/app.plist"), &bytes).unwrap();
        let inputs = propane_config::Inputs { cwd: root.path().to_owned(), ..propane_config::Inputs::default() };
        let resolution = propane_config::load(&inputs);
        prop_assert!(resolution.config.propane_accessories.worker_count >= 1);
        for problem in &resolution.problems {
            prop_assert!(!propane_config::report::render(problem, true).is_empty());
            prop_assert!(!propane_config::report::one_line(problem).contains('\n'));
        }
    }

}

/// A tree that the `plist` crate's text reader is right about: quoted strings, arrays and dictionaries.
fn tree() -> impl Strategy<Value = plist::Value> {
    let leaf = "[a-zA-Z0-9 ._/=;,(){}<>:*-]{0,12}".prop_map(plist::Value::String);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(plist::Value::Array),
            prop::collection::btree_map("[a-zA-Z][a-zA-Z0-9 ._]{0,8}", inner, 0..6)
                .prop_map(|pairs| plist::Value::Dictionary(pairs.into_iter().collect())),
        ]
    })
}

/// A tree as text in the one way of writing that both readers take alike: all strings quoted, every separator there.
fn written(value: &plist::Value) -> String {
    match value {
        plist::Value::Dictionary(pairs) => {
            let pairs = pairs.iter();
            let pairs = pairs.map(|(key, value)| format!("{} = {};\n", openstep::always_quoted(key), written(value)));
            format!("{{ {}}}", pairs.collect::<String>())
        }
        plist::Value::Array(items) => format!("({})", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        other => openstep::always_quoted(other.as_string().unwrap_or_default()),
    }
}

/// Files that the `plist` crate's text reader takes and reads differently: it makes numbers of bare words, keeps the line
/// end behind them, mistakes `/`, and knows neither data nor typed values. In each of them propane agrees with GNUstep
/// (tests/corpus.rs).
const PLIST_MISREADS: [&str; 37] = [
    "com_commented_out_setting",
    "com_everywhere_spaced",
    "com_nested",
    "com_quote_inside",
    "data_hex_multiline",
    "dup_keys",
    "dup_keys_escaped",
    "dup_nested_not_merged",
    "enc_bad_utf8_in_comment",
    "esc_in_key",
    "key_case",
    "key_order",
    "key_proto",
    "nest_mixed",
    "scalar_ints",
    "scalar_quoted_number",
    "scalar_yes_no",
    "sep_last_semicolon_missing",
    "sep_last_semicolon_missing_nested",
    "top_bare_string",
    "top_pbxproj_header",
    "top_value_then_block_comment",
    "top_value_then_line_comment_no_newline",
    "typed_arlen",
    "typed_basic",
    "typed_bool_odd",
    "typed_date_zone",
    "typed_in_array_and_key",
    "typed_int_limits",
    "typed_top",
    "typed_vs_string",
    "unquoted_newline_ends",
    "unquoted_path",
    "unquoted_single_slash",
    "unquoted_url",
    "ws_crlf",
    "ws_lone_cr",
];

#[test]
fn the_plist_crate_reads_the_corpus_alike_but_for_what_it_is_known_to_misread() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/plist/valid");
    let (mut alike, mut different) = (0, Vec::new());
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if path.extension().is_none_or(|extension| extension != "plist") || !is_text(&bytes) {
            continue;
        }
        let theirs = plist::Value::from_reader_ascii(bytes.as_slice());
        if let (Ok(ours), Ok(theirs)) = (read(&bytes), theirs) {
            if ours.root.content.to_plist() == theirs {
                alike += 1;
            } else {
                different.push(path.file_stem().unwrap().to_string_lossy().into_owned());
            }
        }
    }
    different.sort();
    assert_eq!(different, PLIST_MISREADS);
    assert!(alike > 10, "only {alike} files were compared");
}

fn is_text(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    !["bplist00", "<?xml", "<!DOCTYPE", "<plist"].iter().any(|mark| start.starts_with(mark.as_bytes()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What both readers take, both read alike.
    #[test]
    fn the_plist_crate_reads_the_same_tree(value in tree()) {
        let text = written(&value);
        let ours = read(text.as_bytes()).unwrap().root.content.to_plist();
        prop_assert_eq!(&ours, &value, "{}", text);
        let theirs = plist::Value::from_reader_ascii(text.as_bytes()).ok();
        prop_assert_eq!(theirs.as_ref(), Some(&value), "{}", text);
    }

    /// Text survives being written and read, bare or quoted.
    #[test]
    fn quoted_text_reads_back(text in any::<String>()) {
        let written = openstep::quoted(&text).into_owned();
        let read_back = read(written.as_bytes()).unwrap().root.content.to_plist();
        prop_assert_eq!(read_back.as_string(), Some(text.as_str()));
    }

    /// Typed scalars survive being written and read.
    #[test]
    fn typed_scalars_read_back(int in any::<i64>(), on in any::<bool>(), real in -1e300..1e300_f64, data: Vec<u8>) {
        let scalars: [plist::Value; 4] = [int.into(), on.into(), real.into(), plist::Value::Data(data)];
        for value in scalars {
            let written = openstep::scalar(&value);
            let read_back = read(written.as_bytes()).unwrap().root.content.to_plist();
            prop_assert_eq!(read_back, value, "{}", written);
        }
    }

    /// Dates survive to the second, which is all that the form holds.
    #[test]
    fn dates_read_back(seconds in 0_u64..253_402_300_799) {
        let instant = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let value = plist::Value::Date(instant.into());
        let read_back = read(openstep::scalar(&value).as_bytes()).unwrap().root.content.to_plist();
        prop_assert_eq!(read_back, value);
    }
}
