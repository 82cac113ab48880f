//! The table of `vllm bench serve`: its lines, their order and the format of their numbers, for the scripts that read them.
//! All numbers come from vLLM's keys, so the peaks are counted as vLLM counts them.

use serde_json::Value;

use super::super::result::RunResult;
use crate::{printout::Printout, recording::metric::Metric};

const WIDTH: usize = 50;

/// Adds the table, in English in every language.
pub fn print_like_vllm(out: &mut Printout, result: &RunResult) {
    let mut lines = vec![heading(" Serving Benchmark Result ", '=')];
    lines.push(count("Successful requests:", result.completed));
    lines.push(count("Failed requests:", result.failed));
    if let Some(limit) = result.header.get("max_concurrency").filter(|limit| !limit.is_null()) {
        lines.push(count("Maximum request concurrency:", limit));
    }
    if let Some(rate) = result.header.get("request_rate").and_then(Value::as_f64) {
        lines.push(number("Request rate configured (RPS):", rate));
    }
    lines.push(number("Benchmark duration (s):", result.duration));
    lines.push(count("Total input tokens:", result.total_input_tokens));
    // What does not generate has no lines for it: embeddings and rerankers.
    let generates = result.total_output_tokens > 0 || result.completed == 0;
    if generates {
        lines.push(count("Total generated tokens:", result.total_output_tokens));
    }
    lines.push(number("Request throughput (req/s):", result.request_throughput));
    if let Some(goodput) = result.request_goodput {
        lines.push(number("Request goodput (req/s):", goodput));
    }
    if generates {
        lines.push(number("Output token throughput (tok/s):", result.output_throughput));
        lines.push(number("Peak output token throughput (tok/s):", result.max_output_tokens_per_s));
        lines.push(number("Peak concurrent requests:", result.max_concurrent_requests as f64));
    }
    if result.rtfx > 0.0 {
        lines.push(number("RTFx (Inverse Real-Time Factor):", result.rtfx));
    }
    lines.push(number("Total token throughput (tok/s):", result.total_token_throughput));
    for metric in Metric::ALL {
        lines.extend(metric_lines(result, metric));
    }
    lines.push("=".repeat(WIDTH));
    for line in &lines {
        out.add_exact(line);
    }
}

/// The lines of a latency, if the result has its keys.
fn metric_lines(result: &RunResult, metric: Metric) -> Vec<String> {
    let (label, name) = (metric.table_label(), metric.name());
    let value = |statistic: &str| result.metrics.get(&format!("{statistic}_{name}_ms")).and_then(Value::as_f64);
    let (Some(mean), Some(median)) = (value("mean"), value("median")) else { return Vec::new() };
    let mut lines = vec![
        heading(metric.table_heading(), '-'),
        number(&format!("Mean {label} (ms):"), mean),
        number(&format!("Median {label} (ms):"), median),
    ];
    let percentile = |(key, value): (&String, &Value)| {
        let (statistic, of) = Metric::parse_key(key)?;
        let percentile = statistic.strip_prefix('p').filter(|_| of == metric)?;
        Some(number(&format!("P{percentile} {label} (ms):"), value.as_f64()?))
    };
    lines.extend(result.metrics.iter().filter_map(percentile));
    lines
}

fn heading(text: &str, with: char) -> String {
    let free = WIDTH.saturating_sub(text.chars().count());
    let rule = |n: usize| with.to_string().repeat(n);
    rule(free / 2) + text + &rule(free - free / 2)
}

fn count(label: &str, value: impl std::fmt::Display) -> String {
    format!("{label:<40} {:<10}", value.to_string())
}

fn number(label: &str, value: f64) -> String {
    count(label, format!("{value:.2}"))
}
