//! The record that `vb-selftest` writes. `docs/SELFTEST.md` is the manual.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{errors::LatencyErrors, search::RateSearch};
use crate::{
    record::{ClientUse, Percentiles, Stamps, Verdict},
    units::{Nanos, UnixNanos},
};

/// The accuracy of this client on this machine, at the user's concurrency and rate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SelftestRecord {
    /// Always `"selftest"`.
    #[serde(rename = "type")]
    pub kind: SelftestType,
    /// The version of the record format.
    pub format: u32,
    /// The program and its version, as `vb-selftest 0.1.0`.
    pub tool: String,
    /// The host it ran on.
    pub host: String,
    /// When it began.
    pub date: UnixNanos,
    /// The requested settings.
    pub settings: SelftestSettings,
    /// How bytes were transferred and stamped: `stamped` or `portable`; `null`: not reported by `vb-fire`.
    pub transport: Option<String>,
    /// Threads that read responses; `null`: not reported by `vb-fire`.
    pub threads: Option<u32>,
    /// Outputs of `vb-fire`.
    pub requests: u64,
    /// Failed requests.
    pub failed: u64,
    /// Successful requests that the server's log has with the same number of chunks.
    pub joined: u64,
    /// Token-bearing chunks of the joined requests.
    pub chunks: u64,
    /// Token-bearing chunks per second of the run.
    pub chunks_per_s: f64,
    /// Differences between the client's times and the server's.
    pub errors: StampErrors,
    /// From `start_time` until the server had read the whole request.
    pub send_to_read: Option<Percentiles>,
    /// Chunks that carry the stamp of a later one, because one read returned both.
    pub coalesced: u64,
    /// The rate of requests.
    pub rate: MeasuredRates,
    /// As in the end record of `vb-fire`.
    pub schedule_lag: Option<Percentiles>,
    /// As in the end record of `vb-fire`.
    pub send_lag: Option<Percentiles>,
    /// As in the end record of `vb-fire`.
    pub read_lag: Option<Percentiles>,
    /// As in the end record of `vb-fire`.
    pub stamps: Option<Stamps>,
    /// As in the end record of `vb-fire`.
    pub client: Option<ClientUse>,
    /// The timing of the simulated server.
    pub server: ServerPace,
    /// As in the end record of `vb-fire`; `null`: not reported.
    pub verdict: Option<Verdict>,
    /// Why the verdict is not `clean`.
    pub reasons: Vec<String>,
    /// The rate of chunks at which the verdict changes; `null`: no search, or no verdict.
    pub search: Option<RateSearch>,
}

/// The value of `type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelftestType {
    /// The only value.
    #[default]
    #[serde(rename = "selftest")]
    Selftest,
}

/// The requested settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Settings")]
pub struct SelftestSettings {
    /// The limit of requests in flight; `null`: no limit.
    pub max_concurrency: Option<u32>,
    /// Requests per second; `null`: a request started when another ended.
    pub request_rate: Option<f64>,
    /// `--threads`; `null`: not given.
    pub threads: Option<u32>,
    /// `--transport`; `null`: not given.
    pub transport: Option<String>,
    /// The time between two tokens of a stream.
    pub step: Nanos,
    /// Tokens in each response.
    pub output_len: u32,
    /// How long new requests were started.
    pub seconds: Nanos,
}

/// The errors by the origin of the stamps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StampErrors {
    /// With the kernel's receive stamps, which the records contain; `null`: no kernel stamps.
    pub kernel: Option<LatencyErrors>,
    /// With the times at which the reads returned; `null`: unknown.
    pub user: Option<LatencyErrors>,
}

/// Requests per second, over the gaps from the first request to the last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Rate")]
pub struct MeasuredRates {
    /// The requested rate; `null`: no rate.
    pub asked: Option<f64>,
    /// The rate of the due times: in an open loop a random realization of the requested rate. `null`: fewer than two requests.
    pub scheduled: Option<f64>,
    /// The rate at which requests were sent. `null`: fewer than two.
    pub realised: Option<f64>,
}

/// How well the simulated server kept the time between tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServerPace {
    /// The median of the gaps between its sends; `null`: no gaps.
    pub gap_p50: Option<Nanos>,
    /// The mean of the gaps.
    pub gap_mean: Option<Nanos>,
    /// The share of gaps longer than one and a half steps.
    pub long_gaps: f64,
    /// Whether the gaps match the requested step. If not, the machine is too slow for both programs together.
    pub kept: bool,
}
