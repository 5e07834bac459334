//! Settings that are one of a few words.

use serde::{Deserialize, Serialize};

/// Words of a choice: the enum, its spelling and the list that the table shows come from one place.
macro_rules! choices {
    ($( $(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $word_doc:literal])+ $word:ident = $text:literal, )+ } )+) => { $(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $( $(#[doc = $word_doc])+ #[serde(rename = $text)] $word, )+ }

        impl $name {
            /// The spellings, in the order of the enum.
            pub const WORDS: &[&str] = &[$($text),+];

            /// All of them, in the same order.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$word),+];

            /// The spelling of this one.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$word => $text, )+ }
            }
        }
    )+ };
}

choices! {
    /// How new connections reach the workers.
    SocketStrategy {
        /// Inherit for workers that take a descriptor, else steer.
        Auto = "auto",
        /// The manager owns one listener per slot and hands it to the slot's worker.
        Inherit = "inherit",
        /// The manager owns one listener for all workers.
        Shared = "shared",
        /// Workers bind by themselves; retiring ones get no new connections.
        Steer = "steer",
        /// Workers bind by themselves, and that is all.
        Reuseport = "reuseport",
    }
    /// How an Arlen worker runs its requests.
    DispatchMode {
        /// Several at a time.
        Concurrent = "concurrent",
        /// One after the other.
        Serialized = "serialized",
    }
    /// The form of a worker's log lines.
    LogFormat {
        /// For people.
        Text = "text",
        /// For machines.
        Json = "json",
    }
}
