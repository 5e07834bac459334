//! The layers on top of each other.
//!
//! figment does the one merge that the typed configuration comes from. It keeps no losers, so the stack answers who
//! won and over whom; in debug builds every resolution asserts that both agree.

use figment::Figment;

use crate::layer::{Layer, LayerKind, Leaf};
use crate::settings::{ResolvedConfig, SETTINGS};
use crate::value::Value;

/// All layers, lowest first.
#[derive(Debug)]
pub(crate) struct Stack<'a> {
    layers: Vec<&'a Layer>,
}

impl<'a> Stack<'a> {
    pub(crate) fn new(layers: impl IntoIterator<Item = &'a Layer>) -> Self {
        let layers: Vec<_> = layers.into_iter().collect();
        assert!(layers.is_sorted_by_key(|layer| layer.kind), "layers out of order");
        Self { layers }
    }

    /// Every layer's value, the winner first.
    pub(crate) fn candidates(&self, key: &str) -> impl Iterator<Item = (LayerKind, &'a Leaf)> {
        self.layers.iter().rev().filter_map(move |layer| Some((layer.kind, layer.leaves.get(key)?)))
    }

    pub(crate) fn winner(&self, key: &str) -> Option<&'a Leaf> {
        self.candidates(key).next().map(|(_, leaf)| leaf)
    }

    /// A number. Every setting of that type has a default.
    pub(crate) fn int(&self, key: &str) -> i64 {
        match self.winner(key).map(|leaf| &leaf.value) {
            Some(Value::Int(number)) => *number,
            _ => 0,
        }
    }

    /// A text; empty if nothing is set.
    pub(crate) fn text(&self, key: &str) -> &'a str {
        match self.winner(key).map(|leaf| &leaf.value) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// The merge.
    pub(crate) fn merge(&self) -> ResolvedConfig {
        let merged = self.layers.iter().fold(Figment::new(), |merged, layer| merged.merge(*layer));
        debug_assert!(self.agrees_with(&merged), "the stack's winners are not the merge's");
        // Every leaf was read by the same row that gave the field its type, so there is nothing left to fail on.
        merged.extract().expect("layers hold only values that fit their settings")
    }

    fn agrees_with(&self, merged: &Figment) -> bool {
        SETTINGS.iter().all(|setting| {
            let ours = self.candidates(setting.key).next().map(|(kind, _)| kind.name());
            let theirs = merged.find_metadata(setting.key).map(|metadata| metadata.name.as_ref());
            ours == theirs
        })
    }
}
