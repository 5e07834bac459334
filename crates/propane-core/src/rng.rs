//! A small deterministic generator for jitter, seeded by the driver (`SplitMix64`, Steele et al., OOPSLA 2014).

/// A source of jitter that a seed determines wholly.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The generator for `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `-percent` to `+percent`.
    pub(crate) fn percent(&mut self, percent: u32) -> i32 {
        let span = u64::from(percent) * 2 + 1;
        i32::try_from(self.next() % span).unwrap_or(0) - i32::try_from(percent).unwrap_or(0)
    }
}
