//! The result of a run as JSON: vLLM's keys in vLLM's order, then ours under `vb`. `docs/METRICS.md` defines each key.

use std::num::NonZeroU32;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Options, compact, peak,
    throughput::{self, GpuThroughput},
    vb::VbMetrics,
};
use crate::{
    clock, parallel,
    record::{Object, RunRecord},
    recording::{RecordedRequest, Recording, metric::Metric, population::Population},
    statistics::SampleStats,
    units::{SECOND, UnixNanos},
};

/// The result of a run: what `vllm bench serve --save-result` writes, and `vb`.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct RunResult {
    /// The keys before `duration`.
    #[serde(flatten)]
    pub header: Object,
    /// Seconds from the start of the run to its last outcome.
    pub duration: f64,
    /// Successful requests.
    pub completed: u64,
    /// Failed requests, for any reason; those that the client cancelled on purpose did not fail.
    pub failed: u64,
    /// Prompt tokens of the successes.
    pub total_input_tokens: u64,
    /// Generated tokens of the successes.
    pub total_output_tokens: u64,
    /// Successes per second.
    pub request_throughput: f64,
    /// Successes within the limits of `--goodput` per second; `null` without limits, and if no success has a value that a limit is
    /// for.
    pub request_goodput: Option<f64>,
    /// Generated tokens per second.
    pub output_throughput: f64,
    /// Prompt and generated tokens per second.
    pub total_token_throughput: f64,
    /// With `--save-detailed`: the prompt tokens of each request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_lens: Option<Vec<u32>>,
    /// With `--save-detailed`: the generated tokens of each request, 0 for a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_lens: Option<Vec<u32>>,
    /// With `--save-detailed`: the TTFT of each request in seconds, 0 without a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttfts: Option<Vec<f64>>,
    /// With `--save-detailed`: the gaps between chunks of each request in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itls: Option<Vec<Vec<f64>>>,
    /// With `--save-detailed`: the latency of each request in seconds, 0 for a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latencies: Option<Vec<f64>>,
    /// With `--save-detailed`: when each request was sent, 0 if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_times: Option<StartTimes>,
    /// With `--save-detailed`: how long each request waited in the client, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_times: Option<Vec<f64>>,
    /// With `--save-detailed`: the text of each response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated_texts: Option<Vec<String>>,
    /// With `--save-detailed`: the error of each request, empty for a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<String>>,
    /// The most chunks in a one-second bucket, as vLLM counts. See `vb.peak_tokens_per_s`.
    pub max_output_tokens_per_s: f64,
    /// The most requests that overlap a one-second bucket, as vLLM counts. See `vb.peak_concurrency`.
    pub max_concurrent_requests: u64,
    /// Seconds of audio per second; 0 without audio.
    pub rtfx: f64,
    /// `mean_ttft_ms`, `p99_itl_ms` and so on, and further keys of a vLLM result.
    #[serde(flatten)]
    pub metrics: Object,
    /// The metrics that vLLM does not have. What says nothing is left out, and what is equal to another part is in `same`.
    #[serde(serialize_with = "compact::serialize")]
    pub vb: VbMetrics,
    /// The GPUs of `--gpus`, which `vb.per_gpu` has.
    #[serde(skip)]
    pub gpus: Option<NonZeroU32>,
    /// The seconds that requests were in flight, added up, which `vb.mean_concurrency` comes from.
    #[serde(skip)]
    pub in_flight: f64,
}

/// The times at which requests were sent.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum StartTimes {
    /// In Unix seconds.
    Unix(Vec<UnixNanos>),
    /// In seconds of the clock of vLLM's client, unchanged.
    Clock(Vec<f64>),
}

impl RunResult {
    /// Computes the result. Uses up the recording.
    #[must_use]
    pub(super) fn from_recording(mut recording: Recording, options: &Options) -> Self {
        let duration = recording.duration();
        let count = |value: fn(&RecordedRequest) -> u64| recording.successes().map(value).sum::<u64>();
        let population = Population::from_requests(&recording.requests);
        let input = count(|r| u64::from(r.prompt_len));
        let output = count(|r| u64::from(r.output_tokens));
        let detail =
            |value: fn(&RecordedRequest) -> u32| options.save_detailed.then(|| map_requests(&recording, value));
        let input_lens = detail(|r| r.prompt_len);
        let output_lens = detail(|r| if r.success { r.output_tokens } else { 0 });
        let ttfts = options.save_detailed.then(|| map_requests(&recording, |r| r.ttft.unwrap_or_default()));
        let itls =
            options.save_detailed.then(|| recording.requests.iter().map(|r| recording.gaps_of(r).to_vec()).collect());
        let start_times = options.save_detailed.then(|| start_times(&recording));
        let latencies = options.save_detailed.then(|| map_requests(&recording, |r| r.latency.unwrap_or_default()));
        let queue_times = options.save_detailed.then(|| map_requests(&recording, |r| r.queue_time.unwrap_or_default()));
        let texts = options.save_detailed.then(|| std::mem::take(&mut recording.texts));
        let errors = options.save_detailed.then(|| std::mem::take(&mut recording.errors));
        let header = result_header(&recording, options);
        let extra = recording.vllm.as_mut().map(|h| std::mem::take(&mut h.after)).unwrap_or_default();
        let rtfx = recording.vllm.as_ref().map_or(0.0, |h| h.rtfx);
        let (buckets, (vb, distributions)) = parallel::join(
            || peak::count_in_seconds(&recording),
            || VbMetrics::from_recording(&recording, options, duration),
        );
        let mut result = RunResult {
            header,
            duration,
            completed: population.succeeded,
            failed: population.failed(),
            total_input_tokens: input,
            total_output_tokens: output,
            input_lens,
            output_lens,
            ttfts,
            itls,
            latencies,
            start_times,
            queue_times,
            generated_texts: texts,
            errors,
            max_output_tokens_per_s: buckets.max_output_tokens_per_s,
            max_concurrent_requests: buckets.max_concurrent_requests,
            rtfx,
            metrics: metric_keys(extra, &distributions),
            vb,
            gpus: options.gpus,
            in_flight: throughput::seconds_in_flight(&recording),
            ..RunResult::default()
        };
        result.set_rates();
        result
    }
}

/// The keys after the header that pooling needs.
#[derive(Deserialize)]
struct ResultBody {
    duration: f64,
    completed: u64,
    failed: u64,
    total_input_tokens: u64,
    total_output_tokens: u64,
    max_output_tokens_per_s: f64,
    max_concurrent_requests: u64,
    #[serde(deserialize_with = "compact::deserialize")]
    vb: VbMetrics,
}

impl RunResult {
    /// Parses a result of `vb-stats`, as far as pooling needs it.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        let keys: Object = serde_json::from_slice(text)?;
        let header = keys.iter().take_while(|(key, _)| *key != "duration");
        let header: Object = header.map(|(key, value)| (key.clone(), value.clone())).collect();
        let is_metric = |key: &str| Metric::parse_key(key).is_some();
        let metrics = keys.iter().filter(|(key, _)| is_metric(key)).map(|(key, value)| (key.clone(), value.clone()));
        let metrics = metrics.collect();
        let body: ResultBody = serde_json::from_value(Value::Object(keys))?;
        Ok(RunResult {
            header,
            duration: body.duration,
            completed: body.completed,
            failed: body.failed,
            total_input_tokens: body.total_input_tokens,
            total_output_tokens: body.total_output_tokens,
            max_output_tokens_per_s: body.max_output_tokens_per_s,
            max_concurrent_requests: body.max_concurrent_requests,
            metrics,
            gpus: body.vb.per_gpu.map(|per_gpu| per_gpu.gpus),
            in_flight: body.vb.mean_concurrency.unwrap_or_default() * body.duration,
            vb: body.vb,
            ..RunResult::default()
        })
    }

    /// Computes the rates from the totals and the duration.
    pub fn set_rates(&mut self) {
        let rate = |count: u64| if self.duration > 0.0 { count as f64 / self.duration } else { 0.0 };
        self.request_throughput = rate(self.completed);
        self.output_throughput = rate(self.total_output_tokens);
        self.total_token_throughput = rate(self.total_input_tokens + self.total_output_tokens);
        if let Some(goodput) = &mut self.vb.goodput {
            for good in [&mut goodput.from_start, &mut goodput.from_schedule] {
                *good = std::mem::take(good).with_rates(self.duration);
            }
        }
        self.vb.mean_concurrency = (self.duration > 0.0).then(|| self.in_flight / self.duration);
        let cached = self.vb.cached_tokens.filter(|_| self.duration > 0.0);
        self.vb.uncached_prompt_tokens_per_s =
            cached.map(|cached| rate(self.total_input_tokens.saturating_sub(cached)));
        self.vb.per_gpu = self.gpus.map(|gpus| GpuThroughput::from_result(self, gpus));
        self.request_goodput = self.vb.goodput.as_ref().and_then(|goodput| goodput.from_start.per_s);
    }
}

fn map_requests<T>(recording: &Recording, value: impl Fn(&RecordedRequest) -> T) -> Vec<T> {
    recording.requests.iter().map(value).collect()
}

fn start_times(recording: &Recording) -> StartTimes {
    if recording.vllm.is_some() {
        return StartTimes::Clock(map_requests(recording, |r| r.start.unwrap_or_default()));
    }
    StartTimes::Unix(map_requests(recording, |r| r.start.map_or(UnixNanos(0), |start| recording.instant_at(start))))
}

/// Appends the keys of the metrics.
#[must_use]
pub fn metric_keys(mut keys: Object, distributions: &[(Metric, SampleStats)]) -> Object {
    for (metric, stats) in distributions {
        let name = metric.name();
        for (statistic, value) in [("mean", stats.mean), ("median", stats.median), ("std", stats.std)] {
            keys.insert(format!("{statistic}_{name}_ms"), (value * 1e3).into());
        }
        for (p, value) in &stats.percentiles {
            keys.insert(format!("p{p}_{name}_ms"), (value * 1e3).into());
        }
    }
    keys
}

/// The keys before `duration`.
fn result_header(recording: &Recording, options: &Options) -> Object {
    let mut keys = match &recording.vllm {
        Some(header) => header.before.clone(),
        None => run_header(recording, options),
    };
    if let Some(label) = &options.label {
        keys.insert("label".into(), label.clone().into());
    }
    // Metadata comes where vLLM puts it: after `num_prompts`.
    let mut ordered = Object::new();
    for (key, value) in keys {
        let place = key == "num_prompts";
        ordered.insert(key, value);
        if place {
            ordered.extend(options.metadata.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))));
        }
    }
    ordered
}

fn run_header(recording: &Recording, options: &Options) -> Object {
    let runs = &recording.runs;
    let text = |field: fn(&RunRecord) -> &String| -> Value {
        runs.iter().map(field).find(|text| !text.is_empty()).cloned().map_or(Value::Null, Value::from)
    };
    let tokenizer = runs.iter().find_map(|run| run.tokenizer.clone()).or_else(|| options.tokenizer.clone());
    let started = runs.iter().map(|run| run.clock.start).filter(|start| start.0 > 0);
    let started = started.chain(recording.span.map(|s| s.0)).min().unwrap_or_else(clock::unix_now);
    // Several hosts share the load: their limits add up, unless one has no limit.
    let rate: Option<f64> = runs.iter().map(|run| run.request_rate).sum();
    // vLLM has a number or "inf" here; a changing rate is neither.
    let profile = runs.iter().find_map(|run| run.rate_profile.clone()).map(Value::from);
    let concurrency: Option<u64> = runs.iter().map(|run| run.max_concurrency.map(u64::from)).sum();
    let has_runs = !runs.is_empty();
    [
        ("date", format_date(started).into()),
        ("endpoint_type", text(|run| &run.backend)),
        ("backend", text(|run| &run.backend)),
        ("label", Value::Null),
        ("model_id", text(|run| &run.model)),
        ("tokenizer_id", tokenizer.into()),
        ("num_prompts", recording.count_offered().into()),
        ("request_rate", profile.or_else(|| Some(rate.filter(|_| has_runs)?.into())).unwrap_or_else(|| "inf".into())),
        ("burstiness", runs.first().map_or(Some(1.0), |run| run.burstiness).into()),
        ("max_concurrency", concurrency.filter(|_| has_runs).into()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
    .collect()
}

/// `20261124-020748`, in UTC. (vLLM writes local time.)
fn format_date(time: UnixNanos) -> String {
    let timestamp = i64::try_from(time.0 / SECOND).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.unwrap_or_default().strftime("%Y%m%d-%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{recording::input::read_bytes, statistics::SummaryOptions};

    #[test]
    fn dates_match_the_calendar() {
        for (seconds, text) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (1_709_251_199, "20240229-235959"),
            (1_795_485_600, "20261124-020000"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(format_date(UnixNanos(seconds * SECOND)), text);
        }
    }

    proptest! {
        /// Numbers far outside of any run must not panic or fill the memory.
        #[test]
        fn numbers_of_any_size_do_not_panic(
            numbers in prop::collection::vec(prop_oneof![0.0..10.0, 0.0..1e300, Just(0.0), Just(1e18)], 6)
        ) {
            let [start, due, ttft, latency, gap, done] = numbers[..] else { unreachable!() };
            let line = format!(
                r#"{{"success":true,"start_time":{start},"scheduled_time":{due},"ttft":{ttft},"latency":{latency},"#
            ) + &format!(r#""itl":[{gap},0.5],"chunk_tokens":[],"output_tokens":9,"phases":{{"done":{done}}}}}"#);
            let two = format!("{line}\n{}", line.replace("\"start_time\":", "\"start_time\":1"));
            if let Ok(recording) = read_bytes(two.as_bytes()) {
                let wanted = SummaryOptions { percentiles: vec![50.0], histograms: true };
                let options = Options { wanted, ..Default::default() };
                let result = RunResult::from_recording(recording, &options);
                prop_assert_eq!(result.completed, 2);
            }
        }
    }
}
