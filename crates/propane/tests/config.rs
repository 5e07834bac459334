//! The `config` commands over the app roots under `testdata/apps/`, run as a user runs them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn app(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/apps").join(name).canonicalize().unwrap()
}

/// The program in an app root, with nothing in its environment but a name for the node, since hosts differ.
fn propane(app: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_propane"));
    command.env_clear().env("ARLEN_CLUSTER_NODE_ID", "node-1").current_dir(app);
    command
}

/// Everything that the program said, with the app root's path taken out.
fn said(root: &Path, command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(root.to_str().unwrap(), "[APP]");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    let stderr = if stderr.is_empty() { String::new() } else { format!("--- stderr\n{stderr}") };
    format!("{stdout}{stderr}--- exit {}\n", output.status.code().unwrap())
}

fn config(name: &str, words: &[&str]) -> String {
    said(&app(name), propane(&app(name)).arg("config").args(words))
}

/// A snapshot under the `snapshots/` of the workspace.
macro_rules! assert_shown {
    ($name:literal, $shown:expr) => {
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/../../snapshots/propane"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!($name, $shown) });
    };
}

#[test]
fn the_seeds_own_snippets_resolve() {
    assert_shown!("seed_print_all", config("seed", &["print", "--all"]));
    assert_shown!("seed_print_json", config("seed", &["print", "--format", "json"]));
    assert_shown!("seed_print_plist", config("seed", &["print", "--format", "plist"]));
    assert_shown!("seed_print_env", config("seed", &["print", "--format", "env"]));
    assert_shown!("seed_check", config("seed", &["check"]));
}

#[test]
fn layers_override_each_other_and_say_so() {
    let words = ["print", "--env", "production", "--workers", "12", "--all"];
    assert_shown!("layered_print_all", config("layered", &words));
    assert_shown!("layered_print_json", config("layered", &[words.as_slice(), &["--format=json"]].concat()));
    assert_shown!("layered_print_changed", config("layered", &["print", "--env", "staging", "--changed"]));
    assert_shown!("layered_print_plist", config("layered", &["print", "--env", "staging", "--format", "plist"]));
    assert_shown!("layered_print_env", config("layered", &["print", "--format", "env", "--changed"]));
    assert_shown!("layered_check", config("layered", &["check", "--env", "staging", "--strict"]));
}

#[test]
fn the_design_s_own_sample_is_what_is_printed() {
    let keys = ["propaneAccessories.workerCount", "enableReusePort", "database.connectionString"];
    let shown = config("layered", &[&["print", "--workers", "12", "--all"], keys.as_slice()].concat());
    for line in [
        "propaneAccessories.workerCount = 12    # --workers\n",
        "                                 8     #   over config/environments/production.plist:3:40\n",
        "                                 4     #   over config/app.plist:6:19\n",
        "                                 4     #   over built-in default\n",
        "enableReusePort                = YES   # derived: propaneAccessories.workerCount = 12 > 1 (--workers)\n",
        "database.connectionString      = ***   # config/app.plist:11:35 (secret)\n",
    ] {
        assert!(shown.contains(line), "{line:?} is not in\n{shown}");
    }
}

#[test]
fn every_layer_s_mistakes_are_told_at_once() {
    assert_shown!("mistakes_check", config("mistakes", &["check"]));
    assert_shown!("mistakes_check_json", config("mistakes", &["check", "--format", "json"]));
    let mut command = propane(&app("mistakes"));
    command.args(["config", "check", "--connection-timeout-seconds=never", "--socket-strategy", "stear"]);
    let variables = [
        ("ARLEN_PORT", "tcp://10.0.0.1:3000"),
        ("ARLEN_PROPANE_WORKER_COUNT", "3"),
        ("ARLEN_CLUSTR_NAME", "shop"),
        ("ARLEN_CLUSTER_EXPECTED_NODES", "0"),
        ("ARLEN_MAX_HTTP_SESSIONS", ""),
        ("MOJOOBJC_HOST", "0.0.0.0"),
    ];
    assert_shown!("mistakes_check_everywhere", said(&app("mistakes"), command.envs(variables)));
}

#[test]
fn a_broken_file_is_quoted_without_its_secrets() {
    let shown = config("broken", &["check"]);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_shown!("broken_check", shown);
    assert_shown!("broken_print", config("broken", &["print", "host"]));
}

#[test]
fn no_form_shows_a_secret() {
    for app in ["layered", "mistakes", "broken", "xml", "binary"] {
        for format in ["text", "json", "plist", "env"] {
            let shown = config(app, &["print", "--all", "--format", format]);
            assert!(!shown.contains("hunter2"), "{app} as {format}:\n{shown}");
        }
    }
}

#[test]
fn xml_and_binary_files_resolve_alike() {
    let xml = config("xml", &["print", "--all"]);
    assert_eq!(xml, config("binary", &["print", "--all"]));
    assert_shown!("xml_print_all", xml);
}

#[test]
fn a_value_is_explained_down_to_its_inputs() {
    assert_shown!("explain_derived", config("layered", &["explain", "enableReusePort", "--workers", "12"]));
    let keys = ["workerCount", "$ARLEN_CLUSTER_NODE_ID", "cluster.observedNodes", "serveStatic"];
    assert_shown!("explain_several", config("layered", &[&["explain"], keys.as_slice()].concat()));
    let apps_own = ["explain", "database.poolSize", "session.secret", "mailer.url", "routes[1].path"];
    assert_shown!("explain_keys_of_the_app", config("layered", &apps_own));
    assert_shown!("explain_options", config("layered", &["explain", "--env=staging", "--app-root", "--pid-file"]));
    let words = ["explain", "jobWorkerCommand", "enableReusePort", "requestDispatchMode", "--format", "json"];
    assert_shown!("explain_json", config("layered", &words));
}

/// Also where a higher layer hides it, and with what the rest of the files is guilty of.
#[test]
fn a_value_is_explained_with_its_problems() {
    assert_shown!("explain_hidden_mistake", config("mistakes", &["explain", "workerCount", "gracefulShutdownSeconds"]));
    assert_shown!("explain_elsewhere", config("mistakes", &["explain", "host", "--env=nope", "--no-respawn=never"]));
    assert_shown!("explain_in_a_broken_file", config("broken", &["explain", "port"]));
    let mut command = propane(&app("seed"));
    command.args([
        "config",
        "explain",
        "host",
        "cluster.name",
        "--worker-fd-warn-percent=95",
        "workerFDCriticalPercent",
    ]);
    let variables = [("MOJOOBJC_HOST", "::1"), ("ARLEN_CLUSTR_NAME", "shop"), ("ARLEN_CLUSTER_EXPECTED_NODES", "0")];
    assert_shown!("explain_problems_of_variables", said(&app("seed"), command.envs(variables)));
}

#[test]
fn what_a_file_says_twice_is_told_of_the_setting_it_is_about() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("config")).unwrap();
    let text = "{ port = 1;\n  propaneAccessories = { workerCount = 2; };\n  port = 3; \"my.app\" = { \"a.b\" = 4; };\n  \
        propaneAccessories = { umask = 1; umask = 2; }; }";
    std::fs::write(root.path().join("config/app.plist"), text).unwrap();
    let words = ["config", "explain", "port", "workerCount", "umask", "a.b"];
    assert_shown!("explain_duplicates", said(root.path(), propane(root.path()).args(words)));
}

/// A flag without a value is asked about, one with a value is part of what is explained.
#[test]
fn flags_are_questions_or_layers() {
    let first_lines = |words: &[&str]| {
        let shown = config("seed", &[&["explain"], words].concat());
        let lines =
            shown.lines().filter(|line| line.contains(" = ") && !line.starts_with(' ') || line.starts_with("  why"));
        lines.map(|line| line.trim_start().to_owned()).collect::<Vec<_>>()
    };
    let builtin = "why       built-in default";
    let by_default = ["once = NO", builtin];
    assert_eq!(first_lines(&["--once"]), by_default);
    assert_eq!(first_lines(&["--", "--once"]), by_default);
    assert_eq!(first_lines(&["once", "--once"]), ["once = YES", "why       --once (argument 4)"]);
    assert_eq!(first_lines(&["--once=yes"]), ["once = YES", "why       --once (argument 3)"]);
    assert_eq!(first_lines(&["--port"]), ["port = 3000", builtin]);
    assert_eq!(first_lines(&["--port", "--host", "h"]), ["port = 3000", builtin]);
    assert_eq!(first_lines(&["--port", "81", "--host"]), ["host = 127.0.0.1", builtin]);
    assert_eq!(first_lines(&["port", "--port", "81"]), ["port = 81", "why       --port (argument 4)"]);
    assert_eq!(first_lines(&["--port", "81"]), ["port = 81", "why       --port (argument 3)"]);
    assert_eq!(first_lines(&["--host", "--", "port"]), ["port = 3000", builtin, "host = 127.0.0.1", builtin]);
}

#[test]
fn names_that_do_not_exist_are_answered_with_what_was_meant() {
    for (name, said) in [
        ("workerCuont", "there is no key workerCuont; did you mean propaneAccessories.workerCount?"),
        ("MOJOOBJC_PORT", "MOJOOBJC_PORT is the deprecated name of ARLEN_PORT; use ARLEN_PORT"),
        ("--wrokers", "there is no flag --wrokers; did you mean --workers?"),
        ("--worker-count=3", "there is no flag --worker-count; did you mean --workers?"),
        ("database.poolSzie", "there is no key database.poolSzie; did you mean database.poolSize?"),
        ("path", "there are several keys path; name one of routes[0].path, routes[1].path"),
        ("", "there is no key \"\""),
        (" workerCount ", "there is no key \" workerCount \"; did you mean propaneAccessories.workerCount?"),
        ("\u{1b}[31m", "there is no key \"\\u{1b}[31m\""),
    ] {
        assert_eq!(config("layered", &["explain", name]), format!("--- stderr\npropane: {said}\n--- exit 3\n"));
    }
    assert!(config("seed", &["explain"]).ends_with("--- exit 2\n"));
    assert!(config("seed", &["explain", "port", "--fromat=json"]).ends_with("--- exit 2\n"));
}

#[test]
fn the_variables_of_workers_and_of_propane_are_listed() {
    let env = config("layered", &["env"]).replace(app("layered").to_str().unwrap(), "[APP]");
    assert_shown!("layered_env", env);
    assert_shown!("layered_env_json", config("layered", &["env", "--export", "json", "--env", "staging"]));
    let variables = [
        ("ARLEN_PROPANE_WORKERS", "3"),
        ("ARLEN_PORT", ""),
        ("MOJOOBJC_LISTEN_BACKLOG", "3"),
        ("ARLEN_CLUSTER_EXPECTED_NODES", "many"),
        ("ARLEN_CLUSTR_NAME", "shop"),
        ("ARLEN_CLUSTER_NAME", "amqp://me:hunter2@queue/"),
    ];
    let list = |words: &[&str]| {
        let mut command = propane(&app("layered"));
        said(&app("layered"), command.args(["config", "env", "--list", "--workers=4"]).args(words).envs(variables))
    };
    assert_shown!("layered_env_list", list(&[]));
    let json = list(&["--export", "json"]);
    let json: serde_json::Value = serde_json::from_str(json.split("--- stderr").next().unwrap()).unwrap();
    let state = |name: &str| {
        let all = json["variables"].as_array().unwrap();
        all.iter().find(|variable| variable["variable"] == name).unwrap()["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state("ARLEN_PROPANE_WORKERS"), "overridden");
    assert_eq!(state("ARLEN_PORT"), "empty");
    assert_eq!(state("ARLEN_LISTEN_BACKLOG"), "used");
    assert_eq!(state("ARLEN_CLUSTER_EXPECTED_NODES"), "invalid");
    assert_eq!(state("ARLEN_HOST"), "unset");
    assert!(config("seed", &["env", "--list", "--export", "sh"]).ends_with("--- exit 2\n"));
}

/// The variables of an `EnvironmentFile`, by the rules of `systemd.exec(5)`.
fn read_environment_file(text: &str) -> Vec<(String, String)> {
    let (mut variables, mut rest) = (Vec::new(), text);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => read_quoted(quoted),
            None => after.split_once('\n').map(|(value, after)| (value.to_owned(), after)).unwrap(),
        };
        variables.push((name.to_owned(), value));
        rest = after;
    }
    variables
}

fn read_quoted(text: &str) -> (String, &str) {
    let (mut value, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, text[at + 1..].strip_prefix('\n').unwrap()),
            '\\' => match letters.next().unwrap().1 {
                special @ ('"' | '\\' | '`' | '$') => value.push(special),
                '\n' => {}
                other => value.extend(['\\', other]),
            },
            plain => value.push(plain),
        }
    }
    panic!("a quote is never closed: {text}");
}

#[test]
fn exported_values_arrive_as_they_are_whatever_is_in_them() {
    const NAME: &str = "ARLEN_CLUSTER_NAME";
    for value in [
        "plain",
        "two words",
        " both ends ",
        "it's",
        "\"quoted\"",
        "back\\slash \\\\ \\n \\",
        "$HOME ${HOME} $(id) `id`",
        "new\nline\n",
        "#;&|<>*?[]~!%^(){}=",
        "tab\tbell\u{7}escape\u{1b}",
        "ünï\u{2028}cödé 🦀",
        "-n",
        "\\\n",
    ] {
        let export = |form: &str| {
            let mut command = propane(&app("seed"));
            let output = command.args(["config", "env", "--export", form]).env(NAME, value).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let sourced = |script: &str| {
            let script = format!("set -eu\n{script}\nprintf %sx \"${NAME}\"");
            let output = Command::new("/bin/sh").args(["-c", &script]).env_clear().output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(sourced(&export("sh")), format!("{value}x"));
        let file = export("systemd");
        let read = read_environment_file(&file);
        assert_eq!(read.iter().find(|(name, _)| name == NAME).unwrap().1, value, "{file}");
        assert_eq!(sourced(&file), format!("{value}x"), "a shell reads these quotes as systemd does");
        let json: serde_json::Value = serde_json::from_str(&export("json")).unwrap();
        assert_eq!(json[NAME], value);
    }
}

/// Whatever the configuration and the environment are like.
#[test]
fn documents_need_no_configuration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (words, file) in [
        (&["schema"][..], "config-schema/app.schema.json"),
        (&["docs"], "docs/settings.md"),
        (&["docs", "--format", "man"], "docs/man/propane.plist.5"),
        (&["docs", "--format", "man-command"], "docs/man/propane.1"),
        (&["docs", "--format", "plist-template"], "config-schema/app.plist"),
    ] {
        let mut command = propane(&app("broken"));
        command.arg("config").args(words).env("ARLEN_PORT", "none").env("ARLEN_APP_ROOT", "/nowhere");
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
        let committed = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(output.stdout == committed.as_bytes(), "{file} is stale: run `cargo xtask generate`");
    }
}

#[test]
fn manual_pages_format_without_a_warning() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/man");
    for page in ["propane.1", "propane.plist.5"] {
        let mut command = Command::new("groff");
        let output = match command.args(["-man", "-ww", "-z", "-Tutf8", page]).current_dir(&directory).output() {
            Err(_) if std::env::var_os("PROPANE_REQUIRE_PEERS").is_none() => return println!("skipped: no groff"),
            output => output.unwrap(),
        };
        assert!(output.status.success() && output.stderr.is_empty(), "{page}: {output:?}");
    }
}

#[test]
fn a_variable_that_is_no_text_is_not_written_as_something_else() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().unwrap();
    let strange = root.path().join(std::ffi::OsStr::from_bytes(b"a\xffb"));
    std::fs::create_dir(&strange).unwrap();
    let output = propane(&strange).args(["config", "env"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("ARLEN_APP_ROOT is not UTF-8")
    );
}

#[test]
fn help_names_variables_and_never_what_they_hold() {
    for words in [&["--help"][..], &["config", "explain", "--help"], &["config", "print", "-h"]] {
        let mut command = propane(&app("broken"));
        let output =
            command.args(words).env("ARLEN_CLUSTER_NAME", "hunter2").env("ARLEN_PORT", "none").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let words: Vec<_> = help.split_whitespace().collect();
        assert!(words.join(" ").contains("[default: 3000] [env: ARLEN_PORT]"), "{help}");
        assert!(!help.contains("hunter2") && output.status.success(), "{help}");
    }
}

#[test]
fn secrets_are_shown_only_where_it_is_forced() {
    for command in [&["print", "session"][..], &["explain", "session.secret"]] {
        let asked = config("layered", &[command, &["--show-secrets"]].concat());
        assert!(asked.starts_with("--- stderr") && asked.ends_with("--- exit 2\n"), "{asked}");
        let forced = config("layered", &[command, &["--show-secrets=force"]].concat());
        assert!(forced.contains("hunter2"), "{forced}");
        assert!(!config("layered", command).contains("hunter2"));
    }
    // Problems quote files, and never lift the mask.
    let quoted = config("broken", &["print", "--show-secrets=force", "--format=json"]);
    assert!(!quoted.contains("hunter2"), "{quoted}");
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    for words in
        [&["config", "print"][..], &["config", "check"], &["config", "schema"], &["config", "env"], &["--help"]]
    {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = propane(&app("seed")).args(words).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write the answer"), "{words:?}");
    }
}

#[test]
fn colours_are_a_matter_of_choice() {
    assert!(config("mistakes", &["check", "--color=always"]).contains('\x1b'));
    assert!(config("seed", &["explain", "port", "--color=always"]).contains('\x1b'));
    assert!(!config("mistakes", &["check", "--color=never"]).contains('\x1b'));
}

#[test]
fn misspelt_names_exit_with_3_and_a_suggestion() {
    assert_shown!("misspelt_environment", config("layered", &["check", "--env", "prodution"]));
    assert_shown!("misspelt_key", config("layered", &["print", "workerCuont"]));
    assert_shown!("foreign_environment", config("layered", &["check", "--env", "qa"]));
}

/// A start refuses what the commands refuse, with the code of a start.
#[test]
fn a_start_with_errors_exits_with_2_and_starts_nothing() {
    for (name, words) in [
        ("mistakes", &[][..]),
        ("broken", &[]),
        ("layered", &["--env", "prodution"]),
        ("layered", &["--env", "../layered"]),
        ("layered", &["--port", "0"]),
        ("layered", &["--worker", "3"]),
        ("layered", &["--port"]),
        ("seed", &["--job-worker-count", "2"]),
        ("seed", &["--worker-cmd", "server 'unclosed"]),
    ] {
        let output = propane(&app(name)).args(words).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name} {words:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{name} {words:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{name} {words:?}");
    }
}

#[test]
fn a_directory_without_an_app_says_how_to_name_one() {
    let empty = tempfile::tempdir().unwrap();
    let root = empty.path().canonicalize().unwrap();
    assert_shown!("no_app", said(&root, propane(&root).args(["config", "check"])));
    let command = ["config", "check", "--worker-cmd", "gunicorn app:app"];
    assert_shown!("no_app_but_a_command", said(&root, propane(&root).args(command)));
    let gone = root.join("gone");
    assert_shown!("no_app_root", said(&root, propane(&root).args(["config", "check", "--app-root"]).arg(gone)));
}

/// The positions of flags count the words after the program's name.
#[test]
fn arguments_know_their_position() {
    let shown = config("seed", &["print", "--port=1", "--port", "4001", "--format", "json", "port"]);
    let json: serde_json::Value = serde_json::from_str(shown.split("--- exit").next().unwrap()).unwrap();
    let origin = &json["settings"][0]["origin"];
    assert_eq!(origin["flag"], "--port");
    assert_eq!(origin["index"], 4, "propane config print --port=1 --port: {json}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = propane(&app("layered"));
    let status = command.args(["config", "print", "--all"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(status.status.code(), Some(0));
    assert!(status.stderr.is_empty(), "{status:?}");
}

#[test]
fn a_pipe_gets_no_colours() {
    assert!(!config("mistakes", &["check"]).contains('\x1b'));
}

#[test]
fn all_environments_are_checked_at_once() {
    assert_shown!("environments_check", config("environments", &["check"]));
    assert_shown!("environments_check_all", config("environments", &["check", "--all-envs"]));
    assert_shown!("environments_check_json", config("environments", &["check", "--all-envs", "--format", "json"]));
    assert_shown!("environments_check_github", config("environments", &["check", "--all-envs", "--format=github"]));
    assert_shown!("environments_check_one", config("environments", &["check", "--all-envs", "--env", "staging"]));
    assert_shown!("layered_check_all", config("layered", &["check", "--all-envs", "--strict"]));
    assert_shown!("seed_check_all", config("seed", &["check", "--all-envs"]));
}

/// What only a scratch directory can hold: names and files that no repository wants.
#[test]
fn odd_files_among_the_environments_are_told() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    let environments = root.join("config/environments");
    std::fs::create_dir_all(environments.join("folder.plist")).unwrap();
    std::fs::write(root.join("config/app.plist"), "{}").unwrap();
    for name in [".plist", "new\nline.plist", "sp ace.plist", "é.plist", "notes.txt", "fine.plist", "fine.plist~"] {
        std::fs::write(environments.join(name), "{}").unwrap();
    }
    std::os::unix::fs::symlink("loop.plist", environments.join("loop.plist")).unwrap();
    std::os::unix::fs::symlink("fine.plist", environments.join("link.plist")).unwrap();
    std::os::unix::fs::symlink("nowhere", environments.join("dangling.plist")).unwrap();
    nix::unistd::mkfifo(&environments.join("fifo.plist"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_shown!("odd_environments", said(&root, propane(&root).args(["config", "check", "--all-envs"])));
    let github = ["config", "check", "--all-envs", "--format", "github"];
    let shown = said(&root, propane(&root).args(github));
    assert!(shown.contains("file=config/environments/new%0Aline.plist"), "{shown}");
    // From the directory above, as a workflow's checkout is, paths lead through the app root.
    let above = root.parent().unwrap();
    let name = root.file_name().unwrap();
    let shown = said(above, propane(above).args(github).arg("--app-root").arg(name));
    assert!(shown.contains(&format!("file={}/config/environments/fifo.plist,", name.to_str().unwrap())), "{shown}");
}

#[test]
fn two_configurations_are_compared() {
    let diff = |words: &[&str]| config("layered", &[&["diff"], words].concat());
    assert_shown!("layered_diff_environments", diff(&["--env", "production", "--env", "staging"]));
    assert_shown!("layered_diff_defaults", diff(&["--defaults", "--env", "production"]));
    assert_shown!("layered_diff_what_if", diff(&["--env", "staging", "--workers", "12", "--format", "json"]));
    assert_eq!(diff(&["--env", "production"]), "no differences\n--- exit 0\n");
    // The order is the command line's.
    assert!(diff(&["--env", "staging", "--defaults"]).lines().any(|line| line.trim().starts_with("staging ")));
}

#[test]
fn saved_configurations_are_compared_as_far_as_they_tell() {
    let app = app("layered");
    let scratch = tempfile::tempdir().unwrap();
    let save = |name: &str, words: &[&str]| {
        let output = propane(&app).args(["config", "print", "--format", "json"]).args(words).output().unwrap();
        std::fs::write(scratch.path().join(name), output.stdout).unwrap();
    };
    save("then.json", &[]);
    save("now.json", &["--workers", "9"]);
    save("cluster.json", &["--env", "staging", "cluster"]);
    save("secrets.json", &["--show-secrets=force"]);
    let diff = |words: &[&str]| {
        let mut command = propane(&app);
        command.args(["config", "diff", "--app-root"]).arg(&app).args(words).current_dir(scratch.path());
        said(&app, &mut command)
    };
    assert_shown!("saved_diff", diff(&["then.json", "now.json"]));
    assert_shown!("saved_diff_files", diff(&["then.json"]));
    assert_shown!("saved_diff_selection", diff(&["cluster.json", "--env", "production"]));
    // What was saved with its secrets is compared whole, and shown without them.
    assert!(diff(&["secrets.json"]).ends_with("no differences\n--- exit 0\n"));
    let text = std::fs::read_to_string(scratch.path().join("secrets.json")).unwrap();
    std::fs::write(scratch.path().join("secrets.json"), text.replace("hunter2", "hunter3")).unwrap();
    let changed = diff(&["secrets.json"]);
    assert!(changed.ends_with("\n5 differences\n--- exit 1\n") && !changed.contains("hunter"), "{changed}");
    assert_eq!(changed.matches("(secret, changed)").count(), 5);
    let mut piped = propane(&app);
    piped
        .args(["config", "diff", "-", "--workers", "9"])
        .stdin(std::fs::File::open(scratch.path().join("now.json")).unwrap());
    let shown = said(&app, &mut piped);
    assert!(shown.ends_with("no differences, 5 values cannot be compared\n--- exit 0\n"), "{shown}");
}

#[test]
fn what_cannot_be_compared_says_why() {
    let nothing = tempfile::tempdir().unwrap();
    let saved = nothing.path().join("saved.json");
    let saved = saved.to_str().unwrap();
    std::fs::write(saved, "{\"format\": \"propane-config/1\"").unwrap();
    for (words, expected) in [
        (
            &[][..],
            "propane: name two sides, or one: --env NAME, --defaults, --running, or a file that `propane config print --format json` has saved\n--- exit 2",
        ),
        (&["--env", "a", "--env", "b", "--defaults"], "propane: 3 sides are too many; name"),
        (&["--running", "--running"], "propane: --running can be one side only\n--- exit 2"),
        (&["-", "-"], "propane: standard input (-) can be one side only\n--- exit 2"),
        (
            &["production"],
            "propane: production cannot be read: No such file or directory (os error 2); an environment is named by --env production\n--- exit 2",
        ),
        (&[saved], "is cut short: it ends at line 1, column 29\n--- exit 2"),
        (&["--running"], "propane: no manager is running (pid file: [APP]/tmp/propane.pid)\n--- exit 2"),
        (
            &["--env", "nosuch"],
            "propane: there is no environment nosuch: config/environments/nosuch.plist does not exist\n--- exit 3",
        ),
        (&["--env", "production", "--env", "stagin"], "did you mean staging?"),
        (&["--workers", "0", "--env", "staging"], "propane: nothing is compared until this is put right\n--- exit 1"),
        (&["--env", "../staging"], "cannot be the name of an environment"),
        (&["--bogus"], "unexpected argument '--bogus'"),
    ] {
        let shown = config("layered", &[&["diff"], words].concat());
        assert!(shown.contains(expected), "{words:?}: {shown}");
    }
    assert!(config("layered", &["diff", "--env", "stagin"]).ends_with("--- exit 3\n"));
    assert!(
        config("broken", &["diff", "--defaults"])
            .ends_with("propane: nothing is compared until this is put right\n--- exit 2\n")
    );
}
