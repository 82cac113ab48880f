//! `--fail-if 'ttft.p99 > +5%'`: limits on changes.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    change::ALPHA,
    row::{ChangeRow, ChangeVerdict, SHARE},
};

/// The metrics, and whether each has statistics to choose from.
const METRICS: [(&str, bool); 9] = [
    ("ttft", true),
    ("tpot", true),
    ("itl", true),
    ("e2el", true),
    ("ttft_from_schedule", true),
    ("e2el_from_schedule", true),
    ("throughput", false),
    ("request_throughput", false),
    ("success", false),
];

/// A limit on a change, from `--fail-if`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The rule as it was given.
    pub text: String,
    metric: String,
    statistic: Option<String>,
    above: bool,
    limit: f64,
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

impl Rule {
    /// Parses `METRIC[.STATISTIC] > CHANGE%`, or with `<`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{what}: write it as 'ttft.p99 > +5%' or 'throughput < -2%'");
        let at = text.find(['<', '>']).ok_or_else(|| wrong("no > or <"))?;
        let (name, limit) = (text[..at].trim(), text[at + 1..].trim());
        let limit = parse_percent(limit).ok_or_else(|| wrong(&format!("`{limit}` is not a change in percent")))?;
        let (metric, statistic) = name.split_once('.').map_or((name, None), |(m, s)| (m, Some(s)));
        let known = METRICS.iter().find(|(known, _)| *known == metric).ok_or_else(|| {
            wrong(&format!("unknown metric `{metric}`: use one of {}", METRICS.map(|(name, _)| name).join(", ")))
        })?;
        let statistic = match (known.1, statistic) {
            (true, Some("median")) => Some("p50".to_owned()),
            (true, Some("mean")) => Some("mean".to_owned()),
            (true, Some(s)) if parse_percentile(s).is_some() => parse_percentile(s).map(|p| format!("p{p}")),
            (false, None) => None,
            (true, _) => return Err(wrong(&format!("`{name}`: which statistic, mean or p99?"))),
            (false, _) => return Err(wrong(&format!("`{name}`: {metric} is one number"))),
        };
        let above = text.as_bytes()[at] == b'>';
        Ok(Rule { text: text.trim().into(), metric: metric.into(), statistic, above, limit })
    }

    /// The percentile that the rule needs.
    #[must_use]
    pub fn requested_percentile(&self) -> Option<f64> {
        self.statistic.as_deref().and_then(parse_percentile)
    }

    /// Checks the rule against the changes.
    #[must_use]
    pub fn check_changes(&self, rows: &[ChangeRow]) -> CheckOutcome {
        let matches =
            |row: &&ChangeRow| row.metric == self.metric && self.statistic.as_ref().is_none_or(|s| *s == row.statistic);
        let (result, why) = match rows.iter().find(matches) {
            None => (CheckResult::Undecided, "one side has no values of it".to_owned()),
            Some(row) => self.check_row(row),
        };
        CheckOutcome { rule: self.text.clone(), result, why }
    }

    fn check_row(&self, row: &ChangeRow) -> (CheckResult, String) {
        let share = row.unit == SHARE;
        let change = if share { Some(row.difference) } else { row.relative };
        let Some(change) = change else { return (CheckResult::Undecided, "no relative change from or to 0".into()) };
        let shown = format!("{:+.1}{}", change.value * 100.0, if share { " points" } else { " %" });
        if row.verdict == ChangeVerdict::TooFew {
            return (CheckResult::Undecided, format!("{shown}, too few requests"));
        }
        let beyond = if self.above { change.value > self.limit } else { change.value < self.limit };
        let p = row.p_corrected.unwrap_or(1.0);
        let end = if self.above { change.high } else { change.low };
        let may_be = end.is_none_or(|end| if self.above { end > self.limit } else { end < self.limit });
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
}

/// Formats a p-value.
#[must_use]
pub fn format_p(p: f64) -> String {
    if p < 0.0001 { "p < 0.0001".into() } else { format!("p = {p:.4}") }
}

/// Parses `5%`, `+5 %` or `-2.5%` to a share.
fn parse_percent(text: &str) -> Option<f64> {
    let number: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
    number.is_finite().then_some(number / 100.0)
}

/// Parses a margin: a percentage above 0 and below 100, as a share.
pub fn parse_margin(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not a margin: write it as 5%");
    parse_percent(text.trim()).filter(|margin| *margin > 0.0 && *margin < 1.0).ok_or_else(wrong)
}

fn parse_percentile(statistic: &str) -> Option<f64> {
    statistic.strip_prefix('p')?.parse().ok().filter(|p| *p > 0.0 && *p < 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_parsed_as_they_are_written() {
        let rule = Rule::parse(" ttft.median>+5 % ").unwrap();
        assert_eq!(
            (rule.statistic.as_deref(), rule.requested_percentile(), rule.above, rule.limit),
            (Some("p50"), Some(50.0), true, 0.05)
        );
        let rule = Rule::parse("throughput < -2.5%").unwrap();
        assert_eq!(
            (rule.metric.as_str(), rule.requested_percentile(), rule.above, rule.limit),
            ("throughput", None, false, -0.025)
        );
        assert_eq!(Rule::parse("e2el.p99.90 > 1%").unwrap().statistic.as_deref(), Some("p99.9"));
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
            let error = Rule::parse(text).unwrap_err();
            assert!(error.contains(what) && error.contains("write it as"), "{text}: {error}");
        }
        assert!(["5", "-5%", "0%", "100%", "x%"].iter().all(|text| parse_margin(text).is_err()));
        assert_eq!(parse_margin("2 %"), Ok(0.02));
    }
}
