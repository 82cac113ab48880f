//! Goodput: the requests that were fast enough.

use schemars::JsonSchema;
use serde::Serialize;

use super::recording::{Recording, Request};
use crate::units::{Nanos, parse_duration_in};

/// One limit: `ttft:200ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slo {
    /// What is limited.
    pub metric: SloMetric,
    /// The most that is good.
    pub limit: Nanos,
}

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SloMetric {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first; 0 for a single token.
    Tpot,
    /// End-to-end latency.
    E2el,
}

impl SloMetric {
    /// The name in `--goodput`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SloMetric::Ttft => "ttft",
            SloMetric::Tpot => "tpot",
            SloMetric::E2el => "e2el",
        }
    }
}

/// Reads `ttft:200ms`; a bare number is milliseconds, as in vLLM.
pub fn parse_slo(text: &str) -> Result<Slo, String> {
    let wrong = || format!("`{text}` is not a limit: write it as ttft:200ms, tpot:50ms or e2el:2s");
    let (name, limit) = text.split_once(':').ok_or_else(wrong)?;
    let metric = [SloMetric::Ttft, SloMetric::Tpot, SloMetric::E2el].into_iter().find(|m| m.name() == name.trim());
    Ok(Slo { metric: metric.ok_or_else(wrong)?, limit: parse_duration_in(limit, "ms").map_err(|_| wrong())? })
}

/// Whether a request succeeded within all limits, with `wait` (seconds) before its start.
fn is_good(request: &Request, slos: &[Slo], wait: f64) -> bool {
    let within = |slo: &Slo| {
        let value = match slo.metric {
            SloMetric::Ttft => request.ttft.map(|t| t + wait),
            SloMetric::Tpot => Some(request.tpot().unwrap_or_default()),
            SloMetric::E2el => request.latency.map(|t| t + wait),
        };
        value.is_some_and(|value| slo.limit.as_secs_f64() >= value)
    };
    request.success && slos.iter().all(within)
}

/// How many requests were good.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Goodput {
    /// The limits in milliseconds.
    pub slos_ms: serde_json::Map<String, serde_json::Value>,
    /// Times counted from the start of each request, as vLLM does.
    pub from_start: Good,
    /// Times counted from when each request was due.
    pub from_schedule: Good,
}

/// Requests that kept all limits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Good {
    /// How many.
    pub requests: u64,
    /// For each second of the run.
    pub per_s: f64,
    /// Out of all that were offered: those that failed or were never sent have missed. `null` when none was offered.
    pub attainment: Option<f64>,
}

impl Goodput {
    /// Over all requests of the recording, which took `duration` seconds; `None` without limits.
    #[must_use]
    pub fn of(recording: &Recording, slos: &[Slo], duration: f64) -> Option<Self> {
        let count = |wait: fn(&Request) -> f64| {
            let good = recording.requests.iter().filter(|r| is_good(r, slos, wait(r))).count() as u64;
            let offered = recording.requests.len();
            Good {
                requests: good,
                per_s: if duration > 0.0 { good as f64 / duration } else { 0.0 },
                attainment: (offered > 0).then(|| good as f64 / offered as f64),
            }
        };
        (!slos.is_empty()).then(|| Goodput {
            slos_ms: slos.iter().map(|s| (s.metric.name().into(), (s.limit.as_secs_f64() * 1e3).into())).collect(),
            from_start: count(|_| 0.0),
            from_schedule: count(|r| r.queue_time.unwrap_or_default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(success: bool, ttft: f64, queue_time: f64) -> Request {
        Request {
            success,
            output_tokens: 11,
            ttft: Some(ttft),
            latency: Some(ttft + 0.1),
            queue_time: Some(queue_time),
            ..Request::default()
        }
    }

    #[test]
    fn goodput_counts_over_offered_requests() {
        let requests = vec![
            request(true, 0.2, 0.0),
            request(true, 0.2, 0.5),
            request(true, 0.201, 0.0),
            request(false, 0.1, 0.0),
            Request::default(),
        ];
        let recording = Recording { requests, ..Recording::default() };
        let slos = [parse_slo("ttft:200").unwrap(), parse_slo("tpot:10.5ms").unwrap()];
        let goodput = Goodput::of(&recording, &slos, 4.0).unwrap();
        assert_eq!(goodput.from_start, Good { requests: 2, per_s: 0.5, attainment: Some(0.4) });
        assert_eq!(goodput.from_schedule, Good { requests: 1, per_s: 0.25, attainment: Some(0.2) });
        assert_eq!(Goodput::of(&recording, &[], 4.0), None);
    }

    #[test]
    fn limits_have_a_name_and_a_time() {
        assert_eq!(parse_slo("e2el:2s").unwrap().limit, Nanos(2_000_000_000));
        for text in ["ttft", "ttft:", "p99:3", "ttft:-1", "ttft:fast"] {
            assert!(parse_slo(text).is_err(), "{text}");
        }
    }
}
