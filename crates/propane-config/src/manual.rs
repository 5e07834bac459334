//! `propane.plist(5)`: the manual page of the settings, made from the table.

use roff::{Inline, Roff, bold, italic, roman};

use crate::reference::{ABOUT, DEPRECATED, deprecated};
use crate::settings::{Export, GROUPS, OPTIONS, SETTINGS, Setting};

const FORMS: &str = "An app's file is a property list: OpenStep text, XML or binary. It is read first, and the file of the \
    environment over it: dictionaries merge by key, and everything else is replaced. Keys that are not listed here are the \
    app's own. An unknown key within a group of settings earns a warning, a value that cannot be used is an error in whichever \
    layer it stands, and with an error nothing is started.";

/// The page, in roff.
pub fn page() -> String {
    let mut page = Roff::new();
    let version = concat!("propane ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["propane.plist", "5", "", version, "propane"]);
    page.control("SH", ["NAME"]).text([roman("propane.plist - the settings of propane")]);
    page.control("SH", ["DESCRIPTION"]).text(inlines(ABOUT));
    page.control("PP", []).text([roman(FORMS)]);
    page.control("SH", ["SETTINGS"]);
    rows(&mut page, SETTINGS.iter().filter(|row| row.group().is_none()));
    for group in GROUPS {
        page.control("SS", [*group]);
        rows(&mut page, SETTINGS.iter().filter(|row| row.group() == Some(group)));
    }
    page.control("SH", ["NOT IN PROPERTY LISTS"]);
    rows(&mut page, OPTIONS.iter());
    page.control("SH", ["DEPRECATED VARIABLES"]).text(inlines(DEPRECATED));
    for (legacy, variable) in deprecated() {
        page.control("TP", []).text([bold(legacy)]).text([roman("use "), bold(variable)]);
    }
    page.control("SH", ["SEE ALSO"]).text([bold("propane"), roman("(1)")]);
    page.render()
}

fn rows(page: &mut Roff, rows: impl Iterator<Item = &'static Setting>) {
    for row in rows {
        page.control("TP", []).text([bold(row.key)]).text([roman(about(row))]);
        for (label, name) in [("variable", row.variable.map(ToOwned::to_owned)), ("flag", row.flag_usage())] {
            if let Some(name) = name {
                page.control("br", []).text([italic(label), roman(" "), bold(name)]);
            }
        }
    }
}

fn about(row: &Setting) -> String {
    let workers = match row.export {
        Export::Never => "",
        Export::Always => " Workers get it in their environment.",
        Export::WhenSet => " Workers get it in their environment where it is set.",
    };
    let default = match row.default_words() {
        words if words.is_empty() => "nothing".to_owned(),
        words => words,
    };
    let (doc, expected, takes) = (row.doc(), row.kind.expected(), row.reload.takes());
    format!("{doc} Accepts {expected}; default: {default}. A change takes {takes}.{workers}")
}

/// The text of a paragraph of Markdown, in which names stand in backticks.
fn inlines(paragraph: &str) -> Vec<Inline> {
    let parts = paragraph.trim_end().split('`').enumerate();
    parts.map(|(index, part)| if index % 2 == 0 { roman(part) } else { bold(part) }).collect()
}
