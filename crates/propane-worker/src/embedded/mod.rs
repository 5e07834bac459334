//! The embedded worker: serves `public/` of an app root, and the health endpoints.
//!
//! The manager starts it as `propane worker` when an app brings no server of its own. It takes Arlen's command line and
//! the environment of [`Settings`], and besides that `ARLEN_APP_ROOT` (default: the working directory),
//! `ARLEN_SERVE_STATIC` (default yes) and `ARLEN_STATIC_ALLOW_EXTENSIONS` (comma separated; default: Arlen's list).

mod app;
mod arguments;
mod public;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::listener::ListenError;
use crate::server::{ServeError, Server};
use crate::settings::{Settings, Socket};
use crate::stderr::Stderr;
use crate::variables::{BadVariables, Variables};
use app::App;
use arguments::{Arguments, Overrides, UsageError};
use public::{Public, PublicError};

/// Runs the embedded worker with the words after `propane worker`, until it is told to end.
///
/// Exit codes: 0 after an orderly end; 1 when the world is in the way (address taken, app root unreadable); 2 for
/// unusable words or variables.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // The worker's own words only: of what a client does wrong, the libraries below write a line each time.
    let own = Targets::new().with_target(env!("CARGO_CRATE_NAME"), tracing::Level::WARN);
    let stderr = tracing_subscriber::fmt().with_writer(|| Stderr).with_target(false).without_time().finish();
    // Somebody else may have installed one already, which is as good.
    let _ = stderr.with(own).try_init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.to_string().lines() {
                eprintln!("propane worker: {line}");
            }
            failure.exit_code()
        }
    }
}

/// Everything that can keep the worker from running to its orderly end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Variables(#[from] BadVariables),
    #[error(transparent)]
    Public(#[from] PublicError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Variables(_) => ExitCode::from(2),
            Self::Public(_) | Self::Listen(_) | Self::Serve(_) | Self::Runtime(_) => ExitCode::from(1),
        }
    }
}

/// What the embedded worker is told besides [`Settings`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Site {
    root: PathBuf,
    serve_static: bool,
    /// Lower case, without the dot.
    extensions: Vec<String>,
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    match arguments::parse(arguments)? {
        Arguments::Help => print!("{}", arguments::HELP),
        Arguments::PrintRoutes => print!("{}", app::ROUTES),
        Arguments::Serve(overrides) => serve(overrides)?,
    }
    Ok(())
}

fn serve(overrides: Overrides) -> Result<(), Failure> {
    let lookup = |name: &str| std::env::var_os(name);
    let (settings, site) = read(&lookup, std::process::id())?;
    let app = App::new(open_public(&site)?, site.serve_static);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let server = Server::new(overrides.over(settings)).listen()?;
    if let Some(url) = server.own_url() {
        println!("propane worker listening on {url}");
    }
    runtime.block_on(server.serve(app.into_service()))?;
    Ok(())
}

/// Reads both halves of the environment, so that all their problems are reported together.
fn read(lookup: &dyn Fn(&str) -> Option<OsString>, pid: u32) -> Result<(Settings, Site), BadVariables> {
    match (Settings::read(lookup, pid), Site::read(lookup)) {
        (Ok(settings), Ok(site)) => Ok((settings, site)),
        (Err(mut first), Err(second)) => {
            first.0.extend(second.0);
            Err(first)
        }
        (Err(bad), Ok(_)) | (Ok(_), Err(bad)) => Err(bad),
    }
}

fn open_public(site: &Site) -> Result<Option<Public>, PublicError> {
    if !site.serve_static {
        return Ok(None);
    }
    Public::open(&site.root.join("public"), site.extensions.clone())
}

impl Site {
    fn read(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, BadVariables> {
        let mut variables = Variables::new(lookup);
        let site = Self {
            root: variables.raw("ARLEN_APP_ROOT").map_or_else(|| PathBuf::from("."), PathBuf::from),
            serve_static: variables.boolean("ARLEN_SERVE_STATIC").unwrap_or(true),
            extensions: extensions(&variables.text("ARLEN_STATIC_ALLOW_EXTENSIONS").unwrap_or_default()),
        };
        variables.finish().map(|()| site)
    }
}

/// What is served where nothing else is said, as Arlen has it.
const SERVED: [&str; 17] = [
    "css", "js", "json", "txt", "html", "htm", "svg", "png", "jpg", "jpeg", "gif", "ico", "webp", "woff", "woff2",
    "map", "xml",
];

/// `css, .JS` as Arlen reads it: commas, blanks around, a leading dot and the case do not matter, and none are all of
/// [`SERVED`].
fn extensions(list: &str) -> Vec<String> {
    let words = list.split(',').map(|word| word.trim().trim_start_matches('.').to_ascii_lowercase());
    let words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
    if words.is_empty() { SERVED.map(str::to_owned).to_vec() } else { words }
}

impl Overrides {
    /// These words over what the environment said; an inherited socket has its address already.
    fn over(self, mut settings: Settings) -> Settings {
        settings.once = self.once;
        if let Socket::Bind { host, port, .. } = &mut settings.socket {
            *host = self.host.unwrap_or_else(|| std::mem::take(host));
            *port = self.port.unwrap_or(*port);
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_pairs(pairs: &[(&str, &str)]) -> Result<(Settings, Site), BadVariables> {
        read(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)), 1)
    }

    #[test]
    fn the_site_has_defaults_and_its_extensions_are_normalised() {
        let (_, site) = read_pairs(&[]).unwrap();
        assert_eq!(
            site,
            Site { root: PathBuf::from("."), serve_static: true, extensions: SERVED.map(str::to_owned).to_vec() }
        );
        let (_, site) = read_pairs(&[("ARLEN_STATIC_ALLOW_EXTENSIONS", " css, .JS,,")]).unwrap();
        assert_eq!(site.extensions, ["css", "js"]);
        let (_, none) = read_pairs(&[("ARLEN_STATIC_ALLOW_EXTENSIONS", " ,.")]).unwrap();
        assert_eq!(none.extensions, SERVED);
    }

    #[test]
    fn problems_of_both_halves_come_together() {
        let bad = read_pairs(&[("ARLEN_PORT", "0"), ("ARLEN_SERVE_STATIC", "perhaps")]).unwrap_err();
        let names: Vec<&str> = bad.0.iter().map(|problem| problem.variable).collect();
        assert_eq!(names, ["ARLEN_PORT", "ARLEN_SERVE_STATIC"]);
    }

    #[test]
    fn words_win_over_variables() {
        let (settings, _) = read_pairs(&[("ARLEN_HOST", "::1"), ("ARLEN_PORT", "8080")]).unwrap();
        let socket = |host: Option<&str>, port| {
            let overrides = Overrides { host: host.map(str::to_owned), port, once: false };
            overrides.over(settings.clone()).socket
        };
        let bound = |host: &str, port| Socket::Bind { host: host.to_owned(), port, reuse_port: false, backlog: 128 };
        assert_eq!(socket(None, None), bound("::1", 8080));
        assert_eq!(socket(Some("127.0.0.1"), Some(9)), bound("127.0.0.1", 9));
    }
}
