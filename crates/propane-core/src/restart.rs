//! When a worker that ended by itself is replaced (docs/guarantees.md, "A worker").

use std::time::Duration;

/// A worker that lived this long ends the crash loop of its slot.
pub(crate) const STABLE_LIFETIME: Duration = Duration::from_secs(30);

/// The least delay from which a crash loop's delay grows, so that a configured 0 does not stay 0.
const GROWTH_FLOOR: Duration = Duration::from_millis(100);

/// Jitter of the growing delay, in percent, so that slots that crash together do not come back together.
pub(crate) const JITTER_PERCENT: u32 = 20;

/// How many early deaths a slot has seen in a row, after one more death at the age `lifetime`.
pub(crate) fn early_deaths_after(early_deaths: u32, lifetime: Duration) -> u32 {
    if lifetime >= STABLE_LIFETIME { 0 } else { early_deaths.saturating_add(1) }
}

/// The delay before the next start. `jitter_percent` is the jitter drawn for it, -20..=20.
///
/// Exact for a death of a stable worker and for the first early one; from the second early death on it doubles from
/// `delay` (at least 100 ms) up to `delay_max`.
pub(crate) fn respawn_delay(delay: Duration, delay_max: Duration, early_deaths: u32, jitter_percent: i32) -> Duration {
    if early_deaths <= 1 || delay_max <= delay {
        return delay;
    }
    let doublings = (early_deaths - 2).min(31);
    let grown = delay.max(GROWTH_FLOOR).saturating_mul(1 << doublings).min(delay_max);
    with_percent(grown, jitter_percent).clamp(delay, delay_max)
}

/// `duration` changed by `percent` percent.
pub(crate) fn with_percent(duration: Duration, percent: i32) -> Duration {
    let factor = u32::try_from(100 + percent.clamp(-100, 100)).unwrap_or(100);
    duration.saturating_mul(factor) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn delays_follow_the_table() {
        // (respawnDelayMs, respawnDelayMaxMs, early deaths in a row, jitter %) -> delay
        let table = [
            (250, 30_000, 0, 20, 250),
            (250, 30_000, 1, -20, 250),
            (250, 30_000, 2, 0, 250),
            (250, 30_000, 3, 0, 500),
            (250, 30_000, 4, 10, 1_100),
            (250, 30_000, 9, 0, 30_000),
            (250, 30_000, 9, 20, 30_000),
            (250, 30_000, u32::MAX, -20, 24_000),
            (0, 30_000, 1, 0, 0),
            (0, 30_000, 2, 0, 100),
            (0, 30_000, 3, -20, 160),
            (0, 0, 50, 0, 0),
            (500, 400, 50, 0, 500),
            (0, 50, 5, 0, 50),
        ];
        for (delay, max, deaths, jitter, expected) in table {
            let got = respawn_delay(ms(delay), ms(max), deaths, jitter);
            assert_eq!(got, ms(expected), "delay {delay} max {max} deaths {deaths} jitter {jitter}");
        }
    }

    #[test]
    fn thirty_seconds_of_life_reset_the_count() {
        for (before, lifetime, after) in
            [(0, ms(0), 1), (7, ms(29_999), 8), (7, ms(30_000), 0), (u32::MAX, ms(1), u32::MAX)]
        {
            assert_eq!(early_deaths_after(before, lifetime), after);
        }
    }
}
