//! How much of a mean latency is due to the slowest requests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::statistics::{Summary, histogram::ValueCounts};

/// One of this number of requests is among the slowest; fewer have none.
const ONE_IN: usize = 100;

/// The slowest 1 % of the successes, by latency from their start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Slowest {
    /// By time to first token; `null` with fewer than 100 values.
    pub ttft: Option<SlowestShare>,
    /// By end-to-end latency; `null` with fewer than 100 values.
    pub e2el: Option<SlowestShare>,
}

/// What the slowest requests add to a mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SlowestShare {
    /// How many requests are the slowest 1 %: n / 100, rounded up.
    pub requests: usize,
    /// Their sum / the sum of all values, and so their share of the mean: about 0.01 if they are like the others.
    pub share_of_mean: f64,
}

impl SlowestShare {
    /// The share in these values; `None` with fewer than 100, or if all are 0.
    #[must_use]
    pub fn measure(mut values: Vec<f64>) -> Option<Self> {
        let requests = count_slowest(values.len())?;
        let sum: f64 = values.iter().sum();
        let last_other = values.len() - requests - 1;
        let (_, _, above) = values.select_nth_unstable_by(last_other, f64::total_cmp);
        (sum > 0.0).then(|| SlowestShare { requests, share_of_mean: above.iter().sum::<f64>() / sum })
    }

    /// The share in the values of several summaries, within the error of their histograms; `None` also without histograms.
    #[must_use]
    pub fn pool_summaries(parts: &[&Summary]) -> Option<Self> {
        let requests = count_slowest(parts.iter().map(|part| part.n).sum())?;
        let histograms = parts.iter().filter(|part| part.n > 0).map(|part| Some(&part.histogram.as_ref()?.hdr));
        let counts = ValueCounts::merge_all(histograms.collect::<Option<Vec<_>>>()?)?;
        Some(SlowestShare { requests, share_of_mean: counts.share_of_highest(requests as u64)? })
    }
}

fn count_slowest(n: usize) -> Option<usize> {
    (n >= ONE_IN).then(|| n.div_ceil(ONE_IN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{SampleStats, SummaryOptions, Unit};

    #[test]
    fn the_slowest_of_a_hundred_are_a_part_of_the_mean() {
        let mut values: Vec<f64> = (0..101).map(|_| 1.0).collect();
        assert_eq!(SlowestShare::measure(values[..99].to_vec()), None);
        assert_eq!(SlowestShare::measure(vec![0.0; 200]), None);
        (values[7], values[70]) = (30.0, 20.5);
        let share = SlowestShare::measure(values.clone()).unwrap();
        assert_eq!(share.requests, 2);
        assert!((share.share_of_mean - 50.5 / 149.5).abs() < 1e-12, "{share:?}");
        let options = SummaryOptions { percentiles: vec![], histograms: true };
        let part = |values: &[f64]| Summary::from_stats(&SampleStats::from_values(values, Unit::Seconds, &options));
        let parts = [part(&values[..50]), part(&[]), part(&values[50..])];
        let pooled = SlowestShare::pool_summaries(&parts.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(pooled.requests, 2);
        assert!((pooled.share_of_mean / share.share_of_mean - 1.0).abs() < 1e-3, "{pooled:?}");
    }
}
