//! From raw figures to `RESULTS.md` and its charts. Every number in them is computed here; none is typed.

use std::fmt::Write as _;

use super::chart::{self, Bar};
use super::results::{Figure, Measured, Results};
use super::stats::Summary;
use super::tables::{Among, Better, Column, Shown, TABLES, Table};

/// propane with its own worker: what the goals are about.
pub(super) const OURS: &str = "propane";
/// propane with the worker that every supervisor runs.
pub(super) const OURS_PLAIN: &str = "propane + worker";
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
         *×* is the median of its ratios to propane's figure in the same round. Two tie when their medians differ by less than \
         a twentieth, or their middle halves overlap. Rounds go over all peers in turn. [README.md](README.md) says how to \
         repeat it.\n\n",
    );
    text.push_str(&goals(results));
    text.push_str(&shortcomings(results));
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
    let mut rule = String::from("| --- | --- |");
    for column in &columns {
        let (ratio_heading, ratio_rule) = if has_ratios(results, column) { (" × |", " ---: |") } else { ("", "") };
        let _ = write!(text, " {} |{ratio_heading}", heading(results, column));
        let _ = write!(rule, " ---: |{ratio_rule}");
    }
    let _ = writeln!(text, "\n{rule}");
    for row in rows(results) {
        if columns.iter().any(|column| results.summary(row.name, column.figure).is_some()) {
            let cells: Vec<_> = columns.iter().map(|column| cells(results, column, &row)).collect();
            let name = if row.is_ours() { format!("**{}**", row.name) } else { row.name.to_owned() };
            let _ = writeln!(text, "| {name} | {} | {} |", row.worker, cells.join(" | "));
        }
    }
    text.push('\n');
    text.push_str(&standings_text(results, &columns));
    text.push('\n');
    text
}

/// The crowds have their sizes in the headings.
fn heading(results: &Results, column: &Column) -> String {
    let (few, many) = (thousands(results.settings.few), thousands(results.settings.many));
    column.heading.replace("few:", &format!("{few}:")).replace("many:", &format!("{many}:"))
}

/// Nothing is a multiple of none.
fn has_ratios(results: &Results, column: &Column) -> bool {
    rows(results).iter().any(|row| ratio(results, column, row).is_some())
}

fn ratio(results: &Results, column: &Column, row: &Row) -> Option<f64> {
    let base = base(results, column, row).filter(|base| *base != row.name)?;
    results.ratio(row.name, base, column.figure)
}

/// The cell of a column, and that of its ratios where it has any.
fn cells(results: &Results, column: &Column, row: &Row) -> String {
    let value = value(results, column, row).unwrap_or_else(|| "–".to_owned());
    if has_ratios(results, column) {
        let ratio = ratio(results, column, row).map_or_else(|| "–".to_owned(), number);
        format!("{value} | {ratio}")
    } else {
        value
    }
}

fn value(results: &Results, column: &Column, row: &Row) -> Option<String> {
    let summary = results.summary(row.name, column.figure)?;
    Some(match column.shown {
        Shown::SumOf(whole) => {
            let sum = |figure| results.sum(row.name, figure).map(whole_number);
            format!("{} of {}", sum(column.figure)?, sum(whole)?)
        }
        Shown::Spread => spread(&summary),
    })
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

/// Where propane stands in the columns of a table, the best first.
fn standings_text(results: &Results, columns: &[&Column]) -> String {
    let (mut leads, mut ties, mut behind) = (Vec::new(), Vec::new(), Vec::new());
    for column in columns {
        let heading = heading(results, column);
        for (name, standing) in standings(results, column) {
            match standing {
                Standing::Leads => leads.push(format!("{heading} ({name})")),
                Standing::Ties { peer } => ties.push(format!("{heading} ({name}; {peer})")),
                Standing::Behind { peer, .. } => behind.push(format!("{heading} ({name}; {peer})")),
            }
        }
    }
    let lists = [("leads", leads), ("ties with the best", ties), ("is behind", behind)];
    let mut text = String::new();
    for (verb, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        let _ = writeln!(text, "- propane {verb}: {}.", list.join(", "));
    }
    text
}

/// Every column in which somebody else is ahead, and why.
fn shortcomings(results: &Results) -> String {
    let columns = || TABLES.iter().flat_map(|table| table.columns.iter().map(move |column| (table, column)));
    let all = columns().flat_map(|(table, column)| {
        standings(results, column).into_iter().map(move |(name, standing)| (table, column, name, standing))
    });
    let (mut leads, mut ties, mut lines) = (0, 0, Vec::new());
    for (table, column, name, standing) in all {
        match standing {
            Standing::Leads => leads += 1,
            Standing::Ties { .. } => ties += 1,
            Standing::Behind { peer, ours, theirs } => {
                let (heading, ours, theirs) = (heading(results, column), number(ours), number(theirs));
                let why = if column.why.is_empty() { "Why is not known." } else { column.why };
                lines.push(format!("- {}, {heading}: {name} {ours}, {peer} {theirs}. {why}\n", table.title));
            }
        }
    }
    let behind = lines.len();
    format!(
        "## Where propane does not lead\n\nOf {} comparisons with the best of its peers propane leads in {leads}, ties in {ties} \
         and is behind in {behind}. Where a worker's own speed counts, propane is compared with those who run the same \
         worker, once for each kind.\n\n{}\n",
        leads + ties + behind,
        lines.concat()
    )
}

struct Goal {
    text: String,
    measured: String,
    is_met: bool,
    /// What stands in its way, where something does.
    why: &'static str,
}

fn goals(results: &Results) -> String {
    let mut text = String::from("## Goals\n\n| Goal | Measured | |\n| --- | --- | --- |\n");
    let mut reasons = String::new();
    for goal in all_goals(results) {
        let verdict = if goal.is_met { "met" } else { "**not met**" };
        let _ = writeln!(text, "| {} | {} | {verdict} |", goal.text, goal.measured);
        if !goal.is_met && !goal.why.is_empty() {
            let _ = writeln!(reasons, "\n{}", goal.why);
        }
    }
    text + &reasons + "\n"
}

/// Milliseconds from a crash to the replacement.
const REPLACEMENT_GOAL_MS: f64 = 1.5;
const RSS_GOAL_KIB: f64 = 4096.0;
/// Times what the kernel needs.
const CROWD_GOAL: f64 = 1.1;

const WHY_CROWDS_TAKE_LONGER: &str = "The bare loop keeps both processors busy from the first spawn to the last, so all that \
     is done for a worker beyond its spawn shows in full: a socket for its words, and the worker's `READY=1` over it; a pidfd, \
     watched; a process group, an environment, limits and a mark of its own; two lines in the log and a place in the state \
     file. A profile (`perf record`, `strace -c`) finds no part of it that takes more than a tenth of the whole.";

const WHY_AN_EXEC_TAKES_LONGER: &str = "Who forks its workers has a new process as soon as it is forked. propane executes the \
     worker's program, so that a worker starts with new code and nothing of the manager's. What that comes to until both \
     have answered a request stands below (*A worker is killed*). In a trace a third of the time is the dead worker's own end \
     in the kernel, half is the manager's, the rest the new one's exec.";

fn all_goals(results: &Results) -> Vec<Goal> {
    let median = |name: &str, figure| results.summary(name, figure).map(|summary| summary.median);
    let most = |text: String, name: &str, figure, unit: &str, goal: f64| {
        let value = median(name, figure)?;
        Some(Goal { text, measured: format!("{}{unit}", number(value)), is_met: value <= goal, why: "" })
    };
    let below = |peer: &str| {
        let (ours, theirs) = (median(OURS, Figure::RssKib)?, median(peer, Figure::RssKib)?);
        let text = format!("… and below the {} KiB of {peer}", number(theirs));
        Some(Goal { text, measured: format!("{} KiB", number(ours)), is_met: ours < theirs, why: "" })
    };
    let ratio = || {
        let ratio = results.ratio(OURS_PLAIN, KERNEL, Figure::ManyStartMs)?;
        let many = thousands(results.settings.many);
        let text = format!("{many} workers start in the kernel's time plus {:.0} %", (CROWD_GOAL - 1.0) * 100.0);
        let measured = format!("{ratio:.2} times the kernel's");
        Some(Goal { text, measured, is_met: ratio <= CROWD_GOAL, why: WHY_CROWDS_TAKE_LONGER })
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
        below("nginx"),
        below("bash original"),
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
            why: "",
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
        why: WHY_AN_EXEC_TAKES_LONGER,
    })
}

fn participants(results: &Results) -> String {
    let mut text = String::from(
        "## Who took part, and what they cannot do\n\n| | version | worker | reloads by | remarks |\n| --- | --- | --- | --- | --- |\n",
    );
    for Measured { name, version, worker, reload, notes } in &results.peers {
        let _ = writeln!(text, "| {name} | {version} | {worker} | {reload} | {} |", notes.join("; "));
    }
    text.push_str(
        "\nThe *plain worker* is `crates/xtask/examples/bench_worker.rs`: it answers one request after the other, and when it \
         is told to end it finishes the one that it is at. It binds for itself with `SO_REUSEPORT`, or serves the socket that \
         its manager hands it. *Compiled* workers are parts of the peer itself. Servers that run no commands take no part in \
         *many workers* and *crash loop*.\n",
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
            "- propane leads: four workers answer, ms (propane).",
            "- propane is behind: replaced, ms (propane; nginx).",
            "propane leads in 2, ties in 0 and is behind in 1.",
            "- A worker is killed, replaced, ms: propane 1.1, nginx 0.55. A server",
            "| **propane** | its own | 0 of 4,000 |",
            "| nginx | its own | 3 of 3,000 |",
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
