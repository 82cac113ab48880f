//! The comparison as a record: one line of JSON, from which the tables are made as well.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    candidate::{Candidate, list_candidates},
    change::{ALPHA, holm_correction, more_requests},
    check::{CheckOutcome, check_candidates},
    headline::describe_comparison,
    row::{ChangeRange, ChangeRow, ChangeVerdict, Number, SHARE, TooFew},
    side::Side,
    warnings,
};
use crate::{
    recording::rule::Rule,
    statistics::{Doubt, MIN_CORRELATION_TIMES, interval},
};

/// The version of this record.
const FORMAT: u32 = 1;

/// The options of a comparison.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// The percentiles, 0 to 100.
    pub percentiles: Vec<f64>,
    /// Changes up to this share do not matter.
    pub margin: f64,
    /// The limits from `--fail-if`.
    pub rules: Vec<Rule>,
    /// The names of the sides.
    pub labels: [String; 2],
}

/// A comparison of two sides.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Report {
    /// The version of this record.
    pub format: u32,
    /// The program that wrote this, and its version.
    pub tool: String,
    /// The comparison in one sentence, in English.
    pub headline: String,
    /// The share of intervals that contain the true value.
    pub confidence: f64,
    /// Changes up to this share do not matter.
    pub margin: f64,
    /// Whether a file is a summary, so that each run is one value, `needs_more` counts runs, and nothing could be checked.
    pub from_summaries: bool,
    /// How many numbers were compared; the p-values are corrected for it.
    pub comparisons: usize,
    /// The first side.
    pub a: SideSummary,
    /// The second side.
    pub b: SideSummary,
    /// Reasons why the sides may not be comparable.
    pub warnings: Vec<String>,
    /// Each number of both sides.
    pub changes: Vec<ChangeRow>,
    /// The result of each `--fail-if`.
    pub checks: Vec<CheckOutcome>,
}

/// One side of a comparison.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Told")]
pub struct SideSummary {
    /// Its name: `A` or `B`, or the one of `--label`.
    pub label: String,
    /// The files, one per run.
    pub files: Vec<String>,
    /// Requests that were due.
    pub requests: u64,
    /// How many of them failed; one that the client cancelled on purpose did not. `null` if a summary does not have it.
    pub failed: Option<u64>,
}

impl Report {
    /// Compares two sides.
    #[must_use]
    pub fn compare_sides(a: &Side, b: &Side, options: &CompareOptions) -> Self {
        let candidates = list_candidates(a, b, &options.percentiles);
        let p: Vec<_> = candidates.iter().map(Candidate::p_value).collect();
        let comparisons = p.iter().flatten().count();
        let from_summaries = a.has_summaries() || b.has_summaries();
        let requests = a.population().counted().min(b.population().counted());
        let judged = candidates.iter().zip(&p).zip(holm_correction(&p));
        let changes: Vec<ChangeRow> = judged
            .map(|((candidate, p), corrected)| {
                judge_candidate(candidate, *p, corrected, options.margin, comparisons, requests)
            })
            .collect();
        let [label_a, label_b] = &options.labels;
        let mut report = Report {
            format: FORMAT,
            tool: concat!("vb-diff ", env!("CARGO_PKG_VERSION")).into(),
            headline: String::new(),
            confidence: 1.0 - 2.0 * interval::TAIL,
            margin: options.margin,
            from_summaries,
            comparisons,
            a: SideSummary::from_side(a, label_a),
            b: SideSummary::from_side(b, label_b),
            warnings: warnings::comparison_warnings(a, b, [label_a, label_b], &changes),
            checks: options.rules.iter().map(|rule| check_candidates(rule, &candidates, requests)).collect(),
            changes,
        };
        report.headline = describe_comparison(&report);
        report
    }
}

impl SideSummary {
    fn from_side(side: &Side, label: &str) -> Self {
        let population = side.population();
        SideSummary {
            label: label.to_owned(),
            files: side.runs.iter().map(|run| run.name.clone()).collect(),
            requests: population.offered,
            failed: side.knows_failures().then(|| population.failed()),
        }
    }
}

fn judge_candidate(
    candidate: &Candidate,
    p: Option<f64>,
    p_corrected: Option<f64>,
    margin: f64,
    comparisons: usize,
    requests: u64,
) -> ChangeRow {
    let change = &candidate.change;
    let up = change.b.value > change.a.value;
    let verdict = match p_corrected {
        // A high percentile needs more than that.
        None if change.doubt() == Some(Doubt::TooShort) && candidate.needs as f64 <= MIN_CORRELATION_TIMES => {
            ChangeVerdict::Undecided
        }
        // An interval that begins at 0, or runs that differ too much for one: more values may not help.
        None if change.doubt() != Some(Doubt::TooShort) && candidate.value_count() >= candidate.needs => {
            ChangeVerdict::Undecided
        }
        None => ChangeVerdict::TooFew,
        // Any significant change in the share of failures matters, even within the margin.
        Some(p) if change.is_within(margin) && (candidate.unit != SHARE || p >= ALPHA) => ChangeVerdict::Same,
        Some(p) if p < ALPHA && up == candidate.more_is_better => ChangeVerdict::Better,
        Some(p) if p < ALPHA => ChangeVerdict::Worse,
        Some(_) => ChangeVerdict::Undecided,
    };
    let alpha = ALPHA / comparisons.max(1) as f64;
    let needs_more = match (verdict, change.unit_of_size()) {
        (ChangeVerdict::Undecided, "runs") => change.more_runs_needed(margin, alpha),
        (ChangeVerdict::Undecided, _) => {
            change.times_needed(margin, alpha).and_then(|times| more_requests(times, requests))
        }
        _ => None,
    };
    ChangeRow {
        metric: candidate.metric.into(),
        statistic: candidate.statistic.clone(),
        unit: candidate.unit,
        a: Number::from_estimate(&change.a, candidate.scale),
        b: Number::from_estimate(&change.b, candidate.scale),
        difference: ChangeRange::from_change(change.difference(), candidate.scale),
        relative: if candidate.unit == SHARE {
            None
        } else {
            change.relative_change().map(|relative| ChangeRange::from_change(relative, 1.0))
        },
        p,
        p_corrected,
        verdict,
        doubt: change.doubt(),
        needs_more,
        too_few: (verdict == ChangeVerdict::TooFew)
            .then(|| TooFew { needs: candidate.needs, has: candidate.value_count() }),
    }
}
