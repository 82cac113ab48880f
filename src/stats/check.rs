//! Whether the run may pass: `--fail-if 'ttft.p99 > 500ms'`, and runs without a success.

use serde_json::Value;

use super::{result::RunResult, vb::VbMetrics};
use crate::{
    record::ErrorKind,
    recording::rule::{
        MetricKind::{self, Count, Latency, Rate, Share},
        Rule, RuleGrammar, parse_percent,
    },
    statistics::{Summary, interval::samples_needed},
    units::parse_duration_in,
};

/// The rules of `vb-stats`: limits on values. Latencies are in milliseconds, as in results.
const GRAMMAR: RuleGrammar = RuleGrammar {
    metrics: &[
        ("ttft", Latency),
        ("tpot", Latency),
        ("itl", Latency),
        ("e2el", Latency),
        ("ttft_from_schedule", Latency),
        ("e2el_from_schedule", Latency),
        ("itl_per_token", Latency),
        ("longest_stall", Latency),
        ("ttft_answer", Latency),
        ("client_queue_time", Latency),
        ("throughput", Rate),
        ("request_throughput", Rate),
        ("total_token_throughput", Rate),
        ("request_throughput_per_gpu", Rate),
        ("throughput_per_gpu", Rate),
        ("total_token_throughput_per_gpu", Rate),
        ("uncached_prompt_tokens_per_s", Rate),
        ("tokens_per_s_per_user", Rate),
        ("goodput", Rate),
        ("attainment", Share),
        ("success", Share),
        ("completed", Count),
        ("failed", Count),
        ("mean_concurrency", Count),
    ],
    statistics: &[("mean", "mean"), ("median", "p50"), ("min", "min"), ("max", "max")],
    parse_limit,
    examples: "'ttft.p99 > 500ms', 'success < 99%' or 'throughput < 1000'",
};

/// Why there is no goodput.
const NOT_APPLICABLE: &str = "no success has a value that the limits are for";

/// Parses a rule of `--fail-if`.
pub fn parse_rule(text: &str) -> Result<Rule, String> {
    GRAMMAR.parse_rule(text)
}

fn parse_limit(kind: MetricKind, text: &str) -> Result<f64, String> {
    match kind {
        Latency if text.ends_with('%') => Err(format!("`{text}` is not a time (vb-diff has limits on changes)")),
        // As in --goodput.
        Latency => Ok(parse_duration_in(text, "ms")?.as_secs_f64() * 1e3),
        Share => parse_percent(text)
            .filter(|share| (0.0..=1.0).contains(share))
            .ok_or_else(|| format!("`{text}` is not a share from 0% to 100%")),
        Rate | Count => text
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite() && *number >= 0.0)
            .ok_or_else(|| format!("`{text}` is not a number")),
    }
}

/// Whether a rule needs the limits of `--goodput`.
#[must_use]
pub fn needs_goodput(rule: &Rule) -> bool {
    matches!(rule.metric, "goodput" | "attainment")
}

/// Whether a rule needs the number of `--gpus`.
#[must_use]
pub fn needs_gpus(rule: &Rule) -> bool {
    rule.metric.ends_with("_per_gpu")
}

/// Why the run fails; `None` if it passes. A run without a success fails without any rule, since all its latencies are 0.
#[must_use]
pub fn find_failure(result: &RunResult, rules: &[Rule], missing: Option<&str>) -> Option<String> {
    if result.completed == 0 {
        return Some(describe_no_success(result));
    }
    let mut failed: Vec<String> = rules.iter().filter_map(|rule| check_rule(rule, result)).collect();
    if let Some(missing) = missing.filter(|_| !rules.is_empty()) {
        failed.push(format!("--fail-if needs the whole run: {missing}"));
    }
    (!failed.is_empty()).then(|| failed.join("; "))
}

fn describe_no_success(result: &RunResult) -> String {
    let vb = &result.vb;
    let population = vb.population();
    let left = match population.abandoned {
        0 => String::new(),
        n => format!(", {n} cancelled on purpose"),
    };
    let (failed, counted) = (population.failed(), population.counted());
    let what = format!("no request succeeded ({failed} of {counted} failed{left}), so all latencies are 0");
    // A request that was never sent is the consequence of another failure, or of the end of the run.
    let cause = vb.errors.iter().find(|e| e.kind != Some(ErrorKind::NotSent)).or(vb.errors.first());
    match cause {
        Some(most) => {
            let kind = most.kind.map_or("other", ErrorKind::name);
            format!("{what}; most often ({}) {kind}: {}", most.count, most.message)
        }
        None => what,
    }
}

/// Why the result breaks a rule; `None` if it does not.
fn check_rule(rule: &Rule, result: &RunResult) -> Option<String> {
    let why = match measure(rule, result) {
        Ok(value) if !rule.is_beyond(value) => return None,
        Ok(value) => match rule.kind {
            Latency => format!("it is {value:.2} ms"),
            Share => format!("it is {:.2} %", value * 100.0),
            Rate => format!("it is {value:.2}/s"),
            Count => format!("it is {value}"),
        },
        Err(why) => why,
    };
    Some(format!("{}: {why}", rule.text))
}

/// The value that a rule is about; an error says why it is unknown.
fn measure(rule: &Rule, result: &RunResult) -> Result<f64, String> {
    let vb = &result.vb;
    let goodput = || vb.goodput.as_ref().ok_or_else(|| "it needs --goodput".to_owned());
    let per_gpu = || vb.per_gpu.ok_or_else(|| "it needs --gpus".to_owned());
    match rule.metric {
        "throughput" => Ok(result.output_throughput),
        "request_throughput" => Ok(result.request_throughput),
        "total_token_throughput" => Ok(result.total_token_throughput),
        "request_throughput_per_gpu" => Ok(per_gpu()?.request_throughput),
        "throughput_per_gpu" => Ok(per_gpu()?.output_throughput),
        "total_token_throughput_per_gpu" => Ok(per_gpu()?.total_token_throughput),
        "uncached_prompt_tokens_per_s" => {
            vb.uncached_prompt_tokens_per_s.ok_or_else(|| "the server does not report cached tokens".to_owned())
        }
        "tokens_per_s_per_user" => {
            let speed = vb.tokens_per_s_per_user.as_ref().and_then(|speed| speed.mean);
            speed.ok_or_else(|| "no request has a TPOT".to_owned())
        }
        "mean_concurrency" => vb.mean_concurrency.ok_or_else(|| "the run has no duration".to_owned()),
        "goodput" => goodput()?.from_start.per_s.ok_or_else(|| NOT_APPLICABLE.to_owned()),
        "attainment" => goodput()?.from_start.attainment.ok_or_else(|| NOT_APPLICABLE.to_owned()),
        "success" => vb.population().success_share().ok_or_else(|| "no request counts".to_owned()),
        "completed" => Ok(result.completed as f64),
        "failed" => Ok(result.failed as f64),
        _ => {
            let statistic = rule.statistic.as_deref().unwrap_or_default();
            measure_latency(latency_summary(vb, rule.metric), statistic, rule.requested_percentile())
        }
    }
}

fn latency_summary<'a>(vb: &'a VbMetrics, metric: &str) -> &'a Summary {
    match metric {
        "tpot" => &vb.tpot_ms,
        "itl" => &vb.itl_per_chunk_ms,
        "e2el" => &vb.from_start.e2el_ms,
        "ttft_from_schedule" => &vb.from_schedule.ttft_ms,
        "e2el_from_schedule" => &vb.from_schedule.e2el_ms,
        "itl_per_token" => &vb.itl_per_token_ms,
        "longest_stall" => &vb.longest_stall_ms,
        "ttft_answer" => &vb.ttft_answer_ms,
        "client_queue_time" => &vb.client_queue_time_ms,
        _ => &vb.from_start.ttft_ms,
    }
}

fn measure_latency(summary: &Summary, statistic: &str, percentile: Option<f64>) -> Result<f64, String> {
    if summary.n == 0 {
        return Err("no request has a value".into());
    }
    if let Some(needs) = percentile.and_then(samples_needed).filter(|needs| (summary.n as u64) < *needs) {
        let n = summary.n;
        return Err(format!("too few values for a {}: it needs {needs}, there are {n}", statistic.to_uppercase()));
    }
    let value = match statistic {
        "mean" => summary.mean,
        "min" => summary.min,
        "max" => summary.max,
        percentile => summary.percentiles.get(percentile).and_then(Value::as_f64),
    };
    value.ok_or_else(|| "it is unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::rule::Rule;

    fn summary(n: usize, p99: f64) -> Summary {
        let percentiles = std::iter::once(("p99".to_owned(), p99.into())).collect();
        Summary { n, mean: Some(2.0), max: Some(9.0), percentiles, ..Summary::default() }
    }

    fn result(n: usize, p99: f64) -> RunResult {
        let mut result = RunResult { completed: n as u64, failed: 1, output_throughput: 50.0, ..RunResult::default() };
        result.vb.offered = n as u64 + 1;
        result.vb.outcomes.insert("ok".into(), n.into());
        result.vb.from_start.ttft_ms = summary(n, p99);
        result
    }

    fn failure(rule: &str, result: &RunResult) -> Option<String> {
        find_failure(result, &[parse_rule(rule).unwrap()], None)
    }

    #[test]
    fn rules_are_limits_on_values() {
        let run = result(1000, 612.0);
        for (rule, why) in [
            ("ttft.p99 > 500ms", "ttft.p99 > 500ms: it is 612.00 ms"),
            ("ttft.p99>0.5s", "ttft.p99>0.5s: it is 612.00 ms"),
            ("ttft.p99 > 500", "it is 612.00 ms"),
            ("ttft.mean < 3ms", "it is 2.00 ms"),
            ("ttft.max > 8ms", "it is 9.00 ms"),
            ("success < 99.95%", "it is 99.90 %"),
            ("failed > 0", "it is 1"),
            ("throughput < 1000", "it is 50.00/s"),
            ("tpot.mean > 1h", "no request has a value"),
            ("attainment < 1%", "it needs --goodput"),
        ] {
            let failed = failure(rule, &run).unwrap_or_default();
            assert!(failed.ends_with(why), "{rule}: {failed}");
        }
        for rule in ["ttft.p99 > 612ms", "ttft.median > 1h", "success < 99.9%", "throughput > 50", "completed < 1000"] {
            let passed =
                if rule.contains("median") { failure(rule, &run).is_some() } else { failure(rule, &run).is_none() };
            assert!(passed, "{rule}: {:?}", failure(rule, &run));
        }
    }

    #[test]
    fn too_few_values_fail() {
        let failed = failure("ttft.p99 > 10s", &result(8, 1.0)).unwrap();
        assert_eq!(failed, "ttft.p99 > 10s: too few values for a P99: it needs 662, there are 8");
        assert_eq!(failure("ttft.mean > 10s", &result(8, 1.0)), None);
    }

    #[test]
    fn a_part_of_a_run_fails_every_rule() {
        let rule = [parse_rule("ttft.mean > 10s").unwrap()];
        let failed = find_failure(&result(8, 1.0), &rule, Some("the stream is truncated")).unwrap();
        assert!(failed.ends_with("the stream is truncated"), "{failed}");
        assert_eq!(find_failure(&result(8, 1.0), &[], Some("the stream is truncated")), None);
    }

    #[test]
    fn a_bad_rule_is_an_error_with_the_cure() {
        for (text, what) in [
            ("ttft.p99 = 5ms", "no > or <"),
            ("ttft.p99 > +5%", "`+5%` is not a time (vb-diff has limits on changes)"),
            ("ttft > 5ms", "which statistic"),
            ("success < 0.99", "`0.99` is not a share"),
            ("success < 101%", "`101%` is not a share"),
            ("throughput < -2%", "`-2%` is not a number"),
            ("latency.p99 > 5s", "unknown metric `latency`: use one of ttft, tpot"),
        ] {
            let error = parse_rule(text).unwrap_err();
            assert!(error.contains(what) && error.contains("write it as"), "{text}: {error}");
        }
        let rule: Rule = parse_rule("e2el.p99.90 > 1m").unwrap();
        assert_eq!((rule.statistic.as_deref(), rule.limit), (Some("p99.9"), 60_000.0));
    }
}
