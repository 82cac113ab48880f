//! The short table: what to know about a run, on one screen.

use serde_json::Value;

use super::{
    super::{
        goodput::Goodput,
        rate::MeasuredRate,
        result::RunResult,
        throughput::GpuThroughput,
        vb::{FailureCount, VbMetrics},
    },
    Statistic, format_ends, format_number, full, head, is_hidden, notes, parts,
};
use crate::{
    printout::{Cell, Printout, Tone},
    record::ErrorKind,
    recording::metric::Metric,
    statistics::{Doubt, Summary},
};

/// Latencies from schedule are shown if they are this many times as long.
const MIN_WAIT: f64 = 1.05;

/// Adds the table.
pub fn print_short(out: &mut Printout, result: &RunResult) {
    head::add_head(out, result);
    out.add_blank();
    out.add_columns(&headline(result));
    add_failures(out, &result.vb);
    out.add_blank();
    let missing = add_latencies(out, result);
    parts::add_parts(out, &result.vb);
    let notes = notes::collect_notes(result);
    if !missing.is_empty() || !notes.is_empty() {
        out.add_blank();
    }
    for note in &notes {
        note.print(out);
    }
    for what in missing {
        out.add_wrapped(&[Cell::left(what).toned(Tone::Faint)], 2);
    }
}

/// A row of the headline: what it is about, and its text.
fn row(label: &str, text: impl Into<String>) -> Vec<Cell> {
    vec![Cell::left(label), Cell::left(text)]
}

/// Requests, throughput, requests in flight, goodput, server.
fn headline(result: &RunResult) -> Vec<Vec<Cell>> {
    let vb = &result.vb;
    let mut rows = vec![row("requests", describe_requests(result))];
    let asked = match result.header.get("request_rate") {
        Some(Value::Number(rate)) => format!(", asked for {}", format_number(rate.as_f64().unwrap_or_default())),
        Some(Value::String(profile)) if profile != "inf" => format!(", asked for {profile}"),
        _ => String::new(),
    };
    rows.push(row("throughput", format!("{} requests/s{asked}", format_rate(&vb.requests_per_s))));
    if result.total_output_tokens > 0 {
        let peak = match vb.peak_tokens_per_s {
            0 => String::new(),
            peak => format!(", {peak} at the peak"),
        };
        rows.push(row("", format!("{} output tokens/s{peak}", format_rate(&vb.output_tokens_per_s))));
    } else if result.total_input_tokens > 0 {
        rows.push(row("", format!("{} prompt tokens/s", format_number(result.total_token_throughput))));
    }
    if let Some(speed) = vb.tokens_per_s_per_user.as_ref().and_then(|user| user.mean) {
        rows.push(row("per user", format!("{} output tokens/s", format_number(speed))));
    }
    if let Some(GpuThroughput { gpus, request_throughput, output_throughput, .. }) = &vb.per_gpu {
        let [requests, tokens] = [request_throughput, output_throughput].map(|per_s| format_number(*per_s));
        rows.push(row("per GPU", format!("{requests} requests/s, {tokens} output tokens/s on {gpus} GPUs")));
    }
    if let Some(mean) = vb.mean_concurrency {
        rows.push(row("in flight", format!("{} on average, {} at the peak", format_number(mean), vb.peak_concurrency)));
    }
    if let Some(goodput) = &vb.goodput {
        rows.extend(goodput_rows(goodput, vb));
    }
    if let Some(load) = describe_server(vb) {
        rows.push(row("server", load));
    }
    rows
}

fn describe_requests(result: &RunResult) -> String {
    let vb = &result.vb;
    let mut parts =
        vec![format!("{} of {} succeeded in {} s", result.completed, vb.offered, format_number(result.duration))];
    if result.failed > 0 {
        parts.push(format!("{} failed", result.failed));
    }
    if let abandoned @ 1.. = vb.population().abandoned {
        parts.push(format!("{abandoned} cancelled on purpose"));
    }
    if vb.not_sent > 0 {
        parts.push(format!("{} never sent", vb.not_sent));
    }
    parts.join(", ")
}

fn format_rate(rate: &MeasuredRate) -> String {
    let ends = rate.interval.map_or([None, None], |ends| ends.map(Some));
    let interval = format_ends(ends);
    format!("{} {interval}", format_number(rate.per_s)).trim_end().to_owned()
}

/// The share of good requests, counted from start; and from schedule if it differs.
fn goodput_rows(goodput: &Goodput, vb: &VbMetrics) -> Vec<Vec<Cell>> {
    let limit =
        |(name, ms): (&String, &Value)| format!("{} {} ms", name.to_uppercase(), ms.as_f64().unwrap_or_default());
    let limits: Vec<String> = goodput.slos_ms.iter().map(limit).collect();
    let limits = limits.join(", ");
    let Some(share) = goodput.from_start.attainment else {
        return vec![row("goodput", format!("no success has a value for {limits}"))];
    };
    let interval = goodput.from_start.attainment_interval;
    let interval =
        interval.map_or_else(String::new, |[low, high]| format!(" [{:.2}, {:.2}]", low * 100.0, high * 100.0));
    let per_s = format_number(goodput.from_start.per_s.unwrap_or_default());
    let mut rows =
        vec![row("goodput", format!("{:.2} %{interval} within {limits}: {per_s} requests/s", share * 100.0))];
    let from_schedule = goodput.from_schedule.attainment.filter(|_| full::bases_differ(vb));
    if let Some(from_schedule) = from_schedule.filter(|from_schedule| (from_schedule - share).abs() > 1e-9) {
        rows.push(row("", format!("{:.2} % if times count from schedule", from_schedule * 100.0)));
    }
    rows
}

/// What the server's own metrics show.
fn describe_server(vb: &VbMetrics) -> Option<String> {
    let server = vb.server.as_ref()?;
    let mut words = Vec::new();
    if let Some(waiting) = server.waiting {
        words.push(format!("{:.1} requests waiting (max {:.0})", waiting.mean, waiting.max));
    }
    if let Some(usage) = server.kv_cache_usage {
        words.push(format!("{:.0} % of the KV cache used (max {:.0} %)", usage.mean * 100.0, usage.max * 100.0));
    }
    if let Some(rate) = server.prefix_cache.and_then(|cache| cache.hit_rate) {
        words.push(format!("{:.1} % prefix cache hits", rate * 100.0));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// Failures by kind, with the most frequent message of each.
fn add_failures(out: &mut Printout, vb: &VbMetrics) {
    let no_failure = ["ok", ErrorKind::Abandoned.name()];
    let failed = vb.outcomes.iter().filter(|(kind, n)| !no_failure.contains(&kind.as_str()) && n.as_u64() != Some(0));
    for (kind, n) in failed {
        let name = |m: &FailureCount| m.kind.map_or("other", ErrorKind::name);
        let message = vb.errors.iter().find(|m| name(m) == kind && !m.message.is_empty());
        let mut cells = vec![Cell::left(format!("  {n} {kind}")).toned(Tone::Bad)];
        if let Some(FailureCount { message, .. }) = message {
            cells.extend([Cell::left(": "), Cell::verbatim(message)]);
        }
        out.add_wrapped(&cells, 4);
    }
}

/// Adds the latencies. Returns what is to be known about their cells.
fn add_latencies(out: &mut Printout, result: &RunResult) -> Vec<String> {
    let vb = &result.vb;
    let mut known: Vec<(&str, &Summary)> = Vec::new();
    let mut unknown = Vec::new();
    for metric in [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el] {
        let summary = vb.latency_summary(metric);
        if summary.n == 0 {
            unknown.push(metric.table_label());
            continue;
        }
        known.push((metric.table_label(), summary));
        match metric {
            Metric::Itl if vb.itl_per_token_ms != vb.itl_per_chunk_ms => {
                known.push(("  per token", &vb.itl_per_token_ms));
            }
            Metric::Ttft if waits_matter(vb) => known.push(("  from schedule", &vb.from_schedule.ttft_ms)),
            Metric::E2el if waits_matter(vb) => known.push(("  from schedule", &vb.from_schedule.e2el_ms)),
            _ => {}
        }
    }
    if !known.is_empty() {
        let names: Vec<&str> =
            std::iter::once("mean").chain(vb.tpot_ms.percentiles.keys().map(String::as_str)).collect();
        add_latency_columns(out, result, &known, &names);
    }
    let mut remarks = Vec::new();
    let statistics = || known.iter().flat_map(|(_, summary)| summary.too_few.iter());
    let most = statistics().filter_map(|(name, few)| Some((few["needs"].as_u64()?, name))).max();
    let is_rough = known.iter().any(|(_, summary)| summary.doubt == Some(Doubt::TooShort));
    if let Some((needs, name)) = most {
        remarks.push(format!("{name} needs {needs} independent requests; >= is a lower bound"));
    }
    if is_rough {
        remarks.push("~ marks a number of a run that is too short for its interval".to_owned());
    }
    if !unknown.is_empty() && result.completed > 0 {
        remarks.push(format!("{}: no request has any", unknown.join(", ")));
    }
    remarks
}

/// Whether users of this load waited for longer than the latencies from start show.
fn waits_matter(vb: &VbMetrics) -> bool {
    let means = vb.from_start.ttft_ms.mean.zip(vb.from_schedule.ttft_ms.mean);
    full::bases_differ(vb) && means.is_some_and(|(start, schedule)| schedule > MIN_WAIT * start)
}

/// One row for each latency if the terminal is wide enough, else the intervals in a row below.
fn add_latency_columns(out: &mut Printout, result: &RunResult, known: &[(&str, &Summary)], names: &[&str]) {
    let mut inline = vec![vec![Cell::left("ms").toned(Tone::Faint)]];
    let mut stacked = inline.clone();
    for name in names {
        inline[0].extend([Cell::right(*name).toned(Tone::Strong), Cell::left("")]);
        stacked[0].push(Cell::right(*name).toned(Tone::Strong));
    }
    for (label, summary) in known {
        let hidden = [Metric::Ttft, Metric::Tpot, Metric::Itl]
            .iter()
            .any(|m| m.table_label() == *label && is_hidden(result, *m));
        let tone = if hidden { Tone::Doubtful } else { Tone::Strong };
        let (mut line, mut values, mut details) =
            (vec![Cell::left(*label).toned(tone)], vec![Cell::left(*label).toned(tone)], vec![Cell::left("")]);
        for name in names {
            let (value, detail) = statistic_cells(summary, name);
            line.extend([value.clone(), detail.clone()]);
            values.push(value);
            details.push(detail);
        }
        inline.push(line);
        stacked.push(values);
        if details.iter().any(|cell| !cell.is_empty()) {
            stacked.push(details);
        }
    }
    let fits = out.width_of_columns(&inline) <= out.look().table_width();
    out.add_columns(if fits { &inline } else { &stacked });
}

/// A statistic, and its interval or how many values it lacks.
fn statistic_cells(summary: &Summary, name: &str) -> (Cell, Cell) {
    match Statistic::find(summary, name) {
        None => (Cell::right("-"), Cell::right("")),
        Some(Statistic::Rough(value)) => {
            (Cell::right(format!("~{}", format_number(value))).toned(Tone::Doubtful), Cell::right(""))
        }
        Some(Statistic::Known { value, ends }) => {
            (Cell::right(format_number(value)), Cell::right(format_ends(ends)).toned(Tone::Faint))
        }
        Some(Statistic::TooFew { at_least, needs, has }) => {
            let bound = at_least.map_or_else(|| "-".to_owned(), |low| format!(">= {}", format_number(low)));
            (
                Cell::right(bound).toned(Tone::Doubtful),
                Cell::right(format!("has {has} of {needs}")).toned(Tone::Doubtful),
            )
        }
    }
}
