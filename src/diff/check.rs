//! `--fail-if 'ttft.p99 > +5%'`: limits on changes.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    candidate::Candidate,
    change::more_requests,
    row::{ChangeRange, SHARE},
};
use crate::recording::rule::{
    MetricKind::{self, Latency, Rate, Share},
    Rule, RuleGrammar, parse_percent,
};
use crate::statistics::{Doubt, MIN_CORRELATION_TIMES};

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

/// The probability with which a rule fails, or passes, by chance.
const TAIL: f64 = 0.05;

/// How a rule was decided.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Outcome")]
pub struct CheckOutcome {
    /// The rule as it was given.
    pub rule: String,
    /// Whether it passed.
    pub result: CheckResult,
    /// The change with its one-sided bounds: the true change is below `low` with a probability of 5 %, and above `high` with the
    /// same. `null` if a side has no values, or is 0; without bounds if a side lasts fewer than 30 correlation times.
    pub change: Option<ChangeRange>,
    /// If it is undecided: about how many more requests each side needs to decide it. `null` if more would not help.
    pub needs_more: Option<u64>,
    /// The change, and why the rule passed, failed or is undecided.
    pub why: String,
}

/// The result of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Fate")]
pub enum CheckResult {
    /// The change is within the limit, with 95 % confidence.
    Passed,
    /// The change is beyond the limit, with 95 % confidence.
    Failed,
    /// These runs cannot decide it.
    Undecided,
}

/// Checks a rule: a one-sided test of the change against the limit, in each direction. Unlike the verdicts of the table, which look for
/// any change among many numbers, a rule was named before the runs, so it has no correction. `requests` is the number of requests of
/// the side that has fewer.
#[must_use]
pub fn check_candidates(rule: &Rule, candidates: &[Candidate], requests: u64) -> CheckOutcome {
    let matches = |number: &&Candidate| {
        number.metric == rule.metric && rule.statistic.as_ref().is_none_or(|s| *s == number.statistic)
    };
    let outcome =
        |result, change, needs_more, why| CheckOutcome { rule: rule.text.clone(), result, change, needs_more, why };
    let undecided = |why: &str| outcome(CheckResult::Undecided, None, None, why.to_owned());
    let Some(Candidate { change, unit, .. }) = candidates.iter().find(matches) else {
        return undecided("one side has no values of it");
    };
    let Some(bounded) = change.bounded(TAIL) else { return undecided("no relative change from or to 0") };
    let range = ChangeRange::from_change(bounded, 1.0);
    let shown = |value: f64| format!("{:+.1} {}", value * 100.0, if *unit == SHARE { "points" } else { "%" });
    let at_least = |low: f64| format!("at least {} (95 % sure)", shown(low));
    let at_most = |high: f64| format!("at most {} (95 % sure)", shown(high));
    let size = change.unit_of_size();
    let cure = |needs_more: Option<u64>| match needs_more {
        Some(more) => format!(": about {more} more {size} per side would decide it"),
        None if range.low.or(range.high).is_none() && size == "runs" => {
            ": make two or more runs of each side".to_owned()
        }
        None => format!(": more {size} would not decide it"),
    };
    if change.doubt() == Some(Doubt::TooShort) {
        let needs_more = change.times_to_bound(TAIL).and_then(|times| more_requests(times, requests));
        let why = format!(
            "{}, but a side lasts fewer than {MIN_CORRELATION_TIMES} correlation times, so that chance is not known{}",
            shown(range.value),
            cure(needs_more)
        );
        let unbounded = ChangeRange { low: None, high: None, ..range };
        return outcome(CheckResult::Undecided, Some(unbounded), needs_more, why);
    }
    // Which bound shows that the change is beyond the limit, and which that it is not.
    let (to_fail, to_pass) = if rule.above { (range.low, range.high) } else { (range.high, range.low) };
    let text = |end: f64, is_low: bool| if is_low { at_least(end) } else { at_most(end) };
    if let Some(end) = to_fail.filter(|end| rule.is_beyond(*end)) {
        let why = format!("{}, {}", shown(range.value), text(end, rule.above));
        return outcome(CheckResult::Failed, Some(range), None, why);
    }
    if let Some(end) = to_pass.filter(|end| !rule.is_beyond(*end)) {
        let why = format!("{}, {}", shown(range.value), text(end, !rule.above));
        return outcome(CheckResult::Passed, Some(range), None, why);
    }
    // The bound on the limit's side of the change is the one that leaves it open.
    let up = range.value > rule.limit;
    let open = if up { range.low } else { range.high };
    let needs_more = match open {
        _ if size == "runs" => change.more_runs_to_decide(rule.limit, TAIL),
        Some(_) => change.times_to_decide(rule.limit, TAIL).and_then(|times| more_requests(times, requests)),
        None => change.times_to_bound(TAIL).and_then(|times| more_requests(times, requests)),
    };
    let known = open.map_or_else(|| format!("too few {size} for a bound"), |end| format!("but {}", text(end, up)));
    let why = format!("{}, {known}{}", shown(range.value), cure(needs_more));
    outcome(CheckResult::Undecided, Some(range), needs_more, why)
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
