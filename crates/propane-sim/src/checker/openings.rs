//! Slots are closed when nobody uses them any more, and not before: connections wait in an open one.

use std::collections::BTreeSet;

use propane_core::{Action, Role};

use super::books::Books;
use super::{Rule, Violation, ensure};

/// The rules about slots.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    open: BTreeSet<u32>,
}

impl Openings {
    /// `wanted` is how many slots are to stay, at least.
    pub(crate) fn action(&mut self, books: &Books, wanted: u32, action: &Action) -> Result<(), Violation> {
        match action {
            Action::Spawn { role: Role::Http, slot, .. } => {
                self.open.insert(*slot);
                Ok(())
            }
            Action::CloseSlot { slot } => {
                self.open.remove(slot);
                let unused = *slot >= wanted && !is_used(books, *slot);
                ensure(unused, Rule::OnlyUnusedClosed, || format!("{slot} of {wanted}"))
            }
            _ => Ok(()),
        }
    }

    /// After a step in which no reload was about to change the count.
    pub(crate) fn finish(&self, books: &Books, wanted: u32) -> Result<(), Violation> {
        let left = self.open.iter().find(|slot| **slot >= wanted && !is_used(books, **slot));
        ensure(left.is_none(), Rule::UnusedClosed, || format!("{left:?} of {wanted}"))
    }
}

fn is_used(books: &Books, slot: u32) -> bool {
    books.present().any(|entry| entry.role == Role::Http && entry.slot == slot)
}
