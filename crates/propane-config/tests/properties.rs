//! What holds for every input.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use propane_config::document::{Content, Node, read};
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes are, the reader ends, and what it points at lies in the text.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in bytes()) {
        let length = u32::try_from(bytes.len()).unwrap();
        match read(&bytes) {
            Err(fault) => prop_assert!(fault.span.is_none_or(|span| span.start <= span.end && span.end <= length), "{fault:?}"),
            Ok(document) => nodes(&document.root, &mut |node| {
                assert!(node.span.is_none_or(|span| span.start <= span.end && span.end <= length), "{node:?}");
            }),
        }
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

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
