//! Seeded worlds for `propane-core`.
