//! Everything random in a schedule, from its seed.
//!
//! Each thing that can happen draws from a generator of its own, derived from the seed and the thing's name (worker 7,
//! generation 2). So taking one thing out of a schedule leaves all others as they were, which is what makes shrinking
//! possible.

use std::time::Duration;

/// A deterministic generator (`SplitMix64`, Steele et al., OOPSLA 2014).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The generator of one thing in the schedule of `seed`.
    pub(crate) fn of(seed: u64, kind: u64, index: u64) -> Self {
        let mut rng = Self(seed ^ kind.wrapping_mul(0xA076_1D64_78BD_642F));
        rng.0 = rng.next() ^ index.wrapping_mul(0xE703_7ED1_A0B4_28DB);
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        let count = u64::try_from(choices.len()).unwrap_or(1);
        choices[usize::try_from(self.below(count)).unwrap_or(0)].clone()
    }

    /// Whole milliseconds from `first` to `last`, both included: stories are easier to read with round numbers.
    pub(crate) fn ms(&mut self, first: u64, last: u64) -> Duration {
        Duration::from_millis(first + self.below(last - first + 1))
    }
}
