//! `NumPy`'s mean, standard deviation and percentiles, equal to the last bit.
//!
//! vLLM computes its results with `NumPy`, and floating-point sums depend on the order of additions. To give the same numbers,
//! this module adds in `NumPy`'s order.

/// Longer sums are split in two.
const BLOCK: usize = 128;

/// The sum of `term(from..to)` in the order of `NumPy`'s pairwise summation (`pairwise_sum` in `loops_utils.h`): blocks of 128
/// with eight running sums, split in halves above that.
fn pairwise_sum(from: usize, to: usize, term: &impl Fn(usize) -> f64) -> f64 {
    let n = to - from;
    if n < 8 {
        return (from..to).fold(-0.0, |sum, i| sum + term(i));
    }
    if n <= BLOCK {
        let mut r: [f64; 8] = std::array::from_fn(|j| term(from + j));
        let even = n - n % 8;
        for i in (8..even).step_by(8) {
            for (j, sum) in r.iter_mut().enumerate() {
                *sum += term(from + i + j);
            }
        }
        let sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
        return (from + even..to).fold(sum, |sum, i| sum + term(i));
    }
    let half = n / 2 - n / 2 % 8;
    pairwise_sum(from, from + half, term) + pairwise_sum(from + half, to, term)
}

/// `np.sum`.
#[must_use]
pub fn sum(values: &[f64]) -> f64 {
    0.0 + pairwise_sum(0, values.len(), &|i| values[i])
}

/// `np.mean`; 0 for an empty slice, as in vLLM.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { sum(values) / values.len() as f64 }
}

/// `np.std` of the population (`ddof=0`); 0 for an empty slice.
#[must_use]
pub fn std(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let mean = mean(values);
    let squares = pairwise_sum(0, values.len(), &|i| {
        let off = values[i] - mean;
        off * off
    });
    ((0.0 + squares) / values.len() as f64).sqrt()
}

/// Sorts only as far as needed: the values that `percentiles`, the median, the extremes and `places` refer to end up at their
/// sorted positions. Much cheaper than sorting; the other values stay unordered.
pub fn partially_sort(values: &mut [f64], percentiles: &[f64], places: &[f64]) {
    let n = values.len();
    if n == 0 {
        return;
    }
    let mut ranks = vec![0, (n - 1) / 2, n / 2, n - 1];
    for p in percentiles {
        let (below, above, _) = neighbour_ranks(n, *p);
        ranks.extend([below, above]);
    }
    for place in places {
        let below = truncate_to_usize(*place).min(n - 1);
        ranks.extend([below, (below + 1).min(n - 1)]);
    }
    ranks.sort_unstable();
    ranks.dedup();
    let mut settled = 0;
    for rank in ranks {
        values[settled..].select_nth_unstable_by(rank - settled, f64::total_cmp);
        settled = rank + 1;
        if settled == n {
            break;
        }
    }
}

/// `np.median` of partially sorted values; 0 for an empty slice.
#[must_use]
pub fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    match n {
        0 => 0.0,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// `np.percentile` with its default method, `linear`. `p` is from 0 to 100, and the values are partially sorted for it; 0 for
/// an empty slice.
#[must_use]
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    let (below, above, t) = neighbour_ranks(sorted.len(), p);
    let (a, b) = (sorted[below], sorted[above]);
    // Interpolate from the nearer side, as NumPy does to be exact at both ends.
    if t >= 0.5 { b - (b - a) * (1.0 - t) } else { a + (b - a) * t }
}

/// The integer part; 0 for negative numbers and NaN.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
#[must_use]
pub fn truncate_to_usize(place: f64) -> usize {
    place as usize
}

/// The ranks below and above the percentile in `n` sorted values, and its fraction of the distance between them.
fn neighbour_ranks(n: usize, p: f64) -> (usize, usize, f64) {
    let at = (n - 1) as f64 * (p / 100.0);
    let below = truncate_to_usize(at).min(n - 1);
    (below, (below + 1).min(n - 1), at - below as f64)
}

/// The value at a place of partially sorted values, counted from 0; interpolated between two values.
#[must_use]
pub fn value_at(sorted: &[f64], place: f64) -> f64 {
    let below = truncate_to_usize(place).min(sorted.len() - 1);
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // the test compares bits
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values with a full mantissa, the same as in the Python below.
    fn golden_values(n: u64) -> Vec<f64> {
        (0..n).map(|i| ((i * 2_654_435_761) % 4_294_967_296) as f64 / 1e9 / 7.0).collect()
    }

    /// The golden file was written by:
    ///
    /// ```python
    /// import json, numpy as np
    /// for n in [1, 2, 3, 7, 8, 9, 15, 16, 100, 127, 128, 129, 136, 137, 255, 256, 257, 1000, 1025, 8191, 8193, 20001]:
    ///     a = [((i * 2654435761) % 4294967296) / 1e9 / 7.0 for i in range(n)]
    ///     ps = [0, 0.1, 1, 25, 33.3, 50, 66.7, 75, 90, 95, 99, 99.9, 100]
    ///     print(json.dumps({"n": n, "sum": np.sum(a), "mean": np.mean(a), "std": np.std(a), "median": np.median(a),
    ///                       "percentiles": [[p, np.percentile(a, p)] for p in ps]}))
    /// ```
    #[test]
    fn every_bit_is_numpys() {
        let golden = include_str!("../../tests/data/stats-numpy.ndjson");
        assert!(golden.lines().count() > 20);
        for line in golden.lines() {
            let want: serde_json::Value = serde_json::from_str(line).unwrap();
            let mut values = golden_values(want["n"].as_u64().unwrap());
            let n = values.len();
            assert_eq!(sum(&values), want["sum"], "sum of {n}");
            assert_eq!(mean(&values), want["mean"], "mean of {n}");
            assert_eq!(std(&values), want["std"], "std of {n}");
            let pairs: Vec<(f64, f64)> = serde_json::from_value(want["percentiles"].clone()).unwrap();
            partially_sort(&mut values, &pairs.iter().map(|p| p.0).collect::<Vec<_>>(), &[]);
            assert_eq!(median(&values), want["median"], "median of {n}");
            for (p, value) in pairs {
                assert_eq!(percentile(&values, p).to_bits(), value.to_bits(), "p{p} of {n}");
            }
        }
    }

    proptest! {
        #[test]
        fn partial_sorting_is_as_good_as_sorting(
            mut values in prop::collection::vec(-1e3..1e3, 1..300), p in 0.0..=100.0
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            partially_sort(&mut values, &[p], &[]);
            prop_assert_eq!(percentile(&values, p), percentile(&sorted, p));
            prop_assert_eq!(median(&values), median(&sorted));
            prop_assert_eq!((values[0], values[values.len() - 1]), (sorted[0], sorted[sorted.len() - 1]));
        }

        #[test]
        fn the_percentile_lies_between_its_neighbours(
            mut values in prop::collection::vec(0.0..1e3, 1..50), p in 0.0..=100.0
        ) {
            values.sort_by(f64::total_cmp);
            let got = percentile(&values, p);
            let at = (values.len() - 1) as f64 * p / 100.0;
            let below = values.iter().filter(|v| **v <= got).count() as f64;
            prop_assert!(below >= at.floor() && got >= values[0] && got <= values[values.len() - 1]);
        }

        /// Integers add without rounding, so any order gives the exact sum.
        #[test]
        fn no_value_is_lost_or_added_twice(values in prop::collection::vec(0_u32..1_000_000, 0..3000)) {
            let floats: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
            let exact: u64 = values.iter().map(|v| u64::from(*v)).sum();
            prop_assert_eq!(sum(&floats), exact as f64);
            let n = values.len() as f64;
            let squares: u128 = values.iter().map(|v| u128::from(*v) * u128::from(*v)).sum();
            let variance = (squares as f64 * n - (exact as f64).powi(2)) / (n * n).max(1.0);
            prop_assert!((std(&floats) - variance.max(0.0).sqrt()).abs() <= 1e-3);
        }
    }
}
