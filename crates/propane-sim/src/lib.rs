//! Seeded worlds for `propane-core`.

pub mod story;
