//! Gets the peers: Debian's packages where it may, the rest into directories of its own under the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Uid;

use crate::manager::Outcome;

const DEBIAN: [&str; 10] = [
    "nginx-light",
    "supervisor",
    "s6",
    "runit",
    "uwsgi-core",
    "uwsgi-plugin-python3",
    "puma",
    "libmojolicious-perl",
    "python3",
    "python3-venv",
];
/// Debian's node. Another one brings an npm of its own, beside which Debian's cannot be installed.
const DEBIAN_NODE: [&str; 2] = ["nodejs", "npm"];
const PYTHON: [&str; 2] = ["gunicorn", "circus"];
const NODE: [&str; 1] = ["pm2"];
/// Says that no service may be started by an installation (`invoke-rc.d(8)`).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Where peers are looked for beside `PATH`.
pub(super) fn directories(target: &Path) -> [PathBuf; 2] {
    let peers = target.join("bench-peers");
    [peers.join("venv/bin"), peers.join("npm/node_modules/.bin")]
}

/// Installs what it can, and says what it cannot: what is missing is skipped later.
pub(super) fn install(target: &Path) {
    let peers = target.join("bench-peers");
    for (what, installed) in [("Debian's", debian(&DEBIAN)), ("Python's", python(&peers)), ("node's", node(&peers))] {
        if let Err(error) = installed {
            eprintln!("bench: {what} packages were not installed: {error}");
        }
    }
}

fn run(command: &mut Command) -> Outcome<()> {
    eprintln!("bench: {command:?}");
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(status.to_string().into()) }
}

fn debian(packages: &[&str]) -> Outcome<()> {
    if !Uid::effective().is_root() {
        return Err("only root can".into());
    }
    run(Command::new("apt-get").arg("update"))?;
    without_services(|| {
        let mut install = Command::new("apt-get");
        install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
        run(install.env("DEBIAN_FRONTEND", "noninteractive"))
    })
}

/// Acts while no service may be started, unless the machine has a policy of its own.
fn without_services(act: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    if Path::new(POLICY).exists() {
        return act();
    }
    fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
    let outcome = fs::set_permissions(POLICY, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(Into::into)
        .and_then(|()| act());
    fs::remove_file(POLICY)?;
    outcome
}

fn python(peers: &Path) -> Outcome<()> {
    let venv = peers.join("venv");
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check"]).args(PYTHON))
}

fn node(peers: &Path) -> Outcome<()> {
    if Command::new("npm").arg("--version").output().is_err() {
        debian(&DEBIAN_NODE)?;
    }
    let directory = peers.join("npm");
    fs::create_dir_all(&directory)?;
    run(Command::new("npm").args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(directory).args(NODE))
}
