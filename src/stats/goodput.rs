//! Goodput: the requests that kept all limits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    fluidity::Fluidity,
    part::RunPart,
    pooling::Pooling,
    share::{PartShare, pool_share_intervals, share_interval},
};
use crate::{
    record::Object,
    recording::{RecordedRequest, Recording, population::Population},
    statistics::{SummaryOptions, numpy},
    units::{Nanos, parse_duration_in},
};

/// A limit, such as `ttft:200ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slo {
    /// The limited metric.
    pub metric: SloMetric,
    /// The largest good value.
    pub limit: Nanos,
}

/// A metric that can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SloMetric {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first; 0 for a single token. If it is unknown, the limit is missed.
    Tpot,
    /// End-to-end latency.
    E2el,
    /// The longest gap of a request between two chunks; 0 for a single token. If it is unknown, the limit is missed.
    LongestStall,
    /// The 99th percentile of a request's own gaps, in the same way.
    P99Itl,
}

impl SloMetric {
    const ALL: [SloMetric; 5] =
        [SloMetric::Ttft, SloMetric::Tpot, SloMetric::E2el, SloMetric::LongestStall, SloMetric::P99Itl];

    /// The metric with this name, or with a usual other name.
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "stall" => Some(SloMetric::LongestStall),
            "itl_p99" => Some(SloMetric::P99Itl),
            _ => SloMetric::ALL.into_iter().find(|metric| metric.name() == name),
        }
    }

    /// Whether it counts from when a request was sent or due, so that a wait in the client is part of it.
    fn has_start(self) -> bool {
        matches!(self, SloMetric::Ttft | SloMetric::E2el)
    }

    /// The name in `--goodput`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SloMetric::Ttft => "ttft",
            SloMetric::Tpot => "tpot",
            SloMetric::E2el => "e2el",
            SloMetric::LongestStall => "longest_stall",
            SloMetric::P99Itl => "p99_itl",
        }
    }
}

/// The limits of one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slos(pub Vec<Slo>);

/// The limits of MLPerf Inference for its server and interactive scenarios, in milliseconds: TTFT and TPOT, or only E2EL. Its
/// rules and its configuration file differ in the TPOT of gpt-oss-120b-interactive; this is the value of the rules.
const MLPERF: [(&str, &[(SloMetric, u64)]); 12] = {
    use SloMetric::{E2el, Tpot, Ttft};
    [
        ("llama3.1-8b", &[(Ttft, 2000), (Tpot, 100)]),
        ("llama3.1-8b-interactive", &[(Ttft, 500), (Tpot, 30)]),
        ("llama2-70b", &[(Ttft, 2000), (Tpot, 200)]),
        ("llama2-70b-interactive", &[(Ttft, 450), (Tpot, 40)]),
        ("llama3.1-405b", &[(Ttft, 6000), (Tpot, 175)]),
        ("llama3.1-405b-interactive", &[(Ttft, 4500), (Tpot, 80)]),
        ("mixtral-8x7b", &[(Ttft, 2000), (Tpot, 200)]),
        ("deepseek-r1", &[(Ttft, 2000), (Tpot, 80)]),
        ("deepseek-r1-interactive", &[(Ttft, 1500), (Tpot, 15)]),
        ("gpt-oss-120b", &[(Ttft, 3000), (Tpot, 80)]),
        ("gpt-oss-120b-interactive", &[(Ttft, 2000), (Tpot, 20)]),
        ("qwen3-vl", &[(E2el, 12_000)]),
    ]
};

/// Parses `ttft:200ms`, where a bare number is milliseconds as in vLLM, or the name of a set of limits:
/// `mlperf:llama3.1-8b-interactive`.
pub fn parse_slos(text: &str) -> Result<Slos, String> {
    let wrong = || {
        format!("`{text}` is not a limit: write ttft:200ms, tpot:50ms, e2el:2s, longest_stall:500ms or p99_itl:100ms")
    };
    let (name, limit) = text.split_once(':').ok_or_else(wrong)?;
    if name.trim() == "mlperf" {
        let known = || MLPERF.map(|(name, _)| name).join(", ");
        let set = MLPERF.iter().find(|(name, _)| *name == limit.trim());
        let (_, limits) = set.ok_or_else(|| format!("`{text}`: MLPerf has limits for {}", known()))?;
        return Ok(Slos(
            limits.iter().map(|(metric, ms)| Slo { metric: *metric, limit: Nanos(ms * 1_000_000) }).collect(),
        ));
    }
    let metric = SloMetric::from_name(name.trim());
    let limit = parse_duration_in(limit, "ms").map_err(|_| wrong())?;
    Ok(Slos(vec![Slo { metric: metric.ok_or_else(wrong)?, limit }]))
}

/// All limits that were given. The last one for a metric counts, so that one of a set can be replaced.
#[must_use]
pub fn combine_limits(given: Vec<Slos>) -> Vec<Slo> {
    let mut all: Vec<Slo> = Vec::new();
    for slo in given.into_iter().flat_map(|slos| slos.0) {
        all.retain(|other| other.metric != slo.metric);
        all.push(slo);
    }
    all
}

impl Slo {
    /// The value of a request that the limit is for; `None` if it is unknown.
    fn value(&self, part: &RunPart, request: &RecordedRequest) -> Option<f64> {
        // Without a pace only a single token has kept it; an unknown one has not.
        let single = || (request.known_output_tokens() == Some(1) && !request.is_uncounted).then_some(0.0);
        let gaps = || Some(part.gaps_of(request)).filter(|gaps| !gaps.is_empty());
        match self.metric {
            SloMetric::Ttft => request.ttft,
            SloMetric::Tpot => request.tpot().or_else(single),
            SloMetric::E2el => request.latency,
            SloMetric::LongestStall => gaps().map(|gaps| gaps.iter().copied().fold(0.0, f64::max)).or_else(single),
            SloMetric::P99Itl => gaps().map(percentile_99).or_else(single),
        }
    }

    /// Whether a request succeeded within the limit, after a `wait` in seconds before its start.
    fn is_kept(&self, part: &RunPart, request: &RecordedRequest, wait: f64) -> bool {
        let wait = if self.metric.has_start() { wait } else { 0.0 };
        request.success && self.value(part, request).is_some_and(|value| self.limit.as_secs_f64() >= value + wait)
    }

    /// Whether the limit can be held against these requests: some success has a value, or there is no success.
    fn applies_to(&self, part: &RunPart) -> bool {
        part.population.succeeded == 0 || part.successes().any(|request| self.value(part, request).is_some())
    }
}

fn percentile_99(gaps: &[f64]) -> f64 {
    let mut gaps = gaps.to_vec();
    numpy::partially_sort(&mut gaps, &[99.0], &[]);
    numpy::percentile(&gaps, 99.0)
}

/// The number of good requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Goodput {
    /// The limits in milliseconds.
    pub slos_ms: Object,
    /// Times count from the start of each request, as in vLLM.
    pub from_start: Good,
    /// Times count from the scheduled time of each request.
    pub from_schedule: Good,
    /// Whether tokens arrived at the pace of the limits; `null` without limits on both TTFT and TPOT.
    pub fluidity: Option<Fluidity>,
}

/// Requests that kept all limits. Everything is `null` if no success has a value that a limit is for, as a TTFT without
/// streaming.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Good {
    /// Their number.
    pub requests: Option<u64>,
    /// Their number per second of the run.
    pub per_s: Option<f64>,
    /// Their share of all offered requests, where failed and unsent ones count as missed, and those that the client cancelled on
    /// purpose do not count. `null` also if none counts.
    pub attainment: Option<f64>,
    /// The 95 % interval of `attainment`; `null` also for too few requests.
    pub attainment_interval: Option<[f64; 2]>,
    /// The share for each limit alone.
    pub attainment_of: Object,
    /// Their generated tokens.
    pub tokens: Option<u64>,
    /// Their generated tokens per second of the run.
    pub tokens_per_s: Option<f64>,
}

impl Goodput {
    /// Measures all requests of a run of `duration` seconds; `None` without limits.
    #[must_use]
    pub fn measure(
        recording: &Recording,
        whole: &RunPart,
        slos: &[Slo],
        duration: f64,
        wanted: &SummaryOptions,
    ) -> Option<Self> {
        let limit = |metric| slos.iter().find(|slo| slo.metric == metric).map(|slo| slo.limit.as_secs_f64());
        let pace = limit(SloMetric::Ttft).zip(limit(SloMetric::Tpot));
        (!slos.is_empty()).then(|| Goodput {
            slos_ms: slos.iter().map(|s| (s.metric.name().into(), (s.limit.as_secs_f64() * 1e3).into())).collect(),
            from_start: Good::count_requests(whole, slos, |_| 0.0).with_rates(duration),
            from_schedule: Good::count_requests(whole, slos, |r| r.queue_time.unwrap_or_default()).with_rates(duration),
            fluidity: pace.map(|(ttft, tpot)| Fluidity::measure(recording, whole, ttft, tpot, wanted)),
        })
    }
}

impl Good {
    /// Counts the requests that kept all limits, without rates.
    pub fn count_requests(part: &RunPart, slos: &[Slo], wait: fn(&RecordedRequest) -> f64) -> Self {
        let keep = |slos: &[Slo]| {
            if !slos.iter().all(|slo| slo.applies_to(part)) {
                return None;
            }
            let kept = part.counted().filter(|r| slos.iter().all(|slo| slo.is_kept(part, r, wait(r))));
            Some(kept.fold((0, 0), |(requests, tokens), r| (requests + 1, tokens + u64::from(r.output_tokens))))
        };
        let share = |kept: Option<(u64, u64)>| part.population.share(kept?.0);
        let alone = |slo: &Slo| (slo.metric.name().to_owned(), share(keep(&[*slo])).into());
        let good = keep(slos);
        Good {
            requests: good.map(|(requests, _)| requests),
            attainment: share(good),
            attainment_interval: share(good)
                .and_then(|_| share_interval(part.counted(), |r| slos.iter().all(|slo| slo.is_kept(part, r, wait(r))))),
            attainment_of: slos.iter().map(alone).collect(),
            tokens: good.map(|(_, tokens)| tokens),
            ..Good::default()
        }
    }

    /// Adds the rates for a run of `duration` seconds.
    #[must_use]
    pub fn with_rates(self, duration: f64) -> Self {
        let rate = |count: u64| if duration > 0.0 { count as f64 / duration } else { 0.0 };
        Good { per_s: self.requests.map(rate), tokens_per_s: self.tokens.map(rate), ..self }
    }
}

/// The attainment of several runs, each with its requests. One in which it is unknown has kept no limit; `None` if it is unknown in
/// all.
pub fn pool_attainment(each: impl Iterator<Item = (Population, Option<f64>)>) -> Option<f64> {
    let (mut counted, mut kept) = (0.0, None);
    for (population, share) in each {
        counted += population.counted() as f64;
        if let Some(share) = share {
            *kept.get_or_insert(0.0) += share * population.counted() as f64;
        }
    }
    kept.filter(|_| counted > 0.0).map(|kept| kept / counted)
}

impl Goodput {
    /// Pools several runs with these requests each; without rates, which
    /// [`RunResult::set_rates`](super::RunResult::set_rates) adds. `None` unless all have the same limits.
    #[must_use]
    pub fn pool_runs(all: &Pooling<Self>, populations: &[Population]) -> Option<Self> {
        let slos_ms = all.all[0].slos_ms.clone();
        if all.all.iter().any(|goodput| goodput.slos_ms != slos_ms) {
            return None;
        }
        let names: Vec<&String> = slos_ms.keys().collect();
        let fluid: Option<Vec<&Fluidity>> = all.all.iter().map(|goodput| goodput.fluidity.as_ref()).collect();
        let fluidity =
            fluid.and_then(|fluid| Fluidity::pool_runs(&Pooling { all: fluid, options: all.options }, populations));
        Some(Goodput {
            from_start: Good::pool_runs(&all.map_fields(|goodput| &goodput.from_start), populations, &names),
            from_schedule: Good::pool_runs(&all.map_fields(|goodput| &goodput.from_schedule), populations, &names),
            slos_ms: slos_ms.clone(),
            fluidity,
        })
    }
}

impl Good {
    fn pool_runs(all: &Pooling<Self>, populations: &[Population], names: &[&String]) -> Self {
        let share = |value: &dyn Fn(&Good) -> Option<f64>| {
            pool_attainment(populations.iter().copied().zip(all.all.iter().map(|good| value(good))))
        };
        let alone = |name: &String| (name.clone(), share(&|good| good.attainment_of.get(name)?.as_f64()).into());
        let parts = populations.iter().zip(&all.all).map(|(population, good)| PartShare {
            population: *population,
            share: good.attainment,
            interval: good.attainment_interval,
        });
        let attainment = share(&|good| good.attainment);
        Good {
            requests: all.sum_known(|good| good.requests),
            attainment,
            attainment_interval: pool_share_intervals(attainment, &parts.collect::<Vec<_>>(), all.options.together),
            attainment_of: names.iter().map(|name| alone(name)).collect(),
            tokens: all.sum_known(|good| good.tokens),
            ..Good::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(success: bool, ttft: f64, queue_time: f64) -> RecordedRequest {
        RecordedRequest {
            success,
            output_tokens: 11,
            ttft: Some(ttft),
            latency: Some(ttft + 0.1),
            queue_time: Some(queue_time),
            ..RecordedRequest::default()
        }
    }

    #[test]
    fn goodput_counts_over_offered_requests() {
        let requests = vec![
            request(true, 0.2, 0.0),
            request(true, 0.2, 0.5),
            request(true, 0.201, 0.0),
            request(false, 0.1, 0.0),
            RecordedRequest::default(),
        ];
        let recording = Recording { requests, ..Recording::default() };
        let goodput = |slos: &[Slo]| {
            Goodput::measure(&recording, &RunPart::from_recording(&recording), slos, 4.0, &SummaryOptions::default())
        };
        let slos = [parse_slos("ttft:200"), parse_slos("tpot:10.5ms")].map(|slos| slos.unwrap().0[0]);
        let good = goodput(&slos).unwrap();
        let numbers = |good: &Good| (good.requests, good.per_s, good.attainment, good.tokens, good.tokens_per_s);
        assert_eq!(numbers(&good.from_start), (Some(2), Some(0.5), Some(0.4), Some(22), Some(5.5)));
        assert_eq!(numbers(&good.from_schedule), (Some(1), Some(0.25), Some(0.2), Some(11), Some(2.75)));
        let alone = &good.from_start.attainment_of;
        assert_eq!((&alone["ttft"], &alone["tpot"]), (&0.4.into(), &0.6.into()));
        assert_eq!(goodput(&[]), None);
    }

    #[test]
    fn a_limit_on_what_no_response_has_is_not_missed() {
        let untimed = |ttft| RecordedRequest { ttft, ..request(true, 0.1, 0.0) };
        let slos = ["ttft:200", "e2el:1s"].map(|text| parse_slos(text).unwrap().0[0]);
        let good = |requests: Vec<RecordedRequest>, slos: &[Slo]| {
            let recording = Recording { requests, ..Recording::default() };
            Good::count_requests(&RunPart::from_recording(&recording), slos, |_| 0.0).with_rates(1.0)
        };
        let all = good(vec![untimed(None), untimed(None)], &slos);
        assert_eq!((all.requests, all.per_s, all.attainment, all.tokens), (None, None, None, None));
        assert_eq!(serde_json::to_value(&all.attainment_of).unwrap(), serde_json::json!({"ttft": null, "e2el": 1.0}));
        assert_eq!(good(vec![untimed(None), untimed(Some(0.1))], &slos).attainment, Some(0.5), "some stream");
        assert_eq!(good(vec![request(false, 0.1, 0.0)], &slos).attainment, Some(0.0), "all failed");
        let left = RecordedRequest { abandoned: true, ..request(false, 0.1, 0.0) };
        assert_eq!(
            good(vec![untimed(Some(0.1)), left.clone()], &slos).attainment,
            Some(1.0),
            "one was cancelled on purpose"
        );
        assert_eq!(good(vec![left], &slos).attainment, None);
    }

    #[test]
    fn pooled_attainment_is_of_the_requests_that_count() {
        let runs = [(10, 6, Some(1.0)), (5, 1, Some(0.5)), (4, 0, None)];
        let runs = runs.map(|(offered, abandoned, share)| (Population { offered, abandoned, succeeded: 1 }, share));
        assert_eq!(pool_attainment(runs.into_iter()), Some((4.0 + 2.0) / 12.0));
        assert_eq!(pool_attainment(runs[2..].iter().copied()), None);
    }

    #[test]
    fn an_unknown_pace_misses_the_limit() {
        let tpot = parse_slos("tpot:1s").unwrap().0[0];
        let recording = Recording::default();
        let whole = RunPart::from_recording(&recording);
        let is_kept = |request: &RecordedRequest| tpot.is_kept(&whole, request, 0.0);
        let one = |output_tokens, is_uncounted, is_one_chunk| RecordedRequest {
            output_tokens,
            is_uncounted,
            is_one_chunk,
            ..request(true, 0.1, 0.0)
        };
        assert!(is_kept(&one(11, false, false)) && is_kept(&one(11, true, false)));
        assert!(is_kept(&one(1, false, true)), "a single token, as in vLLM");
        assert!(!is_kept(&one(11, false, true)), "all in one chunk");
        assert!(!is_kept(&one(1, true, true)) && !is_kept(&one(0, true, false)), "not counted");
        let hidden = RecordedRequest { hidden_tokens: 10, ..one(11, false, false) };
        assert!(!is_kept(&hidden));
        let untimed = RecordedRequest { ttft: None, ..one(11, false, false) };
        assert!(!is_kept(&untimed), "not streamed");
    }

    #[test]
    fn limits_have_a_name_and_a_time() {
        assert_eq!(parse_slos("e2el:2s").unwrap().0[0].limit, Nanos(2_000_000_000));
        for text in ["ttft", "ttft:", "p99:3", "ttft:-1", "ttft:fast", "mlperf", "mlperf:gpt-2"] {
            assert!(parse_slos(text).is_err(), "{text}");
        }
        let interactive = parse_slos("mlperf:llama3.1-8b-interactive").unwrap().0;
        assert_eq!(interactive.iter().map(|s| s.limit.0 / 1_000_000).collect::<Vec<_>>(), [500, 30]);
        assert!(parse_slos("mlperf:gpt-2").unwrap_err().contains("qwen3-vl"));
        let given = ["mlperf:llama3.1-8b-interactive", "ttft:1s"].map(|text| parse_slos(text).unwrap());
        let limits =
            combine_limits(given.to_vec()).iter().map(|s| (s.metric.name(), s.limit.0 / 1_000_000)).collect::<Vec<_>>();
        assert_eq!(limits, [("tpot", 30), ("ttft", 1000)]);
    }
}
