//! The raw figures, as `bench/results.json` keeps them.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

use super::stats::Summary;

/// What is measured, with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Figure {
    ColdStartMs,
    ReplacementMs,
    AnswerMs,
    IdleSwitchesPerS,
    IdleCpuUsPerS,
    RssKib,
    PssKib,
    AnonymousKib,
    WorkersLeft,
    FailedRequests,
    Requests,
    P99Ms,
    MaxMs,
    ReloadMs,
    StopMs,
    ProcessesLeft,
    FilesLeft,
    FewStartMs,
    FewStopMs,
    FewRssKib,
    ManyStartMs,
    ManyStopMs,
    ManyRssKib,
    SpawnsPerS,
    CpuUsPerSpawn,
    ShippedSpawnsPerS,
    ShippedCpuMsPerS,
    ConfigMs,
}

/// Where it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) processor: String,
    pub(super) cores: usize,
    pub(super) memory_gib: u64,
    /// The load average of the last minute, before and after.
    pub(super) load_before: f64,
    pub(super) load_after: f64,
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) rounds: usize,
    /// Rounds of what takes long and varies little: idleness, killed managers, many workers and crash loops.
    pub(super) long_rounds: usize,
    pub(super) workers: usize,
    pub(super) idle_seconds: u64,
    pub(super) kills: usize,
    pub(super) clients: usize,
    pub(super) few: usize,
    pub(super) many: usize,
    /// How often propane and the kernel start and stop many workers in a round, in turn.
    pub(super) crowds: usize,
    pub(super) crash_seconds: u64,
    pub(super) config_runs: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) worker: String,
    pub(super) reload: String,
    pub(super) notes: Vec<String>,
}

/// What was not measured, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Skipped {
    pub(super) peer: String,
    pub(super) reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) settings: Settings,
    pub(super) peers: Vec<Measured>,
    pub(super) skipped: Vec<Skipped>,
    /// Measurements that a peer did not get through.
    pub(super) failed: Vec<Skipped>,
    /// By peer and figure: the values of each round.
    pub(super) values: BTreeMap<String, BTreeMap<Figure, Vec<Vec<f64>>>>,
}

impl Results {
    pub(super) fn record(&mut self, peer: &str, round: usize, figure: Figure, value: f64) {
        let rounds = self.values.entry(peer.to_owned()).or_default().entry(figure).or_default();
        if rounds.len() <= round {
            rounds.resize(round + 1, Vec::new());
        }
        // Thousandths of a millisecond are far below what can be told apart.
        rounds[round].push((value * 1e3).round() / 1e3);
    }

    pub(super) fn record_all(&mut self, peer: &str, round: usize, figures: Vec<(Figure, f64)>) {
        for (figure, value) in figures {
            self.record(peer, round, figure, value);
        }
    }

    fn rounds(&self, peer: &str, figure: Figure) -> &[Vec<f64>] {
        self.values.get(peer).and_then(|figures| figures.get(&figure)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn sum(&self, peer: &str, figure: Figure) -> Option<f64> {
        let values: Vec<f64> = self.rounds(peer, figure).concat();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    pub(super) fn summary(&self, peer: &str, figure: Figure) -> Option<Summary> {
        Summary::of(&self.rounds(peer, figure).concat())
    }

    /// The median over the rounds of how many times `peer` needs what `base` needs in the same round.
    pub(super) fn ratio(&self, peer: &str, base: &str, figure: Figure) -> Option<f64> {
        let median = |round: &Vec<f64>| Summary::of(round).map(|summary| summary.median);
        let pairs = self.rounds(peer, figure).iter().zip(self.rounds(base, figure));
        let ratio = |(one, other)| Some(median(one)? / median(other).filter(|value| *value > 0.0)?);
        let ratios: Vec<f64> = pairs.filter_map(ratio).collect();
        Some(Summary::of(&ratios)?.median)
    }

    /// Text for people and programs: an object's members on lines of their own, a list on one line.
    pub(super) fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut text = Vec::new();
        self.serialize(&mut Serializer::with_formatter(&mut text, FlatLists::default()))?;
        text.push(b'\n');
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// `serde_json`'s pretty form would give each number a line.
#[derive(Default)]
struct FlatLists(PrettyFormatter<'static>);

impl Formatter for FlatLists {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Figures of a machine that does not exist.
    pub(in super::super) fn made_up() -> Results {
        let peer = |name: &str, worker: &str, notes: &[&str]| Measured {
            name: name.to_owned(),
            version: "1.2".to_owned(),
            worker: worker.to_owned(),
            reload: "`HUP`".to_owned(),
            notes: notes.iter().map(|&note| note.to_owned()).collect(),
        };
        let skipped = |peer: &str, reason: &str| Skipped { peer: peer.to_owned(), reason: reason.to_owned() };
        let rows = [
            ("propane", Figure::ColdStartMs, [10.0, 12.0]),
            ("nginx", Figure::ColdStartMs, [20.0, 36.0]),
            ("propane", Figure::ReplacementMs, [1.0, 1.2]),
            ("nginx", Figure::ReplacementMs, [0.5, 0.6]),
            ("propane", Figure::FailedRequests, [0.0, 0.0]),
            ("nginx", Figure::FailedRequests, [3.0, 0.0]),
            ("propane", Figure::Requests, [1000.0, 3000.0]),
            ("nginx", Figure::Requests, [2000.0, 1000.0]),
            ("propane", Figure::RssKib, [4000.0, 4100.0]),
        ];
        let mut results = Results {
            machine: Machine {
                kernel: "6.1".to_owned(),
                processor: "a processor".to_owned(),
                cores: 2,
                memory_gib: 4,
                load_before: 0.1,
                load_after: 0.5,
            },
            settings: Settings {
                rounds: 2,
                long_rounds: 1,
                workers: 4,
                idle_seconds: 5,
                kills: 3,
                clients: 32,
                few: 100,
                many: 1000,
                crowds: 1,
                crash_seconds: 3,
                config_runs: 20,
            },
            peers: vec![peer("propane", "its own", &[]), peer("nginx", "its own", &["outlives nothing"])],
            skipped: vec![skipped("puma", "puma is not installed")],
            failed: vec![skipped("nginx", "reload: waited in vain")],
            values: BTreeMap::new(),
        };
        for (peer, figure, values) in rows {
            for (round, value) in values.into_iter().enumerate() {
                results.record(peer, round, figure, value);
            }
        }
        results
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let results = made_up();
        assert_eq!(results.ratio("nginx", "propane", Figure::ColdStartMs), Some(2.5));
        assert_eq!(results.ratio("nginx", "propane", Figure::StopMs), None);
        assert_eq!(results.ratio("nginx", "propane", Figure::FailedRequests), None, "nothing is a multiple of nothing");
    }

    #[test]
    fn figures_survive_their_file() {
        let results = made_up();
        let text = results.to_json().unwrap();
        assert!(text.contains(r#""cold_start_ms": [[10.0], [12.0]]"#), "{text}");
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
    }
}
