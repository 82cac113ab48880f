//! The rows of a comparison: a number of both sides, its change and the verdict on it.

use schemars::JsonSchema;
use serde::Serialize;

use super::estimate::SideEstimate;
use crate::statistics::interval::Interval;

/// The unit of a share.
pub const SHARE: &str = "1";

/// A number of both sides, and what is to be thought of its change.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Row")]
pub struct ChangeRow {
    /// `ttft`, `tpot`, `itl`, `e2el`, those of them that count from the schedule, `throughput` (output tokens),
    /// `request_throughput` or `success`.
    pub metric: String,
    /// `mean`, a percentile as `p99`, `rate` or `share`.
    pub statistic: String,
    /// `ms`, `tokens/s`, `requests/s`, or `1` for a share.
    pub unit: &'static str,
    /// The number of A.
    pub a: Number,
    /// The number of B.
    pub b: Number,
    /// B − A.
    pub difference: ChangeRange,
    /// B / A − 1; `null` for a share, and where a number is 0.
    pub relative: Option<ChangeRange>,
    /// How probable so large a difference is between equals; `null`: too few values.
    pub p: Option<f64>,
    /// The same, corrected for the number of comparisons.
    pub p_corrected: Option<f64>,
    /// What to call it.
    pub verdict: ChangeVerdict,
    /// When it is undecided or there are too few values: requests that each side needs on top, about.
    pub needs_more: Option<u64>,
}

/// A number of one side.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Number {
    /// The number.
    pub value: f64,
    /// The lower end of its 95 % interval; `null`: too few values.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
    /// Values that it is made of.
    pub n: usize,
    /// Independent values that would tell as much.
    pub n_effective: f64,
    /// What was taken as sampled: `requests` or, where repeats vary more than the requests in them let expect, `runs`.
    pub basis: &'static str,
}

/// A change with its 95 % interval.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[schemars(rename = "Range")]
pub struct ChangeRange {
    /// The change.
    pub value: f64,
    /// The lower end; `null`: too few values.
    pub low: Option<f64>,
    /// The upper end.
    pub high: Option<f64>,
}

/// What to call a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Verdict")]
pub enum ChangeVerdict {
    /// B is better, and it is no chance.
    Better,
    /// B is worse, and it is no chance.
    Worse,
    /// The interval of the change is within the margin on both sides.
    Same,
    /// It may be chance, and it may matter.
    Undecided,
    /// There are too few values of this number.
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
        Number { value, low, high, n: estimate.n, n_effective: estimate.effective, basis: estimate.sampling_basis() }
    }
}
