//! What is wrong with a configuration, complete enough to be shown without the files it came from.

use serde::{Serialize, Serializer};

use crate::document::Span;
use crate::embedded::mask_within;
use crate::lookup::is_under;
use crate::origin::Origin;
use crate::source::{Quote, Source};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether a start is refused.
    pub severity: Severity,
    /// What kind of thing.
    pub code: Code,
    /// The setting it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Other settings that have to do with it: what it contradicts, or what was probably meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<&'static str>,
    /// The whole of it in one line, without its place.
    pub message: String,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// What would have been right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
    /// Other places that have to do with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Place>,
    /// The environments it is about, where several were looked at, not all have it and its place does not tell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<String>,
    /// How many it stands for, where there are too many of a kind to be told one by one.
    #[serde(skip_serializing_if = "is_one")]
    pub count: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(count: &usize) -> bool {
    *count == 1
}

/// A place and what is to be said about it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The place.
    pub origin: Origin,
    /// Its source line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
    /// What stands there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A start is refused.
    Error,
    /// A start goes on.
    Warning,
}

macro_rules! codes {
    ($( $(#[doc = $doc:literal])+ $code:ident = $text:literal, )+) => {
        /// The kinds of problem, by names that stay.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $( $(#[doc = $doc])+ $code, )+ }

        impl Code {
            /// The name that is shown.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$code => concat!("propane::config::", $text), )+ }
            }
        }
    };
}

codes! {
    /// A file cannot be read as a property list.
    Syntax = "syntax",
    /// A file cannot be read at all.
    Unreadable = "unreadable",
    /// The app root is no directory that can be read.
    AppRoot = "app-root",
    /// The framework root is neither an Arlen checkout nor a release.
    FrameworkRoot = "framework-root",
    /// There is no `config/app.plist`.
    MissingApp = "missing-app",
    /// There is no file for the environment.
    MissingEnvironment = "missing-environment",
    /// The environment's name looks misspelt.
    UnknownEnvironment = "unknown-environment",
    /// The environment's name cannot be one.
    EnvironmentName = "environment-name",
    /// A value of the wrong type.
    Type = "type",
    /// A value of the right type outside what is accepted.
    Range = "range",
    /// A key that means nothing where it stands.
    UnknownKey = "unknown-key",
    /// A variable that looks like one of ours but is none.
    UnknownVariable = "unknown-variable",
    /// A variable under its old name.
    DeprecatedVariable = "deprecated-variable",
    /// A variable that Kubernetes made up for a service.
    ServiceLink = "service-link",
    /// A key that stands twice in one dictionary.
    DuplicateKey = "duplicate-key",
    /// A value of which nothing is written.
    EmptyValue = "empty-value",
    /// More of what a file earned warnings for.
    AndMore = "and-more",
    /// A numeric escape that the closing quote cuts short.
    CutEscape = "cut-escape",
    /// A comment that is never closed.
    OpenComment = "open-comment",
    /// A file without its outermost braces.
    Braceless = "braceless",
    /// A worker command that cannot be split into words.
    WorkerCommand = "worker-command",
    /// A socket strategy that the worker command contradicts.
    Strategy = "strategy",
    /// A setting that means nothing, or cannot be had, on a UNIX socket.
    UnixSocket = "unix-socket",
    /// Job workers without a command to run.
    JobsWithoutCommand = "jobs-without-command",
    /// A job command without workers to run it.
    CommandWithoutJobs = "command-without-jobs",
    /// Descriptor thresholds in an order that makes one of them pointless.
    DescriptorThresholds = "descriptor-thresholds",
    /// A longest delay below the shortest.
    RespawnDelays = "respawn-delays",
    /// Several Arlen workers in production with no place for what they share.
    SharedState = "shared-state",
    /// An explicit NO that several workers overrule.
    ReusePortOverruled = "reuse-port-overruled",
    /// An explicit NO that makes reloads interrupt the service.
    ReloadGap = "reload-gap",
    /// Cluster headers without a cluster.
    HeadersWithoutCluster = "headers-without-cluster",
    /// Text that stands in headers and cannot.
    HeaderText = "header-text",
}

impl Code {
    /// Whether a single file has it, whatever the others hold.
    pub(crate) const fn is_of_one_file(self) -> bool {
        matches!(
            self,
            Self::Syntax
                | Self::Unreadable
                | Self::Type
                | Self::Range
                | Self::UnknownKey
                | Self::DuplicateKey
                | Self::EmptyValue
                | Self::AndMore
                | Self::CutEscape
                | Self::OpenComment
                | Self::Braceless
        )
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Problem {
    pub(crate) fn error(code: Code, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, &message.into())
    }

    pub(crate) fn warning(code: Code, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, &message.into())
    }

    fn new(severity: Severity, code: Code, message: &str) -> Self {
        Self {
            severity,
            code,
            key: None,
            also: Vec::new(),
            // It may quote a path or a name that somebody took from a URL.
            message: mask_within(message),
            place: None,
            expected: None,
            suggestion: None,
            related: Vec::new(),
            environments: Vec::new(),
            count: 1,
        }
    }

    pub(crate) fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    pub(crate) fn also(mut self, key: &'static str) -> Self {
        self.also.push(key);
        self
    }

    pub(crate) fn standing_for(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    pub(crate) fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    pub(crate) fn at_origin(self, origin: Origin) -> Self {
        self.at(Place::of(origin))
    }

    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    pub(crate) fn related(mut self, place: Place) -> Self {
        self.related.push(place);
        self
    }

    /// Whether it has to do with a setting. What is wrong with a group has to do with all that stands in it.
    pub fn concerns(&self, key: &str) -> bool {
        self.key.as_deref().is_some_and(|own| is_under(key, own)) || self.also.contains(&key)
    }

    /// Whether a start is refused because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl Place {
    pub(crate) fn of(origin: Origin) -> Self {
        Self { origin, quote: None, label: String::new() }
    }

    pub(crate) fn in_file(source: &Source<'_>, span: Option<Span>) -> Self {
        Self { origin: source.origin(span), quote: source.quote(span), label: String::new() }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }
}
