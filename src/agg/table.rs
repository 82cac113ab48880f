//! The rows as a table for people.

use serde_json::Value;

use super::run::ResultRow;

/// A heading, its key, and the number of decimals.
const COLUMNS: [(&str, &str, usize); 9] = [
    ("conc", "max_concurrency", 0),
    ("rate", "request_rate", 2),
    ("req/s", "request_throughput", 2),
    ("out tok/s", "output_throughput", 2),
    ("mean TTFT ms", "mean_ttft_ms", 2),
    ("P99 TTFT ms", "p99_ttft_ms", 2),
    ("mean TPOT ms", "mean_tpot_ms", 2),
    ("done", "completed", 0),
    ("failed", "failed", 0),
];

/// Formats one line per run, with columns as wide as their content.
#[must_use]
pub fn format_table(runs: &[ResultRow]) -> String {
    let mut lines: Vec<Vec<String>> = vec![["model", "in", "out"].map(str::to_owned).to_vec()];
    lines[0].extend(COLUMNS.iter().map(|(heading, ..)| (*heading).to_owned()));
    lines.extend(runs.iter().map(row_cells));
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
    text
}

fn row_cells(run: &ResultRow) -> Vec<String> {
    let length = |length: Option<u64>| length.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let model = run.scalars.get("model_id").and_then(Value::as_str).unwrap_or("-");
    // A path is too long for a column; its last component is the name of the model.
    let model = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
    let mut cells = vec![model.to_owned(), length(run.input_len), length(run.output_len)];
    cells.extend(COLUMNS.iter().map(|(_, key, digits)| match run.scalars.get(*key) {
        Some(Value::Number(n)) if n.is_f64() => format!("{:.digits$}", n.as_f64().unwrap_or_default()),
        Some(Value::Number(n)) => n.to_string(),
        Some(Value::String(text)) => text.clone(),
        _ => "-".to_owned(),
    }));
    cells
}
