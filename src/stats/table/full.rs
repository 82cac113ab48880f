//! The full table: vLLM's layout and labels, then our own metrics.

use serde_json::Value;

use super::{
    super::{
        arrivals,
        client::ClientFigures,
        length::RunLength,
        rate::MeasuredRate,
        result::RunResult,
        server::{GaugeLoad, Parts, ServerMetrics},
        vb::{FailureCount, VbMetrics},
    },
    Statistic, head, is_hidden, notes, parts,
};
use crate::{
    printout::{Cell, Printout},
    record::ErrorKind,
    recording::metric::Metric,
    statistics::Summary,
    steadiness::{Stability, little::Little},
};

const WIDTH: usize = 50;

/// Adds the whole table.
pub fn print_full(out: &mut Printout, result: &RunResult) {
    let mut table = FullTable { out };
    head::add_head(table.out, result);
    table.add_totals(result);
    for metric in Metric::ALL {
        table.add_metric(result, metric);
    }
    table.add_own_sections(&result.vb);
    table.add_rule("", '=');
    table.add_stream_state(&result.vb);
    for note in &notes::collect_notes(result) {
        note.print(table.out);
    }
    table.add_client(&result.vb);
}

struct FullTable<'a> {
    out: &'a mut Printout,
}

impl FullTable<'_> {
    fn add_line(&mut self, line: &str) {
        self.out.add_line(line);
    }

    fn add_rule(&mut self, heading: &str, with: char) {
        self.out.add_rule(heading, with, WIDTH);
    }

    fn add_row(&mut self, label: &str, value: impl std::fmt::Display) {
        self.add_row_with(label, value, "");
    }

    /// A row with something after its value.
    fn add_row_with(&mut self, label: &str, value: impl std::fmt::Display, detail: &str) {
        let value = Cell::left(value.to_string());
        self.out.add_fields(&[(Cell::left(label), 41), (value, 10), (Cell::left(" "), 1), (Cell::left(detail), 0)]);
    }

    fn add_number(&mut self, label: &str, value: f64) {
        self.add_row(label, format!("{value:.2}"));
    }

    fn add_known(&mut self, label: &str, value: Option<f64>) {
        self.add_row(label, value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}")));
    }

    /// A share in percent, with its interval.
    fn add_share(&mut self, label: &str, share: Option<f64>, interval: Option<[f64; 2]>) {
        match (share, interval.map(|ends| ends.map(|end| end * 100.0))) {
            (Some(share), Some([low, high])) => {
                self.add_row_with(label, format!("{:.2}", share * 100.0), &format!("[{low:.2}, {high:.2}]"));
            }
            _ => self.add_known(label, share.map(|share| share * 100.0)),
        }
    }

    /// A statistic with its interval, or its lower bound if there are too few values.
    fn add_statistic(&mut self, label: &str, summary: &Summary, name: &str) {
        match Statistic::find(summary, name) {
            None => self.add_row(label, "-"),
            Some(Statistic::Rough(value)) => self.add_row(label, format!("~{value:.2}")),
            Some(Statistic::TooFew { needs, has, .. }) => {
                self.add_row_with(label, summary.lower_bound_text(name), &format!("needs {needs}, has {has}"));
            }
            Some(Statistic::Known { value, ends: [None, None] }) => self.add_number(label, value),
            Some(Statistic::Known { value, ends }) => {
                let [low, high] = ends.map(|end| end.map_or_else(|| "-".to_owned(), |end| format!("{end:.2}")));
                let bound = summary.upper_bound(name);
                let bound = bound.map_or_else(String::new, |bound| format!(" <= {bound:.2}, 99 % sure"));
                self.add_row_with(label, format!("{value:.2}"), &format!("[{low}, {high}]{bound}"));
            }
        }
    }

    fn add_rate(&mut self, label: &str, value: f64, rate: &MeasuredRate) {
        self.add_row_with(label, format!("{value:.2}"), &format_interval(rate));
    }

    /// The mean of a latency, its median and its other percentiles.
    fn add_statistics(&mut self, summary: &Summary, label: &str) {
        self.add_statistic(&format!("Mean {label} (ms):"), summary, "mean");
        for name in summary.percentiles.keys() {
            let name_of_row = if name == "p50" { "Median".to_owned() } else { name.to_uppercase() };
            self.add_statistic(&format!("{name_of_row} {label} (ms):"), summary, name);
        }
    }

    fn add_totals(&mut self, result: &RunResult) {
        self.add_rule(" Serving Benchmark Result ", '=');
        self.add_row("Successful requests:", result.completed);
        self.add_row("Failed requests:", result.failed);
        if let Some(limit) = result.header.get("max_concurrency").filter(|v| !v.is_null()) {
            self.add_row("Maximum request concurrency:", limit);
        }
        if let Some(rate) = result.header.get("request_rate").and_then(Value::as_f64) {
            self.add_number("Request rate configured (RPS):", rate);
        }
        self.add_number("Benchmark duration (s):", result.duration);
        self.add_row("Total input tokens:", result.total_input_tokens);
        self.add_row("Total generated tokens:", result.total_output_tokens);
        self.add_rate("Request throughput (req/s):", result.request_throughput, &result.vb.requests_per_s);
        if let Some(goodput) = result.request_goodput {
            self.add_number("Request goodput (req/s):", goodput);
        }
        self.add_rate("Output token throughput (tok/s):", result.output_throughput, &result.vb.output_tokens_per_s);
        match result.vb.peak_tokens_per_s {
            0 if result.total_output_tokens > 0 => self.add_row("Peak output token throughput (tok/s):", "-"),
            peak => self.add_number("Peak output token throughput (tok/s):", peak as f64),
        }
        self.add_number("Peak concurrent requests:", result.vb.peak_concurrency as f64);
        if result.rtfx > 0.0 {
            self.add_number("RTFx (Inverse Real-Time Factor):", result.rtfx);
        }
        self.add_number("Total token throughput (tok/s):", result.total_token_throughput);
    }

    fn add_metric(&mut self, result: &RunResult, metric: Metric) {
        if !result.metrics.contains_key(&format!("mean_{}_ms", metric.name())) {
            return;
        }
        self.add_rule(metric.table_heading(), '-');
        if is_hidden(result, metric) {
            self.add_line("not the model's: see the note on the proxy");
        }
        let label = metric.table_label();
        match metric {
            // Only in vLLM's keys, without intervals.
            Metric::ClientQueueTime | Metric::E2elIncludingClientQueue => {
                for (key, value) in &result.metrics {
                    let found = Metric::parse_key(key).filter(|(statistic, of)| *of == metric && *statistic != "std");
                    if let Some((statistic, value)) =
                        found.and_then(|(statistic, _)| Some((statistic, value.as_f64()?)))
                        && statistic != "p50"
                    {
                        let statistic = capitalize(statistic);
                        self.add_number(&format!("{statistic} {label} (ms):"), value);
                    }
                }
            }
            _ => {
                let summary = result.vb.latency_summary(metric);
                // vLLM's keys are 0 in this case, which would look like a time.
                if result.completed > 0 && summary.n == 0 {
                    return self.add_row_with(&format!("Mean {label} (ms):"), "-", "no request has any");
                }
                self.add_statistics(summary, label);
            }
        }
    }

    fn add_own_sections(&mut self, vb: &VbMetrics) {
        if vb.itl_per_token_ms != vb.itl_per_chunk_ms {
            self.add_itl_per_token(vb);
        }
        if bases_differ(vb) {
            self.add_from_schedule(vb);
        }
        self.add_steady_state(vb);
        self.add_goodput(vb);
        parts::add_parts(self.out, vb);
        self.add_failures(vb);
        if let Some(server) = &vb.server {
            self.add_server(server);
        }
    }

    /// The steady window next to the whole run, or the reason why it is missing.
    fn add_steady_state(&mut self, vb: &VbMetrics) {
        let Some(steady) = &vb.steady else { return };
        self.add_rule("Steady State", '-');
        if matches!(steady.verdict, Stability::Steady) {
            self.add_line(&format!("{}: {}", steady.verdict.as_words(), steady.why));
        } else {
            // The reason is in the lines above or below the table.
            self.add_line(steady.verdict.as_words());
        }
        if let (Some(from), Some(to), Some(numbers)) = (steady.from_s, steady.to_s, &steady.numbers) {
            self.add_two_columns("", "whole run", format!("{from:.1} - {to:.1} s"));
            self.add_two_columns("Requests:", vb.offered.to_string(), numbers.offered.to_string());
            let rates = [
                ("Requests/s:", &vb.requests_per_s, &steady.requests_per_s),
                ("Output tokens/s:", &vb.output_tokens_per_s, &steady.output_tokens_per_s),
            ];
            for (label, whole, window) in rates {
                let window = window.unwrap_or_default();
                let (whole, value) = (format!("{:.2}", whole.per_s), format!("{:.2}", window.per_s));
                self.add_three_columns(label, whole, value, &format_interval(&window));
            }
            let latencies = [
                ("TTFT", &vb.from_start.ttft_ms, &numbers.ttft_ms),
                ("TPOT", &vb.tpot_ms, &numbers.tpot_ms),
                ("ITL", &vb.itl_per_chunk_ms, &numbers.itl_ms),
                ("E2EL", &vb.from_start.e2el_ms, &numbers.e2el_ms),
            ];
            for (label, whole, window) in latencies {
                for ((name, a), (_, b)) in format_statistics(whole).into_iter().zip(format_statistics(window)) {
                    self.add_two_columns(&format!("{name} {label} (ms):"), a, b);
                }
            }
        }
        if let Some(little) = &steady.little {
            let Little { concurrency, rate, latency_s, gap } = little;
            self.add_line(&format!(
                "In flight {concurrency:.2}, rate x latency {:.2} ({rate:.2}/s x {latency_s:.3} s): {:+.1} %",
                rate * latency_s,
                gap * 100.0
            ));
        }
    }

    fn add_two_columns(&mut self, label: &str, whole: impl Into<String>, window: impl Into<String>) {
        self.add_three_columns(label, whole, window, "");
    }

    fn add_three_columns(&mut self, label: &str, whole: impl Into<String>, window: impl Into<String>, detail: &str) {
        self.out.add_fields(&[
            (Cell::left(label), 22),
            (Cell::right(whole), 13),
            (Cell::right(window), 19),
            (Cell::left(" "), 1),
            (Cell::left(detail), 0),
        ]);
    }

    fn add_itl_per_token(&mut self, vb: &VbMetrics) {
        let estimated = if vb.itl_per_token_estimated { ", estimated" } else { "" };
        self.add_rule(&format!("Inter-token Latency (per token{estimated})"), '-');
        self.add_statistics(&vb.itl_per_token_ms, "ITL per token");
    }

    /// Latencies from schedule: how long a user waited who arrived on schedule. The sections before have those from start.
    fn add_from_schedule(&mut self, vb: &VbMetrics) {
        self.add_rule("Latency from Schedule", '-');
        self.add_statistics(&vb.from_schedule.ttft_ms, "TTFT from schedule");
        self.add_statistics(&vb.from_schedule.e2el_ms, "E2EL from schedule");
    }

    fn add_goodput(&mut self, vb: &VbMetrics) {
        let Some(goodput) = &vb.goodput else { return };
        let limit = |(name, ms): (&String, &Value)| format!("{name} <= {} ms", ms.as_f64().unwrap_or_default());
        let limits: Vec<String> = goodput.slos_ms.iter().map(limit).collect();
        let counted = vb.population().counted();
        self.add_rule("Goodput", '-');
        self.add_row("Limits:", limits.join(", "));
        for (label, good) in [("", &goodput.from_start), (" from schedule", &goodput.from_schedule)] {
            if label.is_empty() || bases_differ(vb) {
                let requests =
                    good.requests.map_or_else(|| "-".to_owned(), |requests| format!("{requests} of {counted}"));
                self.add_row(&format!("Good requests{label}:"), requests);
                self.add_share(&format!("Attainment{label} (%):"), good.attainment, good.attainment_interval);
                for (name, share) in good.attainment_of.iter().filter(|_| good.attainment_of.len() > 1) {
                    let share = share.as_f64().map(|share| share * 100.0);
                    self.add_known(&format!("  {name} alone{label} (%):"), share);
                }
                self.add_known(&format!("Good tokens{label} (tok/s):"), good.tokens_per_s);
            }
        }
        if let Some(fluidity) = &goodput.fluidity {
            self.add_known("Mean fluidity:", fluidity.index.mean);
            self.add_row("Fluid requests:", format!("{} of {counted}", fluidity.fluid));
        }
    }

    fn add_failures(&mut self, vb: &VbMetrics) {
        let no_failure = ["ok", ErrorKind::Abandoned.name()];
        let failed =
            vb.outcomes.iter().filter(|(kind, n)| !no_failure.contains(&kind.as_str()) && n.as_u64() != Some(0));
        for (i, (kind, n)) in failed.enumerate() {
            if i == 0 {
                self.add_rule("Failures", '-');
                self.add_share("Success rate (%):", vb.population().success_share(), vb.success_interval);
            }
            self.add_row(&format!("{kind}:"), n);
            let name = |m: &FailureCount| m.kind.map_or("other", ErrorKind::name);
            if let Some(most) = vb.errors.iter().find(|m| name(m) == kind && !m.message.is_empty()) {
                self.add_line(&format!("  {}x {}", most.count, most.message));
            }
        }
    }

    /// The server's own metrics, and where the time went.
    fn add_server(&mut self, server: &ServerMetrics) {
        self.add_rule("Server", '-');
        if !server.has_metrics() {
            self.add_line("Nothing is known: see the notes below.");
        }
        if let Some(rate) = server.prefix_cache.and_then(|cache| cache.hit_rate) {
            self.add_number("Prefix cache hit rate (%):", rate * 100.0);
        }
        let load = |load: GaugeLoad, scale: f64| format!("{:.2} (max {:.2})", load.mean * scale, load.max * scale);
        if let Some(usage) = server.kv_cache_usage {
            self.add_row("Mean KV cache usage (%):", load(usage, 100.0));
        }
        for (label, gauge) in [("running", server.running), ("waiting", server.waiting)] {
            if let Some(gauge) = gauge {
                self.add_row(&format!("Mean requests {label}:"), load(gauge, 1.0));
            }
        }
        if let Some(preemptions) = server.preemptions.filter(|n| *n > 0) {
            self.add_row("Preemptions:", preemptions);
        }
        if let Some(spec) = &server.spec_decode {
            self.add_number("Draft tokens accepted (%):", spec.acceptance_rate.unwrap_or_default() * 100.0);
            self.add_number("Mean acceptance length:", spec.mean_acceptance_length.unwrap_or_default());
        }
        self.add_latency_parts(server);
    }

    fn add_latency_parts(&mut self, server: &ServerMetrics) {
        let columns = ["client", "queue", "prefill", "decode", "frontend", "outside", "server"];
        let mut rows = vec![std::iter::once(Cell::left("")).chain(columns.map(Cell::right)).collect::<Vec<Cell>>()];
        for (name, parts) in server.reconciled.known_latencies() {
            let Parts { client, server, queue, prefill, decode, frontend, outside } = parts;
            let cells = [Some(client), queue, prefill, decode, frontend, Some(outside), Some(server)];
            // Avoid `-0.00`, which a difference of equal numbers may give.
            let cells =
                cells.map(|ms| ms.map_or("-".to_owned(), |ms| format!("{:.2}", (ms * 100.0).round() / 100.0 + 0.0)));
            rows.push(
                std::iter::once(Cell::left(format!("Mean {name} (ms):"))).chain(cells.map(Cell::right)).collect(),
            );
        }
        if rows.len() > 1 {
            self.out.add_columns(&rows);
        }
    }

    fn add_stream_state(&mut self, vb: &VbMetrics) {
        let state = if vb.complete { "Complete stream" } else { "INCOMPLETE stream" };
        let mut words = vec![state.to_owned(), format!("{} requests offered", vb.offered)];
        if let abandoned @ 1.. = vb.population().abandoned {
            words.push(format!("{abandoned} cancelled on purpose"));
        }
        if vb.not_sent > 0 {
            words.push(format!("{} never sent", vb.not_sent));
        }
        self.add_line(&(words.join(", ") + "."));
        if let Some(RunLength { correlation_times, metric, advice: None }) = &vb.run_length {
            self.add_line(&format!("The run is about {correlation_times:.0} correlation times long (by {metric})."));
        }
    }

    /// How well the client measured; nothing if it does not report it.
    fn add_client(&mut self, vb: &VbMetrics) {
        if let Some(planned) = vb.arrivals.as_ref().filter(|planned| !notes::was_late(planned)) {
            self.add_line(&arrivals::describe_arrivals(planned));
        }
        let words = vb.client.as_ref().map(ClientFigures::describe_client).unwrap_or_default();
        if !words.is_empty() {
            self.add_line(&format!("client: {words}"));
        }
    }
}

/// `mean` as it begins a label, and `p99` as `P99`.
fn capitalize(statistic: &str) -> String {
    let (first, others) = statistic.split_at(statistic.len().min(1));
    first.to_uppercase() + others
}

/// `Mean`, then the percentiles, formatted.
fn format_statistics(summary: &Summary) -> Vec<(String, String)> {
    let mean = summary.mean.map(|mean| ("Mean".to_owned(), format!("{mean:.2}")));
    let percentiles = summary.percentiles.iter().filter(|_| summary.n > 0).map(|(name, value)| {
        let value = value.as_f64().map_or_else(|| summary.lower_bound_text(name), |value| format!("{value:.2}"));
        (name.to_uppercase(), value)
    });
    mean.into_iter().chain(percentiles).collect()
}

/// The interval of a rate.
fn format_interval(rate: &MeasuredRate) -> String {
    rate.interval.map_or_else(String::new, |[low, high]| format!("[{low:.2}, {high:.2}]"))
}

/// Whether latencies from start and from schedule differ: in an open loop, and if requests waited for a slot. (In vLLM's closed
/// loop all requests are due at the start, so the schedule has no meaning.)
pub fn bases_differ(vb: &VbMetrics) -> bool {
    let (start, schedule) = (vb.from_start.ttft_ms.mean, vb.from_schedule.ttft_ms.mean);
    let waited = start.zip(schedule).is_some_and(|(start, schedule)| schedule > start * 1.01);
    schedule.is_some() && (vb.open_loop == Some(true) || waited && !vb.run_ids.is_empty())
}
