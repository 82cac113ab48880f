//! Whether a series drifts: tests that ask nothing of its distribution.
//!
//! `docs/METRICS.md` has the formulas and their sources.

use statrs::distribution::{ContinuousCDF, Normal};

use super::numpy;

/// A trend of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// How probable a trend as strong is by chance, of either direction.
    pub p: f64,
    /// What changes from the first to the last, along the line of Theil and Sen.
    pub change: f64,
}

/// Mann-Kendall's test, its variance corrected for autocorrelation: as Hamed and Rao have it, or as of a series of which each
/// value resembles the one before it, whichever is more. (The first alone finds a trend ten times too often in short series of
/// that kind.) `None` for fewer than four values.
#[must_use]
pub fn mann_kendall(series: &[f64]) -> Option<Trend> {
    corrected_test(series, |ranks| hamed_rao(ranks).max(first_order(ranks)))
}

/// The test, with a correction of the variance by the ranks of what is left without the trend, as deviations from their mean.
fn corrected_test(series: &[f64], correction: impl Fn(&[f64]) -> f64) -> Option<Trend> {
    let n = series.len();
    if n < 4 {
        return None;
    }
    let mut slopes = Vec::with_capacity(n * (n - 1) / 2);
    let mut balance = 0.0;
    for (i, earlier) in series.iter().enumerate() {
        for (j, later) in series.iter().enumerate().skip(i + 1) {
            balance += sign_or_zero(later - earlier);
            slopes.push((later - earlier) / (j - i) as f64);
        }
    }
    let slope = unsorted_median(&mut slopes);
    let count = n as f64;
    let ties: f64 = tie_sizes(series).map(|t| t * (t - 1.0) * (2.0 * t + 5.0)).sum();
    let variance =
        (count * (count - 1.0) * (2.0 * count + 5.0) - ties) / 18.0 * correction(&rank_deviations(series, slope));
    // One step towards zero: the balance is a whole number, and the normal distribution is not.
    let z = if variance > 0.0 { (balance - sign_or_zero(balance)) / variance.sqrt() } else { 0.0 };
    Some(Trend { p: two_sided(z), change: slope * (count - 1.0) })
}

/// The ranks of a series without its trend, less their mean.
fn rank_deviations(series: &[f64], slope: f64) -> Vec<f64> {
    let rest: Vec<f64> = series.iter().enumerate().map(|(i, value)| value - slope * i as f64).collect();
    let mean = f64::midpoint(series.len() as f64, 1.0);
    average_ranks(&rest).iter().map(|rank| rank - mean).collect()
}

fn autocorrelation_at(off: &[f64], lag: usize) -> f64 {
    let own: f64 = off.iter().map(|v| v * v).sum();
    let shared: f64 = off.iter().zip(&off[lag..]).map(|(a, b)| a * b).sum();
    if own > 0.0 { shared / own } else { 0.0 }
}

/// By what autocorrelation enlarges the variance: of those lags only that are beyond chance. Never below 1: a series that swings
/// is no better known for it.
fn hamed_rao(off: &[f64]) -> f64 {
    let n = off.len() as f64;
    let chance = 1.96 / n.sqrt();
    let mut sum = 0.0;
    for lag in 1..off.len() - 2 {
        let correlation = autocorrelation_at(off, lag);
        if correlation.abs() > chance {
            let left = n - lag as f64;
            sum += left * (left - 1.0) * (left - 2.0) * correlation;
        }
    }
    (1.0 + 2.0 / (n * (n - 1.0) * (n - 2.0)) * sum).max(1.0)
}

/// The same of an autoregressive series of the first order, (1 + ρ) / (1 − ρ), with ρ set right for what a short series without
/// its trend shows of it, (2 + 4ρ) / n less.
fn first_order(off: &[f64]) -> f64 {
    let seen = autocorrelation_at(off, 1);
    let true_one = (seen + (2.0 + 4.0 * seen) / off.len() as f64).clamp(0.0, 0.95);
    (1.0 + true_one) / (1.0 - true_one)
}

/// Pettitt's test: the place behind which the level is most likely another one, and how probable such a shift is by chance.
#[must_use]
pub fn pettitt_test(series: &[f64]) -> Option<(usize, f64)> {
    let n = series.len();
    let between = |place: usize| -> f64 {
        let (before, behind) = series.split_at(place);
        before.iter().flat_map(|a| behind.iter().map(move |b| sign_or_zero(b - a))).sum()
    };
    let strongest = (1..n).map(|place| (place, between(place).abs()));
    let (place, most) = strongest.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let n = n as f64;
    Some((place, (2.0 * (-6.0 * most * most / (n * n * n + n * n)).exp()).min(1.0)))
}

/// How many values at the front are better left out, because those behind then tell their mean more precisely: White's
/// MSER. At most half of them, and of places that are about as good (within a tenth) the first.
#[must_use]
pub fn warm_up(series: &[f64]) -> usize {
    let error = |from: usize| {
        let rest = &series[from..];
        (numpy::std(rest) / (rest.len() as f64).sqrt()).powi(2)
    };
    let errors: Vec<f64> = (0..=series.len() / 2).filter(|from| *from < series.len()).map(error).collect();
    let least = errors.iter().copied().fold(f64::INFINITY, f64::min);
    errors.iter().position(|error| *error <= least * 1.1).unwrap_or_default()
}

fn sign_or_zero(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        0.0
    }
}

fn two_sided(z: f64) -> f64 {
    2.0 * Normal::standard().cdf(-z.abs())
}

fn unsorted_median(values: &mut [f64]) -> f64 {
    numpy::partially_sort(values, &[], &[]);
    numpy::median(values)
}

/// Ranks from 1; equal values share the mean of theirs.
fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut from = 0;
    while from < order.len() {
        let equal = order[from..].iter().take_while(|i| values[**i].total_cmp(&values[order[from]]).is_eq()).count();
        let shared = from as f64 + f64::midpoint(1.0, equal as f64);
        order[from..from + equal].iter().for_each(|i| ranks[*i] = shared);
        from += equal;
    }
    ranks
}

/// How often each value that occurs more than once does.
fn tie_sizes(values: &[f64]) -> impl Iterator<Item = f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let runs: Vec<f64> = sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()).map(|run| run.len() as f64).collect();
    runs.into_iter().filter(|run| *run > 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// The values of Python's `pymannkendall` 1.4.3 (`hamed_rao_modification_test`) for the same series.
    #[test]
    fn the_test_is_that_of_mann_kendall_hamed_and_rao() {
        let series = |n: u32, like: f64, slope: f64| -> Vec<f64> {
            let (mut state, mut last) = (12345_u64, 0.0);
            let value = |i| {
                state = (state * 1_103_515_245 + 12345) % 2_147_483_648;
                last = like * last + state as f64 / 2_147_483_648.0 - 0.5;
                last + slope * f64::from(i)
            };
            (0..n).map(value).collect()
        };
        for (n, like, slope, p, per_step) in [
            (40, 0.7, 0.0, 0.679_717_496_015_511, -0.003_674_808_840_074_463),
            (40, 0.7, 0.02, 0.081_445_242_592_486_76, 0.016_325_191_159_925_54),
            (30, 0.0, 0.01, 0.038_493_604_971_814_65, 0.012_600_820_269_435_644),
            (60, 0.9, 0.01, 0.020_732_548_883_430_013, 0.013_280_453_000_938_204),
        ] {
            let trend = corrected_test(&series(n, like, slope), hamed_rao).unwrap();
            assert!((trend.p - p).abs() < 1e-9, "{trend:?} for {n} {like} {slope}");
            assert!((trend.change - per_step * f64::from(n - 1)).abs() < 1e-9, "{trend:?}");
        }
        // All equal: no trend, and no variance either.
        assert_eq!(mann_kendall(&[3.0; 8]), Some(Trend { p: 1.0, change: 0.0 }));
        assert_eq!(mann_kendall(&[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn equal_values_share_their_rank() {
        assert_eq!(average_ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(tie_sizes(&[3.0, 1.0, 3.0, 2.0]).collect::<Vec<_>>(), [2.0]);
    }

    /// Values that resemble their neighbours look like a trend; of 1,000 series without any, few may.
    #[test]
    fn autocorrelation_is_no_trend() {
        let mut found = 0;
        for seed in 0..1000 {
            let mut rng = rng::random_stream(seed, "autocorrelated", 0);
            let mut last = 0.0;
            let series: Vec<f64> = (0..60)
                .map(|_| {
                    last = 0.5 * last + rng::sample_unit(&mut rng) - 0.5;
                    last
                })
                .collect();
            found += u32::from(mann_kendall(&series).unwrap().p < 0.005);
        }
        println!("{found} of 1000");
        assert!(found <= 10, "{found} of 1000");
    }

    #[test]
    fn a_shift_is_found_where_it_is() {
        let series: Vec<f64> = (0..40).map(|i| f64::from(i % 3) + if i < 25 { 0.0 } else { 5.0 }).collect();
        let (place, p) = pettitt_test(&series).unwrap();
        assert!(place == 25 && p < 0.001, "{place} {p}");
        assert_eq!(pettitt_test(&[1.0]), None);
    }

    #[test]
    fn the_warm_up_ends_where_the_level_begins() {
        let series: Vec<f64> =
            (0..50).map(|i| if i < 7 { f64::from(20 - i) } else { 1.0 + f64::from(i % 2) }).collect();
        assert_eq!(warm_up(&series), 7);
        assert_eq!(warm_up(&[]), 0);
    }
}
