//! Stories: what happens to a supervisor and what it answers, interleaved, in a form that can be read aloud.
//!
//! ```text
//! # A worker that dies is replaced after the configured delay.
//! policy workers=1 respawn-delay=100ms
//! boot
//! up w0
//! exited w0 signal_9
//! ----
//! 0.000s  spawn w0: http slot 0, generation 0
//! ...
//! ```
//!
//! A block is commands, a line of dashes, and the actions that came of them, up to an empty line. Lines that begin with
//! `#` are prose. [`tell`] replaces what stands after the dashes by what really happens, so a story holds when telling
//! it changes nothing.
//!
//! Commands: `policy KEY=VALUE…` · `boot` · `spawned`, `ready`, `listening`, `accepting`, `unproven`, `up` (spawned and
//! ready), `spawn-abandoned`, `heartbeat`, `group-emptied`, each with workers (`w1 w2`, `w1..w3`) ·
//! `spawn-failed W [permanent] WORDS` · `exited W exit_N|signal_N [group-alive]` · `drained W [WAITED]` · `cut W COUNT` ·
//! `turning-away-refused` · `socket-renewed` · `sampled W fds=N fd-limit=N rss=N` · `TERM` `INT` `QUIT` `HUP` `TTIN`
//! `TTOU` `USR1` · `configuration KEY=VALUE…` (changes to the one in force; after `only`, to the default) or
//! `configuration refused` · `wait TIME` (the driver wakes up when something is due) · `sleep TIME` (it does not) ·
//! `tick` · `status`.

mod command;
mod policy;
mod text;
mod units;

use std::fmt;
use std::time::Duration;

use propane_core::{Event, Policy, Supervisor, Time};

use command::Command;

pub(crate) use command::show as show_event;
pub(crate) use policy::show as show_policy;
pub(crate) use text::action as show_action;
pub(crate) use units::show as show_duration;

/// What stands between commands and actions.
pub(crate) const DASHES: &str = "----";

/// What stands for no action at all.
pub(crate) const NOTHING: &str = "(nothing)";

/// How many times the driver may wake up in one `wait`: more than any story needs, fewer than a busy loop makes.
const WAKE_UPS_MAX: u32 = 10_000;

/// A story that cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoryError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for StoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for StoryError {}

/// The story with what really happens in place of what was expected.
///
/// # Errors
/// When a command cannot be understood, or makes no sense where it stands.
pub fn tell(story: &str) -> Result<String, StoryError> {
    let mut told = String::new();
    let mut stage = Stage::default();
    let mut lines = story.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if line == DASHES {
            stage.answer(&mut told);
            let expected_ended = lines.by_ref().any(|(_, line)| line.is_empty());
            told.push_str(if expected_ended { "\n" } else { "" });
            continue;
        }
        if line.is_empty() && stage.unanswered {
            stage.answer(&mut told);
        } else if !line.is_empty() && !line.starts_with('#') {
            stage.play(line).map_err(|message| StoryError { line: index + 1, message })?;
        }
        told.push_str(line);
        told.push('\n');
    }
    if stage.unanswered {
        stage.answer(&mut told);
    }
    Ok(told)
}

/// Where a story is played: a supervisor, a clock, and what was said since the last dashes.
#[derive(Default)]
struct Stage {
    supervisor: Option<Supervisor>,
    policy: Policy,
    now: Time,
    printed: Vec<String>,
    /// Whether there were commands since the last dashes.
    unanswered: bool,
}

impl Stage {
    fn answer(&mut self, told: &mut String) {
        self.unanswered = false;
        if self.printed.is_empty() {
            self.printed.push(NOTHING.to_owned());
        }
        told.push_str(DASHES);
        told.push('\n');
        for line in self.printed.drain(..) {
            told.push_str(&line);
            told.push('\n');
        }
    }

    fn play(&mut self, line: &str) -> Result<(), String> {
        self.unanswered = true;
        match command::read(line)? {
            Command::Begin { policy, seed } => {
                self.supervisor = Some(Supervisor::new((*policy).clone(), seed));
                self.policy = *policy;
                self.now = Time::default();
                Ok(())
            }
            Command::Events(events) => events.into_iter().try_for_each(|event| self.happen(event)),
            Command::Configuration(words) => self.configure(&words),
            Command::Wait(duration) => self.wait(duration),
            Command::Sleep(duration) => {
                self.now = self.now + duration;
                Ok(())
            }
            Command::Status => self.print_status(),
        }
    }

    fn supervisor(&mut self) -> Result<&mut Supervisor, String> {
        self.supervisor.as_mut().ok_or_else(|| "a story begins with `policy`".to_owned())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        let now = self.now;
        self.supervisor()?.handle_event(now, event);
        while let Some(action) = self.supervisor()?.poll_action() {
            self.printed.push(format!("{now}  {}", text::action(&action)));
        }
        Ok(())
    }

    fn configure(&mut self, words: &[String]) -> Result<(), String> {
        let (fresh, words) = match words.split_first() {
            Some((first, rest)) if first == "only" => (true, rest),
            _ => (false, words),
        };
        if fresh {
            self.policy = Policy::default();
        }
        for word in words {
            policy::set(&mut self.policy, word)?;
        }
        let policy = Box::new(self.policy.clone());
        self.happen(Event::ConfigurationLoaded { policy })
    }

    fn wait(&mut self, duration: Duration) -> Result<(), String> {
        let end = self.now + duration;
        for _ in 0..WAKE_UPS_MAX {
            let Some(due) = self.supervisor()?.poll_timeout().filter(|due| *due <= end) else {
                self.now = end;
                return Ok(());
            };
            self.now = self.now.max(due);
            self.happen(Event::TimePassed)?;
        }
        Err(format!("the driver woke up {WAKE_UPS_MAX} times: a busy loop"))
    }

    fn print_status(&mut self) -> Result<(), String> {
        let status = self.supervisor()?.status();
        self.printed.extend(text::status(&status));
        Ok(())
    }
}
