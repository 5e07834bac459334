//! Ports for tests.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ephemeral range of Linux (32768): a client's own port could otherwise be the one under test.
const RANGE: Range<u16> = 12_000..32_000;

/// A port of 127.0.0.1 on which nobody listens, and which this process has not given out before.
///
/// # Panics
/// Every port is taken.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Test processes that run at the same time begin at different places.
    let next = NEXT.get_or_init(|| AtomicU16::new((RandomState::new().hash_one(0) & 0xffff) as u16));
    let width = RANGE.end - RANGE.start;
    let mut candidates = (0..width).map(|_| RANGE.start + next.fetch_add(1, Ordering::Relaxed) % width);
    candidates
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of 20,000 ports is free")
}
