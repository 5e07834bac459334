//! `propane config docs`: the documents that are made from the table of settings. Needs no configuration.

use clap::{ArgMatches, Command};
use propane_config::{Inputs, manual, reference};

use crate::commands::{ConfigCommand, format_arg, format_of};
use crate::output::{Answer, Screen};

/// The documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Format {
    /// The reference, in Markdown.
    #[default]
    Markdown,
    /// `propane.plist(5)`.
    Man,
    /// `propane(1)`.
    ManCommand,
    /// A property list of all settings, commented out.
    Template,
}

const FORMATS: [(&str, Format); 4] = [
    ("md", Format::Markdown),
    ("man", Format::Man),
    ("man-command", Format::ManCommand),
    ("plist-template", Format::Template),
];

#[derive(Debug)]
struct DocsOptions {
    format: Format,
}

pub(super) fn command() -> Command {
    Command::default()
        .about("Print the reference of all settings; reads no configuration")
        .long_about(
            "Print the reference of all settings; reads no configuration.\n\n\
             md is the reference in Markdown, man the page propane.plist(5), man-command the page propane(1), and\n\
             plist-template a config/app.plist that says how to set everything.",
        )
        .arg(format_arg(FORMATS.map(|(name, _)| name)))
}

pub(super) fn read(matches: &ArgMatches) -> Box<dyn ConfigCommand> {
    Box::new(DocsOptions { format: format_of(matches, FORMATS) })
}

impl ConfigCommand for DocsOptions {
    fn answer(&self, _: &Inputs, _: Screen) -> Answer {
        Answer::fine(match self.format {
            Format::Markdown => reference::markdown(),
            Format::Man => manual::page(),
            Format::ManCommand => crate::manual::page(),
            Format::Template => reference::template(),
        })
    }
}
