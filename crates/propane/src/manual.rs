//! `propane(1)`: the manual page of the command line, made from its flags.

use clap::{Arg, Command};
use clap_mangen::Man;
use roff::{Roff, bold, roman};

use crate::cli;

/// What the exit codes mean, in the order of the page.
const EXIT_CODES: [(&str, &str); 5] = [
    ("0", "Fine, and an orderly stop of the manager."),
    (
        "1",
        "A command found errors or differences, an answer could not be written, or a start failed on what is around propane \
         (startLimitBurst included).",
    ),
    ("2", "Wrong use, or a file that cannot be read; a start with a configuration that has errors."),
    ("3", "There is no such key, variable, flag or environment; what was probably meant is told."),
    (
        "other",
        "With --once and --no-respawn the worker's own status; that of the build where the app could not be compiled.",
    ),
];

/// What an operator sees in a list of processes.
const PROCESSES: [(&str, &str); 3] = [
    ("propane", "The manager. It is signalled by its pid file: the others have the same name, and HUP ends a worker."),
    (
        "propane warden PID",
        "The warden of the manager with this pid. It waits for the manager's end, and ends what a manager that is killed \
         leaves behind. The manager starts it and ends it; a signal to it means nothing, but for KILL and STOP.",
    ),
    ("propane worker", "An embedded worker, which serves public/ of the app root; see propane worker --help."),
];

const FILES: [(&str, &str); 5] = [
    ("config/app.plist", "The settings of the app, see propane.plist(5)."),
    ("config/environments/ENV.plist", "What differs in an environment."),
    ("tmp/propane.pid", "The pid of the manager, locked while it runs; or where --pid-file says."),
    ("tmp/propane.running.json", "The configuration that it runs, for propane config diff --running."),
    (
        "tmp/propane.state.json",
        "Its children, for the clean-up after a manager that was killed. Both lie beside the pid file, under its name.",
    ),
];

/// The page, in roff.
pub fn page() -> String {
    let mut command = cli::command().disable_help_subcommand(true);
    command.build();
    let configs: Vec<_> = command.find_subcommand("config").into_iter().flat_map(Command::get_subcommands).collect();
    let mut page = from_flags(&command);
    page.push_str(&commands(&configs));
    page.push_str(&list("SIGNALS", &cli::SIGNALS));
    page.push_str(&list("PROCESSES", &PROCESSES));
    page.push_str(&list("EXIT STATUS", &EXIT_CODES));
    page.push_str(&list("FILES", &FILES));
    let mut end = Roff::new();
    end.control("SH", ["SEE ALSO"]).text([
        bold("propane.plist"),
        roman("(5), "),
        bold("systemd.service"),
        roman("(5)"),
    ]);
    page + &end.to_roff()
}

/// What `clap_mangen` makes of the command line.
fn from_flags(command: &Command) -> String {
    let version = concat!("propane ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title("propane").source(version).manual("propane");
    let mut page = Vec::new();
    let rendered = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page));
    // Writing to memory cannot fail, and roff is text.
    rendered.expect("a page in memory");
    String::from_utf8(page).expect("a page of text")
}

fn commands(configs: &[&Command]) -> String {
    let mut page = Roff::new();
    page.control("SH", ["COMMANDS"]);
    for command in configs {
        page.control("SS", [format!("propane config {}", command.get_name()).as_str()]);
        let about = command.get_long_about().or_else(|| command.get_about());
        for paragraph in about.map(ToString::to_string).unwrap_or_default().split("\n\n") {
            page.control("PP", []);
            text(&mut page, paragraph);
        }
        let own = command.get_arguments().filter(|arg| !cli::is_common(arg) && arg.get_id() != "help");
        for arg in own {
            page.control("TP", []).text([bold(arg.to_string())]).text([roman(help(arg))]);
        }
    }
    page.to_roff()
}

/// A paragraph, in which indented lines stay as they are.
fn text(page: &mut Roff, paragraph: &str) {
    let mut is_filled = true;
    for line in paragraph.lines() {
        let fills = !line.starts_with(' ');
        if !(is_filled && fills) {
            page.control("br", []);
        }
        page.text([roman(line)]);
        is_filled = fills;
    }
}

fn help(arg: &Arg) -> String {
    let values: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let choices = if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
    arg.get_help().map(ToString::to_string).unwrap_or_default() + &choices
}

fn list(title: &str, items: &[(&str, &str)]) -> String {
    let mut page = Roff::new();
    page.control("SH", [title]);
    for (item, text) in items {
        page.control("TP", []).text([bold(*item)]).text([roman(*text)]);
    }
    page.to_roff()
}
