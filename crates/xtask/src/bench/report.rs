//! From raw figures to `RESULTS.md` and its charts. Every number in them is computed here; none is typed.

use std::fmt::Write as _;

use super::chart::{self, Bar};
use super::results::{Figure, Measured, Results};
use super::stats::Summary;
use super::tables::{Among, Better, Column, Shown, TABLES, Table};

/// propane with its own worker: what the goals are about.
pub(super) const OURS: &str = "propane";
/// propane with the worker that every supervisor runs.
const OURS_PLAIN: &str = "propane + worker";
/// A bare loop of `posix_spawn`.
pub(super) const KERNEL: &str = "the kernel alone";
/// The bash original's way to a configuration.
pub(super) const BASH: &str = "bash way, emulated";

/// How propane does in one column.
#[derive(Debug, Clone, PartialEq)]
enum Standing {
    Leads,
    Ties { peer: String },
    Behind { peer: String, ours: f64, theirs: f64 },
}

/// A row of the tables: a peer, or something that stands beside them.
struct Row<'a> {
    name: &'a str,
    /// The kind of worker; empty where it does not matter.
    worker: &'a str,
}

impl Row<'_> {
    fn is_ours(&self) -> bool {
        self.name.starts_with("propane")
    }
}

fn rows(results: &Results) -> Vec<Row<'_>> {
    let peers = results.peers.iter().map(|peer| Row { name: &peer.name, worker: &peer.worker });
    peers.chain([KERNEL, BASH].map(|name| Row { name, worker: "" })).collect()
}

/// The whole of `RESULTS.md`.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = String::from(
        "# Side by side\n\n<!-- Written by `cargo xtask bench` from results.json. Do not edit. -->\n\npropane and its peers at \
         the same work, in one run on one machine. Each figure is the median, with the middle half of the runs in brackets; \
         *×* is the median of its ratios to propane's figure in the same round. Rounds go over all peers in turn. \
         [README.md](README.md) says how to repeat it.\n\n",
    );
    text.push_str(&goals(results));
    text.push_str(&setting(results));
    for table in TABLES.iter().filter(|table| table.columns.iter().any(|column| is_measured(results, column))) {
        text.push_str(&section(results, table));
    }
    text.push_str(&participants(results));
    text
}

fn is_measured(results: &Results, column: &Column) -> bool {
    rows(results).iter().any(|row| results.summary(row.name, column.figure).is_some())
}

fn setting(results: &Results) -> String {
    let (machine, settings) = (&results.machine, &results.settings);
    format!(
        "## The machine and the run\n\nLinux {}, {}, {} cores, {} GiB; load average {} before and {} after. {} rounds ({} of \
         many workers and crash loops); {} workers, {} kills a round, {} s of idleness, {} clients, crowds of {} and {}, crash \
         loops of {} s, {} configurations a round. Everything on the loopback interface.\n\n",
        machine.kernel,
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.load_before,
        machine.load_after,
        settings.rounds,
        settings.long_rounds,
        settings.workers,
        settings.kills,
        settings.idle_seconds,
        settings.clients,
        thousands(settings.few),
        thousands(settings.many),
        settings.crash_seconds,
        settings.config_runs
    )
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// Text of a value: three digits that matter, and no more.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => {
            let text = format!("{value:.2}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        size if size < 100.0 => format!("{value:.1}"),
        _ => whole_number(value),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "no figure is negative")]
fn whole_number(value: f64) -> String {
    thousands(value.round() as usize)
}

fn section(results: &Results, table: &Table) -> String {
    let columns: Vec<_> = table.columns.iter().filter(|column| is_measured(results, column)).collect();
    let mut text = format!("## {}\n\n{}\n\n| | worker |", table.title, table.how);
    for column in &columns {
        let _ = write!(text, " {} | × |", heading(results, column));
    }
    text.push_str("\n| --- | --- |");
    text.push_str(&" ---: | ---: |".repeat(columns.len()));
    text.push('\n');
    for row in rows(results) {
        let cells: Vec<_> = columns.iter().map(|column| cells(results, column, &row)).collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "– | –".to_owned()));
            let cells = cells.collect::<Vec<_>>().join(" | ");
            let name = if row.is_ours() { format!("**{}**", row.name) } else { row.name.to_owned() };
            let _ = writeln!(text, "| {name} | {} | {cells} |", row.worker);
        }
    }
    text.push('\n');
    text.extend(columns.iter().map(|column| standing_text(results, column)));
    text.push('\n');
    text
}

/// The crowds have their sizes in the headings.
fn heading(results: &Results, column: &Column) -> String {
    let (few, many) = (thousands(results.settings.few), thousands(results.settings.many));
    column.heading.replace("few:", &format!("{few}:")).replace("many:", &format!("{many}:"))
}

fn cells(results: &Results, column: &Column, row: &Row) -> Option<String> {
    let summary = results.summary(row.name, column.figure)?;
    let value = match column.shown {
        Shown::SumOf(whole) => {
            let sum = |figure| results.sum(row.name, figure).map(whole_number);
            format!("{} of {}", sum(column.figure)?, sum(whole)?)
        }
        Shown::Spread => spread(&summary),
    };
    let base = base(results, column, row).filter(|base| *base != row.name);
    let ratio = base.and_then(|base| results.ratio(row.name, base, column.figure)).map_or("–".to_owned(), number);
    Some(format!("{value} | {ratio}"))
}

fn spread(summary: &Summary) -> String {
    let (lower, upper) = (number(summary.lower_quartile), number(summary.upper_quartile));
    let median = number(summary.median);
    if lower == upper { median } else { format!("{median} ({lower}–{upper})") }
}

/// The propane that a row is compared with.
fn base<'a>(results: &'a Results, column: &Column, row: &Row) -> Option<&'a str> {
    let has = |name: &str| results.summary(name, column.figure).is_some();
    let ours = results.peers.iter().filter(|peer| peer.name.starts_with("propane") && has(&peer.name));
    let mut ours = ours.map(|peer| (peer.name.as_str(), peer.worker.as_str()));
    match column.among {
        Among::All => ours.next().map(|(name, _)| name).or_else(|| has(OURS).then_some(OURS)),
        Among::SameWorker => ours.find(|(_, worker)| *worker == row.worker).map(|(name, _)| name),
    }
}

/// How propane stands in a column: once among all, or once for each kind of worker that it runs.
fn standings(results: &Results, column: &Column) -> Vec<(String, Standing)> {
    if column.better == Better::Neither {
        return Vec::new();
    }
    let all = rows(results);
    let measured = |row: &&Row| row.name != KERNEL && results.summary(row.name, column.figure).is_some();
    let (ours, theirs): (Vec<_>, Vec<_>) = all.iter().filter(measured).partition(|row| row.is_ours());
    // What is compared among all is compared as shipped without its extras, and once.
    let ours = ours.into_iter().filter(|row| {
        let represents = base(results, column, row) == Some(row.name);
        represents || (column.figure == Figure::FailedRequests)
    });
    let against = |row: &Row| {
        let peers: Vec<_> =
            theirs.iter().filter(|peer| column.among == Among::All || peer.worker == row.worker).collect();
        let best = peers.into_iter().min_by(|one, other| {
            let rank = |peer: &Row| rank(results, column, peer.name);
            rank(one).total_cmp(&rank(other))
        })?;
        Some((row.name.to_owned(), standing(results, column, row.name, best.name)?))
    };
    ours.filter_map(against).collect()
}

/// Lower is better.
fn rank(results: &Results, column: &Column, name: &str) -> f64 {
    let value = match column.shown {
        Shown::SumOf(_) => results.sum(name, column.figure),
        Shown::Spread => results.summary(name, column.figure).map(|summary| summary.median),
    };
    let value = value.unwrap_or(f64::INFINITY);
    if column.better == Better::Higher { -value } else { value }
}

fn standing(results: &Results, column: &Column, ours: &str, best: &str) -> Option<Standing> {
    let (mine, theirs) = (results.summary(ours, column.figure)?, results.summary(best, column.figure)?);
    let (my_rank, their_rank) = (rank(results, column, ours), rank(results, column, best));
    let ties = match column.shown {
        Shown::Spread => mine.ties_with(&theirs),
        // Counts of failures are no measurements with noise: none is none.
        Shown::SumOf(_) => my_rank.total_cmp(&their_rank).is_eq(),
    };
    let peer = best.to_owned();
    Some(if ties {
        Standing::Ties { peer }
    } else if my_rank < their_rank {
        Standing::Leads
    } else {
        Standing::Behind { peer, ours: my_rank.abs(), theirs: their_rank.abs() }
    })
}

fn standing_text(results: &Results, column: &Column) -> String {
    let heading = heading(results, column);
    let mut text = String::new();
    for (name, standing) in standings(results, column) {
        let _ = match standing {
            Standing::Leads => writeln!(text, "- {heading}: {name} leads."),
            Standing::Ties { peer } => writeln!(text, "- {heading}: {name} and {peer} tie."),
            Standing::Behind { peer, ours, theirs } => {
                let (ours, theirs) = (number(ours), number(theirs));
                writeln!(text, "- {heading}: {name} is **behind** {peer}, {ours} against {theirs}. {}", column.why)
            }
        };
    }
    text
}

struct Goal {
    text: String,
    measured: String,
    is_met: bool,
}

fn goals(results: &Results) -> String {
    let mut text = String::from("## Goals\n\n| Goal | Measured | |\n| --- | --- | --- |\n");
    for goal in all_goals(results) {
        let verdict = if goal.is_met { "met" } else { "**not met**" };
        let _ = writeln!(text, "| {} | {} | {verdict} |", goal.text, goal.measured);
    }
    text.push('\n');
    text
}

/// Milliseconds from a crash to the replacement.
const REPLACEMENT_GOAL_MS: f64 = 1.5;
const RSS_GOAL_KIB: f64 = 4096.0;
/// Times what the kernel needs.
const CROWD_GOAL: f64 = 1.1;

fn all_goals(results: &Results) -> Vec<Goal> {
    let median = |name: &str, figure| results.summary(name, figure).map(|summary| summary.median);
    let most = |text: String, name: &str, figure, unit: &str, goal: f64| {
        let value = median(name, figure)?;
        Some(Goal { text, measured: format!("{}{unit}", number(value)), is_met: value <= goal })
    };
    let ratio = || {
        let ratio = results.ratio(OURS_PLAIN, KERNEL, Figure::ManyStartMs)?;
        let many = thousands(results.settings.many);
        let text = format!("{many} workers start in the kernel's time plus {:.0} %", (CROWD_GOAL - 1.0) * 100.0);
        Some(Goal { text, measured: format!("{ratio:.2} times the kernel's"), is_met: ratio <= CROWD_GOAL })
    };
    let goals = [
        most(
            format!("a killed worker is replaced in {} ms", number(REPLACEMENT_GOAL_MS)),
            OURS,
            Figure::ReplacementMs,
            " ms",
            REPLACEMENT_GOAL_MS,
        ),
        under_every_peer(results, "… and sooner than under any peer", Figure::ReplacementMs, " ms"),
        most("no context switch when idle".to_owned(), OURS, Figure::IdleSwitchesPerS, " / s", 0.0),
        most(format!("RSS of {} KiB", number(RSS_GOAL_KIB)), OURS, Figure::RssKib, " KiB", RSS_GOAL_KIB),
        median("nginx", Figure::RssKib).and_then(|nginx| {
            most(format!("RSS below nginx's {} KiB", number(nginx)), OURS, Figure::RssKib, " KiB", nginx)
        }),
        ratio(),
    ];
    let lossless = results.peers.iter().filter(|peer| peer.name.starts_with("propane")).filter_map(|peer| {
        let failed = results.sum(&peer.name, Figure::FailedRequests)?;
        let all = results.sum(&peer.name, Figure::Requests)?;
        let text = format!("no failed request in a reload: {}", peer.name);
        Some(Goal {
            text,
            measured: format!("{} of {}", whole_number(failed), whole_number(all)),
            is_met: failed == 0.0,
        })
    });
    goals.into_iter().flatten().chain(lossless).collect()
}

fn under_every_peer(results: &Results, text: &str, figure: Figure, unit: &str) -> Option<Goal> {
    let ours = results.summary(OURS, figure)?.median;
    let peers = results.peers.iter().filter(|peer| !peer.name.starts_with("propane"));
    let medians = peers.filter_map(|peer| Some((results.summary(&peer.name, figure)?.median, peer.name.as_str())));
    let (theirs, best) = medians.min_by(|one, other| one.0.total_cmp(&other.0))?;
    Some(Goal {
        text: text.to_owned(),
        measured: format!("{}{unit} against {}{unit} ({best})", number(ours), number(theirs)),
        is_met: ours < theirs,
    })
}

fn participants(results: &Results) -> String {
    let mut text = String::from(
        "## Who took part\n\n| | version | worker | reloads by | remarks |\n| --- | --- | --- | --- | --- |\n",
    );
    for Measured { name, version, worker, reload, notes } in &results.peers {
        let _ = writeln!(text, "| {name} | {version} | {worker} | {reload} | {} |", notes.join("; "));
    }
    text.push_str(
        "\nThe *plain worker* is `crates/xtask/examples/bench_worker.rs`: it binds for itself with `SO_REUSEPORT`, answers one \
         request after the other, and ends at once when it is told to, as most small servers do. *Compiled* workers are parts \
         of the peer itself. Servers that run no commands take no part in *many workers* and *crash loop*.\n",
    );
    for (heading, list) in [("Left out", &results.skipped), ("Did not get through", &results.failed)] {
        if !list.is_empty() {
            let _ = writeln!(text, "\n{heading}:\n");
            for entry in list {
                let _ = writeln!(text, "- {}: {}", entry.peer, entry.reason);
            }
        }
    }
    text
}

/// File names and contents.
pub(super) fn charts(results: &Results) -> Vec<(String, String)> {
    let charts = [
        (
            "crash.svg",
            Figure::ReplacementMs,
            "A killed worker is replaced",
            "milliseconds after kill -9, median",
            " ms",
        ),
        ("reload.svg", Figure::FailedRequests, "Requests that fail in a reload", "mean of the reloads under load", ""),
        ("idle.svg", Figure::IdleSwitchesPerS, "An idle manager wakes up", "context switches a second, median", " / s"),
        ("memory.svg", Figure::RssKib, "Memory of the manager", "RSS of all managing processes, four workers", " KiB"),
    ];
    let chart = |(file, figure, title, note, unit): (&str, Figure, &str, &str, &str)| {
        let bar = |row: Row| {
            let summary = results.summary(row.name, figure)?;
            let value =
                if figure == Figure::FailedRequests { mean(results, row.name, figure)? } else { summary.median };
            let text = format!("{}{unit}", number(value));
            Some(Bar { label: row.name.to_owned(), value, text, is_ours: row.is_ours() })
        };
        (file.to_owned(), chart::bars(title, note, rows(results).into_iter().filter_map(bar).collect()))
    };
    charts.into_iter().map(chart).collect()
}

fn mean(results: &Results, name: &str, figure: Figure) -> Option<f64> {
    let count = results.summary(name, figure)?.count;
    #[expect(clippy::cast_precision_loss, reason = "a handful of rounds")]
    Some(results.sum(name, figure)? / count as f64)
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::made_up;
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let rows = [
            (0.0, "0"),
            (0.123, "0.12"),
            (1.5, "1.5"),
            (2.0, "2"),
            (12.34, "12.3"),
            (123.4, "123"),
            (12_345.6, "12,346"),
        ];
        for (value, text) in rows {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_report_says_where_propane_stands() {
        let text = markdown(&made_up());
        for line in [
            "| **propane** | its own | 11.0 (10.5–11.5) | – |",
            "| nginx | its own | 28.0 (24.0–32.0) | 2.5 |",
            "- four workers answer, ms: propane leads.",
            "- replaced, ms: propane is **behind** nginx, 1.1 against 0.55.",
            "| **propane** | its own | 0 of 4,000 | – |",
            "| nginx | its own | 3 of 3,000 | – |",
            "- failed requests of all: propane leads.",
            "| RSS of 4,096 KiB | 4,050 KiB | met |",
            "| … and sooner than under any peer | 1.1 ms against 0.55 ms (nginx) | **not met** |",
            "- puma: puma is not installed",
            "- nginx: reload: waited in vain",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("## Crash loop"), "nobody has been through it");
    }

    #[test]
    fn charts_show_what_was_measured() {
        let charts = charts(&made_up());
        let of = |name: &str| &charts.iter().find(|(file, _)| file == name).unwrap().1;
        assert!(of("crash.svg").contains("0.55 ms") && of("crash.svg").contains("1.1 ms"));
        assert!(of("reload.svg").contains(">1.5<") && of("reload.svg").contains(">0<"));
    }
}
