//! What a load has seen.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Why a request was not answered well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// No connection: refused, unreachable, no port left.
    Connect,
    /// The connection was reset, or could not be written to.
    Reset,
    /// The connection was closed before the whole answer was there.
    ShortRead,
    /// An answer other than 2xx.
    BadStatus,
    /// Something that is not an HTTP answer.
    Malformed,
    /// Nothing came for as long as the client waits.
    Timeout,
}

impl Failure {
    const ALL: [Self; 6] =
        [Self::Connect, Self::Reset, Self::ShortRead, Self::BadStatus, Self::Malformed, Self::Timeout];

    fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect errors",
            Self::Reset => "resets",
            Self::ShortRead => "short reads",
            Self::BadStatus => "bad statuses",
            Self::Malformed => "malformed",
            Self::Timeout => "timeouts",
        }
    }
}

/// One failure, told in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When, from the start of the load.
    pub at: Duration,
    /// What kind.
    pub failure: Failure,
    /// What exactly was seen.
    pub detail: String,
}

/// Failures told in full by each client; the rest are only counted.
const SAMPLES: usize = 5;

/// What a load has seen.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Requests answered well.
    pub ok: u64,
    /// Re-used connections that were closed before the first byte of a reply, after which the request was sent again
    /// on a new one. No failures (RFC 9112 §9.3.1); what became of the second attempt is counted like any request.
    pub retried: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// The first failures of each client.
    pub samples: Vec<Sample>,
    /// How long the load ran.
    pub elapsed: Duration,
    failed: BTreeMap<Failure, u64>,
    latency: Histogram,
}

impl Report {
    /// How often requests failed in this way.
    pub fn count(&self, failure: Failure) -> u64 {
        self.failed.get(&failure).copied().unwrap_or(0)
    }

    /// Requests that were not answered well.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// The time within which this share (0 to 1) of the good answers came, about 3 % exact; 1 gives the longest one.
    pub fn latency(&self, share: f64) -> Duration {
        self.latency.quantile(share)
    }

    pub(crate) fn succeeded(&mut self, took: Duration) {
        self.ok += 1;
        self.latency.record(took);
    }

    pub(crate) fn failed(&mut self, sample: Sample) {
        *self.failed.entry(sample.failure).or_default() += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(sample);
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.ok += other.ok;
        self.retried += other.retried;
        self.connections += other.connections;
        self.samples.extend(other.samples);
        self.samples.sort_by_key(|sample| sample.at);
        for (failure, count) in other.failed {
            *self.failed.entry(failure).or_default() += count;
        }
        self.latency.merge(&other.latency);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = if seconds > 0.0 { self.ok as f64 / seconds } else { 0.0 };
        writeln!(f, "{:<16}{:>10}   in {seconds:.1} s, {rate:.0}/s", "ok", self.ok)?;
        for failure in Failure::ALL {
            writeln!(f, "{:<16}{:>10}", failure.label(), self.count(failure))?;
        }
        writeln!(f, "{:<16}{:>10}   of re-used connections; no failures", "retried", self.retried)?;
        writeln!(f, "{:<16}{:>10}", "connections", self.connections)?;
        for (label, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            writeln!(f, "{label:<16}{:>10.2} ms", self.latency(share).as_secs_f64() * 1000.0)?;
        }
        for sample in self.samples.iter().take(2 * SAMPLES) {
            writeln!(f, "  at {:.3} s: {}: {}", sample.at.as_secs_f64(), sample.failure.label(), sample.detail)?;
        }
        Ok(())
    }
}

/// Sub-buckets of each power of two: the relative width of a bucket is one over this.
const STEPS: u64 = 32;

/// Durations in microseconds, counted in buckets that grow with them: small, mergeable, and about 3 % exact.
#[derive(Debug, Clone, Default)]
struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: Duration,
}

impl Histogram {
    fn record(&mut self, took: Duration) {
        let bucket = bucket(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.longest = self.longest.max(took);
    }

    fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 requests")]
    fn quantile(&self, share: f64) -> Duration {
        let wanted = self.total as f64 * share;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen as f64 >= wanted {
                return Duration::from_micros(ceiling(bucket)).min(self.longest);
            }
        }
        self.longest
    }
}

/// The first `STEPS` values have a bucket each; after that every power of two has `STEPS` of them.
fn bucket(micros: u64) -> usize {
    let shift = (micros / STEPS).checked_ilog2().map_or(0, |log| log + 1).saturating_sub(1);
    usize::try_from(u64::from(shift) * STEPS + (micros >> shift)).unwrap_or(usize::MAX)
}

/// The largest value of a bucket.
fn ceiling(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_not_much_wider_than_itself() {
        for micros in (0..200).chain((0..40).map(|power| 1 << power)).chain([999, 12_345, 1_000_003]) {
            let top = ceiling(bucket(micros));
            assert!(top >= micros && top - micros <= micros / STEPS, "{micros} is counted as {top}");
        }
    }

    #[test]
    fn buckets_grow_with_the_value() {
        let buckets: Vec<usize> = (0..100_000).map(bucket).collect();
        assert!(buckets.is_sorted());
        assert!(buckets.windows(2).all(|pair| pair[1] - pair[0] <= 1), "no bucket is left out");
    }

    #[test]
    fn quantiles_come_from_all_clients() {
        let mut first = Report::default();
        let mut second = Report::default();
        (1..=98).for_each(|_| first.succeeded(Duration::from_micros(10)));
        second.succeeded(Duration::from_micros(50));
        second.succeeded(Duration::from_millis(7));
        second.failed(Sample { at: Duration::ZERO, failure: Failure::Reset, detail: String::new() });
        first.merge(second);
        assert_eq!(first.latency(0.5), Duration::from_micros(10));
        assert_eq!(first.latency(0.99), Duration::from_micros(50));
        assert_eq!(first.latency(1.0), Duration::from_millis(7));
        assert_eq!((first.ok, first.failures(), first.count(Failure::Reset)), (100, 1, 1));
    }
}
