//! Writes a schedule down as a story, which then tells itself again.

use propane_core::{Action, Event, Time};

use crate::plan::Plan;
use crate::story;

/// What has happened so far, as text.
#[derive(Debug)]
pub(crate) struct Recorder {
    on: bool,
    story: String,
    /// The end of the last command.
    at: Time,
    /// Whether the last lines are actions.
    answering: bool,
}

impl Recorder {
    pub(crate) fn new(on: bool, plan: &Plan) -> Self {
        let mut story = String::new();
        if on {
            let words = story::show_policy(&plan.policy);
            let space = if words.is_empty() { "" } else { " " };
            story = format!("policy seed={}{space}{words}\n", plan.seed);
        }
        Self { on, story, at: Time::default(), answering: false }
    }

    pub(crate) fn event(&mut self, now: Time, event: &Event) {
        if !self.on {
            return;
        }
        if std::mem::take(&mut self.answering) {
            self.story.push('\n');
        }
        let passed = now.since(self.at);
        if !passed.is_zero() {
            self.line(&format!("sleep {}", story::show_duration(passed)));
        }
        self.at = now;
        self.line(&story::show_event(event));
    }

    pub(crate) fn action(&mut self, now: Time, action: &Action) {
        if !self.on {
            return;
        }
        if !std::mem::replace(&mut self.answering, true) {
            self.line(story::DASHES);
        }
        self.line(&format!("{now}  {}", story::show_action(action)));
    }

    fn line(&mut self, line: &str) {
        self.story.push_str(line);
        self.story.push('\n');
    }

    /// The story, whose last commands may have had no answer.
    pub(crate) fn into_story(mut self) -> String {
        if self.on && !self.answering {
            self.line(story::DASHES);
            self.line(story::NOTHING);
        }
        self.story
    }
}
