//! What two sides disagree on, as text and as JSON.

use propane_config::{Difference, Entry, Origin, Reload, Value, diff, is_whole, report};
use propane_supervisor::{LastReload, RunningManager};
use serde::Serialize;

use super::sides::{Name, Resolved};
use crate::commands::Format;
use crate::commands::formats::{NOTHING, as_plist, to_json};
use crate::exit;
use crate::output::Screen;

/// Values longer than this do not push everything else to the right.
const WIDEST: usize = 44;

/// The answer in the making.
pub(super) struct Comparison<'r> {
    a: &'r Resolved,
    b: &'r Resolved,
    differences: Vec<Difference<'r>>,
    /// What is saved of one side is a selection, and the rest was left out.
    is_partial: bool,
    manager: Option<&'r RunningManager>,
}

impl<'r> Comparison<'r> {
    pub(super) fn of(a: &'r Resolved, b: &'r Resolved, manager: Option<&'r RunningManager>) -> Self {
        let is_selection = |side: &Resolved| matches!(side.name, Name::Saved { .. }) && !is_whole(&side.entries);
        let (of_a, of_b) = (is_selection(a), is_selection(b));
        let counts = |found: &Difference<'_>| !(of_a && found.a.is_none() || of_b && found.b.is_none());
        // Where a link leads is known of running managers and their files only.
        let both_know =
            |found: &Difference<'_>| found.key() != Entry::PHYSICAL_APP_ROOT || found.a.is_some() && found.b.is_some();
        let differences = diff(&a.entries, &b.entries).into_iter().filter(counts).filter(both_know).collect();
        Self { a, b, differences, is_partial: of_a || of_b, manager }
    }

    pub(super) fn status(&self) -> u8 {
        if self.count() > 0 { exit::FOUND } else { exit::FINE }
    }

    fn count(&self) -> usize {
        self.differences.iter().filter(|found| found.certain).count()
    }

    /// What a `HUP` does with a difference. One that would be refused does nothing with any.
    fn effect(&self, found: &Difference<'_>) -> Reload {
        if self.refusal().is_some() {
            return Reload::Restart;
        }
        let on_disk = self.a.on_disk.as_ref().or(self.b.on_disk.as_ref());
        on_disk.map_or_else(|| found.reload(), |on_disk| on_disk.effect(found))
    }

    /// Why the manager would not load the files.
    fn refusal(&self) -> Option<String> {
        let on_disk = self.a.on_disk.as_ref().or(self.b.on_disk.as_ref())?;
        Some(on_disk.reloaded.refusal(self.manager?.configuration.strategy)?.to_string())
    }

    pub(super) fn text(&self, coloured: bool) -> String {
        let (bold, dim, plain) = if coloured { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        let rows: Vec<_> = self.differences.iter().map(|found| self.row(found)).collect();
        let labels = [String::new(), self.a.name.label(), self.b.name.label(), String::new()];
        let widths: [usize; 4] = std::array::from_fn(|column| {
            let all = rows.iter().chain([&labels]).map(|row| row[column].chars().count());
            all.filter(|width| column == 0 || *width <= WIDEST).max().unwrap_or(0)
        });
        let mut out = String::new();
        if !rows.is_empty() {
            let [key, a, b, _] = widths;
            let line = format!("{:key$}   {bold}{:a$}   {:b$}", "", labels[1], labels[2]);
            out.extend([line.trim_end(), plain, "\n"]);
        }
        for (row, found) in rows.iter().zip(&self.differences) {
            let [key, a, b, origin] = widths;
            let line = format!(
                "{:key$}   {:a$}   {:b$}   {dim}{:origin$}   {}",
                row[0],
                row[1],
                row[2],
                row[3],
                self.remark(found)
            );
            out.extend([line.trim_end(), plain, "\n"]);
        }
        out + &self.last_line() + "\n"
    }

    /// The columns of a difference but for its remark.
    fn row(&self, found: &Difference<'_>) -> [String; 4] {
        let value = |entry: Option<&Entry>| {
            entry.and_then(|entry| entry.shown.as_ref()).map_or_else(|| NOTHING.to_owned(), as_plist)
        };
        let (mut a, mut b) = (value(found.a), value(found.b));
        if a == b && found.certain && !found.is_secret() {
            // The same text of another type.
            let kind = |entry: Option<&Entry>| entry.map_or_else(String::new, |entry| format!(" ({})", entry.kind));
            a += &kind(found.a);
            b += &kind(found.b);
        }
        [found.key().to_owned(), a, b, self.origins(found)]
    }

    /// Where the difference comes from. What the running manager once read need not stand there any more, so the files'
    /// origin counts beside it; a value that nobody set says less than one that somebody did.
    fn origins(&self, found: &Difference<'_>) -> String {
        let is_running = |side: &Resolved| matches!(side.name, Name::Running { .. });
        let is_news = |entry: &&Entry| entry.origin != Origin::Builtin;
        let (a, b) = (found.a, found.b);
        let (a_set, b_set) = (a.filter(is_news), b.filter(is_news));
        match (a_set, b_set) {
            (Some(_), Some(b)) if is_running(self.a) => b.origin.to_string(),
            (Some(a), Some(_)) if is_running(self.b) => a.origin.to_string(),
            (Some(a), Some(b)) if a.origin.to_string() == b.origin.to_string() => a.origin.to_string(),
            (Some(a), Some(b)) => format!("{} -> {}", a.origin, b.origin),
            (Some(a), None) if is_running(self.a) => format!("no longer {}", a.origin),
            (None, Some(b)) if is_running(self.b) => format!("no longer {}", b.origin),
            (Some(one), None) | (None, Some(one)) => one.origin.to_string(),
            (None, None) => b.or(a).map_or_else(String::new, |entry| entry.origin.to_string()),
        }
    }

    fn remark(&self, found: &Difference<'_>) -> String {
        if !found.certain {
            return "cannot be compared (masked)".to_owned();
        }
        let effect = match self.effect(found) {
            Reload::Live => "applies on HUP, at once",
            Reload::Generation => "applies on HUP, with new workers",
            Reload::Restart => "needs a restart",
        };
        let secret = if found.is_secret() { " (secret, changed)" } else { "" };
        format!("{effect}{secret}")
    }

    fn last_line(&self) -> String {
        let count = match self.count() {
            0 => "no differences".to_owned(),
            1 => "1 difference".to_owned(),
            count => format!("{count} differences"),
        };
        match self.differences.len() - self.count() {
            0 => count,
            1 => format!("{count}, 1 value cannot be compared"),
            masked => format!("{count}, {masked} values cannot be compared"),
        }
    }

    /// What else there is to say: problems of the files, and what the manager is about.
    pub(super) fn notes(&self, format: Format, screen: Screen) -> String {
        let mut notes: Vec<String> = Vec::new();
        let files = [self.a, self.b].into_iter().filter_map(|side| side.files.as_ref());
        for problem in files.flat_map(|files| &files.problems) {
            let note = report::render(problem, screen.stderr.coloured) + "\n\n";
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        if self.is_partial {
            notes.push("propane: a saved side holds a selection; only its keys are compared\n".to_owned());
        }
        if format == Format::Text {
            notes.extend(self.manager.and_then(last_reload));
            notes.extend(self.refusal().map(|reason| format!("propane: a HUP would be refused: {reason}\n")));
        }
        notes.concat()
    }

    pub(super) fn json(&self) -> String {
        let side = |entry: Option<&'r Entry>| {
            entry.map(|entry| JsonEntry { value: entry.shown.as_ref(), origin: &entry.origin })
        };
        let differences = self.differences.iter().map(|found| JsonDifference {
            key: found.key(),
            a: side(found.a),
            b: side(found.b),
            secret: found.is_secret(),
            comparable: found.certain,
            reload: self.effect(found),
        });
        to_json(&Report {
            format: "propane-diff/1",
            a: &self.a.name,
            b: &self.b.name,
            differences: differences.collect(),
            count: self.count(),
            incomparable: self.differences.len() - self.count(),
            partial: self.is_partial,
            refused: self.refusal(),
        })
    }
}

#[derive(Serialize)]
struct Report<'r> {
    format: &'static str,
    a: &'r Name,
    b: &'r Name,
    differences: Vec<JsonDifference<'r>>,
    count: usize,
    incomparable: usize,
    partial: bool,
    refused: Option<String>,
}

#[derive(Serialize)]
struct JsonDifference<'r> {
    key: &'r str,
    a: Option<JsonEntry<'r>>,
    b: Option<JsonEntry<'r>>,
    secret: bool,
    comparable: bool,
    reload: Reload,
}

#[derive(Serialize)]
struct JsonEntry<'r> {
    value: Option<&'r Value>,
    origin: &'r Origin,
}

/// A reload whose configuration is not what runs, or not everywhere.
pub(super) fn last_reload(manager: &RunningManager) -> Option<String> {
    let runs = manager.configuration.generation;
    Some(match manager.last_reload.as_ref()? {
        LastReload::Underway { generation } => {
            format!(
                "propane: a reload to generation {generation} is under way; until it is done, generation {runs} counts\n"
            )
        }
        LastReload::Failed { generation, reason, replaced: 0, .. } => {
            format!("propane: the reload to generation {generation} failed ({reason}); generation {runs} runs on\n")
        }
        LastReload::Failed { generation, reason, replaced, of } => format!(
            "propane: the reload to generation {generation} failed ({reason}) after {replaced} of {of} workers; the others \
             run what was before it\n"
        ),
    })
}
