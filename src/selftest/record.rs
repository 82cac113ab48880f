//! What `vb-selftest` writes. `docs/SELFTEST.md` is the manual.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{errors::Errors, search::Search};
use crate::{
    record::{ClientUse, Percentiles, Stamps, Verdict},
    units::{Nanos, UnixNanos},
};

/// How right this client is on this machine, at the user's own concurrency and rate.
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
    /// What was asked for.
    pub settings: Settings,
    /// How bytes were carried and stamped: `stamped` or `portable`; `null`: `vb-fire` does not tell.
    pub transport: Option<String>,
    /// Threads that read answers; `null`: `vb-fire` does not tell.
    pub threads: Option<u32>,
    /// Outputs of `vb-fire`.
    pub requests: u64,
    /// Of those, the failures.
    pub failed: u64,
    /// Of the successes, those that were found in the server's log with as many chunks.
    pub joined: u64,
    /// Token-bearing chunks of the joined requests.
    pub chunks: u64,
    /// Those by the duration of the run.
    pub chunks_per_s: f64,
    /// How far the client's times are from the server's.
    pub errors: StampErrors,
    /// `start_time` → the server had read the whole request.
    pub send_to_read: Option<Percentiles>,
    /// Chunks that carry the stamp of a later one, because one read returned both.
    pub coalesced: u64,
    /// The rate of requests.
    pub rate: Rate,
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
    /// The simulated server's own part.
    pub server: ServerPace,
    /// As in the end record of `vb-fire`; `null`: it does not tell.
    pub verdict: Option<Verdict>,
    /// Why the verdict is not `clean`.
    pub reasons: Vec<String>,
    /// The rate of chunks at which the verdict turns; `null`: not searched for, or there is no verdict.
    pub search: Option<Search>,
}

/// The value of `type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelftestType {
    /// The only one.
    #[default]
    #[serde(rename = "selftest")]
    Selftest,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// The most requests in flight; `null`: no limit.
    pub max_concurrency: Option<u32>,
    /// Requests per second; `null`: a request started when another one ended.
    pub request_rate: Option<f64>,
    /// `--threads`; `null`: not given.
    pub threads: Option<u32>,
    /// `--transport`; `null`: not given.
    pub transport: Option<String>,
    /// The time between two tokens of a stream.
    pub step: Nanos,
    /// Tokens in each answer.
    pub output_len: u32,
    /// How long requests were started.
    pub seconds: Nanos,
}

/// The errors by who stamped the chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StampErrors {
    /// With the kernel's receive stamps, which are those of the records; `null`: there were none.
    pub kernel: Option<Errors>,
    /// With the instants at which the reads returned; `null`: not known.
    pub user: Option<Errors>,
}

/// Requests per second, over the gaps from the first to the last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Rate {
    /// Asked for; `null`: no rate.
    pub asked: Option<f64>,
    /// As the requests were due: in an open loop the asked one as chance had it. `null`: fewer than two requests.
    pub scheduled: Option<f64>,
    /// As they were sent. `null`: fewer than two.
    pub realised: Option<f64>,
}

/// How well the simulated server kept its step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServerPace {
    /// The median of the gaps between its sends; `null`: there is none.
    pub gap_p50: Option<Nanos>,
    /// Their mean.
    pub gap_mean: Option<Nanos>,
    /// The share of gaps longer than one and a half steps.
    pub long_gaps: f64,
    /// Whether that is the step that was asked for. If not, the machine is too slow for both programs together.
    pub kept: bool,
}
