//! How much a series depends on itself.
//!
//! Requests that run at the same time share the server's state, so a thousand of them carry less information than a thousand
//! independent ones. [`Dependence`] estimates how much less from the values in time order, and whether the series is long enough
//! to know. `docs/METRICS.md` has the formulas and their sources.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::function::gamma::gamma;

use super::{bins::visit_bins, numpy};

/// The most blocks per series: enough to see dependence over many lags, few enough to be quick.
const MAX_BLOCKS: usize = 512;

/// A design effect counts from this many standard errors above 1 on: independent values are reported as such.
const SIGNIFICANT_EFFECT: f64 = 2.0;

/// The most frequencies in which slow waves are searched, and the exponents that limit them in a short series: of many frequencies and
/// of few.
const MAX_FREQUENCIES: usize = 48;
const MANY_FREQUENCIES: f64 = 0.65;
const FEW_FREQUENCIES: f64 = 0.5;

/// With fewer frequencies, anything looks like a wave.
const MIN_FREQUENCIES: usize = 16;

/// Memory widens intervals from this many standard errors above 0 on, and from that many on it is reported.
const WIDENING_MEMORY: f64 = 1.5;
const REPORTED_MEMORY: f64 = 2.0;

/// The largest memory parameter of a stationary series is below 0.5, where the variance of a mean is infinite.
const MAX_MEMORY: f64 = 0.45;

/// Relative differences that are not from the values.
const ROUNDING: f64 = 1e-9;

/// The levels that stand for the ranks of values.
const RANK_LEVELS: usize = 31;

/// The values from which these levels are computed.
const RANK_SAMPLE: usize = 1 << 10;

/// The batches in time order whose means show how skewed the mean is.
pub const BATCHES: usize = 12;

/// The fewest correlation times for an interval: in a shorter series, even the dependence is not known.
pub const MIN_CORRELATION_TIMES: f64 = 30.0;

/// Why an estimate is not certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// The series lasts fewer than 30 correlation times: there are no intervals.
    TooShort,
    /// It has waves as long as itself, so that a longer series may be another one: intervals may be too narrow.
    LongMemory,
}

/// How much the values of a metric depend on each other: one number for its mean and all its percentiles.
///
/// The series is cut into blocks in time order. The variance of the sum of blocks, compared with independent values, is the
/// *design effect*: the correlation time, counted in values. The largest one counts, of the values, of their ranks, and of "is it
/// below this percentile?" for each percentile. A series whose ranks have waves as long as itself shows too little of the
/// variance; there the variance follows from the growth of the spectrum towards low frequencies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dependence {
    /// The number of values.
    n: usize,
    /// The number of requests that they are from.
    requests: usize,
    /// Variance of the mean, divided by the variance for as many independent values; at least 1.
    design_effect: f64,
    /// Whether the ranks have waves as long as the series.
    long_memory: bool,
    /// The means of batches in time order.
    batches: Vec<f64>,
}

impl Dependence {
    /// Measures values in time order.
    #[must_use]
    pub fn measure(values: &[f64], percentiles: &[f64]) -> Self {
        let n = values.len();
        if n == 0 {
            return Dependence { design_effect: 1.0, ..Dependence::default() };
        }
        let limits = approximate_percentiles(&[values], percentiles);
        let levels = rank_levels(values);
        let size = n.div_ceil(MAX_BLOCKS);
        let mut tally = Tally::new(n.div_ceil(size), limits.len());
        for (block, inside) in values.chunks(size).enumerate() {
            tally.add(block, inside, &limits);
        }
        let ranks = values.iter().map(|value| levels.partition_point(|level| level < value) as f64);
        let mean = ranks.clone().sum::<f64>() / n as f64;
        let mut rank_blocks = vec![0.0; tally.counts.len()];
        let mut rank_squares = 0.0;
        for (i, rank) in ranks.enumerate() {
            rank_blocks[i / size] += rank - mean;
            rank_squares += (rank - mean).powi(2);
        }
        let squares = square_deviations(&[values], tally.mean());
        let effect = tally.largest_effect(squares).max(significant_effect(&rank_blocks, rank_squares));
        let waves = SlowWaves::measure(&rank_blocks, rank_squares);
        Dependence {
            n,
            requests: n,
            design_effect: effect.max(waves.design_effect),
            long_memory: waves.long_memory,
            batches: tally.batch_means(),
        }
    }

    /// Measures the gaps of many responses. `each` passes the gaps of each response with the times of their ends. Gaps depend on
    /// each other if they end at the same time, and if they are of the same response.
    #[must_use]
    pub fn measure_gaps(
        gaps: &[&[f64]],
        span: (f64, f64),
        percentiles: &[f64],
        each: impl Fn(&mut dyn FnMut(&[f64], &[f64])),
    ) -> Self {
        let n: usize = gaps.iter().map(|gaps| gaps.len()).sum();
        let mut requests = 0;
        each(&mut |_, gaps| requests += usize::from(!gaps.is_empty()));
        if n == 0 {
            return Dependence { design_effect: 1.0, ..Dependence::default() };
        }
        let limits = approximate_percentiles(gaps, percentiles);
        let blocks = MAX_BLOCKS.min(n);
        let width = (span.1 - span.0) / blocks as f64;
        let size = requests.div_ceil(MAX_BLOCKS);
        let (mut in_time, mut by_response) =
            (Tally::new(blocks, limits.len()), Tally::new(requests.div_ceil(size), limits.len()));
        let mut response = 0;
        each(&mut |ends, gaps| {
            let block = |end: f64| numpy::truncate_to_usize((end - span.0) / width).min(blocks - 1);
            visit_bins(ends, block, |block, inside| {
                let both = [(&mut in_time, block), (&mut by_response, response / size)];
                Tally::add_to_both(both, &gaps[inside], &limits);
            });
            response += usize::from(!gaps.is_empty());
        });
        let squares = square_deviations(gaps, in_time.mean());
        let (ranks, rank_squares) = in_time.coarse_ranks();
        let waves = SlowWaves::measure(&ranks, rank_squares);
        let effect = in_time.largest_effect(squares).max(significant_effect(&ranks, rank_squares));
        Dependence {
            n,
            requests,
            design_effect: effect.max(by_response.largest_effect(squares)).max(waves.design_effect),
            long_memory: waves.long_memory,
            batches: in_time.batch_means(),
        }
    }

    /// The number of values.
    #[must_use]
    pub fn value_count(&self) -> usize {
        self.n
    }

    /// The number of independent values with as much information: how many correlation times the series lasts.
    #[must_use]
    pub fn effective_size(&self) -> f64 {
        (self.n as f64 / self.design_effect).max(1.0)
    }

    /// The evidence for a percentile: independent values, but no more than requests, whose gaps have much in common.
    #[must_use]
    pub fn evidence(&self) -> f64 {
        self.effective_size().min(self.requests as f64)
    }

    /// The number of values, but no more than requests.
    #[must_use]
    pub fn counted(&self) -> f64 {
        self.n.min(self.requests) as f64
    }

    /// Whether the ranks of the values have waves as long as the series.
    #[must_use]
    pub fn has_long_memory(&self) -> bool {
        self.long_memory
    }

    /// The means of twelve batches in time order; empty if there are too few values.
    #[must_use]
    pub fn batch_means(&self) -> &[f64] {
        &self.batches
    }
}

/// What is known of an estimate from a series of this effective size.
#[must_use]
pub fn find_doubt(effective: f64, long_memory: bool) -> Option<Doubt> {
    if effective < MIN_CORRELATION_TIMES {
        return Some(Doubt::TooShort);
    }
    long_memory.then_some(Doubt::LongMemory)
}

/// Counts and sums of values in blocks.
struct Tally {
    counts: Vec<f64>,
    sums: Vec<f64>,
    /// For each percentile: how many are not above it.
    below: Vec<Vec<f64>>,
}

impl Tally {
    fn new(blocks: usize, limits: usize) -> Self {
        Tally { counts: vec![0.0; blocks], sums: vec![0.0; blocks], below: vec![vec![0.0; blocks]; limits] }
    }

    fn add(&mut self, block: usize, values: &[f64], limits: &[f64]) {
        self.counts[block] += values.len() as f64;
        self.sums[block] += values.iter().sum::<f64>();
        for (below, limit) in self.below.iter_mut().zip(limits) {
            below[block] += count_below(values, *limit);
        }
    }

    /// Adds values to a block of each of two tallies.
    fn add_to_both([(a, i), (b, j)]: [(&mut Tally, usize); 2], values: &[f64], limits: &[f64]) {
        let (count, sum) = (values.len() as f64, values.iter().sum::<f64>());
        (a.counts[i], b.counts[j]) = (a.counts[i] + count, b.counts[j] + count);
        (a.sums[i], b.sums[j]) = (a.sums[i] + sum, b.sums[j] + sum);
        for ((a, b), limit) in a.below.iter_mut().zip(&mut b.below).zip(limits) {
            let below = count_below(values, *limit);
            (a[i], b[j]) = (a[i] + below, b[j] + below);
        }
    }

    fn total(&self) -> f64 {
        self.counts.iter().sum()
    }

    fn mean(&self) -> f64 {
        self.sums.iter().sum::<f64>() / self.total()
    }

    /// The deviations of the sums of blocks from what their counts would give, and the mean.
    fn deviations(&self, sums: &[f64]) -> (Vec<f64>, f64) {
        let mean = sums.iter().sum::<f64>() / self.total();
        (sums.iter().zip(&self.counts).map(|(sum, count)| sum - mean * count).collect(), mean)
    }

    /// The largest design effect of the values, whose squared deviations have this sum, and of each percentile.
    fn largest_effect(&self, squares: f64) -> f64 {
        // Equal values differ by the rounding of their mean.
        let varies = squares > self.total() * (ROUNDING * self.mean()).powi(2);
        let of_values = if varies { significant_effect(&self.deviations(&self.sums).0, squares) } else { 1.0 };
        let of_percentile = |below: &Vec<f64>| {
            let (off, share) = self.deviations(below);
            significant_effect(&off, self.total() * share * (1.0 - share))
        };
        self.below.iter().map(of_percentile).fold(of_values, f64::max)
    }

    /// Coarse ranks: how many percentiles a value is below. Their deviations by block, and the sum of squares.
    fn coarse_ranks(&self) -> (Vec<f64>, f64) {
        let mut sums = vec![0.0; self.counts.len()];
        for below in &self.below {
            sums.iter_mut().zip(below).for_each(|(sum, below)| *sum += below);
        }
        let shares: Vec<f64> = self.below.iter().map(|below| self.deviations(below).1).collect();
        // Below two limits is below the lower one.
        let both = shares.iter().flat_map(|a| shares.iter().map(move |b| a.min(*b) - a * b)).sum::<f64>();
        (self.deviations(&sums).0, both * self.total())
    }

    fn batch_means(&self) -> Vec<f64> {
        let blocks = self.counts.len();
        let mean = |batch: usize| {
            let inside = blocks * batch / BATCHES..blocks * (batch + 1) / BATCHES;
            let count = self.counts[inside.clone()].iter().sum::<f64>();
            (count > 0.0).then(|| self.sums[inside].iter().sum::<f64>() / count)
        };
        (0..BATCHES).map(mean).collect::<Option<_>>().unwrap_or_default()
    }
}

fn count_below(values: &[f64], limit: f64) -> f64 {
    values.iter().map(|value| usize::from(*value <= limit)).sum::<usize>() as f64
}

/// The sum of squared deviations from the mean.
fn square_deviations(slices: &[&[f64]], mean: f64) -> f64 {
    slices.iter().copied().flatten().map(|value| (value - mean).powi(2)).sum()
}

/// The variance of the sum of blocks, divided by `independent`, the variance for independent values. Blocks are deviations from the
/// expectation for their sizes, in time order.
///
/// It is the variance of the blocks and their autocovariances, summed over pairs of lags while the pairs are positive (Geyer's
/// initial positive sequence). 1 if nothing varies.
fn design_effect(blocks: &[f64], independent: f64) -> f64 {
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
    if effect.is_finite() { effect } else { 1.0 }
}

/// The design effect, or 1 if independent values may give it too.
fn significant_effect(blocks: &[f64], independent: f64) -> f64 {
    let effect = design_effect(blocks, independent);
    // The error of the first autocorrelation, which counts twice.
    let error = 2.0 / (blocks.len() as f64).sqrt();
    if effect > 1.0 + SIGNIFICANT_EFFECT * error { effect } else { 1.0 }
}

/// Waves that take as long as the series, or a part of it: the spectrum near frequency 0 is like λ^(−2d), and the larger d is, the
/// less a series of any length knows of the variance.
struct SlowWaves {
    design_effect: f64,
    long_memory: bool,
}

impl SlowWaves {
    /// Robinson's local Whittle estimate of the memory parameter d, and the variance of a mean that follows from it (his
    /// memory-and-autocorrelation-consistent estimate).
    ///
    /// Many frequencies take values that forget within a few requests for waves, and few see waves by chance: the smaller variance
    /// counts. Only many are sure enough to report waves.
    fn measure(blocks: &[f64], independent: f64) -> Self {
        let n = blocks.len() as f64;
        let [many, few] =
            [MANY_FREQUENCIES, FEW_FREQUENCIES].map(|exponent| numpy::truncate_to_usize(n.powf(exponent)));
        if many < MIN_FREQUENCIES {
            return SlowWaves { design_effect: 1.0, long_memory: false };
        }
        let frequency = |j: usize| std::f64::consts::TAU * j as f64 / n;
        let frequencies: Vec<f64> = (1..=MAX_FREQUENCIES.min(many)).map(frequency).collect();
        let many = Self::measure_frequencies(blocks, &frequencies, independent);
        if many.design_effect <= 1.0 {
            return many;
        }
        let few = few.clamp(MIN_FREQUENCIES, frequencies.len());
        let few = Self::measure_frequencies(blocks, &frequencies[..few], independent);
        SlowWaves { design_effect: many.design_effect.min(few.design_effect), ..many }
    }

    fn measure_frequencies(blocks: &[f64], frequencies: &[f64], independent: f64) -> Self {
        let none = SlowWaves { design_effect: 1.0, long_memory: false };
        let n = blocks.len() as f64;
        let power: Vec<f64> = frequencies.iter().map(|frequency| power_at(blocks, *frequency)).collect();
        let error = 0.5 / (frequencies.len() as f64).sqrt();
        let memory = memory_parameter(frequencies, &power);
        if memory.is_nan() || memory < WIDENING_MEMORY * error {
            return none;
        }
        let d = memory.min(MAX_MEMORY);
        let level =
            frequencies.iter().zip(&power).map(|(frequency, power)| power * frequency.powf(2.0 * d)).sum::<f64>()
                / power.len() as f64;
        let constant = 2.0 * gamma(1.0 - 2.0 * d) * (std::f64::consts::PI * d).sin() / (d * (1.0 + 2.0 * d));
        let effect = n.powf(1.0 + 2.0 * d) * level * constant / independent;
        if !effect.is_finite() {
            return none;
        }
        SlowWaves { design_effect: effect, long_memory: memory > REPORTED_MEMORY * error }
    }
}

/// The periodogram at a frequency, by Goertzel's recurrence.
fn power_at(values: &[f64], frequency: f64) -> f64 {
    let twice = 2.0 * frequency.cos();
    let (mut last, mut before) = (0.0, 0.0);
    for value in values {
        (last, before) = (value + twice * last - before, last);
    }
    (last * last + before * before - twice * last * before) / (std::f64::consts::TAU * values.len() as f64)
}

/// The d ≥ 0 that minimises ln(mean of power · λ^2d) − 2d · mean of ln λ, by the sign of the derivative: the function is convex.
fn memory_parameter(frequencies: &[f64], power: &[f64]) -> f64 {
    let logs: Vec<f64> = frequencies.iter().map(|frequency| frequency.ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let rises = |d: f64| {
        let (weights, sum) = logs.iter().zip(power).fold((0.0, 0.0), |(weights, sum), (log, power)| {
            let weight = power * (2.0 * d * log).exp();
            (weights + weight, sum + weight * log)
        });
        sum >= mean * weights
    };
    let (mut low, mut high) = (0.0, 1.0);
    if rises(low) {
        return low;
    }
    for _ in 0..10 {
        let middle = f64::midpoint(low, high);
        if rises(middle) { high = middle } else { low = middle }
    }
    f64::midpoint(low, high)
}

/// Values that divide a sample into parts of equal size.
fn rank_levels(values: &[f64]) -> Vec<f64> {
    let mut some: Vec<f64> = values.iter().step_by(values.len().div_ceil(RANK_SAMPLE)).copied().collect();
    some.sort_unstable_by(f64::total_cmp);
    (1..=RANK_LEVELS).map(|level| some[some.len() * level / (RANK_LEVELS + 1)]).collect()
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
