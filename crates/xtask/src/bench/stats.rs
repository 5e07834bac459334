//! What is said of many runs.

/// Some figures in five numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) count: usize,
    pub(super) min: f64,
    pub(super) lower_quartile: f64,
    pub(super) median: f64,
    pub(super) upper_quartile: f64,
    pub(super) max: f64,
}

impl Summary {
    /// None of nothing.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut values = values.to_vec();
        values.sort_unstable_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let quantile = |share| quantile(&values, share);
        Some(Self {
            count: values.len(),
            min,
            lower_quartile: quantile(0.25),
            median: quantile(0.5),
            upper_quartile: quantile(0.75),
            max,
        })
    }

    /// Whether the two cannot be told apart: their medians are close, or the middle halves of their runs overlap.
    pub(super) fn ties_with(&self, other: &Self) -> bool {
        let apart = (self.median - other.median).abs();
        apart <= TIE * self.median.abs().max(other.median.abs())
            || (self.lower_quartile <= other.upper_quartile && other.lower_quartile <= self.upper_quartile)
    }
}

/// Medians that differ by less than this share are the same on a machine that does other things too.
const TIE: f64 = 0.05;

/// Of sorted values, between the two nearest ones.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "thousands of runs at the most")]
    let place = share * (sorted.len() - 1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length")]
    let below = place as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_numbers_stand_for_all() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0, 10.0]).unwrap();
        let numbers = (summary.min, summary.lower_quartile, summary.median, summary.upper_quartile, summary.max);
        assert_eq!((numbers, summary.count), ((1.0, 2.0, 3.0, 4.0, 10.0), 5));
        assert_eq!(Summary::of(&[1.0, 2.0]).map(|summary| (summary.median, summary.count)), Some((1.5, 2)));
        assert_eq!(Summary::of(&[7.0]).map(|summary| (summary.upper_quartile, summary.count)), Some((7.0, 1)));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn what_overlaps_is_a_tie() {
        let of = |values: &[f64]| Summary::of(values).unwrap();
        let rows = [
            (of(&[1.0, 1.0, 1.0]), of(&[1.04, 1.04, 1.04]), true),
            (of(&[1.0, 1.0, 1.0]), of(&[1.5, 1.5, 1.5]), false),
            (of(&[1.0, 2.0, 3.0]), of(&[2.0, 2.8, 4.0]), true),
            (of(&[0.0]), of(&[0.0]), true),
        ];
        for (one, other, ties) in rows {
            assert_eq!((one.ties_with(&other), other.ties_with(&one)), (ties, ties), "{one:?} {other:?}");
        }
    }
}
