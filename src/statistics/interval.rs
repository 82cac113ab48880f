//! Uncertainty: intervals for percentiles, means and shares of values that may depend on each other.
//!
//! [`Dependence`](super::Dependence) says how many independent values a sample is worth; the intervals fit a sample of that size.
//! `docs/METRICS.md` has the formulas and their sources.

use statrs::{
    distribution::{ContinuousCDF, Normal, StudentsT},
    function::beta::beta_reg,
};

use super::numpy;

/// The share of intervals above the true value, and the share below it: 95 % contain it.
pub const TAIL: f64 = 0.025;

/// One-sided: the true value is above the upper bounds of a percentile with these probabilities.
pub const BOUND_TAILS: [f64; 2] = [0.05, 0.01];

/// An interval; an end is `None` if the sample is too small for it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
}

/// The fewest samples for which a percentile (0 to 100) is reported: MLPerf's early stopping with 99 % confidence, where the
/// estimate is the second largest value. `None` for 0 and 100, which no sample can estimate.
///
/// The smallest n with `P(Binomial(n, p) ≥ n − 1) ≤ 1 %`.
#[must_use]
pub fn samples_needed(percentile: f64) -> Option<u64> {
    let p = percentile / 100.0;
    // A low percentile is a high one of the negated values.
    let p = p.max(1.0 - p);
    if p >= 1.0 {
        return None;
    }
    let enough = |n: u64| {
        let n = n as f64;
        n * (1.0 - p) * p.powf(n - 1.0) + p.powf(n) <= 0.01
    };
    let mut high = 2;
    while !enough(high) {
        high *= 2;
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low.midpoint(high);
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// Student's t interval of the mean of independent values, which is beyond each end with the probability `tail`; without ends if there
/// is one value. `std` is the population's.
#[must_use]
pub fn student_interval(mean: f64, std: f64, n: f64, tail: f64) -> Interval {
    let Some(t) = student_quantile(n - 1.0, tail) else { return Interval::default() };
    let half = t * std / (n - 1.0).sqrt();
    Interval { low: Some(mean - half), high: Some(mean + half) }
}

/// The interval of the mean of dependent and skewed values, such as times: both Student's t interval with the effective sample size,
/// on the log scale, and Hall's interval of the means of batches in time order. Never below 0 for values that are not. The mean is beyond
/// each end with the probability `tail`.
#[must_use]
pub fn mean_interval(mean: f64, std: f64, least: f64, effective: f64, batches: &[f64], tail: f64) -> Interval {
    if least < 0.0 || mean <= 0.0 {
        return student_interval(mean, std, effective, tail);
    }
    let Some(t) = student_quantile(effective - 1.0, tail) else { return Interval::default() };
    let half = t * std / (effective - 1.0).sqrt() / mean;
    let (low, high) = (mean * (-half).exp(), mean * half.exp());
    let skewed = hall_interval(mean, batches, tail).unwrap_or((low, high));
    let ends = (low.min(skewed.0).max(0.0), high.max(skewed.1));
    // The end of a sample that is far too small.
    Interval { low: Some(ends.0), high: Some(ends.1).filter(|high| high.is_finite()) }
}

/// Hall's interval for the mean of a skewed distribution: Student's t after a cubic transformation that removes the skewness of
/// these batches. `None` if they do not vary.
fn hall_interval(mean: f64, batches: &[f64], tail: f64) -> Option<(f64, f64)> {
    let k = batches.len() as f64;
    let centre = numpy::mean(batches);
    let moment = |power: i32| batches.iter().map(|batch| (batch - centre).powi(power)).sum::<f64>() / k;
    let std = moment(2).sqrt();
    let skewness = moment(3) / std.powi(3);
    let t = student_quantile(k - 1.0, tail).filter(|_| skewness.is_finite())?;
    let third = skewness / 3.0;
    let without_skewness = |t: f64| {
        let linear = t / k.sqrt() - skewness / (6.0 * k);
        if third.abs() < 1e-9 { linear } else { ((1.0 + 3.0 * third * linear).cbrt() - 1.0) / third }
    };
    let error = std * (k / (k - 1.0)).sqrt();
    Some((mean - error * without_skewness(t), mean - error * without_skewness(-t)))
}

/// Wilson's interval for a share, from as many independent outcomes; the truth is beyond each end with the probability `tail`.
#[must_use]
pub fn wilson_interval(share: f64, effective: f64, tail: f64) -> (f64, f64) {
    let (n, p) = (effective, share);
    let z = normal_tail(tail);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

/// The value that a standard normal variable exceeds with the probability `tail`.
#[must_use]
pub fn normal_tail(tail: f64) -> f64 {
    -Normal::standard().inverse_cdf(tail)
}

/// The value that Student's t with `freedom` degrees of freedom exceeds with probability `tail`; `None` for 0 degrees.
#[must_use]
pub fn student_quantile(freedom: f64, tail: f64) -> Option<f64> {
    // Here the normal distribution agrees to four digits, and the exact quantile would take minutes.
    if freedom > 1e5 {
        return Some(-Normal::standard().inverse_cdf(tail));
    }
    Some(StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(1.0 - tail))
}

/// The places of the ends of a percentile's interval in the sorted sample, counted from 0; a fraction lies between two values.
///
/// The binomial distribution gives the probability that the k-th smallest of n values is above the percentile. Between two
/// values, Nyblom's interpolation keeps the probability.
#[must_use]
pub fn percentile_places(percentile: f64, n: usize, effective: f64) -> Interval {
    Interval { low: low_place(percentile, n, effective, TAIL), high: high_place(percentile, n, effective, TAIL) }
}

/// The lower end of [`percentile_places`]: the percentile is below it with probability `tail`.
#[must_use]
pub fn low_place(percentile: f64, n: usize, effective: f64, tail: f64) -> Option<f64> {
    place_at_probability(percentile, n, effective, tail)
}

/// The upper end of [`percentile_places`]: the percentile is above it with probability `tail`.
#[must_use]
pub fn high_place(percentile: f64, n: usize, effective: f64, tail: f64) -> Option<f64> {
    place_at_probability(percentile, n, effective, 1.0 - tail)
}

fn place_at_probability(percentile: f64, n: usize, effective: f64, probability: f64) -> Option<f64> {
    let whole = effective.floor();
    let rank = rank_at_probability(percentile / 100.0, whole, probability)?;
    let last = n.checked_sub(1)? as f64;
    // Scale the smaller sample's rank to this one.
    Some(((rank - 0.5) / whole * n as f64 - 0.5).clamp(0.0, last))
}

/// The rank, counted from 1 and interpolated, whose value is above the `p`-quantile with this probability in samples of `n`;
/// `None` if no value is.
fn rank_at_probability(p: f64, n: f64, probability: f64) -> Option<f64> {
    if !(0.0 < p && p < 1.0) || n < 2.0 {
        return None;
    }
    // P(the r-th smallest is above the quantile) = P(fewer than r are below it).
    let above = |r: f64| if r < 1.0 { 0.0 } else { beta_reg(n - r + 1.0, r, 1.0 - p) };
    let (mut low, mut high) = (0.0, n + 1.0);
    while high - low > 1.0 {
        let middle = f64::midpoint(low, high).floor();
        if above(middle) <= probability { low = middle } else { high = middle }
    }
    if low < 1.0 || high > n {
        return None;
    }
    let (a, b) = (above(low), above(high));
    let odds = low * (1.0 - p) * (b - probability) / ((n - low) * p * (probability - a));
    Some(low + 1.0 / (1.0 + odds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_needed_match_mlperf() {
        for (p, n) in [(50.0, 11), (90.0, 64), (95.0, 130), (97.0, 219), (99.0, 662), (99.9, 6636), (99.99, 66381)] {
            assert_eq!(samples_needed(p), Some(n), "p{p}");
        }
        assert_eq!(
            (samples_needed(1.0), samples_needed(0.0), samples_needed(100.0)),
            (samples_needed(99.0), None, None)
        );
    }

    /// Ranks from a table of order-statistic intervals: for 100 values, the 40th and the 61st contain the median with 96.5 %,
    /// the 41st and the 60th with 94.3 %.
    #[test]
    fn interval_ends_are_between_the_right_ranks() {
        let places = percentile_places(50.0, 100, 100.0);
        assert!(
            (39.0..40.0).contains(&places.low.unwrap()) && (59.0..60.0).contains(&places.high.unwrap()),
            "{places:?}"
        );
        // 0.99^100 > 2.5 %: all values may well be below the percentile.
        assert_eq!(super::percentile_places(99.0, 100, 100.0).high, None);
        assert_eq!(super::percentile_places(50.0, 1, 1.0), Interval::default());
        // The evidence may be from elsewhere.
        assert_eq!(super::percentile_places(50.0, 0, 100.0), Interval::default());
    }

    #[test]
    fn students_t_is_quick_for_any_freedom() {
        for (freedom, t) in [(1.0, 12.7062), (10.0, 2.2281), (1e5, 1.96), (1e9, 1.96), (1e15, 1.96)] {
            assert!((student_quantile(freedom, TAIL).unwrap() - t).abs() < 1e-4, "{freedom}");
        }
        assert_eq!(student_quantile(0.0, TAIL), None);
    }

    /// Batches of an exponential distribution: Hall's interval reaches further up than down, and further up than Student's.
    #[test]
    fn an_interval_of_a_skewed_mean_reaches_up() {
        let batches = [0.8, 0.9, 0.7, 1.1, 0.6, 2.4, 0.9, 0.8, 1.0, 0.7, 1.2, 0.9];
        let Interval { low: Some(low), high: Some(high) } = mean_interval(1.0, 0.1, 0.0, 1000.0, &batches, TAIL) else {
            panic!("no interval")
        };
        let student = student_interval(1.0, numpy::std(&batches), 12.0, TAIL);
        assert!(high - 1.0 > 2.0 * (1.0 - low) && high > student.high.unwrap(), "{low} {high} {student:?}");
    }

    #[test]
    fn a_time_is_never_below_zero() {
        let wild = [0.0, 0.0, 0.0, 0.0, 0.0, 60.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        for effective in [2.5, 5.0, 30.0] {
            let times = mean_interval(5.0, 20.0, 0.0, effective, &wild, TAIL);
            assert!(times.low.unwrap() >= 0.0, "{times:?}");
            assert!(mean_interval(5.0, 20.0, -1.0, effective, &wild, TAIL).low.unwrap() < 0.0, "of values that may be");
        }
        assert_eq!(mean_interval(5.0, 20.0, 0.0, 1.0, &wild, TAIL), Interval::default());
    }

    /// Wilson's own example has the form of 10 of 10: the lower end is n / (n + z²).
    #[test]
    fn a_share_has_an_interval_next_to_1() {
        let (low, high) = wilson_interval(1.0, 10.0, TAIL);
        assert!((low - 10.0 / (10.0 + 1.96 * 1.96)).abs() < 1e-4 && (high - 1.0).abs() < 1e-12, "{low} {high}");
    }
}
