//! Warns of reasons why two sides may not be comparable.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    estimate::MIN_REPEATS,
    row::{ChangeRow, ChangeVerdict, SHARE},
    side::{Side, SideRun},
    summary,
};
use crate::{
    record,
    recording::{RecordedRequest, sort_by_start},
    statistics::{Doubt, MIN_CORRELATION_TIMES, numpy},
    steadiness::{self, Stability, SteadyInput},
    summaries::{self, RunSummary},
};

/// Mean lengths that differ by more than this share are reported.
const MAX_LENGTH_DIFFERENCE: f64 = 0.01;

/// The reasons why the sides may not be comparable, one line each.
#[must_use]
pub fn comparison_warnings(a: &Side, b: &Side, labels: [&str; 2], changes: &[ChangeRow]) -> Vec<String> {
    // First what makes a side's own numbers doubtful, then what makes the sides different.
    let mut warnings = Vec::new();
    let [name_a, name_b] = labels;
    let from_summaries = a.has_summaries() || b.has_summaries();
    if from_summaries {
        warnings.push(summary::WEAKER.to_owned());
    }
    for (side, runs) in [(name_a, &a.runs), (name_b, &b.runs)] {
        warnings.extend(
            runs.iter()
                .flat_map(|run| run_warnings(run).into_iter().map(move |w| (side, run, w)))
                .map(|(side, run, what)| format!("{side}: {}: {what}", run.name)),
        );
    }
    warnings.extend(failure_warning(a, b, labels, changes));
    let programs = |side: &Side| side.runs.iter().map(program_of_run).collect::<BTreeSet<_>>();
    let same_program = programs(a) == programs(b);
    for (name, of) in SETTINGS {
        // Each program has its own names for one API.
        if name == "API" && !same_program {
            continue;
        }
        let (of_a, of_b) = (setting_values(a, of), setting_values(b, of));
        if of_a != of_b && !of_a.is_empty() && !of_b.is_empty() {
            warnings.push(format!("{name}: {} in {name_a}, {} in {name_b}", join_values(&of_a), join_values(&of_b)));
        }
    }
    for (name, of, total) in LENGTHS {
        let (of_a, of_b) = (mean_length(a, of, total), mean_length(b, of, total));
        let known = of_a > 0.0 && of_b > 0.0 || !from_summaries;
        if known && (of_a - of_b).abs() > MAX_LENGTH_DIFFERENCE * of_a.max(of_b) {
            warnings.push(format!("{name}: {of_a:.1} in {name_a}, {of_b:.1} in {name_b} on average"));
        }
    }
    warnings.extend(doubt_warning(changes, Doubt::TooShort, |names| {
        format!(
            "{names}: a side lasts fewer than {MIN_CORRELATION_TIMES} correlation times, so how much is chance is unknown, and there is no \
             verdict: make longer runs, or {MIN_REPEATS} of each"
        )
    }));
    let repeated = a.runs.len().min(b.runs.len()) >= MIN_REPEATS;
    let cure = if repeated { "make longer runs".to_owned() } else { format!("make {MIN_REPEATS} runs of each") };
    warnings.extend(doubt_warning(changes, Doubt::LongMemory, |names| {
        format!("{names}: a side has waves as long as itself, so intervals may be too narrow: {cure}")
    }));
    warnings.extend(if from_summaries { summary_repeat_warning(a, b, labels) } else { repeat_warning(a, b, labels) });
    warnings
}

/// The metrics whose uncertainty is not certain for this reason.
fn doubt_warning(changes: &[ChangeRow], doubt: Doubt, describe: impl Fn(String) -> String) -> Option<String> {
    let doubtful = changes.iter().filter(|row| row.doubt == Some(doubt));
    let name = |row: &ChangeRow| {
        let words = row.metric.replace('_', " ");
        if row.unit == SHARE { words } else { words.to_uppercase() }
    };
    let names: BTreeSet<String> = doubtful.map(name).collect();
    (!names.is_empty()).then(|| describe(join_values(&names)))
}

/// Without repeats of both sides there is no test of summaries.
fn summary_repeat_warning(a: &Side, b: &Side, [name_a, name_b]: [&str; 2]) -> Option<String> {
    let (of_a, of_b) = (a.runs.len(), b.runs.len());
    match of_a.min(of_b) {
        0 | 1 => Some(format!(
            "runs: {of_a} of {name_a}, {of_b} of {name_b}: a summary without repeats has no interval, so there is no verdict; make \
             {MIN_REPEATS} or more of each"
        )),
        2 => Some(format!(
            "runs: {of_a} of {name_a}, {of_b} of {name_b}: two repeats show little of how much runs differ; make {MIN_REPEATS} or more of each"
        )),
        _ => None,
    }
}

/// The difference of two runs may be one that any two runs of one server have.
fn repeat_warning(a: &Side, b: &Side, [name_a, name_b]: [&str; 2]) -> Option<String> {
    let (of_a, of_b) = (a.runs.len(), b.runs.len());
    let fewest = of_a.min(of_b);
    if fewest >= MIN_REPEATS {
        return None;
    }
    let learned = of_a.max(of_b) >= MIN_REPEATS;
    Some(if learned {
        format!(
            "runs: {of_a} of {name_a}, {of_b} of {name_b}: the spread between runs of one side is taken to be the other's too"
        )
    } else {
        format!(
            "runs: {of_a} of {name_a}, {of_b} of {name_b}: how much runs of one server differ is unknown, and a difference may be no more \
             than that; make {MIN_REPEATS} of each (scripts/ab.sh)"
        )
    })
}

/// Failed requests have no latency, and a server that fails fast looks fast.
fn failure_warning(a: &Side, b: &Side, [name_a, name_b]: [&str; 2], changes: &[ChangeRow]) -> Option<String> {
    let row = changes.iter().find(|row| row.metric == "success");
    let (a, b) = (a.population(), b.population());
    if a.failed() + b.failed() == 0 {
        return None;
    }
    let sure = match row.map(|row| row.verdict) {
        Some(ChangeVerdict::Better | ChangeVerdict::Worse) => {
            "latencies and throughput include successes only; find the cause before comparing anything"
        }
        _ => "latencies and throughput include successes only",
    };
    let [of_a, of_b] = [a, b].map(|side| 100.0 * side.failure_share().unwrap_or_default());
    Some(format!("failed requests: {of_a:.1} % of {name_a}, {of_b:.1} % of {name_b}: {sure}"))
}

type Setting = fn(&SideRun) -> Option<String>;

/// Settings that both sides should have in common.
const SETTINGS: [(&str, Setting); 7] = [
    ("program", |run| Some(program_of_run(run))),
    ("model", |run| read_setting(run, |r| Some(r.model.clone()), "model_id")),
    ("API", |run| read_setting(run, |r| Some(r.backend.clone()), "backend")),
    ("request rate", |run| read_setting(run, |r| Some(format_limit(r.request_rate)), "request_rate")),
    ("concurrency", |run| read_setting(run, |r| Some(format_limit(r.max_concurrency)), "max_concurrency")),
    ("burstiness", |run| {
        read_setting(
            run,
            |r| r.request_rate.map(|_| r.burstiness.map_or("inf".into(), |shape| shape.to_string())),
            "burstiness",
        )
    }),
    ("seed of the arrivals", |run| read_setting(run, |r| r.request_rate.map(|_| r.seed.to_string()), "seed")),
];

/// The program that measured a run.
fn program_of_run(run: &SideRun) -> String {
    match &run.summary {
        Some(summary) if summary.tool != summaries::OUR_TOOL => summary.tool.clone(),
        None if run.recording.vllm.is_some() => summaries::VLLM_TOOL.to_owned(),
        _ => "vb-fire".to_owned(),
    }
}

type Count = fn(&RecordedRequest) -> Option<u32>;

/// Lengths of prompts and outputs, which both sides should have in common.
const LENGTHS: [(&str, Count, &str); 2] = [
    ("prompt tokens", |r| Some(r.prompt_len).filter(|n| *n > 0), "total_input_tokens"),
    ("output tokens", |r| Some(r.output_tokens).filter(|_| r.success), "total_output_tokens"),
];

fn format_limit(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "no limit".into(), |value| value.to_string())
}

/// A setting of a run, from vb's run record or the header of vLLM's result; several hosts' values are joined.
fn read_setting(run: &SideRun, own: fn(&record::RunRecord) -> Option<String>, vllm: &str) -> Option<String> {
    let keys = run.summary.as_ref().map(|summary| &summary.values);
    if let Some(keys) = keys.or_else(|| Some(&run.recording.vllm.as_ref()?.before)) {
        let value = keys.get(vllm)?;
        return Some(match value {
            Value::Null => "no limit".into(),
            Value::String(text) if text == "inf" => "no limit".into(),
            Value::String(text) => text.clone(),
            other => other.as_f64().map_or_else(|| other.to_string(), |n| n.to_string()),
        });
    }
    let all: BTreeSet<String> = run.recording.runs.iter().filter_map(own).filter(|text| !text.is_empty()).collect();
    (!all.is_empty()).then(|| all.into_iter().collect::<Vec<_>>().join(" and "))
}

/// The different values of a setting on a side.
fn setting_values(side: &Side, of: Setting) -> BTreeSet<String> {
    side.runs.iter().filter_map(of).collect()
}

fn join_values(values: &BTreeSet<String>) -> String {
    values.iter().cloned().collect::<Vec<_>>().join(", ")
}

fn mean_length(side: &Side, of: Count, total: &str) -> f64 {
    let summaries: Vec<&RunSummary> = side.runs.iter().filter_map(|run| run.summary.as_ref()).collect();
    if !summaries.is_empty() {
        let means: Vec<f64> = summaries.into_iter().filter_map(|run| summary::mean_count(run, total)).collect();
        return if means.is_empty() { 0.0 } else { numpy::mean(&means) };
    }
    let counts = side.runs.iter().flat_map(|run| &run.recording.requests).filter_map(of);
    let (n, sum) = counts.fold((0_u64, 0_u64), |(n, sum), count| (n + 1, sum + u64::from(count)));
    sum as f64 / n.max(1) as f64
}

/// Problems that a summary has by its own account.
fn summary_warnings(summary: &RunSummary) -> impl Iterator<Item = &'static str> {
    let problems = [
        ("interrupted", Value::from(true), "it was interrupted"),
        ("complete", Value::from(false), "it is incomplete: part of the run is missing"),
        ("verdict", Value::from("client_bound"), "its verdict is client_bound: the client set some of the numbers"),
        ("completed", Value::from(0), "none of its requests succeeded"),
    ];
    problems.into_iter().filter(|(key, wrong, _)| summary.values.get(*key) == Some(wrong)).map(|(.., problem)| problem)
}

/// Problems of a run, independent of the other side.
fn run_warnings(run: &SideRun) -> Vec<String> {
    if let Some(summary) = &run.summary {
        return summary_warnings(summary).map(str::to_owned).collect();
    }
    let recording = &run.recording;
    let mut wrong = Vec::new();
    if recording.has_disjoint_runs() {
        wrong.push("the file holds runs of different times; give each run its own file".to_owned());
    }
    if recording.ends.iter().any(|end| end.interrupted) {
        wrong.push("it was interrupted".into());
    } else if !recording.is_complete() {
        wrong.push("it is incomplete: part of the run is missing".into());
    }
    if recording.ends.iter().any(|end| end.verdict == Some(record::Verdict::ClientBound)) {
        wrong.push("its verdict is client_bound: the client set some of the numbers".into());
    }
    let sent = sort_by_start(recording.requests.iter().filter(|r| r.counts() && r.start.is_some()));
    let judgement = steadiness::judge_run(&SteadyInput::new(recording, &sent));
    match judgement.verdict {
        Stability::Overloaded => wrong.push(format!("the server was overloaded: {}", judgement.why)),
        Stability::DriftingUp | Stability::DriftingDown | Stability::Changing => {
            wrong.push(format!("it was not steady: {}", judgement.why));
        }
        // Two short runs may still be compared: the intervals are wide.
        Stability::Steady | Stability::TooShort => {}
    }
    if recording.ends.iter().filter_map(|end| end.buffering.as_ref()).any(record::Buffering::hides_latencies) {
        wrong.push("a proxy held its responses back: compare E2EL and throughput only".into());
    }
    wrong
}
