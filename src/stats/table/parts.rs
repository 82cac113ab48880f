//! The groups of `--by` and the slices of `--slice`, in columns.

use serde_json::Value;

use super::super::{
    group::{Group, Slice},
    part::Numbers,
    vb::VbMetrics,
};
use crate::printout::{Cell, Printout, Tone};

/// Adds a block of rows for each property of `--by`, and one for the slices.
pub fn add_parts(out: &mut Printout, vb: &VbMetrics) {
    let mut last: Option<&str> = None;
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let groups = vb.groups.iter().map(|Group { by, key, numbers }| (by.as_str(), key.clone(), numbers));
    let slices =
        vb.slices.iter().map(|Slice { from_s, to_s, numbers }| ("time", format!("{from_s} - {to_s} s"), numbers));
    for (by, key, numbers) in groups.chain(slices) {
        if last != Some(by) {
            add_block(out, &std::mem::take(&mut rows));
            rows.push(headings(by));
            last = Some(by);
        }
        rows.push(cells(&key, numbers));
    }
    add_block(out, &rows);
}

fn add_block(out: &mut Printout, rows: &[Vec<Cell>]) {
    if !rows.is_empty() {
        out.add_blank();
        out.add_columns(rows);
    }
}

fn headings(by: &str) -> Vec<Cell> {
    let columns = ["requests", "failed", "TTFT mean", "TTFT p50", "TPOT mean", "E2EL mean", "good (%)"];
    let first = Cell::left(format!("by {by}")).toned(Tone::Strong);
    std::iter::once(first).chain(columns.map(|name| Cell::right(name).toned(Tone::Strong))).collect()
}

fn cells(name: &str, numbers: &Numbers) -> Vec<Cell> {
    let show = |value: Option<f64>| Cell::right(value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}")));
    let failed = Cell::right(numbers.failed.to_string());
    vec![
        Cell::verbatim(name),
        Cell::right(numbers.offered.to_string()),
        if numbers.failed > 0 { failed.toned(Tone::Bad) } else { failed },
        show(numbers.ttft_ms.mean),
        show(numbers.ttft_ms.percentiles.get("p50").and_then(Value::as_f64)),
        show(numbers.tpot_ms.mean),
        show(numbers.e2el_ms.mean),
        show(numbers.attainment.map(|share| share * 100.0)),
    ]
}
