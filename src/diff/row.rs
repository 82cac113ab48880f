//! The rows of a comparison: a number of both sides, its change and the verdict on it.

use schemars::JsonSchema;
use serde::Serialize;

use super::estimate::SideEstimate;
use crate::statistics::{Doubt, interval::Interval};

/// The unit of a share.
pub const SHARE: &str = "1";

/// A number of both sides, its change, and the verdict.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Row")]
pub struct ChangeRow {
    /// `ttft`, `tpot`, `itl`, `e2el`, `ttft_from_schedule`, `e2el_from_schedule`, `itl_per_token` (only of summaries), `throughput`
    /// (output tokens), `request_throughput` or `success`.
    pub metric: String,
    /// `mean`, a percentile like `p99`, `rate` or `share`.
    pub statistic: String,
    /// `ms`, `tokens/s`, `requests/s`, or `1` for a share.
    pub unit: &'static str,
    /// The number of A.
    pub a: Number,
    /// The number of B.
    pub b: Number,
    /// B − A.
    pub difference: ChangeRange,
    /// B / A − 1; `null` for a share, and if a number is 0.
    pub relative: Option<ChangeRange>,
    /// The probability of a difference this large between equal servers; `null` if there are too few values.
    pub p: Option<f64>,
    /// The same, corrected for the number of comparisons.
    pub p_corrected: Option<f64>,
    /// The verdict.
    pub verdict: ChangeVerdict,
    /// Why the intervals of its numbers are not certain; `null` if nothing speaks against them. `too_short`: a side lasts fewer than 30
    /// correlation times, so that it has no p and no verdict. `long_memory`: a side has waves as long as itself.
    pub doubt: Option<Doubt>,
    /// If it is undecided: about how many more requests (of summaries: runs) each side needs to find a change as large as the margin.
    /// `null` if more would not help.
    pub needs_more: Option<u64>,
    /// If it has too few values for a verdict: how many independent values each side needs, and how many the side with fewer has.
    /// Else `null`.
    pub too_few: Option<TooFew>,
}

/// Too few values, as in the results of `vb-stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TooFew {
    /// How many independent values are needed.
    pub needs: u64,
    /// How many there are.
    pub has: u64,
}

/// A number of one side.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Number {
    /// The value.
    pub value: f64,
    /// The lower end of its 95 % interval; `null` if there are too few values.
    pub low: Option<f64>,
    /// The upper end of its 95 % interval.
    pub high: Option<f64>,
    /// How many values it was computed from.
    pub n: usize,
    /// The number of independent values with the same information.
    pub n_effective: f64,
    /// What was sampled: `requests` or, if repeats vary more than their requests explain and for summaries, `runs`.
    pub basis: &'static str,
}

/// A change with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Range")]
pub struct ChangeRange {
    /// The change.
    pub value: f64,
    /// The lower end; `null` if there are too few values.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
}

/// The verdict on a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Verdict")]
pub enum ChangeVerdict {
    /// B is better, and the change is statistically significant.
    Better,
    /// B is worse, and the change is statistically significant.
    Worse,
    /// The interval of the change is within the margin on both sides.
    Same,
    /// The change may be chance, and may be beyond the margin.
    Undecided,
    /// There are too few values.
    TooFew,
}

impl ChangeRange {
    pub fn from_change((value, interval): (f64, Interval), scale: f64) -> Self {
        let scaled = |end: Option<f64>| end.map(|end| end * scale);
        ChangeRange { value: value * scale, low: scaled(interval.low), high: scaled(interval.high) }
    }
}

impl Number {
    pub fn from_estimate(estimate: &SideEstimate, scale: f64) -> Self {
        let ChangeRange { value, low, high } =
            ChangeRange::from_change((estimate.value, estimate.confidence_interval()), scale);
        Number {
            value,
            low,
            high,
            n: estimate.n,
            n_effective: estimate.evidence.effective,
            basis: estimate.sampling_basis(),
        }
    }
}
