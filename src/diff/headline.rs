//! The comparison in one sentence, from the verdicts.

use super::{
    report::Report,
    row::{ChangeRow, ChangeVerdict, SHARE},
    table::{format_change, row_name},
};

/// The most changes that the sentence names on each side.
const MAX_NAMED: usize = 3;

/// What became faster or slower, what is undecided, and whether there are warnings.
#[must_use]
pub fn describe_comparison(report: &Report) -> String {
    let [a, b] = [&report.a.label, &report.b.label];
    let with = |verdict: ChangeVerdict, share: bool| -> Vec<&ChangeRow> {
        report.changes.iter().filter(|row| row.verdict == verdict && (row.unit == SHARE) == share).collect()
    };
    let (faster, slower) = (with(ChangeVerdict::Better, false), with(ChangeVerdict::Worse, false));
    let undecided: Vec<&ChangeRow> = report.changes.iter().filter(|row| is_open(row)).collect();
    let mut parts = vec![match (faster.is_empty(), slower.is_empty()) {
        (false, true) => format!("{b} is faster than {a}: {}", name_changes(&faster)),
        (true, false) => format!("{b} is slower than {a}: {}", name_changes(&slower)),
        (false, false) => {
            format!("{b} is faster than {a} in {}, and slower in {}", name_changes(&faster), name_changes(&slower))
        }
        (true, true) if report.changes.is_empty() => format!("{a} and {b} have nothing in common to compare"),
        (true, true) if undecided.is_empty() => {
            format!("{b} is as fast as {a}, within {} %", share_in_percent(report.margin))
        }
        (true, true) => format!("no difference between {a} and {b} is certain"),
    }];
    for row in with(ChangeVerdict::Worse, true) {
        parts.push(format!("more requests fail: {}", format_change(row)));
    }
    for row in with(ChangeVerdict::Better, true) {
        parts.push(format!("fewer requests fail: {}", format_change(row)));
    }
    if !faster.is_empty() && slower.is_empty() && with(ChangeVerdict::Worse, true).is_empty() {
        parts.push("nothing became worse".to_owned());
    }
    if !undecided.is_empty() {
        parts.push(format!("undecided: {}", name_rows(&undecided)));
    }
    match report.warnings.len() {
        0 => {}
        1 => parts.push("see the warning below".to_owned()),
        n => parts.push(format!("see the {n} warnings below")),
    }
    parts.join("; ")
}

/// Whether these runs leave the row open.
fn is_open(row: &ChangeRow) -> bool {
    matches!(row.verdict, ChangeVerdict::Undecided | ChangeVerdict::TooFew)
}

/// A percentage, rounded to a millionth, since 0.07 × 100 is not 7.
pub fn share_in_percent(share: f64) -> f64 {
    (share * 1e8).round() / 1e6
}

/// One change of each metric, throughput first; of a latency the one of its highest percentile.
fn name_changes(rows: &[&ChangeRow]) -> String {
    let mut chosen: Vec<&ChangeRow> = Vec::new();
    for row in rows {
        match chosen.iter_mut().find(|other| other.metric == row.metric) {
            Some(other) => *other = row,
            None => chosen.push(row),
        }
    }
    chosen.sort_by_key(|row| row.unit == "ms");
    let named: Vec<String> =
        chosen.iter().take(MAX_NAMED).map(|row| format!("{} {}", short_name(row), format_change(row))).collect();
    named.join(", ")
}

/// The names of rows; the statistics of a metric are named together.
fn name_rows(rows: &[&ChangeRow]) -> String {
    let named: Vec<String> = rows.iter().take(MAX_NAMED).map(|row| short_name(row)).collect();
    match rows.len().saturating_sub(MAX_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn short_name(row: &ChangeRow) -> String {
    row_name(row).trim_end_matches(" (ms)").to_owned()
}
