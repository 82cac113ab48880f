//! Pools results: the parts of one run that was too long to keep, the hosts of one load, or several runs one after the other.
//!
//! Percentiles are computed from the pooled histograms, and never averaged. This module orders the results and pools their
//! header; every other part of a result pools itself.

use std::iter::once;

use super::{
    pooling::{PoolOptions, Pooled, Pooling},
    rate::MeasuredRate,
    result::{self, RunResult},
    throughput::GpuThroughput,
    vb::VbMetrics,
};
use crate::{
    record::Object,
    recording::metric::Metric,
    statistics::{PoolMode, SampleStats, Summary, SummaryOptions, Unit, numpy, parse_percentile},
};

const NO_HISTOGRAMS: &str = "a result without histograms cannot be pooled: write it with vb-stats --histograms";

/// Pools the results of hosts and of repeats. Runs that overlap in time are hosts of one load; the others ran one after the
/// other. An error says why the results cannot be pooled.
pub fn pool_runs(results: Vec<RunResult>) -> Result<RunResult, String> {
    let options = |together| PoolOptions { together, histograms: true };
    let mut results = results;
    results.sort_by_key(|result| result.vb.start_time);
    for (i, result) in results.iter().enumerate() {
        if let Some(id) = results[..i].iter().find_map(|other| shared_run(&other.vb, &result.vb)) {
            return Err(format!("two results have the run {id}, which would count twice; pass each run once"));
        }
    }
    let mut loads: Vec<Vec<RunResult>> = Vec::new();
    for result in results {
        let overlaps = |load: &Vec<RunResult>| load.iter().any(|other| runs_overlap(&other.vb, &result.vb));
        match loads.last_mut() {
            Some(load) if overlaps(load) => load.push(result),
            _ => loads.push(vec![result]),
        }
    }
    let loads: Result<Vec<RunResult>, String> =
        loads.iter().map(|load| pool_results(load, options(PoolMode::Concurrent))).collect();
    pool_results(&loads?, options(PoolMode::Sequential))
}

/// The id of a run that is in both results. Hosts may share an id and the parts of a run its start, but not all of this.
fn shared_run<'a>(a: &'a VbMetrics, b: &VbMetrics) -> Option<&'a String> {
    let bounds = |vb: &VbMetrics| (vb.start_time, vb.end_time, vb.offered);
    let same = a.start_time.is_some() && bounds(a) == bounds(b);
    a.run_ids.iter().find(|id| same && b.run_ids.contains(id))
}

fn runs_overlap(a: &VbMetrics, b: &VbMetrics) -> bool {
    let spans = a.start_time.zip(a.end_time).zip(b.start_time.zip(b.end_time));
    spans.is_some_and(|((from, to), (start, end))| from < end && start < to)
}

/// Pools the earlier parts of a run with its last one, which has the values that concern the whole run.
pub fn pool_parts(earlier: RunResult, last: RunResult, histograms: bool) -> Result<RunResult, String> {
    let (header, duration, run) = (last.header.clone(), last.duration, last.vb.clone());
    // Results are large: on the heap.
    let both: Vec<RunResult> = once(earlier).chain(once(last)).collect();
    let mut all = pool_results(&both, PoolOptions { together: PoolMode::Sequential, histograms })?;
    (all.header, all.duration) = (header, duration);
    all.set_rates();
    let rate = |per_s| MeasuredRate { per_s, interval: None };
    all.vb = VbMetrics {
        complete: run.complete,
        open_loop: run.open_loop,
        start_time: run.start_time,
        end_time: run.end_time,
        steady: run.steady,
        requests_per_s: rate(all.request_throughput),
        output_tokens_per_s: rate(all.output_throughput),
        ..all.vb
    };
    Ok(all)
}

fn pool_results(results: &[RunResult], options: PoolOptions) -> Result<RunResult, String> {
    let [first, others @ ..] = results else { return Err("there is nothing to pool".into()) };
    if others.is_empty() {
        return Ok(first.clone());
    }
    let sum = |count: fn(&RunResult) -> u64| results.iter().map(count).fold(0, u64::saturating_add);
    let peak = |value: fn(&RunResult) -> f64| {
        let each = results.iter().map(value);
        match options.together {
            PoolMode::Concurrent => each.sum(),
            PoolMode::Sequential => each.fold(0.0, f64::max),
        }
    };
    let duration = pool_durations(results, options.together);
    let mut all = RunResult {
        header: pool_headers(results, options.together),
        duration,
        completed: sum(|r| r.completed),
        failed: sum(|r| r.vb.population().failed()),
        total_input_tokens: sum(|r| r.total_input_tokens),
        total_output_tokens: sum(|r| r.total_output_tokens),
        max_output_tokens_per_s: peak(|r| r.max_output_tokens_per_s),
        max_concurrent_requests: numpy::truncate_to_usize(peak(|r| r.max_concurrent_requests as f64)) as u64,
        rtfx: 0.0,
        metrics: pool_metrics(results, options.together).ok_or(NO_HISTOGRAMS)?,
        vb: VbMetrics::pool(&Pooling { all: results.iter().map(|r| &r.vb).collect(), options }).ok_or(NO_HISTOGRAMS)?,
        in_flight: results.iter().map(|r| r.in_flight).sum(),
        gpus: GpuThroughput::common_gpus(results.iter().map(|r| r.gpus)),
        ..RunResult::default()
    };
    all.set_rates();
    let seconds: Vec<f64> = results.iter().map(|r| r.duration).collect();
    let pool_rates = |rate: fn(&VbMetrics) -> &MeasuredRate, per_s: f64| {
        let rates = Pooling { all: results.iter().map(|r| rate(&r.vb)).collect(), options };
        MeasuredRate::pool_weighted(&rates, &seconds, per_s)
    };
    all.vb.requests_per_s = pool_rates(|vb| &vb.requests_per_s, all.request_throughput);
    all.vb.output_tokens_per_s = pool_rates(|vb| &vb.output_tokens_per_s, all.output_throughput);
    Ok(all)
}

fn pool_durations(results: &[RunResult], together: PoolMode) -> f64 {
    let spans: Option<Vec<_>> = results.iter().map(|r| r.vb.start_time.zip(r.vb.end_time)).collect();
    let bounds = spans
        .as_ref()
        .and_then(|spans| spans.iter().map(|(start, _)| *start).min().zip(spans.iter().map(|(_, end)| *end).max()));
    match (together, bounds) {
        (PoolMode::Concurrent, Some((start, end))) => end.since(start).as_secs_f64(),
        _ => results.iter().map(|r| r.duration).sum(),
    }
}

/// The header of the first result, with the requests of all. Hosts share the load, so their limits add up.
fn pool_headers(results: &[RunResult], together: PoolMode) -> Object {
    let mut header = results[0].header.clone();
    let mut add_up = |key: &str| {
        let numbers: Option<Vec<f64>> = results.iter().map(|r| r.header.get(key)?.as_f64()).collect();
        let Some(sum) = numbers.map(|numbers| numbers.iter().sum::<f64>()) else { return };
        let whole = serde_json::Value::from(numpy::truncate_to_usize(sum));
        let value = if sum.fract() == 0.0 { whole } else { sum.into() };
        header.insert(key.to_owned(), value);
    };
    add_up("num_prompts");
    if together == PoolMode::Concurrent {
        add_up("request_rate");
        add_up("max_concurrency");
    }
    header
}

/// vLLM's keys of the metrics that the first result has.
fn pool_metrics(results: &[RunResult], together: PoolMode) -> Option<Object> {
    let shown = |metric: &Metric| results[0].metrics.contains_key(&format!("mean_{}_ms", metric.name()));
    let percentiles = |of: Metric| {
        let keys = results[0].metrics.keys().filter_map(|key| Metric::parse_key(key));
        keys.filter_map(|(statistic, metric)| parse_percentile(statistic).filter(|_| metric == of)).collect()
    };
    let pooled = Metric::ALL.into_iter().filter(shown).map(|metric| {
        let summaries: Vec<&Summary> = results.iter().map(|r| r.vb.latency_summary(metric)).collect();
        let wanted = SummaryOptions { percentiles: percentiles(metric), histograms: false };
        Some((metric, Summary::pool_parts(&summaries, Unit::Seconds, together, &wanted)?))
    });
    let pooled: Vec<(Metric, SampleStats)> = pooled.collect::<Option<_>>()?;
    Some(result::metric_keys(Object::new(), &pooled))
}
