//! Statistics of a sample, computed exactly or from the histograms of its parts.

use super::{
    dependence::{Dependence, Doubt, find_doubt},
    histogram::{self, HdrHistogram, ValueCounts},
    interval::{self, BOUND_TAILS, Interval},
    numpy,
    ranks::RankedValues,
};

/// The unit of a sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unit {
    /// Time in seconds. Results have milliseconds, histograms nanoseconds.
    #[default]
    Seconds,
    /// Tokens.
    Tokens,
    /// A share from 0 to 1. Histograms have millionths.
    Share,
}

impl Unit {
    /// The factor from values to results.
    #[must_use]
    pub fn in_results(self) -> f64 {
        match self {
            Unit::Seconds => 1e3,
            Unit::Tokens | Unit::Share => 1.0,
        }
    }

    /// The factor from values to histograms.
    fn in_histograms(self) -> f64 {
        match self {
            Unit::Seconds => 1e9,
            Unit::Tokens => 1.0,
            Unit::Share => 1e6,
        }
    }
}

/// What to compute for samples.
#[derive(Debug, Clone, Default)]
pub struct SummaryOptions {
    /// The percentiles, 0 to 100, in the order given.
    pub percentiles: Vec<f64>,
    /// Whether to add histograms, so that samples can be pooled.
    pub histograms: bool,
}

/// The statistics of a sample, in the unit of its values. They are 0 for an empty sample, as in vLLM's result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleStats {
    /// The unit of the values.
    pub unit: Unit,
    /// The number of values.
    pub n: usize,
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the population.
    pub std: f64,
    /// The median.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// Each percentile with its value.
    pub percentiles: Vec<(f64, f64)>,
    /// Their uncertainty; `None` if not requested.
    pub precision: Option<Precision>,
    /// All values in buckets; `None` if not requested.
    pub histogram: Option<HdrHistogram>,
}

/// The uncertainty of the statistics of a sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Precision {
    /// What is known of the dependence of the values.
    pub evidence: SampleEvidence,
    /// The interval of the mean.
    pub mean: Interval,
    /// For each percentile, its interval and its upper bounds.
    pub percentiles: Vec<PercentilePrecision>,
}

/// How many independent values a sample is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SampleEvidence {
    /// The effective sample size: independent values that would give the mean and the percentiles with the same precision.
    pub effective: f64,
    /// The same, but no more than requests.
    pub requests: f64,
    /// The values, but no more than requests.
    pub counted: f64,
    /// Whether the values have waves as long as the run.
    pub long_memory: bool,
}

/// The uncertainty of a percentile.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PercentilePrecision {
    /// Its interval.
    pub interval: Interval,
    /// Its upper bounds with the probabilities of [`BOUND_TAILS`].
    pub bounds: [Option<f64>; 2],
}

impl SampleEvidence {
    fn from_dependence(dependence: &Dependence) -> Self {
        SampleEvidence {
            effective: dependence.effective_size(),
            requests: dependence.evidence(),
            counted: dependence.counted(),
            long_memory: dependence.has_long_memory(),
        }
    }

    /// The evidence of runs one after the other.
    #[must_use]
    pub fn from_runs(runs: &[Dependence]) -> Self {
        let parts: Vec<(f64, SampleEvidence)> =
            runs.iter().map(|run| (run.value_count() as f64, Self::from_dependence(run))).collect();
        Self::pool_parts(&parts, PoolMode::Sequential)
    }

    /// The evidence of several parts, given with their numbers of values.
    ///
    /// Parts one after the other add up. Hosts of one load see the same server, each a part of its requests, so that what each adds to
    /// the design effect adds up: independent requests remain independent, and hosts that all see the same slow waves know as much as
    /// one of them.
    #[must_use]
    pub fn pool_parts(parts: &[(f64, SampleEvidence)], mode: PoolMode) -> Self {
        let sum =
            |value: &dyn Fn(f64, &SampleEvidence) -> f64| parts.iter().map(|(n, part)| value(*n, part)).sum::<f64>();
        let effective = match mode {
            PoolMode::Sequential => sum(&|_, part| part.effective),
            PoolMode::Concurrent => {
                let excess = sum(&|n, part| (n / part.effective - 1.0).max(0.0));
                sum(&|n, _| n) / (1.0 + excess)
            }
        };
        SampleEvidence {
            effective: effective.max(1.0),
            requests: effective.min(sum(&|_, part| part.requests)).max(1.0),
            counted: sum(&|_, part| part.counted),
            long_memory: parts.iter().any(|(_, part)| part.long_memory),
        }
    }

    /// Why the statistics are not certain.
    #[must_use]
    pub fn doubt(self) -> Option<Doubt> {
        find_doubt(self.effective, self.long_memory)
    }
}

/// How the parts of a sample relate in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// One after the other: each adds information.
    Sequential,
    /// At the same time, as the hosts of one load: they share the server's state.
    Concurrent,
}

impl SampleStats {
    /// The statistics of values without intervals.
    #[must_use]
    pub fn from_values(values: &[f64], unit: Unit, options: &SummaryOptions) -> Self {
        Self::compute_exact(&[values], unit, options, &[]).0
    }

    /// The same of the values of several slices, with intervals for values with this dependence.
    #[must_use]
    pub fn with_intervals(slices: &[&[f64]], unit: Unit, options: &SummaryOptions, dependence: &Dependence) -> Self {
        let evidence = SampleEvidence::from_dependence(dependence);
        Self::with_evidence(slices, unit, options, evidence, dependence.batch_means())
    }

    /// The same for values that are known to be worth this many independent ones, with the means of batches in time order, if known.
    #[must_use]
    pub fn with_evidence(
        slices: &[&[f64]],
        unit: Unit,
        options: &SummaryOptions,
        evidence: SampleEvidence,
        batches: &[f64],
    ) -> Self {
        let n = slices.iter().map(|slice| slice.len()).sum();
        let places = precision_places(options, n, evidence.effective);
        let ends: Vec<f64> = places.iter().flat_map(PercentilePrecision::all_places).flatten().collect();
        let (mut stats, values) = Self::compute_exact(slices, unit, options, &ends);
        stats.set_precision(evidence, batches, &places, |place| values.value_at(place));
        stats
    }

    /// Pools parts: the statistics of one sample with all their values; percentiles are within the error of histograms. `None`
    /// if a part has no histogram.
    #[must_use]
    pub fn pool_parts(parts: &[SampleStats], options: &SummaryOptions, mode: PoolMode) -> Option<Self> {
        let unit = parts.first().map(|part| part.unit).unwrap_or_default();
        let parts: Vec<&SampleStats> = parts.iter().filter(|part| part.n > 0).collect();
        if parts.is_empty() {
            return Some(Self::from_values(&[], unit, options));
        }
        let histograms = parts.iter().map(|part| part.histogram.as_ref()).collect::<Option<Vec<_>>>()?;
        let counts = ValueCounts::merge_all(histograms)?;
        let at = |place: f64| counts.value_at(place) / unit.in_histograms();
        let n = parts.iter().map(|part| part.n).fold(0, usize::saturating_add);
        let (mean, std) = pooled_moments(&parts, n);
        let least = parts.iter().map(|part| part.min).fold(f64::INFINITY, f64::min);
        let most = parts.iter().map(|part| part.max).fold(f64::NEG_INFINITY, f64::max);
        let percentile = |p: f64| match p {
            0.0 => least,
            100.0 => most,
            // Not `clamp`, which panics if the smallest is not the smaller one.
            p => at((n - 1) as f64 * (p / 100.0)).max(least).min(most),
        };
        let mut stats = SampleStats {
            unit,
            n,
            mean,
            std,
            median: percentile(50.0),
            min: least,
            max: most,
            percentiles: options.percentiles.iter().map(|p| (*p, percentile(*p))).collect(),
            precision: None,
            histogram: None,
        };
        if let Some(precisions) = parts.iter().map(|part| part.precision.as_ref()).collect::<Option<Vec<_>>>() {
            let evidence: Vec<(f64, SampleEvidence)> =
                parts.iter().zip(precisions).map(|(part, precision)| (part.n as f64, precision.evidence)).collect();
            let evidence = SampleEvidence::pool_parts(&evidence, mode);
            let places = precision_places(options, n, evidence.effective);
            stats.set_precision(evidence, &[], &places, at);
            stats.widen_intervals(histogram::MAX_RELATIVE_ERROR);
        }
        stats.histogram = if options.histograms { Some(counts.encode()?) } else { None };
        Some(stats)
    }

    fn set_precision(
        &mut self,
        evidence: SampleEvidence,
        batches: &[f64],
        places: &[PercentilePrecision],
        at: impl Fn(f64) -> f64,
    ) {
        self.precision = (self.n > 0).then(|| Precision {
            evidence,
            mean: interval::mean_interval(self.mean, self.std, self.min, evidence.effective, batches, interval::TAIL),
            percentiles: places.iter().map(|places| places.map_places(&at)).collect(),
        });
    }

    /// Widens the intervals of the percentiles by a relative error.
    fn widen_intervals(&mut self, share: f64) {
        for PercentilePrecision { interval, bounds } in
            self.precision.iter_mut().flat_map(|precision| &mut precision.percentiles)
        {
            interval.low = interval.low.map(|low| low * (1.0 - share));
            interval.high = interval.high.map(|high| high * (1.0 + share));
            *bounds = bounds.map(|bound| bound.map(|bound| bound * (1.0 + share)));
        }
    }

    fn compute_exact(slices: &[&[f64]], unit: Unit, options: &SummaryOptions, places: &[f64]) -> (Self, RankedValues) {
        let (mean, std) = numpy::mean_and_std(slices);
        let values = RankedValues::select(slices, &options.percentiles, places);
        let stats = SampleStats {
            unit,
            n: values.sample_size(),
            mean,
            std,
            median: values.median(),
            min: values.least(),
            max: values.most(),
            percentiles: options.percentiles.iter().map(|p| (*p, values.percentile(*p))).collect(),
            precision: None,
            histogram: if options.histograms { HdrHistogram::from_values(slices, unit.in_histograms()) } else { None },
        };
        (stats, values)
    }
}

impl PercentilePrecision {
    fn all_places(&self) -> [Option<f64>; 4] {
        [self.interval.low, self.interval.high, self.bounds[0], self.bounds[1]]
    }

    /// The values at these places.
    fn map_places(&self, at: impl Fn(f64) -> f64) -> Self {
        let interval = Interval { low: self.interval.low.map(&at), high: self.interval.high.map(&at) };
        PercentilePrecision { interval, bounds: self.bounds.map(|bound| bound.map(&at)) }
    }
}

/// The places of the ends of each percentile's interval, and of its bounds, among `n` sorted values.
fn precision_places(options: &SummaryOptions, n: usize, effective: f64) -> Vec<PercentilePrecision> {
    let places = |p: &f64| PercentilePrecision {
        interval: interval::percentile_places(*p, n, effective),
        bounds: BOUND_TAILS.map(|tail| interval::high_place(*p, n, effective, tail)),
    };
    options.percentiles.iter().map(places).collect()
}

/// The mean and the standard deviation of the `n` values of all parts.
fn pooled_moments(parts: &[&SampleStats], n: usize) -> (f64, f64) {
    let over = |value: &dyn Fn(&SampleStats) -> f64| {
        parts.iter().map(|part| part.n as f64 * value(part)).sum::<f64>() / n as f64
    };
    let mean = over(&|part| part.mean);
    (mean, over(&|part| part.std.powi(2) + (part.mean - mean).powi(2)).sqrt())
}

/// Parses the list of `--metric-percentiles`.
pub fn parse_percentiles(list: &str) -> Result<Vec<f64>, String> {
    let wrong = |text: &str| format!("--metric-percentiles: `{text}` is not a percentile (0 to 100): write 50,90,99.9");
    let mut percentiles = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match text.parse::<f64>() {
            Ok(p) if (0.0..=100.0).contains(&p) && !percentiles.contains(&p) => percentiles.push(p),
            Ok(p) if percentiles.contains(&p) => {}
            _ => return Err(wrong(text)),
        }
    }
    Ok(percentiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numbers_up_to_100() {
        assert_eq!(parse_percentiles("50, 99.9,50").unwrap(), [50.0, 99.9]);
        for list in ["p99", "101", "-1", "nan"] {
            assert!(parse_percentiles(list).is_err(), "{list}");
        }
    }
}
