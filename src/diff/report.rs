//! The comparison as a record: one line of JSON, from which the tables are made too.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    change::{ALPHA, Change, holm},
    check::{Outcome, Rule},
    estimate::Estimate,
    facts,
    side::{Latency, Side},
};
use crate::{
    recording::{RecordedRequest, metric::Metric},
    statistics::{
        interval::{self, Interval},
        numpy,
    },
};

/// The version of this record.
const FORMAT: u32 = 1;

/// The unit of a share.
pub const SHARE: &str = "1";

/// What is compared, checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The percentiles, 0 to 100.
    pub percentiles: Vec<f64>,
    /// A change up to this share is none that matters.
    pub margin: f64,
    /// What must not be.
    pub rules: Vec<Rule>,
}

/// More than this many times the requests are not told: such a run is no steady state, and more of it tells no more.
const MOST_TIMES: f64 = 1000.0;

/// A comparison of two sides.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Report {
    /// The version of this record.
    pub format: u32,
    /// The program that wrote this, and its version.
    pub tool: String,
    /// The share of intervals that hold the truth.
    pub confidence: f64,
    /// A change up to this share is none that matters.
    pub margin: f64,
    /// The numbers that were compared and for which the p-values are corrected.
    pub comparisons: usize,
    /// The first side.
    pub a: Told,
    /// The second side.
    pub b: Told,
    /// What speaks against comparing them.
    pub warnings: Vec<String>,
    /// Each number of both sides.
    pub changes: Vec<Row>,
    /// What became of each `--fail-if`.
    pub checks: Vec<Outcome>,
}

/// A side.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Told {
    /// The files, a run each.
    pub files: Vec<String>,
    /// Requests that were due.
    pub requests: usize,
    /// Those of them that failed.
    pub failed: usize,
}

/// A number of both sides, and what is to be thought of its change.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Row {
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
    pub difference: Range,
    /// B / A − 1; `null` for a share, and where a number is 0.
    pub relative: Option<Range>,
    /// How probable so large a difference is between equals; `null`: too few values.
    pub p: Option<f64>,
    /// The same, corrected for the number of comparisons.
    pub p_corrected: Option<f64>,
    /// What to call it.
    pub verdict: Verdict,
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
pub struct Range {
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
pub enum Verdict {
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

impl Range {
    fn of((value, interval): (f64, Interval), scale: f64) -> Self {
        let scaled = |end: Option<f64>| end.map(|end| end * scale);
        Range { value: value * scale, low: scaled(interval.low), high: scaled(interval.high) }
    }
}

impl Number {
    fn of(estimate: &Estimate, scale: f64) -> Self {
        let Range { value, low, high } = Range::of((estimate.value, estimate.interval()), scale);
        Number { value, low, high, n: estimate.n, n_effective: estimate.effective, basis: estimate.basis() }
    }
}

/// A number to compare, before any is judged.
struct Candidate {
    metric: &'static str,
    statistic: String,
    unit: &'static str,
    scale: f64,
    more_is_better: bool,
    /// The fewest values of a side with which it can be told.
    needs: u64,
    change: Change,
}

impl Candidate {
    /// The p-value; `None`: there are too few values.
    fn p_value(&self) -> Option<f64> {
        let fewest = self.change.a.n.min(self.change.b.n) as u64;
        if fewest >= self.needs { self.change.p_value() } else { None }
    }
}

impl Report {
    /// Compares them.
    #[must_use]
    pub fn of(a: &Side, b: &Side, options: &Options) -> Self {
        let candidates = candidates(a, b, &options.percentiles);
        let p: Vec<_> = candidates.iter().map(Candidate::p_value).collect();
        let comparisons = p.iter().flatten().count();
        let requests = a.requests().min(b.requests());
        let judged = candidates.iter().zip(&p).zip(holm(&p));
        let changes: Vec<Row> =
            judged.map(|((c, p), corrected)| row(c, *p, corrected, options.margin, comparisons, requests)).collect();
        Report {
            format: FORMAT,
            tool: concat!("vb-diff ", env!("CARGO_PKG_VERSION")).into(),
            confidence: 1.0 - 2.0 * interval::TAIL,
            margin: options.margin,
            comparisons,
            a: Told::of(a),
            b: Told::of(b),
            warnings: facts::warnings(a, b, &changes),
            checks: options.rules.iter().map(|rule| rule.judge(&changes)).collect(),
            changes,
        }
    }
}

impl Told {
    fn of(side: &Side) -> Self {
        Told {
            files: side.runs.iter().map(|run| run.name.clone()).collect(),
            requests: side.requests(),
            failed: side.failed(),
        }
    }
}

fn candidates(a: &Side, b: &Side, percentiles: &[f64]) -> Vec<Candidate> {
    let mut all = Vec::new();
    for metric in [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el] {
        latencies(&mut all, (a, b), metric.name(), metric.into(), percentiles);
    }
    if a.waited() || b.waited() {
        let ttft = Latency::PerRequest(RecordedRequest::ttft_from_schedule);
        let e2el = Metric::E2elIncludingClientQueue.into();
        latencies(&mut all, (a, b), "ttft_from_schedule", ttft, percentiles);
        latencies(&mut all, (a, b), "e2el_from_schedule", e2el, percentiles);
    }
    let tokens = |side: &Side| side.throughput(|r| f64::from(r.output_tokens));
    let requests = |side: &Side| side.throughput(|_| 1.0);
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
    all.push(more("success", "share", SHARE, (a.success_share(), b.success_share())));
    all
}

fn latencies(
    all: &mut Vec<Candidate>,
    (a, b): (&Side, &Side),
    metric: &'static str,
    latency: Latency,
    percentiles: &[f64],
) {
    let (a, b) = (a.latencies(latency, percentiles), b.latencies(latency, percentiles));
    let names = std::iter::once(("mean".to_owned(), 2))
        .chain(percentiles.iter().map(|p| (format!("p{p}"), interval::samples_needed(*p).unwrap_or(u64::MAX))));
    for ((statistic, needs), (a, b)) in names.zip(a.into_iter().zip(b)) {
        let change = Change { a, b };
        let candidate = Candidate { metric, statistic, unit: "ms", scale: 1e3, more_is_better: false, needs, change };
        all.push(candidate);
    }
}

fn row(
    of: &Candidate,
    p: Option<f64>,
    p_corrected: Option<f64>,
    margin: f64,
    comparisons: usize,
    requests: usize,
) -> Row {
    let change = &of.change;
    let up = change.b.value > change.a.value;
    let verdict = match p_corrected {
        None => Verdict::TooFew,
        // Of failures no small share is one that does not matter.
        Some(p) if change.within(margin) && (of.unit != SHARE || p >= ALPHA) => Verdict::Same,
        Some(p) if p < ALPHA && up == of.more_is_better => Verdict::Better,
        Some(p) if p < ALPHA => Verdict::Worse,
        Some(_) => Verdict::Undecided,
    };
    let needs_more = match verdict {
        Verdict::Undecided => {
            let times = change.times_needed(margin, ALPHA / comparisons as f64);
            let told = times.filter(|times| *times > 1.0 && *times < MOST_TIMES);
            told.map(|times| whole((times - 1.0) * requests as f64))
        }
        Verdict::TooFew => more_values(of, requests),
        _ => None,
    };
    Row {
        metric: of.metric.into(),
        statistic: of.statistic.clone(),
        unit: of.unit,
        a: Number::of(&change.a, of.scale),
        b: Number::of(&change.b, of.scale),
        difference: Range::of(change.difference(), of.scale),
        relative: if of.unit == SHARE { None } else { change.relative().map(|relative| Range::of(relative, 1.0)) },
        p,
        p_corrected,
        verdict,
        needs_more,
    }
}

/// Requests on top until there are enough values, or enough independent ones.
fn more_values(of: &Candidate, requests: usize) -> Option<u64> {
    let (a, b) = (&of.change.a, &of.change.b);
    let fewest = a.n.min(b.n);
    let has = if (fewest as u64) < of.needs { fewest as f64 } else { a.effective.min(b.effective) };
    let times = of.needs as f64 / has;
    (of.needs < u64::MAX && times > 1.0).then(|| whole((times - 1.0) * requests as f64))
}

/// Rounded up, to two digits: it is an estimate.
fn whole(requests: f64) -> u64 {
    let unit = 10_f64.powf((requests.max(1.0).log10().floor() - 1.0).max(0.0));
    numpy::truncate_to_usize((requests / unit).ceil() * unit) as u64
}
