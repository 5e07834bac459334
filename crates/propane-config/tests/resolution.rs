//! The rules of resolution, each over an app root made for it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use propane_config::{
    Args, Code, Flag, Inputs, LogFormat, Origin, Problem, Resolution, SocketStrategy, Strategy, Value, WorkerChoice,
    load, worker_exports,
};
use tempfile::TempDir;

/// An app root, and what the process is started with in it.
struct App {
    root: TempDir,
    inputs: Inputs,
}

impl App {
    fn new(plist: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let cwd = root.path().canonicalize().unwrap();
        let app = Self { root, inputs: Inputs { cwd, hostname: Some(" Web-7.Example ".into()), ..Inputs::default() } };
        app.file("config/app.plist", plist)
    }

    fn file(self, name: &str, text: &str) -> Self {
        write(&self.root.path().join(name), text.as_bytes(), 0o644);
        self
    }

    fn program(self, name: &str) -> Self {
        write(&self.root.path().join(name), b"#!/bin/sh\n", 0o755);
        self
    }

    fn without(self, name: &str) -> Self {
        fs::remove_file(self.root.path().join(name)).unwrap();
        self
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.inputs.env.insert(name.into(), value.into());
        self
    }

    fn flag(mut self, name: &str, value: &str) -> Self {
        let index = self.inputs.args.flags.len() + 1;
        self.inputs.args.flags.push(Flag { name: name.into(), value: value.into(), index });
        self
    }

    fn load(&self) -> Resolution {
        load(&self.inputs)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inputs.cwd.join(name)
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn codes(resolution: &Resolution) -> Vec<Code> {
    resolution.problems.iter().map(|problem| problem.code).collect()
}

fn only_problem(resolution: &Resolution) -> &Problem {
    assert_eq!(resolution.problems.len(), 1, "{:#?}", resolution.problems);
    &resolution.problems[0]
}

fn origin(resolution: &Resolution, key: &str) -> String {
    resolution.setting(key).unwrap().origin.to_string()
}

fn exported(resolution: &Resolution, variable: &str) -> Option<String> {
    worker_exports(resolution).into_iter().find(|(name, _)| name == variable).map(|(_, value)| value)
}

const ENVIRONMENT: &str = "config/environments/production.plist";

#[test]
fn each_layer_beats_those_below_it_for_every_key() {
    let app = App::new("{ port = 1; propaneAccessories = { jobWorkerCount = 1; jobWorkerCommand = a; }; }");
    assert_eq!(origin(&app.load(), "port"), "config/app.plist:1:10");
    let app = app.file(ENVIRONMENT, "{ port = 2; }");
    assert_eq!((app.load().config.port, origin(&app.load(), "port")), (2, format!("{ENVIRONMENT}:1:10")));
    let app = app.var("ARLEN_PORT", "3").var("ARLEN_PROPANE_JOB_WORKER_COUNT", "5");
    assert_eq!((app.load().config.port, origin(&app.load(), "port")), (3, "$ARLEN_PORT".into()));
    assert_eq!(app.load().config.propane_accessories.job_worker_count, 5, "the file does not beat the variable");
    let app = app.flag("port", "4");
    let resolution = app.load();
    assert_eq!((resolution.config.port, origin(&resolution, "port")), (4, "--port".into()));
    let lost: Vec<_> = resolution.setting("port").unwrap().overrides.iter().map(|lost| lost.value.clone()).collect();
    assert_eq!(lost, [Value::Int(3), Value::Int(2), Value::Int(1), Value::Int(3000)]);
    assert!(resolution.problems.is_empty(), "{:#?}", resolution.problems);
}

#[test]
fn dictionaries_merge_by_key_and_lists_are_replaced() {
    let app = App::new("{ staticAllowExtensions = (a, b); database = { host = x; port = 1; }; }")
        .file(ENVIRONMENT, "{ staticAllowExtensions = (c); database = { port = 2; }; }");
    let resolution = app.load();
    assert_eq!(resolution.config.static_allow_extensions, Some(vec!["c".to_owned()]));
    let database = resolution.tree.get("database").unwrap().as_dictionary().unwrap();
    assert_eq!(database.get("host").unwrap().as_string(), Some("x"));
    assert_eq!(database.get("port").unwrap().as_string(), Some("2"));
    assert_eq!(origin(&resolution, "database.host"), "config/app.plist:1:55");
    assert_eq!(resolution.setting("database.port").unwrap().overrides[0].value, Value::Text("1".into()));
}

/// Neither is the other, and a saved document holds each key once.
#[test]
fn a_key_of_the_apps_own_does_not_pass_for_an_option_or_a_setting() {
    let resolution = App::new("{ environment = staging; \"cluster.enabled\" = YES; }").load();
    assert_eq!(origin(&resolution, "environment"), "built-in default");
    assert_eq!(origin(&resolution, "\"environment\""), "config/app.plist:1:17");
    assert_eq!(origin(&resolution, "cluster.enabled"), "built-in default");
    assert_eq!(origin(&resolution, "\"cluster.enabled\""), "config/app.plist:1:46");
}

#[test]
fn text_becomes_the_type_of_its_setting_or_is_an_error() {
    for (text, on) in
        [("YES", true), ("no", false), ("on", true), ("Off", false), ("1", true), ("0", false), ("<*BY>", true)]
    {
        let resolution = App::new(&format!("{{ cluster = {{ enabled = {text}; }}; }}")).load();
        assert_eq!(resolution.config.cluster.enabled, on, "{text}");
        assert!(!resolution.has_errors(), "{text}");
    }
    for (text, port) in [("08", 8), ("\" 9 \"", 9), ("<*I7>", 7), ("+5", 5)] {
        assert_eq!(App::new(&format!("{{ port = {text}; }}")).load().config.port, port, "{text}");
    }
    for text in
        ["8abc", "0x1F", "\"\"", "1.5", "<*R5>", "<*BY>", "{}", "(1)", "99999999999999999999", "0", "-1", "<00>"]
    {
        let resolution = App::new(&format!("{{ port = {text}; }}")).load();
        let problem = only_problem(&resolution);
        assert!(problem.is_error(), "{text}");
        assert_eq!(problem.key.as_deref(), Some("port"), "{text}");
        assert_eq!(resolution.config.port, 3000, "{text}: the next lower layer shows");
    }
}

#[test]
fn an_empty_variable_is_unset_and_an_empty_flag_is_not() {
    assert_eq!(App::new("{ port = 5; }").var("ARLEN_PORT", "").load().config.port, 5);
    let app = App::new("{ propaneAccessories = { jobWorkerCommand = run; jobWorkerCount = 1; }; }");
    let resolution = app.flag("job-worker-cmd", "").flag("job-worker-count", "0").load();
    assert_eq!(resolution.config.propane_accessories.job_worker_command, "");
    assert!(resolution.problems.is_empty(), "{:#?}", resolution.problems);
    for (flag, key) in [("app-root", "appRoot"), ("pid-file", "pidFile"), ("framework-root", "frameworkRoot")] {
        let resolution = App::new("{ port = 5; }").flag(flag, "").load();
        assert_eq!(only_problem(&resolution).message, format!("{key} must be a path"));
    }
}

#[test]
fn old_variables_are_read_under_their_new_names_with_a_warning() {
    let app = App::new("{ port = 5; }").var("MOJOOBJC_PORT", "6");
    let resolution = app.load();
    assert_eq!(resolution.config.port, 6);
    assert_eq!(only_problem(&resolution).code, Code::DeprecatedVariable);
    let resolution = app.var("ARLEN_PORT", "7").load();
    assert_eq!(resolution.config.port, 7);
    assert!(only_problem(&resolution).message.contains("hidden by ARLEN_PORT"));
    let never_had_one = App::new("{}").var("MOJOOBJC_PROPANE_JOB_WORKER_COUNT", "1").load();
    assert!(never_had_one.problems.is_empty());
}

#[test]
fn variables_and_flags_that_are_no_text_are_errors() {
    use std::os::unix::ffi::OsStringExt;
    let mut app = App::new("{}");
    app.inputs.env.insert("ARLEN_HOST".into(), OsString::from_vec(vec![0xff]));
    app.inputs.env.insert(OsString::from_vec(b"ARLEN_\xff".to_vec()), "x".into());
    assert_eq!(only_problem(&app.load()).place.as_ref().unwrap().label, "is not UTF-8");
}

#[test]
fn reuse_port_follows_the_workers() {
    let origin_of = |app: &App| app.load().setting("enableReusePort").unwrap().origin.clone();
    // Several workers need it, whatever anybody said.
    let app = App::new("{ enableReusePort = NO; propaneAccessories = { workerCount = 2; }; }");
    let resolution = app.load();
    assert!(resolution.config.enable_reuse_port);
    assert_eq!(only_problem(&resolution).code, Code::ReusePortOverruled);
    let Origin::Derived { rule, inputs } = origin_of(&app) else { panic!("not derived") };
    assert_eq!(rule, "propaneAccessories.workerCount = 2 > 1");
    assert_eq!(inputs[0].origin.to_string(), "config/app.plist:1:62");
    // A single one that gets its socket from the manager does not.
    let single = "{ propaneAccessories = { workerCount = 1; }; }";
    assert!(!App::new(single).load().config.enable_reuse_port);
    // A single one that binds by itself does, for its replacement …
    let steer = App::new(single).flag("socket-strategy", "steer");
    assert!(steer.load().config.enable_reuse_port);
    assert!(matches!(origin_of(&steer), Origin::Derived { .. }));
    // … unless somebody said no, which costs something.
    let no = steer.flag("enable-reuse-port", "no").load();
    assert!(!no.config.enable_reuse_port);
    assert_eq!(only_problem(&no).code, Code::ReloadGap);
    // An explicit yes keeps its origin.
    let yes = App::new("{ enableReusePort = YES; }");
    assert_eq!(origin(&yes.load(), "enableReusePort"), "config/app.plist:1:21");
}

#[test]
fn the_node_is_named_after_its_host() {
    let id = |app: &App| app.load().config.cluster.node_id;
    assert_eq!(id(&App::new("{}")), "web-7.example");
    assert_eq!(id(&App::new("{ cluster = { nodeID = \"\"; }; }")), "web-7.example", "empty is unset");
    assert_eq!(id(&App::new("{ cluster = { nodeID = Node-1; }; }")), "Node-1");
    let mut nameless = App::new("{}");
    nameless.inputs.hostname = Some("  ".into());
    assert_eq!(id(&nameless), "node");
    nameless.inputs.hostname = None;
    assert_eq!(id(&nameless), "node");
}

#[test]
fn cluster_headers_and_observed_nodes_follow_unless_they_are_set() {
    let config = App::new("{ cluster = { enabled = YES; expectedNodes = 3; }; }").load().config.cluster;
    assert_eq!((config.emit_headers, config.observed_nodes), (true, 3));
    let set = App::new("{ cluster = { enabled = YES; expectedNodes = 3; emitHeaders = NO; observedNodes = 0; }; }");
    assert_eq!((set.load().config.cluster.emit_headers, set.load().config.cluster.observed_nodes), (false, 0));
    assert_eq!(codes(&App::new("{ cluster = { emitHeaders = YES; }; }").load()), [Code::HeadersWithoutCluster]);
}

#[test]
fn job_workers_need_a_command() {
    let resolution = App::new("{ propaneAccessories = { jobWorkerCount = 2; }; }").load();
    let problem = only_problem(&resolution);
    assert!(problem.is_error());
    assert!(
        problem
            .message
            .contains("--job-worker-count requires --job-worker-cmd (or propane accessories jobWorkerCommand)")
    );
    assert_eq!(problem.place.as_ref().unwrap().origin.to_string(), "config/app.plist:1:43");
    let idle = App::new("{ propaneAccessories = { jobWorkerCommand = work; }; }").load();
    assert_eq!(only_problem(&idle).code, Code::CommandWithoutJobs);
    assert!(!idle.has_errors());
}

#[test]
fn descriptor_thresholds_make_sense_only_in_their_order() {
    let thresholds = |text: &str| codes(&App::new(&format!("{{ propaneAccessories = {{ {text} }}; }}")).load());
    assert_eq!(thresholds("workerFDWarnPercent = 95;"), [Code::DescriptorThresholds]);
    assert_eq!(thresholds("workerFDRetirePercent = 70;"), [Code::DescriptorThresholds]);
    assert_eq!(thresholds("workerFDWarnPercent = 95; workerFDCriticalPercent = 0;"), [], "0 is off");
    assert_eq!(thresholds("workerFDRetirePercent = 85;"), []);
}

#[test]
fn a_hidden_invalid_value_is_an_error_that_names_what_hides_it() {
    let app = App::new("{ port = abc; }").file(ENVIRONMENT, "{ port = 80; }").flag("port", "81");
    let resolution = app.load();
    let problem = only_problem(&resolution);
    assert!(problem.is_error());
    assert_eq!(problem.related[0].origin.to_string(), "--port");
    assert_eq!(resolution.config.port, 81);
}

#[test]
fn a_group_that_is_no_dictionary_is_an_error_even_under_one_that_is() {
    let app =
        App::new("{ propaneAccessories = 5; }").file(ENVIRONMENT, "{ propaneAccessories = { workerCount = 2; }; }");
    let resolution = app.load();
    assert!(only_problem(&resolution).is_error());
    assert_eq!(resolution.config.propane_accessories.worker_count, 2);
}

#[test]
fn a_service_link_is_forgiven_only_where_it_is_hidden() {
    let app = App::new("{}").var("ARLEN_PORT", "tcp://10.0.0.1:3000");
    let resolution = app.load();
    assert_eq!(only_problem(&resolution).code, Code::ServiceLink);
    assert!(resolution.has_errors());
    let hidden = app.flag("port", "81").load();
    assert_eq!(only_problem(&hidden).code, Code::ServiceLink);
    assert!(!hidden.has_errors());
    let others = ["ARLEN_SERVICE_HOST", "ARLEN_SERVICE_PORT", "ARLEN_PORT_3000_TCP_ADDR", "ARLEN_PORT_3000_TCP"];
    let app = others.into_iter().fold(App::new("{}"), |app, name| app.var(name, "10.0.0.1"));
    assert!(app.load().problems.is_empty(), "nobody's mistake and nothing of ours");
}

#[test]
fn unknown_keys_of_settings_groups_warn_with_what_was_meant() {
    let suggestion = |plist: &str| {
        let resolution = App::new(plist).load();
        assert!(!resolution.has_errors(), "{plist}");
        resolution.problems.first().map(|problem| (problem.code, problem.suggestion.clone().unwrap_or_default()))
    };
    let meant = |key: &str| Some((Code::UnknownKey, format!("did you mean {key}?")));
    assert_eq!(suggestion("{ cluster = { exectedNodes = 1; }; }"), meant("cluster.expectedNodes"));
    assert_eq!(suggestion("{ runtimeLimits = { maxBodyBytes = 1; }; }"), meant("requestLimits.maxBodyBytes"));
    assert_eq!(suggestion("{ propaneAcessories = { workerCount = 1; }; }"), meant("propaneAccessories"));
    assert_eq!(suggestion("{ workerCount = 1; }"), meant("propaneAccessories.workerCount"));
    assert_eq!(suggestion("{ listenBacklock = 1; }"), meant("listenBacklog"));
    assert_eq!(suggestion("{ cluster = { colour = red; }; }"), Some((Code::UnknownKey, String::new())));
    for apps_own in ["name = x;", "enabled = YES;", "root = x;", "mailer = { port = 1; };", "logLevel = info;"] {
        assert_eq!(suggestion(&format!("{{ {apps_own} }}")), None, "{apps_own}");
    }
}

#[test]
fn thousands_of_unknown_keys_are_told_shortly() {
    let keys: String = (0..5000).map(|index| format!("k{index} = 1; ")).collect::<Vec<_>>().concat();
    let resolution = App::new(&format!("{{ cluster = {{ {keys} }}; }}")).load();
    assert_eq!(resolution.problems.len(), 21);
    assert!(resolution.problems.iter().any(|problem| problem.message.contains("4980 more unknown keys")));
}

#[test]
fn environment_names_are_checked_against_the_files() {
    let app = || App::new("{}").file(ENVIRONMENT, "{}").file("config/environments/staging.plist", "{}");
    for (name, code, is_error) in [
        ("prodution", Some(Code::UnknownEnvironment), true),
        ("prod", Some(Code::UnknownEnvironment), true),
        ("PROD", Some(Code::UnknownEnvironment), true),
        ("Staging", Some(Code::UnknownEnvironment), true),
        ("qa", Some(Code::MissingEnvironment), false),
        ("../staging", Some(Code::EnvironmentName), true),
        ("", Some(Code::EnvironmentName), true),
        ("staging", None, false),
    ] {
        let resolution = app().flag("env", name).load();
        assert_eq!(codes(&resolution).first().copied(), code, "{name}");
        assert_eq!(resolution.has_errors(), is_error, "{name}");
    }
    assert!(App::new("{}").load().problems.is_empty(), "an app without environments");
}

#[test]
fn a_worker_command_comes_first_and_is_split_like_a_shell_does() {
    let app = App::new("{}").program(".boomhauer/build/boomhauer-app");
    let app = app.flag("worker-cmd", "gunicorn --bind 'fd://{fd}' app:app");
    let resolution = app.load();
    let words = ["gunicorn", "--bind", "fd://{fd}", "app:app"].map(ToOwned::to_owned).to_vec();
    assert_eq!(resolution.worker.choice, WorkerChoice::Command { words });
    assert_eq!(resolution.strategy, Strategy::Inherit);
    assert!(resolution.worker.reason.contains("--worker-cmd"));
    assert_eq!(App::new("{}").flag("worker-cmd", "node server.js").load().strategy, Strategy::Steer);
    let contradiction = app.flag("socket-strategy", "steer").load();
    assert_eq!(only_problem(&contradiction).code, Code::Strategy);
    let unclosed = App::new("{}").flag("worker-cmd", "node 'server.js").load();
    assert_eq!(only_problem(&unclosed).code, Code::WorkerCommand);
    assert_eq!(only_problem(&unclosed).place.as_ref().unwrap().origin.to_string(), "--worker-cmd");
    assert_eq!(App::new("{}").flag("worker-cmd", "  ").load().worker.choice, WorkerChoice::Embedded);
}

#[test]
fn the_arlen_app_comes_next_compiled_or_to_be_compiled() {
    let app = App::new("{}").program(".boomhauer/build/boomhauer-app");
    let binary = app.path(".boomhauer/build/boomhauer-app");
    let resolution = app.load();
    assert_eq!(resolution.worker.choice, WorkerChoice::ArlenApp { binary, prepare: None });
    assert_eq!(resolution.strategy, Strategy::Steer);

    let framework = App::new("{}").file("GNUmakefile", "").file("src/Arlen/x", "");
    let sources = App::new("{}").file("src/controllers/Home.m", "");
    let sources = sources.var("ARLEN_FRAMEWORK_ROOT", framework.inputs.cwd.to_str().unwrap());
    let WorkerChoice::ArlenApp { prepare: Some(step), .. } = sources.load().worker.choice else {
        panic!("not to be compiled")
    };
    assert_eq!(step.program, framework.path("bin/boomhauer"));
    assert_eq!(step.env[0], ("ARLEN_APP_ROOT", sources.inputs.cwd.clone()));
    assert!(step.failure.starts_with("app prepare step failed; see "));

    let plain = App::new("{}").var("ARLEN_FRAMEWORK_ROOT", framework.inputs.cwd.to_str().unwrap());
    assert!(matches!(plain.load().worker.choice, WorkerChoice::FrameworkServer { prepare: Some(_), .. }));
    let framework = framework.program("build/boomhauer");
    let binary = framework.path("build/boomhauer");
    assert_eq!(plain.load().worker.choice, WorkerChoice::FrameworkServer { binary, prepare: None });
}

#[test]
fn the_framework_is_found_around_the_program() {
    let release = App::new("{}").program("build/arlen").program("bin/propane");
    let mut app = App::new("{}");
    app.inputs.exe = Some(release.path("bin/propane"));
    assert_eq!(app.load().run.framework_root, Some(release.inputs.cwd.clone()));
    app.inputs.exe = Some(app.path("bin/propane"));
    assert_eq!(app.load().run.framework_root, None);
    let wrong = app.flag("framework-root", "/").load();
    assert_eq!(only_problem(&wrong).code, Code::FrameworkRoot);
    assert!(wrong.has_errors());
}

#[test]
fn the_embedded_worker_is_last() {
    let resolution = App::new("{}").load();
    assert_eq!(resolution.worker.choice, WorkerChoice::Embedded);
    assert_eq!(resolution.strategy, Strategy::Inherit);
    assert_eq!(resolution.config.propane_accessories.socket_strategy, SocketStrategy::Auto);
}

#[test]
fn a_missing_app_file_is_an_error_unless_something_says_what_to_run() {
    let app = || App::new("{}").without("config/app.plist");
    assert!(only_problem(&app().load()).is_error());
    for app in [app().flag("worker-cmd", "node x"), app().program(".boomhauer/build/boomhauer-app")] {
        let resolution = app.load();
        assert_eq!(only_problem(&resolution).code, Code::MissingApp);
        assert!(!resolution.has_errors());
    }
}

/// Arlen's workers keep state in memory, each for itself; nobody else's do.
#[test]
fn several_arlen_workers_in_production_want_a_place_for_their_state() {
    let arlen = |text: &str| App::new(text).program(".boomhauer/build/boomhauer-app");
    let resolution = arlen("{ propaneAccessories = { workerCount = 2; }; }").load();
    let problem = only_problem(&resolution);
    assert_eq!((problem.code, problem.is_error()), (Code::SharedState, false));
    assert_eq!(problem.place.as_ref().unwrap().origin.to_string(), "config/app.plist:1:40");
    for fine in [
        arlen("{ propaneAccessories = { workerCount = 1; }; }"),
        arlen("{ database = { connectionString = \"db\"; }; }"),
        arlen("{ state = { durable = YES; }; }"),
        arlen("{}").var("ARLEN_DATABASE_URL", "postgres://db"),
        arlen("{}").var("ARLEN_STATE_DURABLE", "1"),
        arlen("{}").flag("env", "development"),
        App::new("{}"),
        App::new("{}").flag("worker-cmd", "node x"),
    ] {
        assert!(fine.load().problems.iter().all(|problem| problem.code != Code::SharedState));
    }
}

/// Names of variables may hold anything, and a log gets one line all the same.
#[test]
fn a_problem_in_one_line_is_one() {
    let resolution = App::new("{}").var("ARLEN_PROPANE_A\nB\r\u{1b}[31m", "1").load();
    let line = propane_config::report::one_line(only_problem(&resolution));
    assert!(!line.contains(['\n', '\r', '\u{1b}']), "{line:?}");
}

#[test]
fn files_that_cannot_be_a_configuration_are_errors() {
    for text in ["", "  // only a comment\n", "()", "hello", "{ port = 1", "{ port = 1; };"] {
        let resolution = App::new(text).load();
        assert_eq!(only_problem(&resolution).code, Code::Syntax, "{text:?}");
    }
    let directory = App::new("{}").without("config/app.plist").file("config/app.plist/x", "");
    assert_eq!(only_problem(&directory.load()).code, Code::Unreadable);
    let link = App::new("{}").without("config/app.plist");
    std::os::unix::fs::symlink("/dev/zero", link.path("config/app.plist")).unwrap();
    assert_eq!(only_problem(&link.load()).code, Code::Unreadable);
}

#[test]
fn paths_are_relative_to_what_they_belong_to() {
    let app = App::new("{}").flag("pid-file", "run/p.pid").var("ARLEN_PROPANE_LIFECYCLE_LOG", "log/life");
    let run = app.load().run;
    assert_eq!(run.pid_file, app.path("run/p.pid"));
    assert_eq!(run.lifecycle_log, Some(app.path("log/life")));
    assert_eq!(App::new("{}").load().run.lifecycle_log, None);
    let outer = App::new("{}").file("inner/config/app.plist", "{ port = 9; }");
    std::os::unix::fs::symlink("inner", outer.path("current")).unwrap();
    let resolution = outer.flag("app-root", "current").load();
    assert_eq!(resolution.config.port, 9);
    assert!(resolution.run.app_root.ends_with("current"));
    assert!(resolution.run.physical_app_root.ends_with("inner"));
    assert!(resolution.run.pid_file.ends_with("current/tmp/propane.pid"));
}

#[test]
fn ways_to_run_imply_each_other() {
    let run = |flag| App::new("{}").flag(flag, "yes").load().run;
    let ways = |run: &propane_config::RunOptions| (run.once, run.no_respawn, run.print_routes);
    assert_eq!(ways(&run("no-respawn")), (false, true, false));
    assert_eq!(ways(&run("once")), (true, true, false));
    assert_eq!(ways(&run("print-routes")), (true, true, true));
    let mut app = App::new("{}");
    app.inputs.args = Args { worker_args: vec!["--verbose".into()], separator: 1, ..Args::default() };
    assert_eq!(app.load().run.worker_args, ["--verbose"]);
    assert_eq!(origin(&app.load(), "workerArgs"), "--");
}

#[test]
fn workers_get_what_is_theirs() {
    let resolution = App::new("{}").load();
    assert_eq!(exported(&resolution, "ARLEN_LISTEN_BACKLOG").as_deref(), Some("128"));
    assert_eq!(exported(&resolution, "ARLEN_ENABLE_REUSEPORT").as_deref(), Some("1"));
    assert_eq!(exported(&resolution, "ARLEN_CLUSTER_ENABLED").as_deref(), Some("0"));
    assert_eq!(exported(&resolution, "ARLEN_CLUSTER_NODE_ID").as_deref(), Some("web-7.example"));
    assert_eq!(exported(&resolution, "ARLEN_MAX_BODY_BYTES"), None, "each worker has its own default");
    assert_eq!(exported(&resolution, "ARLEN_SERVE_STATIC"), None);
    assert_eq!(exported(&resolution, "ARLEN_PROPANE_WORKERS"), None, "the manager's own");
    let set = App::new("{ serveStatic = NO; logFormat = json; requestLimits = { maxBodyBytes = 10; }; }").load();
    assert_eq!(exported(&set, "ARLEN_MAX_BODY_BYTES").as_deref(), Some("10"));
    assert_eq!(exported(&set, "ARLEN_SERVE_STATIC").as_deref(), Some("0"));
    assert_eq!((set.config.log_format, set.config.serve_static), (Some(LogFormat::Json), Some(false)));
    let listed = App::new("{}").var("ARLEN_STATIC_ALLOW_EXTENSIONS", " css, js,,").load();
    assert_eq!(exported(&listed, "ARLEN_STATIC_ALLOW_EXTENSIONS").as_deref(), Some("css,js"));
}

/// The names are all words of that form in Arlen's own tree: variables of its build, its tests and its runtime.
#[test]
fn arlen_s_own_variables_raise_no_alarm() {
    let names = include_str!("../../../testdata/variables/arlen.txt");
    let rows = || propane_config::SETTINGS.iter().chain(propane_config::OPTIONS);
    let ours = |name: &str| rows().any(|row| row.variable == Some(name));
    let theirs = names.lines().filter(|name| !ours(name));
    let app = theirs.fold(App::new("{}"), |app, name| app.var(name, "x"));
    assert!(app.inputs.env.len() > 400);
    let alarms: Vec<_> = app.load().problems.into_iter().map(|problem| problem.message).collect();
    assert_eq!(alarms, [""; 0]);
}

#[test]
fn misspelt_variables_are_recognised() {
    for (name, meant) in [
        ("ARLEN_CLUSTR_NAME", Some("ARLEN_CLUSTER_NAME")),
        ("ARLEN_CLUSTER_NODEID", Some("ARLEN_CLUSTER_NODE_ID")),
        ("ARLEN_PROPANE_WORKER", Some("ARLEN_PROPANE_WORKERS")),
        ("ARLEN_ENABLE_REUSE_PORT", Some("ARLEN_ENABLE_REUSEPORT")),
        ("ARLEN_MAX_HTTP_SESSION", Some("ARLEN_MAX_HTTP_SESSIONS")),
        ("ARLEN_LISTEN_BACKLOGS", Some("ARLEN_LISTEN_BACKLOG")),
        ("ARLEN_PROPANE_WORKER_COUNT", Some("ARLEN_PROPANE_WORKERS")),
        ("ARLEN_WORKERS", Some("ARLEN_PROPANE_WORKERS")),
        ("ARLEN_MAX_CONCURRENT_HTTP_SESSIONS", Some("ARLEN_MAX_HTTP_SESSIONS")),
        ("ARLEN_PROPANE_GRACEFUL_SECONDS", Some("ARLEN_PROPANE_GRACEFUL_SHUTDOWN_SECONDS")),
        ("ARLEN_PROPANE_JOB_WORKERS", None),
        ("ARLEN_PROPANE_COLOUR", None),
        ("ARLEN_CLUSTER_SERVICE_HOST", None),
    ] {
        let resolution = App::new("{}").var(name, "x").load();
        let problem = only_problem(&resolution);
        assert!(!problem.is_error(), "{name}");
        let suggestion = problem.suggestion.as_deref().filter(|text| text.starts_with("did you mean"));
        assert_eq!(suggestion, meant.map(|meant| format!("did you mean {meant}?")).as_deref(), "{name}");
    }
}

#[test]
fn a_message_shows_no_user_of_a_url() {
    for flag in ["env", "app-root", "framework-root"] {
        let problems = App::new("{}").flag(flag, "http://me:hunter2@host").load().problems;
        assert!(problems.iter().any(|problem| problem.message.contains("http://***@host")), "{flag}: {problems:?}");
        assert!(problems.iter().all(|problem| !problem.message.contains("hunter2")), "{flag}: {problems:?}");
    }
}

#[test]
fn a_secret_is_never_shown_however_its_key_is_written() {
    let app = App::new("{ \"db password\" = hunter2; a = { \"b.token\" = hunter2; secret = { c = (hunter2); }; }; }");
    let resolution = app.load();
    let apps_own: Vec<_> = resolution.settings.iter().filter(|setting| setting.app).collect();
    assert_eq!(apps_own.len(), 3);
    for setting in apps_own {
        let value = setting.value.as_ref().unwrap();
        assert_eq!(setting.shown(value), Value::Text("***".to_owned()), "{}", setting.key);
    }
}
