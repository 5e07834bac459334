//! The tables of the report: what stands in them, how it is measured, and why propane is where it is.

use super::results::Figure;

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Lower,
    Higher,
    /// Neither: shown for what it says.
    Neither,
}

/// With whom propane is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    All,
    /// The worker's own speed counts too, so only with those whose worker is of the same kind.
    SameWorker,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Shown {
    /// The median and the middle half.
    Spread,
    /// The sum over all runs, of the sum of another figure.
    SumOf(Figure),
}

pub(super) struct Column {
    pub(super) figure: Figure,
    pub(super) heading: &'static str,
    pub(super) better: Better,
    pub(super) among: Among,
    pub(super) shown: Shown,
    /// Said where propane does not lead.
    pub(super) why: &'static str,
}

pub(super) struct Table {
    pub(super) title: &'static str,
    /// How it is measured.
    pub(super) how: &'static str,
    pub(super) columns: &'static [Column],
}

const fn column(figure: Figure, heading: &'static str, among: Among, why: &'static str) -> Column {
    Column { figure, heading, better: Better::Lower, among, shown: Shown::Spread, why }
}

const SATURATED: &str = "Clients saturate the machine, so the boot of the new workers shows in it. A preforking server forks what \
                         is loaded already, and who takes long over a reload spreads the work over more time.";

pub(super) const TABLES: &[Table] = &[
    Table {
        title: "Start",
        how: "From the manager's exec until four different workers have answered a request. Requests come in bursts of 16 \
              connections; every app answers with its process id.",
        columns: &[column(
            Figure::ColdStartMs,
            "four workers answer, ms",
            Among::SameWorker,
            "Each of propane's workers is executed and loads its program, its interpreter and its server anew; a preforking \
             server loads them once and forks.",
        )],
    },
    Table {
        title: "A worker is killed",
        how: "`kill -9` of one of four workers, restart delays at 0 where there are any. *Replaced*: a new process is among \
              the manager's children, and has executed the worker's program where the manager does not merely fork; looked \
              at every 50 µs. *Answers*: the new process has answered a request.",
        columns: &[
            column(
                Figure::ReplacementMs,
                "replaced, ms",
                Among::All,
                "A server that forks its workers has a new process without an exec; propane executes the worker's program, so \
                 that new code and a clean process are a matter of course.",
            ),
            column(
                Figure::AnswerMs,
                "answers, ms",
                Among::SameWorker,
                "The time of the worker's own start, which a forked worker does not have.",
            ),
        ],
    },
    Table {
        title: "Idle",
        how: "All processes that are not workers, with four idle workers: context switches of both kinds, and time on a \
              processor, that of short-lived helpers included, a second; memory from `smaps_rollup`. Those that do something \
              every few seconds are watched for longer.",
        columns: &[
            column(
                Figure::IdleSwitchesPerS,
                "context switches / s",
                Among::All,
                "Descriptor checks, where they are on.",
            ),
            column(Figure::IdleCpuUsPerS, "CPU, µs / s", Among::All, "Descriptor checks, where they are on."),
            column(
                Figure::RssKib,
                "RSS, KiB",
                Among::All,
                "Most of it is the program's own file, shared with the page cache and with its workers; the anonymous part is \
                 what the manager itself costs. runit and s6 are a few small C programs.",
            ),
            column(
                Figure::PssKib,
                "PSS, KiB",
                Among::All,
                "Pages of the program count once here, divided among those that map them. runit and s6 are a few small C \
                 programs.",
            ),
            column(
                Figure::AnonymousKib,
                "anonymous, KiB",
                Among::All,
                "The configuration with the origin of each value is kept for the next reload.",
            ),
        ],
    },
    Table {
        title: "Reload under load",
        how: "Four workers are replaced by the peer's own way of reloading, while clients ask without pause on a new \
              connection for each request. A request fails when it is refused, reset, cut short, answered with anything but \
              2xx, or not answered in 15 s. The duration ends when the old workers have gone and four new ones have answered. \
              Holding times are 0, but for the bash original's, which is all the time that its new workers get.",
        columns: &[
            Column {
                shown: Shown::SumOf(Figure::Requests),
                ..column(
                    Figure::FailedRequests,
                    "failed requests of all",
                    Among::All,
                    "A worker that binds for itself loses what waits in its own queue when it goes; with `{fd}` the manager \
                     keeps the queue.",
                )
            },
            column(Figure::P99Ms, "p99, ms", Among::SameWorker, SATURATED),
            column(Figure::MaxMs, "longest, ms", Among::SameWorker, SATURATED),
            column(
                Figure::ReloadMs,
                "duration, ms",
                Among::SameWorker,
                "A new generation proves itself with one canary before the others are started, and nothing old goes before \
                 everything new is ready.",
            ),
        ],
    },
    Table {
        title: "Stop",
        how: "From the stop signal until the manager and all workers have gone, after the reload above; the processes that are \
              there 2 s later, and the sockets, FIFOs and pid files in its directory (those of s6 and runit are parts of a \
              service). *Workers left*: how many of four are \
              alive 2 s after `kill -9` of the manager.",
        columns: &[
            column(Figure::StopMs, "stop, ms", Among::SameWorker, "The workers' own end is most of it."),
            column(Figure::ProcessesLeft, "processes left", Among::All, ""),
            column(Figure::FilesLeft, "control files left", Among::All, ""),
            column(Figure::WorkersLeft, "workers left of a killed manager", Among::All, ""),
        ],
    },
    Table {
        title: "Many workers",
        how: "Copies of a program that says that it runs, and waits. Until the last has said so; until all have gone; the \
              managing processes' memory. *The kernel alone* is a bare loop of `posix_spawn` over the same program in the same \
              environment, and of `kill` and `waitpid`, right before each of propane's crowds.",
        columns: &[
            column(Figure::FewStartMs, "few: start, ms", Among::All, "propane's own boot is in it."),
            column(Figure::FewStopMs, "few: stop, ms", Among::All, ""),
            column(Figure::FewRssKib, "few: RSS, KiB", Among::All, "The program's own file is most of it."),
            column(
                Figure::ManyStartMs,
                "many: start, ms",
                Among::All,
                "Each worker gets a notify socket and a process group.",
            ),
            column(Figure::ManyStopMs, "many: stop, ms", Among::All, ""),
            column(Figure::ManyRssKib, "many: RSS, KiB", Among::All, ""),
        ],
    },
    Table {
        title: "Crash loop",
        how: "Four workers that fail as soon as they run. First with restart delays at 0 where there are any: starts a second, \
              and the managing processes' time on a processor for one. Then as shipped: how far the loop is held back, and what \
              it costs.",
        columns: &[
            Column { better: Better::Higher, ..column(Figure::SpawnsPerS, "no delay: starts / s", Among::All, "") },
            column(
                Figure::CpuUsPerSpawn,
                "no delay: CPU, µs a start",
                Among::All,
                "propane sees to the whole process group, probes readiness and writes two lines for each death.",
            ),
            Column {
                better: Better::Neither,
                ..column(Figure::ShippedSpawnsPerS, "as shipped: starts / s", Among::All, "")
            },
            column(
                Figure::ShippedCpuMsPerS,
                "as shipped: CPU, ms / s",
                Among::All,
                "A peer that has given up costs nothing.",
            ),
        ],
    },
    Table {
        title: "Configuration",
        how: "`propane config print`, a whole process, beside the bash original's way emulated by \
              `bench/workers/by-two-processes.sh`: bash, one process that prints the configuration as JSON (`cat` here, which \
              is kinder than the original's) and one `python3` that reads it from an argument.",
        columns: &[column(Figure::ConfigMs, "resolved and printed, ms", Among::All, "")],
    },
];
