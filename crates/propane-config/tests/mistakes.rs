//! Mistakes as people make them, each told once and at its place, whatever else is wrong beside it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use propane_config::{Inputs, Sweep, load};

/// Where and what is wrong in an app with these two files: `app 3:10 range`.
fn found(app: &str, environment: Option<&str>) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("config/environments")).unwrap();
    fs::write(root.path().join("config/app.plist"), app).unwrap();
    if let Some(environment) = environment {
        fs::write(root.path().join("config/environments/production.plist"), environment).unwrap();
    }
    let inputs = Inputs { cwd: root.path().to_owned(), hostname: Some("node-1".into()), ..Inputs::default() };
    let resolution = load(&inputs);
    let told = resolution.problems.iter().map(|problem| {
        let place = problem.place.as_ref().map_or(String::new(), |place| place.origin.to_string());
        let place = place.replace("config/environments/production.plist:", "env ").replace("config/app.plist:", "app ");
        format!("{place} {}", problem.code.as_str().trim_start_matches("propane::config::"))
    });
    let told = told.collect();
    if environment.is_some() {
        // With a single environment, checking all of them finds the same.
        assert_eq!(Sweep::all(&inputs).problems, resolution.problems);
    }
    told
}

#[test]
fn five_mistakes_in_two_layers_are_five_problems() {
    let app = "{\n  port = 70000;\n  Workercount = 3;\n  cluster = { enabled = maybe; };\n}\n";
    let environment = "{\n  port = 80;\n\tpropaneAccessories = {\n\t\tworkerCount = (1);\n\t\tumask = 999; };\n}\n";
    assert_eq!(
        found(app, Some(environment)),
        ["app 2:10 range", "app 3:3 unknown-key", "app 4:25 type", "env 4:17 type", "env 5:11 range"]
    );
}

/// One mistake each, and sound entries around it that are none.
#[test]
fn every_kind_of_mistake_is_told_once_and_at_its_place() {
    let table: &[(&str, &[&str])] = &[
        ("{ port = lots; }", &["app 1:10 type"]),
        ("{ port = -1; }", &["app 1:10 range"]),
        ("{ port = \"70000\"; }", &["app 1:10 range"]),
        ("{ port = <*R1.5>; }", &["app 1:10 type"]),
        ("{ listenBacklog = 99999999999999999999999; }", &["app 1:19 range"]),
        ("{ port = { a = 1; }; }", &["app 1:10 type"]),
        ("{ cluster = YES; }", &["app 1:13 type"]),
        ("{ propaneAccessories = (); }", &["app 1:24 type"]),
        ("{ staticAllowExtensions = css; }", &["app 1:27 type"]),
        ("{ staticAllowExtensions = (css, (a)); }", &["app 1:27 type"]),
        ("{ staticAllowExtensions = (); }", &["app 1:27 range"]),
        ("{ staticAllowExtensions = (css, \"\"); }", &["app 1:27 range"]),
        ("{ staticAllowExtensions = (\"css,js\"); }", &["app 1:27 range"]),
        ("{ staticAllowExtensions = (\" css\"); }", &["app 1:27 range"]),
        ("{ requestDispatchMode = parallel; }", &["app 1:25 range"]),
        ("{ propaneAccessories = { socketStrategy = stear; }; }", &["app 1:43 range"]),
        ("{ host = \"unix:\"; }", &["app 1:10 unix-socket"]),
        ("{ host = \"unix:/x\"; port = 80; }", &["app 1:28 unix-socket"]),
        ("{ host = \"unix:/x\"; propaneAccessories = { socketStrategy = steer; }; }", &["app 1:61 unix-socket"]),
        ("{ host = \"unix:/x\"; propaneAccessories = { socketStrategy = inherit; }; }", &["app 1:61 unix-socket"]),
        ("{ host = \"unix:/x\"; propaneAccessories = { socketStrategy = shared; }; }", &[]),
        ("{ propaneAccessories = { workercount = 2; }; }", &["app 1:26 unknown-key"]),
        ("{ propaneAccesories = { workerCount = 2; }; }", &["app 1:3 unknown-key"]),
        ("{ PropaneAccessories = { workerCount = 2; }; }", &["app 1:3 unknown-key"]),
        ("{ workerCount = 2; }", &["app 1:3 unknown-key"]),
        ("{ Workercount = 2; }", &["app 1:3 unknown-key"]),
        ("{ runtimeLimits = { workerCount = 2; }; }", &["app 1:21 unknown-key"]),
        ("{ cluster = { port = 2; }; }", &["app 1:15 unknown-key"]),
        ("{ port = 1; host = a; port = 2; }", &["app 1:3 duplicate-key"]),
        ("{ port = ; }", &["app 1:10 type"]),
        (
            "{ cluster = { name = \"a\\nX: b\"; nodeID = \"\\U001b\"; }; }",
            &["app 1:22 header-text", "app 1:42 header-text"],
        ),
        ("{ pidFile = a; environment = b; lifecycleLog = c; }", &["app 1:3 unknown-key", "app 1:33 unknown-key"]),
        ("{ \"cluster.enabled\" = YES; }", &["app 1:3 unknown-key"]),
        ("{ propaneAccessories = { noRespawn = YES; }; }", &["app 1:26 unknown-key"]),
        ("{ Port = 1; CLUSTER = { enabled = YES; }; Prot = 1; }", &["app 1:3 unknown-key", "app 1:13 unknown-key"]),
        ("{ name = ; }", &["app 1:10 empty-value"]),
        ("port = 1;", &["app 1:1 braceless"]),
        ("\u{feff}{ port = x; }", &["app 1:10 type"]),
        ("{\r\n  port = x;\r\n}\r\n", &["app 2:10 type"]),
        ("{\n\tport = x;\n}", &["app 2:9 type"]),
        ("{ \"é日本\" = \"é日本🙂\"; port = x; }", &["app 1:26 type"]),
        ("// é\r{ port = x; }", &["app 1:19 syntax"]),
        // Mistakes that the reader goes on after: what follows is read, and what is wrong with it told.
        ("{\n  port = 3000\n  host = a;\n  cluster = b;\n}", &["app 2:13 syntax", "app 4:13 type"]),
        ("{\n  host = \"a;\n  port = x;\n  cluster = b;\n}", &["app 2:10 syntax", "app 3:10 type", "app 4:13 type"]),
        ("{\n  host = \"a;\n  name = \"b\";\n  port = x;\n}", &["app 2:10 syntax", "app 4:10 type"]),
        ("{\n  host = 'a';\n  port = x;\n}", &["app 2:10 syntax", "app 3:10 type"]),
        ("{\n  host 5;\n  port = x;\n}", &["app 2:8 syntax", "app 3:10 type"]),
        ("{\n  host = a b;\n  port = x;\n}", &["app 2:12 syntax", "app 3:10 type"]),
        ("{\n  l = (a b);\n  port = x;\n}", &["app 2:10 syntax", "app 3:10 type"]),
        ("{\n  l = (a, b;\n  port = x;\n}", &["app 2:12 syntax", "app 3:10 type"]),
        ("{\n  l = [a, b];\n  port = x;\n}", &["app 2:7 syntax", "app 3:10 type"]),
        ("{\n  cluster = { enabled = 'YES'; };\n  port = x;\n}", &["app 2:25 syntax", "app 3:10 type"]),
        ("{\n  cluster = {\n    name = a;\n  port = 1;\n}", &["app 1:1 syntax", "app 4:3 unknown-key"]),
        ("{ port = x; /* never closed", &["app 1:10 type", "app 1:13 syntax"]),
        ("{ port = x; }; ", &["app 1:10 type", "app 1:14 syntax"]),
        ("{ port = x; } }", &["app 1:10 type", "app 1:15 syntax"]),
        ("{ a = 'b \"c", &["app 1:7 syntax"]),
        // What is no property list is one mistake.
        ("port: 3000\nhost: x\n", &["app 1:7 syntax"]),
        ("{\n  \"port\": 3000,\n  \"host\": \"x\"\n}\n", &["app 2:9 syntax"]),
        ("{ port = 1;\0\0\0 }", &["app 1:12 syntax"]),
        ("<html></html>", &["app 1:2 syntax"]),
        // XML has places for what is wrong with its text.
        ("<plist><dict>\n<key>port</key><integer> 3 </integer>\n</dict></plist>", &["app 2:37 syntax"]),
        ("<plist><dict>\n<key>port</key><null/>\n</dict></plist>", &["app 2:22 syntax"]),
        (
            "<plist><dict><key>a</key><dict><key>port</key><true/></dict>\n<!-- <key>port</key> --><key>port</key>\
             <integer>1</integer>\n<key>b</key><dict/><key>port</key><integer>2</integer></dict></plist>",
            &["app 2:30 duplicate-key"],
        ),
    ];
    let wrong: Vec<_> = table
        .iter()
        .map(|(text, told)| (*text, *told, found(text, None)))
        .filter(|(_, told, found)| told != found)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A syntax error hides nothing of the other file, and nothing is made up about the values that it hides.
#[test]
fn a_broken_file_leaves_the_others_problems_as_they_are() {
    let broken = "{ propaneAccessories = { jobWorkerCommand = 'a; }; }";
    let above = "{ port = 0; propaneAccessories = { jobWorkerCount = 2; }; }";
    let told = found(broken, Some(above));
    assert!(told.contains(&"env 1:10 range".to_owned()), "{told:?}");
    assert!(told.iter().all(|told| !told.ends_with("jobs-without-command")), "{told:?}");
    // Nor about a setting that has no valid value.
    let rejected = "{ propaneAccessories = { jobWorkerCommand = (a); jobWorkerCount = 2; }; }";
    assert_eq!(found(rejected, None), ["app 1:45 type"]);
}

/// A file with the same mistake everywhere is not told line by line for ever.
#[test]
fn a_file_full_of_mistakes_is_not_read_to_its_end() {
    let toml = "port = 1\nhost = a\n".repeat(1000);
    assert_eq!(found(&toml, None).iter().filter(|told| told.ends_with("syntax")).count(), 10);
}

/// Two settings that contradict each other are shown together.
#[test]
fn contradictions_show_both_sides() {
    let table = [
        ("{ enableReusePort = NO; propaneAccessories = { workerCount = 3; }; }", "1:21", vec!["1:62"]),
        ("{ propaneAccessories = { jobWorkerCommand = a; jobWorkerCount = 0; }; }", "1:45", vec!["1:65"]),
        ("{ propaneAccessories = { jobWorkerCommand = \"\"; jobWorkerCount = 1; }; }", "1:66", vec!["1:45"]),
        ("{ cluster = { enabled = NO; emitHeaders = YES; }; }", "1:43", vec!["1:25"]),
        ("{ propaneAccessories = { workerFDWarnPercent = 95; workerFDCriticalPercent = 90; }; }", "1:48", vec!["1:78"]),
        ("{ propaneAccessories = { workerFDRetirePercent = 70; }; }", "1:50", vec![]),
        ("{ propaneAccessories = { respawnDelayMs = 500; respawnDelayMaxMs = 400; }; }", "1:68", vec!["1:43"]),
        ("{ propaneAccessories = { workerCommand = \"x {fd}\"; socketStrategy = steer; }; }", "1:69", vec!["1:42"]),
        ("{ cluster = { nodeID = \" \"; }; }", "1:24", vec![]),
    ];
    for (text, place, related) in table {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("config")).unwrap();
        fs::write(root.path().join("config/app.plist"), text).unwrap();
        let problems = load(&Inputs { cwd: root.path().to_owned(), ..Inputs::default() }).problems;
        assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
        let at = |place: &propane_config::Place| place.origin.to_string().replace("config/app.plist:", "");
        assert_eq!(problems[0].place.as_ref().map(at).as_deref(), Some(place), "{text}");
        assert_eq!(problems[0].related.iter().map(at).collect::<Vec<_>>(), related, "{text}");
    }
}

/// The file is not read, and its text, whose secrets nobody would recognise, is not quoted.
#[test]
fn a_text_in_another_encoding_is_told_by_its_name() {
    let text = "{ password = abcdef; port = 3000; }";
    let wide = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<_>>();
    let wider: Vec<u8> = text.chars().flat_map(|letter| u32::from(letter).to_le_bytes()).collect();
    for (mark, text, encoding) in [
        (&b"\xff\xfe"[..], wide(u16::to_le_bytes), "UTF-16"),
        (b"\xfe\xff", wide(u16::to_be_bytes), "UTF-16"),
        (b"", wide(u16::to_le_bytes), "UTF-16"),
        (b"", wide(u16::to_be_bytes), "UTF-16"),
        (b"\xff\xfe", Vec::new(), "UTF-16"),
        (b"\xff\xfe\0\0", wider.clone(), "UTF-32"),
        (b"", wider, "UTF-32"),
    ] {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("config")).unwrap();
        fs::write(root.path().join("config/app.plist"), [mark, &text].concat()).unwrap();
        let inputs = Inputs { cwd: root.path().to_owned(), hostname: Some("node-1".into()), ..Inputs::default() };
        let problems = load(&inputs).problems;
        let [problem] = &problems[..] else { panic!("{problems:#?}") };
        assert_eq!(problem.message, format!("the file is written in {encoding}"));
        assert_eq!(problem.suggestion.as_deref(), Some("save the file as UTF-8"));
        assert!(problem.place.as_ref().unwrap().quote.is_none());
    }
}
