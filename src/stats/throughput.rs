//! Rates for those who pay or wait: for one user's stream, for one GPU, of prompts that the cache did not answer; and how many requests
//! were in flight.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{pooling::Pooling, result::RunResult};
use crate::{
    record::Object,
    recording::{RecordedRequest, Recording},
    statistics::{Summary, numpy},
};

/// How fast the tokens of one response come after the first: 1 / TPOT.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UserSpeed {
    /// Successes with a TPOT above 0.
    pub n: u64,
    /// The mean over these; `null` without any.
    pub mean: Option<f64>,
    /// `p50` and so on: at least this for that share of the successes, 1 / that percentile of `tpot_ms`; `null` where that is.
    pub at_least: Object,
}

impl UserSpeed {
    /// The speeds of these successes, whose TPOTs are summarized in `tpot`.
    #[must_use]
    pub fn measure<'a>(successes: impl Iterator<Item = &'a RecordedRequest>, tpot: &Summary) -> Self {
        let speed = |request: &RecordedRequest| request.tpot().filter(|tpot| *tpot > 0.0).map(|tpot| 1.0 / tpot);
        let speeds: Vec<f64> = successes.filter_map(speed).collect();
        UserSpeed {
            n: speeds.len() as u64,
            mean: (!speeds.is_empty()).then(|| numpy::mean(&speeds)),
            at_least: invert_percentiles(tpot),
        }
    }

    /// Pools several, whose TPOTs together are summarized in `tpot`.
    #[must_use]
    pub fn pool_with(all: &Pooling<Self>, tpot: &Summary) -> Self {
        UserSpeed {
            n: all.sum(|speed| speed.n),
            mean: all.weighted_mean(|speed| (speed.n as f64, speed.mean)),
            at_least: invert_percentiles(tpot),
        }
    }
}

/// What percentiles of a time in milliseconds are as speeds.
fn invert_percentiles(tpot: &Summary) -> Object {
    let speed = |ms: &Value| ms.as_f64().filter(|ms| *ms > 0.0).map(|ms| 1e3 / ms);
    tpot.percentiles.iter().map(|(name, ms)| (name.clone(), speed(ms).into())).collect()
}

/// The throughput divided by the number of GPUs of `--gpus`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuThroughput {
    /// GPUs that serve the model.
    pub gpus: NonZeroU32,
    /// Successes per second and GPU.
    pub request_throughput: f64,
    /// Generated tokens per second and GPU.
    pub output_throughput: f64,
    /// Prompt and generated tokens per second and GPU.
    pub total_token_throughput: f64,
}

impl GpuThroughput {
    /// The throughput of a result on this number of GPUs.
    #[must_use]
    pub fn from_result(result: &RunResult, gpus: NonZeroU32) -> Self {
        let share = |per_s: f64| per_s / f64::from(gpus.get());
        GpuThroughput {
            gpus,
            request_throughput: share(result.request_throughput),
            output_throughput: share(result.output_throughput),
            total_token_throughput: share(result.total_token_throughput),
        }
    }

    /// The GPUs of several results, which are the same ones if every result has as many; else `None`.
    pub fn common_gpus(mut all: impl Iterator<Item = Option<NonZeroU32>>) -> Option<NonZeroU32> {
        let first = all.next()??;
        all.all(|other| other == Some(first)).then_some(first)
    }
}

/// The time from the start of each request that was sent to its end, added up, in seconds.
#[must_use]
pub fn seconds_in_flight(recording: &Recording) -> f64 {
    recording.requests.iter().filter_map(|r| r.start.and(r.done.or(r.latency))).sum()
}
