//! Sides with a summary: one number for each run, and Welch's test between the runs of both sides.

use super::{
    candidate::Candidate,
    change::Change,
    estimate::SideEstimate,
    side::{Latency, Side, SideRun, mean_and_percentiles},
};
use crate::{
    recording::{RecordedRequest, metric::Metric, population::Population},
    summaries::RunSummary,
};

/// What the warning of a comparison of summaries says.
pub const WEAKER: &str = "summaries without their requests are weaker than outputs: there is one number for each run, so that only repeats have \
                          intervals, percentiles of one run have none, and failures, steadiness and the client cannot be checked";

/// The fewest runs of a side with which Welch's test is made.
pub const MIN_RUNS: u64 = 2;

/// The settings in which the runs of one file may not differ.
const SETTINGS: [&str; 5] = ["model_id", "backend", "strategy", "request_rate", "max_concurrency"];

/// The latencies to compare, by their names in keys. `itl_per_token` has a mean only.
const LATENCIES: [Metric; 4] = [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el];

/// The mean time per token between first and last tokens: guidellm's ITL.
const ITL_PER_TOKEN: &str = "itl_per_token";

/// Lists the numbers that both sides have, and that a test or a rule may compare.
#[must_use]
pub fn list_candidates(a: &Side, b: &Side, percentiles: &[f64]) -> Vec<Candidate> {
    let mut all = Vec::new();
    let mut push = |metric, statistic: &str, unit, scale, more_is_better, value: &dyn Fn(&SideRun) -> Option<f64>| {
        let numbers = |side: &Side| -> Vec<f64> {
            // No latency and no throughput is 0: programs write it if they measured nothing.
            side.runs.iter().filter_map(value).filter(|number| *number > 0.0).collect()
        };
        let (of_a, of_b) = (numbers(a), numbers(b));
        if !of_a.is_empty() && !of_b.is_empty() {
            let change = Change::between_runs(SideEstimate::from_runs(&of_a), SideEstimate::from_runs(&of_b));
            all.push(Candidate {
                metric,
                statistic: statistic.into(),
                unit,
                scale,
                more_is_better,
                needs: MIN_RUNS,
                change,
            });
        }
    };
    for metric in LATENCIES {
        for percentile in std::iter::once(None).chain(percentiles.iter().copied().map(Some)) {
            let statistic = percentile.map_or_else(|| "mean".to_owned(), |p| format!("p{p}"));
            push(metric.name(), &statistic, "ms", 1e3, false, &|run| latency(run, metric, percentile));
        }
    }
    push(ITL_PER_TOKEN, "mean", "ms", 1e3, false, &|run| {
        Some(run.summary.as_ref()?.number("mean_itl_per_token_ms")? / 1e3)
    });
    push("throughput", "rate", "tokens/s", 1.0, true, &|run| {
        throughput(run, "output_throughput", |r| f64::from(r.output_tokens))
    });
    push("request_throughput", "rate", "requests/s", 1.0, true, &|run| throughput(run, "request_throughput", |_| 1.0));
    all.extend(a.success_share().zip(b.success_share()).map(|(a, b)| Candidate::of_success(a, b)));
    all
}

/// A latency of a run in seconds: its mean, or a percentile.
fn latency(run: &SideRun, metric: Metric, percentile: Option<f64>) -> Option<f64> {
    let Some(summary) = &run.summary else {
        let values = run.all_values(Latency::from(metric));
        let is_known = !values.is_empty();
        let (numbers, _) = mean_and_percentiles(values, percentile.as_slice());
        return numbers.last().copied().filter(|_| is_known);
    };
    if has_no_success(summary) {
        return None;
    }
    let number = |statistic: &str| summary.number(&format!("{statistic}_{}_ms", metric.name()));
    let value = match percentile {
        None => number("mean"),
        Some(50.0) => number("median").or_else(|| number("p50")),
        Some(p) => number(&format!("p{p}")),
    };
    Some(value? / 1e3)
}

/// The throughput of a run: of a summary the number with this key, else what its requests weigh together.
fn throughput(run: &SideRun, key: &str, weight: fn(&RecordedRequest) -> f64) -> Option<f64> {
    match &run.summary {
        Some(summary) if has_no_success(summary) => None,
        Some(summary) => summary.number(key),
        None => {
            let seconds = run.recording.duration();
            (seconds > 0.0).then(|| run.recording.successes().map(weight).sum::<f64>() / seconds)
        }
    }
}

/// Whether nothing was measured: programs write 0 for it, or the numbers of failures.
fn has_no_success(summary: &RunSummary) -> bool {
    summary.count("completed") == Some(0)
}

/// How many requests of a run failed; `None` if its summary does not have it.
#[must_use]
pub fn failures(summary: &RunSummary) -> Option<u64> {
    let due = || Some(summary.count("num_prompts")?.saturating_sub(summary.count("completed")?));
    summary.count("failed").or_else(due)
}

/// The requests of a run, as far as its summary has them.
#[must_use]
pub fn population(summary: &RunSummary) -> Population {
    let succeeded = summary.count("completed").unwrap_or_default();
    Population { offered: succeeded.saturating_add(failures(summary).unwrap_or_default()), abandoned: 0, succeeded }
}

/// The first setting in which two runs differ, and its values.
#[must_use]
pub fn different_setting(one: &RunSummary, other: &RunSummary) -> Option<(&'static str, String, String)> {
    let text = |run: &RunSummary, key| run.values.get(key).map_or_else(|| "missing".to_owned(), ToString::to_string);
    SETTINGS
        .into_iter()
        .find(|key| one.values.get(*key) != other.values.get(*key))
        .map(|key| (key, text(one, key), text(other, key)))
}

/// The mean of a count over the successes of a run.
#[must_use]
pub fn mean_count(summary: &RunSummary, total: &str) -> Option<f64> {
    let completed = summary.number("completed").filter(|n| *n > 0.0)?;
    Some(summary.number(total)? / completed)
}
