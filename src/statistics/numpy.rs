//! `NumPy`'s mean, standard deviation and percentiles, equal to the last bit.
//!
//! vLLM computes its results with `NumPy`, and floating-point sums depend on the order of additions. To give the same numbers,
//! this module adds in `NumPy`'s order.

/// Longer sums are split in two.
const BLOCK: usize = 128;

/// Values that lie in several slices, taken one block after the other.
struct Blocks<'a> {
    slices: std::slice::Iter<'a, &'a [f64]>,
    current: &'a [f64],
    /// Holds a block of values from more than one slice.
    buffer: [f64; BLOCK],
}

impl<'a> Blocks<'a> {
    fn new(slices: &'a [&'a [f64]]) -> Self {
        Blocks { slices: slices.iter(), current: &[], buffer: [0.0; BLOCK] }
    }

    /// The next `n` values, which must exist.
    fn next_block(&mut self, n: usize) -> &[f64] {
        if let Some((block, rest)) = self.current.split_at_checked(n) {
            self.current = rest;
            return block;
        }
        let mut filled = 0;
        while filled < n {
            if self.current.is_empty() {
                let Some(next) = self.slices.next() else { break };
                self.current = next;
            }
            let (taken, rest) = self.current.split_at(self.current.len().min(n - filled));
            self.buffer[filled..filled + taken.len()].copy_from_slice(taken);
            self.current = rest;
            filled += taken.len();
        }
        &self.buffer[..filled]
    }
}

/// The sum of `term` of the next `n` values in the order of `NumPy`'s pairwise summation (`pairwise_sum` in `loops_utils.h`):
/// blocks of 128 with eight running sums, split in halves above that.
fn pairwise_sum(values: &mut Blocks, n: usize, term: &impl Fn(f64) -> f64) -> f64 {
    if n > BLOCK {
        let half = n / 2 - n / 2 % 8;
        return pairwise_sum(values, half, term) + pairwise_sum(values, n - half, term);
    }
    let block = values.next_block(n);
    let (eights, rest) = block.as_chunks::<8>();
    let [first, eights @ ..] = eights else { return rest.iter().fold(-0.0, |sum, value| sum + term(*value)) };
    let mut r = first.map(term);
    for eight in eights {
        for (sum, value) in r.iter_mut().zip(eight) {
            *sum += term(*value);
        }
    }
    let sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    rest.iter().fold(sum, |sum, value| sum + term(*value))
}

/// `np.sum`.
#[must_use]
pub fn sum(values: &[f64]) -> f64 {
    0.0 + pairwise_sum(&mut Blocks::new(&[values]), values.len(), &|value| value)
}

/// `np.mean`; 0 for an empty slice, as in vLLM.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    mean_and_std_of(&[values], false).0
}

/// `np.std` of the population (`ddof=0`); 0 for an empty slice.
#[must_use]
pub fn std(values: &[f64]) -> f64 {
    mean_and_std(&[values]).1
}

/// `np.mean` and `np.std` of all values of several slices.
#[must_use]
pub fn mean_and_std(slices: &[&[f64]]) -> (f64, f64) {
    mean_and_std_of(slices, true)
}

fn mean_and_std_of(slices: &[&[f64]], with_std: bool) -> (f64, f64) {
    let n: usize = slices.iter().map(|slice| slice.len()).sum();
    if n == 0 {
        return (0.0, 0.0);
    }
    let mean = (0.0 + pairwise_sum(&mut Blocks::new(slices), n, &|value| value)) / n as f64;
    if !with_std {
        return (mean, 0.0);
    }
    let squares = pairwise_sum(&mut Blocks::new(slices), n, &|value| (value - mean) * (value - mean));
    (mean, ((0.0 + squares) / n as f64).sqrt())
}

/// Sorts only as far as needed: the values that `percentiles`, the median, the extremes and `places` refer to end up at their
/// sorted positions. Much cheaper than sorting; the other values stay unordered.
pub fn partially_sort(values: &mut [f64], percentiles: &[f64], places: &[f64]) {
    let ranks = needed_ranks(values.len(), percentiles, places);
    partially_sort_ranks(values, &ranks);
}

/// The ranks among `n` sorted values that `percentiles`, the median, the extremes and `places` refer to, in order.
#[must_use]
pub fn needed_ranks(n: usize, percentiles: &[f64], places: &[f64]) -> Vec<usize> {
    if n == 0 {
        return Vec::new();
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
    ranks
}

/// Moves the values of these ranks, which are in order, to their sorted positions: the middle one first, so that each of the
/// others is searched in one half.
pub fn partially_sort_ranks(values: &mut [f64], ranks: &[usize]) {
    let (before, [rank, after @ ..]) = ranks.split_at(ranks.len() / 2) else { return };
    let (low, _, high) = values.select_nth_unstable_by(*rank, f64::total_cmp);
    partially_sort_ranks(low, before);
    let after: Vec<usize> = after.iter().map(|other| other - rank - 1).collect();
    partially_sort_ranks(high, &after);
}

/// `np.median` of partially sorted values; 0 for an empty slice.
#[must_use]
pub fn median(sorted: &[f64]) -> f64 {
    median_by_rank(sorted.len(), |rank| sorted[rank])
}

/// The same for `n` values, where `at` gives the value of a needed rank.
#[must_use]
pub fn median_by_rank(n: usize, at: impl Fn(usize) -> f64) -> f64 {
    match n {
        0 => 0.0,
        _ if n % 2 == 1 => at(n / 2),
        _ => f64::midpoint(at(n / 2 - 1), at(n / 2)),
    }
}

/// `np.percentile` with its default method, `linear`. `p` is from 0 to 100, and the values are partially sorted for it; 0 for
/// an empty slice.
#[must_use]
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    percentile_by_rank(sorted.len(), p, |rank| sorted[rank])
}

/// The same for `n` values, where `at` gives the value of a needed rank.
#[must_use]
pub fn percentile_by_rank(n: usize, p: f64, at: impl Fn(usize) -> f64) -> f64 {
    if n == 0 {
        return 0.0;
    }
    let (below, above, part) = neighbour_ranks(n, p);
    let (low, high) = (at(below), at(above));
    // Interpolate from the nearer side, as NumPy does to be exact at both ends.
    if part >= 0.5 { high - (high - low) * (1.0 - part) } else { low + (high - low) * part }
}

/// [`percentile`] of values in any order.
#[must_use]
pub fn percentile_of_unsorted(mut values: Vec<f64>, p: f64) -> f64 {
    partially_sort(&mut values, &[p], &[]);
    percentile(&values, p)
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
    value_at_by_rank(sorted.len(), place, |rank| sorted[rank])
}

/// The same for `n` values, at least one, where `at` gives the value of a needed rank.
#[must_use]
pub fn value_at_by_rank(n: usize, place: f64, at: impl Fn(usize) -> f64) -> f64 {
    let below = truncate_to_usize(place).min(n - 1);
    let above = (below + 1).min(n - 1);
    at(below) + (at(above) - at(below)) * (place - below as f64)
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
