//! The comparison as a record: one line of JSON, from which the tables are made as well.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    change::{ALPHA, Change, holm_correction},
    check::{CheckOutcome, check_changes},
    row::{ChangeRange, ChangeRow, ChangeVerdict, Number, SHARE},
    side::{Latency, Side},
    warnings,
};
use crate::{
    recording::{RecordedRequest, metric::Metric, rule::Rule},
    statistics::{interval, numpy},
};

/// The version of this record.
const FORMAT: u32 = 1;

/// The options of a comparison.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// The percentiles, 0 to 100.
    pub percentiles: Vec<f64>,
    /// Changes up to this share do not matter.
    pub margin: f64,
    /// The limits from `--fail-if`.
    pub rules: Vec<Rule>,
}

/// Beyond this factor the requests needed are not reported: such a run is not in a steady state, and more requests do not help.
const MAX_TIMES_NEEDED: f64 = 1000.0;

/// A comparison of two sides.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Report {
    /// The version of this record.
    pub format: u32,
    /// The program that wrote this, and its version.
    pub tool: String,
    /// The share of intervals that contain the true value.
    pub confidence: f64,
    /// Changes up to this share do not matter.
    pub margin: f64,
    /// How many numbers were compared; the p-values are corrected for it.
    pub comparisons: usize,
    /// The first side.
    pub a: SideSummary,
    /// The second side.
    pub b: SideSummary,
    /// Reasons why the sides may not be comparable.
    pub warnings: Vec<String>,
    /// Each number of both sides.
    pub changes: Vec<ChangeRow>,
    /// The result of each `--fail-if`.
    pub checks: Vec<CheckOutcome>,
}

/// One side of a comparison.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Told")]
pub struct SideSummary {
    /// The files, one per run.
    pub files: Vec<String>,
    /// Requests that were due.
    pub requests: u64,
    /// How many of them failed; one that the client cancelled on purpose did not.
    pub failed: u64,
}

/// A number to compare, before the verdict.
struct Candidate {
    metric: &'static str,
    statistic: String,
    unit: &'static str,
    scale: f64,
    more_is_better: bool,
    /// The fewest values of a side with which it can be compared.
    needs: u64,
    change: Change,
}

impl Candidate {
    /// The p-value; `None` if there are too few values.
    fn p_value(&self) -> Option<f64> {
        let fewest = self.change.a.n.min(self.change.b.n) as u64;
        if fewest >= self.needs { self.change.p_value() } else { None }
    }
}

impl Report {
    /// Compares two sides.
    #[must_use]
    pub fn compare_sides(a: &Side, b: &Side, options: &CompareOptions) -> Self {
        let candidates = list_candidates(a, b, &options.percentiles);
        let p: Vec<_> = candidates.iter().map(Candidate::p_value).collect();
        let comparisons = p.iter().flatten().count();
        let requests = a.population().counted().min(b.population().counted());
        let judged = candidates.iter().zip(&p).zip(holm_correction(&p));
        let changes: Vec<ChangeRow> = judged
            .map(|((candidate, p), corrected)| {
                judge_candidate(candidate, *p, corrected, options.margin, comparisons, requests)
            })
            .collect();
        Report {
            format: FORMAT,
            tool: concat!("vb-diff ", env!("CARGO_PKG_VERSION")).into(),
            confidence: 1.0 - 2.0 * interval::TAIL,
            margin: options.margin,
            comparisons,
            a: SideSummary::from_side(a),
            b: SideSummary::from_side(b),
            warnings: warnings::comparison_warnings(a, b, &changes),
            checks: options.rules.iter().map(|rule| check_changes(rule, &changes)).collect(),
            changes,
        }
    }
}

impl SideSummary {
    fn from_side(side: &Side) -> Self {
        let population = side.population();
        SideSummary {
            files: side.runs.iter().map(|run| run.name.clone()).collect(),
            requests: population.offered,
            failed: population.failed(),
        }
    }
}

fn list_candidates(a: &Side, b: &Side, percentiles: &[f64]) -> Vec<Candidate> {
    let mut all = Vec::new();
    for metric in [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el] {
        push_latencies(&mut all, (a, b), metric.name(), metric.into(), percentiles);
    }
    if a.requests_waited() || b.requests_waited() {
        let ttft = Latency::PerRequest(RecordedRequest::ttft_from_schedule);
        let e2el = Metric::E2elIncludingClientQueue.into();
        push_latencies(&mut all, (a, b), "ttft_from_schedule", ttft, percentiles);
        push_latencies(&mut all, (a, b), "e2el_from_schedule", e2el, percentiles);
    }
    let tokens = |side: &Side| side.estimate_throughput(|r| f64::from(r.output_tokens));
    let requests = |side: &Side| side.estimate_throughput(|_| 1.0);
    let rates = [
        ("throughput", "tokens/s", tokens(a).zip(tokens(b))),
        ("request_throughput", "requests/s", requests(a).zip(requests(b))),
    ];
    let more = |metric, statistic: &str, unit, (a, b)| Candidate {
        metric,
        statistic: statistic.into(),
        unit,
        scale: 1.0,
        more_is_better: true,
        needs: 2,
        change: Change { a, b },
    };
    for (metric, unit, both) in rates {
        all.extend(both.map(|both| more(metric, "rate", unit, both)));
    }
    all.extend(a.success_share().zip(b.success_share()).map(|both| more("success", "share", SHARE, both)));
    all
}

fn push_latencies(
    all: &mut Vec<Candidate>,
    (a, b): (&Side, &Side),
    metric: &'static str,
    latency: Latency,
    percentiles: &[f64],
) {
    let (a, b) = (a.estimate_latency(latency, percentiles), b.estimate_latency(latency, percentiles));
    let names = std::iter::once(("mean".to_owned(), 2))
        .chain(percentiles.iter().map(|p| (format!("p{p}"), interval::samples_needed(*p).unwrap_or(u64::MAX))));
    for ((statistic, needs), (a, b)) in names.zip(a.into_iter().zip(b)) {
        let change = Change { a, b };
        let candidate = Candidate { metric, statistic, unit: "ms", scale: 1e3, more_is_better: false, needs, change };
        all.push(candidate);
    }
}

fn judge_candidate(
    candidate: &Candidate,
    p: Option<f64>,
    p_corrected: Option<f64>,
    margin: f64,
    comparisons: usize,
    requests: u64,
) -> ChangeRow {
    let change = &candidate.change;
    let up = change.b.value > change.a.value;
    let verdict = match p_corrected {
        None => ChangeVerdict::TooFew,
        // Any significant change in the share of failures matters, even within the margin.
        Some(p) if change.is_within(margin) && (candidate.unit != SHARE || p >= ALPHA) => ChangeVerdict::Same,
        Some(p) if p < ALPHA && up == candidate.more_is_better => ChangeVerdict::Better,
        Some(p) if p < ALPHA => ChangeVerdict::Worse,
        Some(_) => ChangeVerdict::Undecided,
    };
    let needs_more = match verdict {
        ChangeVerdict::Undecided => {
            let times = change.times_needed(margin, ALPHA / comparisons as f64);
            let worth_it = times.filter(|times| *times > 1.0 && *times < MAX_TIMES_NEEDED);
            worth_it.map(|times| ceil_to_count((times - 1.0) * requests as f64))
        }
        ChangeVerdict::TooFew => requests_missing(candidate, requests),
        _ => None,
    };
    ChangeRow {
        metric: candidate.metric.into(),
        statistic: candidate.statistic.clone(),
        unit: candidate.unit,
        a: Number::from_estimate(&change.a, candidate.scale),
        b: Number::from_estimate(&change.b, candidate.scale),
        difference: ChangeRange::from_change(change.difference(), candidate.scale),
        relative: if candidate.unit == SHARE {
            None
        } else {
            change.relative_change().map(|relative| ChangeRange::from_change(relative, 1.0))
        },
        p,
        p_corrected,
        verdict,
        needs_more,
    }
}

/// How many more requests each side needs until there are enough values, or enough independent ones.
fn requests_missing(candidate: &Candidate, requests: u64) -> Option<u64> {
    let (a, b) = (&candidate.change.a, &candidate.change.b);
    let fewest = a.n.min(b.n);
    let has = if (fewest as u64) < candidate.needs { fewest as f64 } else { a.effective.min(b.effective) };
    let times = candidate.needs as f64 / has;
    (candidate.needs < u64::MAX && times > 1.0).then(|| ceil_to_count((times - 1.0) * requests as f64))
}

/// Rounds up to two digits, because the number is an estimate.
fn ceil_to_count(requests: f64) -> u64 {
    let unit = 10_f64.powf((requests.max(1.0).log10().floor() - 1.0).max(0.0));
    numpy::truncate_to_usize((requests / unit).ceil() * unit) as u64
}
