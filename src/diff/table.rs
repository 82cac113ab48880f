//! The comparison for people: a table for the terminal, and Markdown for a comment.

use super::{
    change::ALPHA,
    check::{CheckResult, format_p},
    headline::share_in_percent,
    report::{Report, SideSummary},
    row::{ChangeRange, ChangeRow, ChangeVerdict, Number, SHARE},
};
use crate::{
    lang::Language,
    printable::clean_line,
    printout::{Cell, Look, Printout, Tone},
};

/// The table for a terminal.
#[must_use]
pub fn text_table(report: &Report, look: Look) -> Printout {
    let mut out = Printout::new(look);
    out.add_wrapped(&[Cell::left(report.headline.as_str()).toned(Tone::Strong)], 2);
    out.add_blank();
    for side in [&report.a, &report.b] {
        out.add_wrapped(&[Cell::left(describe_side(side))], 2);
    }
    for warning in &report.warnings {
        out.add_wrapped(&[Cell::left("! ").toned(Tone::Doubtful), Cell::left(warning.as_str())], 2);
    }
    out.add_blank();
    let mut rows = vec![headings(report).map(|heading| Cell::right(heading).toned(Tone::Strong)).to_vec()];
    let mut metric = "";
    for row in &report.changes {
        if !metric.is_empty() && row.metric != metric && !is_single(metric, &row.metric) {
            rows.push(Vec::new());
        }
        metric = &row.metric;
        let [name, numbers @ .., verdict] = row_cells(row, report);
        let tone = match row.verdict {
            ChangeVerdict::Better => Tone::Good,
            ChangeVerdict::Worse => Tone::Bad,
            ChangeVerdict::Same => Tone::Plain,
            ChangeVerdict::Undecided | ChangeVerdict::TooFew => Tone::Doubtful,
        };
        let numbers = numbers.into_iter().map(Cell::right);
        rows.push(std::iter::once(Cell::left(name)).chain(numbers).chain([Cell::left(verdict).toned(tone)]).collect());
    }
    // The heading of the verdicts, which begin at the left.
    rows[0][6] = Cell::left("verdict").toned(Tone::Strong);
    out.add_columns(&rows);
    out.add_blank();
    for (line, tone) in foot_lines(report) {
        out.add_wrapped(&[Cell::left(line).toned(tone)], 2);
    }
    out
}

/// The table in Markdown.
#[must_use]
pub fn markdown_table(report: &Report, language: Language) -> String {
    let shown = |text: &str| clean_line(&language.translate(text)).into_owned();
    let mut out = format!("**{}**\n\n", shown(&report.headline));
    for side in [&report.a, &report.b] {
        out.extend([&shown(&describe_side(side)), "\n\n"]);
    }
    for warning in &report.warnings {
        out.extend(["- ⚠ ", &shown(warning), "\n"]);
    }
    if !report.warnings.is_empty() {
        out.push('\n');
    }
    let line = |cells: [String; 7]| format!("| {} |\n", cells.map(|cell| shown(&cell).replace('|', "\\|")).join(" | "));
    out += &line(headings(report));
    out += "|---|--:|--:|--:|--:|--:|---|\n";
    for row in &report.changes {
        let mut cells = row_cells(row, report);
        if matches!(row.verdict, ChangeVerdict::Better | ChangeVerdict::Worse) {
            cells[6] = format!("**{}**", shown(&cells[6]));
        }
        out += &line(cells);
    }
    out.push('\n');
    for (text, _) in foot_lines(report) {
        out.extend(["- ", &shown(&text), "\n"]);
    }
    out
}

fn headings(report: &Report) -> [String; 7] {
    ["", &report.a.label, &report.b.label, "change", "95 % interval", "p", "verdict"].map(str::to_owned)
}

/// Whether two metrics with one row each are printed without a blank line between them.
fn is_single(one: &str, other: &str) -> bool {
    let single = |metric: &str| matches!(metric, "throughput" | "request_throughput" | "success");
    single(one) && single(other)
}

/// A side: its name, its files, and how its requests ended.
fn describe_side(side: &SideSummary) -> String {
    let files = side.files.join(" ");
    let SideSummary { label, requests, .. } = side;
    match (side.files.len(), side.failed) {
        (1, Some(failed)) => format!("{label}: {files} ({requests} requests, {failed} failed)"),
        (1, None) => format!("{label}: {files} ({requests} requests, failures unknown)"),
        (runs, Some(failed)) => format!("{label}: {files} ({runs} runs, {requests} requests, {failed} failed)"),
        (runs, None) => format!("{label}: {files} ({runs} runs, {requests} requests, failures unknown)"),
    }
}

/// How to read the table, and the result of each rule.
fn foot_lines(report: &Report) -> Vec<(String, Tone)> {
    let mut lines = vec![(
        format!(
            "p: the probability of a change this large between equal servers, corrected for {} comparisons (Holm).",
            report.comparisons
        ),
        Tone::Faint,
    )];
    let by_runs = |number: &Number| number.basis == "runs";
    if report.from_summaries {
        let text =
            "Numbers are geometric means of the runs; changes are tested with Welch's t-test of the runs' logarithms.";
        lines.push((text.to_owned(), Tone::Faint));
    } else if report.changes.iter().any(|row| by_runs(&row.a) || by_runs(&row.b)) {
        let text = "*: each run counts as one value, because the runs vary more than their requests explain, or are more precise.";
        lines.push((text.to_owned(), Tone::Faint));
    }
    lines.extend(report.checks.iter().map(|check| {
        let (result, tone) = match check.result {
            CheckResult::Passed => ("passed", Tone::Good),
            CheckResult::Failed => ("FAILED", Tone::Bad),
            CheckResult::Undecided => ("undecided", Tone::Doubtful),
        };
        (format!("{result}: fail if {}: {}", check.rule, check.why), tone)
    }));
    lines
}

/// A change with its interval, for the headline.
pub fn format_change(row: &ChangeRow) -> String {
    let share = row.unit == SHARE;
    let Some(ChangeRange { value, low, high }) = (if share { Some(row.difference) } else { row.relative }) else {
        return "-".to_owned();
    };
    let end = |end: Option<f64>| end.map_or_else(|| "?".to_owned(), |end| format!("{:+.1}", end * 100.0));
    let value = format_percent(value, share);
    if low.is_none() && high.is_none() { value } else { format!("{value} [{}, {}]", end(low), end(high)) }
}

fn row_cells(row: &ChangeRow, report: &Report) -> [String; 7] {
    let share = row.unit == SHARE;
    let change = if share { Some(row.difference) } else { row.relative };
    let by_runs = row.a.basis == "runs" || row.b.basis == "runs";
    let by_runs = if by_runs && !report.from_summaries { "*" } else { "" };
    [
        row_name(row) + by_runs,
        format_value(row, &row.a),
        format_value(row, &row.b),
        change.map_or_else(|| "-".into(), |change| format_percent(change.value, share)),
        change.map_or_else(|| "-".into(), |change| format_interval(change, share)),
        row.p_corrected.map_or_else(|| "-".into(), format_p_cell),
        format_verdict(row, report),
    ]
}

/// The name of a row.
pub fn row_name(row: &ChangeRow) -> String {
    let base = row.metric.trim_end_matches("_from_schedule");
    let from = if base == row.metric { "" } else { " from schedule" };
    match base {
        "throughput" => "output tokens/s".into(),
        "request_throughput" => "requests/s".into(),
        "success" => "successes".into(),
        "itl_per_token" => "ITL per token mean (ms)".into(),
        latency => format!("{} {}{from} (ms)", latency.to_uppercase(), row.statistic),
    }
}

fn format_value(row: &ChangeRow, number: &Number) -> String {
    if row.unit == SHARE {
        return format!("{:.1} %", number.value * 100.0);
    }
    let digits = if number.value < 10.0 { 3 } else { 2 };
    format!("{:.digits$}", number.value)
}

fn format_percent(share: f64, points: bool) -> String {
    format!("{:+.1} {}", share * 100.0, if points { "pp" } else { "%" })
}

fn format_interval(range: ChangeRange, points: bool) -> String {
    if range.low.is_none() && range.high.is_none() {
        return "-".into();
    }
    let end = |end: Option<f64>| end.map_or_else(|| "?".into(), |end| format!("{:+.1}", end * 100.0));
    format!("{} … {} {}", end(range.low), end(range.high), if points { "pp" } else { "%" })
}

fn format_p_cell(p: f64) -> String {
    format_p(p).trim_start_matches("p ").trim_start_matches("= ").replace("< ", "<")
}

fn format_verdict(row: &ChangeRow, report: &Report) -> String {
    let within = format!("{} {}", share_in_percent(report.margin), if row.unit == SHARE { "pp" } else { "%" });
    let is_of_runs = report.from_summaries && row.a.basis == "runs";
    let more = row.needs_more.map_or_else(String::new, |more| format!("about {more} more"));
    match row.verdict {
        ChangeVerdict::Better => "better".into(),
        ChangeVerdict::Worse => "worse".into(),
        // The change is significant, and too small to matter.
        ChangeVerdict::Same if row.p_corrected.is_some_and(|p| p < ALPHA) => format!("differs, but within {within}"),
        ChangeVerdict::Same => format!("same within {within}"),
        ChangeVerdict::Undecided if more.is_empty() => "undecided".into(),
        ChangeVerdict::Undecided if is_of_runs => format!("undecided: needs {more} runs"),
        ChangeVerdict::Undecided => format!("undecided: needs {more}"),
        ChangeVerdict::TooFew if report.from_summaries => "no interval without repeats".into(),
        ChangeVerdict::TooFew => row
            .too_few
            .map_or_else(|| "too few values".into(), |few| format!("too few values: has {} of {}", few.has, few.needs)),
    }
}
