//! The rows as a table for people.

use serde_json::Value;

use super::run::{ResultRow, RunTrust};
use crate::{
    printout::{Cell, Look, Printout, Tone},
    record::Verdict,
    statistics::interval::samples_needed,
};

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

/// One line per run, with columns as wide as their content.
#[must_use]
pub fn format_table(runs: &[ResultRow], look: Look) -> Printout {
    let mut out = Printout::new(look);
    let headings = ["in", "out"].into_iter().chain(COLUMNS.map(|(heading, ..)| heading)).chain(["verdict"]);
    let headings = headings.map(Cell::right);
    let mut rows: Vec<Vec<Cell>> = vec![std::iter::once(Cell::left("model")).chain(headings).collect()];
    rows[0] = rows[0].iter().map(|heading| heading.clone().toned(Tone::Strong)).collect();
    rows.extend(runs.iter().map(row_cells));
    out.add_columns(&rows);
    if runs.iter().any(has_few_values) {
        let needs = samples_needed(99.0).unwrap_or_default();
        out.add_wrapped(&[Cell::left(format!("{FEW_MARK} too few successes: a P99 needs {needs}"))], 2);
    }
    out
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

fn row_cells(run: &ResultRow) -> Vec<Cell> {
    let length = |length: Option<u64>| length.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let model = run.scalars.get("model_id").and_then(Value::as_str).unwrap_or("-");
    // A path is too long for a column; its last component is the name of the model.
    let model = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
    let mut cells =
        vec![Cell::verbatim(model), Cell::right(length(run.input_len)), Cell::right(length(run.output_len))];
    // Without a success, vLLM's keys are 0.
    let without_success = run.scalars.get("completed").and_then(Value::as_u64) == Some(0);
    let numbers = COLUMNS.iter().map(|(_, key, digits)| match run.scalars.get(*key) {
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
    });
    cells.extend(numbers.map(|text| {
        let tone = if text.ends_with(FEW_MARK) { Tone::Doubtful } else { Tone::Plain };
        Cell::right(text).toned(tone)
    }));
    let tone = match run.trust {
        RunTrust { complete: Some(false), .. }
        | RunTrust { interrupted: Some(true), .. }
        | RunTrust { verdict: Some(Verdict::ClientBound), .. } => Tone::Bad,
        RunTrust { verdict: Some(Verdict::Suspect), .. } => Tone::Doubtful,
        RunTrust { verdict: Some(Verdict::Clean), .. } => Tone::Good,
        RunTrust { .. } => Tone::Plain,
    };
    cells.push(Cell::right(describe_trust(run)).toned(tone));
    cells
}
