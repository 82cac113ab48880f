//! `--fail-if 'ttft.p99 > +5%'`: limits on changes.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    change::ALPHA,
    row::{ChangeRow, ChangeVerdict, SHARE},
};
use crate::recording::rule::{
    MetricKind::{self, Latency, Rate, Share},
    Rule, RuleGrammar, parse_percent,
};

/// The rules of `vb-diff`: limits on relative changes.
const GRAMMAR: RuleGrammar = RuleGrammar {
    metrics: &[
        ("ttft", Latency),
        ("tpot", Latency),
        ("itl", Latency),
        ("e2el", Latency),
        ("ttft_from_schedule", Latency),
        ("e2el_from_schedule", Latency),
        ("throughput", Rate),
        ("request_throughput", Rate),
        ("success", Share),
    ],
    statistics: &[("mean", "mean"), ("median", "p50")],
    parse_limit: parse_change,
    examples: "'ttft.p99 > +5%' or 'throughput < -2%'",
};

/// Parses a rule of `--fail-if`.
pub fn parse_rule(text: &str) -> Result<Rule, String> {
    GRAMMAR.parse_rule(text)
}

fn parse_change(_: MetricKind, text: &str) -> Result<f64, String> {
    parse_percent(text).ok_or_else(|| format!("`{text}` is not a change in percent (vb-stats has limits on values)"))
}

/// How a rule was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Outcome")]
pub struct CheckOutcome {
    /// The rule as it was given.
    pub rule: String,
    /// Whether it passed.
    pub result: CheckResult,
    /// The change, and why the rule passed, failed or is undecided.
    pub why: String,
}

/// The result of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Fate")]
pub enum CheckResult {
    /// The change is not beyond the limit, and neither is its interval.
    Passed,
    /// The change is beyond the limit and statistically significant.
    Failed,
    /// The change may be beyond the limit, or may be chance; or there are too few values.
    Undecided,
}

/// Checks a rule against the changes.
#[must_use]
pub fn check_changes(rule: &Rule, rows: &[ChangeRow]) -> CheckOutcome {
    let matches =
        |row: &&ChangeRow| row.metric == rule.metric && rule.statistic.as_ref().is_none_or(|s| *s == row.statistic);
    let (result, why) = match rows.iter().find(matches) {
        None => (CheckResult::Undecided, "one side has no values of it".to_owned()),
        Some(row) => check_row(rule, row),
    };
    CheckOutcome { rule: rule.text.clone(), result, why }
}

fn check_row(rule: &Rule, row: &ChangeRow) -> (CheckResult, String) {
    let share = row.unit == SHARE;
    let change = if share { Some(row.difference) } else { row.relative };
    let Some(change) = change else { return (CheckResult::Undecided, "no relative change from or to 0".into()) };
    let shown = format!("{:+.1}{}", change.value * 100.0, if share { " points" } else { " %" });
    if row.verdict == ChangeVerdict::TooFew {
        return (CheckResult::Undecided, format!("{shown}, too few requests"));
    }
    let beyond = rule.is_beyond(change.value);
    let p = row.p_corrected.unwrap_or(1.0);
    let end = if rule.above { change.high } else { change.low };
    let may_be = end.is_none_or(|end| rule.is_beyond(end));
    match (beyond, p < ALPHA) {
        (false, _) if may_be => {
            let end = end.map_or_else(|| "more".to_owned(), |end| format!("{:+.1} %", end * 100.0));
            (CheckResult::Undecided, format!("{shown}, but it may be {end}"))
        }
        (false, _) => (CheckResult::Passed, shown),
        (true, true) => (CheckResult::Failed, format!("{shown}, {}", format_p(p))),
        (true, false) => (CheckResult::Undecided, format!("{shown}, which may be chance ({})", format_p(p))),
    }
}

/// Formats a p-value.
#[must_use]
pub fn format_p(p: f64) -> String {
    if p < 0.0001 { "p < 0.0001".into() } else { format!("p = {p:.4}") }
}

/// Parses a margin: a percentage above 0 and below 100, as a share.
pub fn parse_margin(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not a margin: write it as 5%");
    parse_percent(text.trim()).filter(|margin| *margin > 0.0 && *margin < 1.0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_parsed_as_they_are_written() {
        let rule = parse_rule(" ttft.median>+5 % ").unwrap();
        assert_eq!(
            (rule.statistic.as_deref(), rule.requested_percentile(), rule.above, rule.limit),
            (Some("p50"), Some(50.0), true, 0.05)
        );
        let rule = parse_rule("throughput < -2.5%").unwrap();
        assert_eq!(
            (rule.metric, rule.requested_percentile(), rule.above, rule.limit),
            ("throughput", None, false, -0.025)
        );
        assert_eq!(parse_rule("e2el.p99.90 > 1%").unwrap().statistic.as_deref(), Some("p99.9"));
    }

    #[test]
    fn a_bad_rule_is_an_error_with_the_cure() {
        for (text, what) in [
            ("ttft.p99 = 5%", "no > or <"),
            ("ttft.p99 > 5", "`5` is not a change in percent"),
            ("latency.p99 > 5%", "unknown metric `latency`: use one of ttft, tpot"),
            ("ttft > 5%", "which statistic"),
            ("ttft.p100 > 5%", "which statistic"),
            ("throughput.mean > 5%", "throughput is one number"),
        ] {
            let error = parse_rule(text).unwrap_err();
            assert!(error.contains(what) && error.contains("write it as"), "{text}: {error}");
        }
        assert!(["5", "-5%", "0%", "100%", "x%"].iter().all(|text| parse_margin(text).is_err()));
        assert_eq!(parse_margin("2 %"), Ok(0.02));
    }
}
