//! A run in one line: `scripts/sweep.sh` prints one for each cell.

use super::{super::result::RunResult, Statistic, format_number, head};
use crate::{
    printout::{Cell, Printout},
    recording::metric::Metric,
    statistics::Summary,
};

/// Adds the line: the states of client and server, throughput, the latencies that are known, and failures.
pub fn print_line(out: &mut Printout, result: &RunResult) {
    let vb = &result.vb;
    let mut cells = vec![head::verdict_cell(vb)];
    if let Some(steady) = &vb.steady {
        cells.extend([Cell::left(", "), head::stability_cell(steady.verdict)]);
    }
    let mut numbers = vec![format!("{} requests/s", format_number(vb.requests_per_s.per_s))];
    if result.total_output_tokens > 0 {
        numbers.push(format!("{} output tokens/s", format_number(vb.output_tokens_per_s.per_s)));
    }
    // Percentiles of short runs have not even a bound, the highest ones first.
    let highest = || vb.tpot_ms.percentiles.keys().rev().map(String::as_str).chain(["mean"]);
    let is_streamed = vb.from_start.ttft_ms.n > 0;
    let first = if is_streamed { Metric::Ttft } else { Metric::E2el };
    numbers.extend(highest().find_map(|name| describe_latency(vb.latency_summary(first), first, name)));
    numbers.extend(describe_latency(&vb.tpot_ms, Metric::Tpot, "mean"));
    numbers.push(format!("{} failed", result.failed));
    for (i, number) in numbers.into_iter().enumerate() {
        cells.extend([Cell::left(if i == 0 { ": " } else { ", " }), Cell::left(number)]);
    }
    out.add_cells(&cells);
}

/// A statistic or its bound; `None` if it is unknown.
fn describe_latency(summary: &Summary, metric: Metric, name: &str) -> Option<String> {
    let text = match Statistic::find(summary, name)? {
        Statistic::Known { value, .. } => format_number(value),
        Statistic::Rough(value) => format!("~{}", format_number(value)),
        Statistic::TooFew { at_least, .. } => format!(">= {}", format_number(at_least?)),
    };
    Some(format!("{} {name} {text} ms", metric.table_label()))
}
