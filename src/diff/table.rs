//! The comparison for people: a table on the terminal, and Markdown for a comment.

use super::{
    change::ALPHA,
    check::{Fate, told_p},
    report::{Number, Range, Report, Row, SHARE, Told, Verdict},
};

const HEADINGS: [&str; 7] = ["", "A", "B", "change", "95 % interval", "p", "verdict"];

/// The table for a terminal.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(report.changes.iter().map(|row| cells(row, report.margin)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut out = head(report, "\n", "! ");
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
    out + "\n" + &foot(report, "")
}

/// The table for a comment.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut out = head(report, "\n\n", "- ⚠ ");
    let line = |cells: [String; 7]| format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    out += &line(HEADINGS.map(str::to_owned));
    out += "|---|--:|--:|--:|--:|--:|---|\n";
    for row in &report.changes {
        let mut cells = cells(row, report.margin);
        if matches!(row.verdict, Verdict::Better | Verdict::Worse) {
            cells[6] = format!("**{}**", cells[6]);
        }
        out += &line(cells);
    }
    out + "\n" + &foot(report, "- ")
}

/// Numbers that are one row each stand together.
fn is_single(one: &str, other: &str) -> bool {
    let single = |metric: &str| matches!(metric, "throughput" | "request_throughput" | "success");
    single(one) && single(other)
}

/// The sides, and what speaks against comparing them.
fn head(report: &Report, between: &str, mark: &str) -> String {
    let side = |(name, side): (&str, &Told)| {
        let runs = if side.files.len() == 1 { String::new() } else { format!("{} runs, ", side.files.len()) };
        format!("{name}: {} ({runs}{} requests, {} failed)", side.files.join(" "), side.requests, side.failed)
    };
    let sides = [("A", &report.a), ("B", &report.b)].map(side).join(between);
    let warnings = report.warnings.iter().map(|warning| format!("{mark}{warning}"));
    let warnings = warnings.collect::<Vec<_>>().join("\n");
    if warnings.is_empty() { sides + "\n\n" } else { sides + between + &warnings + "\n\n" }
}

/// How to read it, and what became of the rules.
fn foot(report: &Report, bullet: &str) -> String {
    let mut lines = vec![format!(
        "p: how probable so large a change is between equals, corrected for {} comparisons (Holm).",
        report.comparisons
    )];
    let by_runs = |number: &Number| number.basis == "runs";
    if report.changes.iter().any(|row| by_runs(&row.a) || by_runs(&row.b)) {
        lines.push(
            "*: each run counts as one value, since the runs vary more than their requests let expect, or tell more."
                .into(),
        );
    }
    lines.extend(report.checks.iter().map(|check| {
        let result = match check.result {
            Fate::Passed => "passed",
            Fate::Failed => "FAILED",
            Fate::Undecided => "undecided",
        };
        format!("{result}: fail if {}: {}", check.rule, check.why)
    }));
    lines.iter().map(|line| format!("{bullet}{line}\n")).collect::<Vec<_>>().concat()
}

fn cells(row: &Row, margin: f64) -> [String; 7] {
    let share = row.unit == SHARE;
    let change = if share { Some(row.difference) } else { row.relative };
    let by_runs = if row.a.basis == "runs" || row.b.basis == "runs" { "*" } else { "" };
    [
        name(row) + by_runs,
        value(row, &row.a),
        value(row, &row.b),
        change.map_or_else(|| "-".into(), |change| percent(change.value, share)),
        change.map_or_else(|| "-".into(), |change| interval(change, share)),
        row.p_corrected.map_or_else(|| "-".into(), p_value),
        verdict(row, margin),
    ]
}

fn name(row: &Row) -> String {
    let base = row.metric.trim_end_matches("_from_schedule");
    let from = if base == row.metric { "" } else { " from schedule" };
    match base {
        "throughput" => "output tokens/s".into(),
        "request_throughput" => "requests/s".into(),
        "success" => "successes".into(),
        latency => format!("{} {}{from} (ms)", latency.to_uppercase(), row.statistic),
    }
}

fn value(row: &Row, number: &Number) -> String {
    if row.unit == SHARE {
        return format!("{:.1} %", number.value * 100.0);
    }
    let digits = if number.value < 10.0 { 3 } else { 2 };
    format!("{:.digits$}", number.value)
}

fn percent(share: f64, points: bool) -> String {
    format!("{:+.1} {}", share * 100.0, if points { "pp" } else { "%" })
}

fn interval(range: Range, points: bool) -> String {
    if range.low.is_none() && range.high.is_none() {
        return "-".into();
    }
    let end = |end: Option<f64>| end.map_or_else(|| "?".into(), |end| format!("{:+.1}", end * 100.0));
    format!("{} … {} {}", end(range.low), end(range.high), if points { "pp" } else { "%" })
}

fn p_value(p: f64) -> String {
    told_p(p).trim_start_matches("p ").trim_start_matches("= ").replace("< ", "<")
}

fn verdict(row: &Row, margin: f64) -> String {
    // To a millionth, since 0.07 × 100 is not 7.
    let within = format!("{} {}", (margin * 1e8).round() / 1e6, if row.unit == SHARE { "pp" } else { "%" });
    let more = row.needs_more.map_or_else(String::new, |more| format!("about {more} more"));
    match row.verdict {
        Verdict::Better => "better".into(),
        Verdict::Worse => "worse".into(),
        // It is no chance, and too little to matter.
        Verdict::Same if row.p_corrected.is_some_and(|p| p < ALPHA) => format!("differs, but within {within}"),
        Verdict::Same => format!("same within {within}"),
        Verdict::Undecided if more.is_empty() => "undecided".into(),
        Verdict::Undecided => format!("undecided: needs {more}"),
        Verdict::TooFew if more.is_empty() => "too few values".into(),
        Verdict::TooFew => format!("too few values: needs {more}"),
    }
}
