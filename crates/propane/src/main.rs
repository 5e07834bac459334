//! The `propane` command.

fn main() {}
