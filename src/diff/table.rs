//! The comparison for people: a table for the terminal, and Markdown for a comment.

use super::{
    change::ALPHA,
    check::{CheckResult, format_p},
    report::{Report, SideSummary},
    row::{ChangeRange, ChangeRow, ChangeVerdict, Number, SHARE},
};
use crate::printable::clean_line;

const HEADINGS: [&str; 7] = ["", "A", "B", "change", "95 % interval", "p", "verdict"];

/// The table for a terminal.
#[must_use]
pub fn text_table(report: &Report) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(report.changes.iter().map(|row| row_cells(row, report.margin)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut out = format_head(report, "\n", "! ");
    let mut metric = "";
    for (i, row) in rows.iter().enumerate() {
        let now = i.checked_sub(1).map_or("", |i| report.changes[i].metric.as_str());
        if i > 0 && now != metric && !is_single(metric, now) {
            out.push('\n');
        }
        metric = now;
        let padded = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            let pad = " ".repeat(width - cell.chars().count());
            if matches!(column, 0 | 6) { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        out += padded.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
    }
    out + "\n" + &format_foot(report, "")
}

/// The table in Markdown.
#[must_use]
pub fn markdown_table(report: &Report) -> String {
    let mut out = format_head(report, "\n\n", "- ⚠ ");
    let line = |cells: [String; 7]| format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    out += &line(HEADINGS.map(str::to_owned));
    out += "|---|--:|--:|--:|--:|--:|---|\n";
    for row in &report.changes {
        let mut cells = row_cells(row, report.margin);
        if matches!(row.verdict, ChangeVerdict::Better | ChangeVerdict::Worse) {
            cells[6] = format!("**{}**", cells[6]);
        }
        out += &line(cells);
    }
    out + "\n" + &format_foot(report, "- ")
}

/// Whether two metrics with one row each are printed without a blank line between them.
fn is_single(one: &str, other: &str) -> bool {
    let single = |metric: &str| matches!(metric, "throughput" | "request_throughput" | "success");
    single(one) && single(other)
}

/// The sides, and reasons why they may not be comparable.
fn format_head(report: &Report, between: &str, mark: &str) -> String {
    let side = |(name, side): (&str, &SideSummary)| {
        let runs = if side.files.len() == 1 { String::new() } else { format!("{} runs, ", side.files.len()) };
        let files = side.files.join(" ");
        format!("{name}: {} ({runs}{} requests, {} failed)", clean_line(&files), side.requests, side.failed)
    };
    let sides = [("A", &report.a), ("B", &report.b)].map(side).join(between);
    let warnings = report.warnings.iter().map(|warning| format!("{mark}{}", clean_line(warning)));
    let warnings = warnings.collect::<Vec<_>>().join("\n");
    if warnings.is_empty() { sides + "\n\n" } else { sides + between + &warnings + "\n\n" }
}

/// How to read the table, and the result of each rule.
fn format_foot(report: &Report, bullet: &str) -> String {
    let mut lines = vec![format!(
        "p: the probability of a change this large between equal servers, corrected for {} comparisons (Holm).",
        report.comparisons
    )];
    let by_runs = |number: &Number| number.basis == "runs";
    if report.changes.iter().any(|row| by_runs(&row.a) || by_runs(&row.b)) {
        lines.push(
            "*: each run counts as one value, because the runs vary more than their requests explain, or are more precise."
                .into(),
        );
    }
    lines.extend(report.checks.iter().map(|check| {
        let result = match check.result {
            CheckResult::Passed => "passed",
            CheckResult::Failed => "FAILED",
            CheckResult::Undecided => "undecided",
        };
        format!("{result}: fail if {}: {}", check.rule, check.why)
    }));
    lines.iter().map(|line| format!("{bullet}{line}\n")).collect::<Vec<_>>().concat()
}

fn row_cells(row: &ChangeRow, margin: f64) -> [String; 7] {
    let share = row.unit == SHARE;
    let change = if share { Some(row.difference) } else { row.relative };
    let by_runs = if row.a.basis == "runs" || row.b.basis == "runs" { "*" } else { "" };
    [
        row_name(row) + by_runs,
        format_value(row, &row.a),
        format_value(row, &row.b),
        change.map_or_else(|| "-".into(), |change| format_percent(change.value, share)),
        change.map_or_else(|| "-".into(), |change| format_interval(change, share)),
        row.p_corrected.map_or_else(|| "-".into(), format_p_cell),
        format_verdict(row, margin),
    ]
}

fn row_name(row: &ChangeRow) -> String {
    let base = row.metric.trim_end_matches("_from_schedule");
    let from = if base == row.metric { "" } else { " from schedule" };
    match base {
        "throughput" => "output tokens/s".into(),
        "request_throughput" => "requests/s".into(),
        "success" => "successes".into(),
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

fn format_verdict(row: &ChangeRow, margin: f64) -> String {
    // Rounded to a millionth, since 0.07 × 100 is not 7.
    let within = format!("{} {}", (margin * 1e8).round() / 1e6, if row.unit == SHARE { "pp" } else { "%" });
    let more = row.needs_more.map_or_else(String::new, |more| format!("about {more} more"));
    match row.verdict {
        ChangeVerdict::Better => "better".into(),
        ChangeVerdict::Worse => "worse".into(),
        // The change is significant, and too small to matter.
        ChangeVerdict::Same if row.p_corrected.is_some_and(|p| p < ALPHA) => format!("differs, but within {within}"),
        ChangeVerdict::Same => format!("same within {within}"),
        ChangeVerdict::Undecided if more.is_empty() => "undecided".into(),
        ChangeVerdict::Undecided => format!("undecided: needs {more}"),
        ChangeVerdict::TooFew => row
            .too_few
            .map_or_else(|| "too few values".into(), |few| format!("too few values: has {} of {}", few.has, few.needs)),
    }
}
