//! `--fail-if 'ttft.p99 > 500ms'`: limits on metrics, in one grammar for all tools. Each tool defines its metrics and the form
//! of its limits.

/// What a rule may say in a tool.
#[derive(Debug)]
pub struct RuleGrammar {
    /// The metrics that rules may name.
    pub metrics: &'static [(&'static str, MetricKind)],
    /// Statistics other than percentiles, each with its name in results.
    pub statistics: &'static [(&'static str, &'static str)],
    /// Parses a limit on a metric of this kind; an error says what it should have been.
    pub parse_limit: fn(MetricKind, &str) -> Result<f64, String>,
    /// Two rules, for messages.
    pub examples: &'static str,
}

/// The kind of number that a metric is, which decides how its limits are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A distribution of times, with statistics to choose from.
    Latency,
    /// One number per second.
    Rate,
    /// One share.
    Share,
    /// One count.
    Count,
}

/// A limit on a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The rule as it was given.
    pub text: String,
    /// The metric, from the grammar.
    pub metric: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// `mean`, `p99` and so on, for a distribution.
    pub statistic: Option<String>,
    /// Whether values above the limit fail, and not those below it.
    pub above: bool,
    /// The limit, in the unit that the grammar parses it to.
    pub limit: f64,
}

impl RuleGrammar {
    /// Parses `METRIC[.STATISTIC] > LIMIT`, or with `<`.
    pub fn parse_rule(&self, text: &str) -> Result<Rule, String> {
        let wrong = |what: &str| format!("{what}: write it as {}", self.examples);
        let at = text.find(['<', '>']).ok_or_else(|| wrong("no > or <"))?;
        let (name, limit) = (text[..at].trim(), text[at + 1..].trim());
        let (metric, statistic) = name.split_once('.').map_or((name, None), |(m, s)| (m, Some(s)));
        let (metric, kind) = *self.metrics.iter().find(|(known, _)| *known == metric).ok_or_else(|| {
            let known: Vec<&str> = self.metrics.iter().map(|(name, _)| *name).collect();
            wrong(&format!("unknown metric `{metric}`: use one of {}", known.join(", ")))
        })?;
        let statistic = match (kind, statistic) {
            (MetricKind::Latency, Some(statistic)) => Some(
                self.statistic_name(statistic)
                    .ok_or_else(|| wrong(&format!("`{name}`: which statistic, mean or p99?")))?,
            ),
            (MetricKind::Latency, None) => return Err(wrong(&format!("`{name}`: which statistic, mean or p99?"))),
            (_, None) => None,
            (_, Some(_)) => return Err(wrong(&format!("`{name}`: {metric} is one number"))),
        };
        let limit = (self.parse_limit)(kind, limit).map_err(|e| wrong(&e))?;
        let above = text.as_bytes()[at] == b'>';
        Ok(Rule { text: text.trim().into(), metric, kind, statistic, above, limit })
    }

    /// The name in results of a statistic as users write it.
    fn statistic_name(&self, text: &str) -> Option<String> {
        let named = self.statistics.iter().find(|(known, _)| *known == text).map(|(_, name)| (*name).to_owned());
        named.or_else(|| parse_percentile(text).map(|p| format!("p{p}")))
    }
}

impl Rule {
    /// The percentile that the rule needs.
    #[must_use]
    pub fn requested_percentile(&self) -> Option<f64> {
        self.statistic.as_deref().and_then(parse_percentile)
    }

    /// Whether a value is beyond the limit.
    #[must_use]
    pub fn is_beyond(&self, value: f64) -> bool {
        if self.above { value > self.limit } else { value < self.limit }
    }
}

/// Appends the percentiles that rules need and that the list lacks.
pub fn add_requested_percentiles(percentiles: &mut Vec<f64>, rules: &[Rule]) {
    for p in rules.iter().filter_map(Rule::requested_percentile) {
        if !percentiles.contains(&p) {
            percentiles.push(p);
        }
    }
}

/// Parses `5%`, `+5 %` or `-2.5%` to a share.
#[must_use]
pub fn parse_percent(text: &str) -> Option<f64> {
    let number: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
    number.is_finite().then_some(number / 100.0)
}

fn parse_percentile(statistic: &str) -> Option<f64> {
    statistic.strip_prefix('p')?.parse().ok().filter(|p| *p > 0.0 && *p < 100.0)
}
