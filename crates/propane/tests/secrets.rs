//! A secret shows in no output of any command, wherever it stands and however broken the file around it is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

/// What is to stay hidden. No word of ours has these letters in this order.
const SECRET: &str = "Zq7XvK9wJz";

/// The commands that show anything of a configuration.
const COMMANDS: &[&[&str]] = &[
    &["config", "print", "--all"],
    &["config", "print", "--all", "--format", "json"],
    &["config", "print", "--format", "plist"],
    &["config", "print", "--format", "env"],
    &["config", "check"],
    &["config", "check", "--format", "json"],
    &["config", "check", "--all-envs", "--format", "github"],
    &["config", "explain", "port"],
    &["config", "explain", "jobWorkerCommand"],
    &["config", "diff", "--defaults"],
    &["--port", "0"],
];

/// All that the commands say, and what `load` hands to the manager's log.
fn everything_said(root: &Path, variables: &[(&str, String)]) -> String {
    let mut said = String::new();
    for words in COMMANDS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_propane"));
        let command = command.env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
        let output = command.current_dir(root).args(*words).stdin(std::process::Stdio::null()).output().unwrap();
        said += &String::from_utf8(output.stdout).unwrap();
        said += &String::from_utf8(output.stderr).unwrap();
    }
    said
}

/// The secret as data.
fn hex() -> String {
    SECRET.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// Ways to write the secret in a property list; the first character may be escaped.
fn written() -> impl Strategy<Value = String> {
    let escaped = format!("\"\\U005a{}\"", &SECRET[1..]);
    let octal = format!("\"\\132{}\"", &SECRET[1..]);
    let lines = format!("\"first\n  {SECRET}\"");
    let hex = hex();
    prop_oneof![
        Just(SECRET.to_owned()),
        Just(format!("\"{SECRET}\"")),
        Just(format!("\"a;{SECRET}}}\"")),
        Just(format!("'{SECRET}'")),
        Just(format!("'a {SECRET}; x'")),
        Just(format!("({SECRET}, \"b {SECRET}\")")),
        Just(format!("{{ name = x; value = ({{ deep = \"{SECRET}\"; }}); }}")),
        Just(format!("/* now */ {SECRET}")),
        Just(format!("// now; here\n {SECRET}")),
        Just(format!("x {SECRET}")),
        Just(format!("<{hex}>")),
        Just(escaped),
        Just(octal),
        Just(lines),
        Just(format!("{SECRET}; // was \"{SECRET}\" before")),
    ]
}

/// A setting that is secret, in one line or several.
fn secret_entry() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(vec![
        "password",
        "\"pass\\U0077ord\"",
        "bearerSecret",
        "API_TOKEN",
        "\"connectionString\"",
        "\"db.secret\"",
        "/* the */ secret",
        "passwords",
        "api_key",
        "smtpPass",
    ]);
    let signs = prop::sample::select(vec![" = ", "=", " /* x */ = ", " == ", ": ", " "]);
    let ends = prop::sample::select(vec![";", ";\n", "\n", "", ","]);
    let keyed = (keys, signs, written(), ends).prop_map(|(key, sign, value, end)| format!("{key}{sign}{value}{end}"));
    let urls = prop::sample::select(vec![
        format!("url = \"postgres://app:{SECRET}@db/x\";"),
        format!("url = \"postgres://app:{SECRET}/{SECRET}#@db/x\";"),
        format!("host = \"redis://{SECRET}@h\";"),
        format!("port = \"amqp://a:{SECRET}@h\";"),
        format!("propaneAccessories = {{ jobWorkerCommand = \"run db://me:{SECRET}@h\"; }};"),
        format!("// see https://me:{SECRET}@example.org/\n"),
        format!("url = \"https://h/?n=1&access_token={SECRET}&x=1\";"),
        format!("propaneAccessories = {{ jobWorkerCommand = \"run --api-key {SECRET} x\"; }};"),
        format!("propaneAccessories = {{ workerCommand = \"DB_PASSWORD='{SECRET}' x {{fd}}\"; }};"),
        format!("propaneAccessories = {{ jobWorkerCommand = \"curl -H \\\"Authorization: Bearer {SECRET}\\\"\"; }};"),
    ]);
    prop_oneof![4 => keyed, 1 => urls]
}

/// What may stand around it, much of it wrong.
fn surroundings() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "port = 3000;",
        "port = lots; ",
        "port 3000;\n",
        "host = \"x;\n",
        "host = 'y';\n",
        "name = a b;\n",
        "list = (a b);",
        "session = {",
        "propaneAccessories = { ",
        "workerCuont = 3; ",
        "port = 1; port = 2;",
        "}; ",
        "};\n",
        "(",
        ")",
        "\"",
        "/* open",
        "*/",
        "// line\n",
        "\n",
        "\n  ",
        "=",
        ";",
        "cluster = ( ",
        "é",
        "<48 6",
        "<key>token</key>",
    ])
    .prop_map(ToOwned::to_owned)
}

fn file() -> impl Strategy<Value = String> {
    let piece = || prop_oneof![3 => surroundings(), 1 => secret_entry()];
    let pieces = prop::collection::vec(piece(), 0..8);
    (any::<bool>(), pieces, secret_entry(), prop::collection::vec(surroundings(), 0..4), any::<bool>()).prop_map(
        |(opens, before, secret, after, closes)| {
            let (open, close) = (if opens { "{ " } else { "" }, if closes { " }" } else { "" });
            format!("{open}{} {secret} {}{close}", before.join(" "), after.join(" "))
        },
    )
}

fn leaks(said: &str) -> bool {
    said.contains(&SECRET[1..]) || said.contains(&hex())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_command_shows_a_secret(app in file(), environment in file()) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("config/environments")).unwrap();
        fs::write(root.path().join("config/app.plist"), &app).unwrap();
        fs::write(root.path().join("config/environments/production.plist"), &environment).unwrap();
        let url = format!("postgres://app:{SECRET}@db/x");
        let variables = [
            ("ARLEN_DATABASE_URL", url.clone()),
            ("ARLEN_SESSION_SECRET", SECRET.to_owned()),
            ("ARLEN_CLUSTER_TOKEN", SECRET.to_owned()),
            ("ARLEN_PORT", url),
        ];
        let said = everything_said(root.path(), &variables);
        prop_assert!(!leaks(&said), "{app}\n--- environment\n{environment}\n--- said\n{said}");
    }
}
