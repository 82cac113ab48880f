//! The rows as a table for people.

use std::fmt::Write;

use serde_json::Value;

use super::run::ResultRow;
use crate::{printable::clean_line, record::Verdict, statistics::interval::samples_needed};

/// The key of a percentile that needs many values.
const P99_TTFT: &str = "p99_ttft_ms";

/// Marks a percentile from too few values.
const FEW_MARK: &str = "*";

/// A heading, its key, and the number of decimals.
const COLUMNS: [(&str, &str, usize); 9] = [
    ("conc", "max_concurrency", 0),
    ("rate", "request_rate", 2),
    ("req/s", "request_throughput", 2),
    ("out tok/s", "output_throughput", 2),
    ("mean TTFT ms", "mean_ttft_ms", 2),
    ("P99 TTFT ms", P99_TTFT, 2),
    ("mean TPOT ms", "mean_tpot_ms", 2),
    ("done", "completed", 0),
    ("failed", "failed", 0),
];

/// Formats one line per run, with columns as wide as their content.
#[must_use]
pub fn format_table(runs: &[ResultRow]) -> String {
    let mut lines: Vec<Vec<String>> = vec![["model", "in", "out"].map(str::to_owned).to_vec()];
    lines[0].extend(COLUMNS.iter().map(|(heading, ..)| (*heading).to_owned()));
    lines[0].push("verdict".to_owned());
    lines.extend(runs.iter().map(|run| row_cells(run).iter().map(|cell| clean_line(cell).into_owned()).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(&widths).enumerate().map(|(i, (cell, width))| {
            let left = i == 0;
            if left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    if runs.iter().any(has_few_values) {
        let needs = samples_needed(99.0).unwrap_or_default();
        let _ = writeln!(text, "{FEW_MARK} too few successes: a P99 needs {needs}");
    }
    text
}

/// Whether the run has too few successes for its P99.
fn has_few_values(run: &ResultRow) -> bool {
    let n = run.scalars.get("completed").and_then(Value::as_u64).unwrap_or_default();
    n > 0 && run.scalars.contains_key(P99_TTFT) && samples_needed(99.0).is_some_and(|needs| n < needs)
}

/// The verdict, and why the row may not describe a whole run; `-` if unknown.
fn describe_trust(run: &ResultRow) -> String {
    let trust = run.trust;
    let words = [
        trust.verdict.map(Verdict::name),
        (trust.complete == Some(false)).then_some("incomplete"),
        (trust.interrupted == Some(true)).then_some("interrupted"),
    ];
    let words: Vec<&str> = words.into_iter().flatten().collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

fn row_cells(run: &ResultRow) -> Vec<String> {
    let length = |length: Option<u64>| length.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let model = run.scalars.get("model_id").and_then(Value::as_str).unwrap_or("-");
    // A path is too long for a column; its last component is the name of the model.
    let model = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
    let mut cells = vec![model.to_owned(), length(run.input_len), length(run.output_len)];
    // Without a success, vLLM's keys are 0.
    let without_success = run.scalars.get("completed").and_then(Value::as_u64) == Some(0);
    cells.extend(COLUMNS.iter().map(|(_, key, digits)| match run.scalars.get(*key) {
        _ if without_success && key.ends_with("_ms") => "-".to_owned(),
        Some(Value::Number(n)) if *key == P99_TTFT && has_few_values(run) => {
            match (run.p99_ttft_low, run.trust.complete) {
                (Some(low), _) => format!(">= {low:.digits$}{FEW_MARK}"),
                // Not even a bound.
                (None, Some(_)) => format!("-{FEW_MARK}"),
                // A result of vLLM, which has no bounds.
                (None, None) => format!("{:.digits$}{FEW_MARK}", n.as_f64().unwrap_or_default()),
            }
        }
        Some(Value::Number(n)) if n.is_f64() => format!("{:.digits$}", n.as_f64().unwrap_or_default()),
        Some(Value::Number(n)) => n.to_string(),
        Some(Value::String(text)) => text.clone(),
        _ => "-".to_owned(),
    }));
    cells.push(describe_trust(run));
    cells
}
