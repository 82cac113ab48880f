//! What speaks against comparing two sides.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    report::{Row, Verdict},
    side::{Run, Side},
};
use crate::{record, recording::RecordedRequest};

/// Lengths that differ by more than this share are other lengths.
const LENGTHS: f64 = 0.01;

/// What speaks against comparing them, a line each.
#[must_use]
pub fn warnings(a: &Side, b: &Side, changes: &[Row]) -> Vec<String> {
    let mut warnings: Vec<String> = failures(a, b, changes).into_iter().collect();
    for (name, of) in SETTINGS {
        let (of_a, of_b) = (values(a, of), values(b, of));
        if of_a != of_b && !of_a.is_empty() && !of_b.is_empty() {
            warnings.push(format!("{name}: {} in A, {} in B", list(&of_a), list(&of_b)));
        }
    }
    for (name, of) in LENGTH {
        let (of_a, of_b) = (mean(a, of), mean(b, of));
        if (of_a - of_b).abs() > LENGTHS * of_a.max(of_b) {
            warnings.push(format!("{name}: {of_a:.1} in A, {of_b:.1} in B on average"));
        }
    }
    for (side, runs) in [("A", &a.runs), ("B", &b.runs)] {
        warnings.extend(
            runs.iter()
                .flat_map(|run| of_run(run).into_iter().map(move |w| (side, run, w)))
                .map(|(side, run, what)| format!("{side}: {}: {what}", run.name)),
        );
    }
    warnings
}

/// The failed requests are in no latency, and a server that fails fast looks fast.
fn failures(a: &Side, b: &Side, changes: &[Row]) -> Option<String> {
    let share = |side: &Side| 100.0 * side.failed() as f64 / side.requests() as f64;
    if a.failed() + b.failed() == 0 {
        return None;
    }
    let row = changes.iter().find(|row| row.metric == "success")?;
    let sure = match row.verdict {
        Verdict::Better | Verdict::Worse => {
            "latencies and throughput are of the successes only; compare nothing before this is understood"
        }
        _ => "latencies and throughput are of the successes only",
    };
    let (of_a, of_b) = (share(a), share(b));
    Some(format!("failed requests: {of_a:.1} % of A, {of_b:.1} % of B: {sure}"))
}

type Setting = fn(&Run) -> Option<String>;

/// What both sides must have in common.
const SETTINGS: [(&str, Setting); 6] = [
    ("model", |run| setting(run, |r| Some(r.model.clone()), "model_id")),
    ("API", |run| setting(run, |r| Some(r.backend.clone()), "backend")),
    ("request rate", |run| setting(run, |r| Some(number(r.request_rate)), "request_rate")),
    ("concurrency", |run| setting(run, |r| Some(number(r.max_concurrency)), "max_concurrency")),
    ("burstiness", |run| {
        setting(
            run,
            |r| r.request_rate.map(|_| r.burstiness.map_or("inf".into(), |shape| shape.to_string())),
            "burstiness",
        )
    }),
    ("seed of the arrivals", |run| setting(run, |r| r.request_rate.map(|_| r.seed.to_string()), "seed")),
];

type Count = fn(&RecordedRequest) -> Option<u32>;

/// Prompts and answers.
const LENGTH: [(&str, Count); 2] = [
    ("prompt tokens", |r| Some(r.prompt_len).filter(|n| *n > 0)),
    ("output tokens", |r| Some(r.output_tokens).filter(|_| r.success)),
];

fn number(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "no limit".into(), |value| value.to_string())
}

/// A setting of a run, from our own records or the header of vLLM; those of several hosts together.
fn setting(run: &Run, own: fn(&record::RunRecord) -> Option<String>, vllm: &str) -> Option<String> {
    if let Some(header) = &run.recording.vllm {
        let value = header.before.get(vllm)?;
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

/// The different values on a side.
fn values(side: &Side, of: Setting) -> BTreeSet<String> {
    side.runs.iter().filter_map(of).collect()
}

fn list(values: &BTreeSet<String>) -> String {
    values.iter().cloned().collect::<Vec<_>>().join(", ")
}

fn mean(side: &Side, of: Count) -> f64 {
    let counts = side.runs.iter().flat_map(|run| &run.recording.requests).filter_map(of);
    let (n, sum) = counts.fold((0_u64, 0_u64), |(n, sum), count| (n + 1, sum + u64::from(count)));
    sum as f64 / n.max(1) as f64
}

/// What is wrong with a run by itself.
fn of_run(run: &Run) -> Vec<String> {
    let recording = &run.recording;
    let mut wrong = Vec::new();
    if recording.has_disjoint_runs() {
        wrong.push("runs of different times in one file; give each as a file of its own".to_owned());
    }
    if recording.ends.iter().any(|end| end.interrupted) {
        wrong.push("it was interrupted".into());
    } else if !recording.is_complete() {
        wrong.push("it is not complete: not all of the run was seen".into());
    }
    if recording.ends.iter().any(|end| end.verdict == Some(record::Verdict::ClientBound)) {
        wrong.push("its verdict is client_bound: the client set some of the numbers".into());
    }
    wrong
}
