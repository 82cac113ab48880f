//! The result as a table for people: vLLM's layout and labels, then our own metrics.

use serde_json::Value;

use super::{
    arrivals,
    client::ClientFigures,
    length::RunLength,
    part::Numbers,
    rate::MeasuredRate,
    result::RunResult,
    server::{GaugeLoad, Parts, ServerMetrics},
    steady::Steady,
    vb::{FailureCount, UNCOUNTED, VbMetrics},
};
use crate::{
    printable::clean_line,
    record::{Buffering, ErrorKind, TokenSource},
    recording::metric::Metric,
    statistics::{Doubt, Summary},
    steadiness::{Stability, little::Little, stall::Stall},
};

const WIDTH: usize = 50;

/// Renders the whole table.
#[must_use]
pub fn render_table(result: &RunResult) -> String {
    let mut table = ResultTable::default();
    table.add_overload(&result.vb);
    table.add_totals(result);
    for metric in Metric::ALL {
        table.add_metric(result, metric);
    }
    table.add_own_sections(&result.vb);
    table.add_rule("", '=');
    table.add_stream_state(&result.vb);
    result.vb.server_doubts().for_each(|doubt| table.add_line(&format!("server: {doubt}")));
    table.add_client_verdict(&result.vb);
    table.text
}

#[derive(Default)]
struct ResultTable {
    text: String,
}

impl ResultTable {
    fn add_line(&mut self, line: &str) {
        self.text.push_str(clean_line(line).trim_end());
        self.text.push('\n');
    }

    fn add_rule(&mut self, heading: &str, with: char) {
        let left = WIDTH.saturating_sub(heading.chars().count()) / 2;
        let right = WIDTH.saturating_sub(heading.chars().count() + left);
        let rule = |n: usize| with.to_string().repeat(n);
        self.add_line(&(rule(left) + heading + &rule(right)));
    }

    fn add_row(&mut self, label: &str, value: impl std::fmt::Display) {
        self.add_line(&format!("{label:<40} {value:<10}"));
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
                self.add_line(&format!("{label:<40} {:<10.2} [{low:.2}, {high:.2}]", share * 100.0));
            }
            _ => self.add_known(label, share.map(|share| share * 100.0)),
        }
    }

    /// A statistic with its interval, or its lower bound if there are too few values.
    fn add_with_interval(&mut self, label: &str, value: f64, name: &str, summary: Option<&Summary>) {
        let Some(summary) = summary else { return self.add_number(label, value) };
        if let Some(few) = summary.too_few.get(name) {
            let bound = summary.lower_bound_text(name);
            return self.add_line(&format!("{label:<40} {bound:<10} needs {}, has {}", few["needs"], few["has"]));
        }
        let [low, high] = [0, 1].map(|which| summary.interval_end(name, which));
        if low.is_none() && high.is_none() {
            let mark = if summary.doubt == Some(Doubt::TooShort) { "~" } else { "" };
            return self.add_row(label, format!("{mark}{value:.2}"));
        }
        let [low, high] = [low, high].map(|end| end.map_or_else(|| "-".to_owned(), |end| format!("{end:.2}")));
        let bound = summary.upper_bound(name).map_or_else(String::new, |bound| format!(" <= {bound:.2}, 99 % sure"));
        self.add_line(&format!("{label:<40} {value:<10.2} [{low}, {high}]{bound}"));
    }

    fn add_rate(&mut self, label: &str, value: f64, rate: &MeasuredRate) {
        self.add_line(&format!("{label:<40} {value:<10.2} {}", format_interval(rate)));
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
        if let Some(responses) = result.vb.token_sources.get(UNCOUNTED) {
            self.add_row("Responses without a token count:", responses);
        }
        let chunks =
            result.vb.token_sources.get(TokenSource::Chunks.name()).and_then(Value::as_u64).unwrap_or_default();
        if chunks > 0 {
            self.add_row("Counted from chunks (at least):", format!("{chunks} of {} responses", result.completed));
        }
        if result.vb.hidden_tokens > 0 {
            self.add_row("Hidden tokens (not in TPOT and ITL):", result.vb.hidden_tokens);
        }
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
        let value = |statistic: &str| {
            let value = result.metrics.get(&format!("{statistic}_{}_ms", metric.name()));
            value.and_then(Value::as_f64)
        };
        let (Some(mean), Some(median)) = (value("mean"), value("median")) else { return };
        self.add_rule(metric.table_heading(), '-');
        let buffering = result.vb.client.as_ref().and_then(|client| client.buffering.as_ref());
        if let Some(buffering) = buffering.filter(|buffering| hides_metric(buffering, metric)) {
            let Buffering { buffered, compared, .. } = buffering;
            self.add_line(&format!("not the model's: {buffered} of {compared} responses were held back on their way"));
        }
        let label = metric.table_label();
        let waiting = matches!(metric, Metric::ClientQueueTime | Metric::E2elIncludingClientQueue);
        let summary = (!waiting).then(|| result.vb.latency_summary(metric));
        // vLLM's keys are 0 in this case, which would look like a time.
        if result.completed > 0 && summary.is_some_and(|summary| summary.n == 0) {
            return self.add_line(&format!("{:<40} {:<10} no request has any", format!("Mean {label} (ms):"), "-"));
        }
        self.add_with_interval(&format!("Mean {label} (ms):"), mean, "mean", summary);
        self.add_with_interval(&format!("Median {label} (ms):"), median, "p50", summary);
        let percentiles = result.vb.tpot_ms.percentiles.keys();
        for name in percentiles {
            if let Some(value) = value(name) {
                self.add_with_interval(&format!("{} {label} (ms):", name.to_uppercase()), value, name, summary);
            }
        }
    }

    fn add_own_sections(&mut self, vb: &VbMetrics) {
        if vb.itl_per_token_ms != vb.itl_per_chunk_ms {
            self.add_itl_per_token(vb);
        }
        if bases_differ(vb) {
            self.add_time_bases(vb);
        }
        self.add_steady_state(vb);
        self.add_goodput(vb);
        self.add_groups(vb);
        self.add_failures(vb);
        if let Some(server) = &vb.server {
            self.add_server(server);
        }
    }

    /// The steady window next to the whole run, or the reason why it is missing.
    fn add_steady_state(&mut self, vb: &VbMetrics) {
        let Some(steady) = &vb.steady else { return };
        self.add_rule("Steady State", '-');
        self.add_line(&format!("{}: {}", steady.verdict.as_words(), steady.why));
        if let (Some(from), Some(to), Some(numbers)) = (steady.from_s, steady.to_s, &steady.numbers) {
            let window = format!("{from:.1} - {to:.1} s");
            self.add_line(&format!("{:<22} {:>12} {window:>18}", "", "whole run"));
            self.add_two_columns("Requests:", vb.offered, numbers.offered);
            let rates = [
                ("Requests/s:", &vb.requests_per_s, &steady.requests_per_s),
                ("Output tokens/s:", &vb.output_tokens_per_s, &steady.output_tokens_per_s),
            ];
            for (label, whole, window) in rates {
                let window = window.unwrap_or_default();
                let (whole, value) = (format!("{:.2}", whole.per_s), format!("{:.2}", window.per_s));
                self.add_line(&format!("{label:<22} {whole:>12} {value:>18} {}", format_interval(&window)));
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
        self.add_stalls(steady);
        if let Some(little) = &steady.little {
            let Little { concurrency, rate, latency_s, gap } = little;
            self.add_line(&format!(
                "In flight {concurrency:.2}, rate x latency {:.2} ({rate:.2}/s x {latency_s:.3} s): {:+.1} %",
                rate * latency_s,
                gap * 100.0
            ));
        }
        if let Some(together) = steady.lock_step {
            self.add_line(&format!(
                "Lock-step: about {together:.0} requests start at once, repeatedly, as requests of one length do in a closed \
                 loop; vary the lengths"
            ));
        }
    }

    /// Before everything else, because no latency of an overloaded run means anything.
    fn add_overload(&mut self, vb: &VbMetrics) {
        if let Some(steady) = vb.steady.as_ref().filter(|steady| steady.verdict == Stability::Overloaded) {
            self.add_line(&format!("{}: {}", steady.verdict.as_words().to_uppercase(), steady.why));
        }
    }

    fn add_stalls(&mut self, steady: &Steady) {
        let Some(longest) = steady.stalls.longest.first() else { return };
        let Stall { at_s, seconds, streams } = longest;
        let all = match steady.stalls.count {
            1 => String::new(),
            count => format!(" ({count} stalls, {:.1} s in all)", steady.stalls.seconds),
        };
        self.add_line(&format!("Stall: {streams} streams received nothing for {seconds:.1} s at {at_s:.1} s{all}"));
    }

    fn add_two_columns(&mut self, label: &str, whole: impl std::fmt::Display, window: impl std::fmt::Display) {
        self.add_line(&format!("{label:<22} {whole:>12} {window:>18}"));
    }

    fn add_groups(&mut self, vb: &VbMetrics) {
        let mut last = None;
        for group in &vb.groups {
            if last != Some(&group.by) {
                self.add_numbers_heading(&format!("By {}", group.by));
                last = Some(&group.by);
            }
            self.add_numbers(&group.key, &group.numbers);
        }
        for (i, slice) in vb.slices.iter().enumerate() {
            if i == 0 {
                self.add_numbers_heading("By time");
            }
            self.add_numbers(&format!("{} - {} s", slice.from_s, slice.to_s), &slice.numbers);
        }
    }

    fn add_numbers_heading(&mut self, heading: &str) {
        self.add_rule(heading, '-');
        self.add_line(&format!(
            "{:<16} {:>8} {:>7} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "", "requests", "failed", "TTFT mean", "TTFT p50", "TPOT mean", "E2EL mean", "good (%)"
        ));
    }

    fn add_numbers(&mut self, name: &str, numbers: &Numbers) {
        let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let median = numbers.ttft_ms.percentiles.get("p50").and_then(Value::as_f64);
        self.add_line(&format!(
            "{name:<16} {:>8} {:>7} {:>10} {:>10} {:>10} {:>10} {:>10}",
            numbers.offered,
            numbers.failed,
            show(numbers.ttft_ms.mean),
            show(median),
            show(numbers.tpot_ms.mean),
            show(numbers.e2el_ms.mean),
            show(numbers.attainment.map(|share| share * 100.0)),
        ));
    }

    fn add_itl_per_token(&mut self, vb: &VbMetrics) {
        let estimated = if vb.itl_per_token_estimated { ", estimated" } else { "" };
        self.add_rule(&format!("Inter-token Latency (per token{estimated})"), '-');
        for (name, value) in format_statistics(&vb.itl_per_token_ms) {
            self.add_row(&format!("{name} ITL per token (ms):"), value);
        }
    }

    /// Latencies from start (how long the server took), and from schedule (how long a user waited who arrived on schedule).
    fn add_time_bases(&mut self, vb: &VbMetrics) {
        self.add_rule("Latency from Start / from Schedule", '-');
        self.add_line(&format!("{:<22} {:>12} {:>14}", "", "from start", "from schedule"));
        let both = [
            ("TTFT", &vb.from_start.ttft_ms, &vb.from_schedule.ttft_ms),
            ("E2EL", &vb.from_start.e2el_ms, &vb.from_schedule.e2el_ms),
        ];
        for (label, start, schedule) in both {
            for ((name, a), (_, b)) in format_statistics(start).into_iter().zip(format_statistics(schedule)) {
                self.add_line(&format!("{:<22} {a:>12} {b:>14}", format!("{name} {label} (ms):")));
            }
        }
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
        let columns = |name: &str, cells: [&str; 7]| {
            let [client, queue, prefill, decode, frontend, outside, server] = cells;
            format!(
                "{name:<15} {client:>9} = {queue:>8} {prefill:>8} {decode:>8} {frontend:>8} {outside:>8}   {server:>9}"
            )
        };
        for (i, (name, parts)) in server.reconciled.known_latencies().enumerate() {
            if i == 0 {
                self.add_line(&columns("", ["client", "queue", "prefill", "decode", "frontend", "outside", "server"]));
            }
            let Parts { client, server, queue, prefill, decode, frontend, outside } = parts;
            let cells = [Some(client), queue, prefill, decode, frontend, Some(outside), Some(server)];
            // Avoid `-0.00`, which a difference of equal numbers may give.
            let cells =
                cells.map(|ms| ms.map_or("-".to_owned(), |ms| format!("{:.2}", (ms * 100.0).round() / 100.0 + 0.0)));
            self.add_line(&columns(&format!("Mean {name} (ms):"), cells.each_ref().map(String::as_str)));
        }
    }

    fn add_stream_state(&mut self, vb: &VbMetrics) {
        let complete =
            if vb.complete { "Complete stream" } else { "INCOMPLETE stream (truncated, filtered or without its end)" };
        let mut words = vec![complete.to_owned()];
        if vb.interrupted {
            words.push("interrupted".into());
        }
        words.push(format!("{} requests offered", vb.offered));
        if let abandoned @ 1.. = vb.population().abandoned {
            words.push(format!("{abandoned} cancelled on purpose"));
        }
        if vb.not_sent > 0 {
            words.push(format!("{} never sent", vb.not_sent));
        }
        for (outputs, how) in [(vb.shortfall.short, "shorter"), (vb.shortfall.long, "longer")] {
            if outputs > 0 {
                words.push(format!("{outputs} outputs {how} than requested"));
            }
        }
        if vb.bad_lines > 0 {
            words.push(format!("{} bad lines skipped", vb.bad_lines));
        }
        self.add_line(&(words.join(", ") + "."));
        if let Some(difference) = vb.prompt_lengths.and_then(|lengths| lengths.describe_difference()) {
            self.add_line(&format!("The server counts {difference}."));
        }
        if let Some(length) = &vb.run_length {
            let RunLength { correlation_times, metric, advice } = length;
            let long = || format!("The run is about {correlation_times:.0} correlation times long (by {metric}).");
            self.add_line(&advice.as_ref().map_or_else(long, |advice| format!("length: {advice}")));
        }
        if vb.percentile_error > 0.0 {
            let percent = vb.percentile_error * 100.0;
            self.add_line(&format!("Percentiles are from histograms: within {percent:.2} %."));
        }
    }

    /// Whether the numbers reflect the server; nothing if the stream does not have a verdict.
    fn add_client_verdict(&mut self, vb: &VbMetrics) {
        let Some(verdict) = vb.verdict else { return };
        let words = vb.client.as_ref().map(ClientFigures::describe_client).unwrap_or_default();
        let why = match vb.reasons.as_slice() {
            [] if words.is_empty() => String::new(),
            [] => format!("; {words}"),
            [reason] => format!(": {reason}"),
            [reason, others @ ..] => format!(": {reason} (and {} more, in vb.reasons)", others.len()),
        };
        if let Some(planned) = &vb.arrivals {
            self.add_line(&arrivals::describe_arrivals(planned));
        }
        self.add_line(&format!("client: {}{why}", verdict.name()));
    }
}

/// Whether a proxy decides over this metric: over everything before the end of a response.
fn hides_metric(buffering: &Buffering, metric: Metric) -> bool {
    buffering.hides_latencies() && matches!(metric, Metric::Ttft | Metric::Tpot | Metric::Itl)
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
fn bases_differ(vb: &VbMetrics) -> bool {
    let (start, schedule) = (vb.from_start.ttft_ms.mean, vb.from_schedule.ttft_ms.mean);
    let waited = start.zip(schedule).is_some_and(|(start, schedule)| schedule > start * 1.01);
    schedule.is_some() && (vb.open_loop == Some(true) || waited && !vb.run_ids.is_empty())
}
