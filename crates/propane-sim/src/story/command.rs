//! The commands of a story: an event, or a way for time to pass.

use std::time::Duration;

use propane_core::{Event, ExitStatus, Policy, Proof, Sample, SpawnError, StopSignal, WorkerId};

use super::{policy, text, units};

/// One thing that a story does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// A supervisor with this policy, and this seed for its jitter.
    Begin { policy: Box<Policy>, seed: u64 },
    /// Events, one after the other.
    Events(Vec<Event>),
    /// The configuration was read: the policy in force, changed by these words.
    Configuration(Vec<String>),
    /// Time passes, and the driver wakes up whenever something is due.
    Wait(Duration),
    /// Time passes, and the driver does not wake up.
    Sleep(Duration),
    /// The books are printed.
    Status,
}

/// Reads one line.
pub(crate) fn read(line: &str) -> Result<Command, String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (first, rest) = words.split_first().ok_or("an empty command")?;
    match *first {
        "policy" => begin(rest),
        "configuration" if rest == ["refused"] => Ok(Command::Events(vec![Event::ConfigurationRefused])),
        "configuration" => Ok(Command::Configuration(rest.iter().map(ToString::to_string).collect())),
        "wait" => units::read(only(rest)?).map(Command::Wait),
        "sleep" => units::read(only(rest)?).map(Command::Sleep),
        "status" => Ok(Command::Status),
        _ => events(first, rest).map(Command::Events),
    }
}

fn begin(words: &[&str]) -> Result<Command, String> {
    let (mut policy, mut seed) = (Policy::default(), 0);
    for word in words {
        match word.strip_prefix("seed=") {
            Some(number) => seed = number.parse().map_err(|_| format!("no seed: {number}"))?,
            None => policy::set(&mut policy, word)?,
        }
    }
    Ok(Command::Begin { policy: Box::new(policy), seed })
}

fn events(first: &str, rest: &[&str]) -> Result<Vec<Event>, String> {
    match first {
        "boot" => Ok(vec![Event::BootRequested]),
        "TERM" => Ok(vec![Event::StopRequested { signal: StopSignal::Term }]),
        "INT" => Ok(vec![Event::StopRequested { signal: StopSignal::Int }]),
        "QUIT" => Ok(vec![Event::StopRequested { signal: StopSignal::Quit }]),
        "HUP" => Ok(vec![Event::ReloadRequested]),
        "TTIN" => Ok(vec![Event::ScaleUpRequested]),
        "TTOU" => Ok(vec![Event::ScaleDownRequested]),
        "USR1" => Ok(vec![Event::LogReopenRequested]),
        "turning-away-refused" => Ok(vec![Event::TurningAwayRefused]),
        "socket-renewed" => Ok(vec![Event::SocketRenewed]),
        "tick" => Ok(vec![Event::TimePassed]),
        _ => worker_events(first, rest),
    }
}

fn worker_events(first: &str, rest: &[&str]) -> Result<Vec<Event>, String> {
    let each = |make: &dyn Fn(WorkerId) -> Vec<Event>| -> Result<Vec<Event>, String> {
        Ok(workers(rest)?.into_iter().flat_map(make).collect())
    };
    match first {
        "spawn-abandoned" => each(&|worker| vec![Event::SpawnAbandoned { worker }]),
        "spawned" => each(&|worker| vec![Event::Spawned { worker }]),
        "ready" => each(&|worker| vec![ready(worker, Proof::Notified)]),
        "up" => each(&|worker| vec![Event::Spawned { worker }, ready(worker, Proof::Notified)]),
        "heartbeat" => each(&|worker| vec![Event::HeartbeatReceived { worker }]),
        "group-emptied" => each(&|worker| vec![Event::GroupEmptied { worker }]),
        "listening" => each(&|worker| vec![ready(worker, Proof::Listening)]),
        "accepting" => each(&|worker| vec![ready(worker, Proof::Accepting)]),
        "unproven" => each(&|worker| vec![ready(worker, Proof::Unproven)]),
        "spawn-failed" => spawn_failed(rest).map(|event| vec![event]),
        "exited" => exited(rest).map(|event| vec![event]),
        "drained" => drained(rest).map(|event| vec![event]),
        "cut" => cut(rest).map(|event| vec![event]),
        "sampled" => sampled(rest).map(|event| vec![event]),
        _ => Err(format!("no such command: {first}")),
    }
}

fn ready(worker: WorkerId, proof: Proof) -> Event {
    Event::BecameReady { worker, proof }
}

fn spawn_failed(words: &[&str]) -> Result<Event, String> {
    let (worker, rest) = words.split_first().ok_or("which worker?")?;
    let permanent = rest.first() == Some(&"permanent");
    let message = rest[usize::from(permanent)..].join(" ");
    Ok(Event::SpawnFailed { worker: worker_id(worker)?, error: SpawnError { permanent, message } })
}

fn exited(words: &[&str]) -> Result<Event, String> {
    let (worker, status, group_alive) = match words {
        [worker, status] => (worker, status, false),
        [worker, status, "group-alive"] => (worker, status, true),
        _ => return Err("exited WORKER exit_N|signal_N [group-alive]".to_owned()),
    };
    Ok(Event::Exited { worker: worker_id(worker)?, status: exit_status(status)?, group_alive })
}

fn drained(words: &[&str]) -> Result<Event, String> {
    let (worker, waited) = match words {
        [worker] => (worker, 0),
        [worker, waited] => (worker, count(waited)?),
        _ => return Err("drained WORKER [WAITED]".to_owned()),
    };
    Ok(Event::Drained { worker: worker_id(worker)?, waited })
}

fn cut(words: &[&str]) -> Result<Event, String> {
    let [worker, cut] = words else { return Err("cut WORKER COUNT".to_owned()) };
    Ok(Event::ConnectionsCut { worker: worker_id(worker)?, count: count(cut)? })
}

fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("no number: {text}"))
}

fn exit_status(text: &str) -> Result<ExitStatus, String> {
    let number = |digits: &str| digits.parse().map_err(|_| format!("no exit status: {text}"));
    match (text.strip_prefix("exit_"), text.strip_prefix("signal_")) {
        (Some(code), _) => Ok(ExitStatus::Code(number(code)?)),
        (_, Some(signal)) => Ok(ExitStatus::Signal(number(signal)?)),
        _ => Err(format!("no exit status: {text}")),
    }
}

fn sampled(words: &[&str]) -> Result<Event, String> {
    let (worker, rest) = words.split_first().ok_or("which worker?")?;
    let mut sample = Sample { fd_count: 0, fd_limit: 1024, rss_kib: 0, top_fd_targets: String::new() };
    for word in rest {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("not key=value: {word}"))?;
        let value = value.parse().map_err(|_| format!("no number: {word}"))?;
        match key {
            "fds" => sample.fd_count = value,
            "fd-limit" => sample.fd_limit = value,
            "rss" => sample.rss_kib = value,
            _ => return Err(format!("a sample has fds, fd-limit and rss, not {key}")),
        }
    }
    Ok(Event::Sampled { worker: worker_id(worker)?, sample })
}

/// `w1 w2` and `w1..w3`.
fn workers(words: &[&str]) -> Result<Vec<WorkerId>, String> {
    let mut all = Vec::new();
    for word in words {
        match word.split_once("..") {
            Some((first, last)) => all.extend((worker_id(first)?.0..=worker_id(last)?.0).map(WorkerId)),
            None => all.push(worker_id(word)?),
        }
    }
    if all.is_empty() { Err("which worker?".to_owned()) } else { Ok(all) }
}

fn worker_id(text: &str) -> Result<WorkerId, String> {
    let digits = text.strip_prefix('w').ok_or_else(|| format!("a worker is w and a number, not {text}"))?;
    digits.parse().map(WorkerId).map_err(|_| format!("a worker is w and a number, not {text}"))
}

fn only<'a>(words: &[&'a str]) -> Result<&'a str, String> {
    match words {
        [word] => Ok(word),
        _ => Err(format!("one word is expected, not {}", words.len())),
    }
}

/// An event as the command that makes it. A new policy is written as what differs from `current`'s default words.
pub(crate) fn show(event: &Event) -> String {
    match event {
        Event::BootRequested => "boot".to_owned(),
        Event::StopRequested { signal: StopSignal::Term } => "TERM".to_owned(),
        Event::StopRequested { signal: StopSignal::Int } => "INT".to_owned(),
        Event::StopRequested { signal: StopSignal::Quit } => "QUIT".to_owned(),
        Event::ReloadRequested => "HUP".to_owned(),
        Event::ScaleUpRequested => "TTIN".to_owned(),
        Event::ScaleDownRequested => "TTOU".to_owned(),
        Event::LogReopenRequested => "USR1".to_owned(),
        Event::TurningAwayRefused => "turning-away-refused".to_owned(),
        Event::SocketRenewed => "socket-renewed".to_owned(),
        Event::TimePassed => "tick".to_owned(),
        Event::ConfigurationRefused => "configuration refused".to_owned(),
        Event::ConfigurationLoaded { policy } => {
            format!("configuration only {}", policy::show(policy)).trim_end().to_owned()
        }
        _ => show_worker_event(event),
    }
}

fn show_worker_event(event: &Event) -> String {
    match event {
        Event::SpawnAbandoned { worker } => format!("spawn-abandoned {}", text::name(*worker)),
        Event::Spawned { worker } => format!("spawned {}", text::name(*worker)),
        Event::HeartbeatReceived { worker } => format!("heartbeat {}", text::name(*worker)),
        Event::GroupEmptied { worker } => format!("group-emptied {}", text::name(*worker)),
        Event::BecameReady { worker, proof: Proof::Notified } => format!("ready {}", text::name(*worker)),
        Event::BecameReady { worker, proof } => format!("{} {}", proof, text::name(*worker)),
        Event::Drained { worker, waited } => format!("drained {} {waited}", text::name(*worker)),
        Event::ConnectionsCut { worker, count } => format!("cut {} {count}", text::name(*worker)),
        Event::SpawnFailed { worker, error } => {
            let permanent = if error.permanent { "permanent " } else { "" };
            format!("spawn-failed {} {permanent}{}", text::name(*worker), error.message)
        }
        Event::Exited { worker, status, group_alive } => {
            let group = if *group_alive { " group-alive" } else { "" };
            format!("exited {} {status}{group}", text::name(*worker))
        }
        Event::Sampled { worker, sample } => format!(
            "sampled {} fds={} fd-limit={} rss={}",
            text::name(*worker),
            sample.fd_count,
            sample.fd_limit,
            sample.rss_kib
        ),
        other => format!("{other:?}"),
    }
}
