//! Percentiles of a histogram with known buckets only: estimates with the bounds of their bucket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Cumulative counts of values up to each bound, as in Prometheus.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PrometheusBuckets {
    /// (Upper bound, count of values up to it), by bound; the last bound is infinite.
    upto: Vec<(f64, f64)>,
}

/// A percentile estimated from buckets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Estimate")]
pub struct BucketEstimate {
    /// The estimate, as if values were evenly distributed within the bucket; the lower bound if the bucket is unbounded.
    pub value: f64,
    /// The true value is above this.
    pub above: f64,
    /// And at most this; `null` if the bucket has no upper bound.
    pub upto: Option<f64>,
}

impl PrometheusBuckets {
    /// Adds values to the bucket that ends at `bound`.
    pub fn add(&mut self, bound: f64, upto: f64) {
        match self.upto.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
            Ok(at) => self.upto[at].1 += upto,
            Err(at) => self.upto.insert(at, (bound, upto)),
        }
    }

    /// The number of all values; 0 without a last bucket.
    #[must_use]
    pub fn total_count(&self) -> f64 {
        self.upto.last().filter(|(bound, _)| *bound == f64::INFINITY).map_or(0.0, |(_, total)| *total)
    }

    /// The percentile (0 to 100) as Prometheus' `histogram_quantile` estimates it: linearly within its bucket, where the first
    /// bucket starts at 0. `None` without values.
    #[must_use]
    pub fn estimate_percentile(&self, percentile: f64) -> Option<BucketEstimate> {
        let total = self.total_count();
        if total <= 0.0 {
            return None;
        }
        let rank = percentile / 100.0 * total;
        // For rank 0, the first bucket with values may not be the first one that reaches the rank.
        let at = self.upto.iter().position(|(_, upto)| *upto >= rank && *upto > 0.0)?;
        let (above, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| self.upto[before]);
        let (bound, upto) = self.upto[at];
        if bound == f64::INFINITY {
            return Some(BucketEstimate { value: above, above, upto: None });
        }
        let value = above + (bound - above) * (rank - below) / (upto - below);
        Some(BucketEstimate { value, above, upto: Some(bound) })
    }
}

impl BucketEstimate {
    /// Converts to another unit.
    #[must_use]
    pub fn scale_by(self, by: f64) -> Self {
        BucketEstimate { value: self.value * by, above: self.above * by, upto: self.upto.map(|upto| upto * by) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counts values by these bounds and infinity.
    fn buckets_of_values(values: &[f64], bounds: &[f64]) -> PrometheusBuckets {
        let mut buckets = PrometheusBuckets::default();
        for bound in bounds.iter().copied().chain([f64::INFINITY]) {
            buckets.add(bound, values.iter().filter(|v| **v <= bound).count() as f64);
        }
        buckets
    }

    #[test]
    fn a_percentile_lies_evenly_within_its_bucket() {
        let buckets = buckets_of_values(&[0.5, 1.5, 1.5, 3.0], &[1.0, 2.0, 4.0]);
        for (p, value, above, upto) in [
            (0.0, 0.0, 0.0, 1.0),
            (25.0, 1.0, 0.0, 1.0),
            (50.0, 1.5, 1.0, 2.0),
            (75.0, 2.0, 1.0, 2.0),
            (90.0, 3.2, 2.0, 4.0),
        ] {
            let got = buckets.estimate_percentile(p).unwrap();
            assert!((got.value - value).abs() < 1e-12, "p{p}: {got:?}");
            assert_eq!((got.above, got.upto), (above, Some(upto)), "p{p}");
        }
    }

    #[test]
    fn beyond_the_last_bound_only_the_bound_is_known() {
        let far = buckets_of_values(&[9.0, 9.0], &[1.0, 4.0]);
        assert_eq!(far.estimate_percentile(50.0), Some(BucketEstimate { value: 4.0, above: 4.0, upto: None }));
        assert_eq!(buckets_of_values(&[], &[1.0]).estimate_percentile(50.0), None);
        assert_eq!(PrometheusBuckets::default().estimate_percentile(50.0), None);
    }

    proptest! {
        /// The exact value of that rank is within the reported bounds.
        #[test]
        fn the_true_value_is_within_the_bounds(
            mut values in prop::collection::vec(0.001..20.0_f64, 1..200),
            p in 0.0..100.0_f64,
        ) {
            let got = buckets_of_values(&values, &[0.5, 1.0, 2.0, 5.0, 10.0]).estimate_percentile(p).unwrap();
            values.sort_by(f64::total_cmp);
            let rank = (p / 100.0 * values.len() as f64).ceil().max(1.0);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let value = values[rank as usize - 1];
            prop_assert!(value > got.above && got.upto.is_none_or(|upto| value <= upto), "{value} {got:?}");
            prop_assert!(got.value >= got.above && got.upto.is_none_or(|upto| got.value <= upto + 1e-9));
        }
    }
}
