//! How the peers are started and reloaded: configuration files and commands.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::manager::Outcome;

/// The environment of whoever called cargo: without what cargo adds for the program that it runs, and without settings of
/// propane's. Its `LD_LIBRARY_PATH` alone has each exec look for libc in vain in a dozen places.
pub(super) fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !is_left_out(name))
}

fn is_left_out(name: &OsStr) -> bool {
    let heads = ["ARLEN_", "MOJOOBJC_", "CARGO", "RUST", "LD_LIBRARY_PATH"];
    heads.iter().any(|head| name.as_encoded_bytes().starts_with(head.as_bytes()))
}

/// Has `command` run in [`environment`].
pub(super) fn as_from_a_shell(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_left_out(name)) {
        command.env_remove(name);
    }
}

/// Everything that is run, by name.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) found: BTreeMap<&'static str, PathBuf>,
    pub(super) propane: PathBuf,
    /// `crates/xtask/examples/bench_worker.rs`.
    pub(super) worker: PathBuf,
    /// `bench/workers`.
    pub(super) apps: PathBuf,
}

impl Tools {
    /// Looks for programs in `directories`.
    pub(super) fn find(
        names: impl Iterator<Item = &'static str>,
        directories: &[PathBuf],
        propane: PathBuf,
        worker: PathBuf,
        apps: PathBuf,
    ) -> Self {
        let is_program = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        let find = |name: &str| directories.iter().map(|directory| directory.join(name)).find(is_program);
        let found = names.filter_map(|name| Some((name, find(name)?))).collect();
        Self { found, propane, worker, apps }
    }

    /// The name alone is looked up in `PATH`, once more, when it is run.
    pub(super) fn path<'a>(&'a self, name: &'a str) -> &'a Path {
        self.found.get(name).map_or_else(|| Path::new(name), PathBuf::as_path)
    }
}

/// Where and how one measurement of a peer takes place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) tools: &'a Tools,
    /// A directory of its own.
    pub(super) dir: &'a Path,
    pub(super) port: u16,
    pub(super) workers: usize,
    /// Whether restart delays are as shipped, or 0 where the peer has them.
    pub(super) delays: Delays,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delays {
    Zero,
    AsShipped,
}

impl Scene<'_> {
    fn command(&self, program: &str) -> Command {
        Command::new(self.tools.path(program))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Outcome<PathBuf> {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap_or(self.dir))?;
        fs::write(&path, text)?;
        Ok(path)
    }

    fn program(&self, name: &str, text: &str) -> Outcome<()> {
        let path = self.write(name, text)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    }

    fn app(&self, name: &str) -> PathBuf {
        self.tools.apps.join(name)
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

pub(super) fn plain_worker(scene: &Scene, mode: &[&str]) -> Vec<String> {
    let program = scene.tools.worker.display().to_string();
    std::iter::once(program).chain(mode.iter().map(|&word| word.to_owned())).collect()
}

/// The plain worker that binds for itself …
fn binding_worker(scene: &Scene) -> Vec<String> {
    plain_worker(scene, &["serve", "127.0.0.1", &scene.port.to_string()])
}

/// … and the one whose socket its manager holds.
fn inheriting_worker(scene: &Scene) -> Vec<String> {
    plain_worker(scene, &["serve-stdin"])
}

/// A command line for shells and for those who split words as a shell does.
fn quoted(words: &[String]) -> String {
    let quote = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Without the descriptor checks: no other peer has any.
const NO_CHECKS: [&str; 4] = ["--worker-fd-warn-percent", "0", "--worker-fd-critical-percent", "0"];

pub(super) fn propane(scene: &Scene) -> Outcome<Command> {
    let mut command = propane_with(scene, None)?;
    command.args(NO_CHECKS);
    Ok(command)
}

pub(super) fn propane_as_shipped(scene: &Scene) -> Outcome<Command> {
    propane_with(scene, None)
}

pub(super) fn propane_gunicorn(scene: &Scene) -> Outcome<Command> {
    let config = gunicorn_config(scene)?;
    let program = scene.tools.path("gunicorn").display().to_string();
    let words =
        ["--bind", "fd://{fd}", "--workers", "1", "--config", &config.display().to_string(), "wsgi:application"];
    let words: Vec<_> = std::iter::once(program).chain(words.map(str::to_owned)).collect();
    propane_worker(scene, &words)
}

pub(super) fn propane_node(scene: &Scene) -> Outcome<Command> {
    let program = scene.tools.path("node").display().to_string();
    propane_worker(scene, &[program, scene.app("server.js").display().to_string(), "{fd}".to_owned()])
}

pub(super) fn propane_serve(scene: &Scene) -> Outcome<Command> {
    propane_worker(scene, &binding_worker(scene))
}

pub(super) fn propane_worker(scene: &Scene, words: &[String]) -> Outcome<Command> {
    let mut command = propane_with(scene, Some(&quoted(words)))?;
    command.args(NO_CHECKS);
    Ok(command)
}

fn propane_with(scene: &Scene, worker: Option<&str>) -> Outcome<Command> {
    scene.write("config/app.plist", "{}\n")?;
    scene.write("config/environments/production.plist", "{}\n")?;
    let mut command = Command::new(&scene.tools.propane);
    command.current_dir(scene.dir).args(["--env", "production", "--reload-overlap-seconds", "0"]);
    command.args(["--port", &scene.port.to_string(), "--workers", &scene.workers.to_string()]);
    if scene.delays == Delays::Zero {
        command.args(["--respawn-delay-ms", "0", "--respawn-delay-max-ms", "0"]);
    }
    if let Some(worker) = worker {
        command.args(["--worker-cmd", worker]);
    }
    Ok(command)
}

/// The file of the bash original below the root of its framework.
pub(super) const BASH_ORIGINAL: &str = "bin/propane";

pub(super) fn bash_serve(scene: &Scene) -> Outcome<Command> {
    bash(scene, &binding_worker(scene))
}

/// The original as in a release: with a stand-in for the framework's own program, and the plain worker as its app. Its
/// overlap is as shipped: it is all the time that new workers get before the old ones go.
pub(super) fn bash(scene: &Scene, words: &[String]) -> Outcome<Command> {
    scene.program("app/.boomhauer/build/boomhauer-app", &format!("#!/bin/sh\nexec {}\n", quoted(words)))?;
    scene.program("framework/build/arlen", "#!/bin/sh\necho '{}'\n")?;
    fs::create_dir_all(scene.file("framework/bin"))?;
    let script = scene.file("framework/bin/propane");
    fs::copy(scene.tools.path(BASH_ORIGINAL), &script)?;
    let mut command = Command::new(script);
    command.args(["--env", "production"]).arg("--app-root").arg(scene.file("app")).current_dir(scene.dir);
    command.args(["--port", &scene.port.to_string(), "--workers", &scene.workers.to_string()]);
    if scene.delays == Delays::Zero {
        command.args(["--respawn-delay-ms", "0"]);
    }
    Ok(command)
}

pub(super) fn nginx(scene: &Scene) -> Outcome<Command> {
    let (workers, address) = (scene.workers, scene.address());
    let config = scene.write(
        "nginx.conf",
        &format!(
            "daemon off;\nworker_processes {workers};\npid nginx.pid;\nerror_log /dev/null;\nevents {{}}\nhttp {{\n  \
             access_log off;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  \
             uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  server {{\n    listen {address};\n    \
             location / {{ return 200 \"$pid\\n\"; }}\n  }}\n}}\n"
        ),
    )?;
    let mut command = scene.command("nginx");
    command.arg("-p").arg(scene.dir).arg("-c").arg(config);
    Ok(command)
}

fn gunicorn_config(scene: &Scene) -> Outcome<PathBuf> {
    let apps = json!(scene.tools.apps);
    // Its manual asks for a directory in memory for what it watches its workers by.
    scene.write(
        "gunicorn.conf.py",
        &format!("chdir = {apps}\nworker_tmp_dir = \"/dev/shm\"\ncontrol_socket_disable = True\n"),
    )
}

pub(super) fn gunicorn(scene: &Scene) -> Outcome<Command> {
    let config = gunicorn_config(scene)?;
    let mut command = scene.command("gunicorn");
    command.args(["--bind", &scene.address(), "--workers", &scene.workers.to_string()]);
    command.arg("--pid").arg(scene.file("gunicorn.pid")).arg("--config").arg(config).arg("wsgi:application");
    command.current_dir(scene.dir);
    Ok(command)
}

#[expect(clippy::unnecessary_wraps, reason = "others write files")]
pub(super) fn uwsgi(scene: &Scene) -> Outcome<Command> {
    let mut command = scene.command("uwsgi");
    command.args(["--plugin", "python3", "--master", "--lazy-apps", "--die-on-term", "--thunder-lock"]);
    command.args(["--disable-logging", "--http-socket", &scene.address(), "--processes", &scene.workers.to_string()]);
    command.arg("--wsgi-file").arg(scene.app("wsgi.py"));
    command.arg("--master-fifo").arg(scene.file("uwsgi.fifo")).arg("--pidfile").arg(scene.file("uwsgi.pid"));
    Ok(command)
}

pub(super) fn puma(scene: &Scene) -> Outcome<Command> {
    // As its manual says: what is loaded before the fork cannot be exchanged by a phased restart.
    let config = scene.write("puma.rb", "preload_app! false\n")?;
    let mut command = scene.command("puma");
    command.arg("--config").arg(config);
    command.args(["--environment", "production", "--workers", &scene.workers.to_string()]);
    command.args(["--bind", &format!("tcp://{}", scene.address())]).arg("--pidfile").arg(scene.file("puma.pid"));
    command.arg(scene.app("app.ru")).current_dir(scene.dir);
    Ok(command)
}

#[expect(clippy::unnecessary_wraps, reason = "others write files")]
pub(super) fn hypnotoad(scene: &Scene) -> Outcome<Command> {
    let mut command = scene.command("hypnotoad");
    command.arg("--foreground").arg(scene.app("app.pl")).current_dir(scene.dir);
    command.env("BENCH_LISTEN", format!("http://{}", scene.address()));
    command.env("BENCH_WORKERS", scene.workers.to_string()).env("BENCH_PID_FILE", scene.file("hypnotoad.pid"));
    Ok(command)
}

pub(super) fn pm2_cluster(scene: &Scene) -> Outcome<Command> {
    let app = json!({
        "script": scene.app("server.js"), "exec_mode": "cluster", "wait_ready": true, "env": { "PORT": scene.port },
    });
    pm2(scene, app)
}

pub(super) fn pm2_serve(scene: &Scene) -> Outcome<Command> {
    pm2_fork(scene, &binding_worker(scene))
}

pub(super) fn pm2_fork(scene: &Scene, words: &[String]) -> Outcome<Command> {
    pm2(scene, json!({ "script": words[0], "args": words[1..], "interpreter": "none", "exec_mode": "fork" }))
}

fn pm2(scene: &Scene, mut app: serde_json::Value) -> Outcome<Command> {
    app["name"] = json!("app");
    app["instances"] = json!(scene.workers);
    app["cwd"] = json!(scene.dir);
    if scene.delays == Delays::Zero {
        app["restart_delay"] = json!(0);
        app["max_restarts"] = json!(1_000_000);
    }
    let config = scene.write("apps.json", &json!({ "apps": [app] }).to_string())?;
    let mut command = pm2_command(scene, "pm2-runtime");
    command.arg(config);
    Ok(command)
}

fn pm2_command(scene: &Scene, program: &str) -> Command {
    let mut command = scene.command(program);
    command.env("PM2_HOME", scene.file("pm2")).env("PM2_DISABLE_VERSION_CHECK", "true").current_dir(scene.dir);
    command
}

pub(super) fn pm2_reload(scene: &Scene) -> Vec<Command> {
    let mut command = pm2_command(scene, "pm2");
    command.args(["reload", "all"]);
    vec![command]
}

/// With a socket of its own for all workers, which is there for `FastCGI` and serves any worker.
pub(super) fn supervisord_serve(scene: &Scene) -> Outcome<Command> {
    let section = format!("[fcgi-program:worker]\nsocket=tcp://{}\n", scene.address());
    supervisord_with(scene, &section, &inheriting_worker(scene))
}

pub(super) fn supervisord(scene: &Scene, words: &[String]) -> Outcome<Command> {
    supervisord_with(scene, "[program:worker]\n", words)
}

fn supervisord_with(scene: &Scene, section: &str, words: &[String]) -> Outcome<Command> {
    let dir = scene.dir.display().to_string().replace('%', "%%");
    let command = quoted(words).replace('%', "%%");
    let starts = if scene.delays == Delays::Zero { "startsecs=0\n" } else { "" };
    let config = scene.write(
        "supervisord.conf",
        &format!(
            "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={dir}/supervisord.pid\n\
             minfds=8192\n[unix_http_server]\nfile={dir}/supervisord.sock\n[supervisorctl]\n\
             serverurl=unix://{dir}/supervisord.sock\n[rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n{section}\
             command={command}\nprocess_name=%(process_num)d\nnumprocs={}\nautorestart=true\n{starts}\
             redirect_stderr=true\nstdout_logfile=/dev/null\nstdout_logfile_maxbytes=0\n",
            scene.workers
        ),
    )?;
    let mut command = scene.command("supervisord");
    command.arg("-c").arg(config).current_dir(scene.dir);
    Ok(command)
}

pub(super) fn supervisord_reload(scene: &Scene) -> Vec<Command> {
    let restart = |slot| {
        let mut command = scene.command("supervisorctl");
        command.arg("-c").arg(scene.file("supervisord.conf")).args(["restart", &format!("worker:{slot}")]);
        command
    };
    (0..scene.workers).map(restart).collect()
}

fn circus_endpoint(scene: &Scene) -> String {
    format!("ipc://{}", scene.file("circus.sock").display())
}

/// With a socket of its own for all workers.
pub(super) fn circus_serve(scene: &Scene) -> Outcome<Command> {
    let socket = format!("stdin_socket = web\n[socket:web]\nhost = 127.0.0.1\nport = {}\n", scene.port);
    circus_with(scene, &inheriting_worker(scene), &socket)
}

pub(super) fn circus(scene: &Scene, words: &[String]) -> Outcome<Command> {
    circus_with(scene, words, "")
}

fn circus_with(scene: &Scene, words: &[String], socket: &str) -> Outcome<Command> {
    let config = scene.write(
        "circus.ini",
        &format!(
            "[circus]\nendpoint = {}\npubsub_endpoint = ipc://{}\n[watcher:worker]\ncmd = {}\nnumprocesses = {}\n\
             copy_env = true\nmax_retry = -1\n{socket}",
            circus_endpoint(scene),
            scene.file("circus-events.sock").display(),
            quoted(words),
            scene.workers
        ),
    )?;
    let mut command = scene.command("circusd");
    command.arg("--pidfile").arg(scene.file("circus.pid")).arg(config).current_dir(scene.dir);
    Ok(command)
}

pub(super) fn circus_reload(scene: &Scene) -> Vec<Command> {
    let mut command = scene.command("circusctl");
    command.args(["--timeout", "60", "--endpoint", &circus_endpoint(scene), "reload", "--waiting"]);
    vec![command]
}

/// A service directory for each worker.
fn services(scene: &Scene, words: &[String]) -> Outcome<PathBuf> {
    let run = format!("#!/bin/sh\nexec {}\n", quoted(words));
    for slot in 0..scene.workers {
        scene.program(&format!("services/{slot}/run"), &run)?;
    }
    Ok(scene.file("services"))
}

fn service_commands(scene: &Scene, program: &str, words: &[&str]) -> Vec<Command> {
    let command = |slot: usize| {
        let mut command = scene.command(program);
        command.args(words).arg(scene.file(&format!("services/{slot}")));
        command
    };
    (0..scene.workers).map(command).collect()
}

pub(super) fn s6_serve(scene: &Scene) -> Outcome<Command> {
    s6(scene, &binding_worker(scene))
}

pub(super) fn s6(scene: &Scene, words: &[String]) -> Outcome<Command> {
    let services = services(scene, words)?;
    let mut command = scene.command("s6-svscan");
    // One more than there are workers at the least, and never less than its default.
    command.args(["-c", &(scene.workers + 500).to_string()]).arg(services);
    Ok(command)
}

pub(super) fn s6_reload(scene: &Scene) -> Vec<Command> {
    service_commands(scene, "s6-svc", &["-wr", "-T", "10000", "-r"])
}

pub(super) fn runit_serve(scene: &Scene) -> Outcome<Command> {
    runit(scene, &binding_worker(scene))
}

pub(super) fn runit(scene: &Scene, words: &[String]) -> Outcome<Command> {
    let services = services(scene, words)?;
    let mut command = scene.command("runsvdir");
    command.arg(services);
    Ok(command)
}

pub(super) fn runit_reload(scene: &Scene) -> Vec<Command> {
    service_commands(scene, "sv", &["-w", "10", "restart"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        let words = ["/a b/worker".to_owned(), "it's".to_owned()];
        assert_eq!(quoted(&words), r"'/a b/worker' 'it'\''s'");
    }

    #[test]
    fn a_program_is_found_where_it_can_be_executed() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("nginx", 0o755), ("gunicorn", 0o644)] {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let (directories, nothing) = ([dir.path().to_owned()], PathBuf::new());
        let names = ["nginx", "gunicorn", "puma"].into_iter();
        let tools = Tools::find(names, &directories, nothing.clone(), nothing.clone(), nothing);
        assert_eq!(tools.found.into_keys().collect::<Vec<_>>(), ["nginx"]);
    }
}
