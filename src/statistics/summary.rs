//! The statistics of a sample in the form that results have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    dependence::Doubt,
    histogram::HdrHistogram,
    interval::{self, Interval},
    numpy,
    sample::{PercentilePrecision, PoolMode, Precision, SampleEvidence, SampleStats, SummaryOptions, Unit},
};
use crate::record::Object;

/// A distribution; everything but `n` is `null` for an empty one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Summary {
    /// The number of values.
    pub n: usize,
    /// The mean.
    pub mean: Option<f64>,
    /// The standard deviation of the population.
    pub std: Option<f64>,
    /// The smallest value.
    pub min: Option<f64>,
    /// `p50` and so on: the percentiles of `--metric-percentiles`.
    #[serde(flatten)]
    pub percentiles: Object,
    /// The largest value.
    pub max: Option<f64>,
    /// The number of independent values that would give the mean and the percentiles with the same precision: how many correlation
    /// times the values last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_effective: Option<f64>,
    /// Why these numbers are not certain; absent if nothing speaks against them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
    /// 95 % intervals of the `mean` and of each percentile, `[low, high]`; an end is `null` if there are too few values.
    #[serde(skip_serializing_if = "Object::is_empty")]
    pub intervals: Object,
    /// Upper bounds of each percentile, 95 % and 99 % sure (one-sided); `null` if there are too few values.
    #[serde(skip_serializing_if = "Object::is_empty")]
    pub upper_bounds: Object,
    /// The percentiles that are `null` because there are too few independent values: how many each `needs`, and how many it `has`.
    #[serde(skip_serializing_if = "Object::is_empty")]
    pub too_few: Object,
    /// What the `mean` and the percentiles are known to lie in, `[least, most]`, if chunks waited for the client and lost their own
    /// stamps. Absent: they moved none of these numbers, or it is unknown, as in pooled results.
    #[serde(skip_serializing_if = "Object::is_empty")]
    pub client_bounds: Object,
    /// With `--histograms`: all values, so that summaries can be pooled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub histogram: Option<SummaryHistogram>,
}

/// What is needed to pool a sample with others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Pool")]
pub struct SummaryHistogram {
    /// HDR histogram (V2, deflated, base64): nanoseconds if the summary has milliseconds, millionths for shares, else the unit
    /// of the summary.
    pub hdr: HdrHistogram,
    /// Independent values, but no more than requests; `null` without intervals.
    #[serde(default)]
    pub evidence: Option<f64>,
}

impl Summary {
    /// Converts the statistics of a sample.
    #[must_use]
    pub fn from_stats(stats: &SampleStats) -> Self {
        let scale = stats.unit.in_results();
        let some = |value: f64| (stats.n > 0).then_some(value * scale);
        let percentiles = stats.percentiles.iter().map(|(p, value)| (format!("p{p}"), some(*value).into()));
        let mut summary = Summary {
            n: stats.n,
            mean: some(stats.mean),
            std: some(stats.std),
            min: some(stats.min),
            percentiles: percentiles.collect(),
            max: some(stats.max),
            ..Summary::default()
        };
        if let Some(precision) = &stats.precision {
            summary.set_precision(precision, &stats.percentiles, scale);
        }
        let evidence = stats.precision.as_ref().map(|precision| precision.evidence.requests);
        summary.histogram = stats.histogram.clone().map(|hdr| SummaryHistogram { hdr, evidence });
        summary
    }

    /// Pools summaries of the same value. `None` if a summary has values and no histogram.
    #[must_use]
    pub fn pool_parts(parts: &[&Summary], unit: Unit, mode: PoolMode, wanted: &SummaryOptions) -> Option<SampleStats> {
        let samples: Vec<SampleStats> = parts.iter().map(|part| part.to_stats(unit)).collect();
        SampleStats::pool_parts(&samples, wanted, mode)
    }

    /// The percentiles that these summaries have, or have too few values for.
    #[must_use]
    pub fn percentiles_of_any(parts: &[&Summary]) -> Vec<f64> {
        let mut percentiles = Vec::new();
        for name in parts.iter().flat_map(|part| part.percentiles.keys().chain(part.too_few.keys())) {
            if let Some(p) = parse_percentile(name)
                && !percentiles.contains(&p)
            {
                percentiles.push(p);
            }
        }
        percentiles
    }

    /// The statistics that this summary was made from, as far as pooling needs them.
    fn to_stats(&self, unit: Unit) -> SampleStats {
        let number = |value: Option<f64>| value.unwrap_or_default() / unit.in_results();
        let pool = self.histogram.as_ref().filter(|pool| pool.hdr.value_count() == self.n as u64);
        let evidence = |effective: f64| {
            let requests = pool.and_then(|pool| pool.evidence).unwrap_or(effective);
            let long_memory = self.doubt == Some(Doubt::LongMemory);
            // How many requests the values are from is not in a summary.
            SampleEvidence { effective, requests, counted: requests, long_memory }
        };
        SampleStats {
            unit,
            n: self.n,
            mean: number(self.mean),
            std: number(self.std),
            min: number(self.min),
            max: number(self.max),
            precision: self
                .n_effective
                .map(|effective| Precision { evidence: evidence(effective), ..Precision::default() }),
            histogram: pool.map(|pool| pool.hdr.clone()),
            ..SampleStats::default()
        }
    }

    /// Adds the intervals, and removes percentiles that have too few values. A run of fewer than 30 correlation times has no
    /// intervals, only the lower bounds of what has too few values. How many independent values it has is not known either, so its
    /// values are counted, and what they give is marked by the doubt.
    fn set_precision(&mut self, precision: &Precision, percentiles: &[(f64, f64)], scale: f64) {
        let scaled = |ends: [Option<f64>; 2]| json!(ends.map(|end| end.map(|end| end * scale)));
        let Precision { evidence, mean, percentiles: precisions } = precision;
        (self.n_effective, self.doubt) = (Some(evidence.effective), evidence.doubt());
        let is_known = self.doubt != Some(Doubt::TooShort);
        let has = numpy::truncate_to_usize(if is_known { evidence.requests } else { evidence.counted });
        let shown = |interval: &Interval| scaled(if is_known { [interval.low, interval.high] } else { [None, None] });
        self.intervals.insert("mean".into(), shown(mean));
        for ((p, _), PercentilePrecision { interval, bounds }) in percentiles.iter().zip(precisions) {
            let name = format!("p{p}");
            let needs = interval::samples_needed(*p).filter(|needs| (has as u64) < *needs);
            let ends = if needs.is_some() {
                scaled([interval.low, interval.high.filter(|_| is_known)])
            } else {
                shown(interval)
            };
            self.intervals.insert(name.clone(), ends);
            if is_known && bounds.iter().any(Option::is_some) {
                self.upper_bounds.insert(name.clone(), scaled(*bounds));
            }
            if let Some(needs) = needs {
                self.percentiles.insert(name.clone(), Value::Null);
                self.too_few.insert(name, json!({"needs": needs, "has": has}));
            }
        }
    }

    /// An end of the interval of `mean` or a percentile: 0 is the lower end, 1 the upper one.
    #[must_use]
    pub fn interval_end(&self, name: &str, which: usize) -> Option<f64> {
        self.intervals.get(name)?.get(which)?.as_f64()
    }

    /// What a high percentile is at most, 99 % sure; `None` if there are too few values, and for the others.
    #[must_use]
    pub fn upper_bound(&self, name: &str) -> Option<f64> {
        let is_high = name.strip_prefix('p')?.parse::<f64>().is_ok_and(|p| p > 50.0);
        self.upper_bounds.get(name)?.get(1)?.as_f64().filter(|_| is_high)
    }

    /// The lower bound of a percentile that has too few values, as text.
    #[must_use]
    pub fn lower_bound_text(&self, name: &str) -> String {
        self.interval_end(name, 0).map_or_else(|| "-".to_owned(), |low| format!(">= {low:.2}"))
    }
}

/// The percentile that a key like `p99.9` names.
#[must_use]
pub fn parse_percentile(name: &str) -> Option<f64> {
    name.strip_prefix('p')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Dependence, *};

    fn wanted() -> SummaryOptions {
        SummaryOptions { percentiles: vec![50.0], histograms: false }
    }

    #[test]
    fn an_empty_distribution_has_no_mean() {
        let empty = Summary::from_stats(&SampleStats::from_values(&[], Unit::Seconds, &wanted()));
        let json = serde_json::to_string(&empty).unwrap();
        assert_eq!(json, r#"{"n":0,"mean":null,"std":null,"min":null,"p50":null,"max":null}"#);
    }

    #[test]
    fn a_run_as_short_as_its_waves_has_estimates_without_intervals() {
        let values: Vec<f64> = (0..400).map(f64::from).collect();
        let wanted = SummaryOptions { percentiles: vec![50.0, 90.0, 99.0], histograms: false };
        let summary = |effective: f64| {
            let evidence = SampleEvidence { effective, requests: effective, counted: 400.0, long_memory: false };
            Summary::from_stats(&SampleStats::with_evidence(&[&values], Unit::Tokens, &wanted, evidence, &[]))
        };
        let short = summary(5.0);
        assert_eq!((short.doubt, &short.percentiles["p90"]), (Some(Doubt::TooShort), &json!(359.1)));
        assert_eq!((short.interval_end("p90", 0), short.interval_end("p90", 1)), (None, None));
        assert_eq!(Value::Object(short.too_few), json!({"p99": {"needs": 662, "has": 400}}));
        // Of a run that is long enough it is known how many independent values there are.
        let known = summary(50.0);
        assert_eq!((known.doubt, &known.percentiles["p90"]), (None, &Value::Null));
        assert_eq!(known.too_few["p90"], json!({"needs": 64, "has": 50}));
    }

    proptest! {
        /// Through JSON, as in `vb-agg --pool`.
        #[test]
        fn pooled_parts_give_the_numbers_of_one_stream(
            values in prop::collection::vec(prop_oneof![0.0..0.1, 1e-5..1e-3, 0.0..30.0], 2..400), cut in 0.0..1.0
        ) {
            let wanted = SummaryOptions { percentiles: vec![50.0, 90.0, 99.9], histograms: true };
            let stats = |values: &[f64]| {
                let dependence = Dependence::measure(values, &wanted.percentiles);
                SampleStats::with_intervals(&[values], Unit::Seconds, &wanted, &dependence)
            };
            let at = super::super::numpy::truncate_to_usize(cut * values.len() as f64);
            let parts = [&values[..at], &values[at..]].map(|values| {
                let json = serde_json::to_string(&Summary::from_stats(&stats(values))).unwrap();
                serde_json::from_str::<Summary>(&json).unwrap()
            });
            let pooled = Summary::pool_parts(
                &[&parts[0], &parts[1]],
                Unit::Seconds,
                PoolMode::Sequential,
                &SummaryOptions { histograms: false, ..wanted.clone() },
            )
            .unwrap();
            let whole = stats(&values);
            let close = |a: f64, b: f64, share: f64| (a - b).abs() <= b.abs() * share + 1e-9;
            prop_assert_eq!(pooled.n, whole.n);
            for ((p, a), (_, b)) in pooled.percentiles.iter().zip(&whole.percentiles) {
                prop_assert!(close(*a, *b, super::super::histogram::MAX_RELATIVE_ERROR), "p{} is {} and not {}", p, a, b);
            }
            prop_assert!(close(pooled.mean, whole.mean, 1e-9) && close(pooled.std, whole.std, 1e-6));
            prop_assert!(close(pooled.min, whole.min, 1e-12) && close(pooled.max, whole.max, 1e-12));
        }
    }
}
