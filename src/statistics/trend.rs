//! Distribution-free tests for drift in a series.
//!
//! `docs/METRICS.md` has the formulas and their sources.

use statrs::distribution::{ContinuousCDF, Normal};

use super::numpy;

/// The trend of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// The probability that chance alone gives a trend this strong, in either direction.
    pub p: f64,
    /// The change from the first to the last value, along the Theil-Sen line.
    pub change: f64,
}

/// The Mann-Kendall test with a variance corrected for autocorrelation: the correction of Hamed and Rao, or the one for a
/// first-order autoregressive series, the larger of both. (Hamed and Rao's alone finds a trend ten times too often in short
/// series of that kind.) `None` for fewer than four values.
#[must_use]
pub fn mann_kendall(series: &[f64]) -> Option<Trend> {
    corrected_test(series, |ranks| hamed_rao(ranks).max(first_order(ranks)))
}

/// The test with a correction of the variance, computed from the rank deviations of the detrended series.
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
    let slope = numpy::percentile_of_unsorted(slopes, 50.0);
    let count = n as f64;
    let ties: f64 = tie_sizes(series).map(|t| t * (t - 1.0) * (2.0 * t + 5.0)).sum();
    let variance =
        (count * (count - 1.0) * (2.0 * count + 5.0) - ties) / 18.0 * correction(&rank_deviations(series, slope));
    // Continuity correction: the balance is an integer, and the normal distribution is continuous.
    let z = if variance > 0.0 { (balance - sign_or_zero(balance)) / variance.sqrt() } else { 0.0 };
    Some(Trend { p: two_sided(z), change: slope * (count - 1.0) })
}

/// The ranks of the detrended series, minus their mean.
fn rank_deviations(series: &[f64], slope: f64) -> Vec<f64> {
    let detrended: Vec<f64> = series.iter().enumerate().map(|(i, value)| value - slope * i as f64).collect();
    let mean = f64::midpoint(series.len() as f64, 1.0);
    average_ranks(&detrended).iter().map(|rank| rank - mean).collect()
}

fn autocorrelation_at(off: &[f64], lag: usize) -> f64 {
    let own: f64 = off.iter().map(|v| v * v).sum();
    let shared: f64 = off.iter().zip(&off[lag..]).map(|(a, b)| a * b).sum();
    if own > 0.0 { shared / own } else { 0.0 }
}

/// The factor by which autocorrelation enlarges the variance; only significant lags count. Never below 1: a series that
/// alternates is not known any better.
fn hamed_rao(off: &[f64]) -> f64 {
    let n = off.len() as f64;
    let chance = 1.96 / n.sqrt();
    let mut sum = 0.0;
    for lag in 1..off.len() - 2 {
        let correlation = autocorrelation_at(off, lag);
        if correlation.abs() > chance {
            let pairs = n - lag as f64;
            sum += pairs * (pairs - 1.0) * (pairs - 2.0) * correlation;
        }
    }
    (1.0 + 2.0 / (n * (n - 1.0) * (n - 2.0)) * sum).max(1.0)
}

/// The same factor for a first-order autoregressive series, (1 + ρ) / (1 − ρ). ρ is corrected for its bias in a short detrended
/// series, which is (2 + 4ρ) / n too low.
fn first_order(off: &[f64]) -> f64 {
    let seen = autocorrelation_at(off, 1);
    let unbiased = (seen + (2.0 + 4.0 * seen) / off.len() as f64).clamp(0.0, 0.95);
    (1.0 + unbiased) / (1.0 - unbiased)
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

/// Ranks from 1; equal values share their mean rank.
pub(super) fn average_ranks(values: &[f64]) -> Vec<f64> {
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

/// The number of occurrences of each value that occurs more than once.
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

    /// Expected values: Python's `pymannkendall` 1.4.3 (`hamed_rao_modification_test`) for the same series.
    #[test]
    fn the_test_matches_mann_kendall_hamed_and_rao() {
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
        // All equal: no trend and no variance.
        assert_eq!(mann_kendall(&[3.0; 8]), Some(Trend { p: 1.0, change: 0.0 }));
        assert_eq!(mann_kendall(&[1.0, 2.0, 3.0]), None);
    }

    #[test]
    fn equal_values_share_their_rank() {
        assert_eq!(average_ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(tie_sizes(&[3.0, 1.0, 3.0, 2.0]).collect::<Vec<_>>(), [2.0]);
    }

    /// Values that resemble their neighbours look like a trend; at most 10 of 1,000 series without one may.
    #[test]
    fn autocorrelation_is_not_taken_for_a_trend() {
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
}
