//! Uncertainty: 95 % intervals for percentiles and means of values that may depend on each other.
//!
//! Requests that run at the same time share the server's state, so a thousand of them carry less information than a thousand
//! independent ones. How much less is estimated from the values in time order ([`Dependence`]); the intervals fit a
//! correspondingly smaller sample. `docs/METRICS.md` has the formulas and their sources.

use statrs::{
    distribution::{ContinuousCDF, Normal, StudentsT},
    function::beta::beta_reg,
};

use super::{bins::visit_bins, numpy};

/// The share of intervals above the true value, and the share below it: 95 % contain it.
pub const TAIL: f64 = 0.025;

/// The most blocks per series: enough to see dependence over many lags, few enough to be quick.
const MAX_BLOCKS: usize = 512;

/// From this many blocks on, a variance smaller than for independent values is believed.
const LONG_SERIES_BLOCKS: usize = 100;

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

/// How much the values of a series depend on their neighbours: the variance of their sum, compared with independent values.
///
/// The series is cut into blocks in time order. The variance of its sum is the variance of the blocks' deviations plus their
/// autocovariances, summed over pairs of lags while the pairs are positive (Geyer's initial positive sequence).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dependence {
    /// Variance of the mean, divided by the variance for as many independent values.
    design_effect: f64,
}

impl Dependence {
    /// Measures values in time order.
    #[must_use]
    pub fn measure(values: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let n = values.len();
        let mean = values.clone().sum::<f64>() / n as f64;
        let variance = values.clone().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        let size = n.div_ceil(MAX_BLOCKS).max(1);
        let mut blocks = vec![0.0; n.div_ceil(size)];
        for (i, value) in values.enumerate() {
            blocks[i / size] += value - mean;
        }
        Dependence::from_blocks(&blocks, variance * n as f64)
    }

    /// From the deviations of blocks from the expectation for their sizes. `independent` is the variance that their sum would
    /// have for independent values. Blocks may differ in size.
    #[must_use]
    pub fn from_blocks(blocks: &[f64], independent: f64) -> Self {
        let covariance = |lag: usize| -> f64 { blocks.iter().zip(&blocks[lag..]).map(|(a, b)| a * b).sum() };
        let own = covariance(0);
        let noise = own * (2.0 / blocks.len() as f64).sqrt();
        let mut sum = -own;
        let mut smallest = f64::INFINITY;
        for lag in (0..blocks.len().saturating_sub(1)).step_by(2) {
            let pair = covariance(lag) + covariance(lag + 1);
            // Independent blocks reach this by chance. Adding it would widen every interval.
            if pair <= noise {
                break;
            }
            // True covariances fall with the lag; one that rises is noise (the initial monotone sequence).
            smallest = smallest.min(pair);
            sum += 2.0 * smallest;
        }
        let effect = sum / independent;
        // In a short series, values seem to balance each other by chance alone.
        let least = if blocks.len() < LONG_SERIES_BLOCKS { 1.0 } else { 0.5 };
        Dependence { design_effect: if effect.is_finite() { effect.max(least) } else { 1.0 } }
    }

    /// The number of independent values with as much information as `n` of these.
    #[must_use]
    pub fn effective_size(self, n: usize) -> f64 {
        (n as f64 / self.design_effect).max(1.0)
    }
}

/// The dependence of a series for its mean and for each percentile: whether a value is below the percentile is a series too.
#[derive(Debug, Clone, PartialEq)]
pub struct Dependences {
    /// For the mean.
    pub mean: Dependence,
    /// For each percentile.
    pub percentiles: Vec<Dependence>,
}

impl Dependences {
    /// Measures values in time order.
    #[must_use]
    pub fn measure(values: &[f64], percentiles: &[f64]) -> Self {
        let below = |limit: f64| Dependence::measure(values.iter().map(move |v| f64::from(u8::from(*v <= limit))));
        Dependences {
            mean: Dependence::measure(values.iter().copied()),
            percentiles: approximate_percentiles(&[values], percentiles).into_iter().map(below).collect(),
        }
    }

    /// Measures the gaps of many responses. `each` passes the gaps of each response with the times of their ends. Gaps that end
    /// at the same time belong to the same block, even if they are from different responses.
    #[must_use]
    pub fn measure_gaps(
        gaps: &[&[f64]],
        span: (f64, f64),
        percentiles: &[f64],
        each: impl Fn(&mut dyn FnMut(&[f64], &[f64])),
    ) -> Self {
        let len: usize = gaps.iter().map(|gaps| gaps.len()).sum();
        let n = len as f64;
        let limits = approximate_percentiles(gaps, percentiles);
        let blocks = MAX_BLOCKS.min(len.max(1));
        let width = (span.1 - span.0) / blocks as f64;
        // For each block: the number of gaps, their sum, and how many are below each percentile.
        let (mut counts, mut sums) = (vec![0.0; blocks], vec![0.0; blocks]);
        let mut below = vec![vec![0.0; blocks]; limits.len()];
        let mut squares = 0.0;
        let mean = gaps.iter().copied().flatten().sum::<f64>() / n;
        each(&mut |ends, gaps| {
            let block = |end: f64| numpy::truncate_to_usize((end - span.0) / width).min(blocks - 1);
            visit_bins(ends, block, |block, inside| {
                let gaps = &gaps[inside];
                counts[block] += gaps.len() as f64;
                (sums[block], squares) = gaps
                    .iter()
                    .fold((sums[block], squares), |(sum, squares), gap| (sum + gap, squares + (gap - mean).powi(2)));
                for (below, limit) in below.iter_mut().zip(&limits) {
                    below[block] += gaps.iter().map(|gap| usize::from(gap <= limit)).sum::<usize>() as f64;
                }
            });
        });
        let between = |sums: &[f64], independent: Option<f64>| {
            let share = sums.iter().sum::<f64>() / n;
            let off: Vec<f64> = sums.iter().zip(&counts).map(|(sum, count)| sum - share * count).collect();
            Dependence::from_blocks(&off, independent.unwrap_or(n * share * (1.0 - share)))
        };
        Dependences {
            mean: between(&sums, Some(squares)),
            percentiles: below.iter().map(|below| between(below, None)).collect(),
        }
    }
}

/// Approximate percentiles: of a subset if there are many values.
fn approximate_percentiles(slices: &[&[f64]], percentiles: &[f64]) -> Vec<f64> {
    const MOST: usize = 1 << 16;
    let n: usize = slices.iter().map(|slice| slice.len()).sum();
    let values = slices.iter().copied().flatten();
    let mut some: Vec<f64> = values.step_by(n.div_ceil(MOST).max(1)).copied().collect();
    numpy::partially_sort(&mut some, percentiles, &[]);
    percentiles.iter().map(|p| numpy::percentile(&some, *p)).collect()
}

/// The interval of a mean: Student's t with the effective sample size; without ends if that is 1. `std` is the population's.
#[must_use]
pub fn mean_interval(mean: f64, std: f64, effective: f64) -> Interval {
    let Some(t) = student_quantile(effective - 1.0, TAIL) else { return Interval::default() };
    let half = t * std / (effective - 1.0).sqrt();
    Interval { low: Some(mean - half), high: Some(mean + half) }
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
    // Scale the smaller sample's rank to this one.
    Some(((rank - 0.5) / whole * n as f64 - 0.5).clamp(0.0, n as f64 - 1.0))
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
    use rand::rngs::ChaCha8Rng;

    use super::{
        super::sample::{SampleStats, SummaryOptions, Unit},
        *,
    };
    use crate::rng;

    const RUNS: u64 = 2000;

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
    }

    #[test]
    fn students_t_is_quick_for_any_freedom() {
        for (freedom, t) in [(1.0, 12.7062), (10.0, 2.2281), (1e5, 1.96), (1e9, 1.96), (1e15, 1.96)] {
            assert!((student_quantile(freedom, TAIL).unwrap() - t).abs() < 1e-4, "{freedom}");
        }
        assert_eq!(student_quantile(0.0, TAIL), None);
    }

    /// A synthetic population: how to draw a value after the previous one, the mean, and the quantile function.
    struct Population {
        name: &'static str,
        n: usize,
        draw: fn(&mut ChaCha8Rng, &mut f64) -> f64,
        mean: f64,
        quantile: fn(f64) -> f64,
    }

    fn uniform(rng: &mut ChaCha8Rng) -> f64 {
        rng::sample_unit(rng).max(f64::MIN_POSITIVE)
    }

    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
    }

    fn normal_quantile(p: f64) -> f64 {
        statrs::distribution::Normal::standard().inverse_cdf(p)
    }

    const SIGMA: f64 = 0.5;

    fn populations() -> [Population; 4] {
        [
            Population {
                name: "exponential",
                n: 1000,
                draw: |rng, _| rng::sample_exponential(rng),
                mean: 1.0,
                quantile: |p| -(1.0 - p).ln(),
            },
            Population {
                name: "log-normal",
                n: 1000,
                draw: |rng, _| (SIGMA * normal(rng)).exp(),
                mean: (SIGMA * SIGMA / 2.0).exp(),
                quantile: |p| (SIGMA * normal_quantile(p)).exp(),
            },
            // Four out of five are between 0 and 1, the fifth between 10 and 11, as with prefix cache hits and misses.
            Population {
                name: "bimodal",
                n: 1000,
                draw: |rng, _| if uniform(rng) < 0.8 { uniform(rng) } else { 10.0 + uniform(rng) },
                mean: 2.5,
                quantile: |p| if p < 0.8 { p / 0.8 } else { 10.0 + (p - 0.8) / 0.2 },
            },
            // Each resembles the previous one (0.8).
            Population {
                name: "autocorrelated",
                n: 4000,
                draw: |rng, last| {
                    *last = 0.8 * *last + 0.6 * normal(rng);
                    (SIGMA * *last).exp()
                },
                mean: (SIGMA * SIGMA / 2.0).exp(),
                quantile: |p| (SIGMA * normal_quantile(p)).exp(),
            },
        ]
    }

    #[test]
    fn intervals_have_their_nominal_coverage() {
        let percentiles = [50.0, 90.0, 99.0];
        let mut all = Vec::new();
        for population in populations() {
            let mut held = [0_u32; 4];
            for run in 0..RUNS {
                let mut rng = rng::random_stream(run, population.name, 0);
                let mut last = normal(&mut rng);
                let values: Vec<f64> = (0..population.n).map(|_| (population.draw)(&mut rng, &mut last)).collect();
                let dependences = Dependences::measure(&values, &percentiles);
                let wanted = SummaryOptions { percentiles: percentiles.to_vec(), histograms: false };
                let stats = SampleStats::with_intervals(&[&values], Unit::Seconds, &wanted, &dependences);
                let precision = stats.precision.unwrap();
                let holds = |interval: &Interval, truth: f64| {
                    interval.low.is_none_or(|low| low <= truth) && interval.high.is_none_or(|high| truth <= high)
                };
                held[0] += u32::from(holds(&precision.mean, population.mean));
                for (i, (p, (_, interval))) in percentiles.iter().zip(&precision.percentiles).enumerate() {
                    held[i + 1] += u32::from(holds(interval, (population.quantile)(p / 100.0)));
                }
            }
            let coverage = held.map(|held| f64::from(held) / RUNS as f64);
            all.push((population.name, coverage));
        }
        println!("mean, p50, p90, p99: {all:?}");
        let close = |coverage: &[f64; 4]| coverage.iter().all(|share| (0.94..=0.96).contains(share));
        assert!(all.iter().all(|(_, coverage)| close(coverage)), "mean, p50, p90, p99: {all:?}");
    }
}
